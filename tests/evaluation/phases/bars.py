"""What the figures are held against. Each bar is decided by the worst of the cells that it is about: none is pooled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.evaluation.common.bars import Bar
from tests.evaluation.phases import scoring
from tests.evaluation.phases.audit import wilson
from tests.evaluation.phases.judged import Judged
from tests.evaluation.phases.measured import DECODE, PREFILL, QUEUE
from tests.evaluation.phases.methods import ALL_PREFILL, ENVELOPE, LLMTRACE, SO_FAR

ALONE_ERROR, ALONE_ITSELF, ALONE_COVERED = 0.05, 0.12, (0.85, 0.95)
SHARED_ERROR, COVERED, WIDEST, AGAINST = 0.10, (0.82, 0.96), 2.5, 0.5
SPLIT = 0.8
WHOLE = {QUEUE: 0.15, PREFILL: 0.30, DECODE: 0.20}
"""Queue: of the mean total; the others: of themselves, medians."""
SURE_AND_WRONG = 0.10
"""What a 90 % interval may miss."""
CALM_QUEUE = 0.08
WITHOUT_USAGE = 1.5
LEAST_COVERED = 0.80
HITS, CLAIMS = 0.97, 0.05
UPDATE_US, ROUTE_BYTES = 20.0, 8192.0
UPDATE = "update of a call"
"""Of a call on the caller's thread; of a route."""
FEWEST = 20
"""Calls below which a cell decides nothing."""

SOURCES = ("recorded", "simulation", "live")


@dataclass(frozen=True, slots=True)
class Figure:
    """One cell's figure beside its limits."""

    where: str
    source: str
    bar: Bar
    decides: bool = True


@dataclass(frozen=True, slots=True)
class Line:
    """One bar of the project, over every cell that it is about."""

    group: str
    what: str
    figures: tuple[Figure, ...]

    @property
    def title(self) -> str:
        """What is held against what."""
        return f"{self.group}: {self.what}"

    def known(self) -> list[Figure]:
        """The figures that decide, worst first."""
        deciding = [figure for figure in self.figures if figure.decides and figure.bar.met is not None]
        return sorted(deciding, key=lambda figure: -excess(figure.bar))

    def worst(self, source: str | None = None) -> Figure | None:
        """The worst cell that has evidence, of one source or of all; None where none has."""
        return next((figure for figure in self.known() if source in (None, figure.source)), None)

    @property
    def met(self) -> bool | None:
        """None where no cell has evidence."""
        worst = self.worst()
        return None if worst is None else worst.bar.met

    def verdict(self) -> str:
        """Met, or missed and by how much."""
        worst = self.worst()
        if worst is None:
            return "no evidence"
        return worst.bar.verdict() + (", within chance" if "covers" in self.what and within_chance(worst.bar) else "")


def within_chance(bar: Bar) -> bool:
    """The share misses its limits by no more than what chance makes of so few calls, 90 times in 100."""
    if bar.met is not False:
        return False
    low, high = wilson(bar.value, bar.calls)
    return (bar.least is None or high >= bar.least) and (bar.most is None or low <= bar.most)


def excess(bar: Bar) -> float:
    """By how much the figure is beyond its limits; negative: within."""
    above = bar.value - bar.most if bar.most is not None else -math.inf
    below = bar.least - bar.value if bar.least is not None else -math.inf
    return max(above, below)


_Measure = Callable[[Judged], tuple[float, int]]
"""A cell's figure, and the calls that it was made of."""


def lines(cells: Sequence[Judged]) -> list[Line]:
    """Every bar, with the cells that it is about; one without cells is left out."""
    by_key = {judged.cell.key: judged for judged in cells}

    def of(*traffic: str, most_load: float = 1.0) -> list[Judged]:
        return [each for each in cells if each.cell.traffic in traffic and each.cell.load <= most_load]

    made = [
        *_alone(of("alone", most_load=0.7), of("alone", "burst")),
        *_shared("30 % of the load", of("share30")),
        *_shared("5 % of the load*", of("share05")),
        *_whole(of("whole"), of("whole30")),
        *_conversations(of("chat", "chat30")),
        *_without_usage(of("nousage", "nousage30"), by_key),
    ]
    for name, traffic in (
        ("20 tenants", "tenants20"),
        ("1 and 5 tenants*", "tenants1 tenants5"),
        ("mixed features", "mixed"),
        ("30 calls after a change", "regime"),
    ):
        some = of(*traffic.split())
        made += [_covers(name, some, phase, LEAST_COVERED, None) for phase in (QUEUE, PREFILL)]
    what = "queue + prefill, to the error of the best simpler method"
    made.append(_line("every cell*", what, cells, _to_the_best, most=1.0, unit="x"))
    return [line for line in made if line.figures]


