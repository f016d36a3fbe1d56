"""Observation in, phases out, by the order of truth: device, server, client, estimate, merged.

Whatever the numbers say, the phases returned are contiguous, ordered, never negative, and fill the window exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmtrace.estimate.route import Estimate, Sample
from llmtrace.observe.answer import ServerTimings, Usage
from llmtrace.phases.model import (
    CLIENT,
    DECODE,
    DEVICE,
    ESTIMATE,
    KV_CACHE_HIT,
    NETWORK,
    OPAQUE,
    PREFILL,
    QUEUE,
    QUEUE_PREFILL,
    SERVER,
    Part,
    Phase,
)

SLACK_SHARE = 0.02
SLACK_S = 0.002
"""Server numbers may exceed what the client saw by this share and time (rounding, clock rates) and are scaled to fit;
beyond it they contradict the client and are not used."""
HIDDEN_SHARE = 0.75
HIDDEN_S = 0.005
"""A stream delivered in less than this share of the decode time that the server reports was held back on the way."""
BUFFERED_CHUNKS = 8
BUFFERED_SHARE = 0.02
BUFFERED_MIN_S = 0.05
"""So many chunks within this share of the time to the first one, itself at least so long: a buffered stream."""
BURST_SHARE = 0.1
BURST_PER_CHUNK_S = 0.0006
"""Or within this share, with chunks so close together that only the client's parsing lay between them."""


@dataclass(slots=True, eq=False, repr=False)
class Observation:
    """One call (or its answering attempt) as it was seen. Times are monotonic ns, None where not seen."""

    start: int
    end: int
    streaming: bool
    attempted: bool = False
    """The transport reported at least the attempt's begin."""
    sent: int | None = None
    headers: int | None = None
    rtt: float | None = None
    """TCP round trip, s."""
    first_token: int | None = None
    first_token_error: float | None = None
    """Half width of the interval in which the first token came, s; None: it was seen as it came."""
    first_reasoning: int | None = None
    first_output: int | None = None
    last_chunk: int | None = None
    chunks: int = 0
    waited: bool = True
    """The application was reading, or waiting to read, until the end."""
    consumer_wait: float = 0.0
    usage: Usage | None = None
    server: ServerTimings | None = None

    @property
    def uncached_tokens(self) -> int | None:
        """Prompt tokens that had to be computed; None where the provider did not say."""
        if self.usage is None or self.usage.input_tokens is None:
            return None
        return max(0, self.usage.input_tokens - (self.usage.cached_tokens or 0))

    @property
    def request_arrived(self) -> int | None:
        """When the request reached the server: bytes out plus half a round trip. None where not known."""
        if self.sent is None or self.rtt is None:
            return None
        arrived = self.sent + int(self.rtt * 5e8)
        latest = self.headers if self.headers is not None else self.end
        return max(self.start, min(arrived, latest, self.end))

    @property
    def buffered(self) -> bool:
        """Long silence, then everything at once, read by an application that was not late itself."""
        if self.first_token is None or self.last_chunk is None or self.chunks < BUFFERED_CHUNKS:
            return False
        silence = (self.first_token - self.start) / 1e9
        burst = (self.last_chunk - self.first_token) / 1e9
        late = self.first_token_error is not None or self.consumer_wait > BUFFERED_SHARE * silence
        at_once = burst < BUFFERED_SHARE * silence or (
            burst < BURST_SHARE * silence and burst < BURST_PER_CHUNK_S * self.chunks
        )
        return silence >= BUFFERED_MIN_S and at_once and not late


def split(seen: Observation, estimate: Estimate | None = None) -> tuple[list[Phase], str | None]:
    """The phases of a call, and why server timings were not used where they were there (else None)."""
    seen.end = max(seen.end, seen.start)
    server, complaint = _plausible(seen)
    plan = _plan(seen, server, estimate)
    phases = _lay(seen, plan)
    _describe(seen, server, phases, estimate)
    return phases, complaint


