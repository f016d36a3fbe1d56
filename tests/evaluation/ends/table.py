"""The table of docs/process-ends.md."""

from __future__ import annotations

from tests.evaluation.common.places import DOCS
from tests.support.ends import ALL, CASES, Case

PAGE = DOCS / "process-ends.md"
SECTION = "ends"
_HEAD = "| OpenTelemetry alone | with llmtrace | and `flush_on_sigterm` | how the process ends |"


def table() -> list[str]:
    """How many spans arrive, of the application's own one and of its calls': a line for all cases that fare alike."""
    alike: dict[str, list[str]] = {}
    for case in CASES:
        alike.setdefault(_spans(case), []).append(case.how)
    return [_HEAD, "|---" * 4 + "|", *(f"| {spans} | {'; '.join(how)} |" for spans, how in alike.items())]


def _spans(case: Case) -> str:
    spans = 1 + (1 if case.name == "waiting" else len(ALL))

    def arriving(calls: tuple[str, ...], race: bool = False) -> str:
        count = 1 + len(calls) if calls else 0  # the application's own span fares as the calls' do
        return f"0 or {spans} of {spans}" if race else f"{count} of {spans}"

    return f"{int(case.plain)} of 1 | {arriving(case.hooks, case.race)} | {arriving(case.sigterm)}"
