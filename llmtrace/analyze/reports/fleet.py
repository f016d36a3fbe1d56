"""A fleet: which version runs where, how a new one spread, who lags behind, and what it changed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import exp, sqrt
from typing import Any, Final

from llmtrace.analyze.book import Book
from llmtrace.analyze.fleet import DAY_NS, FIGURES, HOUR_NS, LOGARITHMS, NOT_TOLD, WORDS, Fleet
from llmtrace.analyze.report import Column, Intervals, Lines, Report, Section, Stack, cell
from llmtrace.analyze.reports import Options
from llmtrace.wording import plural

_REACHES: Final = (0.5, 0.9, 0.99)
_WHOM: Final = ("instances", "calls")
_BARS: Final = 40
_LONGEST: Final = 72
_LEAST: Final = 30
"""The fewest instances that a comparison is made from."""
_SURE: Final = 3.0
"""Standard errors: of a thousand figures that did not change, three are called sure."""
_TITLES: Final = {
    "ttft": "TTFT", "tpot": "TPOT", "output": "output tokens", "cut": "cut at the limit", "failed": "failed",
    "score": "quality",
}  # fmt: skip
_WORSE: Final = {"ttft": "slower to the first token", "tpot": "slower per token"}


def make(book: Book, options: Options) -> Report:
    """Build the report.

    Raises:
        LlmtraceError: the spans tell no version, or only one.
    """
    fleet = Fleet(book, options.version_of, options.newest, options.quality)
    report = Report("fleet", f"Versions of {WORDS[fleet.version_of]} in the fleet", [])
    spread = _Spread(fleet)
    changed, changes = _changes(fleet)
    report.sections = [
        _versions(fleet, spread),
        spread.section(),
        spread.curve(),
        *_lagging(fleet, spread, options.top),
        _answers(fleet, spread),
        changed,
        _moves(fleet),
        _mismatches(fleet, options.top),
        _together(fleet, options.top),
    ]
    report.headline = spread.headline()
    report.notes = [*changes, *_notes(fleet)]
    return report


class _Spread:
    """How the versions spread over time, by calls and by instances."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.calls = _by_slot(fleet.by_slot())
        self.instances = _by_slot(fleet.active())
        self.active_ns = 7 * DAY_NS if fleet.slot >= DAY_NS else DAY_NS
        """Who has called within this time before the last call counts as still there."""
        self.now: Counter[int] = Counter()
        self.devices: dict[str, Counter[int]] = defaultdict(Counter)
        for rank, device, count in fleet.now(self.active_ns):
            self.now[rank] += count
            self.devices[device][rank] += count

    def reached(self, table: dict[int, Counter[int]], rank: int, share: float) -> float | None:
        """Days from a version's first call until this share was on it or a newer one; None where it was not yet."""
        for slot, counts in sorted(table.items()):
            newer = sum(count for each, count in counts.items() if each >= rank)
            if newer and newer >= share * sum(counts.values()):
                end = self.fleet.begun + (slot + 1) * self.fleet.slot
                return max(0.0, (min(end, self.fleet.ended) - self.fleet.since[rank]) / DAY_NS)
        return None

    def section(self) -> Section:
        fleet = self.fleet
        rows: list[list[Any]] = []
        for rank, name in enumerate(fleet.versions):
            if rank == fleet.first:
                continue  # it was there when the traces begin
            times = [self.reached(table, rank, share) for table in (self.instances, self.calls) for share in _REACHES]
            rows.append([name, fleet.since[rank], *times])
        return Section(
            "How fast they spread",
            [
                Column("version"), Column("first call", "time"),
                *(Column(f"{share:.0%} of {whom}, days", "number") for whom in _WHOM for share in _REACHES),
            ],
            rows,
            "Days from a version's first call until so many of the instances that called in a "
            f"{'day' if fleet.slot == DAY_NS else 'slot of time'}, or of its calls, were on it or on a newer one.",
        )  # fmt: skip

    def curve(self) -> Section:
        """The newest version's share of instances and of calls, from its first call on."""
        fleet = self.fleet
        since = fleet.since[fleet.newest]
        rows: list[tuple[int, float | None, float]] = []
        for slot, counts in sorted(self.calls.items()):
            active = self.instances.get(slot)
            end = min(fleet.begun + (slot + 1) * fleet.slot, fleet.ended)
            if end > since:
                of_instances = active[fleet.newest] / sum(active.values()) if active else None
                rows.append((end, of_instances, counts[fleet.newest] / sum(counts.values())))
        begin = (0.0, 0.0)
        instances = [begin, *((_days(end - since), share) for end, share, _ in rows if share is not None)]
        calls = [begin, *((_days(end - since), share) for end, _, share in rows)]
        lines = list(zip(_WHOM, (instances, calls), strict=True))
        name = fleet.versions[fleet.newest]
        return Section(
            f"The newest, {name}, over time",
            [Column("until", "time"), *(Column(f"of {whom}", "share") for whom in _WHOM)],
            [list(row) for row in _thinned(rows)],
            "",
            Lines(f"Share on {name} by days since its first call", "days", "number", "share", lines),
        )

    def headline(self) -> str:
        fleet, active = self.fleet, sum(self.now.values())
        newest = _short(fleet.versions[fleet.newest])
        last = self.calls[max(self.calls)]
        share = self.now[fleet.newest] / active if active else 0.0
        text = (
            f"{newest}, the newest of {len(fleet.versions)}, runs on {share:.1%} of {plural(active, 'active instance')}"
            f" and answers {last[fleet.newest] / sum(last.values()):.1%} of the last calls"
        )
        half = None if fleet.newest == fleet.first else self.reached(self.instances, fleet.newest, 0.5)
        return text + (f"; half of the instances had it after {half:.1f} days" if half is not None else "")


