"""One self-contained page of waterfalls: inline style and script, no request to anywhere."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from html import escape
from pathlib import Path

from llmtrace.analyze.otlp import Span
from llmtrace.errors import LlmtraceError
from llmtrace.version import VERSION
from llmtrace.view import about, calls, palette, resource, text, tree
from llmtrace.whole_file import write_text

_MOST_DEPTH = 6
_MANY = 100


def write_html(
    spans: Iterable[Span],
    path: str | os.PathLike[str],
    title: str,
    table: text.Table | None = None,
    *,
    lede: str = "",
    titles: Mapping[str, str] | None = None,
) -> Path:
    """Write the page and return its path.

    ``table`` stands above the waterfalls; ``lede`` is a sentence under the title; ``titles`` names traces by their id,
    where a name says more than the root span's.
    """
    path = Path(path)
    page = render(tree.build(spans), title, table, lede=lede, titles=titles)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, page, errors="replace")
    except OSError as error:
        raise LlmtraceError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def render(
    traces: Sequence[tree.Trace],
    title: str,
    table: text.Table | None = None,
    *,
    lede: str = "",
    titles: Mapping[str, str] | None = None,
) -> str:
    """The page as a string."""
    script = resource.read("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    all_calls = [call for trace in traces for call in calls.calls(trace.roots)]
    heading = text.plural(len(all_calls), "call") if all_calls else text.plural(len(traces), "trace")
    parts = {
        "title": _e(title),
        "lede": _e(lede or "Where each call's time went, how it is known, and how sure that is."),
        "when": _when(traces, all_calls),
        "overview": _overview(traces, all_calls),
        "table": "" if table is None else _table(table),
        "calls-heading": heading,
        "calls-class": ' class="many-calls"' if len(traces) > _MANY else "",
        "calls": "\n".join(_card(trace, (titles or {}).get(trace.trace_id)) for trace in traces),
        "version": _e(VERSION),
        "head": resource.head(_e(title), f"sha256-{digest}"),
        "script": script,
    }
    return resource.fill("page.html", parts)


def _e(words: str) -> str:
    return escape(text.clean(words, 4000), quote=True)


def _seconds(value: float) -> str:
    """A duration that does not break between its number and its unit."""
    return text.seconds(value).replace(" ", "\N{NO-BREAK SPACE}")


def _give_or_take(unsure: tuple[float, float]) -> str:
    return text.give_or_take(*unsure).replace(" ", "\N{NO-BREAK SPACE}")


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole if whole else 0:.4g}%"


# The top


def _when(traces: Sequence[tree.Trace], all_calls: Sequence[tree.Node]) -> str:
    if not traces:
        return ""
    parts: list[str] = []
    try:
        start = datetime.fromtimestamp(traces[0].start_ns // 1_000_000_000, timezone.utc)
        parts.append(f"{start.day} {start:%B %Y, %H:%M:%S} UTC")
    except (OverflowError, ValueError, OSError):
        pass
    models = list(dict.fromkeys(filter(None, (calls.facts(call).model for call in all_calls))))
    if models:
        parts.append(", ".join(_e(text.clean(model, 80)) for model in models[:3]) + (" …" if len(models) > 3 else ""))
    parts.append(text.plural(len(all_calls), "call") if all_calls else text.plural(len(traces), "trace"))
    return " · ".join(parts)


def _overview(traces: Sequence[tree.Trace], all_calls: Sequence[tree.Node]) -> str:
    sums: dict[str, float] = {}
    sources: set[str] = set()
    for call in all_calls:
        for node in calls.phases(call):
            kind = about.phase(node.span) or ""
            kind = kind if about.family(node.span) == "merged" else about.family(node.span)
            sums[kind] = sums.get(kind, 0.0) + node.span.duration
            sources.add(about.source(node.span) or "")
    total = sum(sums.values())
    if not total:
        return ""
    order = (
        "network", "gateway", "unattributed", "model_load", "queue", "kv_cache_hit", "prefill", "queue_prefill",
        "decode", "opaque",
    )  # fmt: skip
    bars: list[str] = []
    terms: list[str] = []
    for kind in order:
        if kind not in sums:
            continue
        spent, css = sums[kind], _css(kind)
        share = 100 * spent / total
        share_text = f"{share:.0f}%" if share >= 9.5 else f"{share:.1f}%" if share >= 0.05 else "<0.1%"
        label = palette.LABELS[kind]
        bars.append(f'<i class="{css}" style="--share:{share:.4f}" title="{label}: {_seconds(spent)}"></i>')
        terms.append(
            f'<div><dt><span class="dot {css}"></span>{label}</dt>'
            f'<dd class="num">{_seconds(spent)}<small>{escape(share_text)}</small></dd></div>'
        )
    key = "".join(
        f'<li><span class="glyph {name}"></span><span><b>{name}</b> {meaning}</span></li>'
        for name, meaning in palette.SOURCES.items()
        if name in sources
    )
    return (
        '<section class="card overview" aria-label="Where the time went"><h2>Where the time went</h2>'
        f'<p class="about num">{_seconds(total)} in {text.plural(len(all_calls), "call")}, by phase.</p>'
        f'<div class="whole" aria-hidden="true">{"".join(bars)}</div><dl class="sums">{"".join(terms)}</dl>'
        + (f'<ul class="key" aria-label="How it is known">{key}</ul>' if key else "")
        + "</section>"
    )


def _css(kind: str) -> str:
    return palette.PHASE_CLASSES.get(kind) or palette.CLASSES[kind]


def _table(table: text.Table) -> str:
    groups: list[str] = []
    labels = list(table.columns)
    edges: dict[int, str] = {}
    at = 1
    for heading, number in table.groups:
        groups.append(
            f'<th class="group edge" colspan="{number}" scope="colgroup"><span>{_heading(heading)}</span></th>'
        )
        edges[at] = heading
        at += number

    def css(column: int, cell: str | None = "") -> str:
        names = " ".join(filter(None, ("edge" if column in edges else "", "none" if cell is None else "")))
        return f' class="{names}"' if names else ""

    head = "".join(f'<th scope="col"{css(column)}>{_heading(name)}</th>' for column, name in enumerate(table.columns))
    if groups:
        columns_left = max(0, len(table.columns) - at)
        head = f"<tr><th></th>{''.join(groups)}{'<th></th>' * columns_left}</tr><tr>{head}</tr>"
    else:
        head = f"<tr>{head}</tr>"
    body: list[str] = []
    for row in table.rows:
        cells = [f'<th scope="row">{_e(row[0] or "")}</th>'] if row else []
        for column, cell in enumerate(row[1:], 1):
            if edges.get(column):
                cells.append(f'<td class="over" aria-hidden="true">{_heading(edges[column])}</td>')
            label = _e(labels[column]) if column < len(labels) else ""
            cells.append(f'<td data-label="{label}"{css(column, cell)}>{text.DASH if cell is None else _e(cell)}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    title = f"<h2>{_e(table.title)}</h2>" if table.title else ""
    note = f'<p class="note">{_e(table.note)}</p>' if table.note else ""
    many = ' class="many"' if len(table.columns) > 9 else ""
    return (
        f'<section>{title}<div class="card compare"><table{many}><thead>{head}</thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>{note}</section>"
    )


_NAMED = {"cache": "kv_cache_hit", "kv_cache_hit": "kv_cache_hit", "queue_prefill": "queue_prefill"} | {
    palette.LABELS[family].replace(" ", ""): family
    for family in ("network", "gateway", "unattributed", "model_load", "queue", "kv_cache_hit", "prefill", "decode")
}


def _heading(heading: str) -> str:
    """A heading of the table; one that names a phase has the phase's colour beside it."""
    kind = _NAMED.get(heading.strip().lower().replace(" ", "").replace("+", "_"))
    return (f'<span class="dot {_css(kind)}"></span>' if kind else "") + _e(heading)


