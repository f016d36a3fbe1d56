"""The script of GPU checks: rehearsed on the CPU; and one that fails, hangs or dies leaves the others alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.gpu import checks as gpu
from tests.evaluation.gpu import watch


def test_without_a_gpu_what_holds_anywhere_is_judged_and_the_rest_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "checks.json"
    asked = ["--device", "cpu", "--prompt", "16", "--steps", "2", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["gpu", *asked])
    code = gpu.main()
    shown = capfd.readouterr()
    assert code == 0, shown
    written = json.loads(out.read_text())
    assert written["done"]
    rows = written["checks"]
    anywhere = ("warm", "greedy", "bf16 greedy", "cancelled")
    assert [row["verdict"] for row in rows if row["check"].startswith(anywhere)] == ["met"] * 4
    others = [row for row in rows if not row["check"].startswith(anywhere)]
    assert len(others) == 6
    assert all(row["verdict"] == "not measured" and row["figure"] is None for row in others)
    assert "not measured" in shown.out


def test_all_of_it_takes_under_eight_minutes() -> None:
    """Whatever hangs: the limit of the whole, and one check that began just before it was over."""
    assert gpu.WHOLE < 8 * 60
    assert sum(check.limit for check in gpu.CHECKS) <= 8 * 60 + 60


def test_a_check_that_fails_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(setup: gpu.Setup) -> tuple[str, bool, dict[str, Any]]:
        raise RuntimeError("no such kernel\nand more")

    checks = (
        gpu.Check("one", "any", False, lambda setup: ("7", True, {}), 1),
        gpu.Check("two", "any", False, lambda setup: ("8", False, {}), 1),
        gpu.Check("three", "any", True, fails, 1),
        gpu.Check("four", "any", False, lambda setup: ("9", True, {}), 1),
    )
    begun: list[str] = []
    rows: list[dict[str, Any]] = []
    gpu.run(gpu.Setup("tiny", "cpu", 16, 2, 2), checks, begun.append, rows.append)
    assert begun == ["one", "two", "three"]
    assert [row["verdict"] for row in rows] == ["met", "missed", "failed"]
    assert rows[2]["error"] == "RuntimeError: no such kernel"


CHILD = """
import json, os, sys, time
file = open(sys.argv[1], "a")
def write(**row):
    print(json.dumps(row), file=file, flush=True)
for name in sys.argv[2:]:
    if name == "never begins":
        time.sleep(60)
    write(check=name, begun=True)
    if name == "hangs":
        time.sleep(60)
    if name == "dies":
        os._exit(9)
    write(check=name, verdict="failed" if name == "fails" else "met", seconds=0.0)
    if name == "fails":
        sys.exit()
"""


def watched(names: list[str], whole: float = 30.0) -> tuple[dict[str, str], int]:
    """The verdict or the error of each, and how many processes it took."""
    rows: dict[str, str] = {}
    started = 0

    def start(left: list[str], lines: Path) -> subprocess.Popen[bytes]:
        nonlocal started
        started += 1
        return subprocess.Popen([sys.executable, "-S", "-c", CHILD, str(lines), *left])

    def news(row: dict[str, Any]) -> None:
        rows[row["check"]] = row.get("error") or row["verdict"]

    watch.watch({name: 0.2 if name == "hangs" else 30.0 for name in names}, start, news, whole=whole)
    return rows, started


def test_one_that_fails_or_dies_leaves_the_others_to_another_process() -> None:
    rows, started = watched(["a", "fails", "b", "dies", "c", "hangs", "d"])
    assert rows == {
        "a": "met",
        "fails": "failed",
        "b": "met",
        "dies": "its process ended with 9",
        "c": "met",
        "hangs": "not done in 0.2 s",
        "d": "met",
    }
    assert started == 4


def test_one_that_never_begins_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "START_LIMIT", 0.3)
    rows, _ = watched(["never begins", "hangs"])
    assert rows["never begins"] == "not begun: not done in 0.3 s"


def test_when_the_time_is_over_the_rest_is_not_begun() -> None:
    rows, started = watched(["never begins", "a"], whole=0.3)
    assert rows == {
        "never begins": "not begun: the time for all checks was over",
        "a": "not begun: the 0.3 s for all of them were over",
    }
    assert started == 1
