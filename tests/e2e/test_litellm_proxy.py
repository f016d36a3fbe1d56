"""The real LiteLLM proxy between a traced client and two deployments: its retries, its fallback, its cache, its price.

LLMTRACE_LITELLM names its command, from an environment of its own: pip install "litellm[proxy]". Without it the one
that ``make frameworks`` made is taken; it has llmtrace beside it, with which the proxy itself is traced.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from llmtrace.emit.otlp_json import OtlpJsonFileExporter
from llmtrace.reference import ServerProcess
from tests.e2e import servers
from tests.e2e.frameworks import seen
from tests.support import by_funnel
from tests.support import replay as play
from tests.support.replay import Replay
from tests.support.spans import Spans, attributes

_MADE = servers.VENVS / "framework-litellm-proxy" / "bin" / "litellm"
_FOUND = _MADE if _MADE.exists() else shutil.which("litellm") or "litellm"
COMMAND = Path(os.environ.get("LLMTRACE_LITELLM") or _FOUND)
KEY = "sk-" + secrets.token_hex(32)
SLOW = 1.0
"""s more to the first token, at least, once a deployment has become slow."""
STARTS_WITHIN = 400.0
"""s. It imports a lot of itself first."""


@pytest.fixture
def second() -> Iterator[Replay]:
    """The deployment that is asked when the first one fails; ``replay`` is the first."""
    with Replay() as server:
        yield server


@contextmanager
def running_proxy(
    deployments: Sequence[tuple[str, str, Replay | ServerProcess]],
    tmp_path: Path,
    launcher: Sequence[str] = (),
    served: str = "",
    **settings: Any,
) -> Iterator[str]:
    """The proxy before ``deployments`` (the name that is asked for, the deployment's id, its server), started by
    ``launcher``; ``served``: the model's name there; ``settings`` are of its configuration."""
    if not COMMAND.exists():
        pytest.skip("no litellm command: pip install 'litellm[proxy]' somewhere, and LLMTRACE_LITELLM")
    config = {
        "model_list": [
            {
                "model_name": name,
                "litellm_params": {
                    "model": f"openai/{served or f'{name}-served'}",
                    "api_base": server.base_url,
                    "api_key": "k",
                },
                "model_info": {"id": deployment},
            }
            for name, deployment, server in deployments
        ],
        "general_settings": {"master_key": KEY},
        **settings,
    }
    file, port = tmp_path / "config.yaml", servers.free_port()
    file.write_text(json.dumps(config))
    # Its server ends the process by the signal that stopped it.
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": "", "LLMTRACE_FLUSH_ON_SIGTERM": "true"}
    command = [*launcher, str(COMMAND), "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
    with servers.running(command, tmp_path, port, "/health/liveliness", STARTS_WITHIN, env) as server:
        yield f"{server.url}/v1"


@pytest.fixture
def proxy(replay: Replay, second: Replay, tmp_path: Path) -> Iterator[str]:
    with running_proxy(
        [("chat", "dep-a", replay), ("spare", "dep-b", second)],
        tmp_path,
        router_settings={"fallbacks": [{"chat": ["spare"]}], "num_retries": 1, "retry_after": 0},
        litellm_settings={"cache": True, "cache_params": {"type": "local"}},
    ) as url:
        yield url


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


@pytest.mark.parametrize("run_on", [False, True])
def test_who_goes_on_behind_the_proxy(tmp_path: Path, run_on: bool) -> None:
    """The proxy passes the close of a stream on; whether the engine heeds it is the engine's affair."""
    answer = tmp_path / "answer.json"
    with (
        ServerProcess(device="cpu", arguments=["--run-on"] if run_on else []) as engine,
        running_proxy([("llmtrace-tiny", "dep-a", engine)], tmp_path, served="llmtrace-tiny") as url,
    ):
        command = [sys.executable, "-m", "llmtrace.cli", "probe", "cancel", "--yes", "--base-url", url]
        command += ["--model", "llmtrace-tiny", "--metrics", f"{engine.root_url}/metrics", "--json", str(answer)]
        subprocess.run(command, check=True, env={**os.environ, "OPENAI_API_KEY": KEY})
    hops = {each["hop"]: each for each in json.loads(answer.read_text())["hops"]}
    assert (hops["gateway"]["state"], hops["engine"]["state"]) == (
        ("unknown", "ran_on") if run_on else ("stopped", "stopped")
    )


# ---- traced itself ---------------------------------------------------------------------------------------------------


@pytest.fixture
def client_file(tracing: Any, spans: Spans, tmp_path: Path) -> Path:
    """Where the client's own spans go, beside ``spans``."""
    file = tmp_path / "client.jsonl"
    spans.provider.add_span_processor(SimpleSpanProcessor(OtlpJsonFileExporter(file)))
    tracing.on()
    return file


@pytest.fixture
def proxy_file(tmp_path: Path) -> Path:
    return tmp_path / "proxy.jsonl"


@pytest.fixture
def launcher(proxy_file: Path) -> list[str]:
    """What the proxy is started by, so that it is traced into ``proxy_file``."""
    beside = COMMAND.parent / "llmtrace"
    if not beside.exists():
        pytest.skip(f"no llmtrace beside {COMMAND}")
    return [str(beside), "run", "--file", str(proxy_file), "--"]


def who_answered(*files: Path) -> list[list[Any]]:
    """The rows of ``llmtrace report models``: the fourth cell is the fingerprint, the fifth counts the calls."""
    command = [sys.executable, "-m", "llmtrace.cli", "report", "models", "--format", "json", *map(str, files)]
    shown = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return shown["sections"][0]["rows"]


def calls_in(file: Path) -> list[seen.Span]:
    return [span for span in seen.read(file) if span.is_call]


def test_client_and_proxy_in_one_trace(
    launcher: list[str],
    replay: Replay,
    second: Replay,
    tmp_path: Path,
    spans: Spans,
    client_file: Path,
    proxy_file: Path,
) -> None:
    """The proxy's own call lies beneath the client's, and both count once; two deployments, of which one gets slow."""
    slow = 0.0

    def answer(asked: play.Request, wait: float = 0.0) -> play.Script:
        if not asked.json.get("stream"):
            return play.openai_body(model=asked.json["model"])
        return play.openai_stream(usage=play.USAGE, ttft=wait, itl=0.02)

    replay.serve(answer)
    second.serve(lambda asked: answer(asked, slow))
    with running_proxy([("chat", "dep-a", replay), ("chat", "dep-b", second)], tmp_path, launcher) as url:
        client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0)
        question: Any = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}
        client.chat.completions.create(**question)

        def ask() -> dict[str, Any]:
            spans.clear()
            options: Any = {"stream": True, "stream_options": {"include_usage": True}}
            assert list(client.chat.completions.create(**question, **options))
            return attributes(spans.one("completed"))

        before = [ask() for _ in range(60)]
        slow = SLOW + 3 * max(each["llmtrace.call.ttft"] for each in before)  # beyond what a busy machine does
        after = [ask() for _ in range(40)]
    assert {route(each)["deployment"] for each in before} == {"dep-a", "dep-b"}
    outer, inner = calls_in(client_file), calls_in(proxy_file)
    assert len(outer) == len(inner) == 101
    served = {span.parent: span for span in inner}
    for above in outer:
        assert served[above.id].trace == above.trace
        assert served[above.id].attributes["gen_ai.usage.input_tokens"] == play.USAGE["prompt_tokens"]
    counted = {row[3].partition("deployment=")[2][:5]: row[4] for row in who_answered(client_file, proxy_file)}
    assert counted.keys() == {"dep-a", "dep-b"}
    assert sum(counted.values()) == len(outer)
    slowed = [each for each in after if each["llmtrace.call.ttft"] > slow]
    assert {route(each)["deployment"] for each in slowed} == {"dep-b"}
    told = [each.get("llmtrace.diagnosis.cause") for each in slowed]
    assert sum(cause in ("queueing", "route_change") for cause in told) > len(told) / 2, told