# A trace


def _card(trace: tree.Trace, title: str | None) -> str:
    trace_calls = list(calls.calls(trace.roots))
    root = trace.roots[0]
    only = trace_calls[0] if len(trace_calls) == 1 else None
    duration = (trace.end_ns - trace.start_ns) / 1e9
    if only is not None and only is root and len(trace.roots) == 1:
        duration = calls.duration(only)
    heading = title or root.span.name or "(no name)"
    sub: list[str] = []
    if only is not None:
        facts = calls.facts(only)
        name = only.span.name if title else ""
        model = facts.model if facts.model and facts.model not in (name or heading) else ""
        sub = [item for item in (name, model, facts.provider, facts.server) if item]
        sub += [f"via {facts.upstream}"] if facts.upstream else []
    elif trace_calls:
        sub = [text.plural(len(trace_calls), "call")]
    sub.append(f"trace {trace.trace_id[:16]}")
    return (
        f'<article class="card call"><header><div><h3>{_e(heading)}</h3>'
        f'<p class="sub">{" · ".join(map(_e, sub))}</p></div>'
        f'<div class="total num">{_seconds(duration)}</div></header>'
        f"{_facts(only) if only is not None else ''}{_fall(trace)}{_odd(trace)}</article>"
    )


def _facts(call: tree.Node) -> str:
    facts = calls.facts(call)
    items: list[str] = []
    if facts.outcome:
        css = palette.TONES.get(facts.outcome, palette.OTHER_TONE)
        items.append(f'<li><span class="pill {css}">{_e(facts.outcome.replace("_", " "))}</span></li>')
    if facts.ttft is not None:
        name = "first chunk" if facts.ttft_is_chunk else "TTFT"
        items.append(f'<li class="num">{name} <b>{_seconds(facts.ttft)}</b></li>')
    if facts.input_tokens is not None:
        cached = f" ({text.count(facts.cached_tokens)} cached)" if facts.cached_tokens else ""
        items.append(f'<li class="num"><b>{text.count(facts.input_tokens)}</b> tokens in{cached}</li>')
    if facts.output_tokens is not None:
        thought = f" ({text.count(facts.reasoning_tokens)} reasoning)" if facts.reasoning_tokens else ""
        items.append(f'<li class="num"><b>{text.count(facts.output_tokens)}</b> tokens out{thought}</li>')
    if facts.decode_rate is not None:
        items.append(f'<li class="num"><b>{facts.decode_rate:.{0 if facts.decode_rate >= 100 else 1}f}</b> tok/s</li>')
    if facts.attempts > 1:
        items.append(f'<li class="num"><b>{facts.attempts}</b> attempts</li>')
    if facts.again:
        items.append(f"<li>{_e(facts.again)}</li>")
    wrong = f'<p class="wrong">{_e(facts.error)}</p>' if facts.error else ""
    why = f'<p class="why">Diagnosis: {_e(facts.diagnosis)}</p>' if facts.diagnosis else ""
    merged = f'<p class="apart">Not told apart: {_e(facts.merged)}</p>' if facts.merged else ""
    graded = f'<p class="apart">{_e(_capital(facts.graded))}</p>' if facts.graded else ""
    lost = f'<p class="apart">{_e(facts.lost)}</p>' if facts.lost else ""
    return f'<ul class="facts">{"".join(items)}</ul>{wrong}{why}{lost}{merged}{graded}'


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _fall(trace: tree.Trace) -> str:
    start = trace.start_ns
    length = max(1, trace.end_ns - start)
    ticks = text.ticks(length / 1e9, 6)
    axis: list[str] = []
    lines: list[str] = []
    for at in ticks:
        share = at / (length / 1e9)
        last = ' class="last"' if share > 0.94 else ""
        axis.append(f'<span{last} style="--x:{100 * share:.3f}%">{text.tick(at, length / 1e9)}</span>')
        lines.append(f'<i style="--x:{100 * share:.3f}%"></i>')
    rows = "".join(_row(trace, node, len(lasts), start, length) for node, lasts in tree.walk(trace.roots))
    return (
        f'<div class="fall"><div class="axis" aria-hidden="true">{"".join(axis)}</div>'
        f'<div class="lines" aria-hidden="true">{"".join(lines)}</div>{rows}</div>'
    )


