"""The causes that are told by time: what a call took beyond its route's habit, and which of its parts explain it.

Taken away in order, so that nothing is explained twice: what the network added, then the tokens that should have
come from the cache, then the prompt's fresh tokens; what is left of the wait for the first token is a queue.
"""

from __future__ import annotations

from math import log, sqrt
from typing import Final

from llmtrace.diagnosis.history import FEW_CALLS, Level
from llmtrace.diagnosis.queueing import SHARE, is_crowded, own_crowd, queueing
from llmtrace.diagnosis.route import PACE_SHARE, Route
from llmtrace.diagnosis.symptoms import BURSTS, Symptoms
from llmtrace.diagnosis.verdict import (
    COLD_KV_CACHE,
    LEAST_S,
    NETWORK,
    NOISY_NEIGHBOR,
    PREFILL_SURGE,
    QUEUEING,
    Verdict,
)

LEAST_MISS: Final = 64
"""Tokens missing from the cache below which nobody asks why."""
MISS_SHARE: Final = 0.3
"""And below this share of what should have been there."""
BY_FACT: Final = 0.15
"""That tokens are missing is a fact: their cost need stand out of the noise by only this share of what a time needs."""
EARLY: Final = 0.6
"""Headers that come within this share of the usual wait have no prefill in front of them: what delays them is on the
way, or at the front end. And so have those that leave room behind them for the rest of what the prompts cost: far away
they come late in the wait, and yet before the prefill."""
IDLE_S: Final = 240.0
"""After so long a pause of the route, an empty cache has expired."""
ACKNOWLEDGED_S: Final = 0.045
"""A peer that has nothing to send yet acknowledges a request after up to 40 ms, which the round trip then holds."""
SOME_CALLS: Final = 12
"""Calls from which on a line says which waits are longer than others."""
LONE: Final = 1.5
"""One call's slow tokens are mostly chance where they go no further than so many rooms: the next one has to agree."""
STALLED: Final = 2.0
"""A pause between tokens is a hiccup where the others were no slower and all of it took not so many times as long."""
BORNE_OUT: Final = 0.5
"""By this share of it an estimated queue has to show in the wait."""
FEW_TOKENS: Final = 16
"""Pace is not judged over fewer."""
_NONE: Final[list[Verdict]] = []
_NOTHING: Final = (_NONE, 0.0)
"""No verdict, and nothing that would explain any of the time."""


def network(route: Route, symptoms: Symptoms) -> tuple[list[Verdict], float]:
    """The way between client and engine; also the part of the wait (s) that it explains: less than nothing where it was
    quicker than usual."""
    best: Verdict | None = None
    inside = 0.0
    outside: float | None = None
    if symptoms.server_queue is not None and symptoms.wait is not None and symptoms.server_prefill is not None:
        outside = max(0.0, symptoms.wait - symptoms.server_queue - symptoms.server_prefill)
    early = symptoms.headers
    if symptoms.ready_at_first * (symptoms.mean_gap or 0.0) >= LEAST_S:
        early = None  # they were read late, as the chunks that lay ready behind them were
    if early is not None:
        usual = route.headers.mid
        if _before_prefill(route, usual):
            if route.headers.ready:
                inside = early - usual
            if route.high_headers.high(early) and early - usual >= LEAST_S:
                best = _late_headers(route, early)
                inside = early - usual
        else:
            early = None  # they tell nothing of the way
    rtt, setup = symptoms.rtt, symptoms.setup
    closer: list[tuple[Level, float, str]] = []
    if outside is not None and not route.outside.calm(outside):
        closer.append((route.outside, outside, "wait_outside_server"))
    if early is not None and not route.headers.calm(early):
        closer.append((route.headers, early, "time_to_headers"))
    if rtt is not None and not route.rtt.calm(rtt):
        closer.append((route.rtt, rtt, "round_trip"))
    if setup is not None and not route.setup.calm(setup):
        closer.append((route.setup, setup, "connection_setup"))
    if best is None and not closer:
        return (_NONE, inside) if inside else _NOTHING
    for habit, value, quantity in closer:
        usual = habit.mid
        score = habit.score(value)
        if not habit.settle(value, score) or habit.lone:
            continue
        excess = value - usual
        least = LEAST_S
        if habit is route.rtt:
            least = LEAST_S / 2 + late_acknowledgement(route, symptoms)
        if excess >= least:
            if habit is route.setup and symptoms.rtt is not None and symptoms.rtt - route.rtt.mid < LEAST_S / 2:
                # The way itself was as fast as ever: a name's look-up, or a client that got no core.
                score = min(score, 1.0)
            if best is None or excess > (best.excess or 0.0):
                best = Verdict(NETWORK, score, quantity, value, usual, excess)
            if habit is not route.setup:
                inside = max(inside, excess)
    return ([] if best is None else [best]), inside


