"""llmtrace switched on before the client is imported, in a fresh process: by the program, and by the launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmtrace.providers import CLIENTS
from tests.support import replay as play

if TYPE_CHECKING:
    from tests.support.replay import Replay

ROOT = Path(__file__).resolve().parents[2]
LIGHT = [client for client in CLIENTS if client.package not in ("vllm", "transformers", "llama_cpp")]
"""All but the models in the application's own process, whose suites switch on as they import."""
INNER = {
    "aiobotocore": "aiobotocore.client",
    "bedrock": "botocore.client",
    "cohere": "cohere.v2.client",
    "google-genai": "google.genai.models",
    "huggingface": "huggingface_hub.inference._client",
    "mistralai": "mistralai.client.chat",
}
"""The module with the client's functions, where its package imports that as late as it can."""

HOOKED = """
import importlib, json, sys
import llmtrace
from llmtrace.instrumentation.instrumentors import INSTRUMENTORS

llmtrace.instrument()
hooked = {}
for name, package in json.loads(sys.argv[1]).items():
    try:
        importlib.import_module(package)
    except ImportError:
        continue
    hooked[name] = len(INSTRUMENTORS[name]().patches.functions())
llmtrace.uninstrument()
print(json.dumps([hooked, [type(each).__module__ for each in sys.meta_path]]))
"""

LIGHTLY = """
import json, sys
import openai
import llmtrace

slow = "opentelemetry.instrumentation.instrumentor"
llmtrace.instrument("openai")
seen = [slow in sys.modules]
from llmtrace.instrumentation.instrumentors import OpenAIInstrumentor

instrumentor = OpenAIInstrumentor()
def traced():
    return bool(instrumentor.patches and instrumentor.patches.functions())
seen.append(traced())
instrumentor.instrument()
seen.append(traced())
llmtrace.uninstrument()
seen.append(instrumentor.patches is not None)
instrumentor.instrument()
seen.append(traced())
llmtrace.uninstrument("openai")
seen.append(instrumentor.is_instrumented_by_opentelemetry)
print(json.dumps(seen))
"""

MISTRAL = """
import asyncio, json, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans = InMemorySpanExporter()
if sys.argv[2] == "launched":
    provider = trace.get_tracer_provider()
else:
    provider = TracerProvider()
    trace.set_tracer_provider(provider)
    import llmtrace

    llmtrace.instrument()
provider.add_span_processor(SimpleSpanProcessor(spans))

from mistralai.client import Mistral

asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
with Mistral(api_key="k", server_url=sys.argv[1]) as client:
    client.chat.complete(**asked)
    asyncio.run(client.chat.complete_async(**asked))
print(json.dumps([span.name for span in spans.get_finished_spans() if "llmtrace.call.outcome" in span.attributes]))
"""


def _run(program: list[str], script: str, *args: str) -> object:
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
    }
    done = subprocess.run(
        [*program, sys.executable, "-c", script, *args],
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_client_is_hooked() -> None:
    packages = {client.name: INNER.get(client.name, client.package) for client in LIGHT}
    hooked, finders = _run([], HOOKED, json.dumps(packages))  # type: ignore[misc]
    assert hooked["mistralai"] > 0, "a namespace package, whose import no hook is told of"
    assert set(hooked) >= {"openai", "mistralai"}
    assert not [name for name, functions in hooked.items() if not functions]
    assert "llmtrace.instrumentation.namespaces" not in finders, "and nothing stays behind"


def test_what_is_slow_to_import_is_left_alone() -> None:
    """Switched on and off by the program, and beside the instrumentor of ``opentelemetry-instrument``."""
    assert _run([], LIGHTLY) == [False, True, True, False, True, False]


@pytest.mark.parametrize("way", ["first", "launched"])
def test_mistral(way: str, replay: Replay) -> None:
    if way == "launched" and find_spec("opentelemetry.distro") is None:
        pytest.skip("without a distribution nothing sets the SDK up")
    replay.serve(play.openai_body())
    launcher = [str(Path(sys.executable).parent / "opentelemetry-instrument")] if way == "launched" else []
    assert _run(launcher, MISTRAL, replay.url, way) == ["chat gpt-4o-mini"] * 2