def _row(trace: tree.Trace, node: tree.Node, depth: int, start: int, length: int) -> str:
    span = node.span
    family = about.family(span)
    kind = about.phase(span)
    css = _css(kind if family == "merged" and kind else family)
    source, unsure, handled = about.source(span), about.uncertainty(span), about.tokens(span)
    is_call = calls.is_call(node)
    names = " ".join(
        filter(None, ("row", "top" if is_call or not depth else "", "failed" if span.status.code == "error" else ""))
    )
    glyph = f'<span class="glyph {source if source in palette.SOURCES else "unknown"}"></span>' if source else ""
    source_cell = f"{glyph}{_e(source or '')}" + (f"<small>{_give_or_take(unsure)}</small>" if unsure else "")
    dot = "" if is_call else f'<span class="dot {css}{" hollow" if family == "attempt" else ""}"></span>'
    aria_label = f"{_seconds((span.start_ns - start) / 1e9)} after the start"
    return (
        f'<details class="{names}" style="--depth:{min(depth, _MOST_DEPTH)}"><summary>'
        f'<span class="name">{dot}<span>{_e(about.label(span))}</span></span>'
        f'<span class="track" role="img" aria-label="{aria_label}">{_bar(node, family, css, start, length)}</span>'
        f'<span class="dur">{_seconds(span.duration)}</span><span class="known">{source_cell}</span>'
        f'<span class="tok">{"" if handled is None else f"{text.count(handled)} tok"}</span></summary>'
        f"{_more(trace, node, depth)}</details>"
    )


