"""What of a call was measured as wire: connect, TLS, the request's bytes out, one round trip."""

from __future__ import annotations

from dataclasses import dataclass

from llmtrace.phases.observation import Observation

_MOST_TLS_TRIPS = 2
"""Round trips of a TLS handshake at most: one in TLS 1.3 (RFC 8446, figure 1), two in TLS 1.2 (RFC 5246, figure 1)."""
_LONGEST_TRIP_S = 3600.0


@dataclass(slots=True, eq=False, repr=False)
class Wire:
    """The time that a request spent on the wire, as far as that was measured. Durations in seconds."""

    length: float | None = None
    """Connect + TLS + bytes out + one round trip, of these as many as were seen; None: none of them was."""
    low: float = 0.0
    """How much shorter it may have been, by its 90 % interval."""
    high: float = 0.0
    """How much longer."""
    before: float | None = None
    """Until the request was out, what was none of these: the client's own preparation, its connection pool. None where
    nobody saw when the request was out."""
    round_trip: float = 0.0
    """The round trip in ``length``; 0 where it is not known."""


def wire_of(seen: Observation) -> Wire:
    """The wire of the call that was ``seen``.

    Connect, TLS and bytes out lie between two moments of the client's own clock, which also saw what the client, its
    event loop and other threads did meanwhile, and the peer's work on the handshake. Only the round trips that they
    take at least are surely the wire's. A step that never ended was waiting for the wire. The round trip is the
    shortest that the kernel saw on this connection: this call's may have been longer, by half of it.
    """
    wire, sent = Wire(), seen.sent
    trip = seen.rtt
    if trip is not None and not 0 <= trip <= _LONGEST_TRIP_S:
        trip = None
    connect = tls = out = sure = None
    if seen.connect_start is not None:
        connect = _between(seen, seen.connect_start, seen.connect_end)
    if seen.tls_start is not None:
        tls = _between(seen, seen.tls_start, seen.tls_end)
    if seen.sending is not None:
        out = _between(seen, seen.sending, sent)
    if sent is None and seen.never_asked:
        trip, sure = None, _never_ended(seen)
    taken = (connect or 0.0) + (tls or 0.0) + (out or 0.0) + (sure or 0.0)
    if sent is not None:
        wire.before = max(0.0, (min(max(sent, seen.start), seen.end) - seen.start) / 1e9 - taken)
    if trip is None:
        if connect is None and tls is None and out is None and sure is None:
            return wire
        trip = 0.0
    if trip:
        sure = trip if connect is None else trip + min(connect, trip)
        if tls is not None:
            sure += trip * min(_MOST_TLS_TRIPS, tls // trip)
    wire.round_trip = trip
    wire.length = taken + trip
    wire.low, wire.high = max(0.0, wire.length - (sure or 0.0)), trip / 2
    return wire


def _between(seen: Observation, start: int, end: int | None) -> float | None:
    """Seconds from ``start`` to ``end``, as far as they lie within the call. None: it did not end."""
    if end is None:
        return None
    return max(0, min(end, seen.end) - max(start, seen.start)) / 1e9


def _never_ended(seen: Observation) -> float | None:
    """Seconds from the begin of the last step to the call's end, where the call ended in it; else None."""
    for start, end in (
        (seen.sending, seen.sent),
        (seen.tls_start, seen.tls_end),
        (seen.connect_start, seen.connect_end),
    ):
        if start is not None:
            return _between(seen, start, seen.end) if end is None else None
    return None
