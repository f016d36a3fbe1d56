"""The table of docs/process-ends.md."""

from __future__ import annotations

from tests.evaluation.common.places import DOCS
from tests.support.ends import ALL, CASES, Case

PAGE = DOCS / "process-ends.md"
SECTION = "ends"
_HEAD = "| how the process ends | OpenTelemetry alone | with llmtrace | and `flush_on_sigterm` |"


def table() -> list[str]:
    """A line for each case: how many spans arrive, of the application's own one and of its calls'."""
    return [_HEAD, "|---" * 4 + "|", *map(_row, CASES)]


def _row(case: Case) -> str:
    spans = 1 + (1 if case.name == "waiting" else len(ALL))

    def arriving(calls: tuple[str, ...], race: bool = False) -> str:
        count = 1 + len(calls) if calls else 0  # the application's own span fares as the calls' do
        return f"0 or {spans} of {spans}" if race else f"{count} of {spans}"

    cells = [case.how, f"{int(case.plain)} of 1", arriving(case.hooks, case.race), arriving(case.sigterm)]
    return f"| {' | '.join(cells)} |"