QUESTION: Any = [{"role": "user", "content": "Hello"}]
SOUND = ("a.wav", b"RIFF" + bytes(100))
ENDPOINTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "chat/completions": ("chat", lambda client: client.chat.completions.create(model="m", messages=QUESTION)),
    "completions": ("text_completion", lambda client: client.completions.create(model="m", prompt="Hello")),
    "embeddings": ("embeddings", lambda client: client.embeddings.create(model="m", input="Hello")),
    "responses": ("chat", lambda client: client.responses.create(model="m", input="Hello")),
    "images/generations": ("image_generation", lambda client: client.images.generate(model="m", prompt="Hello")),
    "images/edits": ("image_generation", lambda client: client.images.edit(model="m", prompt="Hello", image=SOUND)),
    "audio/speech": (
        "text_to_speech",
        lambda client: client.audio.speech.create(model="m", voice="alloy", input="Hello"),
    ),
    "audio/transcriptions": (
        "transcription",
        lambda client: client.audio.transcriptions.create(model="m", file=SOUND),
    ),
    "moderations": ("moderation", lambda client: client.moderations.create(model="m", input="Hello")),
}


def served(asked: play.Request) -> play.Script:
    """An answer of any endpoint's."""
    usage: dict[str, Any] = {"input_tokens": 10, "output_tokens": 20, "total_tokens": 30}
    usage["input_tokens_details"] = {"text_tokens": 10, "image_tokens": 0}
    answers: dict[str, Any] = {
        "embeddings": {
            "object": "list",
            "model": "m",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}],
        },
        "generations": {"created": 1, "data": [{"b64_json": "aGk="}], "usage": usage},
        "edits": {"created": 1, "data": [{"b64_json": "aGk="}], "usage": usage},
        "speech": {},
        "transcriptions": {"text": "Hello"},
        "moderations": {"id": "modr-1", "model": "m", "results": []},
    }
    path = asked.path.partition("?")[0]
    if path.endswith("/responses"):
        return by_funnel.Responses.__new__(by_funnel.Responses).whole()
    last = path.rpartition("/")[2]
    return play.json_answer(answers[last]) if last in answers else play.openai_body()


def test_every_endpoint_is_traced(
    launcher: list[str], replay: Replay, tmp_path: Path, client_file: Path, proxy_file: Path
) -> None:
    """Each request of the client's has one call of the proxy's beneath its own, of the same operation."""
    replay.serve(served)
    with running_proxy([("m", "dep-a", replay)], tmp_path, launcher) as url:
        client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0)
        for _, ask in ENDPOINTS.values():
            ask(client)
    outer, inner = calls_in(client_file), calls_in(proxy_file)
    beneath = {span.parent: span.attributes["gen_ai.operation.name"] for span in inner}
    assert [span.attributes["gen_ai.operation.name"] for span in outer] == [name for name, _ in ENDPOINTS.values()]
    assert [beneath.get(span.id) for span in outer] == [name for name, _ in ENDPOINTS.values()]
    assert len(inner) == len(outer)
