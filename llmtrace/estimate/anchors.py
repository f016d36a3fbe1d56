"""Which moments that the client sees have the prompt's computing in front of them, and which only the way there.

A moment whose delay grows with the uncached tokens has prefill in front of it; one whose delay does not, has not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmtrace.estimate.curve import nothing, quantile_curve, spread

HEADERS = "headers"
FIRST_EVENT = "first_event"
FIRST_TOKEN = "first_token"
ARRIVAL = "arrival"

_BEHIND, _BEFORE = 0.4, 0.15
"""A moment that has this share of the whole slope in front of it lies behind prefill; below the other, before it.
In between it stays what it was taken for."""
_ENOUGH = 12
_SPREAD = 2.0


@dataclass(slots=True, eq=False, repr=False)
class Anchors:
    """What is believed of one route's moments."""

    headers: bool = True
    """The headers come before the prompt is computed."""
    event: bool = False
    """So does the first event."""
    admission: float = 0.0
    """Usual delay of the headers, s, where they come before."""

    jitter: float = 0.0
    """One standard deviation of that delay, s; from its quartiles, so that a few late ones do not count."""

    @property
    def headers_are_admission(self) -> bool:
        return self.headers and self.admission > 0

    @property
    def name(self) -> str:
        """The first moment that has the prompt's computing in front of it."""
        if not self.headers:
            return HEADERS
        return FIRST_TOKEN if self.event else FIRST_EVENT

    def ready(self, start: int, headers: int | None, event: int | None, first: int) -> int:
        """The last moment (ns) by which a request was certainly at the engine's door and not yet computed."""
        at = start
        if self.headers and headers is not None and start < headers < first:
            at = headers
            if self.event and event is not None and at < event < first:
                at = event
        return at

    def learn(
        self, calls: Sequence[tuple[float, float, float, float]], breathe: Callable[[], object] = nothing
    ) -> None:
        """Correct by data: (uncached tokens, delays of headers, first event and first token in s; below 0: unseen).

        ``breathe``: see ``quantile_curve``.
        """
        with_headers = [call for call in calls if call[1] >= 0]
        if len(with_headers) < _ENOUGH or spread([tokens for tokens, *_ in with_headers]) < _SPREAD:
            return
        rows = [(1.0, tokens) for tokens, *_ in with_headers]
        whole = _slope(rows, [first for *_, first in with_headers], breathe)
        if whole <= 0:
            return
        self.headers = _before(_slope(rows, [head for _, head, _, _ in with_headers], breathe) / whole, self.headers)
        events = [max(head, event) for _, head, event, _ in with_headers]
        self.event = self.headers and _before(_slope(rows, events, breathe) / whole, self.event)
        delays = sorted(head for _, head, _, _ in with_headers)
        low, middle, high = (delays[len(delays) * quarter // 4] for quarter in (1, 2, 3))
        self.admission, self.jitter = (middle, (high - low) / 1.349) if self.headers else (0.0, 0.0)


def _slope(rows: Sequence[tuple[float, ...]], delays: Sequence[float], breathe: Callable[[], object]) -> float:
    return quantile_curve(rows, delays, 0.5, breathe=breathe)[1]


def _before(share: float, was: bool) -> bool:
    """Whether a moment with this share of the slope in front of it lies before prefill."""
    return was if _BEFORE <= share <= _BEHIND else share < _BEFORE
