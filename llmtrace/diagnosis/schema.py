"""A grammar that the server had to compile while the call waited for its first token. The server itself says so."""

from __future__ import annotations

from typing import Final

from llmtrace.diagnosis.symptoms import Symptoms
from llmtrace.diagnosis.verdict import COLD_SCHEMA, LEAST_S, Verdict

OF_WAIT: Final = 0.2
"""The share of the time to the first token below which compiling is no cause; of a whole answer, of the call."""


def cold_schema(symptoms: Symptoms) -> Verdict | None:
    """The answer's schema was not compiled yet, and that was a good part of the wait."""
    compiled = symptoms.grammar_compile
    whole = symptoms.silence or (symptoms.end - symptoms.begin) / 1e9
    if compiled < LEAST_S or compiled < OF_WAIT * whole:
        return None
    verdict = Verdict(COLD_SCHEMA, compiled / (OF_WAIT * whole), "grammar_compile", compiled, 0.0, compiled)
    verdict.reason, verdict.told = "the server compiled the schema first", True
    return verdict
