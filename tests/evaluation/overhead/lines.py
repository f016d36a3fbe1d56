"""Where a concurrent call's work is: the lines of llmtrace that it runs, by package and by function.

``python -m tests.evaluation.overhead.lines STREAMS`` plays so many streams in memory, on a clock of their own. A count
of lines is the same however busy the machine is, and shows at once what grows with the calls in flight; it says nothing
of what one line costs.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

from tests.evaluation.common.places import PACKAGE
from tests.evaluation.common.tables import Table
from tests.evaluation.overhead import inmemory

SHOWN = 30
"""Functions in the table."""
_KNOWN = 150
"""Calls before the counted ones, at least: by then the estimator knows the route."""
_INSIDE = f"{PACKAGE}/"


def count(streams: int) -> dict[str, float]:
    """Lines a call, by ``file:function``."""
    with inmemory.concurrent_calls(streams) as action:
        for _ in range(1 + _KNOWN // streams):
            action()
        lines = run_by(action)
    return {name: count / streams for name, count in lines.most_common()}


def run_by(action: Callable[[], object]) -> Counter[str]:
    """The lines of llmtrace that ``action`` runs, by ``file:function``."""
    lines: Counter[str] = Counter()

    def within(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        if event == "line":
            lines[f"{frame.f_code.co_filename.removeprefix(_INSIDE)}:{frame.f_code.co_name}"] += 1
        return within

    def everywhere(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        return within if frame.f_code.co_filename.startswith(_INSIDE) else None

    before = sys.gettrace()
    sys.settrace(everywhere)
    try:
        action()
    finally:
        sys.settrace(before)
    return lines


def tables(lines: dict[str, float]) -> list[Table]:
    """The packages, and the functions that run most lines."""
    packages: Counter[str] = Counter()
    for name, number in lines.items():
        packages[name.partition("/")[0]] += number  # type: ignore[assignment]
    return [
        Table("Lines of llmtrace a call", [title, "lines"], [[name, f"{number:,.0f}"] for name, number in rows])
        for title, rows in (
            ("package", [("all", sum(lines.values())), *packages.most_common()]),
            ("function", list(lines.items())[:SHOWN]),
        )
    ]


def main() -> None:
    """Count and print."""
    from rich.console import Console

    inmemory.switched_on(inmemory.ALL_PHASES)
    for table in tables(count(int(sys.argv[1]) if sys.argv[1:] else 100)):
        table.show(Console())


if __name__ == "__main__":
    main()
