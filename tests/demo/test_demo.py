"""``llmtrace demo`` as a user runs it: a process of its own, real sockets, files that say what happened."""

from __future__ import annotations

import json
import os
import re
import socket
import statistics
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from llmtrace.analyze import otlp
from llmtrace.demo.run import _meters
from llmtrace.demo.scenarios import SCENARIOS
from llmtrace.view import tree
from tests.support import samples
from tests.support.jaeger import bar, critical_path
from tests.support.replay import Replay, json_answer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("demo") / "out"
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | {"COLUMNS": "60"}
    done = subprocess.run(
        [sys.executable, "-m", "llmtrace", "demo", "--all", "--out", str(out)],
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
        "long_prompt": "completed",
        "cache_hit": "completed",
        "burst": "completed",
        "noisy_neighbour": "completed",
        "cold_cache": "completed",
        "route_change": "completed",
        "slow_reader": "completed",
        "cancelled": "closed_early",
        "retry": "completed",
        "error_mid_stream": "error",
    }


def test_the_scenarios_show_what_they_are_for(truth: list[dict[str, Any]]) -> None:
    long, cached, cold = of(truth, "long_prompt")[0], of(truth, "cache_hit")[0], of(truth, "cold_cache")[0]
    assert long["prompt_tokens"] > 10 * of(truth, "burst")[0]["prompt_tokens"]
    assert cached["cached_tokens"] > 1000
    assert cached["server"]["kv_cache_hit"] > 0
    assert cached["server"]["prefill"] < long["server"]["prefill"] / 2
    assert cold["cached_tokens"] < 200, "the neighbour's document took its place"
    assert cold["server"]["prefill"] > 2 * cached["server"]["prefill"]
    burst = of(truth, "burst")
    assert len(burst) == 5
    assert sum(entry["server"]["queue"] > entry["server"]["prefill"] for entry in burst) >= 3, "two run at once"
    (victim,) = of(truth, "noisy_neighbour")
    assert victim["server"]["decode"] > burst[0]["server"]["decode"], "its tokens waited for somebody else's prompt"
    slow = of(truth, "slow_reader")[0]
    assert slow["client"]["decode"] > slow["server"]["decode"]


@pytest.mark.parametrize(("scenario", "cause"), [("long_prompt", "prefill_surge"), ("cold_cache", "cold_kv_cache")])
def test_what_tokens_tell_ends_in_its_verdict(truth: list[dict[str, Any]], scenario: str, cause: str) -> None:
    assert cause in {cause for entry in of(truth, scenario) for cause in entry["causes"]}


def test_what_the_pace_tells_is_far_from_the_usual(played: tuple[str, Path], truth: list[dict[str, Any]]) -> None:
    """Whether it is named depends on how evenly the machine worked before; that there is something to name does not."""
    usual = statistics.median(entry["server"]["decode"] / 23 for entry in of(truth, "burst"))
    assert of(truth, "noisy_neighbour")[0]["server"]["decode"] / 19 > 1.5 * usual
    changed = of(truth, "route_change")
    assert min(entry["server"]["decode"] / 16 for entry in changed) > 1.5 * usual
    fingerprints = {
        span.trace_id: span.attributes["llmtrace.route.fingerprint"]
        for span in otlp.read(played[1] / "traces.otlp.jsonl").spans
        if "llmtrace.route.fingerprint" in span.attributes
    }
    assert len({fingerprints[entry["trace_id"]] for entry in changed}) == 1
    assert fingerprints[changed[0]["trace_id"]] != fingerprints[of(truth, "long_prompt")[0]["trace_id"]]
    assert {cause for entry in changed for cause in entry["causes"]} <= {"route_change", "noisy_neighbor", "model_swap"}


def test_the_neighbour_is_nobody_that_this_program_traces(truth: list[dict[str, Any]]) -> None:
    assert all(entry["prompt_tokens"] is None or entry["prompt_tokens"] < 2000 for entry in truth)


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
    assert max(map(len, printed.splitlines())) <= 60
    page = (out / "trace.html").read_text()
    assert "Two 429s, then an answer" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_every_story_has_a_line_with_its_bar(played: tuple[str, Path]) -> None:
    titles = [scenario.title for scenario in SCENARIOS if not scenario.more]
    lines = [
        line for line in played[0].splitlines() if re.match(rf"({'|'.join(titles)}) +[a-zA-Z]+ +[\d.]+ \w+$", line)
    ]
    assert [re.split("  +", line)[0] for line in lines] == titles
    bars = [len(re.split("  +", line)[1]) for line in lines]
    assert max(bars) > 20
    ((_, _, shown),) = [sample for sample in samples.on_pages() if sample[1] == samples.DEMO_RUN]
    assert [re.split("  +", line)[0] for line in shown.splitlines() if line[:1].isupper()] == titles


def test_the_score_is_the_tables(played: tuple[str, Path], truth: list[dict[str, Any]]) -> None:
    printed = " ".join(played[0].split())
    (inside, judged) = re.findall(r"for (\d+) of (\d+) phases\.", printed)[0]
    rows = [line for line in played[0].splitlines() if re.search(r" (queue|prefill) .* (yes|no)$", line)]
    assert (int(inside), int(judged)) == (sum(row.endswith("yes") for row in rows), len(rows))
    assert rows, "however busy the machine is, some call was told apart"
    right = [
        client[phase] - sides[phase][0] <= measured <= client[phase] + sides[phase][1]
        for entry in truth
        if "route_change" not in entry["causes"]
        for server, client, sides in [(entry["server"], entry["client"], entry["client_interval"])]
        for phase, measured in [
            ("queue", server["queue"]),
            ("prefill", server["prefill"] and server["prefill"] + (server.get("adapter_swap") or 0)),
        ]
        if None not in (measured, client[phase], sides.get(phase))
    ]
    assert [row.endswith("yes") for row in rows] == right


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
    [long] = of(truth, "long_prompt")
    assert not long["server"].get("adapter_swap")