def sample_of(seen: Observation, event: int | None) -> Sample | None:
    """The call as the baselines take it in; None where it says nothing about queue and prefill.

    ``event``: the stream's first event, be it without a token.
    """
    uncached = seen.uncached_tokens
    if not seen.streaming or seen.first_token is None or uncached is None or seen.buffered:
        return None
    arrived, usage = seen.request_arrived, seen.usage or Usage()
    if usage.reasoning_tokens and seen.first_reasoning is None:
        return None  # reasoning that the stream does not show came before the first token: decode, not prefill
    return Sample(
        start=seen.start if arrived is None else arrived,
        first=seen.first_token,
        end=seen.end if seen.last_chunk is None else seen.last_chunk,
        uncached=uncached,
        cached=usage.cached_tokens or 0,
        headers=seen.headers,
        event=event,
        tokens=usage.output_tokens or 0,
        exact=seen.first_token_error is None,
    )


class _Plan:
    """Pieces in order, each with a wished length in ns; ``stretch`` takes up what the others leave over."""

    __slots__ = ("pieces", "stretch")

    def __init__(self) -> None:
        self.pieces: list[Phase] = []
        self.stretch = -1

    def add(self, name: str, seconds: float, source: str, uncertainty: float | None = None) -> None:
        self.pieces.append(Phase(name, 0, max(0, round(seconds * 1e9)), source, uncertainty))

    def rest(self, name: str, source: str, uncertainty: float | None = None) -> None:
        self.stretch = len(self.pieces)
        self.pieces.append(Phase(name, 0, 0, source, uncertainty))


def _plausible(seen: Observation) -> tuple[ServerTimings | None, str | None]:
    """The server's numbers with every impossible one removed, and the reason for the first that was."""
    said = seen.server
    if said is None:
        return None, None
    window = (seen.end - seen.start) / 1e9
    most = window * (1 + SLACK_SHARE) + SLACK_S
    if _plainly_fits(said, window):
        return said, None
    complaint: str | None = None
    kept = ServerTimings(said.engine, cached_tokens=said.cached_tokens, device=said.device)
    for name in ("queue", "kv_cache_hit", "prefill", "decode", "ttft", "total"):
        value = getattr(said, name)
        if value is None:
            continue
        if not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            complaint = complaint or f"{name} is no duration"
        elif value > most:
            complaint = complaint or f"{name} is longer than the call"
        else:
            setattr(kept, name, float(value))
    before_decode = (kept.queue or 0.0) + (kept.kv_cache_hit or 0.0) + (kept.prefill or 0.0)
    if kept.prefill is not None and before_decode + (0.0 if seen.streaming else kept.decode or 0.0) > most:
        return None, complaint or "the phases are longer than the call together"
    if kept.prefill is None and kept.ttft is None and kept.total is None:
        return None, complaint or "no phase could be used"
    return kept, complaint


def _plainly_fits(said: ServerTimings, window: float) -> bool:
    """The common case: all three phases told, as floats that fit the call together; no need to look closer."""
    if said.ttft is not None or said.kv_cache_hit is not None:
        return False
    queue, prefill, decode, total = said.queue, said.prefill, said.decode, said.total
    return (
        type(queue) is float
        and type(prefill) is float
        and type(decode) is float
        and queue >= 0
        and prefill >= 0
        and decode >= 0
        and queue + prefill + decode <= window
        and (total is None or (type(total) is float and 0 <= total <= window))
    )


def _plan(seen: Observation, server: ServerTimings | None, estimate: Estimate | None) -> _Plan:
    plan = _Plan()
    if server is not None and server.prefill is not None and server.decode is not None and _held_back(seen, server):
        _engine_phases(plan, seen, server, until=seen.end, decode=server.decode)
    elif seen.streaming and seen.first_token is not None and (server is not None or not seen.buffered):
        _until_first_token(plan, seen, server, estimate, seen.first_token)
        plan.add(DECODE, max(0, seen.end - max(seen.start, seen.first_token)) / 1e9, CLIENT, seen.first_token_error)
    elif server is not None and server.prefill is not None and server.decode is not None and not seen.streaming:
        _engine_phases(plan, seen, server, until=seen.end, decode=server.decode)
    else:
        _without_first_token(plan, seen, server)
    return plan


