"""Requests that the application makes beneath its client, while a call is being made: none of them is an attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from tests.support import by_library
from tests.support import replay as play
from tests.support.by_method import MODEL, AioBedrock, Bedrock
from tests.support.spans import attributes

if TYPE_CHECKING:
    from tests.support.replay import Replay
    from tests.support.spans import Spans

MESSAGES = [{"role": "user", "content": "hello"}]
PATH = "/v1/chat/completions"


@pytest.fixture
def audit(replay: Replay, traced: Any) -> str:
    """Where the application keeps its books: an API of its own that takes JSON, on the very same host."""
    replay.serve(play.json_answer({"id": "audit", "usage": {"prompt_tokens": 9999}}), path="/v1/audit")
    replay.serve(play.openai_body(), path=PATH)
    return f"{replay.url}/v1/audit"


def post_by_httpx(url: str) -> None:
    httpx.post(url, json={"model": "audit", "messages": MESSAGES})


def post_by_urllib3(url: str) -> None:
    import urllib3

    with urllib3.PoolManager() as pool:
        pool.request("POST", url, json={"model": "audit"})


def post_by_aiohttp(url: str) -> None:
    import threading

    thread = threading.Thread(target=lambda: asyncio.run(apost_by_aiohttp(url)))
    thread.start()
    thread.join()


async def apost_by_httpx(url: str) -> None:
    async with httpx.AsyncClient() as client:
        await client.post(url, json={"model": "audit"})


async def apost_by_aiohttp(url: str) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.post(url, json={"model": "audit"}) as response:
        await response.read()


LIBRARIES = [post_by_httpx, post_by_urllib3, post_by_aiohttp]
ALIBRARIES = [apost_by_httpx, apost_by_aiohttp]


class Guard(httpx.HTTPTransport):
    """A transport that asks somebody before it sends."""

    def __init__(self, ask: Callable[[], None]) -> None:
        super().__init__()
        self._ask = ask

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self._ask()
        return super().handle_request(request)


class Signed(httpx.Auth):
    """An auth flow that gets its token by a request of another client's."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask

    def auth_flow(self, request: httpx.Request) -> Any:
        self._ask()
        yield request


class Checked(httpx.Client):
    """A client that asks somebody before it sends."""

    def __init__(self, ask: Callable[[], None]) -> None:
        super().__init__()
        self._ask = ask

    def send(self, request: httpx.Request, **kwargs: Any) -> httpx.Response:
        self._ask()
        return super().send(request, **kwargs)


def _client(place: str, base_url: str, ask: Callable[[], None]) -> openai.OpenAI:
    def key() -> str:
        ask()
        return "k"

    if place == "key":
        return openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)  # type: ignore[arg-type]
    ours: dict[str, Callable[[], httpx.Client]] = {
        "request hook": lambda: httpx.Client(event_hooks={"request": [lambda request: ask()]}),
        "response hook": lambda: httpx.Client(event_hooks={"response": [lambda response: ask()]}),
        "transport": lambda: httpx.Client(transport=Guard(ask)),
        "auth": lambda: httpx.Client(auth=Signed(ask)),
        "send": lambda: Checked(ask),
    }
    return openai.OpenAI(base_url=base_url, api_key="k", max_retries=0, http_client=ours[place]())


def _only_attempt(spans: Spans, replay: Replay, path: str = PATH) -> dict[str, Any]:
    """The call's attributes, once it is clear that it has one attempt, which is the request to ``path``."""
    span = spans.one("completed")
    assert [request.path for request in replay.requests].count(path) == 1
    assert len(replay.requests) > 1, "the application asked beside"
    children = spans.children(span)
    assert not [each.name for each in children if each.name == "llm.attempt"]
    assert any("network" in each.name for each in children), "its own connection is seen"
    said = attributes(span)
    assert "retry_storm" not in said.get("llmtrace.diagnosis", ())
    assert said["gen_ai.usage.input_tokens"] == play.USAGE["prompt_tokens"]
    assert not any("traceparent" in request.headers for request in replay.requests if request.path != path)
    return said


@pytest.mark.parametrize("post", LIBRARIES)
@pytest.mark.parametrize("place", ["request hook", "response hook", "transport", "auth", "send", "key"])
def test_what_is_posted_beneath_the_client(
    place: str, post: Callable[[str], None], audit: str, replay: Replay, spans: Spans
) -> None:
    with _client(place, replay.base_url, lambda: post(audit)) as client:
        client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)  # type: ignore[arg-type]
    _only_attempt(spans, replay)


