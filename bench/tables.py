"""What is shown: the figures beside the bars they are held against, for the terminal and for docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.figures import Figure, call, slope
from bench.rounds import CROWD, CROWD_SIZES, SIZES, Samples
from bench.subjects import BARE, CONTROL, FLOOR, LLMTRACE, SUBJECTS, UNSAMPLED, by_name

NONE = "-"


@dataclass
class Table:
    """A title, a head and rows of text."""

    title: str
    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """The table as Markdown."""
        lines = [self.head, ["---"] + ["---:"] * (len(self.head) - 1), *self.rows]
        return f"### {self.title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


@dataclass(frozen=True)
class Measure:
    """One figure that every subject has, in µs."""

    key: str
    title: str
    of: Callable[[Samples, str], Figure | None]


def _call(key: str) -> Callable[[Samples, str], Figure | None]:
    return lambda samples, name: call(samples, name, key, alone=name in (BARE, FLOOR))


def _slope(load: str, sizes: tuple[int, ...]) -> Callable[[Samples, str], Figure | None]:
    return lambda samples, name: slope(samples, name, load, sizes, alone=name == BARE)


MEASURES = [
    Measure("timed", "call, all phases", _call("timed")),
    Measure("call", "call, no timings", _call("call")),
    Measure("stream_call", "streamed call", _call("stream")),
    Measure("stream_chunk", "chunk", _slope("stream", SIZES)),
    Measure("astream_call", "async streamed call", _call("astream")),
    Measure("astream_chunk", "async chunk", _slope("astream", SIZES)),
    Measure("crowd_call", f"call, {CROWD} at once", _call("crowd-0")),
    Measure("crowd_chunk", f"chunk, {CROWD} at once", _slope("crowd", CROWD_SIZES)),
]

FEW = 5
"""Rounds below which an interval means nothing."""
TITLES = {measure.key: measure.title for measure in MEASURES}
CALL_KEYS = [measure.key for measure in MEASURES if not measure.key.endswith("chunk")]
CHUNK_KEYS = [measure.key for measure in MEASURES if measure.key.endswith("chunk")]

PER_CALL, PER_CHUNK, PER_UNSAMPLED, GROWTH = 130.0, 0.5, 10.0, 16_384
"""The bars: µs a call with all phase spans and metrics, a chunk, an unsampled call; bytes of growth past the cap
(the HTTP library's own buffer wobbles by some KiB; eight bytes a chunk would make 120 KiB)."""

BARS = [
    (LLMTRACE, "timed", PER_CALL),
    (LLMTRACE, "call", PER_CALL),
    (LLMTRACE, "stream_call", PER_CALL),
    (LLMTRACE, "astream_call", PER_CALL),
    (LLMTRACE, "crowd_call", PER_CALL),
    (LLMTRACE, "stream_chunk", PER_CHUNK),
    (LLMTRACE, "astream_chunk", PER_CHUNK),
    (LLMTRACE, "crowd_chunk", PER_CHUNK),
    (UNSAMPLED, "call", PER_UNSAMPLED),
    (UNSAMPLED, "stream_call", PER_UNSAMPLED),
    ("llmtrace-unsampled-metrics", "call", PER_UNSAMPLED),
]


def figures(samples: Samples) -> dict[str, dict[str, Figure]]:
    """Subject -> measure -> figure, where there is one."""
    found: dict[str, dict[str, Figure]] = {}
    for subject in SUBJECTS:
        for measure in MEASURES:
            figure = measure.of(samples, subject.name)
            if figure:
                found.setdefault(subject.name, {})[measure.key] = figure
    return found


def number(value: float) -> str:
    """A figure in µs with as many digits as it deserves."""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


def verdict(figure: Figure, bar: float) -> str:
    """Whether the bar was met, and whether the interval leaves that open."""
    if figure.rounds < FEW:
        return f"too few rounds ({figure.rounds})"
    said = "met" if figure.value <= bar else "missed"
    return said if figure.low > bar or figure.high <= bar else f"{said}, within the noise"


def best_peer(found: dict[str, dict[str, Figure]], key: str) -> tuple[str, float] | None:
    """The peer that costs least."""
    costs = [(found[s.name][key].value, s.title) for s in SUBJECTS if s.peer and key in found.get(s.name, {})]
    return (min(costs)[1], min(costs)[0]) if costs else None


def bars(found: dict[str, dict[str, Figure]], memory: dict[str, dict[int, int]]) -> Table:
    """Each bar, the figure, its interval, what the method makes of no difference at all, and the ratios."""
    rows: list[list[str]] = []
    for name, key, bar in BARS:
        figure = found.get(name, {}).get(key)
        if not figure:
            continue
        control, bare, peer = found.get(CONTROL, {}).get(key), found[BARE].get(key), best_peer(found, key)
        rows.append(
            [
                f"{by_name(name).title}: {TITLES[key]}",
                f"≤ {bar:g}",
                f"**{number(figure.value)}**",
                f"{number(figure.low)} to {number(figure.high)}",
                verdict(figure, bar),
                number(control.value) if control else NONE,
                f"{1 + figure.value / bare.value:.3f}" if bare else NONE,
                f"{figure.value / peer[1]:.2f} of {peer[0]}'s" if peer and peer[1] > 0 else NONE,
            ]
        )
    sizes = sorted(memory.get(LLMTRACE, {}))
    if len(sizes) > 1:
        before, after = (memory[LLMTRACE][size] - memory[BARE][size] for size in sizes[-2:])
        growth = after - before
        said = "met" if growth <= GROWTH else "missed"
        what = f"llmtrace: an open stream's growth, {sizes[-2]:,} to {sizes[-1]:,} chunks, bytes"
        rows.append([what, f"≤ {GROWTH:,}", f"**{growth:,}**", NONE, said, NONE, NONE, NONE])
    head = ["over the bare client", "bar", "µs", "95 % interval", "verdict", "control", "x bare", "best peer"]
    return Table("The bars", head, rows)


def costs(found: dict[str, dict[str, Figure]], samples: Samples) -> list[Table]:
    """Every subject and every measure: the estimate and the middle half of the rounds."""
    return [
        _costs(found, "Calls: µs over the bare client, median (middle half of the rounds)", CALL_KEYS, samples),
        _costs(found, "Chunks: µs over the bare client, slope (middle half of the rounds)", CHUNK_KEYS, None),
    ]


def _costs(found: dict[str, dict[str, Figure]], title: str, keys: list[str], samples: Samples | None) -> Table:
    rows: list[list[str]] = []
    for subject in SUBJECTS:
        mine = found.get(subject.name, {})
        figures = [mine.get(key) for key in keys]
        if not any(figures):
            continue
        own = " (own cost)" if subject.name in (BARE, FLOOR) else ""
        cells = [f"{number(f.value)} ({number(f.q1)} … {number(f.q3)})" if f else NONE for f in figures]
        rows.append([subject.title + own, *cells, *([_emitted(samples, subject.name)] if samples else [])])
    head = ["", *(TITLES[key] for key in keys), *(["spans/attributes/records"] if samples else [])]
    return Table(title, head, rows)


def _emitted(samples: Samples, name: str) -> str:
    """What one call with all phases sends out: spans, their attributes, histogram records."""
    seen = next((answer for answer in reversed(samples.answers[name, "timed"]) if answer), None)
    return f"{seen['spans']:.0f}/{seen['attributes']:.0f}/{seen['records']:.0f}" if seen else NONE


def memories(memory: dict[str, dict[int, int]]) -> Table:
    """Bytes that an open stream holds over the bare client's."""
    sizes = sorted(memory.get(BARE, {}))
    rows: list[list[str]] = []
    for name, held in memory.items():
        base = {size: 0 if name == BARE else memory[BARE][size] for size in sizes}
        rows.append([by_name(name).title, *(f"{(held[size] - base[size]) / 1024:,.1f}" for size in sizes)])
    head = ["KiB held by one open stream after", *(f"{size:,} chunks" for size in sizes)]
    return Table("Memory per open stream over the bare client (the bare client: its own)", head, rows)


def startups(startup: dict[str, list[float]]) -> Table:
    """CPU time of importing each package and turning it on."""
    rows = [
        [by_name(name).title, f"{sorted(each)[len(each) // 2]:.0f}", f"{min(each):.0f} … {max(each):.0f}"]
        for name, each in startup.items()
    ]
    return Table(
        "Start-up, openai and the SDK already imported", ["import and instrument", "ms, median", "range"], rows
    )
