"""Calls that asked nobody: LiteLLM's cache, an answer that a test gave it, a call that fails before its request.

They have an outcome and a duration and nothing else, and their route learns nothing from them.
"""

from __future__ import annotations

import asyncio
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import replay as play
from tests.support.spans import attributes, spent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.replay import Replay
    from tests.support.spans import Metrics, Spans

ALLOWED = {
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.request.model",
    "gen_ai.request.stream",
    "llmtrace.schema_version",
    "llmtrace.call.outcome",
    "error.type",
}


@pytest.fixture
def lite(monkeypatch: pytest.MonkeyPatch, tracing: Any, replay: Replay) -> Iterator[Any]:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    # LiteLLM's cache imports a part of its proxy that wants to read sound files, which nothing here does.
    monkeypatch.setitem(sys.modules, "soundfile", types.ModuleType("soundfile"))
    tracing.on("litellm", "openai")
    yield litellm
    litellm.cache = None


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is taught to a route."""
    from llmtrace.calls import tracer
    from llmtrace.estimate.baselines import Baselines

    told: list[str] = []
    for owner, name in ((Baselines, "end"), (Baselines, "cached"), (tracer, "diagnose")):
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, _noting(original, told, name))
    return told


def _noting(original: Callable[..., Any], told: list[str], name: str) -> Callable[..., Any]:
    def noting(*args: Any, **kwargs: Any) -> Any:
        told.append(name)
        return original(*args, **kwargs)

    return noting


def ask(lite: Any, replay: Replay, streaming: bool, asynchronous: bool, **more: Any) -> None:
    place = {"api_base": replay.base_url, "api_key": "k", "model": "openai/gpt-4o-mini", "stream": streaming}
    asked = place | {"messages": [{"role": "user", "content": "hi"}]} | more

    async def aask() -> None:
        answer = await lite.acompletion(**asked)
        if streaming:
            async for _ in answer:
                pass
        await asyncio.sleep(0)

    if asynchronous:
        asyncio.run(aask())
        return
    answer = lite.completion(**asked)
    if streaming:
        for _ in answer:
            pass


def bare(spans: Spans, outcome: str = "completed") -> None:
    (span,) = spans.finished()
    assert attributes(span)["llmtrace.call.outcome"] == outcome
    assert set(attributes(span)) <= ALLOWED, set(attributes(span)) - ALLOWED
    assert span.end_time is not None
    assert span.start_time is not None
    assert span.end_time > span.start_time


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
def test_litellms_cache(
    streaming: bool, asynchronous: bool, lite: Any, replay: Replay, spans: Spans, learned: list[str]
) -> None:
    replay.serve(play.openai_stream(usage=play.USAGE) if streaming else play.openai_body())
    lite.cache = lite.Cache(type="local")
    ask(lite, replay, streaming, asynchronous, caching=True)
    assert attributes(spans.one("completed"))["gen_ai.usage.output_tokens"] == play.USAGE["completion_tokens"]
    assert "end" in learned
    spans.clear()
    learned.clear()
    ask(lite, replay, streaming, asynchronous, caching=True)
    assert len(replay.requests) == 1
    bare(spans)
    assert not learned


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
def test_what_a_test_gave_it(
    streaming: bool, asynchronous: bool, lite: Any, replay: Replay, spans: Spans, metrics: Metrics, learned: list[str]
) -> None:
    ask(lite, replay, streaming, asynchronous, mock_response="hello you")
    assert not replay.requests
    bare(spans)
    assert not learned
    named = set(metrics.collect())
    assert spent(metrics, "input") == spent(metrics, "output") == 0
    assert not [name for name in named if "phase" in name or "operation.input_tokens" in name or "first_chunk" in name]
    assert [name for name in named if "duration" in name]


def test_a_failure_that_a_test_gave_it(lite: Any, replay: Replay, spans: Spans, learned: list[str]) -> None:
    with pytest.raises(lite.RateLimitError):
        ask(lite, replay, False, False, mock_response="litellm.RateLimitError")
    bare(spans, "error")
    assert not learned


def test_botocores_stubs(tracing: Any, spans: Spans, learned: list[str]) -> None:
    import boto3
    from botocore.stub import Stubber

    tracing.on("bedrock")
    client = boto3.client("bedrock-runtime", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    answer = {
        "output": {"message": {"role": "assistant", "content": [{"text": "hello"}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 9, "outputTokens": 9, "totalTokens": 18},
        "metrics": {"latencyMs": 5},
    }
    asked = {"modelId": "m", "messages": [{"role": "user", "content": [{"text": "hi"}]}]}
    with Stubber(client) as stub:
        stub.add_response("converse", answer, asked)
        client.converse(**asked)
    (span,) = spans.finished()
    assert attributes(span)["llmtrace.call.outcome"] == "completed"
    assert not [name for name in attributes(span) if "usage" in name or "response" in name]
    assert not learned
