"""``opentelemetry-instrument python app.py``: an application that knows nothing of us, against a real engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.collector import Collector
from tests.e2e.servers import Server

APP = """
import sys
import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none")
asked = [{"role": "user", "content": "Measure first, then say which part was slow."}]
stream = client.chat.completions.create(model="tiny", messages=asked, max_tokens=8, stream=True)
print("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))
"""


def test_zero_code(llama_server: Server, collector: Collector, tmp_path: Path) -> None:
    """The spans of an untouched program arrive over OTLP, its own output unchanged."""
    pytest.importorskip("opentelemetry.distro", reason="without a distribution nothing sets the SDK up")
    app = tmp_path / "app.py"
    app.write_text(APP)
    env = os.environ | {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_SERVICE_NAME": "zero-code",
    }
    program = [str(Path(sys.executable).parent / "opentelemetry-instrument"), sys.executable, str(app)]
    base_url = f"{llama_server.url}/v1"
    done = subprocess.run([*program, base_url], env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "Traceback" not in done.stderr, done.stderr
    (call,) = [span for span in collector.spans() if span.attributes.get("gen_ai.operation.name") == "chat"]
    assert call.name == "chat tiny"
    assert call.attributes["llmtrace.server.engine"] == "llama.cpp"
    trace = collector.of_trace(call.trace_id)
    below = [span.name for span in trace if span.parent_span_id == call.span_id and span.name.startswith("llm.")]
    phases = ("network", "unattributed", "queue", "prefill", "decode")
    assert set(below) - {"llm.kv_cache_hit"} == {f"llm.{phase}" for phase in phases}