def _to_the_best(judged: Judged) -> tuple[float, int]:
    own = _both(judged, LLMTRACE)
    best = min(_both(judged, method) for method in judged.methods if method != LLMTRACE)
    return (own / best if best > 0 else math.nan), len(judged.warm)


def _both(judged: Judged, method: str) -> float:
    some = [scoring.errors(judged.pairs(method), phase) for phase in (QUEUE, PREFILL)]
    return sum(error.share for error in some if error is not None) if any(some) else math.inf


def _line(
    group: str,
    what: str,
    cells: Iterable[Judged],
    measure: _Measure,
    least: float | None = None,
    most: float | None = None,
    unit: str = "%",
) -> Line:
    figures: list[Figure] = []
    for judged in cells:
        (value, calls), cell = measure(judged), judged.cell
        bar = Bar(cell.title, value, least, most, calls, unit, FEWEST)
        figures.append(Figure(f"{cell.engine}, {cell.slots}, {cell.name}", cell.source, bar, cell.decides))
    return Line(group, what, tuple(figures))


def _alone(calm: Sequence[Judged], every: Sequence[Judged]) -> list[Line]:
    group = "alone"
    return [
        _line(group, "queue, of mean TTFT (load <= 0.7)", calm, _share(QUEUE), most=ALONE_ERROR),
        _line(group, "prefill, of mean TTFT (load <= 0.7)", calm, _share(PREFILL), most=ALONE_ERROR),
        _line(group, "prefill, median of itself (load <= 0.7)", calm, _itself(PREFILL), most=ALONE_ITSELF),
        _covers(group, every, QUEUE, *ALONE_COVERED),
        _covers(group, every, PREFILL, *ALONE_COVERED),
        *_by_the_engine(group, calm, ALONE_ERROR, ALONE_COVERED),
    ]


def _shared(group: str, cells: Sequence[Judged]) -> list[Line]:
    return [
        _line(group, "queue, of mean TTFT", cells, _share(QUEUE), most=SHARED_ERROR),
        _covers(group, cells, QUEUE, *COVERED),
        _covers(group, cells, PREFILL, *COVERED),
        _line(group, "half width of queue, over its mean |error|", cells, _ratio(QUEUE), most=WIDEST, unit="x"),
        _line(group, "half width of prefill, over its mean |error|", cells, _ratio(PREFILL), most=WIDEST, unit="x"),
        *(
            _line(group, f"queue, to the error of {method}", cells, _against(method), most=AGAINST, unit="x")
            for method in (ALL_PREFILL, ENVELOPE, SO_FAR)
        ),
        *_by_the_engine(group, cells, SHARED_ERROR, COVERED),
    ]


def _by_the_engine(group: str, cells: Sequence[Judged], most: float, covered: tuple[float, float]) -> list[Line]:
    """The queue as each engine counts it, beside what is exported; starred, since bars are about what is exported."""

    def error(judged: Judged) -> tuple[float, int]:
        own = scoring.engine_queue_errors(judged.pairs())
        return (math.nan, 0) if own is None else (own.share, own.calls)

    def covers(judged: Judged) -> tuple[float, int]:
        own = scoring.engine_queue_coverage(judged.pairs())
        return (math.nan, 0) if own is None else (own.inside, own.calls)

    told = [judged for judged in cells if judged.cell.source != "simulation"]
    return [
        _line(f"{group.rstrip('*')}*", "the engine's own queue, of mean TTFT", told, error, most=most),
        _line(f"{group.rstrip('*')}*", "90 % interval of the engine's own queue covers", told, covers, *covered),
    ]


def _whole(alone: Sequence[Judged], shared: Sequence[Judged]) -> list[Line]:
    group = "whole answers, alone"
    return [
        _line(group, "split", alone, _split, least=SPLIT),
        _line(group, "queue, of mean total", alone, _share(QUEUE), most=WHOLE[QUEUE]),
        _line(group, "prefill, median of itself", alone, _itself(PREFILL), most=WHOLE[PREFILL]),
        _line(group, "decode, median of itself", alone, _itself(DECODE), most=WHOLE[DECODE]),
        *(_covers(group, alone, phase, *COVERED) for phase in (QUEUE, PREFILL, DECODE)),
        _line("whole answers, shared", "sure and wrong", shared, _sure_and_wrong, most=SURE_AND_WRONG),
    ]


