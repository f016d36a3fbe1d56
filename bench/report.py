"""Where the figures go: the terminal, bench/results.json and docs/benchmarks.md between its markers."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from bench.environments import ROOT, frozen
from bench.figures import Figure
from bench.tables import Table

RESULTS = ROOT / "bench" / "results.json"
PAGE = ROOT / "docs" / "benchmarks.md"
SHOWN = ("openai", "opentelemetry", "openinference", "langfuse", "httpx", "pydantic", "wrapt", "llmtrace")


def cpu_model() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def machine(command: str, started: float) -> dict[str, Any]:
    """Where and when the figures were taken, and how busy the machine was with other things."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(started)),
        "seconds": round(time.time() - started),
        "load_average_at_start": None,
        "command": command,
    }


def versions(envs: list[str]) -> dict[str, list[str]]:
    """What is installed in each environment, as far as it matters."""
    return {env: [pin for pin in frozen(env) if pin.startswith(SHOWN)] for env in envs}


def show(console: Console, table: Table) -> None:
    """Print one table."""
    out = RichTable(title=table.title, title_justify="left", title_style="bold")
    for i, name in enumerate(table.head):
        out.add_column(name, justify="right" if i else "left", overflow="fold")
    for row in table.rows:
        out.add_row(*(cell.replace("**", "") for cell in row))
    console.print(out)


def save(facts: dict[str, Any], found: dict[str, dict[str, Figure]], more: dict[str, Any]) -> None:
    """Write bench/results.json."""
    costs = {
        name: {key: {part: round(value, 3) for part, value in asdict(figure).items()} for key, figure in each.items()}
        for name, each in found.items()
    }
    RESULTS.write_text(json.dumps(facts | {"unit": "us of CPU time", "figures": costs} | more, indent=1) + "\n")


def publish(facts: dict[str, Any], shown: list[Table], skipped: dict[str, str]) -> None:
    """Put the tables into docs/benchmarks.md between the markers."""
    where = facts["machine"]
    rounds = ", ".join(f"{key} {count}" for key, count in facts["rounds"].items())
    lines = [
        f"Taken on {where['date']} with `{where['command']}` ({where['seconds']} s): {where['cpu']}, "
        f"{where['cores']} cores, {where['system']}, Python {where['python']}; load average at the start "
        f"{where['load_average_at_start']}. Rounds: {rounds}.",
        "",
        *(f"Left out: {name}: {reason}\n" for name, reason in skipped.items()),
        *(table.markdown() for table in shown),
        "### Versions",
        "",
        *(f"- {env}: {', '.join(pins)}" for env, pins in facts["versions"].items()),
    ]
    write_section("bench", lines)


def write_section(name: str, lines: Sequence[str]) -> None:
    """Put ``lines`` into docs/benchmarks.md between the markers of that name.

    Raises:
        SystemExit: the page has lost them.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, _, rest = PAGE.read_text().partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise SystemExit(f"{PAGE} has lost its markers {begin} and {end}")
    PAGE.write_text(f"{head}{begin}\n" + "\n".join(lines) + f"\n{end}{tail}")
