"""What of a call was measured as wire: connect, TLS, the request's bytes out, one round trip."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmtrace.phases.observation import Observation


@dataclass(slots=True, eq=False, repr=False)
class Wire:
    """The time that a request spent on the wire, as far as that was measured. Durations in seconds."""

    length: float | None = None
    """Connect + TLS + bytes out + one round trip, of these as many as were seen; None: none of them was."""
    uncertainty: float = 0.0
    """Half width of its 90 % interval."""
    before: float | None = None
    """Until the request was out, what was none of these: the client's own preparation, its connection pool. None where
    nobody saw when the request was out."""
    before_uncertainty: float | None = None
    """Half width of the 90 % interval of ``before``; None: it is exact."""
    round_trip: float = 0.0
    """The round trip in ``length``; 0 where it is not known."""


def wire_of(seen: Observation) -> Wire:
    """The wire of the call that was ``seen``.

    Connect, TLS and bytes out lie between two moments on the client's own clock. The round trip is the shortest that
    the kernel saw on this connection. So the length is uncertain by half a round trip, for this call's may have been
    longer, and by half the time of the bytes out, for part of that is the client's and the kernel's own work.
    """
    wire, stop = Wire(), seen.end if seen.never_asked else None
    setup = (
        _between(seen, seen.connect_start, seen.connect_end, stop),
        _between(seen, seen.tls_start, seen.tls_end, stop),
    )
    out = _between(seen, seen.sending, seen.sent, stop)
    trip = seen.rtt
    if trip is not None and not (math.isfinite(trip) and trip >= 0):
        trip = None
    if trip is None and out is None and setup == (None, None):
        if seen.sent is not None:
            wire.before = _since(seen, seen.sent)
        return wire
    taken = sum(length for length in (*setup, out) if length is not None)
    wire.round_trip = 0.0 if trip is None or seen.never_asked else trip
    wire.length = taken + wire.round_trip
    wire.uncertainty = (wire.round_trip + (out or 0.0)) / 2
    if seen.sent is not None:
        wire.before = max(0.0, _since(seen, seen.sent) - taken)
        wire.before_uncertainty = None if out is None else out / 2
    return wire


def _since(seen: Observation, moment: int) -> float:
    return (min(max(moment, seen.start), seen.end) - seen.start) / 1e9


def _between(seen: Observation, start: int | None, end: int | None, stop: int | None) -> float | None:
    """Seconds from ``start`` to ``end`` within the call; to ``stop`` where it never ended. None: not seen."""
    end = stop if end is None else end
    if start is None or end is None:
        return None
    return max(0.0, _since(seen, end) - _since(seen, start))
