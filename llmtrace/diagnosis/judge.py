"""Judges each ended call by its route's history: which causes, how sure, with which evidence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from llmtrace.diagnosis.causes import (
    NEW_FINGERPRINT,
    buffered_stream,
    fingerprint_swap,
    model_swap,
    repetition_loop,
    retry_storm,
    slow_consumer,
)
from llmtrace.diagnosis.cold_model import cold_model
from llmtrace.diagnosis.history import MIN_CALLS
from llmtrace.diagnosis.no_core import is_by_time, is_own
from llmtrace.diagnosis.route import Route
from llmtrace.diagnosis.schema import cold_schema
from llmtrace.diagnosis.shift import Shift
from llmtrace.diagnosis.symptoms import Symptoms
from llmtrace.diagnosis.timings import late_acknowledgement, network, pace, wait
from llmtrace.diagnosis.upstreams import Upstreams
from llmtrace.diagnosis.verdict import (
    BUFFERED_STREAM,
    CHANGED_FOR,
    COLD_KV_CACHE,
    NETWORK,
    NOISY_NEIGHBOR,
    PREFILL_SURGE,
    QUEUEING,
    ROUTE_CHANGE,
    Verdict,
    sure,
)
from llmtrace.observe.internal_errors import note

_NONE: Final[list[Verdict]] = []
_FAILED: Final = "diagnosing a call"

_LATELY: Final = 0xFF
"""The last eight calls, a bit each."""
_STRONGEST: Final = 4.0
_FORGET: Final = 2.0
"""What the evidence of a changed route loses with each call."""
_ENOUGH: Final = 5.0
_AGREES: Final = 0.3
"""Times that are high together speak for a change from this share of what it takes to name them."""
_BY_TIME: Final = (QUEUEING, NETWORK, NOISY_NEIGHBOR, ROUTE_CHANGE)
_AT_UPSTREAM: Final = (QUEUEING, NOISY_NEIGHBOR, PREFILL_SURGE, COLD_KV_CACHE, BUFFERED_STREAM)
"""Causes that belong to whoever answered behind a gateway."""


def judge(
    route: Route,
    symptoms: Symptoms,
    own: Route | None = None,
    no_core: Callable[[], float | None] | None = None,
) -> list[Verdict]:
    """The verdicts on a call of ``route``, most certain first; then the call is part of the route's history.

    ``symptoms.others_open`` has been filled in; ``alongside`` is set here. ``own``: where a gateway told who answered,
    the history of the calls that this upstream answered, by which the call's times are judged. ``no_core``: tells how
    long the call's thread had no core, s.
    """
    timed = route
    if own is not None:
        timed, own.among = own, route
    symptoms.alongside = symptoms.others_open + timed.ended(symptoms.begin, symptoms.end)
    verdicts = _judge(route, timed, symptoms)
    if symptoms.upstream is not None:
        verdicts = _elsewhere(route, symptoms.upstream, symptoms, verdicts)
    if verdicts and any(map(is_by_time, verdicts)):
        if no_core is not None and symptoms.no_core is None:
            symptoms.no_core = no_core()
        verdicts = [verdict for verdict in verdicts if not is_own(verdict, symptoms)]
    if verdicts or route.named:
        _weigh(route, verdicts)
    route.calls += 1
    if len(verdicts) > 1:
        verdicts.sort(key=_confidence, reverse=True)
    return verdicts


def _weigh(route: Route, verdicts: list[Verdict]) -> None:
    """Set how sure each of ``verdicts`` is; then they are part of the route's history."""
    named = route.named
    for verdict in verdicts:
        verdict.history = route.calls
        verdict.confidence = sure(verdict, named.get(verdict.cause, 0).bit_count())
    causes = {verdict.cause for verdict in verdicts}
    latest = {cause: (named.get(cause, 0) << 1 | (cause in causes)) & _LATELY for cause in causes.union(named)}
    route.named = {cause: calls for cause, calls in latest.items() if calls}


def _confidence(verdict: Verdict) -> float:
    return verdict.confidence


def _elsewhere(route: Route, upstream: str, symptoms: Symptoms, verdicts: list[Verdict]) -> list[Verdict]:
    """The verdicts, with what the upstreams' names say: where those changed, the times did for that reason."""
    if route.upstreams is None:
        route.upstreams = Upstreams()
    change = route.upstreams.changed(upstream, symptoms.wait)
    if change is not None:
        return [change, *(verdict for verdict in verdicts if verdict.cause not in _BY_TIME)]
    for verdict in verdicts:
        if verdict.cause in _AT_UPSTREAM:
            verdict.reason = f"at {upstream}" if verdict.reason is None else f"at {upstream}: {verdict.reason}"
    return verdicts


