"""The confusion matrices as one SVG that follows the reader's light or dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from llmtrace.diagnosis.verdict import CAUSES
from llmtrace.view import palette
from tests.evaluation.diagnosis.trials import Trial

NOTHING = "nothing"
_CELL, _LEFT, _TOP, _GAP = 30, 130, 170, 60


def matrix(trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
    """Injected -> named -> share of the episodes; an episode in which two causes were named counts in both."""
    shares: dict[str, dict[str, float]] = {}
    for cause in CAUSES:
        mine = [trial for trial in trials if trial.truth == (cause,)]
        for trial in mine:
            for name in trial.verdict or (NOTHING,):
                row = shares.setdefault(cause, {})
                row[name] = row.get(name, 0.0) + 1 / len(mine)
    return shares


def draw(parts: Sequence[tuple[str, Sequence[Trial]]]) -> str:
    """One matrix per (title, trials), one above the other."""
    columns = [*CAUSES, NOTHING]
    high = _TOP + len(CAUSES) * _CELL + _GAP
    width, height = _LEFT + len(columns) * _CELL + 90, high * len(parts)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-label="Which cause was injected and which was named">',
        f"<style>{palette.css()}\ntext {{ font: 12px var(--sans); fill: var(--ink) }} .soft {{ fill: var(--soft) }}"
        " .cell { fill: var(--prefill) } .in { fill: #fff }</style>",
        '<rect width="100%" height="100%" style="fill:var(--card)"/>',
    ]
    for number, (title, trials) in enumerate(parts):
        out.append(f'<g transform="translate(0 {number * high})">')
        out.append(f'<text x="12" y="26" style="font-weight:600">{escape(title)}</text>')
        out.append(f'<text class="soft" x="12" y="{_TOP - 10}">injected ↓</text>')
        for place, name in enumerate(columns):
            at = _LEFT + place * _CELL + _CELL / 2 + 4
            out.append(f'<text class="soft" transform="translate({at} {_TOP - 8}) rotate(-60)">{name}</text>')
        out += _rows(columns, matrix(trials))
        out.append("</g>")
    return "\n".join([*out, "</svg>"]) + "\n"


def _rows(columns: Sequence[str], shares: dict[str, dict[str, float]]) -> list[str]:
    out: list[str] = []
    for place, cause in enumerate(CAUSES):
        y = _TOP + place * _CELL
        out.append(f'<text x="{_LEFT - 8}" y="{y + 20}" text-anchor="end">{cause}</text>')
        for across, name in enumerate(columns):
            x, share = _LEFT + across * _CELL, shares.get(cause, {}).get(name, 0.0)
            edge = f'x="{x}" y="{y}" width="{_CELL}" height="{_CELL}"'
            out.append(f'<rect {edge} style="fill:none;stroke:var(--grid)"/>')
            if share:
                title = f"<title>{cause} named {name}: {share:.0%}</title>"
                out.append(f'<rect class="cell" {edge} fill-opacity="{0.15 + 0.85 * share:.2f}">{title}</rect>')
                dark = ' class="in"' if share > 0.5 else ""
                out.append(
                    f'<text{dark} x="{x + _CELL / 2}" y="{y + 20}" text-anchor="middle">{100 * share:.0f}</text>'
                )
    return out
