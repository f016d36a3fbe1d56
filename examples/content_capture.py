"""The messages of a call on its span: off by default, on for this process because it asks for it.

Start a server first (`llmtrace serve`), or name another one in OPENAI_BASE_URL (with OPENAI_API_KEY and MODEL).
"""

from __future__ import annotations

import json
import os

from openai import OpenAI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import llmtrace


def messages_on_spans(capture: bool) -> list[str]:
    """Make one call and return what its spans say of the messages."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    llmtrace.instrument("openai", tracer_provider=provider, capture_content=capture)
    try:
        client = OpenAI(
            base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8101/v1"),
            api_key=os.environ.get("OPENAI_API_KEY", "none-needed"),
        )
        model = os.environ.get("MODEL") or client.models.list().data[0].id
        client.chat.completions.create(
            model=model,
            messages=[
                {"role": "system", "content": "Answer in one sentence."},
                {"role": "user", "content": "What is a trace?"},
            ],
            max_tokens=24,
        )
    finally:
        llmtrace.uninstrument("openai")
        provider.shutdown()
    return [
        f"{name}: {json.dumps(json.loads(str(value)), indent=2)}"
        for span in exporter.get_finished_spans()
        for name, value in (span.attributes or {}).items()
        if name.endswith(".messages")
    ]


def main() -> None:
    """The same call without and with content capture."""
    print("By default:", messages_on_spans(False) or "no messages")
    print("With capture_content=True:")
    print("\n".join(messages_on_spans(True)))


if __name__ == "__main__":
    main()