def _held_back(seen: Observation, server: ServerTimings) -> bool:
    """Whether the client saw the tokens in a burst that the engine made over a longer time."""
    if not seen.streaming or seen.first_token is None or server.decode is None or server.prefill is None:
        return False
    window = (seen.end - seen.first_token) / 1e9
    said = (server.queue or 0.0) + (server.kv_cache_hit or 0.0) + server.prefill + server.decode
    return (
        window < HIDDEN_SHARE * server.decode - HIDDEN_S
        and said <= (seen.end - seen.start) / 1e9 * (1 + SLACK_SHARE) + SLACK_S
    )


def _until_first_token(
    plan: _Plan, seen: Observation, server: ServerTimings | None, estimate: Estimate | None, first_token: int
) -> None:
    if server is not None and server.prefill is not None:
        window = max(0, first_token - seen.start) / 1e9
        said = (server.queue or 0.0) + (server.kv_cache_hit or 0.0) + server.prefill
        if said <= window * (1 + SLACK_SHARE) + SLACK_S:
            _engine_phases(plan, seen, server, until=first_token, decode=None)
            return
        server = None
    arrived = seen.request_arrived
    if server is not None and server.ttft is not None and server.ttft <= (first_token - seen.start) / 1e9 + SLACK_S:
        plan.rest(NETWORK, CLIENT, _unattributed(seen, server.ttft, first_token))
        plan.add(QUEUE_PREFILL, server.ttft, _source(server))
        return
    begin = seen.start
    if arrived is not None:
        begin = min(arrived, first_token)
        plan.add(NETWORK, (begin - seen.start) / 1e9, CLIENT, (seen.rtt or 0.0) / 2)
    if estimate is not None:
        late = seen.first_token_error or 0.0
        if estimate.admission > 0:
            if not plan.pieces:
                plan.add(NETWORK, 0.0, ESTIMATE, 0.0)
            way = plan.pieces[-1]
            way.end += round(estimate.admission * 1e9)
            way.source = ESTIMATE
            way.uncertainty = (way.uncertainty or 0.0) + estimate.admission_uncertainty
        plan.add(QUEUE, estimate.step_wait + estimate.queue, ESTIMATE, estimate.queue_uncertainty + late)
        if seen.usage is not None and seen.usage.cached_tokens:
            plan.add(KV_CACHE_HIT, 0.0, ESTIMATE, estimate.prefill)
        plan.rest(PREFILL, ESTIMATE, estimate.uncertainty + late)
        return
    plan.rest(QUEUE_PREFILL, CLIENT, seen.first_token_error)


def _engine_phases(plan: _Plan, seen: Observation, server: ServerTimings, *, until: int, decode: float | None) -> None:
    """The engine's own phases, which end at ``until``; what neither side attributes lies in the network phase."""
    source = _source(server)
    cache, prefill = server.kv_cache_hit or 0.0, server.prefill or 0.0
    said = cache + prefill + (decode or 0.0)
    room = max(0, until - seen.start) / 1e9
    whole = said + (server.queue or 0.0)
    fit = min(1.0, room / whole) if whole > 0 else 1.0  # they may be longer by rounding
    arrived = seen.request_arrived
    if server.queue is not None:
        plan.rest(NETWORK, CLIENT, _unattributed(seen, whole, until))
        plan.add(QUEUE, server.queue * fit, source)
    elif arrived is not None:
        # The engine tells no queue: what lies between the request's arrival and its prefill is the wait for it.
        left = max(0.0, (until - arrived) / 1e9 - said - (seen.rtt or 0.0) / 2)
        plan.rest(NETWORK, CLIENT, (seen.rtt or 0.0) / 2)
        plan.add(QUEUE, left, CLIENT, left)
    else:
        plan.rest(NETWORK, CLIENT, _unattributed(seen, said, until))
    cached = server.cached_tokens if server.cached_tokens is not None else (seen.usage and seen.usage.cached_tokens)
    if server.kv_cache_hit is not None and cached != 0 and (cached or cache > 0):
        plan.add(KV_CACHE_HIT, cache * fit, source)
    elif cached:
        # The hit is told, its time is not: it lies somewhere inside what the engine calls prefill.
        plan.add(KV_CACHE_HIT, 0.0, ESTIMATE, prefill)
    plan.add(PREFILL, prefill * fit, source)
    if decode is not None:
        plan.add(DECODE, decode * fit, source)


