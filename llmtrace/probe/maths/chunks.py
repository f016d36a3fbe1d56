"""The chunks in which an engine computes a long prompt, from the stalls of a stream that runs beside it.

While the prompt is computed, each step of the engine gives the stream one token and takes a chunk's time: so many late
tokens, so many chunks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmtrace.probe.maths.intervals import median

_LEAST_LEVEL = math.log(2)
"""A prompt's steps are at least twice as long as plain ones, else they are not told apart."""
_SHORTEST = 0.25
"""Of a plain gap: what a reader that came late made shorter still counts as this."""
_SEEN = 0.4
"""Of the time to the prompt's first token, so much has to show as stalls of the stream beside it."""
_LEAST = 16
_PLAIN, _ROUND, _POWER = 1.0, 4.0, 30.0
"""How much likelier beforehand a multiple of 64 is than any number, and a power of two."""
_SURE = 0.9
_TOLERANCE = 0.02
"""An engine may take the stream's own tokens off the chunk's budget."""


@dataclass(frozen=True, slots=True)
class Window:
    """What a running stream showed while a prompt was computed beside it."""

    prompt: int
    """The prompt's tokens."""
    gaps: Sequence[float]
    """Times between the stream's tokens until the prompt's first token came, s."""
    plain: float
    """What such a gap is while nothing runs beside, s."""
    waited: float
    """From sending the prompt to its first token, s."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The chunk in tokens; ``high`` is infinity and ``value`` None where the longest prompt was computed whole."""

    value: int | None
    low: float
    high: float


def stalls(window: Window) -> int | None:
    """How many steps the prompt took; None where the stream does not show it.

    The plain gaps come first, until the prompt is taken up; from there on every gap is a step of the prompt's, however
    long or short a busy machine made it. So it is the one place between the two that is looked for, where the gaps'
    logarithms fit best; a plain gap behind the last step is left out.
    """
    if window.plain <= 0 or not window.gaps:
        return None
    logs = [math.log(max(gap / window.plain, _SHORTEST)) for gap in window.gaps]
    costs: list[float] = []
    for at in range(len(logs)):
        level = max(_LEAST_LEVEL, median(logs[at:]))
        costs.append(sum(map(abs, logs[:at])) + sum(abs(each - level) for each in logs[at:]))
    start = min(range(len(logs)), key=lambda at: costs[at])
    level = median(logs[start:])
    if level < _LEAST_LEVEL or sum(window.gaps[start:]) < _SEEN * window.waited:
        return None
    behind = len(logs) - start > 1 and logs[-1] < level / 2
    return len(logs) - start - behind


def chunk(windows: Sequence[Window]) -> Chunk | None:
    """The chunk that explains the stalls of all windows best; None where fewer than two show any."""
    counted = [(window.prompt, count) for window in windows if (count := stalls(window)) is not None]
    if len(counted) < 2:
        return None
    longest = max(prompt for prompt, _ in counted)
    if sum(count <= 1 for _, count in counted) * 2 > len(counted):
        return Chunk(None, longest, math.inf)
    weights = {
        size: _prior(size) * math.prod(_likelihood(prompt, count, size) for prompt, count in counted)
        for size in range(_LEAST, longest + 1)
    }
    whole = sum(weights.values())
    best = max(weights, key=lambda size: weights[size])
    low = high = best
    held = weights[best]
    ordered = sorted(weights, key=lambda size: -weights[size])
    for size in ordered[1:]:
        if held >= _SURE * whole:
            break
        held += weights[size]
        low, high = min(low, size), max(high, size)
    return Chunk(best, low, high)


def _prior(size: int) -> float:
    if size & (size - 1) == 0:
        return _POWER
    return _ROUND if size % 64 == 0 else _PLAIN


def _likelihood(prompt: int, count: int, size: int) -> float:
    """A last chunk that is a small one may not show."""
    fewest, most = math.floor(prompt / size), math.ceil(prompt / (size * (1 - _TOLERANCE)))
    off = max(fewest - count, count - most, 0)
    return 0.9 / (most - fewest + 1) if off == 0 else 0.05 if off == 1 else 0.002
