"""``python -m tests.evaluation.overhead.viewer``: how fast `llmtrace view` starts, takes in and answers.

Starts: a process from nothing to its first answer. Rate: spans sent by the SDK's own exporter and by raw requests, what
is in the store afterwards, and the CPU of both sides. Browse: a file of ``--spans`` spans opened, then every question
that the page asks, with and without filters, the first page and the last.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.analyze.writing import attributes

SPANS_PER_TRACE = 7
MODELS = ("gpt-4o", "gpt-4o-mini", "claude-sonnet-4-5", "llama-3.1-8b")
CAUSES = ("queueing", "cold_kv_cache", "prefill_surge", "retry_storm")
_EPOCH_NS = 1_760_000_000_000_000_000
_TICKS = os.sysconf("SC_CLK_TCK")


def trace(random_: random.Random, start: int) -> list[dict[str, Any]]:
    """A web request with a retrieval and one call of four phases: OTLP/JSON spans of one trace."""
    trace_id = f"{random_.getrandbits(128) or 1:032x}"
    model = random_.choice(MODELS)
    lengths = [int(random_.lognormvariate(mu, 0.6) * 1e6) for mu in (2.0, 3.0, 4.5, 6.5)]
    failed = random_.random() < 0.02
    input_tokens, output_tokens = random_.randrange(20, 8000), random_.randrange(1, 900)
    spans: list[dict[str, Any]] = []

    def span(name: str, kind: int, begin: int, end: int, parent: str, said: dict[str, Any], error: bool = False) -> str:
        own = f"{random_.getrandbits(64) or 1:016x}"
        spans.append(
            {
                "traceId": trace_id,
                "spanId": own,
                "parentSpanId": parent,
                "name": name,
                "kind": kind,
                "startTimeUnixNano": str(begin),
                "endTimeUnixNano": str(end),
                "attributes": attributes(said),
                "status": {"code": 2, "message": "APIError"} if error else {},
            }
        )
        return own

    call_start = start + 40_000_000
    end = call_start + sum(lengths)
    root = span("POST /ask", 2, start, end + 3_000_000, "", {"http.request.method": "POST", "http.route": "/ask"})
    step = {"llmtrace.step.kind": "retrieval", "gen_ai.operation.name": "retrieval"}
    span("retrieval search", 1, start + 1_000_000, start + 38_000_000, root, step)
    said = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic" if model.startswith("claude") else "openai",
        "gen_ai.request.model": model,
        "gen_ai.response.model": f"{model}-2025",
        "server.address": "api.example.com",
        "server.port": 443,
        "gen_ai.request.stream": True,
        "gen_ai.usage.input_tokens": input_tokens,
        "gen_ai.usage.output_tokens": output_tokens,
        "gen_ai.usage.cache_read.input_tokens": input_tokens // 3,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.id": f"chatcmpl-{random_.getrandbits(96):024x}",
        "llmtrace.schema_version": 1,
        "llmtrace.call.outcome": "error" if failed else "completed",
        "llmtrace.call.ttft": sum(lengths[:3]) / 1e9,
        "llmtrace.stream.chunks": output_tokens,
        "llmtrace.route.fingerprint": f"model={model};fingerprint=fp_1",
    }
    if random_.random() < 0.1:
        said |= {"llmtrace.diagnosis": [random_.choice(CAUSES)], "llmtrace.diagnosis.confidence": [0.8]}
    call = span(f"chat {model}", 3, call_start, end, root, said, failed)
    at = call_start
    for phase, length in zip(("network", "queue", "prefill", "decode"), lengths, strict=True):
        about = {"llmtrace.phase": phase, "llmtrace.phase.source": "estimate", "llmtrace.phase.uncertainty": 0.004}
        span(f"llm.{phase}", 1, at, at + length, call, about | {"llmtrace.phase.tokens": input_tokens})
        at += length
    return spans


def document(spans: list[dict[str, Any]]) -> dict[str, Any]:
    """One OTLP/JSON object."""
    about = {"service.name": "web", "telemetry.sdk.language": "python", "service.instance.id": "a1", "host.name": "h1"}
    resource = {"attributes": attributes(about)}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "llmtrace"}, "spans": spans}]}]}


def batches(count: int, size: int, seed: int) -> Iterator[list[dict[str, Any]]]:
    """``count`` spans in batches of ``size``; a trace may lie across two, as it does when it is exported."""
    random_ = random.Random(seed)
    start, held = _EPOCH_NS, list[dict[str, Any]]()
    while count > 0:
        while len(held) < min(size, count):
            held += trace(random_, start)
            start += random_.randrange(100_000, 2_000_000)
        yield held[: min(size, count)]
        count -= min(size, count)
        held = held[size:]


class Viewer:
    """`llmtrace view` in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmtrace.cli", "view", "--port", "0", *arguments], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        found = re.search(r"127\.0\.0\.1:(\d+)", self.process.stdout.readline())
        if found is None:
            raise SystemExit("the viewer did not start")
        self.port = int(found[1])
        self.get("/api/status")
        self.start_s = time.perf_counter() - began

    def get(self, path: str) -> tuple[float, Any]:
        """Seconds to the last byte of an answer, and the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        began = time.perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        took = time.perf_counter() - began
        connection.close()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {body[:300]!r}")
        return took, orjson.loads(body)

    def status(self) -> Any:
        return self.get("/api/status")[1]

    def cpu(self) -> float:
        """Seconds of CPU used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory(self) -> float:
        """MiB of memory, the most so far."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+)", text)[0]) / 1024

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        finally:
            self.process.kill()

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


# Starting


def starts(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds from the process's start to its first answer, on a store that is there."""
    took: list[float] = []
    for _ in range(rounds):
        with Viewer("--store", str(folder / "start.duckdb")) as viewer:
            took.append(viewer.start_s)
    return {"median_s": statistics.median(took), "max_s": max(took)}


