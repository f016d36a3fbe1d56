"""What is particular to one client, over real sockets; what all share is in ``test_contract.py``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import openai
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import RandomIdGenerator, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import llmtrace
from llmtrace.instrumentation import instrumentors
from llmtrace.providers import CLIENTS
from llmtrace.providers.anthropic import ANTHROPIC
from llmtrace.providers.openai import provider_name
from tests.conftest import Tracing
from tests.support.apis import http
from tests.support.by_funnel import KEY, MESSAGES, Anthropic, Fireworks, Groq, OpenAI, Responses, Together, typed_events
from tests.support.by_method import EVENT_STREAM, MODEL, WORDS, AioBedrockInvoke, BedrockInvoke, Mistral
from tests.support.late import Late
from tests.support.replay import Replay, Script, json_answer, paced
from tests.support.spans import Spans, attributes

if TYPE_CHECKING:
    import anthropic
else:
    anthropic = Late("anthropic")

ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 9, "messages": MESSAGES}


@pytest.fixture
def responses(replay: Replay, tracing: Tracing) -> Iterator[Responses]:
    made = Responses("sync", replay.url)
    tracing.on("openai")
    yield made
    made.shut()


@pytest.fixture
def claude(replay: Replay, tracing: Tracing) -> Iterator[Anthropic]:
    made = Anthropic("sync", replay.url)
    tracing.on("anthropic")
    yield made
    made.shut()


# ---- OpenAI ----------------------------------------------------------------------------------------------------------


def test_created_and_in_progress_are_no_tokens(responses: Responses, replay: Replay, spans: Spans) -> None:
    events = responses.events()
    parts = [(0.0, events[0] + events[1]), *((0.1 if i == 0 else 0.0, each) for i, each in enumerate(events[2:]))]
    replay.serve(responses.script(parts))
    responses.drain(responses.stream())
    attrs = attributes(spans.one("completed"))
    assert attrs["gen_ai.response.time_to_first_chunk"] < attrs["llmtrace.call.ttft"]
    assert attrs["llmtrace.call.ttft"] > 0.09


@pytest.mark.parametrize("shown", [True, False])
def test_reasoning(responses: Responses, replay: Replay, spans: Spans, shown: bool) -> None:
    events = responses.events()
    item = {"id": "rs", "type": "reasoning", "summary": []}
    thought: dict[str, Any] = {"type": "response.output_item.added", "output_index": 0, "item": item}
    more = {"type": "response.reasoning_summary_text.delta", "item_id": "rs", "output_index": 0, "summary_index": 0}
    between = typed_events(
        *({"sequence_number": 1, **each} for each in [thought, *([more | {"delta": "hm"}] if shown else [])])
    )
    replay.serve(responses.script(paced([*events[:2], *between, *events[2:]], 0.01, 0.03)))
    responses.drain(responses.stream())
    assert {"decode.reasoning", "decode.output"} <= {s.name.removeprefix("llm.") for s in spans.finished()}


def test_the_stream_helper_of_responses(responses: Responses, replay: Replay, spans: Spans) -> None:
    events = responses.events()
    item = {"type": "message", "id": "m", "role": "assistant", "status": "in_progress", "content": []}
    opened: list[dict[str, Any]] = [
        {"type": "response.output_item.added", "item": item},
        {"type": "response.content_part.added", "item_id": "m", "content_index": 0},
    ]
    opened[1]["part"] = {"type": "output_text", "text": "", "annotations": []}
    between = typed_events(*({"sequence_number": 2, "output_index": 0, **each} for each in opened))
    replay.serve(responses.script(paced([*events[:2], *between, *events[2:]], 0.01, 0.001)))
    with responses.client.responses.stream(model=MODEL, input="PROMPT-SENTINEL") as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == "".join(WORDS)
    assert "response.completed" in kinds
    assert attributes(spans.one("completed"))["gen_ai.usage.output_tokens"] == 6


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ({"code": "server_error"}, "server_error"),
        ({"code": None, "type": "overloaded"}, "overloaded"),
        ({"code": 502}, "502"),
        ({}, "failed"),
    ],
)
def test_a_failed_response_is_an_error(
    told: dict[str, Any], name: str, responses: Responses, replay: Replay, spans: Spans
) -> None:
    replay.serve(json_answer(responses.state("failed", error={**told, "message": "m"} if told else None)))
    assert responses.call()["status"] == "failed", "the client raises nothing"
    attrs = attributes(spans.one("error"))
    assert attrs["error.type"] == name
    assert attrs["gen_ai.response.finish_reasons"] == ("failed",)


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ({"code": "rate_limit", "message": "m"}, "rate_limit"),
        ({"code": None, "message": "m"}, "error"),
    ],
)
def test_an_error_in_a_stream_of_events(
    told: dict[str, Any], name: str, responses: Responses, replay: Replay, spans: Spans
) -> None:
    replay.serve(responses.script(paced([*responses.events()[:2], *typed_events({"type": "error", **told})])))
    responses.drain(responses.stream())
    assert attributes(spans.one("error"))["error.type"] == name


def test_in_the_background_and_what_is_left_alone(responses: Responses, replay: Replay, spans: Spans) -> None:
    replay.serve(json_answer(responses.state("queued")))
    client = responses.client
    client.responses.create(model=MODEL, input="x", background=True)
    attrs = attributes(spans.one("completed"))
    assert "gen_ai.response.finish_reasons" not in attrs
    assert "gen_ai.usage.input_tokens" not in attrs
    client.responses.retrieve("resp_1")
    client.responses.cancel("resp_1")
    replay.serve(json_answer({"object": "list", "data": []}))
    client.models.list()
    assert len(spans.parents()) == 1


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://api.groq.com/openai/v1", "groq"),
        ("https://api.together.xyz/v1", "together_ai"),
        ("https://api.fireworks.ai/inference/v1", "fireworks_ai"),
        ("https://api.deepseek.com", "deepseek"),
        ("https://api.x.ai/v1", "x_ai"),
        ("https://api.moonshot.ai/v1", "moonshot_ai"),
        ("https://api.perplexity.ai", "perplexity"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://eu.api.openai.com/v1", "openai"),
        ("https://x.openai.azure.com/openai", "azure.ai.openai"),
        ("http://vllm.models.svc:9000/v1", "vllm"),
        ("http://localhost:8000/v1", "vllm"),
        ("http://127.0.0.1:8080/v1", "llama.cpp"),
        ("http://10.1.2.3:30000/v1", "sglang"),
        ("http://localhost:1234/v1", "lm_studio"),
        ("http://127.0.0.1:5055/v1", "openai"),
        ("https://llm.example.com/v1", "llm.example.com"),
        ("https://notapi.groq.com.example.org/v1", "notapi.groq.com.example.org"),
    ],
)
def test_the_providers_name_from_the_base_url(url: str, name: str) -> None:
    client = openai.OpenAI(api_key=KEY, base_url=url)
    assert provider_name(client, client.base_url.host) == name


class Ours(openai.AsyncAzureOpenAI):
    """An application's own, of Azure's client, whose name does not say so."""


class AzureLast(openai.OpenAI):
    """An application's own, of the plain client, whose name says something else."""