def _bar(node: tree.Node, family: str, css: str, start: int, length: int) -> str:
    span = node.span
    own = max(0, span.end_ns - span.start_ns)
    inside = calls.phases(node) if calls.is_call(node) else []
    if inside:
        base = max(1, own)
        pieces = "".join(_pieces(span, inside, base))
        backing = '<i class="of-other" style="--x:0%;--w:100%"></i>' if inside[0].span.parent_id != span.span_id else ""
        return f'<span class="ribbon" style="{_place(span.start_ns - start, own, length)}">{backing}{pieces}</span>'
    names = [css]
    if family == "attempt":
        names.append("hollow")
    if about.source(span) == "estimate":
        names.append("estimate")
    if (span.start_ns - start) / length > 0.99:
        names.append("tail")
    bar = f'<b class="{" ".join(names)}" style="{_place(span.start_ns - start, own, length)}"></b>'
    unsure = about.uncertainty(span)
    if unsure and sum(unsure) * 1e9 / length > 0.004:
        left = max(0.0, span.end_ns - start - unsure[0] * 1e9)
        right = min(float(length), span.end_ns - start + unsure[1] * 1e9)
        bar += f'<span class="whisker" style="{_place(left, max(0.0, right - left), length)}"></span>'
    return bar


def _pieces(call: Span, phases: Sequence[tree.Node], base: int) -> Iterable[str]:
    """The phases inside a call's bar. An adopted span may end before its call does: what lies beyond is cut off."""
    for phase in phases:
        left, right = (min(base, max(0, at - call.start_ns)) for at in (phase.span.start_ns, phase.span.end_ns))
        place = f"--x:{_percent(left, base)};--w:{_percent(max(0, right - left), base)}"
        yield f'<i class="{_css(_piece(phase.span))}" style="{place}"></i>'


def _piece(span: Span) -> str:
    family = about.family(span)
    return (about.phase(span) or family) if family == "merged" else family


def _place(left: float, width: float, length: int) -> str:
    return f"--x:{_percent(left, length)};--w:{_percent(width, length)}"


def _more(trace: tree.Trace, node: tree.Node, depth: int) -> str:
    span = node.span
    source, unsure = about.source(span), about.uncertainty(span)
    lines = [f"<b>{_e(span.name or '(no name)')}</b>", _seconds(span.duration)]
    if unsure:
        lines[-1] += f" {_give_or_take(unsure)}"
    lines.append(f"starts at {_seconds((span.start_ns - trace.start_ns) / 1e9)}")
    if source in palette.SOURCES:
        lines.append(f"{source}: {palette.SOURCES[source]}")
    if calls.is_call(node) and abs(calls.duration(node) - span.duration) > 0.005 * span.duration:
        lines.append(f"the call itself took {_seconds(calls.duration(node))}; this span is another instrumentation's")
    parts = [f'<p class="plainly num">{" · ".join(lines)}</p>']
    because = about.merged_because(span)
    if because:
        parts.append(f'<p class="plainly">Not told apart: {_e(because)}</p>')
    if blind := about.blind(span.attributes):
        parts.append(f'<p class="plainly">{_e(_capital(blind))}</p>')
    wrong = about.error(span)
    if wrong:
        parts.append(f'<p class="wrong">{_e(wrong)}</p>')
    parts.append(_pairs({**span.attributes}))
    for event in span.events:
        offset = _seconds((event.time_ns - span.start_ns) / 1e9)
        parts.append(f"<h4>{_e(event.name)} at {offset}</h4>{_pairs(event.attributes)}")
    identity = {"span id": span.span_id, "kind": span.kind}
    if span.scope.name:
        identity["made by"] = f"{span.scope.name} {span.scope.version}".strip()
    parts.append(f"<h4>Span</h4>{_pairs(identity)}")
    if not depth and span.resource:
        parts.append(f"<h4>Resource</h4>{_pairs(span.resource)}")
    return f'<div class="more">{"".join(parts)}</div>'


def _pairs(items: Mapping[str, object]) -> str:
    if not items:
        return ""
    rows = "".join(f"<dt>{_e(key)}</dt><dd>{_e(text.value(item))}</dd>" for key, item in items.items())
    return f'<dl class="pairs">{rows}</dl>'


def _odd(trace: tree.Trace) -> str:
    return "".join(f'<p class="odd">{_e(line)}</p>' for line in tree.oddities(trace))
