"""What each framework's program begins with: it plays its cases in order and writes down what the framework gave back.

Runs inside the framework's own environment, where nothing of the tests can be imported.

FRAMEWORK_URL: the scripted provider; each case gets a path of its own beneath it. FRAMEWORK_OUT: the file for what came
back, as JSON. FRAMEWORK_SPANS: set where the framework's own instrumentation is to be on beside llmtrace, in code: the
OTLP/JSON file that both write to.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

KEY = "none-needed"
MODEL = "gpt-4o-mini"
QUESTION = "What is the weather in Bern?"

Case = Callable[[str], Any]


def weather(city: str) -> str:
    """Tell the weather in a city.

    Args:
        city: The city's name.
    """
    return f"Sun in {city}."


def play(cases: Mapping[str, Case], own: Callable[[Any], None] | None = None) -> None:
    """Run ``cases``, each with the base URL of its own; a case that is a coroutine runs in an event loop.

    ``own`` switches the framework's own instrumentation on, and is given the TracerProvider.
    """
    url, out = os.environ["FRAMEWORK_URL"], Path(os.environ["FRAMEWORK_OUT"])
    file = os.environ.get("FRAMEWORK_SPANS")
    provider = None
    if file and own is not None:
        provider = both(file)
        own(provider)
    given: dict[str, Any] = {}
    for name, case in cases.items():
        answer = case(f"{url}/{name}/v1")
        given[name] = asyncio.run(answer) if inspect.iscoroutine(answer) else answer
    out.write_text(json.dumps(given, indent=1, default=str))
    if provider is not None:
        provider.shutdown()


def both(file: str) -> Any:
    """Trace into ``file``, by a TracerProvider that is everybody's; returns that."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    import llmtrace
    from llmtrace.emit.otlp_json import OtlpJsonFileExporter

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OtlpJsonFileExporter(file)))
    trace.set_tracer_provider(provider)
    llmtrace.instrument(tracer_provider=provider)
    return provider