def test_a_platform_is_not_guessed_from_the_name_of_a_class() -> None:
    gateway = "https://gateway.example.com/v1"
    azure = Ours(api_key=KEY, api_version="2024-10-21", base_url=gateway)
    assert provider_name(azure, azure.base_url.host) == "azure.ai.openai"
    if hasattr(openai, "BedrockOpenAI"):
        assert provider_name(openai.BedrockOpenAI(api_key=KEY, base_url=gateway), None) == "aws.bedrock"
    plain = AzureLast(api_key=KEY, base_url=gateway)
    assert provider_name(plain, plain.base_url.host) == "gateway.example.com"


# ---- Anthropic -------------------------------------------------------------------------------------------------------


def test_the_message_stream(claude: Anthropic, replay: Replay, spans: Spans) -> None:
    replay.serve(claude.script(paced(claude.events(), 0.01, 0.001)))
    with claude.client.messages.stream(**ASKED) as stream:
        assert "".join(stream.text_stream) == "".join(WORDS)
        assert stream.get_final_message().usage.output_tokens == 6
    attrs = attributes(spans.one("completed"))
    assert attrs["gen_ai.usage.input_tokens"] == 40
    assert attrs["gen_ai.usage.cache_write.input_tokens"] == 4


async def test_the_message_stream_asynchronously(replay: Replay, tracing: Tracing, spans: Spans) -> None:
    wire = Anthropic("sync", replay.url)
    tracing.on("anthropic")
    replay.serve(wire.script(paced(wire.events(), 0.01, 0.001)))
    client = anthropic.AsyncAnthropic(api_key=KEY, base_url=replay.url)
    async with client, client.messages.stream(**ASKED) as stream:
        assert "".join([text async for text in stream.text_stream]) == "".join(WORDS)
    spans.one("completed")
    wire.shut()


