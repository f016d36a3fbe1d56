"""What else runs while something is measured: where that is much, terminal, JSON and page say so in one line."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llmtrace.commands import bench
from llmtrace.reference import other_load
from llmtrace.reference.other_load import OtherLoad, busy_seconds, warning
from llmtrace.reference.roofline import Bench, Plan
from llmtrace.view import bench_page

IDLE = "cpu  {} 0 0 900 0 0 0 0 0 0\ncpu0 1 2 3\n"


def test_much_is_told_and_little_is_not() -> None:
    assert warning(0.4, 0.05, 4) is None
    assert warning(None, None, 4) is None
    assert warning(2.1, None, 4) == (
        "the machine was not idle, so do not trust these figures: the load average before was 2.1 on 4 cores"
    )
    assert "other programs had 30% of the processors' time" in str(warning(2.1, 0.3, 4))


def test_what_others_do_is_what_the_processors_did_without_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat, moments = tmp_path / "stat", iter([0.0, 10.0])
    monkeypatch.setattr(other_load, "monotonic", lambda: next(moments))
    monkeypatch.setattr(other_load, "_own_seconds", lambda: 3.0)  # nothing of ours
    monkeypatch.setattr(other_load.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(other_load.os, "sysconf", lambda name: 100)
    monkeypatch.setattr(other_load.os, "getloadavg", lambda: (0.5, 0, 0), raising=False)
    stat.write_text(IDLE.format(1000))
    others = OtherLoad(stat)
    stat.write_text(IDLE.format(1800))
    results: dict[str, Any] = {}
    others.into(results)
    assert results["machine"] == {"cores": 2, "load_before": 0.5, "others_busy_share": 0.4}
    assert "40%" in results["warning"]


@pytest.mark.parametrize("text", ["", "cpu", "cpu a b c d e f g h", "intr 1 2 3 4 5 6 7 8 9"])
def test_a_kernel_that_does_not_tell(text: str, tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(text)
    assert busy_seconds(tmp_path / "stat") is busy_seconds(tmp_path / "none") is None


def test_a_run_warns_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_load.os, "getloadavg", lambda: (1e3, 0, 0), raising=False)
    run = Bench("tiny", "cpu", lambda doing, done, of: None)
    run.run(Plan(["fp32"], [16], [1], [8], 2, 1, served=False))
    assert "the load average before was 1000.0" in run.results["warning"]
    assert run.results["machine"]["load_before"] == 1000
    out = io.StringIO()
    bench._print(Console(file=out, width=200), run.results)
    assert out.getvalue().count(run.results["warning"]) == bench_page.render(run.results).count("load average") == 1