# Rate

SENDER = """
import sys, time, os
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
port, rate, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
provider = TracerProvider(resource=Resource.create({"service.name": "sender"}))
exporter = OTLPSpanExporter(f"http://127.0.0.1:{port}/v1/traces")
failed = 0
export = exporter.export
def counted(spans):
    global failed
    result = export(spans)
    failed += result.name != "SUCCESS"
    return result
exporter.export = counted
provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=100_000, schedule_delay_millis=200))
tracer = provider.get_tracer("bench")
about = {f"attribute.{number}": "some text of a usual length" for number in range(6)}
about |= {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 5}
made, began = 0, time.perf_counter()
while (now := time.perf_counter() - began) < seconds:
    while made < rate * now:
        with tracer.start_as_current_span("chat m", attributes=about):
            for phase in ("network", "queue", "prefill", "decode"):
                said = {"llmtrace.phase": phase, "llmtrace.phase.source": "client"}
                tracer.start_span("llm." + phase, attributes=said).end()
        made += 5
    time.sleep(0.005)
provider.force_flush(60_000)
provider.shutdown()
print(made, failed, time.perf_counter() - began, time.process_time())
"""


def exported(folder: Path, rate: int, seconds: float) -> dict[str, Any]:
    """The SDK's own exporter at ``rate`` spans a second."""
    with Viewer("--store", str(folder / "exported.duckdb")) as viewer:
        time.sleep(3)  # what it loads behind its start
        before, waits, stop = viewer.cpu(), list[float](), threading.Event()
        asking = threading.Thread(target=_ask_on, args=(viewer, waits, stop))
        asking.start()
        sender = subprocess.run(
            [sys.executable, "-c", SENDER, str(viewer.port), str(rate), str(seconds)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        stop.set()
        asking.join()
        made, failed, took, cpu = (float(word) for word in sender.stdout.split())
        return {
            "spans_per_s": made / took,
            "failed_exports": int(failed),
            **_settled(viewer, int(made)),
            "viewer_cores": (viewer.cpu() - before) / took,
            "sender_cores": cpu / took,
            **_waits(waits),
        }


def posted(folder: Path, rate: int, seconds: float, workers: int = 2) -> dict[str, Any]:
    """Raw protobuf bodies of 512 spans at ``rate`` spans a second; 0: as fast as they are taken."""
    size = 512
    count = int((rate or 20_000) * seconds)
    bodies = [_protobuf(batch) for batch in batches(count, size, seed=1)]
    waiting, taken, lock = iter(bodies), [0], threading.Lock()
    with Viewer("--store", str(folder / f"posted-{rate}.duckdb")) as viewer:
        time.sleep(3)
        before, began, waits, stop = viewer.cpu(), time.perf_counter(), list[float](), threading.Event()

        def send() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", viewer.port, timeout=60)
            while True:
                with lock:
                    body = next(waiting, None)
                    due = began + taken[0] * size / rate if rate else 0.0
                    taken[0] += 1
                if body is None:
                    return
                time.sleep(max(0.0, due - time.perf_counter()))
                while True:
                    connection.request("POST", "/v1/traces", body, {"Content-Type": "application/x-protobuf"})
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status == 200:
                        break
                    time.sleep(0.1)

        asking = threading.Thread(target=_ask_on, args=(viewer, waits, stop))
        threads = [threading.Thread(target=send) for _ in range(workers)]
        for thread in (*threads, asking):
            thread.start()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - began
        stop.set()
        asking.join()
        return {
            "spans_per_s": count / took,
            **_settled(viewer, count),
            "viewer_cores": (viewer.cpu() - before) / took,
            "viewer_mib": viewer.memory(),
            **_waits(waits),
        }


def _ask_on(viewer: Viewer, waits: list[float], stop: threading.Event) -> None:
    """The page with its live tail on."""
    while not stop.wait(0.5):
        for path in ("/api/status", "/api/calls?limit=100", "/api/facets"):
            waits.append(viewer.get(path)[0])


def _waits(waits: list[float]) -> dict[str, Any]:
    return {"answers": len(waits), "answer_median_s": statistics.median(waits), "answer_max_s": max(waits)}


def _settled(viewer: Viewer, expected: int) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while (spans := viewer.status()["spans"]) < expected and time.monotonic() < deadline:
        time.sleep(0.1)
    return {"sent": expected, "in_store": spans}


def _protobuf(spans: list[dict[str, Any]]) -> bytes:
    import base64

    from google.protobuf.json_format import ParseDict
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    def ids(span: dict[str, Any]) -> dict[str, Any]:
        keys = ("traceId", "spanId", "parentSpanId")
        return span | {key: base64.b64encode(bytes.fromhex(span[key])).decode() for key in keys}

    made: Any = ParseDict(document([ids(span) for span in spans]), ExportTraceServiceRequest())
    return made.SerializeToString()


# Browsing


def browse(folder: Path, spans: int, rounds: int, console: Console) -> dict[str, Any]:
    """A file opened, and every question asked."""
    store = folder / f"browse-{spans}.duckdb"
    found = {} if store.exists() else _load(folder, store, spans, console)
    with Viewer("--store", str(store)) as viewer:
        found |= _settled(viewer, spans)
        time.sleep(3)
        return found | {
            "store_mib": viewer.status()["bytes"] / 2**20,
            "questions": {name: times(viewer, paths, rounds) for name, paths in _questions(viewer).items()},
            "viewer_mib": viewer.memory(),
        }


def _load(folder: Path, store: Path, spans: int, console: Console) -> dict[str, Any]:
    """Write a file and open it."""
    path = folder / "large.otlp.jsonl"
    with Progress(console=console, transient=True) as progress, path.open("wb") as file:
        task = progress.add_task("writing the file", total=spans)
        for batch in batches(spans, 500, seed=2):
            file.write(orjson.dumps(document(batch)) + b"\n")
            progress.update(task, advance=len(batch))
    began = time.perf_counter()
    with Viewer("--store", str(store), str(path)) as viewer:
        waits: list[float] = []
        while viewer.status()["loading"] is not None:
            waits += [viewer.get(question)[0] for question in ("/api/calls", "/api/facets")]
            time.sleep(1)
        found = {
            "file_mib": path.stat().st_size / 2**20,
            "loading_s": time.perf_counter() - began,
            "while_loading": _waits(waits) if waits else {},
            "viewer_mib": viewer.memory(),
        }
        _settled(viewer, spans)
    path.unlink()
    return found


def _questions(viewer: Viewer) -> dict[str, list[str]]:
    """Each question in variants, none asked twice: kept answers do not count."""
    since = viewer.status()["since_us"]
    one = "model=gpt-4o&cause=queueing"
    orders = ("newest", "slowest", "ttft", "tokens", "cost")
    first = viewer.get("/api/calls?limit=2")[1]["calls"]
    pair = list(zip("ab", first, strict=True))
    return {
        "calls, first page": [f"/api/calls?order={order}" for order in orders],
        "calls, filtered": [f"/api/calls?order={order}&{one}" for order in orders],
        "calls, text": [f"/api/calls?q={quote(text)}" for text in ("chat gpt", "sonnet", first[0]["trace_id"], "zz")],
        "calls, last page": [_last_page(viewer, order) for order in orders],
        "facets": [
            "/api/facets", f"/api/facets?{one}", f"/api/facets?since_us={since + 1000}", "/api/facets?slower_s=1",
        ],
        "percentiles": [
            "/api/percentiles", f"/api/percentiles?{one}", f"/api/percentiles?since_us={since + 1000}",
            "/api/percentiles?model=gpt-4o&buckets=100", "/api/percentiles?outcome=completed",
        ],
        "trace": [f"/api/traces/{call['trace_id']}" for call in first],
        "compare": ["/api/compare?" + "&".join(f"{name}={call['trace_id']}:{call['span_id']}" for name, call in pair)],
        "status": ["/api/status"],
    }  # fmt: skip


def _last_page(viewer: Viewer, order: str) -> str:
    """The address of the last page: a cursor behind all but the last hundred."""
    import base64

    key = {"newest": "start_us", "slowest": "duration_s"}.get(order)
    calls = viewer.get(f"/api/calls?order={order}&limit=1000")[1]["calls"]
    at = calls[-1]
    value = at[key] if key else 0.002
    if order == "newest":
        value = viewer.status()["since_us"] + 100_000
    elif order == "slowest":
        value = 0.15
    cursor = base64.urlsafe_b64encode(json.dumps([value, at["trace_id"], 1]).encode()).decode()
    return f"/api/calls?order={order}&after={cursor}"


def times(viewer: Viewer, paths: list[str], rounds: int) -> dict[str, float]:
    """Each address asked in rounds, a changed number of seconds each time so that no kept answer counts."""
    took: list[float] = []
    for number in range(rounds):
        for path in paths:
            limited = path.startswith(("/api/calls", "/api/facets", "/api/percentiles"))
            extra = (
                f"{'&' if '?' in path else '?'}slower_s={number / 1e6}" if limited and "slower_s" not in path else ""
            )
            took.append(viewer.get(path + extra)[0])
    return {"asked": len(took), "median_ms": statistics.median(took) * 1e3, "max_ms": max(took) * 1e3}


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.evaluation.overhead.viewer", description=__doc__)
    parser.add_argument("what", nargs="*", choices=["starts", "rate", "browse", []], help="all where none is named")
    parser.add_argument("--spans", type=int, default=1_000_000, help="of the file that is browsed")
    parser.add_argument("--rate", type=int, default=5000, help="spans a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each rate")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the store that is browsed is kept, and found again")
    given = parser.parse_args()
    console = Console()
    work: dict[str, Callable[[Path], dict[str, Any]]] = {
        "starts": lambda folder: starts(folder, given.rounds),
        "rate": lambda folder: {
            "exporter": exported(folder, given.rate, given.seconds),
            "requests": posted(folder, given.rate, given.seconds),
            "requests, unpaced": posted(folder, 0, given.seconds / 2),
        },
        "browse": lambda folder: browse(given.folder or folder, given.spans, given.rounds, console),
    }
    with tempfile.TemporaryDirectory(prefix="llmtrace-bench-view-") as scratch:
        for name in given.what or work:
            found = work[name](Path(scratch))
            table = Table("", "", title=name)
            for key, value in _flat(found):
                table.add_row(key, f"{value:,.3f}" if isinstance(value, float) else f"{value:,}")
            console.print(table)


def _flat(found: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in found.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}: ")
        else:
            yield above + key, value


if __name__ == "__main__":
    main()