def test_count_tokens_is_left_alone(claude: Anthropic, replay: Replay, spans: Spans) -> None:
    replay.serve(json_answer({"input_tokens": 5}))
    assert claude.client.messages.count_tokens(model=MODEL, messages=MESSAGES).input_tokens == 5
    assert spans.finished() == []


def test_a_stream_cut_short_has_no_output_count(claude: Anthropic, replay: Replay, spans: Spans) -> None:
    replay.serve(claude.script([(0.0, b"".join(claude.events()[:4])), (5.0, b"")]))
    with claude.client.messages.create(stream=True, **ASKED) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                break
    attrs = attributes(spans.one("closed_early"))
    assert attrs["gen_ai.usage.input_tokens"] == 40
    assert "gen_ai.usage.output_tokens" not in attrs, "what message_start says is a placeholder"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("parent", ["auto", "existing", "own"])
def test_beside_its_own_spans(replay: Replay, tracing: Tracing, spans: Spans, streaming: bool, parent: str) -> None:
    wire = Anthropic("sync", replay.url)
    replay.serve(wire.script(paced(wire.events(), 0.02, 0.01)) if streaming else wire.whole())
    tracing.on("anthropic", parent=parent)
    own: Any = {"tracer_provider": spans.provider}
    with anthropic.Anthropic(api_key=KEY, base_url=replay.url, open_telemetry=own) as client:
        answer = client.messages.create(**ASKED, **({"stream": True} if streaming else {}))
        if streaming:
            list(answer)
    parents = [span for span in spans.finished() if span.parent is None]
    assert [span.name for span in parents] == ["anthropic.messages.create"]
    beneath = [span.name for span in spans.finished() if span.parent == parents[0].context]
    if parent == "own":
        assert beneath == [f"chat {MODEL}"]
    else:
        assert beneath
        assert all(name.startswith("llm.") for name in beneath)
    wire.shut()


def test_a_raw_stream_that_the_transport_read_whole(replay: Replay, tracing: Tracing, spans: Spans) -> None:
    """What a transport in memory hands over is read already: an event stream all the same."""
    wire = Anthropic("sync", replay.url)
    tracing.on("anthropic")
    body = b"".join(wire.events())
    transport = http.MockTransport(
        lambda request: http.Response(200, headers={"content-type": "text/event-stream"}, content=body)
    )
    with anthropic.Anthropic(api_key=KEY, base_url=replay.url, http_client=http.Client(transport=transport)) as client:
        raw = client.messages.with_raw_response.create(**ASKED, stream=True)
    attrs = attributes(spans.one("completed"))
    assert attrs["gen_ai.response.finish_reasons"] == ("end_turn",)
    assert len(list(raw.parse())) > 2
    wire.shut()


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("way", ["lines", "parse"])
async def test_its_own_byte_stream_stays_outermost(
    kind: str, way: str, replay: Replay, tracing: Tracing, spans: Spans
) -> None:
    """What the client itself lays around the bytes of a raw response is what the application finds there."""
    wire = Anthropic("sync", replay.url)
    replay.serve(wire.script(paced(wire.events(), 0.001, 0.001)))
    tracing.on("anthropic", parent="own")
    own: Any = {"tracer_provider": spans.provider}
    if kind == "sync":
        with anthropic.Anthropic(api_key=KEY, base_url=replay.url, open_telemetry=own) as client:
            raw: Any = client.messages.with_raw_response.create(**ASKED, stream=True)
            assert type(raw.http_response.stream).__module__.startswith("anthropic.")
            assert list(raw.iter_lines() if way == "lines" else raw.parse())
    else:
        async with anthropic.AsyncAnthropic(api_key=KEY, base_url=replay.url, open_telemetry=own) as aclient:
            raw = await aclient.messages.with_raw_response.create(**ASKED, stream=True)
            assert type(raw.http_response.stream).__module__.startswith("anthropic.")
            assert [item async for item in (raw.iter_lines() if way == "lines" else await raw.parse())]
    attrs = attributes(next(span for span in spans.finished() if span.name == f"chat {MODEL}"))
    assert attrs["llmtrace.call.outcome"] == "completed"
    assert attrs["gen_ai.usage.output_tokens"] == 6
    wire.shut()


