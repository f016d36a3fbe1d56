"""Whether a call waited longer to be scheduled than the route's calls do: by the server's word, by the estimate, or (of
an answer in one piece) by how late it came.
"""

from __future__ import annotations

from typing import Final

from llmtrace.diagnosis.route import Route
from llmtrace.diagnosis.symptoms import Symptoms
from llmtrace.diagnosis.verdict import LATENESS, LEAST_S, NOISY_NEIGHBOR, QUEUEING, Verdict
from llmtrace.diagnosis.whole import is_late, slow_tokens

SHARE: Final = 0.1
"""No queue is named that made the time to the first token longer by less than this share."""
_NEW: Final = 0.03
"""Weight of the latest call in the usual number of the application's own calls: that of some 30."""
_FEW: Final = 0.8
"""Of their mean: so many calls beside one are no more than usual. Counts are skewed, their median lies below it."""
_EITHER: Final = "or its tokens were slow: an answer in one piece does not show which"


def queueing(route: Route, symptoms: Symptoms, elsewhere: float) -> tuple[float | None, list[Verdict]]:
    """The call's queue (s, None where nobody knows it), and the verdict on it.

    ``elsewhere``: seconds of the wait that lie on the way, or that a slower engine computed, which the estimate takes
    for a queue.
    """
    queue = symptoms.server_queue
    if queue is None:
        if symptoms.whole:
            return symptoms.queue, _late(route, symptoms)
        queue = symptoms.queue
        if queue is None:
            return None, []
        if elsewhere:
            queue = max(0.0, queue - elsewhere)
    habit = route.queue
    high = route.high_queue.high(queue)
    calm = habit.calm(queue)
    if calm and not high:
        return queue, []
    usual = habit.mid
    score = habit.score(queue)
    odd = not calm and habit.settle(queue, score) and not habit.lone
    excess = queue - usual
    if not (odd or high) or excess < LEAST_S:
        return queue, []
    if symptoms.wait is not None and excess < SHARE * (symptoms.wait - excess):
        return queue, []
    score = max(score, route.high_queue.strength)
    return queue, [Verdict(QUEUEING, score, "queue", queue, usual, excess, reason=own_crowd(route, symptoms))]


def own_crowd(route: Route, symptoms: Symptoms) -> str | None:
    """That the application itself had unusually many calls under way; None where it had not."""
    usual = route.alongside
    if usual.ready and usual.score(symptoms.alongside) >= 1.0:
        return f"beside {symptoms.alongside} calls of the application's own"
    return None


def is_crowded(route: Route, symptoms: Symptoms) -> bool:
    """Whether the application's own calls, which share the batch, were more than usual beside this one: then it tells
    nothing of others' load.

    Those at its end are counted, and those that came to theirs meanwhile for each second that it took: their bare
    number grows with how slow it was.
    """
    if not symptoms.alongside:
        if route.beside:
            route.beside -= _NEW * route.beside
            route.passing -= _NEW * route.passing
        return False
    now, rate = symptoms.others_open, symptoms.alongside / max(1e-3, (symptoms.end - symptoms.begin) / 1e9)
    crowded = now > _FEW * route.beside or rate > _FEW * route.passing
    route.beside += _NEW * (now - route.beside)
    route.passing += _NEW * (rate - route.passing)
    return crowded or own_crowd(route, symptoms) is not None


def _late(route: Route, symptoms: Symptoms) -> list[Verdict]:
    """An answer in one piece that came late: it waited, or its tokens were slow."""
    tokens = symptoms.tokens
    if not tokens:
        return []
    taken, prompt = (symptoms.end - symptoms.begin) / 1e9, float(symptoms.uncached or 0)
    habit = route.totals
    score, usual = habit.score(prompt, tokens, taken), habit.usual(prompt, tokens)
    # Beside more calls of the application's own than usual it is late for them.
    crowded = is_crowded(route, symptoms)
    high = usual > 0 and not crowded and route.high_queue.high(habit.lateness(usual, taken))
    odd = habit.settle((prompt, float(tokens), taken), score, route.high_queue.suspects) and not habit.lone
    late = taken - usual
    if crowded or not (odd or high) or not is_late(late, usual):
        return []
    score = max(score, route.high_queue.strength)
    route.late.append((late, tokens))
    slow = slow_tokens(route.late)
    if slow:
        return [Verdict(NOISY_NEIGHBOR, score, "answer_time_per_token", taken / tokens, usual / tokens, late)]
    quantity, reason = (LATENESS, _EITHER) if slow is None else ("total", own_crowd(route, symptoms))
    return [Verdict(QUEUEING, score, quantity, taken, usual, late, reason=reason)]
