"""The report: only what is wrong with the command that mends it, or everything that was looked at."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmtrace.doctor import clients, export, merged, packages, variables
from llmtrace.doctor.findings import Finding, Mark
from llmtrace.wording import clean, lines

_SYMBOLS: dict[Mark, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "note": ("·", "dim"),
    "missing": ("!", "yellow"),
    "broken": ("✗", "red"),
}
_ASCII = {"✓": "+", "·": "-", "!": "!", "✗": "x"}
_WRONG: tuple[Mark, ...] = ("missing", "broken")
_PHASES = "Phases"
_WIDEST_NAME = 40


@dataclass(slots=True)
class Report:
    """Findings by section."""

    sections: dict[str, list[Finding]] = field(default_factory=dict[str, list[Finding]])
    summary: list[str] = field(default_factory=list[str])
    """What is traced and where spans go, a sentence each."""

    @property
    def tracing_possible(self) -> bool:
        """Whether a call made here could leave a span at all."""
        return not any(finding.mark == "broken" for finding in self.all())

    def all(self) -> Iterator[Finding]:
        """Every finding."""
        for findings in self.sections.values():
            yield from findings


def examine(
    environ: Mapping[str, str] | None = None, traces: Path | None = None, *, everything: bool = False
) -> Report:
    """Look around; imports nothing heavy but torch, and that only for ``everything`` and where it is installed.

    ``traces``: a file of spans, of which it is told what keeps their phases merged.

    Raises:
        LlmtraceError: that file cannot be read.
    """
    environ = os.environ if environ is None else environ
    phases = [*merged.of_traces(traces), *merged.of_baseline(environ)]
    hooked = list(clients.examine(environ))
    spans = export.examine(environ)
    return Report(
        {
            **({_PHASES: phases} if phases else {}),
            "Installed": list(packages.examine()),
            "Clients": hooked,
            "Export": spans.findings,
            "Settings": list(variables.examine(environ)),
            "Device": list(packages.device(ask=everything)),
        },
        [clients.summary(hooked), spans.summary],
    )


def run(
    console: Any, environ: Mapping[str, str] | None = None, traces: Path | None = None, *, everything: bool = False
) -> int:
    """Print the report on a rich console. 1 if something makes tracing impossible, else 0.

    ``everything``: what is fine as well; otherwise only what is wrong, and the phases of what was asked for.
    """
    from rich.text import Text

    report = examine(environ, traces, everything=everything)
    sections = report.sections
    if not everything:
        wrong = [finding for name, each in sections.items() for finding in each if _is_told(name, finding)]
        sections = {_PHASES: sections[_PHASES]} if _PHASES in sections else {}
        if wrong:
            sections["Wrong or missing"] = wrong
    for title, findings in sections.items():
        _print(console, title, findings)
    _print_mends(console, [finding for findings in sections.values() for finding in findings])
    for sentence in report.summary:
        for line in lines(sentence, console.width):
            console.print(Text(line), soft_wrap=True)
    if not everything:
        for line in lines("llmtrace doctor --all lists everything that was looked at.", console.width):
            console.print(Text(line, style="dim"), soft_wrap=True)
    if report.tracing_possible:
        traced = any(finding.mark == "ok" for finding in report.sections["Clients"])
        until = "" if traced else ", once a client library is installed"
        console.print(Text(f"Tracing is possible here{until}.", style="green"), soft_wrap=True)
        return 0
    console.print(Text("Tracing is not possible here: see what is marked as broken above.", style="red"))
    return 1


def _is_told(section: str, finding: Finding) -> bool:
    return section != _PHASES and finding.mark in _WRONG


def _print(console: Any, title: str, findings: list[Finding]) -> None:
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    width = min(_WIDEST_NAME, max((len(finding.name) for finding in findings), default=0))
    console.print(Text(title, style="bold"))
    for finding in findings:
        symbol, style = _SYMBOLS[finding.mark]
        mark = Text.assemble("  ", (_ASCII[symbol] if console.options.ascii_only else symbol, style))
        name, detail = clean(finding.name.ljust(width), 4000), clean(finding.detail, 4000)
        if console.is_terminal and cell_len(name) + cell_len(detail) + 6 > console.width:
            # A narrow terminal: what does not fit goes on below the detail. A file keeps each finding in one line.
            row = Table.grid(padding=(0, 2, 0, 0))
            row.add_row(Text.assemble(mark, f" {name}"), Text(detail))
            console.print(row)
            continue
        line = Text.assemble(mark, f" {name}  {detail}")
        console.print(Text(line.plain.rstrip(), spans=line.spans), soft_wrap=True)
    console.print()


def _print_mends(console: Any, findings: list[Finding]) -> None:
    """Each command once, with what it mends."""
    from rich.text import Text

    by_command: dict[str, list[str]] = {}
    for finding in findings:
        if finding.fix and finding.mark in _WRONG and finding.name not in by_command.setdefault(finding.fix, []):
            by_command[finding.fix].append(finding.name)
    if not by_command:
        return
    console.print(Text("To mend", style="bold"))
    for command, names in by_command.items():
        console.print(Text.assemble("  ", command, (f"  # {', '.join(names)}", "dim")), soft_wrap=True)
    console.print()
