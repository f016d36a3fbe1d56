"""llmtrace switched on before the client is imported, in a fresh process: by the program, and by the launcher."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import pytest

from llmtrace.providers import CLIENTS, Client, client_named
from tests.support import by_funnel, by_library, by_method

ROOT = Path(__file__).resolve().parents[2]
LIGHT = [client for client in CLIENTS if client.package not in ("vllm", "transformers", "llama_cpp")]
"""All but the models in the application's own process. Those of vLLM and llama.cpp: ``tests/e2e``."""
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

DOCTOR = """
import io, json, os, sys
import llmtrace
from llmtrace import doctor
from rich.console import Console

def says():
    out = io.StringIO()
    doctor.run(Console(file=out, width=200), os.environ, everything=True)
    return next(line.split("mistralai", 1)[1].split(":")[-1].strip() for line in out.getvalue().splitlines()
                if " mistralai " in line)

llmtrace.instrument()
told = [says()]
if sys.argv[1] == "unheard":  # as by an import hook that is told of no namespace package
    sys.meta_path[:] = [each for each in sys.meta_path if "llmtrace" not in type(each).__module__]
from mistralai.client import Mistral

told.append(says())
import mistralai.client.chat

told.append(says())
print(json.dumps(told))
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

BEGUN = """
import json, sys
from importlib import import_module
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans = InMemorySpanExporter()
if sys.argv[1] == "launched":
    provider = trace.get_tracer_provider()
else:
    provider = TracerProvider()
    trace.set_tracer_provider(provider)
    import llmtrace

    llmtrace.instrument()
provider.add_span_processor(SimpleSpanProcessor(spans))
"""

CALLED = (
    BEGUN
    + """
from tests.support.replay import Replay

package, module, name = sys.argv[2:]
driver_class = getattr(import_module(module), name)
assert package not in sys.modules, "switched on first"

told = {}
for kind in driver_class.kinds:
    with Replay() as server:
        driver = driver_class(kind, server.url)
        server.play(driver.whole(), driver.script([(0.0, each) for each in driver.events()]))
        driver.call()
        driver.read()
        driver.settle()
        driver.shut()
    ended = spans.get_finished_spans()
    usage = {span.context.span_id: span.attributes.get("gen_ai.usage.output_tokens") for span in ended}
    told[kind] = [
        [
            span.attributes["llmtrace.call.outcome"],
            usage[(span.parent if span.name == "llm.call" else span.context).span_id],  # a client's own span has it
            sorted(each.name for each in ended if each.parent and each.parent.span_id == span.context.span_id),
        ]
        for span in ended
        if "llmtrace.call.outcome" in span.attributes
    ]
    spans.clear()
print(json.dumps([driver_class.usage[1], told]))
"""
)

GENERATED = (
    BEGUN
    + """
assert "transformers" not in sys.modules, "switched on first"

torch, transformers = import_module("torch"), import_module("transformers")
torch.set_num_threads(1)
shape = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, eos_token_id=None)).eval()
model.generate(torch.tensor([[5, 9, 23]]), max_new_tokens=4, do_sample=False)
print(json.dumps([
    [span.attributes["llmtrace.call.outcome"], span.attributes["gen_ai.usage.output_tokens"]]
    for span in spans.get_finished_spans()
    if "llmtrace.call.outcome" in span.attributes
]))
"""
)


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


@pytest.mark.parametrize("way", ["heard", "unheard"])
def test_doctor_asks_the_patch(way: str) -> None:
    _needs(client_named("mistralai"))
    told = _run([], DOCTOR, way)
    assert isinstance(told, list)
    assert told[0] == "patched in this process as soon as it is imported"
    if way == "heard":
        assert told[1] == "patched in this process as soon as it is used"
        assert re.fullmatch(r"patched in this process \(\d+ functions\)", told[2])
    else:
        assert all(each.endswith("is imported, and none of its functions is patched") for each in told[1:])


def test_what_is_slow_to_import_is_left_alone() -> None:
    """Switched on and off by the program, and beside the instrumentor of ``opentelemetry-instrument``."""
    assert _run([], LIGHTLY) == [False, True, True, False, True, False]


WAYS = pytest.mark.parametrize("way", ["first", "launched"])
DRIVERS = {driver.name: driver for driver in reversed((*by_funnel.DRIVERS, *by_library.DRIVERS, *by_method.DRIVERS))}
"""The first of each client's."""


def _launcher(way: str) -> list[str]:
    if way == "first":
        return []
    if find_spec("opentelemetry.distro") is None:
        pytest.skip("without a distribution nothing sets the SDK up")
    return [str(Path(sys.executable).parent / "opentelemetry-instrument")]


def _needs(client: Client) -> None:
    try:
        version(client.distribution)
    except PackageNotFoundError:
        pytest.skip(f"{client.distribution} is not installed")


@WAYS
@pytest.mark.parametrize("client", LIGHT, ids=lambda client: client.name)
def test_every_clients_calls_are_seen(client: Client, way: str) -> None:
    """Whole and streamed, synchronous and asynchronous, in a process that has imported the client after us."""
    _needs(client)
    driver = DRIVERS[client.name]
    output, told = _run(_launcher(way), CALLED, way, client.package, driver.__module__, driver.__name__)  # type: ignore[misc]
    assert set(told) == set(driver.kinds)
    for calls in told.values():
        assert [call[:2] for call in calls] == [["completed", output]] * 2
        assert all("llm.network" in call[2] for call in calls), "its requests are seen as well"


@WAYS
def test_a_model_in_the_process(way: str) -> None:
    _needs(client_named("transformers"))
    assert _run(_launcher(way), GENERATED, way) == [["completed", 4]]
