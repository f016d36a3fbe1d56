"""The real LiteLLM proxy between a traced client and two deployments: its retries, its fallback, its cache, its price.

LLMTRACE_LITELLM names its command, from an environment of its own: pip install "litellm[proxy]".
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support import replay as play
from tests.support.replay import Replay
from tests.support.spans import Spans, attributes

COMMAND = os.environ.get("LLMTRACE_LITELLM") or shutil.which("litellm")
KEY = "sk-" + secrets.token_hex(32)
STARTS_WITHIN = 120.0
"""s. It imports a lot of itself first."""


@pytest.fixture
def second() -> Iterator[Replay]:
    """The deployment that is asked when the first one fails; ``replay`` is the first."""
    with Replay() as server:
        yield server


@pytest.fixture
def proxy(replay: Replay, second: Replay, tmp_path: Path) -> Iterator[str]:
    if not COMMAND:
        pytest.skip("no litellm command: pip install 'litellm[proxy]' somewhere, and LLMTRACE_LITELLM")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    deployments = [("chat", "dep-a", replay), ("spare", "dep-b", second)]
    config = {
        "model_list": [
            {
                "model_name": name,
                "litellm_params": {"model": f"openai/{name}-served", "api_base": server.base_url, "api_key": "k"},
                "model_info": {"id": deployment},
            }
            for name, deployment, server in deployments
        ],
        "router_settings": {"fallbacks": [{"chat": ["spare"]}], "num_retries": 1, "retry_after": 0},
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"cache": True, "cache_params": {"type": "local"}},
    }
    file, log = tmp_path / "config.yaml", tmp_path / "proxy.log"
    file.write_text(json.dumps(config))
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    command = [COMMAND, "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as out, subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT) as running:
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            assert running.poll() is None, log.read_text()[-2000:]
            try:
                return httpx.get(f"{url}/health/liveliness", timeout=2).is_success
            except httpx.HTTPError:
                return False

        try:
            until = time.monotonic() + STARTS_WITHIN
            while not answers():
                assert time.monotonic() < until, log.read_text()[-2000:]
                time.sleep(0.2)
            yield f"{url}/v1"
        finally:
            running.terminate()


def route(said: dict[str, Any]) -> dict[str, str]:
    return dict(part.split("=", 1) for part in said["llmtrace.route.fingerprint"].split(";"))


def test_the_proxy(proxy: str, replay: Replay, second: Replay, spans: Spans, tracing: Any) -> None:
    tracing.on()
    client = openai.OpenAI(base_url=proxy, api_key=KEY, max_retries=0)
    replay.serve(play.openai_body())
    second.serve(play.openai_body("from the second"))

    def ask(words: str, **options: Any) -> Any:
        spans.clear()
        answer = client.chat.completions.create(model="chat", messages=[{"role": "user", "content": words}], **options)
        if options:
            assert list(answer)
        return spans.one("completed")

    plain = ask("plain")
    said = attributes(plain)
    assert said["llmtrace.gateway.name"] == "litellm"
    assert route(said)["deployment"] == "dep-a"
    assert route(said)["upstream"] == f"127.0.0.1:{replay.port}"
    assert said["llmtrace.cost.usd"] > 0
    assert "gateway" in spans.phases(plain)
    assert all(each.name != "llm.attempt" for each in spans.children(plain))

    cached = ask("plain")
    assert attributes(cached)["llmtrace.gateway.cache"] == "hit"
    assert set(spans.phases(cached)) <= {"network", "gateway", "unattributed"}
    assert [request.method for request in replay.requests].count("POST") == 1, "the proxy lists models too"

    replay.play(play.server_error(500))
    retried = ask("tried twice")
    told = [attributes(each).get("llmtrace.attempt.told") for each in spans.children(retried)]
    assert told == [True, None]

    replay.serve(play.server_error(500))
    elsewhere = ask("asked elsewhere")
    assert route(attributes(elsewhere))["deployment"] == "dep-b"
    assert attributes(elsewhere)["llmtrace.gateway.fallbacks"] == 1
    assert attributes(spans.children(elsewhere)[0])["llmtrace.attempt.told"] is True

    replay.serve(play.openai_stream(usage=play.USAGE))
    options = {"stream": True, "stream_options": {"include_usage": True}}
    streamed = ask("streamed", **options)
    assert attributes(streamed)["gen_ai.usage.output_tokens"] == play.USAGE["completion_tokens"]
    assert "llmtrace.gateway.cache" not in attributes(streamed)
    assert attributes(ask("streamed", **options))["llmtrace.gateway.cache"] == "hit"