@pytest.mark.parametrize("post", ALIBRARIES)
@pytest.mark.parametrize("place", ["request hook", "response hook", "key"])
async def test_the_same_asynchronously(place: str, post: Any, audit: str, replay: Replay, spans: Spans) -> None:
    async def ask(*_: Any) -> str:
        await post(audit)
        return "k"

    hooks = {"event_hooks": {place.split(maxsplit=1)[0]: [ask]}} if place != "key" else {}
    async with openai.AsyncOpenAI(
        base_url=replay.base_url,
        api_key=ask if place == "key" else "k",
        max_retries=0,
        http_client=httpx.AsyncClient(**hooks),  # type: ignore[arg-type]
    ) as client:
        await client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)  # type: ignore[arg-type]
    _only_attempt(spans, replay)


def test_the_clients_own_http_client_used_for_something_else(audit: str, replay: Replay, spans: Spans) -> None:
    with httpx.Client() as shared:

        def key() -> str:
            shared.post(audit, json={"scope": "llm"})
            return "k"

        client = openai.OpenAI(base_url=replay.base_url, api_key=key, http_client=shared, max_retries=0)  # type: ignore[arg-type]
        client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)  # type: ignore[arg-type]
    _only_attempt(spans, replay)


def test_a_guard_that_asks_the_same_model(audit: str, replay: Replay, spans: Spans) -> None:
    """The very same URL, by another client: no attempt of this call either."""
    ask = {"url": f"{replay.url}{PATH}"}
    with _client("transport", replay.base_url, lambda: post_by_httpx(ask["url"])) as client:
        client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)  # type: ignore[arg-type]
    span = spans.one("completed")
    assert len(replay.requests) == 2
    assert not [each.name for each in spans.children(span) if each.name == "llm.attempt"]


@pytest.mark.parametrize("way", ["with_raw_response", "with_streaming_response"])
def test_a_raw_stream_ends_where_it_ends(way: str, audit: str, replay: Replay, spans: Spans) -> None:
    replay.serve(play.openai_stream(usage=play.USAGE), path=PATH)
    with _client("response hook", replay.base_url, lambda: post_by_httpx(audit)) as client:
        create = getattr(client.chat.completions, way).create
        raw = create(model="gpt-4o-mini", messages=MESSAGES, stream=True, stream_options={"include_usage": True})
        if way == "with_raw_response":
            for _ in raw.http_response.iter_lines():
                pass
        else:
            with raw as response:
                for _ in response.iter_lines():
                    pass
    said = _only_attempt(spans, replay)
    assert said["gen_ai.usage.output_tokens"] == play.USAGE["completion_tokens"]


def test_retries_are_attempts_still(audit: str, replay: Replay, spans: Spans) -> None:
    replay.play(play.json_answer({"error": {"message": "no"}}, status=500), path=PATH)
    with _client("request hook", replay.base_url, lambda: post_by_httpx(audit)).with_options(max_retries=1) as client:
        client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)  # type: ignore[arg-type]
    attempts = [each for each in spans.children(spans.one("completed")) if each.name == "llm.attempt"]
    assert [attributes(each)["http.response.status_code"] for each in attempts] == [500, 200]


def post_by_openai(base_url: str) -> None:
    with openai.OpenAI(base_url=base_url, api_key="k", max_retries=0) as client:
        client.chat.completions.create(model="guard", messages=MESSAGES)  # type: ignore[arg-type]


@pytest.mark.parametrize("post", [post_by_httpx, post_by_openai])
def test_mistrals_key_from_a_function(post: Callable[[str], None], tracing: Any, replay: Replay, spans: Spans) -> None:
    from mistralai.client import Mistral

    tracing.on("mistralai", "openai")
    for path in ("/beside", "/beside/chat/completions"):
        replay.serve(play.openai_body(), path=path)
    replay.serve(play.openai_body(), path=PATH)

    def key() -> str:
        post(f"{replay.url}/beside")
        return "k"

    with Mistral(api_key=key, server_url=replay.url) as client:
        client.chat.complete(model="gpt-4o-mini", messages=MESSAGES)  # type: ignore[arg-type]
    _only_attempt(spans, replay)


def test_ollamas_hooks(tracing: Any, replay: Replay, spans: Spans) -> None:
    import ollama

    tracing.on("ollama")
    wire = by_library.Ollama("sync", replay.url)
    replay.serve(wire.whole())
    replay.serve(play.json_answer({}), path="/beside")
    hooks = {"request": [lambda request: post_by_httpx(f"{replay.url}/beside")]}
    ollama.Client(host=replay.url, event_hooks=hooks).chat(model=MODEL, messages=MESSAGES)
    wire.shut()
    assert len(replay.requests) == 2
    assert not [each for each in spans.children(spans.one("completed")) if each.name == "llm.attempt"]


