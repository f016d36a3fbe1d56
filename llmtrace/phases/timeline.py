"""Observation in, phases out, by the order of truth: device, server, client, estimate, merged.

Whatever the numbers say, the phases returned are contiguous, ordered, never negative, and fill the window exactly.

In front of the engine's phases stand what was measured as wire (network), what a gateway says of itself, and what
nobody accounts for (unattributed). Where they really lay, before the request's first byte or between the answer's
chunks, is not known: their lengths are.
"""

from __future__ import annotations

from llmtrace.observe.answer import ServerTimings
from llmtrace.phases import merged
from llmtrace.phases.describe import describe
from llmtrace.phases.grade import grade
from llmtrace.phases.model import (
    CLIENT,
    DECODE,
    DEVICE,
    ESTIMATE,
    GATEWAY,
    KV_CACHE_HIT,
    MODEL_LOAD,
    NETWORK,
    OPAQUE,
    PREFILL,
    QUEUE,
    QUEUE_PREFILL,
    SERVER,
    UNATTRIBUTED,
    Estimate,
    Phase,
    Unknown,
)
from llmtrace.phases.observation import Observation
from llmtrace.phases.server import SLACK_S, held_back, load_of, most_in, plausible, plausible_gateway
from llmtrace.phases.stagger import stagger_phases
from llmtrace.phases.wire import Wire, wire_of


def split(seen: Observation, estimate: Estimate | Unknown | None = None) -> tuple[list[Phase], str | None]:
    """The phases of a call, and why server timings were not used where they were there (else None).

    ``estimate``: what the route's earlier calls say of it, or why they say nothing.
    """
    seen.end = max(seen.end, seen.start)
    server, complaint = plausible(seen)
    fitted = estimate if isinstance(estimate, Estimate) else None
    phases = _lay(seen, _plan(seen, server, fitted, estimate if isinstance(estimate, Unknown) else None))
    stagger_phases(phases)
    describe(seen, server, phases, fitted)
    if server is not None and fitted is not None and not load_of(server):  # no estimate knows of a load
        grade(phases, fitted, seen.first_token_error or 0.0)
    return phases, complaint


class _Plan:
    """Pieces in order, each with a wished length in ns; ``stretch`` takes up what the others leave over."""

    __slots__ = ("pieces", "stretch")

    def __init__(self) -> None:
        self.pieces: list[Phase] = []
        self.stretch = -1

    def add(self, name: str, seconds: float, source: str, uncertainty: float | None = None) -> Phase:
        piece = Phase(name, 0, max(0, round(seconds * 1e9)), source, uncertainty)
        self.pieces.append(piece)
        return piece

    def unsure(self, low: float, high: float) -> None:
        """The last piece may be shorter by ``low`` and longer by ``high`` s."""
        piece = self.pieces[-1]
        piece.uncertainty, piece.uncertainty_low, piece.uncertainty_high = max(low, high), low, high

    def rest(self, name: str, source: str, uncertainty: float | None = None) -> Phase:
        self.stretch = len(self.pieces)
        return self.add(name, 0.0, source, uncertainty)

    def merge(self, name: str, why: Unknown, source: str, uncertainty: float | None = None) -> Phase:
        piece = self.rest(name, source, uncertainty)
        piece.merged_because, piece.merged_detail = why.reason, why.detail
        return piece


def _plan(seen: Observation, server: ServerTimings | None, estimate: Estimate | None, unknown: Unknown | None) -> _Plan:
    plan, wire = _Plan(), wire_of(seen)
    if not seen.computed:
        _outside(plan, seen, wire, (seen.end - seen.start) / 1e9)
        _unattributed(plan, wire)
    elif server is not None and server.prefill is not None and server.decode is not None and held_back(seen, server):
        _engine_phases(plan, seen, wire, server, until=seen.end, decode=server.decode)
    elif seen.streaming and seen.first_token is not None and (server is not None or not seen.buffered):
        first_token = min(max(seen.first_token, seen.start), seen.end)
        _until_first_token(plan, seen, wire, server, estimate, unknown, first_token)
        plan.add(DECODE, (seen.end - first_token) / 1e9, CLIENT, seen.first_token_error)
    elif server is not None and server.prefill is not None and server.decode is not None and not seen.streaming:
        _engine_phases(plan, seen, wire, server, until=seen.end, decode=server.decode)
    else:
        _without_first_token(plan, seen, wire, server, estimate, unknown)
    return plan


