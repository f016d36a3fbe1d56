"""docs/frameworks.md: each framework's row, from what its runs showed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.e2e.frameworks import seen
from tests.e2e.frameworks.table import FRAMEWORKS
from tests.e2e.servers import ROOT

if TYPE_CHECKING:
    from tests.e2e.frameworks.__main__ import Result, Run

PAGE = ROOT / "docs" / "frameworks.md"
_BEGIN, _END = "<!-- make frameworks -->\n", "<!-- end -->"
_HEAD = [
    "| framework | seen | traced in | its streams' usage | its own tracing | with both on |",
    "|---|---|---|---|---|---|",
]


def record(result: Result) -> None:
    """Put the framework's row in the place of its earlier one."""
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    table, _, after = rest.partition(_END)
    rows = {line.split("|")[1].strip(): line for line in table.splitlines()[2:]}
    rows[result.framework.name] = f"| {' | '.join(_cells(result))} |"
    lines = [*_HEAD, *(rows[each.name] for each in FRAMEWORKS if each.name in rows)]
    PAGE.write_text(before + _BEGIN + "\n".join(lines) + "\n" + _END + after)


def _cells(result: Result) -> list[str]:
    framework = result.framework
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    if result.faults or result.traced is None:
        reason = re.sub(r"/\S+/", "", " ".join("; ".join(result.faults).split()))
        reason = reason[-300:].replace("|", "/").replace("<", "&lt;")
        return [
            framework.name,
            versions,
            framework.beneath,
            f"a fault: {reason}",
            framework.own or "none",
            "",
        ]
    return [
        framework.name,
        versions,
        framework.beneath,
        _usage(result.traced, framework.usage, framework.hops),
        framework.own or "none",
        _both(seen.beside(result.both.spans, result.both.answers, framework.hops)) if result.both else "",
    ]


def _usage(traced: Run, switch: str, hops: int) -> str:
    if hops == 2:
        return switch
    by_case = {answer.case: answer for answer in traced.answers if answer.streamed}
    if (plain := by_case.get("streamed")) is None:
        return "no streams"
    if plain.told_usage:
        return "asked for by itself"
    if (asked := by_case.get("asked")) is not None and asked.told_usage:
        return switch
    return "not asked for"


def _both(beside: seen.Beside) -> str:
    own = beside.calls - beside.adopted - beside.beneath
    parts = [f"{beside.adopted} adopted", f"{beside.beneath} as `llm.call` beneath its span", f"{own} of llmtrace's"]
    counts = [beside.adopted, beside.beneath, own]
    told = [part for part, count in zip(parts, counts, strict=True) if count]
    told += [f"**{beside.doubled} told by two spans**"] if beside.doubled else []
    told += [f"**{beside.silent} whose tokens no span tells**"] if beside.silent else []
    return ", ".join(told)
