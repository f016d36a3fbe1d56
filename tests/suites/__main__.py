"""``python -m tests.suites [openai anthropic==2.13.0 ...]``: the clients' own suites, bare and with llmtrace on.

Each suite comes from the client's source distribution and runs unchanged, twice, against the same stand-in for the
API (``standin.py``). What passes bare must pass traced. A test that does not is run again by itself, both ways, twice:
what differs each time counts. Exits with 1 if such a test is not listed in ``inherent.py``, or if anything failed in
llmtrace and was caught.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.suites.clients import HOME, SUITES, Ready, prepare
from tests.suites.inherent import INHERENT

HERE = Path(__file__).resolve().parent
HOWS = ("bare", "traced")
AGAIN = 2
"""How often a test that differs is run once more."""


@dataclass
class Result:
    """What came of one suite."""

    ready: Ready
    bare: dict[str, str]
    traced: dict[str, str]
    broken: list[str] = field(default_factory=list)
    """Pass bare, fail traced, each time."""
    inherent: list[str] = field(default_factory=list)
    unsteady: list[str] = field(default_factory=list)
    """Differed once, and not when run again."""
    calls: Counter[str] = field(default_factory=Counter)
    internal_errors: dict[str, dict[str, int]] = field(default_factory=dict)
    """What failed in llmtrace and was caught, by test."""
    left_open: int = 0

    @property
    def unexplained(self) -> dict[str, dict[str, int]]:
        """Mishaps that no inherent test brings about."""
        return {test: places for test, places in self.internal_errors.items() if test not in self.inherent}

    def count(self, outcome: str, runs: dict[str, str]) -> int:
        """How many tests of ``runs`` ended so."""
        return sum(each == outcome for each in runs.values())

    @property
    def both(self) -> list[str]:
        """Fail bare and traced."""
        return [test for test, outcome in self.bare.items() if outcome == "failed" == self.traced.get(test)]

    @property
    def only_bare(self) -> list[str]:
        """Fail bare and not traced: unsteady by themselves."""
        return [test for test, outcome in self.bare.items() if outcome == "failed" != self.traced.get(test)]


class Runner:
    """Runs suites, showing how far they are."""

    def __init__(
        self, console: Console, progress: Progress, workers: int, arguments: Sequence[str], resume: bool
    ) -> None:
        self.console, self.progress, self.resume = console, progress, resume
        self.workers, self.arguments = workers, arguments
        self.api = ""
        """Where the suite finds its API."""

    def go(self, name: str, version: str | None) -> Result:
        """One suite, both ways."""
        ready = prepare(name, version, self.console.print)
        with _standin(ready) as self.api:
            runs = {how: self._kept(name, how) or self._run(ready, name, how, self.arguments) for how in HOWS}
            result = Result(ready, runs["bare"], runs["traced"])
            _read_own(HOME / name / "traced", result)
            differ = [test for test, outcome in result.bare.items() if outcome == "passed" != result.traced.get(test)]
            sure = differ
            for _ in range(AGAIN):
                if sure:
                    again = {how: self._run(ready, name, f"{how}-again", sure, 1) for how in HOWS}
                    sure = [test for test in sure if again["bare"].get(test) == "passed" != again["traced"].get(test)]
        known = INHERENT.get(name, {})
        result.unsteady = [test for test in differ if test not in sure]
        result.inherent = [test for test in sure if test.partition("[")[0] in known]
        result.broken = [test for test in sure if test not in result.inherent]
        return result

    def _kept(self, name: str, how: str) -> dict[str, str]:
        """The outcomes of an earlier run, where they may be used again."""
        outcomes = HOME / name / how / "outcomes.json"
        return json.loads(outcomes.read_text()) if self.resume and outcomes.exists() else {}

    def _run(
        self, ready: Ready, name: str, how: str, arguments: Sequence[str], workers: int | None = None
    ) -> dict[str, str]:
        out = HOME / name / how
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        traced = how.startswith("traced")
        surroundings = {
            **os.environ,
            "PYTHONPATH": str(HERE / "plugins"),
            "LLMTRACE_SUITES_OUT": str(out),
            "LLMTRACE_SUITES_TRACED": "1" if traced else "0",
            "TEST_API_BASE_URL": self.api,
        }
        (out / "arguments").write_text("\n".join(arguments))
        count = self.workers if workers is None else workers
        command = [str(ready.python), "-m", "pytest", "-p", "llmtrace_suites", "-n", str(count)]
        command += [f"@{out / 'arguments'}"] if arguments else []
        task = self.progress.add_task(f"{name} {ready.version} {how}", total=100)
        with (out / "log").open("w") as log:
            running = subprocess.Popen(
                command, cwd=ready.source, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            assert running.stdout is not None
            try:
                for line in running.stdout:
                    log.write(line)
                    log.flush()
                    if reached := re.search(r"\[ *(\d+)%\]$", line):
                        self.progress.update(task, completed=int(reached[1]))
                running.wait()
            finally:
                running.terminate()
        self.progress.remove_task(task)
        if not (out / "outcomes.json").exists():
            sys.exit(f"{name} {ready.version} {how}: pytest did not come to its end, see {out / 'log'}")
        return json.loads((out / "outcomes.json").read_text())


@contextlib.contextmanager
def _standin(ready: Ready) -> Iterator[str]:
    """The address of the API's stand-in, which runs meanwhile."""
    command = [str(ready.python), str(HERE / "standin.py"), ready.suite.package]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        if not port:
            sys.exit(f"the stand-in for the API of {ready.suite.package} did not start: see its error above")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _read_own(folder: Path, result: Result) -> None:
    for file in folder.glob("llmtrace-*.json"):
        told: dict[str, Any] = json.loads(file.read_text())
        result.calls.update(told["calls"])
        result.internal_errors.update(told["internal_errors"])
        result.left_open += told["open"]


