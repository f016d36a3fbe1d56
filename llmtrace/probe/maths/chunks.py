"""The chunks in which an engine computes a long prompt, from the stalls of a stream that runs beside it.

While the prompt is computed, each step of the engine gives the stream one token and takes a chunk's time: so many late
tokens, so many chunks. A busy machine makes single gaps longer or shorter; what is looked for is the size that explains
all gaps of all windows best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_SEEN = 0.4
"""Of the time to the prompt's first token, so much has to show as stalls of the stream beside it."""
_HICCUP = 0.2
"""Of a full step: a busy machine's hiccups may add so much to any gap, or take it from the next."""
_SCATTER, _WORST = 0.35, 2.0
"""How far a gap's logarithm usually is from what is expected of it, on a busy machine; and the most that one counts."""
_STEEPER = (1.0, 2.0, 4.0)
"""How much more a prompt's last token may take than its first: it attends to all that came before."""
_BEHIND = 2
"""Plain gaps that may follow the prompt's last step before its first token is seen."""
_AFTERMATH = 0.5
"""How much a gap behind the last step counts: in it the prompt's own stream begins, here and on the server."""
_STEP = 16
"""Sizes that are tried: the multiples of this. What an engine takes off a chunk for the stream's own tokens is less."""
_ROUND, _POWER = math.log(3), math.log(60)
"""How much likelier beforehand a multiple of 64 is than one of 16, and a power of two: hardly anybody sets another."""
_SURE = 0.9


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


def chunk(windows: Sequence[Window]) -> Chunk | None:
    """The chunk that explains the stalls of all windows best; None where fewer than two show any."""
    shown = [window for window in windows if _shows(window)]
    if len(shown) < 2:
        return None
    longest = max(window.prompt for window in shown)
    scores: dict[int, float] = {}
    for size in range(_STEP, longest + _STEP, _STEP):
        scores[size] = _prior(size) + sum(_likelihood(window, size) for window in shown)
    top = max(scores.values())
    if math.isinf(top):
        return None
    weights = {size: math.exp(score - top) for size, score in scores.items()}
    ordered = sorted(weights, key=lambda size: -weights[size])
    held, sizes = 0.0, [ordered[0]]
    for size in ordered:
        sizes.append(size)
        held += weights[size]
        if held >= _SURE * sum(weights.values()):
            break
    if ordered[0] >= min(window.prompt for window in shown):
        return Chunk(None, longest, math.inf)
    return Chunk(ordered[0], min(sizes) - _STEP + 1, max(sizes))


def _shows(window: Window) -> bool:
    late = sum(max(0.0, gap - window.plain) for gap in window.gaps)
    return window.plain > 0 and late >= _SEEN * window.waited and late > window.plain


def _likelihood(window: Window, size: int) -> float:
    """The logarithm of how likely such chunks make the gaps: plain ones until the prompt is taken up, then a step for
    each chunk, then perhaps a plain one or two. Of all places, and of all ways in which later tokens may cost more than
    early ones, the best."""
    steps = -(-window.prompt // size)
    gaps = len(window.gaps)
    if steps > gaps:
        return -math.inf
    whole = sum(max(0.0, gap - window.plain) for gap in window.gaps)
    hiccup = _HICCUP * whole * size / window.prompt
    logs = [math.log(gap + hiccup) for gap in window.gaps]
    plain = _off(logs, [window.plain + hiccup] * gaps)
    best = math.inf
    for steeper in _STEEPER:
        expected = [window.plain + hiccup + whole * share for share in _shares(window.prompt, size, steeper)]
        for behind in range(min(_BEHIND, gaps - steps) + 1):
            end = gaps - behind
            start = end - steps
            before = sum(plain[: max(0, start - 1)])  # in the gap before the first step the prompt arrives and is read
            misfit = before + sum(_off(logs[start:end], expected)) + _AFTERMATH * sum(plain[end:])
            best = min(best, misfit + _SCATTER * behind / 2)
    return -best / _SCATTER - sum(logs)


def _shares(prompt: int, size: int, steeper: float) -> list[float]:
    """What share of the whole prompt's work each chunk is, if its last token takes ``steeper`` times the first's."""
    edges = [min(at, prompt) / prompt for at in range(0, prompt + size, size)]
    work = [edge + (steeper - 1) * edge * edge / 2 for edge in edges]
    return [(b - a) / work[-1] for a, b in pairwise(work)]


def _off(logs: Sequence[float], expected: Sequence[float]) -> list[float]:
    """Of each gap, how far its logarithm is from what is expected of it."""
    return [min(_WORST, abs(log - math.log(seconds))) for log, seconds in zip(logs, expected, strict=True)]


def _prior(size: int) -> float:
    if size & (size - 1) == 0:
        return _POWER
    return _ROUND if size % 64 == 0 else 0.0
