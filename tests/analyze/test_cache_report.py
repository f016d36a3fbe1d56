"""The report on the prompt cache: what was got, what was lost, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmtrace.analyze import reports
from llmtrace.analyze.book import Book
from llmtrace.analyze.load import load
from llmtrace.analyze.report import Report
from tests.analyze.writing import Writer

PHASES = [("prefill", 100), ("decode", 400)]
LOST = "llmtrace.kv_cache.lost_"


def rows(made: Report, title: str) -> list[dict[str, Any]]:
    (section,) = [each for each in made.sections if each.title == title]
    return [dict(zip((column.title for column in section.columns), row, strict=True)) for row in section.rows]


def test_what_was_got_and_lost(tmp_path: Path) -> None:
    writer = Writer()
    changed = {
        f"{LOST}because": "prefix_changed",
        f"{LOST}tokens": 900,
        f"{LOST}time": 0.09,
        "llmtrace.kv_cache.changed_at": "messages[0]",
        "llmtrace.kv_cache.changed_at.token": 4,
    }
    for number in range(4):
        writer.call(number * 1000, PHASES, tokens=(1000, 800, 10))
    for number in range(4, 6):
        writer.call(number * 1000, PHASES, tokens=(1000, 0, 10), marks=changed)
    idle = {f"{LOST}because": "idle", f"{LOST}tokens": 500, "openai.response.cache_miss_reason": "expired"}
    writer.call(7000, PHASES, tokens=(1000, 0, 10), marks=idle)
    with load([str(writer.save(tmp_path / "t.jsonl"))], cache=False) as traces:
        made = reports.make("cache", Book(traces))
    (route,) = rows(made, "By route")
    assert (route["calls"], route["got"], route["lost"], route["expected"]) == (7, 3200, 2300, 5500)
    assert route["hit"] == pytest.approx(3200 / 7000)
    assert route["lost time"] == pytest.approx(0.18)
    # gpt-4o-mini: 0.15 USD a million, half of it from the cache.
    assert route["lost cost"] == pytest.approx(2300 * 0.075e-6)
    why = {row["reason"]: row["tokens"] for row in rows(made, "Why")}
    assert why == {"the prompt's beginning changed": 1800, "idle for longer than the cache keeps": 500}
    (place,) = rows(made, "Where the beginning changed")
    assert (place["changed in"], place["calls"], place["near token"], place["tokens lost"]) == (
        "messages[0]",
        2,
        4,
        1800,
    )
    (word,) = rows(made, "The provider's own word")
    assert (word["the provider says"], word["calls"]) == ("expired", 1)
    assert made.headline == "46% of 7,000 prompt tokens came from the cache; 33% more might have"


def test_a_provider_that_counts_nothing(tmp_path: Path) -> None:
    writer = Writer()
    said = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "llmtrace.call.outcome": "completed"}
    writer.span("chat m", 0, 10, said | {"gen_ai.usage.input_tokens": 5}, kind=3)
    with load([str(writer.save(tmp_path / "t.jsonl"))], cache=False) as traces:
        made = reports.make("cache", Book(traces))
    assert made.headline == "no provider of 1 call counts cached tokens"