def _before_prefill(route: Route, headers: float) -> bool:
    """Whether headers that usually take ``headers`` s are sent before the prompt is computed."""
    line = route.waits
    if headers < EARLY * (line.ref or route.waits_untold.mid) or not route.headers.ready:
        return True
    return line.slope > 0 and line.mid - headers >= (EARLY - 1) * line.slope * line.at


def _late_headers(route: Route, headers: float) -> Verdict:
    usual = route.headers.mid
    return Verdict(NETWORK, route.high_headers.strength, "time_to_headers", headers, usual, headers - usual)


def late_acknowledgement(route: Route, symptoms: Symptoms) -> float:
    """How much longer a round trip may get (s) because the answer came late, where answers usually come so soon that
    they carry the acknowledgement of the request."""
    usual = route.totals.ref if symptoms.whole else route.waits.ref or route.waits_untold.mid
    return ACKNOWLEDGED_S if usual < ACKNOWLEDGED_S else 0.0


def wait(route: Route, symptoms: Symptoms, inside_network: float) -> list[Verdict]:
    """Cold cache, surge and queue, from the time to the first token."""
    elsewhere = inside_network
    if symptoms.slower and symptoms.server_queue is None:
        elsewhere += symptoms.slower * _computing(route, symptoms)
    queue, verdicts = queueing(route, symptoms, elsewhere)
    if symptoms.wait is None:  # what is estimated without it shows nowhere
        return verdicts if symptoms.whole or symptoms.server_queue is not None else []
    waited = max(0.0, symptoms.wait - elsewhere) if elsewhere else symptoms.wait
    if verdicts and symptoms.server_queue is None and not _bears_out(route, symptoms, waited, verdicts[0]):
        verdicts = []
    taken, kept, judged = waited, waited, False
    if queue is not None:
        # Of what is estimated only what is unusual is taken away, and nothing while nobody knows what is usual.
        told = symptoms.server_queue is not None
        judged = told or route.queue.ready
        usual = 0.0 if told else route.queue.mid
        taken = max(0.0, waited - max(0.0, queue - usual)) if judged else waited
        # Nor does an estimate that changes its mind change what is remembered of the waits.
        kept = taken if told or verdicts else waited
    uncached = symptoms.uncached
    if uncached is None:
        return verdicts + _untold(route, symptoms, taken) if queue is None and not symptoms.whole else verdicts
    line = route.waits
    tokens = float(uncached)
    missing = _missing(route, symptoms)
    fresh = max(0.0, tokens - missing) if missing else tokens
    size = log(fresh + 1)
    high = 0.0
    if not (missing or symptoms.whole) and symptoms.server_queue is None and line.count >= SOME_CALLS:
        crowded = symptoms.alongside and symptoms.crowded is not False
        if not crowded:
            high = route.waits_long(line.over(tokens, waited))
    suspect = route.high_wait.suspects
    if not missing and not suspect and line.near(tokens, taken) and route.fresh.calm(size):
        line.take((tokens, kept))
        _learn_cached(route, symptoms, False)
        return verdicts
    usual_fresh = route.fresh.mid
    score_fresh = route.fresh.score(size)
    surged = route.fresh.beyond(score_fresh)
    before = line.usual(min(fresh, line.at) if line.count else fresh)
    over = taken - before
    worth = max(LEAST_S, 0.25 * before)
    explained = 0.0
    least = max(LEAST_S, SHARE * before)
    if line.count >= FEW_CALLS and over >= least:
        if missing:
            cost = _cost(route, over, missing, missing + max(0.0, fresh - line.at))
            if cost >= least and over > BY_FACT * _noise(route):
                verdicts.append(_cold(route, symptoms, missing, cost))
                explained += cost
        if surged and line.ready:
            extra = fresh - max(line.at, 0.0)
            cost = _cost(route, over - explained, extra, extra)
            if cost >= worth:
                verdict = Verdict(
                    PREFILL_SURGE,
                    score_fresh,
                    "fresh_tokens",
                    fresh,
                    round(_tokens(usual_fresh)),
                    cost,
                )
                verdict.per_token = cost / extra
                verdicts.append(verdict)
                explained += cost
    rest = taken if line.slope else taken - explained  # a slope has it in what is usual for so many tokens
    score = line.score(tokens, rest)
    odd = line.beyond(score)
    left = rest - line.usual(tokens)
    if high and not verdicts and waited - line.usual(tokens) >= max(LEAST_S, SHARE * line.usual(tokens)):
        verdicts.append(_waited(route, symptoms, max(score, high), tokens, waited))
    elif odd and not line.lone and left >= LEAST_S and not (missing and verdicts and not line.slope):
        if not judged and not symptoms.whole:
            verdicts.append(_waited(route, symptoms, score, tokens, rest))
        elif symptoms.server_queue is not None:
            verdicts.append(
                Verdict(
                    NOISY_NEIGHBOR,
                    score,
                    "prefill",
                    taken,
                    line.usual(tokens),
                    left,
                    reason="prefill was slower than its tokens explain",
                )
            )
    route.fresh.learn(size, surged)
    # What a miss cost belongs to the line as every other prefill does; only what nothing explains is held back.
    line.learn((tokens, kept), odd or suspect)
    _learn_cached(route, symptoms, bool(missing))
    return verdicts


