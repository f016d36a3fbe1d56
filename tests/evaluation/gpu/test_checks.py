"""The script of GPU checks: its rehearsal on the CPU, and that one failing check leaves the others alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from tests.evaluation.gpu import checks as gpu
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
else:
    torch = Late("torch")


def test_without_a_gpu_what_holds_anywhere_is_judged_and_the_rest_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "checks.json"
    asked = ["--device", "cpu", "--prompt", "16", "--steps", "2", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["gpu", *asked])
    threads = torch.get_num_threads()
    try:
        code = gpu.main()
    finally:
        torch.set_num_threads(threads)
    shown = capsys.readouterr()
    assert code == 0, shown
    rows = json.loads(out.read_text())["checks"]
    anywhere = ("warm", "greedy", "cancelled")
    assert [row["verdict"] for row in rows if row["check"].startswith(anywhere)] == ["met"] * 3
    others = [row for row in rows if not row["check"].startswith(anywhere)]
    assert len(others) == 6
    assert all(row["verdict"] == "not measured" and row["figure"] is None for row in others)
    assert "not measured" in shown.out


def test_a_check_that_fails_is_reported_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(setup: gpu.Setup) -> tuple[str, bool, dict[str, Any]]:
        raise RuntimeError("no such kernel\nand more")

    checks = (
        gpu.Check("one", "any", True, fails),
        gpu.Check("two", "any", False, lambda setup: ("7", True, {})),
        gpu.Check("three", "any", False, lambda setup: ("8", False, {})),
    )
    monkeypatch.setattr(gpu, "CHECKS", checks)
    rows: list[dict[str, Any]] = []
    gpu.run(gpu.Setup("tiny", "cpu", 16, 2, 2), Console(quiet=True), rows)
    assert [row["verdict"] for row in rows] == ["failed", "met", "missed"]
    assert rows[0]["error"] == "RuntimeError: no such kernel"