def _until_first_token(
    plan: _Plan,
    seen: Observation,
    wire: Wire,
    server: ServerTimings | None,
    estimate: Estimate | None,
    unknown: Unknown | None,
    first_token: int,
) -> None:
    room = (first_token - seen.start) / 1e9
    if server is not None and server.prefill is not None:
        whole = (server.queue or 0.0) + (server.kv_cache_hit or 0.0) + server.prefill
        if whole <= most_in(room):
            _engine_phases(plan, seen, wire, server, until=first_token, decode=None)
            return
    elif server is not None and server.ttft is not None and server.ttft <= room + SLACK_S:
        reported = min(server.ttft, room)
        _outside(plan, seen, wire, room - reported)
        _unattributed(plan, wire)
        reported = _loaded(plan, server, reported)
        _merge_told(plan, QUEUE_PREFILL, merged.ONLY_FIRST_TOKEN, reported, server)
        return
    late = seen.first_token_error
    if estimate is None:
        why = merged.why_unsplit(seen) or unknown or merged.NOT_ESTIMATED
        _prepared(plan, wire, _outside(plan, seen, wire, room))
        plan.merge(QUEUE_PREFILL, why, CLIENT, late)
        return
    left = _prepared(plan, wire, _outside(plan, seen, wire, room))
    left = _admitted(plan, seen, wire, estimate, left)
    unread = late or 0.0
    plan.add(QUEUE, min(estimate.queued, left), ESTIMATE)
    low, high = estimate.queue_sides()
    plan.unsure(low + unread, high + unread)
    if seen.usage is not None and seen.usage.cached_tokens:
        plan.add(KV_CACHE_HIT, 0.0, ESTIMATE, estimate.prefill)
    plan.rest(PREFILL, ESTIMATE)
    low, high = estimate.prefill_sides()
    plan.unsure(low + unread, high + unread)


def _engine_phases(
    plan: _Plan, seen: Observation, wire: Wire, server: ServerTimings, *, until: int, decode: float | None
) -> None:
    """The engine's own phases, as long as it says and ending at ``until``; what is left in front of them is network as
    far as it was measured, and unattributed beyond that."""
    source = DEVICE if server.device else SERVER
    cache, prefill = server.kv_cache_hit or 0.0, server.prefill or 0.0
    room = max(0, until - seen.start) / 1e9
    whole = cache + prefill + (decode or 0.0) + (server.queue or 0.0)
    fit = min(1.0, room / whole) if whole > 0 else 1.0  # they may be longer by rounding
    left = _outside(plan, seen, wire, room - whole * fit)
    told = server.queue is not None and server.queue != server.model_load  # the load alone is no queue
    if server.queue is not None and (told or load_of(server)):
        _unattributed(plan, wire)
        waited = _loaded(plan, server, server.queue, fit)
        if told:
            plan.add(QUEUE, waited * fit, source)
    elif seen.sent is not None:
        # The engine tells no queue: what lies between the request and its prefill is the wait for it, or the HTTP
        # server and tokenising. How much of it is which, nobody says.
        left = _prepared(plan, wire, left)
        plan.rest(QUEUE, CLIENT)
        plan.unsure(left, 0.0)
    else:
        _unattributed(plan, wire)
    cached = server.cached_tokens if server.cached_tokens is not None else (seen.usage and seen.usage.cached_tokens)
    if server.kv_cache_hit is not None and cached != 0 and (cached or cache > 0):
        plan.add(KV_CACHE_HIT, cache * fit, source)
    elif cached:
        # The hit is told, its time is not: it lies somewhere inside what the engine calls prefill.
        plan.add(KV_CACHE_HIT, 0.0, ESTIMATE, prefill)
    plan.add(PREFILL, prefill * fit, source)
    if decode is not None:
        plan.add(DECODE, decode * fit, source)


def _without_first_token(
    plan: _Plan,
    seen: Observation,
    wire: Wire,
    server: ServerTimings | None,
    estimate: Estimate | None,
    unknown: Unknown | None,
) -> None:
    room = (seen.end - seen.start) / 1e9
    if server is not None and server.total is not None and not seen.streaming:
        reported = min(server.total, room)
        _outside(plan, seen, wire, room - reported)
        _unattributed(plan, wire)
        reported = _loaded(plan, server, reported)
        if estimate is not None and estimate.decode is not None:
            _estimated_answer(plan, seen, estimate, estimate.decode, reported)
        else:
            _merge_told(plan, OPAQUE, merged.ONLY_TOTAL, reported, server)
        return
    left = _outside(plan, seen, wire, room)
    if estimate is not None and estimate.decode is not None and not seen.streaming:
        left = _prepared(plan, wire, left)
        left = _admitted(plan, seen, wire, estimate, left)
        _estimated_answer(plan, seen, estimate, estimate.decode, left)
        return
    if seen.never_asked:
        plan.rest(UNATTRIBUTED, CLIENT)
        return
    _prepared(plan, wire, left)
    why = merged.why_unsplit(seen) or unknown or merged.NOT_ESTIMATED
    waiting = seen.streaming and seen.waited and not seen.buffered
    plan.merge(QUEUE_PREFILL if waiting else OPAQUE, why, CLIENT)


