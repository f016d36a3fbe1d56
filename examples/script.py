"""One streamed call, its spans printed at the end.

Start a server first (`llmtrace serve`), or name another one in OPENAI_BASE_URL (with OPENAI_API_KEY and MODEL).
"""

from __future__ import annotations

import os

from openai import OpenAI
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

import llmtrace


def line(span: ReadableSpan) -> str:
    """A span on one line: name, milliseconds, how that is known, tokens."""
    told = span.attributes or {}
    known = told.get("llmtrace.phase.source") or told.get("llmtrace.call.outcome", "")
    tokens = told.get("llmtrace.phase.tokens")
    took = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
    return f"{span.name:<24}{took:9.1f} ms  {known:<10}{'' if tokens is None else f'{tokens} tokens'}".rstrip() + "\n"


def main() -> None:
    """Instrument, call, read."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(formatter=line)))
    llmtrace.instrument("openai", tracer_provider=provider)

    client = OpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8101/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "none-needed"),
    )
    model = os.environ.get("MODEL") or client.models.list().data[0].id
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What does prefill do?"}],
        max_tokens=48,
        stream=True,
        stream_options={"include_usage": True},  # without it the server sends no token counts in a stream
    )
    for chunk in stream:
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
    print("\n")
    provider.shutdown()


if __name__ == "__main__":
    main()
