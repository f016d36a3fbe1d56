"""``python -m bench.warm``: the same costs in one warm process, without sockets, where a busy machine disturbs least.

The real client runs over a transport that answers from memory, so that no kernel, no other process and no cold cache
lies in what is compared. Batches of calls are traced and suppressed in turns (OpenTelemetry's own
``suppress_instrumentation``), with the patches in place in both: taking them out would make the interpreter specialise
its code anew each time. Left out: the wrappers themselves (about 3 µs a call) and the transport's own events (about ten
a call). The splice alone is timed over an iterator that costs nothing. Figures are medians of paired differences.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable, Iterator
from statistics import median
from typing import Any

import httpx2
import openai
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import SpanKind, set_span_in_context

import llmtrace
from bench.report import write_section
from llmtrace.observe.call import OUTPUT, Call
from llmtrace.observe.stream import Guard, asplice, splice

FLOOR = "SDK: parent and four children, after each call of the client"
BATCH, ROUNDS, CHUNKS = 10, 150, 4000
BODY = (
    b'{"id":"c-1","object":"chat.completion","created":1,"model":"m-1","system_fingerprint":"fp","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"Hello there"},"finish_reason":"stop"}],"usage":{"prompt_tokens":200,'
    b'"completion_tokens":40,"total_tokens":240,"prompt_tokens_details":{"cached_tokens":0}},"metrics":'
    b'{"queue_time_ms":0.01,"time_to_first_token_ms":0.05,"generation_time_ms":0.1}}'
)


class Dropping(SpanExporter):
    """Takes spans and forgets them."""

    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        return None


def tracer_provider(sampler: Any = ALWAYS_ON) -> TracerProvider:
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Dropping()))
    return provider


def per_call(action: Callable[[], Any]) -> float:
    """CPU µs of one call, over a batch."""
    start = time.process_time_ns()
    for _ in range(BATCH):
        action()
    return (time.process_time_ns() - start) / BATCH / 1e3


def client_call() -> Callable[[], None]:
    """One call of the real client over a transport that answers from memory."""
    transport = httpx2.MockTransport(
        lambda request: httpx2.Response(200, headers={"content-type": "application/json"}, content=BODY)
    )
    client = openai.OpenAI(
        base_url="https://api.example.com/v1", api_key="k", http_client=httpx2.Client(transport=transport)
    )
    messages: Any = [{"role": "user", "content": "Hello"}]

    def call() -> None:
        client.chat.completions.create(model="m", messages=messages, temperature=0)

    return call


def modes(reader: InMemoryMetricReader) -> dict[str, dict[str, Any]]:
    """How llmtrace is switched on, by what the table calls it."""
    return {
        "all phases, metrics": {"tracer_provider": tracer_provider(), "meter_provider": MeterProvider([reader])},
        "all phases, no metrics": {"tracer_provider": tracer_provider(), "metrics": False},
        "unsampled, no metrics": {"tracer_provider": tracer_provider(ALWAYS_OFF), "metrics": False},
    }


def calls() -> dict[str, float]:
    """µs a call over the bare client, by mode; and the client's and the SDK's own."""
    call = client_call()
    reader = InMemoryMetricReader()
    floor = sdk_floor(tracer_provider())
    found: dict[str, float] = {}
    bare: list[float] = []
    floors: list[float] = []
    beside: list[float] = []

    def call_and_floor() -> None:
        call()
        floor()

    for name, settings in modes(reader).items():
        llmtrace.instrument("openai", **settings)
        over: list[float] = []
        for _ in range(ROUNDS):
            with suppress_instrumentation():
                without = per_call(call)
                beside.append(per_call(call_and_floor) - without)
            spent = per_call(call)
            bare.append(without)
            over.append(spent - without)
            floors.append(per_call(floor))
        handed = time.process_time_ns()
        if "meter_provider" in settings:
            reader.get_metrics_data()  # where the values that were put aside are handed over
        found[name] = median(over) + (time.process_time_ns() - handed) / (BATCH * ROUNDS) / 1e3
        llmtrace.uninstrument()
    return {
        "bare": median(bare),
        "SDK: parent and four children, by themselves": median(floors),
        FLOOR: median(beside),
        **found,
    }


def sdk_floor(provider: TracerProvider) -> Callable[[], None]:
    tracer = provider.get_tracer("floor")
    first = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "server.address": "h", "server.port": 443}
    marks = {"llmtrace.phase": "queue", "llmtrace.phase.source": "server", "llmtrace.phase.tokens": 3}

    def floor() -> None:
        parent = tracer.start_span("chat m", kind=SpanKind.CLIENT, attributes=first, start_time=1)
        context = set_span_in_context(parent)
        for name in ("llm.network", "llm.queue", "llm.prefill", "llm.decode"):
            tracer.start_span(name, context=context, attributes=marks, start_time=2).end(3)
        parent.end(4)

    return floor


def new_call() -> Call:
    call = Call(lambda call: call.chunk_timing.fold(), lambda chunk: OUTPUT, streaming=True)
    call.returned = call.start
    return call


def chunks() -> dict[str, float]:
    """µs a chunk of the splice over the same iterator without it."""

    def source() -> Iterator[str]:
        for _ in range(CHUNKS):
            yield "x"

    async def asource() -> AsyncIterator[str]:
        for _ in range(CHUNKS):
            yield "x"

    def drain(items: Iterator[str]) -> float:
        start = time.process_time_ns()
        for _ in items:
            pass
        return (time.process_time_ns() - start) / CHUNKS / 1e3

    async def adrain(items: AsyncIterator[str]) -> float:
        start = time.process_time_ns()
        async for _ in items:
            pass
        return (time.process_time_ns() - start) / CHUNKS / 1e3

    async def both() -> dict[str, float]:
        found: dict[str, list[float]] = {"bare": [], "spliced": [], "abare": [], "aspliced": []}
        for _ in range(200):
            call = new_call()
            found["bare"].append(drain(source()))
            found["spliced"].append(drain(splice(source(), call, Guard(call, lambda call: None))))
            call = new_call()
            found["abare"].append(await adrain(asource()))
            found["aspliced"].append(await adrain(asplice(asource(), call, Guard(call, lambda call: None))))
        least = {name: median(values) for name, values in found.items()}
        return {
            "chunk": least["spliced"] - least["bare"],
            "async chunk": least["aspliced"] - least["abare"],
        }

    return asyncio.run(both())


def main() -> None:
    """Measure, print, and write the table into the page between its markers."""
    gc.collect()
    gc.freeze()
    call, chunk = calls(), chunks()
    floor = call[FLOOR]
    rows = [("the bare client's own cost", call.pop("bare"), ""), *((n, v, "") for n, v in call.items())]
    rows = [(name, value, f"{value / floor:.2f}") for name, value, _ in rows]
    rows += [(f"{name}, splice alone", value, "") for name, value in chunk.items()]
    lines = ["| what | µs | x the SDK's, after each call |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {value:.2f} | {ratio} |" for name, value, ratio in rows]
    print("\n".join(lines))
    write_section("warm", lines)


if __name__ == "__main__":
    main()