def _conversations(cells: Sequence[Judged]) -> list[Line]:
    group = "conversations"
    return [
        _line(group, "split", cells, _split, least=SPLIT),
        _line(group, "queue where none is, of TTFT", cells, _queue_where_none, most=CALM_QUEUE),
        _covers(group, cells, QUEUE, *COVERED),
        _covers(group, cells, PREFILL, *COVERED),
    ]


def _without_usage(cells: Sequence[Judged], by_key: dict[str, Judged]) -> list[Line]:
    group = "no usage"

    def to_twin(phase: str) -> _Measure:
        def measure(judged: Judged) -> tuple[float, int]:
            twin = by_key.get(judged.cell.twin)
            own = scoring.errors(judged.pairs(), phase)
            theirs = None if twin is None else scoring.errors(twin.pairs(), phase)
            if own is None or theirs is None or theirs.share == 0:
                return math.nan, 0
            return own.share / theirs.share, own.calls

        return measure

    return [
        _line(group, "split", cells, _split, least=SPLIT),
        *(
            _line(group, f"{phase}, to the error with usage", cells, to_twin(phase), most=WITHOUT_USAGE, unit="x")
            for phase in (QUEUE, PREFILL)
        ),
        _covers(group, cells, QUEUE, *COVERED),
        _covers(group, cells, PREFILL, *COVERED),
    ]


def _covers(group: str, cells: Sequence[Judged], phase: str, least: float, most: float | None) -> Line:
    def measure(judged: Judged) -> tuple[float, int]:
        inside = scoring.coverage(judged.pairs(), phase)
        return (math.nan, 0) if inside is None else (inside.inside, inside.calls)

    return _line(group, f"90 % interval of {phase} covers", cells, measure, least, most)


def _share(phase: str) -> _Measure:
    def measure(judged: Judged) -> tuple[float, int]:
        error = scoring.errors(judged.pairs(), phase)
        return (math.nan, 0) if error is None else (error.share, error.calls)

    return measure


def _itself(phase: str) -> _Measure:
    def measure(judged: Judged) -> tuple[float, int]:
        error = scoring.errors(judged.pairs(), phase)
        return (math.nan, 0) if error is None else (error.of_itself, error.calls)

    return measure


def _ratio(phase: str) -> _Measure:
    def measure(judged: Judged) -> tuple[float, int]:
        inside = scoring.coverage(judged.pairs(), phase)
        return (math.nan, 0) if inside is None else (inside.ratio, inside.calls)

    return measure


def _against(method: str) -> _Measure:
    def measure(judged: Judged) -> tuple[float, int]:
        own, theirs = (scoring.errors(judged.pairs(*which), QUEUE) for which in ((), (method,)))
        if own is None or theirs is None or theirs.share == 0:
            return math.nan, 0
        return own.share / theirs.share, own.calls

    return measure


def _split(judged: Judged) -> tuple[float, int]:
    return 1.0 - scoring.refused(judged.pairs()), len(judged.warm)


def _sure_and_wrong(judged: Judged) -> tuple[float, int]:
    return scoring.sure_and_wrong(judged.pairs()), len(judged.warm)


def _queue_where_none(judged: Judged) -> tuple[float, int]:
    calls, share = scoring.queue_where_none(judged.pairs())
    return share, calls


def of_hits(rows: Sequence[dict[str, Any]]) -> list[Line]:
    """Accuracy where the whole prompt was sent often before, for providers that cache; claims for those that do not."""
    caching, others = list[Figure](), list[Figure]()
    for row in rows:
        groups = 2 * (row["calls"] // 2 - 40) // 3
        if not row["caching"]:
            bar = Bar("", row["claimed"], most=CLAIMS, calls=row["calls"])
            others.append(Figure(row["provider"], "recorded", bar))
        elif row["condition"].startswith("whole prompt"):
            bar = Bar("", row["filtered"], least=HITS, calls=groups)
            caching.append(Figure(row["provider"], "recorded", bar))
    made = [
        Line("cache hits from timing", "accuracy, three calls", tuple(caching)),
        Line("cache hits from timing", "claimed where nothing is cached", tuple(others)),
    ]
    return [line for line in made if line.figures]


def of_cost(cost: dict[str, Any]) -> list[Line]:
    """What an update costs, and a route."""
    if not cost:
        return []
    update = Bar("", cost["microseconds"][UPDATE]["median"], most=UPDATE_US, calls=1_000, unit=" µs")
    route = Bar("", cost["bytes"]["a route"], most=ROUTE_BYTES, calls=100, unit=" bytes")
    return [
        Line("cost", "of an update on the caller's thread, median", (Figure("this machine", "simulation", update),)),
        Line("cost", "memory of a route", (Figure("the largest route", "simulation", route),)),
    ]
