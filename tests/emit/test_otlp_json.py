"""The OTLP/JSON lines writer: the Collector file exporter's shape, one whole line per batch."""

from __future__ import annotations

import builtins
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from llmtrace.emit.otlp_json import OtlpJsonFileExporter
from llmtrace.errors import LlmtraceError
from tests.support.waiting import wait_for


def make(path: Path) -> tuple[TracerProvider, OtlpJsonFileExporter]:
    exporter = OtlpJsonFileExporter(path)
    provider = TracerProvider(resource=Resource({"service.name": "app"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


def spans_of(line: str) -> list[dict[str, Any]]:
    return [
        span
        for resource in json.loads(line)["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def test_a_line_is_what_the_collector_writes(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "traces.otlp.jsonl"
    provider, _ = make(path)
    tracer = provider.get_tracer("llmtrace", "1.2")
    with tracer.start_as_current_span("outer", kind=SpanKind.CLIENT) as outer:
        tracer.start_span("other", links=[Link(outer.get_span_context())]).end()
        outer.set_attributes({"text": "ünïcode", "count": 2**60, "share": 0.5, "on": True, "list": [1, 2]})
        outer.add_event("exception", {"exception.type": "E"})
        outer.set_status(Status(StatusCode.ERROR, "no"))
    first, second = path.read_text(encoding="utf-8").splitlines()
    (child,) = spans_of(first)
    (span,) = spans_of(second)
    context = outer.get_span_context()
    assert span["traceId"] == f"{context.trace_id:032x}"
    assert span["spanId"] == child["parentSpanId"] == child["links"][0]["spanId"] == f"{context.span_id:016x}"
    assert child["links"][0]["traceId"] == span["traceId"]
    assert "parentSpanId" not in span
    assert isinstance(span["startTimeUnixNano"], str)
    assert span["startTimeUnixNano"].isdecimal()
    assert span["kind"] == 3
    assert span["status"] == {"message": "no", "code": 2}
    values = {pair["key"]: pair["value"] for pair in span["attributes"]}
    assert values["count"] == {"intValue": str(2**60)}
    assert values["share"] == {"doubleValue": 0.5}
    assert values["on"] == {"boolValue": True}
    assert values["text"] == {"stringValue": "ünïcode"}
    assert values["list"] == {"arrayValue": {"values": [{"intValue": "1"}, {"intValue": "2"}]}}
    resource = json.loads(second)["resourceSpans"][0]["resource"]["attributes"]
    assert resource == [{"key": "service.name", "value": {"stringValue": "app"}}]


def test_it_appends_and_mends_an_unfinished_last_line(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"resourceSpans":[]}\n{"resourceSp')
    provider, _ = make(path)
    provider.get_tracer("t").start_span("new").end()
    lines = path.read_text().splitlines()
    assert len(lines) == 3
    assert spans_of(lines[2])[0]["name"] == "new"


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    provider, _ = make(path)
    tracer = provider.get_tracer("t")

    def work() -> None:
        for _ in range(50):
            tracer.start_span("s", attributes={"text": "x" * 5000}).end()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = {spans_of(line)[0]["spanId"] for line in path.read_text().splitlines()}
    assert len(ids) == 400


def test_after_shutdown_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    provider, exporter = make(path)
    exporter.shutdown()
    exporter.shutdown()
    provider.get_tracer("t").start_span("late").end()
    assert path.read_text() == ""
    assert exporter.force_flush()


def test_what_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    provider, exporter = make(tmp_path / "t.jsonl")
    span = provider.get_tracer("t").start_span("s")
    span.end()
    os.close(exporter._fd)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        assert exporter.export([span]) is SpanExportResult.FAILURE  # type: ignore[list-item]
        assert exporter.export([span]) is SpanExportResult.FAILURE  # type: ignore[list-item]
    exporter._fd = None
    assert len([record for record in caplog.records if "not written" in record.message]) == 1


@pytest.mark.parametrize("what", ["folder", "below a file"])
def test_a_path_that_cannot_be_written(tmp_path: Path, what: str) -> None:
    if what == "folder":
        path = tmp_path
    else:
        (tmp_path / "file").write_text("")
        path = tmp_path / "file" / "t.jsonl"
    with pytest.raises(LlmtraceError, match="cannot write"):
        OtlpJsonFileExporter(path)


def test_without_the_encoder_it_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("opentelemetry.exporter.otlp"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(LlmtraceError) as caught:
        OtlpJsonFileExporter(tmp_path / "t.jsonl")
    assert 'pip install "llmtrace-phases[otlp]"' in str(caught.value)
    assert not (tmp_path / "t.jsonl").exists()


ENDLESS = """
import sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from llmtrace.emit.otlp_json import OtlpJsonFileExporter
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OtlpJsonFileExporter(sys.argv[1])))
tracer = provider.get_tracer("t")
while True:
    tracer.start_span("s", attributes={"text": "x" * 20000}).end()
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_process_leaves_whole_lines(tmp_path: Path, how: signal.Signals) -> None:
    path = tmp_path / "t.jsonl"
    with subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)], stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: process.poll() is not None or (path.exists() and path.stat().st_size > 1_000_000))
            assert process.poll() is None
            process.send_signal(how)
            process.wait(120)
        finally:
            process.kill()
    *lines, rest = path.read_text().split("\n")
    assert all(spans_of(line) for line in lines)
    # The kernel stops a killed process in the middle of a write, so its last line may be cut short: no other line may.
    assert not rest or how is signal.SIGKILL


def test_a_line_that_another_process_left_cut_swallows_none_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    provider, _ = make(path)
    tracer = provider.get_tracer("t")
    tracer.start_span("before").end()
    with path.open("a") as other:
        other.write('{"resourceSp')
    tracer.start_span("after").end()
    before, cut, after = path.read_text().splitlines()
    assert [spans_of(line)[0]["name"] for line in (before, after)] == ["before", "after"]
    assert cut == '{"resourceSp'


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_can_write_although_the_lock_was_held(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    provider, exporter = make(path)
    with exporter._lock:
        pid = os.fork()
        if not pid:  # pragma: no cover
            signal.alarm(10)
            provider.get_tracer("t").start_span("child").end()
            os._exit(0)
        _, status = os.waitpid(pid, 0)
    assert status == 0
    assert spans_of(path.read_text())[0]["name"] == "child"
