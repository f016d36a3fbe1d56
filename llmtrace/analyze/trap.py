"""Components before and after a change: what each is waited for and does, and whether a gain in one was lost again.

A part that got faster need not make the whole faster: it may never have been waited for, others may take longer for it,
or what it brings may have to be mended. The report says so in one sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from llmtrace.analyze import parts
from llmtrace.analyze.components import REPAIR
from llmtrace.analyze.differences import Difference, Row
from llmtrace.analyze.parts import COUNTS, EACH, TIMES, WAITED, WHOLE, Key, Parts
from llmtrace.analyze.report import Intervals, Section, cell, seconds

LEAST: Final = 0.02
"""Of the whole request, what a part must have saved for its gain to be worth a sentence."""
_ROUNDING: Final = 1e-9
_WORSE: Final = (parts.ERRORS, parts.RETRIES, parts.REPAIRS)


def arrays(sides: Sequence[Parts], ids: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """The columns by trace of each side, by ``name_of`` a key. Figures that are nothing on both sides are left out."""
    names = parts.largest(*sides)
    times = [] if len(names) == 1 and all(side.is_plain for side in sides) else TIMES
    keys = [(WHOLE, WAITED)] if times else []
    keys += [(name, figure) for name in names for figure in ((*times, *COUNTS) if len(names) > 1 else COUNTS)]
    made = [side.arrays(order, keys) for side, order in zip(sides, ids, strict=True)]
    kept = [key for key in keys if any((columns[key] > 0).any() for columns in made)]
    return [{name_of(key): columns[key] for key in kept} for columns in made]


def name_of(key: Key) -> str:
    """The name of a key's column."""
    return "\n".join(key)


def rows(columns: Iterable[str]) -> dict[Key, Row]:
    """What is compared of the columns of ``arrays``."""
    return {(component, figure): Row(name) for name in columns for component, figure in [name.split("\n")]}


def sections(differences: Mapping[Key, Difference], row: Any, columns: Any) -> list[Section]:
    """The tables. ``row`` and ``columns``: as ``compare`` makes them, for its other tables."""
    made: list[Section] = []
    waited, each = (
        {name: difference for (name, figure), difference in differences.items() if figure == asked} for asked in TIMES
    )
    if waited:
        points = [(name, each.change, each.low, each.high) for name, each in waited.items() if each.change]
        made.append(
            Section(
                "What a mean request waits for",
                columns("component", "s"),
                [row(name, difference) for name, difference in waited.items()],
                "A component's time on the request's critical path: all of them together are the whole request.",
                Intervals("Change of what a mean request waits for", "s", points),
            )
        )
    if each:
        made.append(
            Section(
                "How long each run of a component takes",
                columns("component", "s"),
                [row(name, difference) for name, difference in each.items()],
                "Whether anything waited for it or not, with all that lies beneath it.",
            )
        )
    counts = {key: each for key, each in differences.items() if key[1] in COUNTS and _differs(each)}
    if counts:
        made.append(
            Section(
                "What components do in a trace",
                columns("mean", "number"),
                [row(f"{figure} of {name}", difference) for (name, figure), difference in counts.items()],
                "What is as before is left out. retries: further attempts of a call, and runs that failed and were "
                "made again. repairs: calls that asked again because this component's answer did not pass a check.",
            )
        )
    return made


def _differs(difference: Difference) -> bool:
    return abs(difference.change) > _ROUNDING * max(abs(difference.before), abs(difference.after))


# In one sentence


def sentence(differences: Mapping[Key, Difference], phases: Mapping[str, Difference], calls: float) -> str:
    """Whether a part got faster and the whole did not, and what else the change brought; empty where neither is sure.

    ``phases``: seconds in each phase of a mean call; ``calls``: calls in a mean trace.
    """
    whole = differences.get((WHOLE, WAITED))
    sentences: list[str] = []
    best = _best(differences, phases, calls, whole)
    if best is not None and whole is not None and not (whole.sure and whole.change < 0):
        name, gain = best
        why = _lost(differences, phases, calls, name) or _hidden(differences, name)
        outcome = f"{whole.change / whole.before:+.0%}{'' if whole.sure else ', which may be chance'}"
        sentences.append(
            f"A trap: {name} got {-gain.change / gain.before:.0%} faster, the whole request did not ({outcome})"
            + (f": {why}" if why else "")
        )
    worse = _worse(differences)
    if worse:
        sentences.append(f"The change comes with {worse}")
    return ". ".join(sentences)


def _best(
    differences: Mapping[Key, Difference], phases: Mapping[str, Difference], calls: float, whole: Difference | None
) -> tuple[str, Difference] | None:
    """The part that saves most by itself, if that is sure and more than a little of the whole."""
    if whole is None or not whole.before > 0:
        return None
    saved: list[tuple[float, str, Difference]] = []
    for (name, figure), each in differences.items():
        if figure == EACH and each.sure and each.change < 0:
            runs = differences.get((name, parts.RUNS))
            saved.append((-each.change * (runs.before if runs is not None else 1.0), name, each))
    saved += [(-each.change * calls, name, each) for name, each in phases.items() if each.sure and each.change < 0]
    best = max(saved, key=lambda gain: gain[0], default=None)
    if best is None or best[0] < LEAST * whole.before:
        return None
    return best[1], best[2]


def _lost(
    differences: Mapping[Key, Difference], phases: Mapping[str, Difference], calls: float, name: str
) -> str:  # fmt: skip
    """What is surely waited for longer than before, the largest first."""
    longer = [
        (each.change, other)
        for (other, figure), each in differences.items()
        if figure == WAITED and other not in (WHOLE, name) and each.sure and each.change > 0
    ]
    longer += [(each.change * calls, other) for other, each in phases.items() if each.sure and each.change > 0]
    more = differences.get((name, parts.RUNS))
    words = [f"{other} takes {seconds(change)} more" for change, other in sorted(longer, reverse=True)[:2]]
    if more is not None and more.sure and more.change > 0:
        words.insert(0, f"it runs {cell(more.after, 'number')} times, not {cell(more.before, 'number')}")
    return " and ".join(words)


def _hidden(differences: Mapping[Key, Difference], name: str) -> str:
    """That a component is hardly waited for, if so."""
    waited, each, runs = (differences.get((name, figure)) for figure in (WAITED, EACH, parts.RUNS))
    if each is None or runs is None or each.before * runs.before <= 0:
        return ""
    share = (waited.before if waited is not None else 0.0) / (each.before * runs.before)
    return f"only {share:.0%} of its time was waited for" if share < 0.5 else ""


def _worse(differences: Mapping[Key, Difference]) -> str:
    """The errors, retries and repairs that are surely more than before."""
    more = [
        (name, figure, each)
        for (name, figure), each in differences.items()
        if figure in _WORSE and each.sure and each.change > 0
    ]
    more.sort(key=lambda row: -row[2].change)
    words: list[str] = []
    for name, figure, each in more[:3]:
        price = differences.get((_repairing(name), parts.COST)) if figure == parts.REPAIRS else None
        paid = f", {cell(price.change, 'usd')} more" if price is not None and price.sure and price.change > 0 else ""
        words.append(
            f"{figure} of {name} ({cell(each.before, 'number')} → {cell(each.after, 'number')} a request{paid})"
        )
    return "more " + ", ".join(words) if words else ""


def _repairing(name: str) -> str:
    """The component that repairs the answers of this one."""
    _, _, role = name.partition("/")
    return f"{REPAIR}/{role}" if role else REPAIR
