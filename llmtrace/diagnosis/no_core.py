"""Whether a call was late because its own process got no core: then nobody else's work is named for that time.

A process that is ready and waits in the run queue reads late what came in time. It may catch up with a stream, so that
not all of its wait is in what the call took longer: at most that.
"""

from __future__ import annotations

from typing import Final

from llmtrace.diagnosis.symptoms import Symptoms
from llmtrace.diagnosis.verdict import NETWORK, NOISY_NEIGHBOR, QUEUEING, Verdict

SHARE: Final = 0.5
"""A cause is not named where the process's own wait may have been this share of the time that it would have added. Of
300 calls to vLLM on a machine of two cores, six were called slow for their tokens. In five of them the process had
waited for longer than they were late, in the sixth the engine had."""
_BY_TIME: Final = frozenset((QUEUEING, NETWORK, NOISY_NEIGHBOR))


def is_by_time(verdict: Verdict) -> bool:
    """Whether it is told by the client's clock alone."""
    return verdict.cause in _BY_TIME and not verdict.told


def is_own(verdict: Verdict, symptoms: Symptoms) -> bool:
    """Whether the call's own process, which got no core, may well be what made it late."""
    waited = symptoms.no_core
    if not waited or verdict.excess is None or not is_by_time(verdict):
        return False
    if verdict.quantity == "round_trip" or (verdict.quantity == "queue" and symptoms.server_queue is not None):
        return False  # the kernel's own clock, and the server's
    return waited >= SHARE * verdict.excess