def _by_slot(rows: Sequence[tuple[int, int, int]]) -> dict[int, Counter[int]]:
    table: dict[int, Counter[int]] = defaultdict(Counter)
    for slot, rank, count in rows:
        table[slot][rank] += count
    return table


def _thinned(points: Sequence[Any]) -> list[Any]:
    """At most ``_BARS`` of the points, the last one among them."""
    step = -(-len(points) // _BARS) or 1
    return list(points[::-1][::step][::-1])


def _versions(fleet: Fleet, spread: _Spread) -> Section:
    active = sum(spread.now.values()) or 1
    slots = {slot: sum(counts.values()) for slot, counts in spread.calls.items()}
    final = max(slots)
    rows: list[list[Any]] = []
    for rank, name in enumerate(fleet.versions):
        of_slot = {slot: counts[rank] / slots[slot] for slot, counts in spread.calls.items() if counts[rank]}
        rows.append(
            [
                name,
                sum(counts[rank] for counts in spread.calls.values()),
                fleet.since[rank],
                fleet.until[rank],
                max(of_slot.values()),
                of_slot.get(final, 0.0),
                spread.now[rank],
                spread.now[rank] / active,
            ]
        )
    bars = [
        (cell(fleet.begun + slot * fleet.slot, "time"), {fleet.versions[rank]: counts[rank] for rank in sorted(counts)})
        for slot, counts in _thinned(sorted(spread.calls.items()))
    ]
    days = spread.active_ns // DAY_NS
    return Section(
        "Versions",
        [
            Column("version"), Column("calls", "count"), Column("first call", "time"), Column("last call", "time"),
            Column("at most", "share"), Column("of calls now", "share"), Column("instances now", "count"),
            Column("of instances now", "share"),
        ],
        rows[-60:],
        "In the order in which they appeared, the newest last. at most: the largest share of a slot's calls. "
        f"instances now: those with a call in the last {_last(days)}, by the version of their last call.",
        Stack("Calls over time, by version (UTC)", "count", bars),
    )  # fmt: skip


def _lagging(fleet: Fleet, spread: _Spread, top: int) -> list[Section]:
    """Who is not on the newest version: by device, and instance by instance."""
    devices = [
        [
            device,
            sum(counts.values()),
            counts[fleet.newest] / sum(counts.values()),
            sum(count for rank, count in counts.items() if rank < fleet.newest),
            fleet.versions[min(counts)],
        ]
        for device, counts in sorted(spread.devices.items(), key=lambda item: -sum(item[1].values()))
    ]
    rows = [
        [instance, fleet.versions[rank], _days(fleet.ended - min(fleet.since[rank + 1 :])), device, form, until, count]
        for instance, rank, device, form, until, count in fleet.stragglers(spread.active_ns, top)
    ]
    return [
        Section(
            "Who lags, by device",
            [
                Column("device"), Column("instances", "count"), Column("on the newest", "share"),
                Column("behind", "count"), Column("oldest"),
            ],
            devices[:top],
        ),
        Section(
            "Stragglers",
            [
                Column("instance"), Column("version"), Column("outdated for, days", "number"), Column("device"),
                Column("format"), Column("last call", "time"), Column("calls", "count"),
            ],
            rows,
            f"Of the instances with a call in the last {_last(spread.active_ns // DAY_NS)}, those with the "
            "oldest versions. outdated for: since a newer version's first call anywhere.",
        ),
    ]  # fmt: skip


def _short(name: str) -> str:
    """A version's name where it stands in a sentence: a hash in full, no more."""
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _last(days: int) -> str:
    return "day" if days == 1 else plural(days, "day")


def _days(ns: int) -> float:
    return ns / DAY_NS


def _answers(fleet: Fleet, spread: _Spread) -> Section:
    rows = [
        [fleet.versions[rank], sum(counts[rank] for counts in spread.calls.values()), *figures]
        for rank, *figures in fleet.answers()
    ]
    return Section(
        "What they answer",
        [
            Column("version"), Column("calls", "count"), Column("failed", "share"), Column("cut at the limit", "share"),
            Column("output p50", "count"), Column("output p95", "count"), Column("TTFT p50", "s"),
            Column("TTFT p95", "s"),
            Column("TPOT p50", "s"), Column("quality", "number"),
        ],
        rows[-60:],
        "All calls as they came. Another mix of devices or of questions shows here too; the next table leaves it out. "
        "TPOT: of calls without reasoning, which may have been made before the first token. "
        f"quality: the mean {fleet.quality.attribute or 'score'} of the calls that have it on their own span.",
    )  # fmt: skip


_Figure = tuple[int, float, float]
"""Instances, the mean of a figure's change, and its standard error."""


def _changes(fleet: Fleet) -> tuple[Section, list[str]]:
    """What each version changed against the one before it, and the sentences that this is worth."""
    paired = {(row[0], row[1]): _figures(row[2:]) for row in fleet.paired()}
    devices = {(row[0], row[1]): _moments(row[2:]) for row in fleet.by_device()}
    lengths = _lengths(fleet)
    rows: list[list[Any]] = []
    points: list[tuple[str, float, float, float]] = []
    sentences: list[str] = []
    for rank in range(1, len(fleet.versions)):
        best = max(paired, key=lambda key: paired[key]["ttft"][0] if key[1] == rank else -1, default=None)
        how, before = "same instances", rank - 1
        if best is not None and best[1] == rank and paired[best]["output"][0] >= _LEAST:
            before, figures = best[0], paired[best]
        else:
            how, figures = "same device", _of_devices(devices, before, rank)
        name, earlier = fleet.versions[rank], fleet.versions[before]
        apart = lengths.get((before, rank))
        for figure, (count, mean, error) in figures.items():
            if count < _LEAST:
                continue
            ends = [mean, mean - 1.96 * error, mean + 1.96 * error]
            change, low, high = [exp(end) - 1 for end in ends] if figure in LOGARITHMS else ends
            sure = abs(mean) > _SURE * error
            distance = apart if figure == "output" else None
            rows.append(
                [name, earlier, _TITLES[figure], change, low, high, "yes" if sure else "no", distance, count, how]
            )
            if figure in ("ttft", "tpot", "output"):
                points.append((f"{name} {_TITLES[figure]}", change, low, high))
            if sure and (words := _sentence(_short(name), _short(earlier), figure, change, low, high)):
                sentences.append(words)
    section = Section(
        "Against the version before",
        [
            Column("version"), Column("before"), Column("figure"), Column("change", "share"), Column("from", "share"),
            Column("to", "share"), Column("sure"), Column("lengths apart", "share"), Column("instances", "count"),
            Column("compared on"),
        ],
        rows,
        "The mean change within an instance that ran both versions, each instance once, with its 95 % interval; where "
        f"fewer than {_LEAST} did, between instances on the same device. TTFT, TPOT and output tokens: of the "
        "geometric mean, as a share of it; the others in points. sure: three standard errors from none. lengths apart: "
        "the share of answers whose length (in powers of two) would have to change to make the distributions equal. "
        "What else changed in those days, the load say, is in it.",
        Intervals("Change against the version before", "share", points),
    )  # fmt: skip
    return section, sentences


def _sentence(name: str, earlier: str, figure: str, mean: float, low: float, high: float) -> str:
    """What is worth saying of a change that is sure; nothing of one that is small."""
    span = f"({low:+.1%} to {high:+.1%})"
    if figure in _WORSE and mean > 0.02:
        return f"{name} is {mean:.1%} {_WORSE[figure]} than {earlier} {span}"
    if figure == "output" and abs(mean) > 0.05:
        return f"{name} answers {'longer' if mean > 0 else 'shorter'} than {earlier} by {abs(mean):.1%} {span}"
    if figure in ("cut", "failed") and mean > 0.005:
        what = "is cut at its limit" if figure == "cut" else "fails"
        points = f"{mean * 100:+.1f} points ({low * 100:+.1f} to {high * 100:+.1f})"
        return f"{name} {what} more often than {earlier}: {points}"
    if figure == "score" and mean < 0:
        return f"{name} has a lower quality than {earlier}: {mean:+.3g} ({low:+.3g} to {high:+.3g})"
    return ""


def _moments(row: Sequence[Any]) -> dict[str, tuple[int, float, float]]:
    """Count, mean and variance of each figure."""
    parts = [row[3 * place : 3 * place + 3] for place in range(len(FIGURES))]
    return {
        name: (int(count or 0), float(mean or 0), float(variance or 0))
        for name, (count, mean, variance) in zip(FIGURES, parts, strict=True)
    }


def _figures(row: Sequence[Any]) -> dict[str, _Figure]:
    return {
        name: (count, mean, sqrt(variance / count) if count else 0.0)
        for name, (count, mean, variance) in _moments(row).items()
    }


def _of_devices(devices: dict[tuple[int, str], dict[str, Any]], before: int, after: int) -> dict[str, _Figure]:
    """The change between instances of the same device, weighed by how many of them there are on the scarcer side."""
    changes: dict[str, _Figure] = {}
    both = [
        (devices[before, name], parts)
        for (rank, name), parts in devices.items()
        if rank == after and (before, name) in devices
    ]
    for figure in FIGURES:
        whole = mean = variance = 0.0
        for old, new in both:
            (n_old, m_old, v_old), (n_new, m_new, v_new) = old[figure], new[figure]
            weight = min(n_old, n_new)
            if weight < 2:
                continue
            whole += weight
            mean += weight * (m_new - m_old)
            variance += weight**2 * (v_old / n_old + v_new / n_new)
        changes[figure] = (int(whole), mean / whole, sqrt(variance) / whole) if whole else (0, 0.0, 0.0)
    return changes


def _lengths(fleet: Fleet) -> dict[tuple[int, int], float]:
    """For each two versions how far apart the distributions of their answers' lengths are, 0 to 1."""
    by_rank: dict[int, Counter[int]] = defaultdict(Counter)
    for rank, power, count in fleet.lengths():
        by_rank[rank][power] += count
    shares = {
        rank: {power: count / sum(counts.values()) for power, count in counts.items()}
        for rank, counts in by_rank.items()
    }
    return {
        (one, other): sum(
            abs(shares[one].get(at, 0) - shares[other].get(at, 0)) for at in {*shares[one], *shares[other]}
        )
        / 2
        for one in shares
        for other in shares
        if one < other
    }


def _moves(fleet: Fleet) -> Section:
    rows = sorted(fleet.moves(), key=lambda row: (-row[2], row[0], row[1]))
    return Section(
        "Moves",
        [Column("from"), Column("to"), Column("instances", "count"), Column("how")],
        [
            [
                fleet.versions[before],
                fleet.versions[after],
                count * fleet.stride,
                "back" if after < before else "update",
            ]
            for before, after, count in rows[:20]
        ],
        "Instances by the versions that they last ran one after the other. back: an older one than before.",
    )


def _mismatches(fleet: Fleet, top: int) -> Section:
    return Section(
        "Answered by another model than asked",
        [
            Column("asked"), Column("answered"), Column("version"), Column("calls", "count"), Column("first", "time"),
            Column("last", "time"),
        ],
        [list(row) for row in fleet.mismatches(top)],
        "A name that goes on where the asked one ends (a date, say) is the same model.",
    )  # fmt: skip


def _together(fleet: Fleet, top: int) -> Section:
    return Section(
        "What runs together",
        [Column("weights"), Column("app"), Column("format"), Column("device"), Column("calls", "count")],
        [list(row[1:]) for row in sorted(fleet.together(), key=lambda row: (-row[0], -row[5]))[:top]],
    )


def _notes(fleet: Fleet) -> list[str]:
    notes = [fleet.quality.note] if fleet.quality.note else []
    other = fleet.mismatched()
    if other:
        notes.append(f"{plural(other, 'call')} answered by another model than asked ({other / fleet.calls:.2%})")
    if fleet.untold:
        notes.append(f"{fleet.untold:,} of {plural(fleet.calls, 'call')} {NOT_TOLD} which version; they are left out")
    if fleet.named < fleet.calls:
        notes.append(
            f"{fleet.calls - fleet.named:,} of {plural(fleet.calls, 'call')} without an instance (service.instance.id, "
            "app.installation.id, device.id or host.name on the resource): all of a service's count as one"
        )
    if fleet.strays:
        notes.append(
            f"left out: {plural(fleet.strays, 'call')} dated half a year or more before or after all others, as wrong "
            "clocks do"
        )
    if fleet.stride > 1:
        notes.append(
            f"how instances spread over time, what versions answer and changed, and moves are those of one in "
            f"{fleet.stride} instances, drawn evenly by a hash of their names; all else is of all"
        )
    if fleet.slot not in (HOUR_NS, DAY_NS):
        notes.append(f"a slot of time is {fleet.slot / DAY_NS:g} days")
    return notes