def _show(console: Console, results: dict[str, Result]) -> None:
    table = Table()
    for column in (
        "suite",
        "passed bare",
        "passed traced",
        "passes bare only",
        "inherent",
        "fails both",
        "skipped",
        "calls",
    ):
        table.add_column(column, justify="left" if column == "suite" else "right")
    for name, result in results.items():
        table.add_row(
            f"{name} {result.ready.version}",
            str(result.count("passed", result.bare)),
            str(result.count("passed", result.traced)),
            str(len(result.broken)),
            str(len(result.inherent)),
            str(len(result.both)),
            str(result.count("skipped", result.bare)),
            str(sum(result.calls.values())),
        )
    console.print(table)
    for name, result in results.items():
        for title, tests in (
            ("passes bare, fails traced", result.broken),
            ("inherent", result.inherent),
            ("failed traced once, not again", result.unsteady),
            ("fails bare only", result.only_bare),
            ("fails both", result.both),
        ):
            for test in tests:
                reason = INHERENT.get(name, {}).get(test.partition("[")[0]) if title == "inherent" else None
                console.print(f"{name}: {title}: {test}" + (f": {reason}" if reason else ""), markup=False)
        for test, places in result.unexplained.items():
            console.print(f"{name}: llmtrace failed and went on: {test}: {places}", markup=False)
        console.print(f"{name}: outcomes {dict(result.calls)}, still open at the end {result.left_open}", markup=False)


def main() -> int:
    """Run what was asked for; 1 where llmtrace makes a difference."""
    parser = argparse.ArgumentParser(prog="python -m tests.suites", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("suites", nargs="*", metavar="NAME[==VERSION]", help=f"of {', '.join(SUITES)}; all by default")
    parser.add_argument("--workers", type=int, default=2, help="processes per run (2)")
    parser.add_argument("--tests", nargs="+", default=[], help="only these files or tests of the suite")
    parser.add_argument("--resume", action="store_true", help="take the runs that came to their end the last time")
    asked = parser.parse_args()
    wanted = [suite.partition("==")[::2] for suite in asked.suites] or [(name, "") for name in SUITES]
    if unknown := [name for name, _ in wanted if name not in SUITES]:
        parser.error(f"no suite {', '.join(unknown)}; there are {', '.join(SUITES)}")
    console = Console()
    columns = (TextColumn("{task.description:32}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    results: dict[str, Result] = {}
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        runner = Runner(console, progress, asked.workers, asked.tests, asked.resume)
        for name, version in wanted:
            results[name] = runner.go(name, version or None)
    _show(console, results)
    return 1 if any(result.broken or result.unexplained for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
