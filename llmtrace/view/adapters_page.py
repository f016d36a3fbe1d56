"""A run of `llmtrace bench adapters` as one self-contained page: bars in plain SVG, and all figures as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from llmtrace.version import VERSION
from llmtrace.view.bench_page import section, table
from llmtrace.view.resource import fill, head

_ROW, _LABEL, _WIDTH, _NUMBER = 26, 250, 1000, 90


def render(results: Mapping[str, Any]) -> str:
    """The page for the results of `llmtrace bench adapters`."""
    name = results["composition"]["name"]
    sections: list[str] = []
    for conflict in results["conflicts"]:
        sections += _conflict(conflict)
    sections += _shifts(results)
    notes = "".join(f"<li>{escape(sentence)}</li>" for sentence in results["says"])
    title = escape(name)
    return fill(
        "report.html",
        {
            "title": title,
            "headline": escape(f"Adapters of {results['model']}, {results['dtype']} on {results['device']}"),
            "head": head(title),
            "sections": "\n".join(sections),
            "notes": f'<ul class="notes">{notes}</ul>',
            "version": escape(VERSION),
            "input": "llmtrace bench adapters",
        },
    )


def _conflict(conflict: Mapping[str, Any]) -> list[str]:
    whole = conflict["whole"]
    title = " and ".join(conflict["adapters"])
    if whole is None:
        return [section(title, f"<p>{escape(conflict['says'])}</p>")]
    groups: Sequence[Mapping[str, Any]] = [*conflict["groups"], whole]
    bars = _bars(
        "Cosine of their changes: left against each other, right alike",
        [(each["name"], each["cosine"]) for each in groups],
    )
    chance = whole["overlap_by_chance"]
    rows = [
        [
            each["name"],
            f"{each['matrices']}",
            f"{round(each['cosine'], 3) + 0.0:.3f}",
            f"{each['signs_differ']:.1%}",
            f"{each['signs_differ_by_change']:.1%}",
            f"{each['cancelled']:.1%}",
            f"{each['overlap_outputs']:.1%}",
            f"{each['overlap_inputs']:.1%}",
            f"{each['smallest_angle_degrees']['outputs']:.1f}",
            f"{each['smallest_angle_degrees']['inputs']:.1f}",
        ]
        for each in groups
    ]
    rows.append(["by chance", "", "0", "50%", "", "", f"{chance['outputs']:.1%}", f"{chance['inputs']:.1%}", "", ""])
    heads = ["", "matrices", "cosine", "signs differ", "by change", "cancels", "same outputs", "same inputs"]
    return [section(title, bars + table([*heads, "angle of outputs, °", "of inputs, °"], rows))]


def _shifts(results: Mapping[str, Any]) -> list[str]:
    shifts: Sequence[Mapping[str, Any]] = results["shifts"]
    names = [shift["adapter"] or "the base" for shift in shifts]
    bars = _bars(
        "Tokens of its answer that all together would have chosen too",
        [(name, shift["top1"]) for name, shift in zip(names, shifts, strict=True)],
    )
    rows = [
        [
            name,
            f"{shift['top1']:.1%}",
            f"{shift['kl']:.4g}",
            f"{shift['kl_p95']:.4g}",
            f"{shift['same_answers']} of {shift['answers']}",
            f"{shift['tokens']}",
        ]
        for name, shift in zip(names, shifts, strict=True)
    ]
    heads = ["alone", "same token", "KL, nats per token", "KL, 95th percentile", "same answer", "tokens"]
    return [section("All together against each alone", bars + table(heads, rows))]


def _bars(title: str, values: Sequence[tuple[str, float]]) -> str:
    """A bar for each value, from the middle where some are below 0, else from the left."""
    least = -1.0 if any(value < 0 for _, value in values) else 0.0
    room = _WIDTH - _LABEL - _NUMBER

    def x(value: float) -> float:
        return _LABEL + (max(least, min(1.0, value)) - least) / (1 - least) * room

    height = len(values) * _ROW
    shapes = [f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="0" y2="{height}" style="stroke:var(--line)"/>']
    for place, (name, value) in enumerate(values):
        top, left = place * _ROW, min(x(0), x(value))
        colour = "--bad" if value < 0 else "--good"
        shapes.append(
            f'<text class="soft" x="{_LABEL - 10}" y="{top + 18}" text-anchor="end">{escape(name[:38])}</text>'
            f'<rect x="{left:.1f}" y="{top + 5}" width="{max(0.6, abs(x(value) - x(0))):.1f}" height="16" rx="2" '
            f'style="fill:var({colour})"><title>{escape(name)}: {value:.3f}</title></rect>'
            f'<text x="{_WIDTH - _NUMBER + 12}" y="{top + 18}">{round(value, 2) + 0.0:.2f}</text>'
        )
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}">{"".join(shapes)}</svg></figure>'
    )