class KeptIds(RandomIdGenerator):
    """The ids of the spans that a provider starts: one that is not sampled shows nowhere else."""

    def __init__(self) -> None:
        self.kept: list[int] = []

    def generate_span_id(self) -> int:
        self.kept.append(super().generate_span_id())
        return self.kept[-1]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_span_of_its_own_that_is_not_sampled_stays_current(
    kind: str, replay: Replay, tracing: Tracing, spans: Spans
) -> None:
    """What instruments the HTTP client puts its spans under that one, as it would without us."""
    wire, ids = Anthropic("sync", replay.url), KeptIds()
    replay.play(json_answer({}, status=500), wire.whole())
    tracing.on("anthropic")
    current: list[int] = []

    def sending(request: Any) -> None:
        current.append(trace.get_current_span().get_span_context().span_id)

    async def asending(request: Any) -> None:
        sending(request)

    own: Any = {"tracer_provider": TracerProvider(sampler=ALWAYS_OFF, id_generator=ids)}
    if kind == "sync":
        hooked = http.Client(event_hooks={"request": [sending]})
        with anthropic.Anthropic(
            api_key=KEY, base_url=replay.url, open_telemetry=own, http_client=hooked, max_retries=1
        ) as client:
            client.messages.create(**ASKED)
    else:
        ahooked = http.AsyncClient(event_hooks={"request": [asending]})
        async with anthropic.AsyncAnthropic(
            api_key=KEY, base_url=replay.url, open_telemetry=own, http_client=ahooked, max_retries=1
        ) as aclient:
            await aclient.messages.create(**ASKED)
    assert current == ids.kept * 2
    assert len(ids.kept) == 1
    assert spans.finished() == []
    wire.shut()


@pytest.mark.parametrize(("propagate", "sent"), [("auto", False), ("always", True)])
def test_its_own_propagation_is_left_to_it(replay: Replay, tracing: Tracing, propagate: str, sent: bool) -> None:
    wire = Anthropic("sync", replay.url)
    replay.serve(wire.whole())
    tracing.on("anthropic", propagate=propagate)
    with anthropic.Anthropic(api_key=KEY, base_url=replay.url, open_telemetry=False) as client:
        client.messages.create(**ASKED)
    assert ("traceparent" in replay.last.headers) == sent
    wire.shut()


@pytest.mark.parametrize("streaming", [False, True])
def test_through_bedrock(replay: Replay, tracing: Tracing, spans: Spans, streaming: bool) -> None:
    wire, aws = Anthropic("sync", replay.url), BedrockInvoke("sync", replay.url)
    tracing.on("anthropic")
    answer = Script(200, EVENT_STREAM, [(0.002, part) for part in aws.events()]) if streaming else wire.whole()
    replay.serve(answer)
    client = anthropic.AnthropicBedrock(
        base_url=replay.url, aws_access_key="a", aws_secret_key=KEY, aws_region="us-east-1", max_retries=0
    )
    got = client.messages.create(**ASKED, **({"stream": True} if streaming else {}))
    if streaming:
        list(got)
    assert replay.last.path.startswith(f"/model/{MODEL}/invoke")
    attrs = attributes(spans.one("completed"))
    assert attrs["gen_ai.provider.name"] == "aws.bedrock"
    assert attrs["gen_ai.usage.output_tokens"] == 6
    assert attrs["gen_ai.response.finish_reasons"] == ("end_turn",)
    wire.shut()
    aws.shut()


def test_a_subclass_is_for_the_platform_that_it_inherits() -> None:
    keys: dict[str, Any] = {"aws_access_key": "a", "aws_secret_key": KEY, "aws_region": "us-east-1"}
    ours = type("Ours", (anthropic.AnthropicBedrock,), {})(**keys)
    assert ANTHROPIC.provider_name(ours, "gateway.example.com") == "aws.bedrock"
    plain = type("NoVertex", (anthropic.Anthropic,), {})(api_key=KEY)
    assert ANTHROPIC.provider_name(plain, "gateway.example.com") == "anthropic"


