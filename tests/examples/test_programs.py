"""Each example as its user runs it: a process of its own, real sockets, and the trace that arrives at a collector."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.e2e.collector import Collector, Received, collecting
from tests.support import replay as play
from tests.support.replay import Replay, Request, Script

EXAMPLES = Path(__file__).parents[2] / "examples"
MODELS = {"object": "list", "data": [{"id": play.MODEL, "object": "model", "created": 1, "owned_by": "us"}]}
PATIENCE = 120


def answer(request: Request) -> Script:
    """vLLM's answer, timings and cached tokens included; a tool is called first where there is one."""
    asked = request.json
    if asked.get("tools") and not any(message["role"] == "tool" for message in asked["messages"]):
        return play.tool_turn("weather", '{"city": "Bern"}')
    if asked.get("stream"):
        return play.openai_stream(usage=play.USAGE, ttft=0.03, itl=0.004, last={"metrics": play.VLLM_METRICS})
    return play.openai_body()


@pytest.fixture
def server(replay: Replay) -> Replay:
    replay.serve(play.json_answer(MODELS), path="/v1/models")
    replay.serve(answer)
    return replay


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


def environment(server: Replay, collector: Collector | None = None, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LLMTRACE_"))}
    told = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "none-needed", "PYTHONWARNINGS": "ignore"}
    if collector is not None:
        told["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
    return kept | told | more


def needs(*modules: str) -> None:
    """Skip where one is missing; the program imports it, this process need not."""
    for module in modules:
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


def run(name: str, server: Replay, collector: Collector | None = None) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        env=environment(server, collector),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def tree(spans: list[Received], under: int = 0) -> list[object]:
    """Names as they nest, phases left out."""
    found: list[object] = []
    for span in spans:
        if span.parent_span_id == under and not span.name.startswith("llm."):
            below = tree(spans, span.span_id)
            found += [span.name, below] if below else [span.name]
    return found


def the_trace(collector: Collector, name: str) -> list[Received]:
    """The one trace that holds a span of this name, every parent in it."""
    (trace,) = {span.trace_id for span in collector.spans() if span.name == name}
    spans = collector.of_trace(trace)
    ids = {span.span_id for span in spans}
    assert all(span.parent_span_id in ids or span.parent_span_id == 0 for span in spans)
    return spans


PHASES = ["network", "unattributed", "queue", "kv_cache_hit", "prefill", "decode"]


def phases(spans: list[Received], call: Received) -> list[str]:
    return [span.name.removeprefix("llm.") for span in spans if span.parent_span_id == call.span_id]


def test_on_the_screen(server: Replay) -> None:
    """Without a collector the phases are printed."""
    out = run("script.py", server)
    for phase in ("network", "unattributed", "queue", "kv_cache_hit", "prefill", "decode"):
        assert re.search(rf"^llm\.{phase} +\d+\.\d ms +(client|server|estimate)", out, re.M), (phase, out)
    assert re.search(rf"^chat {play.MODEL} +\d+\.\d ms +completed", out, re.M), out


def test_fan_out(server: Replay) -> None:
    """Four calls complete; the fifth is either cut off by its deadline or was quick enough."""
    out = run("async_fanout.py", server)
    assert len(re.findall(r"^completed .*prefill", out, re.M)) >= 4, out


def test_content_capture(server: Replay) -> None:
    out = run("content_capture.py", server)
    assert "By default: no messages" in out
    assert "What is a trace?" in out


def test_vllm_gets_the_trace(server: Replay, collector: Collector) -> None:
    """The engine is told which span it works for, so that its own span lands under it."""
    run("vllm_joined.py", server, collector)
    calls = [span for span in collector.spans() if span.name == f"chat {play.MODEL}"]
    asked = [request for request in server.requests if request.path.endswith("/chat/completions")]
    sent = {request.headers["traceparent"].split("-")[2] for request in asked}
    assert sent == {f"{call.span_id:016x}" for call in calls}
    for call in calls:
        assert phases(collector.spans(), call) == PHASES
        assert call.attributes["llmtrace.server.engine"] == "vllm"


def test_agents(server: Replay, collector: Collector) -> None:
    needs("agents")
    out = run("agents_tools.py", server, collector)
    assert "Hello there, you two." in out
    chat = f"chat {play.MODEL}"
    spans = sorted(the_trace(collector, "task forecast"), key=lambda span: span.name)
    assert tree(spans) == ["task forecast", [chat, chat, "tool weather"]]


def test_langchain(server: Replay, collector: Collector) -> None:
    needs("langchain_openai")
    run("langchain_chain.py", server, collector)
    assert tree(the_trace(collector, "task explain")) == ["task explain", [f"chat {play.MODEL}"]]


def test_worker(server: Replay, collector: Collector) -> None:
    """Two processes, one trace; the calls in the other one carry the task's id."""
    out = run("worker_process.py", server, collector)
    assert out.count("Hello there, you two.") == 2
    spans = the_trace(collector, "task two drafts")
    assert tree(spans) == ["task two drafts", ["draft", [f"chat {play.MODEL}"], "draft", [f"chat {play.MODEL}"]]]
    calls = [span for span in spans if span.name.startswith("chat ")]
    assert all(call.attributes["llmtrace.task.id"] == "4711" for call in calls)


def test_fastapi(server: Replay, collector: Collector) -> None:
    """The web request holds the task, its steps and the call."""
    needs("fastapi", "opentelemetry.instrumentation.fastapi")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    app = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "fastapi_app.py")],
        env=environment(server, collector, PORT=str(port)),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/ask?question=What+is+prefill", timeout=PATIENCE
                ) as got:
                    assert got.read() == b"Hello there, you two"
                break
            except (urllib.error.URLError, ConnectionError):
                assert app.poll() is None, app.stderr.read() if app.stderr else ""
                assert time.monotonic() < deadline
                time.sleep(0.2)
    finally:
        app.terminate()
        app.communicate(timeout=PATIENCE)
    spans = the_trace(collector, "task answer question")
    inside = ["retrieval notes", "rerank best", f"chat {play.MODEL}"]
    assert tree(sorted(spans, key=lambda s: inside.index(s.name) if s.name in inside else -1)) == [
        "GET /ask",
        ["task answer question", inside],
    ]
    (call,) = [span for span in spans if span.name.startswith("chat ")]
    assert phases(spans, call) == PHASES
