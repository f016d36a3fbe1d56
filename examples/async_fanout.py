"""Several calls at once under one span of the application's own; one of them is cut off by a deadline.

Start a server first (`llmtrace serve`), or name another one in OPENAI_BASE_URL (with OPENAI_API_KEY and MODEL).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from openai import AsyncOpenAI
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import llmtrace

QUESTIONS = ["What is a queue?", "What is prefill?", "What is decode?", "What is a cache hit?"]
DEADLINE = 0.5


async def ask(client: AsyncOpenAI, model: str, question: str, max_tokens: int) -> None:
    """One streamed call, read to its end."""
    stream = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        max_tokens=max_tokens,
        stream=True,
        stream_options={"include_usage": True},
    )
    async for _ in stream:
        pass


async def ask_briefly(client: AsyncOpenAI, model: str) -> None:
    """A call that asks for more than its deadline allows."""
    try:
        await asyncio.wait_for(ask(client, model, "Tell a very long story.", 2000), DEADLINE)
    except asyncio.TimeoutError:
        print(f"gave up after {DEADLINE:g} s\n")


def table(spans: Sequence[ReadableSpan]) -> None:
    """One line per call: its outcome and its phases in milliseconds."""
    for call in spans:
        told = call.attributes or {}
        if "llmtrace.call.outcome" not in told:
            continue
        phases = [
            f"{span.name.removeprefix('llm.')} {((span.end_time or 0) - (span.start_time or 0)) / 1e6:.0f}"
            for span in spans
            if span.parent is not None and call.context is not None and span.parent.span_id == call.context.span_id
        ]
        print(f"{told['llmtrace.call.outcome']:<10} {', '.join(phases)}")


async def main() -> None:
    """Ask everything at once, then say where the time went."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    llmtrace.instrument("openai", tracer_provider=provider)

    async with AsyncOpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8101/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "none-needed"),
    ) as client:
        model = os.environ.get("MODEL") or (await client.models.list()).data[0].id
        with provider.get_tracer("example").start_as_current_span("fan-out"):
            await asyncio.gather(
                *(ask(client, model, question, 24) for question in QUESTIONS), ask_briefly(client, model)
            )
    provider.shutdown()
    table(exporter.get_finished_spans())


if __name__ == "__main__":
    asyncio.run(main())