def test_through_vertex(replay: Replay, tracing: Tracing, spans: Spans) -> None:
    wire = Anthropic("sync", replay.url)
    tracing.on("anthropic")
    replay.serve(wire.script(paced(wire.events())))
    client = anthropic.AnthropicVertex(base_url=replay.url, access_token=KEY, project_id="p", region="r", max_retries=0)
    list(client.messages.create(stream=True, **ASKED))
    assert "streamRawPredict" in replay.last.path
    attrs = attributes(spans.one("completed"))
    assert attrs["gen_ai.provider.name"] == "gcp.vertex_ai"
    assert attrs["gen_ai.usage.input_tokens"] == 40
    wire.shut()


# ---- Mistral ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sync", "async"])
def mistral(request: pytest.FixtureRequest, replay: Replay, spans: Spans) -> Iterator[Mistral]:
    """Its client, which opens a span of its own for each request."""
    from mistralai.extra.observability.telemetry import configure_telemetry

    made = Mistral(request.param, replay.url, attempts=2)
    configure_telemetry(made.client, provider=spans.provider)
    yield made
    made.shut()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("parent", ["auto", "existing", "own"])
@pytest.mark.parametrize("refused", [False, True])
def test_beside_the_spans_of_mistral(
    mistral: Mistral, replay: Replay, tracing: Tracing, spans: Spans, streaming: bool, parent: str, refused: bool
) -> None:
    answer = mistral.script(paced(mistral.events(), 0.02, 0.01)) if streaming else mistral.whole()
    replay.play(*([mistral.refusal(503)] if refused else []), answer)
    tracing.on("mistralai", parent=parent)
    with spans.provider.get_tracer("application").start_as_current_span("around"):
        mistral.drain(mistral.stream()) if streaming else mistral.call()
    spans.flush()
    around = next(span for span in spans.finished() if span.name == "around")
    theirs = [span for span in spans.finished() if span.name == f"chat {MODEL}" and "llmtrace" not in scope(span)]
    ours = [span for span in spans.finished() if span.name == f"chat {MODEL}" and "llmtrace" in scope(span)]
    assert len(theirs) == 1
    assert len(ours) == (1 if parent == "own" else 0)
    top = (ours if parent == "own" else theirs)[0]
    assert top.parent == around.context
    if parent != "own":  # the client ends its span before the answer is with the application
        (top,) = spans.children(top)
        assert top.name == "llm.call"
        assert attributes(top)["llmtrace.call.outcome"] == "completed"
        assert not [name for name in attributes(top) if name.startswith("gen_ai.")]
    beneath = [span.name for span in spans.children(top) if "llmtrace" in scope(span)]
    assert beneath
    assert all(name == "llm.attempt" if refused else name.startswith("llm.") for name in beneath)
    if refused:
        assert len(beneath) == 2


@pytest.mark.parametrize("parent", ["auto", "existing"])
def test_spans_that_mistral_sends_elsewhere(replay: Replay, tracing: Tracing, spans: Spans, parent: str) -> None:
    from mistralai.extra.observability.telemetry import configure_telemetry
    from opentelemetry.sdk.trace import TracerProvider

    made = Mistral("sync", replay.url)
    configure_telemetry(made.client, provider=TracerProvider())
    replay.serve(made.whole())
    tracing.on("mistralai", parent=parent)
    made.call()
    if parent == "existing":  # which is what was asked for
        assert all(span.name.startswith("llm.") for span in spans.finished())
    else:
        assert spans.one("completed").parent is None, "phases under a span that the application never sees are lost"
    made.shut()


@pytest.mark.parametrize("made", [OpenAI, BedrockInvoke, AioBedrockInvoke], ids=lambda made: made.name)
def test_a_refused_connection_is_network_in_every_library(made: type[Any], tracing: Tracing, spans: Spans) -> None:
    """httpx, urllib3 and aiohttp: the client tried to connect, and that is all of the way that there was."""
    tracing.on(made.name)
    driver = made("async" if "sync" not in made.kinds else "sync", "http://127.0.0.1:9")
    with pytest.raises(Exception):
        driver.call()
    driver.settle()
    phases = spans.phases(spans.one("error"))
    assert list(phases) == ["network", "unattributed"]
    assert attributes(phases["network"])["llmtrace.network.new_connection"] is True
    assert "llmtrace.network.connect" not in attributes(phases["network"]), "it never connected"
    tracing.off()


