"""What is plain to see of a real call though nobody injected it: its machine does other things, too."""

from __future__ import annotations

from llmtrace.diagnosis.route import PACE_SHARE
from llmtrace.diagnosis.symptoms import Symptoms
from llmtrace.diagnosis.verdict import COLD_KV_CACHE, NOISY_NEIGHBOR, Verdict


def happened(verdict: Verdict, symptoms: Symptoms) -> bool:
    """Whether what ``verdict`` says is plain to see, though nobody injected it.

    The server itself counts the tokens that it did not find in its cache. And where the median gap between chunks is as
    much longer, the tokens were made slower, by an engine that did not get its cores: a client that reads late finds
    chunks that lie ready, which have no gap.
    """
    if verdict.cause == COLD_KV_CACHE:
        return symptoms.cached_tokens is not None
    if verdict.cause != NOISY_NEIGHBOR or symptoms.gap is None or not isinstance(verdict.expected, float):
        return False
    return symptoms.gap >= (1 + PACE_SHARE) * verdict.expected