def _judge(route: Route, timed: Route, symptoms: Symptoms) -> list[Verdict]:
    """``timed``: the history by which the call's times are judged."""
    verdicts: list[Verdict] = []
    swapped = None
    # A detector that fails is its own affair and not the others'.
    if symptoms.answered is not None:
        try:
            swapped = model_swap(route, symptoms)
        except Exception as error:
            note(_FAILED, error)
        if swapped is not None:
            verdicts.append(swapped)
    # What most calls have nothing of is looked at only where there is something of it.
    if (
        symptoms.consumer_wait
        or symptoms.attempts > 1
        or route.retries
        or symptoms.repetition is not None
        or symptoms.grammar_compile
        or symptoms.model_load
    ):
        by_itself = (
            _alone(slow_consumer, symptoms),
            _alone(retry_storm, route, symptoms),
            _alone(repetition_loop, symptoms),
            _alone(cold_schema, symptoms),
            _alone(cold_model, symptoms),
        )
        verdicts += [verdict for verdict in by_itself if verdict is not None]
    if symptoms.buffered or symptoms.mean_gap:
        try:
            if (buffered := buffered_stream(route, timed, symptoms)) is not None:
                verdicts.append(buffered)
        except Exception as error:
            note(_FAILED, error)
    if swapped is None:  # another model's times say nothing of this route's
        try:
            verdicts += _times(timed, symptoms)
        except Exception as error:
            note(_FAILED, error)
    beside, crowd = symptoms.alongside, timed.alongside
    if not crowd.calm(beside):
        crowd.learn(beside, crowd.score(beside) >= 1.0)
    return verdicts


def _alone(detector: Callable[..., Verdict | None], *evidence: Any) -> Verdict | None:
    """What a detector says; nothing where it fails."""
    try:
        return detector(*evidence)
    except Exception as error:
        note(_FAILED, error)
        return None


def _times(route: Route, symptoms: Symptoms) -> list[Verdict]:
    evidence = 0.0 if symptoms.fingerprint is None else _names(route, symptoms.fingerprint)
    # Where the route tells fingerprints, a familiar one is enough to say that it is the same.
    asked = evidence > 0 or not route.fingerprints.items
    round_trip, envelope = _elsewhere_by_time(route, symptoms) if asked else (0.0, 0.0)
    on_the_way: list[Verdict] = _NONE
    slower: list[Verdict] = _NONE
    waited: list[Verdict] = _NONE
    inside = score = 0.0
    try:
        on_the_way, inside = network(route, symptoms)
    except Exception as error:
        note(_FAILED, error)
    try:
        slower, score = pace(route, symptoms, scored=asked)
    except Exception as error:
        note(_FAILED, error)
    try:
        waited = wait(route, symptoms, inside)
    except Exception as error:
        note(_FAILED, error)
    by_time = [*on_the_way, *waited, *slower]
    if asked and route.pace.ready:
        envelope = max(envelope, _either_way(score))
    if evidence > 0:
        envelope = max(envelope, _together(route.high_pace), _together(route.high_wait), _together(route.high_queue))
    if evidence or round_trip or envelope or route.change or route.changed is not None or route.fingerprints.run:
        return _changed(route, by_time, evidence, round_trip, envelope)
    return by_time


def _elsewhere_by_time(route: Route, symptoms: Symptoms) -> tuple[float, float]:
    """How far the round trip, and the wait, speak for a change of the route."""
    round_trip = envelope = 0.0
    if symptoms.rtt is not None and route.rtt.ready:
        rise = symptoms.rtt - route.rtt.mid
        if not 0 < rise <= late_acknowledgement(route, symptoms):
            round_trip = _either_way(route.rtt.score(symptoms.rtt))
    if symptoms.wait is not None and symptoms.server_queue is None and route.waits.ready:
        uncached = symptoms.uncached
        if uncached is not None:
            envelope = _either_way(route.waits.score(float(uncached), symptoms.wait))
    return round_trip, envelope


def _names(route: Route, name: str) -> float:
    """How far this call's fingerprint speaks for a change; 0 where it is none of the surprising ones."""
    prints = route.fingerprints
    if prints.is_only(name):
        return 0.0
    surprise = prints.surprise(name) if len(prints.items) >= MIN_CALLS else 0.0
    prints.learn(name)
    return min(_STRONGEST, surprise) if surprise > 1.0 else 0.0


def _together(shift: Shift) -> float:
    strength = shift.strength
    return _STRONGEST * min(1.0, strength) if strength >= _AGREES and shift.latest > 0 else 0.0


def _either_way(score: float) -> float:
    size = abs(score)
    return min(_STRONGEST, 3 * size) if size >= 0.5 else 0.0


def _changed(route: Route, verdicts: list[Verdict], names: float, round_trip: float, envelope: float) -> list[Verdict]:
    """A change of the route: names, round trip and envelope, at least two of them agreeing.

    Where the route tells fingerprints, one of the two has to be the fingerprint: a slow network and a long queue
    together are no change.
    """
    tells_names = bool(route.fingerprints.items)
    agreeing = (names > 0) + (round_trip > 0) + (envelope > 0)
    fits = agreeing >= 2 and (names > 0 or not tells_names)
    route.change = max(0.0, route.change + (names + round_trip + envelope if fits else 0.0) - _FORGET)
    since = None if route.changed is None else route.calls - route.changed
    if fits and route.change >= _ENOUGH and (since is None or since >= CHANGED_FOR):
        score = route.change / _ENOUGH
        route.new_regime()
        since = 0
        route.changed_by = (
            score,
            " and ".join(
                name for name, sign in (("fingerprint", names), ("round trip", round_trip), ("times", envelope)) if sign
            ),
        )
    if since is not None and since < CHANGED_FOR:
        score, signs = route.changed_by
        rest = [verdict for verdict in verdicts if verdict.cause not in (QUEUEING, NETWORK, NOISY_NEIGHBOR)]
        return [
            *rest,
            Verdict(ROUTE_CHANGE, score, "calls_since", float(since), reason=f"changed together: {signs}"),
        ]
    if route.fingerprints.run >= NEW_FINGERPRINT and (stays := fingerprint_swap(route)) is not None:
        verdicts.append(stays)
    return verdicts
