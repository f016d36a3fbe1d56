"""``llmtrace demo`` as a user runs it: a process of its own, real sockets, files that say what happened."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from llmtrace.analyze import otlp
from llmtrace.demo.run import _meters
from llmtrace.view import tree
from tests.support.jaeger import bar, critical_path
from tests.support.replay import Replay, json_answer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("demo") / "out"
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-m", "llmtrace.demo", str(out)],
        capture_output=True,
        text=True,
        timeout=400,
        env=env,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, out


@pytest.fixture(scope="module")
def truth(played: tuple[str, Path]) -> list[dict[str, Any]]:
    return json.loads((played[1] / "truth.json").read_text())


def of(truth: list[dict[str, Any]], scenario: str) -> list[dict[str, Any]]:
    return [entry for entry in truth if entry["scenario"] == scenario]


def test_every_scenario_is_there_with_its_outcome(truth: list[dict[str, Any]]) -> None:
    outcomes = {entry["scenario"]: entry["outcome"] for entry in truth}
    if find_spec("peft") is not None:
        assert outcomes.pop("adapter_swap") == "completed"
    assert outcomes == {
        "cold_short": "completed",
        "long_prompt": "completed",
        "cache_hit": "completed",
        "burst": "completed",
        "noisy_neighbour": "completed",
        "slow_reader": "completed",
        "cancelled": "closed_early",
        "retry": "completed",
        "error_mid_stream": "error",
    }


def test_the_scenarios_show_what_they_are_for(truth: list[dict[str, Any]]) -> None:
    long, cached = of(truth, "long_prompt")[0], of(truth, "cache_hit")[0]
    assert long["server"]["prefill"] > 2 * of(truth, "cold_short")[0]["server"]["prefill"]
    assert cached["cached_tokens"] > 1000
    assert cached["server"]["kv_cache_hit"] > 0
    assert cached["server"]["prefill"] < long["server"]["prefill"] / 2
    burst = of(truth, "burst")
    assert len(burst) == 5
    assert max(entry["server"]["queue"] for entry in burst) > 0.1
    victim, neighbour = of(truth, "noisy_neighbour")
    assert neighbour["prompt_tokens"] > 20 * victim["prompt_tokens"]
    assert victim["server"]["decode"] > neighbour["server"]["prefill"] / 2, "its tokens waited for the other's prompt"
    slow = of(truth, "slow_reader")[0]
    assert slow["client"]["decode"] > slow["server"]["decode"]


def test_spans_and_truth_name_the_same_calls(played: tuple[str, Path], truth: list[dict[str, Any]]) -> None:
    spans = {span.span_id: span for span in otlp.read(played[1] / "traces.otlp.jsonl", strict=True).spans}
    for entry in truth:
        span = spans[entry["span_id"]]
        assert span.trace_id == entry["trace_id"]
        assert span.attributes["llmtrace.call.outcome"] == entry["outcome"]
        assert span.attributes["gen_ai.operation.name"] == "chat"


def test_server_phases_in_the_spans_are_what_the_server_told(
    played: tuple[str, Path], truth: list[dict[str, Any]]
) -> None:
    spans = otlp.read(played[1] / "traces.otlp.jsonl").spans
    for entry in truth:
        if entry["outcome"] != "completed":
            continue
        for span in spans:
            if span.trace_id == entry["trace_id"] and span.attributes.get("llmtrace.phase.source") == "server":
                phase = span.attributes["llmtrace.phase"]
                said = entry["server"][phase]
                if phase == "prefill":  # in which the client's includes the swap before it
                    said += entry["server"].get("adapter_swap") or 0
                assert abs(span.duration - said) < 0.001 + 0.05 * said


def test_jaeger_draws_its_critical_path_through_every_phase(played: tuple[str, Path]) -> None:
    """And keeps the spans together, since they say which machine they are of."""
    spans = otlp.read(played[1] / "traces.otlp.jsonl").spans
    passed = critical_path(bar(span.span_id, span.parent_id, span.start_ns, span.end_ns) for span in spans)
    phases = [span for span in spans if "llmtrace.phase" in span.attributes and span.end_ns - span.start_ns > 2_000]
    assert len(phases) > 20
    assert [span.name for span in phases if span.span_id not in passed] == []
    assert {span.resource["host.name"] for span in spans} == {socket.gethostname()}


def test_the_retry_has_an_attempt_per_request(played: tuple[str, Path], truth: list[dict[str, Any]]) -> None:
    trace_id = of(truth, "retry")[0]["trace_id"]
    (trace,) = [one for one in tree.build(otlp.read(played[1] / "traces.otlp.jsonl").spans) if one.trace_id == trace_id]
    attempts = [node for node in trace.roots[0].children if node.span.name == "llm.attempt"]
    assert [node.span.attributes["http.response.status_code"] for node in attempts] == [429, 429, 200]
    assert [node.span.name for node in attempts[-1].children][-1] == "llm.decode"


def test_the_terminal_and_the_page_show_it(played: tuple[str, Path]) -> None:
    printed, out = played
    assert "Measured by the server, inferred by the client alone" in printed
    assert "Same prefix again: a cache hit" in printed
    page = (out / "trace.html").read_text()
    assert "Two 429s, then an answer" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_metrics_go_out_where_they_are_asked_for(replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    replay.serve(json_answer({}))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", replay.url)
    for asked in ("none", "otlp"):
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", asked)
        meters = _meters()
        meters.get_meter("test").create_counter("calls").add(1)
        meters.shutdown()
        assert [request.path for request in replay.requests] == ["/v1/metrics"] * (asked == "otlp")


@pytest.mark.skipif(find_spec("peft") is None, reason="adapters need peft")
def test_calls_that_alternate_between_base_and_adapter_pay_a_swap_each(truth: list[dict[str, Any]]) -> None:
    calls = of(truth, "adapter_swap")
    assert len(calls) == 4
    assert all(call["server"]["adapter_swap"] > 0 for call in calls)
    [cold] = of(truth, "cold_short")
    assert not cold["server"].get("adapter_swap")
