"""Whether a call waited longer to be scheduled than the route's calls do, by the server's word or by the estimate."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from statistics import pvariance
from typing import Final

from llmtrace.diagnosis.route import Route
from llmtrace.diagnosis.symptoms import Symptoms
from llmtrace.diagnosis.verdict import LATENESS, LEAST_S, NOISY_NEIGHBOR, QUEUEING, Verdict

SHARE: Final = 0.1
"""No queue is named that made the time to the first token longer by less than this share."""
_FEW: Final = 3
"""Late answers before which nobody can tell what made them late."""
_CLEARER: Final = 0.3
"""One explanation's scatter by the other's, from which on it is the better one."""
_EITHER: Final = "or its tokens were slow: an answer in one piece does not show which"


def queueing(route: Route, symptoms: Symptoms, inside_network: float) -> tuple[float | None, list[Verdict]]:
    """The call's queue (s, None where nobody knows it), and the verdict on it.

    ``inside_network``: seconds of the wait that lie on the way, which the estimate takes for a queue.
    """
    queue = symptoms.server_queue
    if queue is None:
        if symptoms.queue is None:
            return None, []
        queue = max(0.0, symptoms.queue - inside_network)
    habit = route.queue
    usual = habit.mid
    score = habit.score(queue)
    high = route.high_queue.high(queue)
    odd = habit.settle(queue, score) and not habit.lone
    excess = queue - usual
    if not (odd or high) or excess < LEAST_S:
        return queue, []
    if symptoms.wait is not None and excess < SHARE * (symptoms.wait - excess):
        return queue, []
    score = max(score, route.high_queue.strength)
    if symptoms.whole:
        return queue, [] if symptoms.queue_least <= usual else [_late(route, symptoms, score, queue, usual)]
    verdict = Verdict(QUEUEING, score, "queue", queue, usual, excess)
    verdict.reason = own_crowd(route, symptoms)
    return queue, [verdict]


def own_crowd(route: Route, symptoms: Symptoms) -> str | None:
    """That the application itself had unusually many calls under way; None where it had not."""
    usual = route.alongside
    if usual.ready and usual.score(symptoms.alongside) >= 1.0:
        return f"beside {symptoms.alongside} calls of the application's own"
    return None


def _late(route: Route, symptoms: Symptoms, score: float, queue: float, usual: float) -> Verdict:
    """An answer in one piece that came late: it waited, or its tokens were slow. Several of them together show which: a
    wait is as long for a short answer as for a long one."""
    late = queue - usual
    route.late.append((late, max(1, symptoms.tokens)))
    waits, tokens = _scatter(route.late)
    if tokens < _CLEARER * waits:
        each = late / max(1, symptoms.tokens)
        return Verdict(NOISY_NEIGHBOR, score, "answer_time_per_token", each, 0.0, late)
    if waits < _CLEARER * tokens:
        return Verdict(QUEUEING, score, "queue", queue, usual, late, reason=own_crowd(route, symptoms))
    return Verdict(QUEUEING, score, LATENESS, queue, usual, late, reason=_EITHER)


def _scatter(late: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """How unlike each other late answers are, in the time that they are late by and in that time by token: variances of
    the logarithm. Both 0 where there are too few."""
    if len(late) < _FEW:
        return 0.0, 0.0
    waits = pvariance([log(seconds) for seconds, _ in late])
    tokens = pvariance([log(seconds / count) for seconds, count in late])
    return waits, tokens
