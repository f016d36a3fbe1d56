"""A program that forks while eight threads make and end calls: ``python fork_storm.py BASE_URL CHILDREN [metrics]``.

Every other child is one of multiprocessing. Each makes calls of its own, flushes, and leaves. Prints as JSON what
became of the children. It uses llmtrace's public names and no more, so that it runs against older code as well.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from typing import Any

import openai
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

import llmtrace

THREADS = 8
SWITCH_S = 1e-5
HUNG_S = 120.0
"""A child that has not left after so long hangs."""
AT_ONCE = 6
NO_SPAN, FAILED = 3, 4
"""Exit codes of a child whose call has no span, and of one in which the call or something of ours failed."""

base, children = sys.argv[1], int(sys.argv[2])
arrived: list[str] = []


class Kept(SpanExporter):
    """Keeps the names of spans; no lock that a fork could disturb."""

    def export(self, spans: Any) -> SpanExportResult:
        arrived.extend(span.name for span in spans)
        del arrived[:-100]
        return SpanExportResult.SUCCESS


def client() -> openai.OpenAI:
    """A client without certificates to load, which would be most of a child's work."""
    quick = openai.DefaultHttpxClient(verify=False)
    return openai.OpenAI(base_url=base, api_key="none", max_retries=0, http_client=quick)


def ask(client: openai.OpenAI, model: str, number: int) -> None:
    """A whole call, a stream read to its end, one closed early: prompts of many lengths that begin alike."""
    messages: Any = [{"role": "user", "content": "The same beginning. " + "word " * (number % 40 * 20)}]
    client.chat.completions.create(model=model, messages=messages)
    for _ in client.chat.completions.create(model=model, messages=messages, stream=True):
        pass
    # None is dropped unread: a thread's collector could be in the middle of closing it at the fork, and CPython's would
    # then never run in that child. (It also may close a response while httpcore holds its pool's lock.)
    client.chat.completions.create(model=model, messages=messages, stream=True).close()


def busy(stop: threading.Event, client: openai.OpenAI, number: int) -> None:
    while not stop.is_set():
        number += 1
        ask(client, "parent", number)


def in_child() -> None:
    """Make a child's calls, flush, and exit at once."""
    arrived.clear()
    code = FAILED
    try:
        ask(client(), "child", 7)
        provider.force_flush()
        code = 0 if arrived.count("chat child") == 3 and "chat parent" not in arrived else NO_SPAN
        internal_errors = sys.modules.get("llmtrace.observe.internal_errors")
        if internal_errors is not None and internal_errors.counts:
            code = FAILED
    finally:
        os._exit(code)


def fork(number: int) -> int:
    """The new child's process id."""
    if number % 2:
        child = multiprocessing.get_context("fork").Process(target=in_child)
        child.start()
        assert child.pid is not None
        return child.pid
    pid = os.fork()
    if pid == 0:
        in_child()
    return pid


def collect(alive: dict[int, float], codes: list[int | None], most: int) -> None:
    """Wait until at most ``most`` children are alive; one that hangs is killed, its code None."""
    while len(alive) > most:
        for pid, since in list(alive.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes.append(os.waitstatus_to_exitcode(status))
                del alive[pid]
            elif time.monotonic() - since > HUNG_S:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                codes.append(None)
                del alive[pid]
        time.sleep(0.01)


provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(Kept()))
if "bare" not in sys.argv:
    meters = MeterProvider(metric_readers=[InMemoryMetricReader()]) if "metrics" in sys.argv else None
    llmtrace.instrument("openai", tracer_provider=provider, meter_provider=meters)
stop = threading.Event()
clients = [client() for _ in range(THREADS)]
for each in clients:
    ask(each, "parent", 1)  # what a first call builds is not built while forking: the interpreter's own locks
sys.setswitchinterval(SWITCH_S)
threads = [threading.Thread(target=busy, args=(stop, each, n * 5)) for n, each in enumerate(clients)]
for thread in threads:
    thread.start()
begun = time.monotonic()
alive: dict[int, float] = {}
codes: list[int | None] = []
multiprocessing.process._cleanup = lambda: None  # it would wait for our children
for number in range(children):
    collect(alive, codes, AT_ONCE)
    alive[fork(number)] = time.monotonic()
stop.set()
collect(alive, codes, 0)
for thread in threads:
    thread.join()
print(
    json.dumps(
        {
            "children": children,
            "hung": codes.count(None),
            "failed": sum(code not in (None, 0) for code in codes),
            "codes": sorted({code for code in codes if code}),
            "seconds": round(time.monotonic() - begun, 1),
        }
    )
)
os._exit(0)