@pytest.mark.parametrize("refused", [False, True])
def test_no_spans_of_mistral(replay: Replay, tracing: Tracing, spans: Spans, refused: bool) -> None:
    made = Mistral("sync", "http://127.0.0.1:9" if refused else replay.url)
    replay.serve(made.whole())
    tracing.on("mistralai")
    with spans.provider.get_tracer("application").start_as_current_span("around") as around:
        try:
            made.call()
        except Exception:
            assert refused
    span = next(span for span in spans.finished() if span.name == f"chat {MODEL}")
    assert attributes(span)["llmtrace.call.outcome"] == ("error" if refused else "completed")
    assert span.parent == around.get_span_context()
    spans.check(span)
    tracing.off()
    tracing.on("mistralai", parent="existing")
    spans.clear()
    replay.serve(made.whole())
    if not refused:
        made.call()
    assert spans.finished() == []
    made.shut()


def scope(span: Any) -> str:
    return span.instrumentation_scope.name


# ---- the others ------------------------------------------------------------------------------------------------------


def test_addresses_that_the_client_spells_out(tracing: Tracing) -> None:
    """Together and Fireworks ask another host than their base URL's unless they are given one."""
    from types import SimpleNamespace

    from llmtrace.instrumentation.stainless import _operation

    for driver, url in (
        (Together, "https://api-inference.together.ai/v1/chat/completions"),
        (Fireworks, "https://api.fireworks.ai/inference/v1/chat/completions"),
    ):
        client = next(client for client in CLIENTS if client.name == driver.name)
        hook: Any = client.load().hooks[0]
        found = _operation(hook, SimpleNamespace(url=url, method="post"))
        assert found is not None
        assert found.name == "chat"


@pytest.mark.parametrize("driver", [Groq, OpenAI])
def test_groqs_timings_in_a_stream(driver: Any, replay: Replay, tracing: Tracing, spans: Spans) -> None:
    made = driver("sync", replay.url)
    tracing.on(made.name)
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14, "queue_time": 0.02, "prompt_time": 0.04}
    timed = {"x_groq": {"id": "req", "usage": usage | {"completion_time": 0.05, "total_time": 0.09}}}
    events = made.events(usage=False)
    last = json.loads(events[-2][6:]) | timed
    events[-2] = f"data: {json.dumps(last)}\n\n".encode()
    replay.serve(made.script(paced(events, 0.1, 0.01)))
    made.drain(made.stream())
    span = spans.one("completed")
    assert attributes(span)["llmtrace.server.engine"] == "groq"
    sources = {name: attributes(phase)["llmtrace.phase.source"] for name, phase in spans.phases(span).items()}
    assert sources["queue"] == sources["prefill"] == "server"
    made.shut()


# ---- all of them -----------------------------------------------------------------------------------------------------


def test_every_client_has_its_entry_point() -> None:
    found = {each.name: each.load() for each in entry_points(group="opentelemetry_instrumentor")}
    for client in CLIENTS:
        assert found[f"llmtrace-{client.name}"] is instrumentors.INSTRUMENTORS[client.name]


def test_all_at_once_watch_one_request_once(replay: Replay, spans: Spans) -> None:
    made = OpenAI("sync", replay.url, attempts=3)
    llmtrace.instrument(tracer_provider=spans.provider)
    try:
        replay.play(made.refusal(503), made.whole())
        made.call()
    finally:
        llmtrace.uninstrument()
    assert len(spans.children(spans.one("completed"))) == 2
    made.shut()


def test_no_client_is_imported_and_one_imported_later_is_traced() -> None:
    import subprocess

    script = """
import sys, llmtrace
llmtrace.instrument()
loaded = {"openai", "anthropic", "groq", "together", "fireworks", "cerebras", "cohere", "mistralai", "httpx"}
assert not loaded & set(sys.modules), loaded & set(sys.modules)
assert not any(name.startswith("llmtrace.providers.anthropic") for name in sys.modules)
import groq._base_client as base
assert type(vars(base.SyncAPIClient)["request"]).__name__ == "Patched"
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=240)
