"""A run of `llmtrace bench` as one self-contained page: the roofline in plain SVG, and all figures as tables.

The roofline (Williams, Waterman and Patterson 2009) sets each piece of work by its operations per byte, and how many
operations per second it came to; above it lies what the device can do: bytes come at the copy bandwidth, operations at
the matrix rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from llmtrace.version import VERSION
from llmtrace.view.bench_formats import side_by_side
from llmtrace.view.resource import fill, head

_COLOURS = ("var(--decode)", "var(--queue)", "var(--kv_cache_hit)", "var(--prefill)", "var(--merged)")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 1000, 420, 90, 20, 16, 44


def render(results: Mapping[str, Any]) -> str:
    """The page for the results of `llmtrace bench`, also of a run that was stopped."""
    formats: Mapping[str, Any] = results["formats"]
    copy = results.get("copy_bytes_per_second")
    lines = [
        f"{name}: not measured. {measured['reason']}" for name, measured in formats.items() if "reason" in measured
    ]
    lines += [f"{name}: {measured['note']}." for name, measured in formats.items() if "note" in measured]
    if "launch_bound" in results:
        lines.append(f"Launch-bound ratio: {results['launch_bound']}.")
    if not results.get("done"):
        lines.append("The run was stopped before its end.")
    headline = f"{results['device']}, torch {results.get('torch', '')}, {results.get('threads', '')} threads"
    if copy:
        headline += f"; copy bandwidth {copy / 1e9:.1f} GB/s, read and written"
    sections = [section("Roofline", _roofline(formats, copy))] if copy else []
    heads, rows, words = side_by_side(results)
    if rows:
        sections.append(section("Weight formats side by side", table(heads, rows)))
        lines.insert(0, words)
    sections += [section(title, table(head, rows)) for title, head, rows in _tables(formats) if rows]
    if "warning" in results:
        lines.insert(0, f"Warning: {results['warning']}.")
    notes = "".join(f"<li>{escape(line)}</li>" for line in lines)
    title = escape(f"{results['model']} on {results['device']}")
    return fill(
        "report.html",
        {
            "title": title,
            "headline": escape(headline),
            "head": head(title),
            "sections": "\n".join(sections),
            "notes": f'<ul class="notes">{notes}</ul>' if notes else "",
            "version": escape(VERSION),
            "input": "llmtrace bench",
        },
    )


def section(title: str, inner: str) -> str:
    """A section of a page; nothing where it has nothing in it."""
    return f'<section><h2>{escape(title)}</h2><div class="card scroll">{inner}</div></section>' if inner else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of a page."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(value)}</td>' for value in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _tables(formats: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    prefill: list[list[str]] = []
    decode: list[list[str]] = []
    lookups: list[list[str]] = []
    compared: list[list[str]] = []
    for name, measured in formats.items():
        for row in measured.get("prefill", ()):
            prefill.append([name, f"{row['tokens']}", f"{row['tokens_per_second']:.0f}", f"{row['mfu']:.1%}"])
        for row in measured.get("decode", ()):
            bound = row["launch_bound_ratio"]
            decode.append(
                [
                    name,
                    f"{row['batch']}",
                    f"{row['context']}",
                    f"{row['tokens_per_second']:.1f}",
                    f"{row['mbu']:.1%}",
                    "n/a" if bound is None else f"{bound:.0%}",
                    f"{measured['weight_bytes'] / 1e6:.1f}",
                ]
            )
        if row := measured.get("cache_hit"):
            lookups.append([name, f"{row['tokens']}", f"{row['bytes'] / 1e6:.2f}", f"{row['seconds'] * 1e3:.3f}"])
        for key, words in (("timing", "timing on / off"), ("generate", "the runner / generate()")):
            if row := measured.get(key):
                spread = f"{row['low']:.3f} to {row['high']:.3f}"
                compared.append([name, words, f"{row['ratio']:.3f}", spread, f"{row['pairs']}"])
    return [
        ("Prefill", ["format", "tokens", "tokens/s", "MFU"], prefill),
        (
            "Decode",
            ["format", "batch", "context, tokens", "tokens/s", "MBU", "launch-bound", "weights, MB"],
            decode,
        ),
        ("Finding a cached prefix, which is shared", ["format", "tokens", "MB", "ms"], lookups),
        ("Tokens per second against each other", ["format", "what", "ratio", "quartiles", "pairs"], compared),
    ]


def _roofline(formats: Mapping[str, Any], copy: float) -> str:
    points = [
        (
            name,
            number,
            kind,
            row["flops"] / row["bytes"],
            row["flops"] / row.get("seconds", row.get("seconds_per_step")),
        )
        for number, (name, measured) in enumerate(formats.items())
        for kind in ("prefill", "decode")
        for row in measured.get(kind, ())
    ]
    if not points:
        return ""
    roofs = [
        (name, number, measured["matrix_flops_per_second"])
        for number, (name, measured) in enumerate(formats.items())
        if measured.get("prefill") or measured.get("decode")
    ]
    low_x = math.floor(math.log10(min(point[3] for point in points)))
    ridge = max(rate / copy for _, _, rate in roofs)
    high_x = math.ceil(math.log10(max(ridge * 2, *(point[3] for point in points))))
    low_y = math.floor(math.log10(min(point[4] for point in points)))
    high_y = math.ceil(math.log10(max(*(rate for _, _, rate in roofs), *(point[4] for point in points))))
    high_x, high_y = max(high_x, low_x + 1), max(high_y, low_y + 1)

    def x(value: float) -> float:
        return _LEFT + (math.log10(value) - low_x) / (high_x - low_x) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (math.log10(value) - low_y) / (high_y - low_y) * (_HEIGHT - _TOP - _BOTTOM)

    shapes: list[str] = []
    left, right, top, bottom = _LEFT, _WIDTH - _RIGHT, _TOP, _HEIGHT - _BOTTOM
    for power in range(low_x, high_x + 1):
        at = x(10.0**power)
        shapes.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom}" style="stroke:var(--grid)"/>')
        shapes.append(f'<text class="soft" x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{10.0**power:g}</text>')
    for power in range(low_y, high_y + 1):
        at = y(10.0**power)
        shapes.append(f'<line x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}" style="stroke:var(--grid)"/>')
        words = f"{10.0 ** (power - 9):g}"
        shapes.append(f'<text class="soft" x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{words}</text>')
    shapes.append(
        f'<text class="soft" x="{(left + right) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">operations per byte</text>'
        f'<text class="soft" transform="translate(16 {(top + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        "GFLOP/s</text>"
    )
    for name, number, rate in roofs:
        begin = max(10.0**low_x, 10.0**low_y / copy)
        knee = max(begin, rate / copy)
        line = " ".join(
            f"{x(at):.1f},{y(min(copy * at, rate)):.1f}" for at in (begin, knee, 10.0**high_x) if at <= 10.0**high_x
        )
        shapes.append(
            f'<polyline points="{line}" fill="none" stroke-width="2" style="stroke:{_colour(number)}">'
            f"<title>{escape(name)}: at most {rate / 1e9:.1f} GFLOP/s</title></polyline>"
        )
    for name, number, kind, intensity, speed in points:
        label = escape(f"{name} {kind}: {intensity:.2f} operations per byte, {speed / 1e9:.2f} GFLOP/s")
        style = (
            f"fill:{_colour(number)}" if kind == "prefill" else f"fill:none;stroke-width:2.5;stroke:{_colour(number)}"
        )
        shapes.append(
            f'<circle cx="{x(intensity):.1f}" cy="{y(speed):.1f}" r="6" style="{style}"><title>{label}</title></circle>'
        )
    key = "".join(f'<span><i style="--c:{_colour(number)}"></i>{escape(name)}</span>' for name, number, _ in roofs)
    caption = "Lines: what the device can do. Full circles: prefill. Rings: decode. Both axes are logarithmic."
    return (
        f'<figure><figcaption>{caption}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Roofline">{"".join(shapes)}</svg><div class="key">{key}</div></figure>'
    )


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]
