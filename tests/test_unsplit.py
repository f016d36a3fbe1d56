"""``llmtrace doctor`` on what keeps phases merged: by a file of spans, and by a saved baseline."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from llmtrace import doctor, unsplit
from llmtrace.errors import LlmtraceError
from llmtrace.estimate.baselines import Baselines
from llmtrace.estimate.sample import Sample
from tests.support.recorder import FEW_CALLS, Recorder, demo_calls

KEY = ("openai", "api.example.com", 443, "m", "/chat/completions")
MS = 1_000_000
FEW = FEW_CALLS["llmtrace.phase.merged_because.detail"]


def told(traces: Path | None = None, **environ: str) -> str:
    out = io.StringIO()
    console = Console(file=out, width=400, no_color=True, highlight=False)
    assert doctor.run(console, {"OTEL_TRACES_EXPORTER": "console", **environ}, traces) == 0
    return out.getvalue()


def calls(recorder: Recorder, number: int, because: str | None, detail: str | None = None) -> None:
    """Calls whose wait is one phase for this reason; None: that are split."""
    for _ in range(number):
        if because is None:
            recorder.call([("queue", 1.0, "estimate", 0.5, None), ("prefill", 90.0, "estimate", 0.5, 42)])
            continue
        marks = {"llmtrace.phase.merged_because": because}
        if detail is not None:
            marks["llmtrace.phase.merged_because.detail"] = detail
        recorder.call([("queue_prefill", 90.0, "client", None, 42)], more={"queue_prefill": marks})


def test_each_route_of_a_file_says_how_many_of_its_calls_lack_what(tmp_path: Path) -> None:
    file = demo_calls(Recorder(2)).save(tmp_path / "t.jsonl")
    out = told(file)
    assert f"2 of the 7 calls: {FEW} (few_calls)" in out
    assert "1 of the 7 calls: nobody saw when the first token came; streaming would show that" in out
    assert "Tracing is possible here." in out


def test_what_held_for_the_first_calls_only_is_no_fault_any_more(tmp_path: Path) -> None:
    recorder = Recorder(2)
    calls(recorder, 30, "few_calls", FEW)
    calls(recorder, unsplit.RECENT, None)
    (state,) = unsplit.of_traces(recorder.save(tmp_path / "t.jsonl"))
    assert (state.calls, state.merged, state.lately, state.reasons) == (80, 30, 0, [])
    assert f"80 calls, all of the last {unsplit.RECENT} told apart" in told(tmp_path / "t.jsonl")
    calls(recorder, 5, "no_usage", "nobody counted; ask")
    calls(recorder, 2, "from_the_future")
    out = told(recorder.save(tmp_path / "later.jsonl"))
    assert f"5 of the last {unsplit.RECENT} calls: nobody counted; ask (no_usage)" in out
    assert f"2 of the last {unsplit.RECENT} calls: from_the_future\n" in out


def test_a_file_whose_calls_are_all_split(tmp_path: Path) -> None:
    recorder = Recorder(2)
    calls(recorder, 3, None)
    assert "3 calls, all told apart" in told(recorder.save(tmp_path / "t.jsonl"))


def test_a_file_that_cannot_be_read_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(LlmtraceError):
        told(tmp_path / "none.jsonl")
    result = subprocess.run(
        [sys.executable, "-m", "llmtrace.cli", "doctor", str(tmp_path / "none.jsonl")],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        timeout=120,
        check=False,
    )
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1


def saved(path: Path, tokens: list[int]) -> str:
    """A baseline that was saved after calls with prompts of these lengths."""
    baselines = Baselines(30, 4.0, background=False, path=path)
    at = 0
    for each in tokens:
        at += 1000 * MS
        in_flight = baselines.begin(KEY, at)
        first = at + (20 + each // 10) * MS
        sample = Sample(start=at, first=first, end=first + 100 * MS, uncached=each, tokens=11)
        baselines.end(KEY, in_flight, sample.end, sample)
    assert baselines.save()
    assert json.loads(path.read_text())["routes"]
    return str(path)


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        ([100 * (1 + number % 9) for number in range(12)], "12 of 30 calls on this route; 18 more"),
        ([200 + number for number in range(40)], "spread by a factor of 1.2"),
        ([100 * (1 + number % 9) for number in range(40)], "its calls are told apart"),
    ],
)
def test_each_route_of_a_saved_baseline_says_what_it_lacks(tokens: list[int], sentence: str, tmp_path: Path) -> None:
    out = told(LLMTRACE_BASELINE_PATH=saved(tmp_path / "b.json", tokens))
    (line,) = [line for line in out.splitlines() if "saved baseline" in line]
    assert "openai m @ api.example.com:443" in line
    assert sentence in line
    before = (tmp_path / "b.json").read_bytes()
    assert told(LLMTRACE_BASELINE_PATH=str(tmp_path / "b.json"))
    assert (tmp_path / "b.json").read_bytes() == before, "it only looks"


def test_fewer_calls_may_be_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path / "b.json", [100 * (1 + number % 9) for number in range(12)])
    assert "its calls are told apart" in told(LLMTRACE_BASELINE_PATH=path, LLMTRACE_MIN_CALLS="10")


def test_without_either_nothing_is_said_of_phases(tmp_path: Path) -> None:
    assert "Phases" not in told()
    assert "Phases" not in told(LLMTRACE_BASELINE_PATH=str(tmp_path / "not there yet.json"))
    (tmp_path / "odd.json").write_text("{}")
    assert "no route in it yet" in told(LLMTRACE_BASELINE_PATH=str(tmp_path / "odd.json"))