@pytest.mark.parametrize("event", ["before-call", "before-send", "after-call"])
@pytest.mark.parametrize("guard", ["another client", "by urllib3", "an OpenAI client"])
def test_a_guard_beneath_bedrock(guard: str, event: str, tracing: Any, replay: Replay, spans: Spans) -> None:
    """It asks a model of Bedrock's too: by a path as the client's own, and with the same library."""
    import boto3

    tracing.on("bedrock", "openai")
    wire = Bedrock("sync", replay.url)
    replay.serve(wire.whole())
    replay.serve(play.openai_body(), path=PATH)

    def ask(**_: Any) -> None:
        if guard == "by urllib3":
            post_by_urllib3(f"{replay.url}/model/guard/converse")
            return
        if guard == "an OpenAI client":
            post_by_openai(replay.base_url)
            return
        other = boto3.client("bedrock-runtime", **wire.settings())
        other.converse(modelId="guard", messages=[{"role": "user", "content": [{"text": "fine?"}]}])

    wire.client.meta.events.register(f"{event}.bedrock-runtime.Converse", ask)
    wire.call()
    wire.shut()
    own_alone(spans, replay, f"/model/{MODEL}/converse")


def test_a_guard_beneath_aiobotocore(tracing: Any, replay: Replay, spans: Spans) -> None:
    tracing.on("aiobotocore")
    wire = AioBedrock("async", replay.url)
    replay.serve(wire.whole())

    async def ask(**_: Any) -> None:
        await apost_by_aiohttp(f"{replay.url}/model/guard/converse")

    wire.client.meta.events.register("before-call.bedrock-runtime.Converse", ask)
    wire.call()
    wire.shut()
    own_alone(spans, replay, f"/model/{MODEL}/converse")


@pytest.mark.parametrize("post", [post_by_httpx, post_by_urllib3])
def test_hugging_faces_clients_that_ask_first(
    post: Callable[[str], None], tracing: Any, replay: Replay, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import close_session
    from huggingface_hub.utils import _http

    close_session()
    monkeypatch.setattr(_http, "_GLOBAL_CLIENT_FACTORY", lambda: Checked(lambda: post(f"{replay.url}/beside")))
    tracing.on("huggingface")
    wire = by_library.HuggingFace("sync", replay.url)
    replay.serve(wire.whole())
    wire.call()
    wire.shut()
    close_session()
    own_alone(spans, replay, PATH)


def own_alone(spans: Spans, replay: Replay, path: str) -> None:
    """The call has one attempt, which is the request to ``path``."""
    assert [request.path for request in replay.requests].count(path) == 1
    assert len(replay.requests) > 1, "the application asked beside"
    assert not [each.name for each in spans.children(spans.one("completed")) if each.name == "llm.attempt"]
    assert not any("traceparent" in request.headers for request in replay.requests if request.path != path)


def post_by_litellm(url: str) -> None:
    """By the very client that LiteLLM sends with."""
    import litellm

    litellm.module_level_client.post(url, json={"model": "audit"})


@pytest.mark.parametrize("post", [post_by_httpx, post_by_litellm])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_litellms_callbacks_post(
    asynchronous: bool,
    post: Callable[[str], None],
    tracing: Any,
    replay: Replay,
    spans: Spans,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import litellm

    # LiteLLM calls functions only once it has set functions up, which it does with the first callbacks of a process.
    monkeypatch.setattr(litellm.utils, "callback_list", [])
    tracing.on()
    tracing.off()
    tracing.on("litellm", "openai")
    replay.serve(play.json_answer({}), path="/beside")
    replay.serve(play.openai_body(), path=PATH)
    before, litellm.input_callback = litellm.input_callback, [lambda *_: post(f"{replay.url}/beside")]
    place = {"api_base": replay.base_url, "api_key": "k", "messages": MESSAGES}
    try:
        for model in ("openai/gpt-4o-mini", "hosted_vllm/gpt-4o-mini"):
            spans.clear()
            replay.requests.clear()
            if asynchronous:
                asyncio.run(litellm.acompletion(model=model, **place))
            else:
                litellm.completion(model=model, **place)
            _only_attempt(spans, replay)
    finally:
        litellm.input_callback = before