def _bears_out(route: Route, symptoms: Symptoms, waited: float, queue: Verdict) -> bool:
    """Whether the wait is longer than the route's waits for such prompts by as much as an estimated queue is beyond its
    usual, more or less: the estimate's idea of the prompt's cost may have changed, and no wait with it."""
    line = route.waits
    if symptoms.whole or symptoms.uncached is None or line.count < FEW_CALLS:
        return True
    tokens = float(symptoms.uncached)
    return waited - line.usual(tokens) - line.unsure(tokens) >= BORNE_OUT * (queue.excess or 0.0)


def _computing(route: Route, symptoms: Symptoms) -> float:
    """Of the usual wait, what the engine is at work for, s: it takes longer where its tokens do. Of a long prompt it is
    no more than of the mean one, or a slow pace would explain its length."""
    line = route.waits
    tokens = min(float(symptoms.uncached or 0), line.at)
    if symptoms.headers is not None and route.headers.ready and _before_prefill(route, route.headers.mid):
        return max(0.0, line.usual(tokens) - route.headers.mid)
    return line.slope * tokens


def _waited(route: Route, symptoms: Symptoms, score: float, tokens: float, taken: float) -> Verdict:
    usual = route.waits.usual(tokens)
    reason = own_crowd(route, symptoms)
    return Verdict(QUEUEING, score, "wait_beyond_prefill", taken, usual, taken - usual, reason=reason)


def _learn_cached(route: Route, symptoms: Symptoms, odd: bool) -> None:
    if symptoms.cached_tokens is None and not route.hit:
        return  # nothing is told
    cached = _cached(route, symptoms)
    if cached is None:
        return
    if cached and not route.hit:  # what came before the first hit was the cache filling up
        route.hit = True
        route.cached.restart()
    route.cached.learn(cached, odd)


def _cached(route: Route, symptoms: Symptoms) -> float | None:
    """Cached tokens; None where the route tells none. Some servers leave the count out where nothing was cached."""
    if symptoms.cached_tokens is not None:
        return float(symptoms.cached_tokens)
    return 0.0 if route.hit and symptoms.input_tokens else None


def _noise(route: Route) -> float:
    return 0.0 if route.waits.count < FEW_CALLS else route.waits.room


def _tokens(logarithm: float) -> float:
    return 2.718281828459045**logarithm - 1


def _missing(route: Route, symptoms: Symptoms) -> float:
    """Prompt tokens that should have come from the cache and did not; 0 for the usual few."""
    if not route.hit and not symptoms.expected_cached and not symptoms.cache_missed:
        return 0.0  # nothing ever was cached here, nor should have been
    prompt, cached = symptoms.input_tokens or 0, _cached(route, symptoms)
    missed = float(min(symptoms.cache_missed or 0, prompt))  # the provider itself knows best
    if missed < LEAST_MISS:
        missed = 0.0
    if cached is None:
        return missed
    habit = route.cached
    expected = habit.mid - habit.below if habit.count >= FEW_CALLS else 0.0  # what every call since the first hit had
    if expected > prompt:
        expected = 0.0  # a prompt of another kind
    if symptoms.expected_cached is not None:
        expected = max(expected, float(min(symptoms.expected_cached, prompt)))
    missing = expected - cached
    return max(missed, missing if missing >= max(LEAST_MISS, MISS_SHARE * expected) else 0.0)


