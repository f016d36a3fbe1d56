"""What came out, as the measured parts of docs/diagnosis.md: a summary of one screen, and the tables behind it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from llmtrace.diagnosis.verdict import CAUSES
from tests.evaluation.common import freshness, provenance
from tests.evaluation.diagnosis.bound import at_best
from tests.evaluation.diagnosis.effects import SIZES
from tests.evaluation.diagnosis.notebook import Played
from tests.evaluation.diagnosis.plot import NOTHING
from tests.evaluation.diagnosis.population import BASE_RATE, Population, Row
from tests.evaluation.diagnosis.settings import Setting
from tests.evaluation.diagnosis.sizes import SIZED, Point
from tests.evaluation.diagnosis.trials import Trial
from tests.evaluation.diagnosis.wire import INJECTED, Wired

_BINS = (0.0, 0.5, 0.7, 0.85, 0.95, 1.0)


@dataclass
class Simulated:
    """All that was played without a server."""

    where: dict[str, Any]
    """The machine, the commit and the command."""
    seed: int
    speed: tuple[float, float, float]
    curve: list[Point]
    recorded: list[Point]
    settings: list[Setting]
    population: Population
    singles: list[Trial]
    pairs: list[Trial]
    bimodal: list[Trial]
    wired: list[Wired]


def summary(played: Simulated) -> list[str]:
    """One screen."""
    calm = played.settings
    false = sum(setting.false.total() for setting in calm)
    worst = max(calm, key=lambda setting: setting.false.total() / setting.calls)
    alarmed = [row for row in played.population.rows if row.calm]
    stated = [row.confidence for row in alarmed] + [each for setting in calm for each in setting.sure]
    return [
        *freshness.stamp("diagnosis", played.where["commit"]),
        "| simulated and recorded traffic | measured | bar |",
        "|---|---|---|",
        f"| effects of {'; '.join(f'{size:g}' for size in SIZES)} times, named in half of their calls "
        f"| {'; '.join(_found(played.curve, size, half=True) for size in SIZES)} % | |",
        f"| those named at all | {'; '.join(_found(played.curve, size, half=False) for size in SIZES)} % | |",
        f"| large single causes, {len(played.singles)} episodes; pairs, {len(played.pairs)} "
        f"| {share(played.singles)}; {share(played.pairs)} | 95 %; 85 % |",
        f"| false alarms per 1,000 calls, {_total(calm):,} calls in {len(calm)} calm settings "
        f"| {_rate(false, _total(calm))} | < 1 |",
        f"| the same in the worst setting ({worst.title}, {worst.calls:,} calls) "
        f"| {_rate(worst.false.total(), worst.calls)} | < 1 |",
        f"| the same on routes drawn at random, {played.population.calm:,} calls "
        f"| {_rate(len(alarmed), played.population.calm)} | < 1 |",
        f"| median confidence of a false alarm | {_median(stated)} | < 0.6 |",
        "| one verdict: mean CPU time; median and 99th percentile of wall time "
        f"| {played.speed[0]:.1f}; {played.speed[1]:.1f}, {played.speed[2]:.1f} µs | 15 µs |",
    ]


def details(played: Simulated) -> list[str]:
    """The tables behind the summary, on a page of their own."""
    return [
        *freshness.stamp("diagnosis", played.where["commit"]),
        provenance.sentence(played.where, played.seed),
        "",
        "## How small an effect is found",
        "",
        "Episodes of eight calls whose time to the first token (of slow tokens and a slow reader: the time per token) "
        "is so many times the usual: % of those that half of the calls or more named. In brackets: what a test could "
        "reach at best that knew the route and the effect, with one false alarm in 1,000 calls.",
        "",
        *_curve(played.curve, SIZED),
        "",
        "Some is missing by design: below three times the usual tokens a prompt is no surge; a lost cache, slow tokens "
        "and queues are not named for less than 10, 20 and 10 % of the time.",
        "",
        "The same effects laid over recorded calls of clients that were alone on vLLM and the reference server, whose "
        "prompts differ in length by a factor of 50 and whose own calls queue behind each other:",
        "",
        *_curve(played.recorded, sorted({point.cause for point in played.recorded})),
        "",
        "## False alarms",
        "",
        "Per 1,000 calls. False: what was named did not happen to that call. True: it had really waited that much "
        "longer than the route's calls before it, or strangers really slowed its tokens.",
        "",
        "| setting | calls | false | causes, confidence | true |",
        "|---|---|---|---|---|",
        *(
            f"| {s.title} | {s.calls:,} | {_rate(s.false.total(), s.calls)} | {_falsely(s)} "
            f"| {_rate(s.true.total(), s.calls)} |"
            for s in _by_source(played.settings)
        ),
        f"| two modes of the network | {sum(t.calm_calls for t in played.bimodal):,} | {alarms(played.bimodal)} "
        f"| {listed(false_of(played.bimodal))} | |",
        "",
        "## Confidence",
        "",
        f"Stated confidence against how often that was what was wrong with that call. {played.population.faulty:,} of "
        f"{played.population.faulty + played.population.calm:,} calls had a cause; they are weighted as if it were one "
        f"in {1 / BASE_RATE:.0f}, for which confidence is meant.",
        "",
        "| stated | verdicts, mean stated, right | false alarms among them |",
        "|---|---|---|",
        *(
            f"| {low:.2f} to {high:.2f} | {_bin(rows)} | {sum(row.calm for row in rows)} |"
            for low, high in pairwise(_BINS)
            for rows in (_within(played.population.rows, low, high),)
        ),
        "",
        "## Large effects, and two at once",
        "",
        "![Which cause was injected, and which was named](confusion.svg)",
        "",
        *_by_cause(played.singles),
        "",
        f"Of {len(played.pairs)} pairs {share(played.pairs)} were named exactly{_wrong_pairs(played.pairs)}. The "
        f"simulated calls played to the real client over real sockets, {INJECTED} of a kind, from the spans: "
        + "; ".join(f"{one.truth}: {listed(one.named)}" for one in played.wired)
        + ".",
    ]


def kept(
    played: Mapping[str, Sequence[Played]], runs: Mapping[str, Population], where: dict[str, Any], seed: int
) -> list[str]:
    """What is named of kept real calls, run by run; the confidence of verdicts that the fit has not seen, by run and by
    what was stated."""
    rows = [row for run in runs.values() for row in run.rows]
    return [
        *freshness.stamp("diagnosis", where["commit"]),
        provenance.sentence(where, seed),
        "",
        "| kept calls of real servers | episodes: right | small effects: named at best, right | false alarms per 1,000 "
        "calm calls | wrong verdicts: number, median confidence | right ones: the same, share below 0.5 |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {_right(mine)} | {_sure(runs[name].rows, False)} | {_sure(runs[name].rows, True)} |"
            for name, mine in played.items()
        ),
        "",
        "| stated | verdicts, mean stated, right | right without the weights |",
        "|---|---|---|",
        *(
            f"| {low:.2f} to {high:.2f} | {_bin(mine)} | {_percent(sum(row.right for row in mine), len(mine))} |"
            for low, high in pairwise((0.0, 0.3, *_BINS[1:]))
            if (mine := _within(rows, low, high))
        ),
    ]


def _right(played: Sequence[Played]) -> str:
    trials = [each.trial() for each in played]
    faulty, small = [t for t in trials if t.truth], [t for t in trials if t.size]
    best = at_best(played).values()
    named = f"{len(small)}: {sum(best)}, {sum(t.right for t in small)}" if small else NOTHING
    right = f"{len(faulty)}: {sum(t.right for t in faulty)}" if faulty else NOTHING
    return f"{right} | {named} | {alarms(trials)} of {sum(t.calm_calls for t in trials):,}"


def _sure(rows: Sequence[Row], right: bool) -> str:
    mine = [row.confidence for row in rows if row.right == right]
    if not mine:
        return NOTHING
    below = f", {_percent(sum(each < 0.5 for each in mine), len(mine))}" if right else ""
    return f"{len(mine)}, {_median(mine)}{below}"


def real(trials: Sequence[Trial], best: Mapping[tuple[int, int], bool], where: dict[str, Any]) -> list[str]:
    """The episodes on real servers, in short. ``best``: which of the small effects could be named at best."""
    small = [trial for trial in trials if trial.size]
    wrong = [said for trial in trials for said in trial.stated if not said[2]]
    return [
        *freshness.stamp("diagnosis", where["commit"]),
        "| real servers | measured | bar |",
        "|---|---|---|",
        f"| episodes right, of {len(trials)} | {share(trials)} | 95 % |",
        f"| small effects of 1.15 to 2 times among them, {len(small)} | {share(small)} | |",
        f"| those named at best, with the size and the noise known | {_percent(sum(best.values()), len(best))} | |",
        f"| false alarms per 1,000, {sum(t.calm_calls for t in trials):,} calm calls | {alarms(trials)} | < 1 |",
        f"| median confidence of a wrong verdict, {len(wrong)} | {_median([said[1] for said in wrong])} | < 0.6 |",
    ]


def real_details(trials: Sequence[Trial], missing: Sequence[str], where: dict[str, Any], seed: int) -> list[str]:
    """The same by server and by what was injected."""
    places = {place: [t for t in trials if t.where == place] for place in dict.fromkeys(t.where for t in trials)}
    return [
        *freshness.stamp("diagnosis", where["commit"]),
        f"{provenance.sentence(where, seed)}{''.join(f' Not played: {each}.' for each in missing)}",
        "",
        "| episodes right | |",
        "|---|---|",
        *(f"| {place}, {len(mine)} | {share(mine)} |" for place, mine in places.items()),
        "",
        f"{sum(t.plain for t in trials)} verdicts named in calm calls besides were plain to see (an engine that was "
        "slower, a cache that was empty).",
        "",
        "| injected | right, large | right, small | named besides or instead |",
        "|---|---|---|---|",
        *(
            f"| `{cause}` | {_of_cause(trials, cause, False)} | {_of_cause(trials, cause, True)} "
            f"| {listed(sum((_wrong([t]) for t in trials if _injected(t) == cause), Counter[str]()))} |"
            for cause in sorted({_injected(trial) for trial in trials if not trial.right})
        ),
        "",
        f"All right: {_all_right(trials)}.",
    ]


def _of_cause(trials: Sequence[Trial], cause: str, small: bool) -> str:
    """How many episodes of this cause were right: of those with an effect of a chosen size, or of the large ones."""
    mine = [trial for trial in trials if _injected(trial) == cause and bool(trial.size) == small]
    return f"{sum(trial.right for trial in mine)} of {len(mine)}" if mine else ""


def _injected(trial: Trial) -> str:
    return trial.truth[0] if trial.truth else NOTHING


def _curve(points: Sequence[Point], causes: Sequence[str]) -> list[str]:
    lines = ["| cause | " + " | ".join(f"{size:g}x" for size in SIZES) + " | named besides, calls |"]
    lines.append("|---" * (len(SIZES) + 2) + "|")
    by_size = {(point.cause, point.size): point for point in points}
    for cause in causes:
        mine = [by_size.get((cause, size)) for size in SIZES]
        besides = sum((p.besides for p in mine if p), Counter[str]())
        lines.append(f"| `{cause}` | " + " | ".join(_reached(p) for p in mine) + f" | {listed(besides)} |")
    return lines


def _reached(point: Point | None) -> str:
    if point is None:
        return ""
    best = "" if point.possible is None else f" ({100 * point.possible / point.episodes:.0f})"
    return f"{100 * point.half / point.episodes:.0f}{best}"


def _found(points: Sequence[Point], size: float, half: bool) -> str:
    mine = [point for point in points if point.size == size]
    found = sum(point.half if half else point.once for point in mine)
    return f"{100 * found / max(1, sum(point.episodes for point in mine)):.0f}"


def _by_source(settings: Sequence[Setting]) -> list[Setting]:
    """All settings of a source together, and by themselves those in which something false was named."""
    rows: list[Setting] = []
    for source in dict.fromkeys(setting.title.partition(":")[0] for setting in settings):
        mine = [setting for setting in settings if setting.title.partition(":")[0] == source]
        together = Setting(f"{source}, {len(mine)} kinds of traffic")
        for setting in mine:
            together.add(setting)
        rows += [together, *(setting for setting in mine if setting.false)]
    return rows


def _falsely(setting: Setting) -> str:
    if not setting.sure:
        return NOTHING
    return f"{listed(setting.false)}, {statistics.median(setting.sure):.2f}"


def _wrong_pairs(trials: Sequence[Trial]) -> str:
    wrong = [trial for trial in trials if not trial.right]
    told = [f"of {' and '.join(trial.truth)} only {' and '.join(trial.verdict) or NOTHING}" for trial in wrong]
    return "".join(f"; {each}" + (f" ({count} times)" if count > 1 else "") for each, count in Counter(told).items())


def _within(rows: Sequence[Row], low: float, high: float) -> list[Row]:
    return [row for row in rows if low <= row.confidence < high]


def _bin(rows: Sequence[Row]) -> str:
    weight = sum(row.weight for row in rows)
    if not rows:
        return NOTHING
    mean = sum(row.weight * row.confidence for row in rows) / weight
    right = sum(row.weight * row.right for row in rows) / weight
    return f"{len(rows):,}, {mean:.2f}, {right:.2f}"


def _median(confidences: Sequence[float]) -> str:
    return f"{statistics.median(confidences):.2f}" if confidences else "there was none"


def _total(settings: Sequence[Setting]) -> int:
    return sum(setting.calls for setting in settings)


def _rate(count: int, calls: int) -> str:
    return f"{1000 * count / max(1, calls):.2f}"


def _percent(count: int, of: int) -> str:
    return f"{100 * count / max(1, of):.0f} %"


def false_of(trials: Sequence[Trial]) -> Counter[str]:
    """What was named in calm calls."""
    return sum((trial.false_alarms for trial in trials), Counter[str]())


def alarms(trials: Sequence[Trial]) -> str:
    """Per 1,000 calm calls."""
    return _rate(false_of(trials).total(), sum(trial.calm_calls for trial in trials))


def _by_cause(trials: Sequence[Trial]) -> list[str]:
    """A row for each cause of which an episode was not right, or not from its first call on; the others by name."""
    lines = [
        "| injected | right | named besides or instead | first named in call, median and last |",
        "|---|---|---|---|",
    ]
    plain: list[str] = []
    for cause in CAUSES:
        mine = [trial for trial in trials if trial.truth == (cause,)]
        if not mine:
            continue
        firsts = [trial.first + 1 for trial in mine if trial.first is not None]
        if all(trial.right for trial in mine) and firsts and max(firsts) == 1:
            plain.append(f"`{cause}` {len(mine)}")
            continue
        first = f"{statistics.median(firsts):.0f}, {max(firsts)}" if firsts else "never"
        lines.append(f"| `{cause}` | {sum(t.right for t in mine)} of {len(mine)} | {listed(_wrong(mine))} | {first} |")
    return [*lines, "", f"All right, from the first call on: {', '.join(plain) or NOTHING}."]


def _wrong(trials: Sequence[Trial]) -> Counter[str]:
    return Counter(" + ".join(trial.verdict) or NOTHING for trial in trials if not trial.right)


def share(trials: Sequence[Trial]) -> str:
    return f"{100 * sum(trial.right for trial in trials) / len(trials):.1f} %" if trials else "not played"


def _all_right(trials: Sequence[Trial]) -> str:
    """What was injected and always named rightly, with the number of its episodes."""
    wrong = {_injected(trial) for trial in trials if not trial.right}
    counts = Counter(_injected(trial) for trial in trials)
    return ", ".join(f"`{cause}` {counts[cause]}" for cause in sorted(counts) if cause not in wrong) or NOTHING


def listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common(4)) or NOTHING
