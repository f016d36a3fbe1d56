"""A model that had to be loaded while the call waited. Whoever runs it says so: the server, or this process itself."""

from __future__ import annotations

from typing import Final

from llmtrace.diagnosis.symptoms import Symptoms
from llmtrace.diagnosis.verdict import COLD_MODEL, LEAST_S, Verdict

OF_WAIT: Final = 0.2
"""The share of the time to the first token below which loading is no cause; of a whole answer, of the call."""


def cold_model(symptoms: Symptoms) -> Verdict | None:
    """The model was not loaded yet, and that was a good part of the wait."""
    wait = symptoms.silence or (symptoms.end - symptoms.begin) / 1e9
    return loaded_first(symptoms.model_load, wait, "the server loaded the model first")


def loaded_first(load: float, wait: float, reason: str) -> Verdict | None:
    """The verdict on a call whose first token (or whose end) came after ``wait`` s, ``load`` s of which the model was
    loaded; None where that was no good part of it."""
    if load < LEAST_S or load < OF_WAIT * wait:
        return None
    score = load / (OF_WAIT * wait) if wait > 0 else 1.0
    return Verdict(COLD_MODEL, score, "model_load", load, 0.0, load, reason=reason, told=True)