def _without_first_token(plan: _Plan, seen: Observation, server: ServerTimings | None) -> None:
    if server is not None and server.total is not None and not seen.streaming:
        plan.rest(NETWORK, CLIENT, _unattributed(seen, server.total, seen.end))
        plan.add(OPAQUE, server.total, _source(server))
        return
    if seen.attempted and seen.sent is None and seen.headers is None:
        plan.rest(NETWORK, CLIENT)  # it never got as far as being asked
        return
    arrived = seen.request_arrived
    if arrived is not None:
        plan.add(NETWORK, (arrived - seen.start) / 1e9, CLIENT, (seen.rtt or 0.0) / 2)
    if seen.streaming and seen.waited and not seen.buffered:
        plan.rest(QUEUE_PREFILL, CLIENT)
    else:
        plan.rest(OPAQUE, CLIENT)


def _source(server: ServerTimings) -> str:
    return DEVICE if server.device else SERVER


def _unattributed(seen: Observation, said: float, until: int) -> float:
    """What neither the engine's phases nor the client's view of the wire account for, s."""
    outside = max(0, until - seen.start) / 1e9 - said
    sent = seen.sent if seen.sent is not None else seen.start
    known = (sent - seen.start) / 1e9 + (seen.rtt or 0.0)
    return max(0.0, outside - known)


def _lay(seen: Observation, plan: _Plan) -> list[Phase]:
    """Turn wished lengths into contiguous times that fill the window to the nanosecond."""
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
    for piece, length in zip(plan.pieces, lengths, strict=False):
        piece.start, piece.end = at, at + length
        at += length
    return plan.pieces


def _describe(seen: Observation, server: ServerTimings | None, phases: list[Phase], estimate: Estimate | None) -> None:
    """Tokens, seconds per token, what the server said of client-timed phases, and decode's parts."""
    usage = seen.usage or Usage()
    uncached = seen.uncached_tokens
    for phase in phases:
        if phase.name == DECODE:
            phase.tokens = usage.output_tokens
            if usage.output_tokens and usage.output_tokens > 1:
                phase.per_token = phase.duration / (usage.output_tokens - 1)
            if phase.source == CLIENT and server is not None:
                phase.server_duration = server.decode
            _decode_parts(seen, phase)
        elif phase.name in (PREFILL, QUEUE_PREFILL):
            phase.tokens = uncached
            if uncached and phase.name == PREFILL:
                phase.per_token = phase.duration / uncached
        elif phase.name == KV_CACHE_HIT:
            phase.tokens = usage.cached_tokens or (server.cached_tokens if server is not None else None)
            if phase.tokens and phase.source != ESTIMATE:
                phase.per_token = phase.duration / phase.tokens
            if phase.tokens and estimate is not None:
                phase.time_saved = estimate.per_token * phase.tokens


def _decode_parts(seen: Observation, decode: Phase) -> None:
    if seen.first_reasoning is None:
        return
    turn = decode.end if seen.first_output is None else max(decode.start, min(seen.first_output, decode.end))
    thinking = Part("reasoning", decode.start, turn)
    decode.parts = (thinking,) if seen.first_output is None else (thinking, Part("output", turn, decode.end))
