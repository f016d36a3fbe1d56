"""Waterfalls in the terminal: one row per span, bars on the trace's own time axis."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.style import Style
from rich.table import Table as RichTable
from rich.text import Text

from llmtrace.view import about, calls, palette, text, tree
from llmtrace.view.selection import select

COLOURS = palette.TERMINAL
_TONES = {"good": "green", "bad": "red", "warn": "yellow"}
_LEFT = " ▏▎▍▌▋▊▉█"
_ASCII = str.maketrans({"µ": "u", "±": "~", "·": "|", text.DASH: "-", "…": ".", "│": "|", "├": "|", "└": "`", "─": "-"})
_DEEPEST = 8
_NARROWEST_BAR = 12


def show(
    path: str | os.PathLike[str],
    console: Console,
    *,
    trace: str | None = None,
    limit: int | None = None,
    strict: bool = False,
    notes: Console | None = None,
) -> int:
    """Print the waterfalls of an OTLP/JSON file and return how many there were.

    ``trace`` chooses by the beginning of the trace id, ``limit`` keeps the last so many. Notes on what had to
    be skipped go to ``notes`` (the same console where none is given).
    """
    selection = select(path, trace=trace, limit=limit, strict=strict)
    columns = _Columns.of(selection.traces)
    for one in selection.traces:
        console.print(_Waterfall(one, None, columns))
        console.print()
    key = legend(selection.traces, console.width)
    if console.options.ascii_only:
        key.plain = key.plain.replace("■", "#")
    console.print(key)
    for line in selection.notes():
        (notes or console).print(Text(line, style="yellow"), soft_wrap=True)
    return len(selection.traces)


def render_trace(trace: tree.Trace, width: int | None = None) -> RenderableType:
    """One trace as a waterfall, ``width`` columns wide or as wide as the console."""
    return _Waterfall(trace, width, _Columns.of([trace]))


def legend(traces: Iterable[tree.Trace] = (), width: int | None = None) -> Text:
    """What the colours mean, for the phases that occur; all of them where no traces are given.

    ``width``: how wide its lines may be, so that no colour stands apart from its name.
    """
    present = {
        about.family(node.span) for trace in traces for node, _ in tree.walk(trace.roots) if not calls.is_call(node)
    } or set(palette.FAMILIES)
    key, used = Text(), 0
    for name in palette.FAMILIES:
        if name not in present:
            continue
        entry = f"■ {palette.LABELS[name]}"
        if used:
            ends = width is not None and used + 3 + cell_len(entry) > width
            key.append("\n" if ends else "   ")
            used = 0 if ends else used + 3
        key.append(entry[0], style=COLOURS[name])
        key.append(entry[1:], style="dim")
        used += cell_len(entry)
    return key


def render_table(table: text.Table) -> RenderableType:
    """The comparison table, each group's heading over its columns; in several tables where one would be too wide."""
    return _Comparison(table)


class _Comparison:
    def __init__(self, table: text.Table) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self.table
        if table.title:
            yield Text(text.clean(table.title), style="bold")
        for columns in self._split(console, options):
            yield Text()
            yield _drawn(table, columns)
        yield Text()
        if table.note:
            yield Text(text.clean(table.note), style="dim")

    def _split(self, console: Console, options: ConsoleOptions) -> list[list[tuple[str, int]]]:
        """The columns but the first, each with its group's heading, in as few tables as fit."""

        def fits(columns: list[tuple[str, int]]) -> bool:
            return console.measure(_drawn(self.table, columns), options=unbounded).maximum <= options.max_width

        unbounded = options.update(width=10_000)
        split: list[list[tuple[str, int]]] = []
        for group in _groups(self.table):
            runs = [group] if fits(group) else [[column] for column in group]
            for run in runs:
                if split and fits([*split[-1], *run]):
                    split[-1].extend(run)
                else:
                    split.append(list(run))
        return split or [[]]


def _groups(table: text.Table) -> list[list[tuple[str, int]]]:
    groups: list[list[tuple[str, int]]] = []
    at, last = 1, len(table.columns)
    for heading, number in table.groups:
        groups.append([(heading, column) for column in range(at, min(at + number, last))])
        at += number
    groups.extend([("", column)] for column in range(at, last))
    return [group for group in groups if group]