def _estimated_answer(plan: _Plan, seen: Observation, estimate: Estimate, decode: float, room: float) -> None:
    """The phases of a whole answer, in ``room`` s, by the estimate."""
    whole = estimate.queued + estimate.prefill + decode
    fit = room / whole if whole > 0 else 1.0
    plan.add(QUEUE, estimate.queued * fit, ESTIMATE)
    plan.unsure(*estimate.queue_sides())
    if seen.usage is not None and seen.usage.cached_tokens:
        plan.add(KV_CACHE_HIT, 0.0, ESTIMATE, estimate.prefill)
    plan.add(PREFILL, estimate.prefill * fit, ESTIMATE)
    plan.unsure(*estimate.prefill_sides())
    if plan.stretch < 0:
        plan.rest(DECODE, ESTIMATE)
    else:
        plan.add(DECODE, decode * fit, ESTIMATE)
    plan.unsure(estimate.decode_low, estimate.decode_high)


# --- what stands in front -----------------------------------------------------------------------------------------
def _outside(plan: _Plan, seen: Observation, wire: Wire, room: float) -> float:
    """The network and the gateway phase, together no longer than ``room`` s; returns what they leave of it."""
    if wire.length is not None:
        length = min(wire.length, room)
        plan.add(NETWORK, length, CLIENT)
        plan.unsure(wire.low, wire.high)
        room -= length
    if seen.gateway is not None and (spent := plausible_gateway(seen)) is not None:
        length = min(spent, room)
        plan.add(GATEWAY, length, SERVER)
        room -= length
    return max(0.0, room)


def _unattributed(plan: _Plan, wire: Wire) -> None:
    """What neither the wire nor the server's own numbers account for: longer by as much as the wire may be shorter."""
    plan.rest(UNATTRIBUTED, CLIENT)
    if wire.length is not None:
        plan.unsure(wire.high, wire.low)


def _prepared(plan: _Plan, wire: Wire, room: float) -> float:
    """What the client did before the request was out, in no more than ``room`` s; returns what it leaves of it."""
    if wire.before is None:
        return room
    length = min(wire.before, room)
    plan.add(UNATTRIBUTED, length, CLIENT)
    if wire.length is not None:
        plan.unsure(0.0, wire.low)
    return max(0.0, room - length)


def _admitted(plan: _Plan, seen: Observation, wire: Wire, estimate: Estimate, room: float) -> float:
    """Adds what is estimated to lie between the request's arrival and the engine to what is unattributed."""
    # The headers' delay, by which that is estimated, holds their way back, and a gateway's time.
    admission = estimate.before_engine - wire.round_trip / 2 - (plausible_gateway(seen) or 0.0)
    admission = min(admission, room)
    if admission <= 0:
        return room
    if not plan.pieces or plan.pieces[-1].name != UNATTRIBUTED:
        plan.add(UNATTRIBUTED, 0.0, CLIENT)
    piece = plan.pieces[-1]
    piece.end += round(admission * 1e9)
    piece.source, piece.admission = ESTIMATE, admission
    low, high = piece.uncertainty_low or 0.0, piece.uncertainty_high or 0.0
    unsure = estimate.admission_uncertainty + (estimate.step_wait if estimate.step_apart else 0.0)
    plan.unsure(low + unsure, high + unsure)
    return room - admission


def _loaded(plan: _Plan, server: ServerTimings, room: float, fit: float = 1.0) -> float:
    """The loading of the model in front of what the server tells, no longer than ``room`` s; returns what is left."""
    load = min(load_of(server), room)
    if load > 0:
        plan.add(MODEL_LOAD, load * fit, DEVICE if server.device else SERVER)
    return room - load


def _merge_told(plan: _Plan, name: str, why: Unknown, seconds: float, server: ServerTimings) -> None:
    """A merged phase whose length the server tells."""
    piece = plan.add(name, seconds, DEVICE if server.device else SERVER)
    piece.merged_because, piece.merged_detail = why.reason, why.detail


def _lay(seen: Observation, plan: _Plan) -> list[Phase]:
    """Turn wished lengths into contiguous times that fill the window to the nanosecond.

    An unattributed phase of no length is left out: there is nothing that nobody accounts for.
    """
    window = seen.end - seen.start
    lengths = [piece.end for piece in plan.pieces]
    stretch = plan.stretch if plan.stretch >= 0 else len(lengths) - 1
    fixed = sum(lengths) - lengths[stretch]
    if fixed <= window:
        lengths[stretch] = window - fixed
    else:
        lengths[stretch] = 0
        lengths = [length * window // fixed for length in lengths]
        lengths[max(range(len(lengths)), key=lengths.__getitem__)] += window - sum(lengths)
    at = seen.start
    phases: list[Phase] = []
    for piece, length in zip(plan.pieces, lengths, strict=True):
        if not length and piece.name == UNATTRIBUTED and len(lengths) > 1:
            continue
        piece.start, piece.end = at, at + length
        at += length
        phases.append(piece)
    return phases
