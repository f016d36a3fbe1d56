"""Start times whose part below a microsecond falls from span to span, so that every viewer sees spans that touch as
one after the other.

Jaeger keeps whole microseconds: it cuts a span's start and its duration, each by itself. A span [s, e) then ends, for
Jaeger, in the microsecond before e's if ``e % 1000 < s % 1000``, and in e's own if not. Its critical path goes on only
to a span that ends strictly before the next one starts. So it passes through all of a call's phases, which touch, if
``start % 1000`` falls strictly from each to the next.

What is moved is moved by less than a microsecond, and never out of order. A phase of no length keeps none: it shares
its start with the phase that follows, and the path leaves it out, since no time was spent in it. A phase of some
length keeps some. Where starts lie so close together (or the parts below a microsecond are used up, after a start that
ends in 000) that no shift of less than a microsecond lets the next one fall, it begins anew at the top.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmtrace.phases.model import Part, Phase

_MICROSECOND = 1000
_MOST_SHIFT = 999
"""No moment is moved by a microsecond or more, ns."""


def call_start(moment: int) -> int:
    """The start for a call that begins at ``moment``, so that the starts of all its spans can fall from there: at most
    999 ns earlier, with 999 below the microsecond."""
    return moment - (moment + 1) % _MICROSECOND


def falling(start: int, moments: Sequence[int], end: int) -> list[int]:
    """``moments`` (in order, from ``start`` to ``end``), each moved by less than a microsecond so that ``% 1000`` falls
    strictly from ``start`` over all of them, wherever such shifts allow it.

    Moments at ``start`` or ``end`` stay there, equal moments stay equal, different ones different.
    """
    # Nearly always there is so much time between them that each can simply go back to the next part in the row.
    moved: list[int] = []
    before = placed = start
    below = start % _MICROSECOND
    for moment in moments:
        if moment != before:
            below -= 1
            at = moment - (moment - below) % _MICROSECOND
            if at <= placed or below < 0 or moment >= end:
                return _falling_crowded(start, moments, end)
            before, placed = moment, at
        moved.append(placed)
    return moved


def _falling_crowded(start: int, moments: Sequence[int], end: int) -> list[int]:
    """The same where moments lie close to each other or to an end.

    Each goes into the earliest microsecond that it can reach after the one before it, and there as late as it can: that
    leaves the most room to those that follow, in time and below the microsecond, so no other choice goes further.
    """
    behind = len({moment for moment in moments if start < moment < end})
    moved: list[int] = []
    before, placed = start, start
    for moment in moments:
        if moment <= start or moment >= end or moment == before:
            moved.append(start if moment <= start else end if moment >= end else placed)
            continue
        latest = min(moment + _MOST_SHIFT, end - behind)  # those that follow have to fit in, too
        placed = _place(placed, moment - _MOST_SHIFT, latest)
        moved.append(placed)
        before = moment
        behind -= 1
    return moved


def _place(before: int, earliest: int, latest: int) -> int:
    """The best moment in [earliest, latest] after ``before``, with less below the microsecond than it has; if there is
    none, the best after it."""
    cell, below = divmod(before, _MICROSECOND)
    first = max(cell + 1, earliest // _MICROSECOND)
    for microsecond in range(first, latest // _MICROSECOND + 1):
        begin = microsecond * _MICROSECOND
        moment = min(begin + below - 1, latest)
        if moment >= max(begin, earliest):
            return moment
    earliest = max(earliest, before + 1)
    return min((earliest // _MICROSECOND + 1) * _MICROSECOND - 1, latest)


def stagger_phases(phases: Sequence[Phase]) -> None:
    """Move the starts of a call's ``phases``, which touch, and of what is inside them."""
    if not phases:
        return
    before = phases[0]
    for phase, start in zip(
        phases[1:], falling(before.start, [p.start for p in phases[1:]], phases[-1].end), strict=True
    ):
        before.end = phase.start = start
        before = phase
    for phase in phases:
        stagger_parts(phase)


def stagger_parts(phase: Phase) -> None:
    """Move the starts of a phase's parts, which touch and fill it, where it has any."""
    if not phase.parts:
        return
    moments = [min(max(part.start, phase.start), phase.end) for part in phase.parts[1:]]
    starts = falling(phase.start, moments, phase.end)
    phase.parts = tuple(
        Part(part.name, begin, stop)
        for part, begin, stop in zip(phase.parts, [phase.start, *starts], [*starts, phase.end], strict=True)
    )


def stagger_spans(start: int, spans: Sequence[tuple[int, int]], end: int) -> list[tuple[int, int]]:
    """The (start, end) of spans under one parent that follow each other, with or without a pause (a call's HTTP
    attempts, say), moved so that the starts fall from the parent's ``start``.

    One that ends in the microsecond in which the next one starts, or later, ends where that starts; the last one no
    later than the parent, at ``end``.
    """
    if not spans:
        return []
    in_order: list[int] = []
    for begin, _ in spans:
        in_order.append(min(max(begin, start, in_order[-1] if in_order else start), end))
    starts = falling(start, in_order, end)
    moved: list[tuple[int, int]] = []
    for begin, following, (_, stop) in zip(starts, [*starts[1:], end], spans, strict=True):
        last = len(moved) == len(spans) - 1
        touches = stop > following if last else stop // _MICROSECOND >= following // _MICROSECOND
        moved.append((begin, following if touches else max(begin, stop)))
    return moved
