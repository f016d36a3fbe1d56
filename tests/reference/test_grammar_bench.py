"""What a grammar is worth: how many answers fit at the first try, with it, without it, and with retries."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmtrace.cli import build_app
from llmtrace.reference import LoadedModel, RunnerError
from llmtrace.reference import grammar_bench as bench

pytest.importorskip("llguidance")


def test_what_each_way_came_to(small: LoadedModel) -> None:
    """A model that writes anything fits by chance alone where whatever is a word fits; held to it, it always does."""
    schema: dict[str, Any] = {"enum": [True, False]}
    plan = bench.Plan(schema, ("Yes or no?", "And now?"), max_tokens=8, tries=3, temperature=1.0)
    results = bench.measure(small, plan)
    held, once, again = (results["ways"][way] for way in ("with grammar", "without", "with retries"))
    assert (held["valid_first_try"], held["valid"], held["tries"]) == (1.0, 1.0, 1.0)
    assert held["compile_seconds"] > 0
    assert held["mask_seconds_per_token"] > 0
    assert held["seconds"] > held["compile_seconds"], "what the application waits for begins before the queue"
    assert (once["valid_first_try"], once["tries"]) == (0.0, 1.0)
    assert (again["valid"], again["tries"]) == (0.0, 3.0)
    assert again["tokens"] > once["tokens"] > 0
    assert again["seconds"] > once["seconds"]


def test_a_retry_ends_with_the_first_answer_that_fits(small: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def answer(runner: Any, ids: Any, plan: bench.Plan, seed: int, grammar: Any) -> Any:
        asked.append(seed)
        made = whole(runner, ids, plan, seed, grammar)
        return ("true" if seed == 1 else made[0]), made[1]

    whole = bench._answer
    monkeypatch.setattr(bench, "_answer", answer)
    plan = bench.Plan({"type": "boolean"}, ("Yes or no?",), max_tokens=4, tries=5)
    again = bench.measure(small, plan)["ways"]["with retries"]
    assert asked == [0, 0, 1], "with the grammar, and then twice without"
    assert (again["valid_first_try"], again["valid"], again["tries"]) == (0.0, 1.0, 2.0)


def test_what_fits_is_what_the_schema_says() -> None:
    valid = bench.validator(bench.SCHEMA)
    fits = {"indoors": False, "days": 3, "city": "Oslo"}
    assert valid(json.dumps(fits, indent=2))
    for text in ("", "Oslo", json.dumps(fits)[:-1], json.dumps(fits | {"days": 0}), json.dumps(fits | {"more": 1})):
        assert not valid(text)
    with pytest.raises(RunnerError, match="no JSON schema"):
        bench.validator({"type": "no such type"})


def test_the_command(small: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmtrace.reference.model.build_or_load", lambda *_, **__: replace(small))
    files = {"prompts": "Yes or no?\n\n", "schema": '{"type": "boolean"}', "broken": "{", "list": "[]"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    def run(schema: str) -> tuple[int, str]:
        command = ["bench", "grammar", "--prompts", str(tmp_path / "prompts"), "--tokens", "4", "--tries", "1"]
        ended = CliRunner().invoke(build_app(), [*command, "--schema", str(tmp_path / schema)])
        return ended.exit_code, ended.output

    code, shown = run("schema")
    assert not code, shown
    assert "with grammar" in shown
    assert "100%" in shown
    for name, says in (("broken", "is no JSON"), ("list", "is an object"), ("missing", "cannot read")):
        code, shown = run(name)
        assert code
        assert says in shown
