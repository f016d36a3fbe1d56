"""Where the figures go: results.json beside this file, and docs/benchmarks.md between its markers."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.evaluation.common import bars as limits
from tests.evaluation.common import freshness, provenance
from tests.evaluation.common.bars import Bar
from tests.evaluation.common.pages import write_section
from tests.evaluation.common.places import DOCS
from tests.evaluation.overhead.environments import frozen
from tests.evaluation.overhead.outcome import Outcome

RESULTS = Path(__file__).parent / "results.json"
PAGE = DOCS / "benchmarks.md"
CODE = "tracing"
"""What the figures depend on."""
_SHOWN = ("openai", "opentelemetry", "openinference", "langfuse", "httpx", "pydantic", "wrapt", "llmtrace")


def save(row: str, where: dict[str, Any], outcome: Outcome) -> None:
    """Put a row's figures in the place of its earlier ones."""
    kept = read()
    kept[row] = {
        "where": where,
        "bars": [asdict(bar) for bar in outcome.bars],
        "figures": outcome.figures,
        "left_out": outcome.left_out,
    }
    RESULTS.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read() -> dict[str, Any]:
    """Every row's last figures."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def is_measured(row: str) -> bool:
    """Whether a row's figures were taken on the code as it is now."""
    kept = read().get(row)
    return kept is not None and kept["where"]["code"] == freshness.code_hash(CODE)


def publish(row: str, where: dict[str, Any], outcome: Outcome) -> None:
    """Write a row's section of the page."""
    lines = [*freshness.stamp(CODE, where["commit"], where["code"]), provenance.sentence(where, where["seed"]), ""]
    lines += [f"Left out: {name}: {reason}\n" for name, reason in outcome.left_out.items()]
    lines += [table.grid() if len(outcome.tables) == 1 else table.markdown(4) for table in outcome.tables]
    lines += [f"{remark}\n" for remark in outcome.remarks]
    write_section(PAGE, row, lines)


def publish_bars(order: list[str]) -> None:
    """Write the table of all bars, each beside its last figure."""
    kept = read()
    lines: list[str] = []
    for row in order:
        if row in kept and kept[row]["bars"]:
            bars = [Bar(**each) for each in kept[row]["bars"]]
            where = kept[row]["where"]
            lines += freshness.stamp(CODE, where["commit"], where["code"])
            table = limits.table(bars, row)
            table.head = [f"[{row}](#{row})", "figure", "bar", "", "rounds"]
            lines.append(table.grid())
    write_section(PAGE, "bars", lines or ["Nothing was measured yet."])


def versions(envs: list[str]) -> dict[str, list[str]]:
    """What is installed in each environment, as far as it matters."""
    return {env: [pin for pin in frozen(env) if pin.startswith(_SHOWN)] for env in envs}
