"""The figures of the runs over sockets as tables, and beside the bars they are held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.evaluation.common.bars import Bar
from tests.evaluation.common.tables import Table
from tests.evaluation.overhead.figures import Figure, call, slope
from tests.evaluation.overhead.outcome import FEWEST_ROUNDS
from tests.evaluation.overhead.rounds import SIZES, Samples
from tests.evaluation.overhead.subjects import (
    BARE,
    FLOOR,
    LLMTRACE,
    LLMTRACE_NO_METRICS,
    OTEL_GENAI,
    SUBJECTS,
    by_name,
)

NONE = "-"
PER_CHUNK = 1.0
"""µs of a chunk, its share of the call's end included."""
GROWTH = 16_384
"""Bytes by which an open stream may grow past the cap: the HTTP library's own buffer wobbles by some KiB, and eight
bytes a chunk would make 120 KiB."""


@dataclass(frozen=True)
class Measure:
    """One figure that every subject has, in µs."""

    key: str
    title: str
    of: Callable[[Samples, str], Figure | None]


def _call(key: str) -> Callable[[Samples, str], Figure | None]:
    return lambda samples, name: call(samples, name, key, alone=name in (BARE, FLOOR))


def _slope(load: str) -> Callable[[Samples, str], Figure | None]:
    return lambda samples, name: slope(samples, name, load, SIZES, alone=name == BARE)


CALLS = [
    Measure("timed", "call, all phases", _call("timed")),
    Measure("call", "call, no timings", _call("call")),
    Measure("stream", "streamed call", _call("stream")),
    Measure("astream", "async streamed call", _call("astream")),
]
CHUNKS = [
    Measure("chunk", f"a chunk, of {SIZES[-1]:,}", _slope("stream")),
    Measure("achunk", f"an async chunk, of {SIZES[-1]:,}", _slope("astream")),
    Measure("whole", f"a stream of {SIZES[-1]:,}", _call(f"stream-{SIZES[-1]}")),
    Measure("awhole", f"an async stream of {SIZES[-1]:,}", _call(f"astream-{SIZES[-1]}")),
]

Figures = dict[str, dict[str, Figure]]
"""Subject -> measure -> figure, where there is one."""


def figures(samples: Samples, measures: list[Measure]) -> Figures:
    """Every figure that was measured."""
    known: Figures = {}
    for subject in SUBJECTS:
        for measure in measures:
            figure = measure.of(samples, subject.name)
            if figure:
                known.setdefault(subject.name, {})[measure.key] = figure
    return known


def number(value: float) -> str:
    """A figure in µs with as many digits as it deserves."""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:,.0f}"


def call_bars(known: Figures) -> list[Bar]:
    """llmtrace's call with all phases, held against the one span of OpenTelemetry's own instrumentation."""
    theirs = known.get(OTEL_GENAI, {}).get("timed")
    if theirs is None:
        return []
    bars: list[Bar] = []
    for name in (LLMTRACE, LLMTRACE_NO_METRICS):
        mine = known.get(name, {}).get("timed")
        if mine is not None:
            what = f"{by_name(name).title}: a call with all phases, to {by_name(OTEL_GENAI).title}'s one span"
            bars.append(bar(what, mine, theirs.value))
    return bars


def chunk_bars(known: Figures) -> list[Bar]:
    """A chunk, its share of the end included."""
    mine = known.get(LLMTRACE, {})
    titles = {"chunk": "a chunk", "achunk": "an async chunk"}
    size = f"of {SIZES[-1]:,}, over sockets"
    return [bar(f"{title} {size}", mine[key], PER_CHUNK) for key, title in titles.items() if key in mine]


def bar(what: str, figure: Figure, most: float) -> Bar:
    """A figure in µs beside its limit."""
    interval = f"{number(figure.low)} to {number(figure.high)}"
    open_still = figure.low <= most < figure.high
    doubt = f" (95 % interval {interval}{', within the noise' if open_still else ''})"
    return Bar(what + doubt, figure.value, most=most, calls=figure.rounds, unit=" µs", fewest=FEWEST_ROUNDS)


def costs(known: Figures, title: str, measures: list[Measure], samples: Samples, counted: str | None = None) -> Table:
    """Every subject and every measure: the estimate, the middle half of the rounds, and what a call sends out.

    ``counted``: the key of the batch whose spans, attributes and records are shown.
    """
    rows: list[list[str]] = []
    for subject in SUBJECTS:
        mine = known.get(subject.name, {})
        each = [mine.get(measure.key) for measure in measures]
        if not any(each):
            continue
        own = " (own cost)" if subject.name in (BARE, FLOOR) else ""
        cells = [f"{number(f.value)} ({number(f.q1)}…{number(f.q3)})" if f else NONE for f in each]
        rows.append([subject.title + own, *cells, *([_emitted(samples, subject.name, counted)] if counted else [])])
    head = ["", *(measure.title for measure in measures), *(["spans/attributes/records"] if counted else [])]
    return Table(title, head, rows)


def _emitted(samples: Samples, name: str, key: str) -> str:
    """What one call sends out: spans, their attributes, histogram records."""
    last = next((answer for answer in reversed(samples.answers[name, key]) if answer), None)
    return f"{last['spans']:.0f}/{last['attributes']:.0f}/{last['records']:.0f}" if last else NONE


Memory = dict[str, dict[int, int]]
"""Subject -> chunks read -> bytes held."""


def memories(memory: Memory) -> Table:
    """Bytes that an open stream holds over the bare client's."""
    sizes = sorted(memory.get(BARE, {}))
    rows: list[list[str]] = []
    for name, held in memory.items():
        base = {size: 0 if name == BARE else memory[BARE][size] for size in sizes}
        rows.append([by_name(name).title, *(f"{(held[size] - base[size]) / 1024:,.1f}" for size in sizes)])
    head = ["KiB held by one open stream after", *(f"{size:,} chunks" for size in sizes)]
    return Table("Memory per open stream over the bare client (the bare client: its own)", head, rows)


def memory_bars(memory: Memory) -> list[Bar]:
    """That a long stream holds no more than a shorter one."""
    sizes = sorted(memory.get(LLMTRACE, {}))
    if len(sizes) < 2 or BARE not in memory:
        return []
    before, after = (memory[LLMTRACE][size] - memory[BARE][size] for size in sizes[-2:])
    what = f"an open stream's growth, {sizes[-2]:,} to {sizes[-1]:,} chunks"
    return [Bar(what, float(after - before), most=GROWTH, calls=1, unit=" bytes", fewest=1)]
