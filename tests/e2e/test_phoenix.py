"""``llmtrace demo`` sent to a real OTLP viewer: what Phoenix stored and what its page shows is what we sent."""

from __future__ import annotations

import json
import shutil
import time
import urllib.parse
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import calls
from tests.e2e.demo import PHASES, is_call, photograph, run_demo, sent_spans, value_of
from tests.e2e.servers import Server

PROJECT = "llmtrace-e2e"


@pytest.fixture(scope="module")
def demo(phoenix_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a demo wrote which also exported to Phoenix."""
    project = f"openinference.project.name={PROJECT}"
    return run_demo(tmp_path_factory.mktemp("demo"), phoenix_server.url, "demo", OTEL_RESOURCE_ATTRIBUTES=project)


@pytest.fixture(scope="module")
def sent(demo: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The spans of the demo's own file by trace and span id."""
    return sent_spans(demo)


@pytest.fixture(scope="module")
def stored(phoenix_server: Server, sent: dict[tuple[str, str], Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """The spans that Phoenix has of the demo, once all that were sent are there."""
    deadline = time.monotonic() + 60
    while not sent.keys() <= (spans := read_back(phoenix_server)).keys() and time.monotonic() < deadline:
        time.sleep(1)
    return spans


def read_back(phoenix: Server) -> dict[tuple[str, str], dict[str, Any]]:
    """Every span of the project, page by page."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    cursor: str | None = ""
    while cursor is not None:
        page = api(phoenix, "spans", limit=500, **({"cursor": cursor} if cursor else {}))
        for span in page["data"]:
            found[span["context"]["trace_id"], span["context"]["span_id"]] = span
        cursor = page["next_cursor"]
    return found


def api(phoenix: Server, path: str, **query: Any) -> dict[str, Any]:
    """One page of the project's REST resource."""
    url = f"{phoenix.url}/v1/projects/{PROJECT}/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=30) as response:
        return json.load(response)


def micros(text: str) -> int:
    """An ISO time as whole microseconds since the epoch."""
    at = datetime.fromisoformat(text)
    return round(at.timestamp() * 1e6)


def test_every_span_arrived(sent: dict[tuple[str, str], Any], stored: dict[tuple[str, str], Any]) -> None:
    """Nothing lost, nothing doubled; whatever else came is the demo's server, in the same traces."""
    assert len(sent) > 40
    assert sent.keys() <= stored.keys(), f"{len(sent.keys() - stored.keys())} of {len(sent)} spans are missing"
    traces = {trace for trace, _ in sent}
    for key in stored.keys() - sent.keys():
        assert key[0] in traces, stored[key]
        assert not is_call(stored[key])


def test_names_parents_and_times(sent: dict[tuple[str, str], Any], stored: dict[tuple[str, str], Any]) -> None:
    """Each span is where it was, as it was, to the microsecond that Phoenix keeps."""
    for key, ours in sent.items():
        theirs = stored[key]
        assert theirs["name"] == ours["name"]
        assert (theirs["parent_id"] or "") == ours.get("parentSpanId", "")
        for field, nanos in (("start_time", "startTimeUnixNano"), ("end_time", "endTimeUnixNano")):
            assert abs(micros(theirs[field]) - int(ours[nanos]) // 1000) <= 1
        code = ours.get("status", {}).get("code", 0)
        assert theirs["status_code"] == ("UNSET", "OK", "ERROR")[code if isinstance(code, int) else 0]


def test_attributes(sent: dict[tuple[str, str], Any], stored: dict[tuple[str, str], Any]) -> None:
    """Each attribute came through with its value; what Phoenix adds of its own is under its own names."""
    for key, ours in sent.items():
        theirs = stored[key]["attributes"]
        for pair in ours.get("attributes", []):
            wanted = value_of(pair["value"])
            got = theirs.get(pair["key"])
            assert got == (pytest.approx(wanted) if isinstance(wanted, float) else wanted), (ours["name"], pair)


def test_trees(stored: dict[tuple[str, str], Any]) -> None:
    """Out of Phoenix alone: below each call lie its phases, end to end; the retried call's below its last attempt."""
    below: dict[str | None, list[dict[str, Any]]] = {}
    for span in stored.values():
        below.setdefault(span["parent_id"], []).append(span)
    parents = [span for span in stored.values() if is_call(span)]
    retried = 0
    for call in parents:
        children = below[call["context"]["span_id"]]
        attempts = sorted((s for s in children if s["name"] == "llm.attempt"), key=lambda s: s["start_time"])
        retried += bool(attempts)
        holder = attempts[-1] if attempts else call
        phases = [s for s in below[holder["context"]["span_id"]] if "llmtrace.phase" in s["attributes"]]
        phases.sort(key=lambda s: (s["start_time"], s["end_time"]))
        assert {s["attributes"]["llmtrace.phase"] for s in phases} <= PHASES
        at = micros(holder["start_time"])
        for phase in phases:
            assert abs(micros(phase["start_time"]) - at) <= 2
            at = micros(phase["end_time"])
        assert abs(micros(holder["end_time"]) - at) <= 2
    assert retried, "the demo has a call that was answered with 429 first"
    assert any(call["status_code"] == "ERROR" for call in parents), "and one that broke off"
    names = {span["attributes"].get("llmtrace.phase") for span in stored.values()}
    assert {"network", "unattributed", "queue", "kv_cache_hit", "prefill", "decode"} <= names


def test_phoenix_knows_the_call(stored: dict[tuple[str, str], Any]) -> None:
    """The conventions' names are understood: the parent is an LLM call with model and tokens."""
    whole = [s for s in stored.values() if is_call(s) and s["attributes"]["llmtrace.call.outcome"] == "completed"]
    assert whole
    for call in whole:
        assert call["span_kind"] == "LLM"
        assert call["attributes"]["llm.model_name"] == call["attributes"]["gen_ai.request.model"]
        counted = call["attributes"]["gen_ai.usage.input_tokens"]
        assert call["attributes"]["llm.token_count.prompt"] == counted


def test_tokens_are_counted_once(stored: dict[tuple[str, str], Any], phoenix_server: Server) -> None:
    """Client and server are spans of one trace; a viewer that adds up what the spans used must not count it twice."""
    used: dict[str, int] = {}
    for (trace, _), span in stored.items():
        if is_call(span):
            used[trace] = used.get(trace, 0) + span["attributes"].get("llm.token_count.total", 0)
    added = {t["trace_id"]: t["token_count_total"] for t in api(phoenix_server, "traces", limit=1000)["data"]}
    assert {trace: added[trace] for trace, tokens in used.items() if tokens} == {t: n for t, n in used.items() if n}


def test_page(stored: dict[tuple[str, str], Any], phoenix_server: Server, tmp_path: Path) -> None:
    """The trace page of the call that hit the cache shows its whole tree; LLMTRACE_E2E_OUT keeps the picture."""
    if not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("no Chromium on the PATH")
    calls_by_id = {span["context"]["span_id"]: trace for (trace, _), span in stored.items() if is_call(span)}
    hits = [s for s in stored.values() if s["name"] == "llm.kv_cache_hit" and s["parent_id"] in calls_by_id]
    trace = calls_by_id[max(hits, key=lambda hit: hit["attributes"]["llmtrace.phase.tokens"])["parent_id"]]
    picture = (calls.output_folder() or tmp_path) / "phoenix.png"
    shown = photograph("e2e-phoenix", f"{phoenix_server.url}/redirects/traces/{trace}", "llm.decode", picture)
    for name in {span["name"] for (of, _), span in stored.items() if of == trace}:
        assert name in shown
    assert picture.stat().st_size > 20_000