def _cost(route: Route, over: float, tokens: float, of: float) -> float:
    """What ``tokens`` (of ``of`` beyond the usual) cost, s: by the route's slope, else their share of what is over."""
    if tokens <= 0 or over <= 0:
        return 0.0
    line = route.waits
    if line.slope:
        most = line.slope * tokens + line.unsure(line.at + tokens)
        return min(over * tokens / of, most)
    return min(over * tokens / of, line.steepest * tokens)


def _cold(route: Route, symptoms: Symptoms, missing: float, cost: float) -> Verdict:
    cached = float(symptoms.cached_tokens or 0)
    reason = f"idle for {route.idle:.0f} s" if route.idle >= IDLE_S else "evicted, or sent elsewhere"
    if symptoms.cache_miss is not None:
        reason = f"the provider says: {symptoms.cache_miss}"
    score = max(1.5, cost / max(LEAST_S, 0.25 * route.waits.ref))
    verdict = Verdict(COLD_KV_CACHE, score, "cached_tokens", cached, cached + round(missing), cost, reason=reason)
    verdict.told = symptoms.cache_miss is not None
    verdict.per_token = cost / missing
    return verdict


def _untold(route: Route, symptoms: Symptoms, taken: float) -> list[Verdict]:
    return _judge(route, symptoms, route.waits_untold, taken, "wait")


def _judge(route: Route, symptoms: Symptoms, habit: Level, value: float, quantity: str) -> list[Verdict]:
    if habit.calm(value):
        return []
    usual = habit.mid
    score = habit.score(value)
    if not habit.settle(value, score) or habit.lone or value - usual < LEAST_S:
        return []
    return [Verdict(QUEUEING, score, quantity, value, usual, value - usual, reason=own_crowd(route, symptoms))]


def pace(route: Route, symptoms: Symptoms, scored: bool = True) -> tuple[list[Verdict], float]:
    """A slower decode that the application's own load does not explain; also the score, for changes of the route (0
    where it was not asked for and need not be known)."""
    count, decode = symptoms.tokens, symptoms.decode
    if decode is None or symptoms.whole or count < FEW_TOKENS or symptoms.consumer_wait > 0.2 * symptoms.reading:
        return _NOTHING
    line = route.pace
    each, context = decode / (count - 1), symptoms.input_tokens or 0
    usual = line.mid + line.slope * context
    near = line.near(context, each)
    score = 0.0 if near and not scored else line.score(context, each)
    crowded = symptoms.crowded = is_crowded(route, symptoms)
    slow = route.high_pace
    if symptoms.gap is not None and symptoms.gap < BURSTS * route.least_gap:
        most, high = 0.0, slow.strength >= 1.0  # it was read late: nobody knows when most of its tokens came
    else:
        most, high = each, False
        if symptoms.gap is not None and symptoms.mean_gap:
            most *= min(1.0, symptoms.gap / symptoms.mean_gap)
        if usual > 0:
            # What a longer context than any before costs is not known. The mean of few gaps scatters more than of many.
            known = usual if context <= line.most else usual + line.unsure(context)
            symptoms.slower = max(0.0, most / known - 1)
            high = not crowded and slow.high((each / known - 1) * sqrt(count))
    if high and near and not scored:
        score = line.score(context, each)
    if near:
        line.take((context, each))
        odd = False
    else:
        odd = line.settle((context, each), score)
    if crowded or not (odd or high):
        route.slow = False
        return _NOTHING if not score else ([], score)
    again, route.slow = route.slow, True
    least = (1 + PACE_SHARE) * usual
    excess = (each - usual) * (count - 1)
    if excess < LEAST_S or each < least or usual <= 0:
        return [], score  # of streams that come in one piece nobody knows the pace
    stalls = most < 0.7 * each
    agreed = high or (again and odd)
    if score < LONE and not (agreed and (most >= least or not most or each >= STALLED * usual)):
        return [], score
    reason = "stalls" if stalls else "every token took longer"
    strength = max(score, route.high_pace.strength)
    return [Verdict(NOISY_NEIGHBOR, strength, "time_per_token", each, usual, excess, reason=reason)], score