def _drawn(table: text.Table, columns: Sequence[tuple[str, int]]) -> RichTable:
    table_view = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    grouped = any(heading for heading, _ in columns)
    table_view.add_column(
        Text(("\n" if grouped else "") + text.clean(table.columns[0] if table.columns else "")), no_wrap=True
    )
    before = ""
    for heading, column in columns:
        own = text.clean(table.columns[column])
        words = f"{text.clean(heading) if heading != before else ''}\n{own}" if grouped else own
        table_view.add_column(Text(words, justify="right"), justify="right", no_wrap=True)
        before = heading
    for row in table.rows:
        cells = [row[column] if column < len(row) else None for column in (0, *(column for _, column in columns))]
        table_view.add_row(
            *(Text(text.DASH, style="dim") if cell is None else Text(text.clean(cell)) for cell in cells)
        )
    return table_view


@dataclass(slots=True)
class _Row:
    node: tree.Node
    name: str
    rails: str
    duration: str
    known: str
    tokens: str
    is_call: bool
    is_server: bool


@dataclass(frozen=True, slots=True)
class _Columns:
    """The widths that the columns need, the same for all waterfalls of one file."""

    name: int
    duration: int
    known: int
    tokens: int

    @classmethod
    def of(cls, traces: Sequence[tree.Trace]) -> _Columns:
        rows = [row for trace in traces for row in _rows(trace)]
        return cls(
            name=max((cell_len(row.name) for row in rows), default=0),
            duration=max((cell_len(row.duration) for row in rows), default=0),
            known=max((cell_len(row.known) for row in rows), default=0),
            tokens=max((cell_len(row.tokens) for row in rows), default=0),
        )

    def fit(self, width: int) -> tuple[_Columns, int]:
        """Columns that leave the bars enough room, and that room."""
        name, known, tokens = min(self.name, max(14, width * 3 // 10)), self.known, self.tokens

        def room() -> int:
            return width - sum(part + 2 for part in (self.duration, known, tokens) if part) - name - 1

        if room() < _NARROWEST_BAR:
            tokens = 0
        if room() < _NARROWEST_BAR:
            known = 0
        if room() < _NARROWEST_BAR:
            name = max(8, name - (_NARROWEST_BAR - room()))
        return _Columns(name, self.duration, known, tokens), max(4, room())


@dataclass(frozen=True, slots=True)
class _Ink:
    """The characters and colours that the terminal can show."""

    ascii_only: bool
    coloured: bool


class _Waterfall:
    def __init__(self, trace: tree.Trace, width: int | None, columns: _Columns) -> None:
        self.trace = trace
        self.width = width
        self.columns = columns

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(32, self.width or options.max_width)
        ink = _Ink(options.ascii_only, console.color_system is not None and not console.no_color)
        for line in _lines(self.trace, width, self.columns, ink):
            if options.ascii_only:
                line.plain = line.plain.translate(_ASCII).encode("ascii", "replace").decode("ascii")
            line.no_wrap = True
            line.overflow = "crop"
            yield line


def _lines(trace: tree.Trace, width: int, columns: _Columns, ink: _Ink) -> Iterable[Text]:
    start, end = trace.start_ns, trace.end_ns
    span = max(1, end - start)
    only = next(calls.calls(trace.roots), None)
    titled = len(trace.roots) == 1 and only is trace.roots[0]
    yield _title(trace, width)
    if titled and only is not None:
        yield from _fold(_facts(only), width)
    columns, bar = columns.fit(width)
    yield _axis(span / 1e9, columns.name + 1, bar)
    for row in _rows(trace):
        fits = cell_len(row.name) <= columns.name
        line = Text(set_cell_size(row.name, columns.name) if fits else _cut(row.name, columns.name))
        line.stylize("dim", 0, len(row.rails))
        if row.is_call:
            line.stylize("bold", len(row.rails))
        if row.node.span.status.code == "error":
            line.stylize("red", len(row.rails))
        line.append(" ")
        line.append_text(_bar(row, start, span, bar, ink))
        line.append(f"  {_right(row.duration, columns.duration)}")
        if columns.known:
            line.append(f"  {set_cell_size(row.known, columns.known)}", style="dim")
        if columns.tokens:
            line.append(f"  {_right(row.tokens, columns.tokens)}", style="dim")
        line.rstrip()
        yield line
        if row.is_call and not titled:
            indent = row.rails.replace("├─ ", "│  ").replace("└─ ", "   ")
            for fact in _fold(_facts(row.node), width - cell_len(indent) - 2):
                yield Text.assemble((indent, "dim"), "  ", fact)
    for line in tree.oddities(trace):
        yield Text(line, style="yellow")


def _title(trace: tree.Trace, width: int) -> Text:
    root = trace.roots[0].span
    short = f"trace {trace.trace_id[:16]}" if width >= 60 else trace.trace_id[:8]
    name = text.clean(root.name or "(no name)")
    room = width - cell_len(short) - 2
    if cell_len(name) > room:
        name = _cut(name, room)
    return Text.assemble((name, "bold"), " " * (width - cell_len(name) - cell_len(short)), (short, "dim"))


def _facts(call: tree.Node) -> list[tuple[str, str]]:
    facts = calls.facts(call)
    parts: list[tuple[str, str]] = []
    if facts.outcome:
        parts.append(
            (text.clean(facts.outcome.replace("_", " ")), _TONES[palette.TONES.get(facts.outcome, palette.OTHER_TONE)])
        )
    if facts.model:
        parts.append((text.clean(facts.model, 60), ""))
    if facts.upstream:
        parts.append((f"via {text.clean(facts.upstream, 60)}", ""))
    if facts.ttft is not None:
        parts.append((f"{'first chunk' if facts.ttft_is_chunk else 'TTFT'} {text.seconds(facts.ttft)}", ""))
    if facts.input_tokens is not None:
        cached = f" ({text.count(facts.cached_tokens)} cached)" if facts.cached_tokens is not None else ""
        parts.append((f"{text.count(facts.input_tokens)} tokens in{cached}", ""))
    if facts.output_tokens is not None:
        thought = f" ({text.count(facts.reasoning_tokens)} reasoning)" if facts.reasoning_tokens else ""
        parts.append((f"{text.count(facts.output_tokens)} out{thought}", ""))
    if facts.decode_rate is not None:
        parts.append((f"{facts.decode_rate:.{0 if facts.decode_rate >= 100 else 1}f} tok/s", ""))
    if facts.attempts > 1:
        parts.append((f"{facts.attempts} attempts", "yellow"))
    if facts.again:
        parts.append((facts.again, "yellow"))
    if abs(facts.duration - call.span.duration) > 0.005 * facts.duration:
        parts.append((f"{text.seconds(facts.duration)} in the call itself", ""))
    if facts.lost:
        parts.append((text.clean(facts.lost), ""))
    if facts.merged:
        parts.append((f"not told apart: {text.clean(facts.merged)}", ""))
    if facts.graded:
        parts.append((text.clean(facts.graded), ""))
    if facts.diagnosis:
        parts.append((f"diagnosis: {text.clean(facts.diagnosis)}", "yellow"))
    if facts.error:
        parts.append((text.clean(facts.error, 200), "red"))
    return parts


def _fold(parts: list[tuple[str, str]], width: int) -> Iterable[Text]:
    """The parts, with dots between them, on as few lines as they need."""
    line = Text()
    for part, style in parts:
        words = part
        if line and cell_len(line.plain) + 3 + cell_len(words) > width:
            yield line
            line = Text()
        if line:
            line.append(" · ", style="dim")
        while cell_len(words) > width > 0:
            taken = set_cell_size(words, width)
            at = max(taken.rfind(" "), 1) if " " in taken.strip() else len(taken)
            line.append(words[:at], style=style)
            yield line
            line, words = Text(), words[at:].lstrip()
        line.append(words, style=style)
    if line:
        yield line


def _rows(trace: tree.Trace) -> Iterable[_Row]:
    below_server: set[int] = set()
    for node, lasts in tree.walk(trace.roots):
        span = node.span
        if span.kind == "server" or id(node) in below_server:
            below_server.update(id(child) for child in node.children)
        rails = "".join("   " if last else "│  " for last in lasts[:-1]) + (
            ("└─ " if lasts[-1] else "├─ ") if lasts else ""
        )
        if len(lasts) > _DEEPEST:
            rails = "   " * (_DEEPEST - 1) + f"…{len(lasts)} "
        name = text.clean(about.label(span), 120)
        source, unsure = about.source(span), about.uncertainty(span)
        source_text = " ".join(
            filter(None, (text.clean(source or "", 12), text.give_or_take(*unsure) if unsure else ""))
        )
        handled = about.tokens(span)
        yield _Row(
            node=node,
            name=rails + name,
            rails=rails,
            duration=text.seconds(span.duration),
            known=source_text,
            tokens="" if handled is None else f"{text.count(handled)} tok",
            is_call=calls.is_call(node),
            is_server=id(node) in below_server,
        )


def _axis(span: float, indent: int, width: int) -> Text:
    line = [" "] * (indent + width)
    free = indent
    for position in text.ticks(span, max(3, width // 9 + 1)):
        words = text.tick(position, span)
        at = indent + min(round(position / span * width), width - len(words))
        if at >= free:
            line[at : at + len(words)] = words
            free = at + len(words) + 1
    return Text("".join(line).rstrip(), style="dim")


def _bar(row: _Row, start: int, span: int, width: int, ink: _Ink) -> Text:
    node = row.node
    style = COLOURS[about.family(node.span)]
    left = _eighths(node.span.start_ns - start, span, width)
    right = _eighths(max(node.span.end_ns, node.span.start_ns) - start, span, width)
    if ink.ascii_only:
        first = min(left // 8, width - 1)
        last = max(first + 1, round(right / 8))
        return Text(" " * first + "#" * (last - first) + " " * (width - last), style)
    if ink.coloured and not row.is_server and calls.phases(node):
        return _stacked(calls.phases(node), start, span, width, (left, right))
    return Text(_blocks(left, right, width), style=style)


def _eighths(time: int, span: int, width: int) -> int:
    """The position of a time on the axis, in eighths of a cell. All in integers: times in ns outgrow a float."""
    return min(width * 8, max(0, (time * width * 8 + span // 2) // span))


def _blocks(left: int, right: int, width: int) -> str:
    """A bar from one eighth to another; something is always seen, however short the span."""
    left = min(left, width * 8 - 1)
    right = max(right, left + 1)
    first, into = divmod(left, 8)
    last, beyond = divmod(right, 8)
    if first == last or (last == first + 1 and beyond == 0):
        if right - left <= 2 and into:
            cell = "▏" if into < 4 else "▕"
        elif into < 3:
            cell = _LEFT[right - left + into]
        else:
            cell = "▐"
        return (" " * first + cell).ljust(width)
    head = "█" if into < 3 else "▐" if into < 6 else "▕"
    tail = _LEFT[beyond] if beyond else ""
    return (" " * first + head + "█" * (last - first - 1) + tail).ljust(width)


def _stacked(phases: Sequence[tree.Node], start: int, span: int, width: int, ends: tuple[int, int]) -> Text:
    """A call's own bar, made of its phases' colours; two that meet within a cell share it."""
    plain = _blocks(*ends, width)
    edges = [(_eighths(node.span.start_ns - start, span, width), about.family(node.span)) for node in phases]
    final = _eighths(phases[-1].span.end_ns - start, span, width)
    bar = Text()
    for cell, block in enumerate(plain):
        if block == " ":
            bar.append(" ")
            continue
        at = cell * 8
        before = _family_at(edges, final, at)
        meeting = [(edge, family) for edge, family in edges if at < edge < at + 8 and family != before]
        if block == "█" and meeting:
            edge, family = meeting[-1]
            bar.append(_LEFT[edge - at], style=Style(color=COLOURS[before], bgcolor=COLOURS[family]))
        else:
            bar.append(block, style=COLOURS[before])
    return bar


def _family_at(edges: Sequence[tuple[int, str]], final: int, at: int) -> str:
    if at >= final or not edges or at < edges[0][0]:
        return "other"
    return next(family for edge, family in reversed(edges) if edge <= at)


def _right(words: str, width: int) -> str:
    return " " * max(0, width - cell_len(words)) + words


def _cut(words: str, width: int) -> str:
    return set_cell_size(set_cell_size(words, max(1, width - 1)).rstrip() + "…", width)
