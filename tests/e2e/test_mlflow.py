"""``llmtrace demo`` sent to MLflow: what its API gives back is what we sent, to the nanosecond."""

from __future__ import annotations

import base64
import json
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import calls
from tests.e2e.demo import PHASES, Key, is_call, photograph, run_demo, sent_spans, value_of
from tests.e2e.servers import Server

EXPERIMENT = "0"
"""The one that every MLflow has from the beginning."""


@pytest.fixture(scope="module")
def demo(mlflow_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a demo wrote which also exported to MLflow."""
    headers = f"x-mlflow-experiment-id={EXPERIMENT}"
    out = tmp_path_factory.mktemp("demo")
    return run_demo(out, mlflow_server.url, "demo-mlflow", OTEL_EXPORTER_OTLP_HEADERS=headers)


@pytest.fixture(scope="module")
def sent(demo: Path) -> dict[Key, dict[str, Any]]:
    """The spans of the demo's own file."""
    return sent_spans(demo)


@pytest.fixture(scope="module")
def traces(mlflow_server: Server, sent: dict[Key, Any]) -> dict[str, dict[str, Any]]:
    """MLflow's traces by id, once all that was sent is there."""
    ids = {trace for trace, _ in sent}
    deadline = time.monotonic() + 60
    while True:
        found = {trace: told for trace in ids if (told := read_back(mlflow_server, trace)) is not None}
        if sent.keys() <= spans_of(found).keys() or time.monotonic() > deadline:
            return found
        time.sleep(1)


@pytest.fixture(scope="module")
def stored(traces: dict[str, dict[str, Any]]) -> dict[Key, dict[str, Any]]:
    """The spans of those traces."""
    return spans_of(traces)


def read_back(mlflow: Server, trace: str) -> dict[str, Any] | None:
    """One trace through MLflow's REST API, None where it does not know it (yet)."""
    url = f"{mlflow.url}/api/3.0/mlflow/traces/get?trace_id=tr-{trace}"
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return json.load(response)["trace"]
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 404:
            raise
        return None


def spans_of(traces: dict[str, dict[str, Any]]) -> dict[Key, dict[str, Any]]:
    """Spans as MLflow has them; their ids are bytes in base64."""
    return {(trace, hexed(span["span_id"])): span for trace, told in traces.items() for span in told.get("spans", [])}


def hexed(encoded: str) -> str:
    return base64.b64decode(encoded).hex()


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    """A stored span's attributes; MLflow writes the kinds of value in protobuf's own names."""
    return {pair["key"]: value_here(pair["value"]) for pair in span.get("attributes", [])}


def value_here(value: dict[str, Any]) -> Any:
    ((kind, content),) = value.items()
    if kind == "int_value":
        return int(content)
    if kind == "array_value":
        return [value_here(item) for item in content.get("values", [])]
    if kind == "kvlist_value":
        return {pair["key"]: value_here(pair["value"]) for pair in content.get("values", [])}
    return content


def assert_same(theirs: dict[str, Any], ours: list[dict[str, Any]], where: str) -> None:
    """Every attribute that was sent is there with its value."""
    for pair in ours:
        wanted = value_of(pair["value"])
        got = theirs.get(pair["key"])
        assert got == (pytest.approx(wanted) if isinstance(wanted, float) else wanted), (where, pair)


def test_every_span_arrived(sent: dict[Key, Any], stored: dict[Key, Any]) -> None:
    """Nothing lost, nothing doubled; whatever else came is the demo's server, in the same traces."""
    assert len(sent) > 40
    assert sent.keys() <= stored.keys(), f"{len(sent.keys() - stored.keys())} of {len(sent)} spans are missing"
    for key in stored.keys() - sent.keys():
        assert not is_call(stored[key])


def test_names_parents_times_and_status(sent: dict[Key, Any], stored: dict[Key, Any]) -> None:
    """Each span is where it was, as it was, to the nanosecond."""
    for key, ours in sent.items():
        theirs = stored[key]
        assert theirs["name"] == ours["name"]
        parent = theirs.get("parent_span_id")
        assert (hexed(parent) if parent else "") == ours.get("parentSpanId", "")
        assert int(theirs["start_time_unix_nano"]) == int(ours["startTimeUnixNano"])
        assert int(theirs["end_time_unix_nano"]) == int(ours["endTimeUnixNano"])
        failed = ours.get("status", {}).get("code") in (2, "STATUS_CODE_ERROR")
        assert (theirs.get("status", {}).get("code") == "STATUS_CODE_ERROR") == failed, (theirs["status"], ours)


def test_attributes_and_events(sent: dict[Key, Any], stored: dict[Key, Any]) -> None:
    """Each attribute came through with its value, and so did each event, a diagnosis's evidence for one."""
    for key, ours in sent.items():
        theirs = stored[key]
        assert_same(attributes(theirs), ours.get("attributes", []), ours["name"])
        events = theirs.get("events", [])
        assert [event["name"] for event in events] == [event["name"] for event in ours.get("events", [])]
        for got, wanted in zip(events, ours.get("events", []), strict=True):
            assert_same(attributes(got), wanted.get("attributes", []), wanted["name"])


def test_trees(stored: dict[Key, Any]) -> None:
    """Out of MLflow alone: below each call lie its phases, in order and end to end; the retried call's below its last
    attempt."""
    below: dict[str, list[dict[str, Any]]] = {}
    for (trace, _), span in stored.items():
        if span.get("parent_span_id"):
            below.setdefault(trace + hexed(span["parent_span_id"]), []).append(span)
    retried, seen = 0, set[str]()
    for (trace, span_id), call in stored.items():
        if not is_call(call):
            continue
        children = below[trace + span_id]
        attempts = sorted((s for s in children if s["name"] == "llm.attempt"), key=starts)
        retried += bool(attempts)
        holder = attempts[-1] if attempts else call
        inside = below[trace + hexed(holder["span_id"])]
        phases = sorted((s for s in inside if "llmtrace.phase" in attributes(s)), key=starts)
        at = int(holder["start_time_unix_nano"])
        for phase in phases:
            assert attributes(phase)["llmtrace.phase"] in PHASES
            assert int(phase["start_time_unix_nano"]) == at
            at = int(phase["end_time_unix_nano"])
            seen.add(attributes(phase)["llmtrace.phase"])
        assert int(holder["end_time_unix_nano"]) == at
    assert retried, "the demo has a call that was answered with 429 first"
    assert {"network", "unattributed", "queue", "kv_cache_hit", "prefill", "decode"} <= seen


def starts(span: dict[str, Any]) -> tuple[int, int]:
    return int(span["start_time_unix_nano"]), int(span["end_time_unix_nano"])


def test_mlflow_knows_the_call(traces: dict[str, dict[str, Any]], stored: dict[Key, Any]) -> None:
    """The conventions' names are understood: a chat model's call, and its tokens, counted once per trace although the
    server's span is in it too. The server's resource names the model that it serves."""
    finished = 0
    for (trace, _), span in stored.items():
        told = attributes(span)
        if not is_call(span) or told["llmtrace.call.outcome"] != "completed":
            continue
        finished += 1
        assert told["mlflow.spanType"] == "CHAT_MODEL"
        info = traces[trace]["trace_info"]
        used = json.loads(info["trace_metadata"]["mlflow.trace.tokenUsage"])
        assert used["input_tokens"] == told["gen_ai.usage.input_tokens"]
        assert used["output_tokens"] == told["gen_ai.usage.output_tokens"]
        assert info["tags"]["service.name"] in ("llmtrace-demo", "llmtrace-reference")  # of whoever was stored last
        assert info["tags"]["llmtrace.model.fingerprint"] == told["openai.response.system_fingerprint"]
    assert finished > 5


def test_page(stored: dict[Key, Any], mlflow_server: Server, tmp_path: Path) -> None:
    """The trace page of a call that hit the cache shows its whole tree; LLMTRACE_E2E_OUT keeps the picture."""
    if not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("no Chromium on the PATH")
    hits = [(trace, span) for (trace, _), span in stored.items() if span["name"] == "llm.kv_cache_hit"]
    trace = max(hits, key=lambda hit: attributes(hit[1]).get("llmtrace.phase.tokens", 0))[0]
    picture = (calls.output_folder() or tmp_path) / "mlflow.png"
    url = f"{mlflow_server.url}/#/experiments/{EXPERIMENT}/traces?selectedEvaluationId=tr-{trace}"
    shown = photograph("e2e-mlflow", url, "llm.decode", picture)
    for name in {span["name"] for (of, _), span in stored.items() if of == trace}:
        assert name in shown
    assert picture.stat().st_size > 20_000
