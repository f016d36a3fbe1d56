"""`llmtrace bench` on a toy shape: what it writes, and what it says of what cannot be done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtrace.reference import RunnerError, roofline
from llmtrace.reference.roofline import Bench, estimate_bytes


def test_a_run_is_whole_and_consistent(tmp_path: Path) -> None:
    run = Bench("tiny", "cpu", lambda doing: None)
    run.run(["fp32"], [32, 64], [1, 2], [16], 3)
    run.write(tmp_path / "bench.json")
    read = json.loads((tmp_path / "bench.json").read_text())
    assert read["done"] is True
    assert read["copy_bytes_per_second"] > 1e6
    found = read["formats"]["fp32"]
    assert found["weight_bytes"] == estimate_bytes("tiny", "fp32") + 4 * 256 * (2 * 4 + 1)  # and the norms
    assert [row["tokens"] for row in found["prefill"]] == [32, 64]
    assert found["seconds_per_prefill_token"] == min(row["seconds"] / row["tokens"] for row in found["prefill"])
    assert [(row["batch"], row["context"]) for row in found["decode"]] == [(1, 16), (2, 16)]
    assert all(row["mbu"] > 0 for row in found["decode"])


def test_what_does_not_fit_is_told_with_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        roofline.SHAPES, "huge", {"kind": "llama", "size": (1 << 16, 1 << 18, 200, 64, 8, 1 << 17), "tied": False}
    )
    run = Bench("huge", "cpu", lambda doing: None)
    run.run(["bf16"], [32], [1], [16], 1)
    assert run.results["done"] is True
    reason = run.results["formats"]["bf16"]["reason"]
    assert "what would fit: tiny" in reason


def test_an_interrupted_run_leaves_a_valid_file(tmp_path: Path) -> None:
    def interrupt(doing: str) -> None:
        if "prefill" in doing:
            raise KeyboardInterrupt

    run = Bench("tiny", "cpu", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.run(["fp32"], [32], [1], [16], 1)
    run.write(tmp_path / "bench.json")
    assert json.loads((tmp_path / "bench.json").read_text())["done"] is False


def test_an_unknown_shape_names_the_known_ones() -> None:
    with pytest.raises(RunnerError, match=r"qwen2-0\.5b"):
        Bench("llama-9b", "cpu", lambda doing: None)
