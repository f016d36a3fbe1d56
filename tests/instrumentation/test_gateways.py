"""Gateways between the client and the engine, played by the replay server: who answered, when, at what price."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import llmtrace
from llmtrace.observe import internal_errors
from tests.support import by_funnel
from tests.support import replay as play
from tests.support.spans import attributes

if TYPE_CHECKING:
    import openai

    from tests.support.clock import Clock
    from tests.support.replay import Replay
    from tests.support.spans import Spans

pytestmark = pytest.mark.usefixtures("traced")
MESSAGES: Any = [{"role": "user", "content": "hello"}]

LITELLM = {
    "x-litellm-call-id": "c0ffee",
    "x-litellm-model-id": "deployment-a",
    "x-litellm-model-api-base": "https://eu.example.openai.azure.com/openai/deployments/secret-account/",
    "x-litellm-model-region": "eu",
    "x-litellm-model-name": "azure/gpt-4o-mini",
    "x-litellm-overhead-duration-ms": "12.5",
    "x-litellm-attempted-retries": "1",
    "x-litellm-attempted-fallbacks": "1",
    "x-litellm-response-cost": "0.0123",
    "x-litellm-version": "1.110.2",
    "x-litellm-key-spend": "99.5",
}
METADATA = {
    "requested": "openai/gpt-4o-mini",
    "strategy": "direct",
    "region": "iad",
    "summary": "available=2, selected=Azure",
    "attempt": 2,
    "attempts": [
        {"model": "openai/gpt-4o-mini", "provider": "OpenAI", "status": 502},
        {"model": "openai/gpt-4o-mini", "provider": "Azure", "status": 200},
    ],
    "endpoints": {"total": 2, "available": []},
    "is_byok": False,
    "generation_time": 5,
}


def ask(client: openai.OpenAI, streaming: bool = False, model: str = "gpt-4o-mini") -> None:
    if not streaming:
        client.chat.completions.create(model=model, messages=MESSAGES)
        return
    options: Any = {"include_usage": True}
    for _ in client.chat.completions.create(model=model, messages=MESSAGES, stream=True, stream_options=options):
        pass


def whole(headers: dict[str, str], pause: float = 0.03, **extra: Any) -> play.Script:
    """An answer that takes a while: a gateway's own time has to fit into the call."""
    return play.json_answer(play.completion(**extra), headers=headers, before=pause)


def stream(headers: dict[str, str] | None = None, usage: Any = None, ttft: float = 0.0, **every: Any) -> play.Script:
    """A stream whose every chunk has these further fields."""
    chunks = [chunk | every for chunk in play.openai_chunks(["a", "b", "c", "d"], usage or play.USAGE)]
    events = play.sse(*chunks)
    return play.Script(200, play.SSE_HEADERS | (headers or {}), [(ttft, events[0]), *((0.001, e) for e in events[1:])])


def one(spans: Spans) -> Any:
    (span,) = spans.parents()
    return span


def test_the_litellm_proxy(client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    replay.serve(whole(LITELLM))
    ask(client)
    span = spans.one("completed")
    said = attributes(span)
    who = said["llmtrace.route.fingerprint"].split(";")
    assert {"upstream=eu.example.openai.azure.com", "deployment=deployment-a", "region=eu"} <= set(who)
    assert "upstream_model=azure/gpt-4o-mini" in who
    assert "secret-account" not in span.to_json(), "a path may hold an account's name"
    assert "99.5" not in span.to_json()
    assert said["llmtrace.gateway.name"] == "litellm"
    assert (said["llmtrace.gateway.retries"], said["llmtrace.gateway.fallbacks"]) == (1, 1)
    assert said["llmtrace.cost.usd"] == 0.0123
    attempts = spans.children(span)
    assert [each.name for each in attempts] == ["llm.attempt"] * 3
    told = [attributes(each).get("llmtrace.attempt.told") for each in attempts]
    assert told == [True, True, None], "two of the gateway's own, and the request itself"
    gateway = spans.phases(span)["gateway"]
    assert attributes(gateway)["llmtrace.phase.source"] == "server"
    assert gateway.end_time - gateway.start_time == pytest.approx(12.5e6, abs=1e4)


def test_a_stream_of_the_litellm_proxy_has_no_price_in_its_headers(
    client: openai.OpenAI, replay: Replay, spans: Spans
) -> None:
    replay.serve(stream(LITELLM | {"x-litellm-response-cost": "0.0"}, ttft=0.03))
    ask(client, streaming=True)
    span = spans.one("completed")
    assert "llmtrace.cost.usd" not in attributes(span)
    assert "gateway" in spans.phases(span)


@pytest.mark.parametrize("streaming", [False, True])
def test_openrouter(streaming: bool, client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    usage = play.USAGE | {"cost": 0.00014}
    named: Any = {"id": "gen-1790000000-abc", "provider": "Azure"}
    if streaming:
        script = stream(usage=usage, **named)
        last = script.parts[-2]
        more = play.event(play.chunk(None, usage=usage) | named | {"openrouter_metadata": METADATA})
        replay.serve(play.Script(200, script.headers, [*script.parts[:-2], (last[0], more), script.parts[-1]]))
    else:
        replay.serve(whole({}, usage=usage, openrouter_metadata=METADATA, **named))
    ask(client, streaming)
    span = spans.one("completed")
    said = attributes(span)
    assert {"upstream=Azure", "region=iad"} <= set(said["llmtrace.route.fingerprint"].split(";"))
    assert said["llmtrace.gateway.name"] == "openrouter"
    assert said["llmtrace.cost.usd"] == 0.00014
    failed, answering = spans.children(span)
    assert attributes(failed)["llmtrace.attempt.told"] is True
    assert attributes(failed)["llmtrace.attempt.upstream"] == "OpenAI"
    assert attributes(failed)["http.response.status_code"] == 502
    assert "llmtrace.attempt.told" not in attributes(answering)


def test_openrouters_error_in_a_good_response(client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    replay.serve(play.json_answer({"error": {"message": "no", "code": 503}, "openrouter_metadata": METADATA}))
    ask(client)
    span = spans.one("error")
    assert attributes(span)["llmtrace.gateway.name"] == "openrouter"
    assert [attributes(each)["error.type"] for each in spans.children(span)] == ["502", "503"]


@pytest.mark.parametrize("base", ["/v1", "https://", "https:///v1", "unix:///run/x.sock", "//", "?x", "#"])
def test_a_base_url_without_a_host_costs_nothing_else(
    base: str, client: openai.OpenAI, replay: Replay, spans: Spans
) -> None:
    before = dict(internal_errors.counts)
    replay.serve(whole(LITELLM | {"x-litellm-model-api-base": base}))
    ask(client)
    said = attributes(spans.one("completed"))
    assert said["llmtrace.gateway.name"] == "litellm"
    assert said["llmtrace.cost.usd"] == 0.0123
    fingerprint = said["llmtrace.route.fingerprint"].split(";")
    assert "deployment=deployment-a" in fingerprint
    assert not any(part.startswith("upstream=") for part in fingerprint)
    assert internal_errors.counts == before


@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_faces_router(streaming: bool, client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    """It tells who answered, whose own gateway's headers come through."""
    headers = {"x-inference-provider": "ovhcloud", "x-kong-proxy-latency": "1", "x-kong-upstream-latency": "36"}
    replay.serve(stream(headers) if streaming else whole(headers))
    ask(client, streaming)
    said = attributes(spans.one("completed"))
    assert "upstream=ovhcloud" in said["llmtrace.route.fingerprint"].split(";")
    assert said["llmtrace.gateway.name"] == "huggingface"


UPSTREAM = {"cost_details": {"upstream_inference_cost": 0.004}}
PRICES: list[tuple[dict[str, Any], float | None]] = [
    ({"cost": 0.004, "is_byok": False, **UPSTREAM}, 0.004),
    ({"cost": 0, "is_byok": True, **UPSTREAM}, 0.004),
    ({"cost": 0.0002, "is_byok": True, **UPSTREAM}, 0.0042),
    ({"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": None}}, None),
    ({"cost": 0, "is_byok": True}, None),
    ({"cost": {"input_tokens_cost": 0.001, "request_cost": 0.005, "total_cost": 0.006}}, 0.006),
    ({"cost": {"currency": "USD", "total_cost": 0.006}}, 0.006),
    ({"cost": {"currency": "EUR", "total_cost": 0.006}}, None),
    ({"cost_in_usd_ticks": 37756000}, 0.0037756),
    ({"cost_in_usd_ticks": "many"}, None),
]
"""What a usage tells of the price, and what the call cost: OpenRouter's, with a key of the caller's own too,
Perplexity's and xAI's."""


@pytest.mark.parametrize(("told", "price"), PRICES)
@pytest.mark.parametrize("streaming", [False, True])
def test_the_price_in_a_usage(
    told: dict[str, Any], price: float | None, streaming: bool, client: openai.OpenAI, replay: Replay, spans: Spans
) -> None:
    usage = play.USAGE | told
    replay.serve(stream(usage=usage) if streaming else whole({}, usage=usage))
    ask(client, streaming)
    assert attributes(spans.one("completed")).get("llmtrace.cost.usd") == (price and pytest.approx(price))


def test_the_price_of_embeddings_and_who_made_them(client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    usage = {"prompt_tokens": 8, "total_tokens": 8, "cost": 0.00002}
    vector = {"object": "embedding", "embedding": [0.5], "index": 0}
    body = {"object": "list", "model": "m", "data": [vector], "usage": usage, "id": "gen-emb-1", "provider": "Groq"}
    replay.serve(play.json_answer(body))
    client.embeddings.create(model="m", input="text")
    said = attributes(spans.one("completed"))
    assert said["llmtrace.cost.usd"] == 0.00002
    assert "upstream=Groq" in said["llmtrace.route.fingerprint"].split(";")
    assert said["llmtrace.gateway.name"] == "openrouter"


def test_openrouter_without_asking(client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    replay.serve(stream(id="gen-1", provider="Groq"))
    ask(client, streaming=True)
    span = spans.one("completed")
    assert "upstream=Groq" in attributes(span)["llmtrace.route.fingerprint"].split(";")
    assert not [each for each in spans.children(span) if each.name == "llm.attempt"]


TOLD: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "bifrost": (
        {
            "x-bifrost-request-id": "r",
            "x-bifrost-routing-info-provider": "groq",
            "x-bifrost-provider": "groq",
            "x-bifrost-routing-info-model": "llama-3.3-70b",
            "x-bifrost-routing-info-key": "groq-two",
            "x-bifrost-upstream-latency-ms": "15684.390",
            "x-bifrost-fallback-index": "1",
            "x-bifrost-cost-usd": "0.0005",
        },
        {
            "route": ["upstream=groq", "deployment=groq-two", "upstream_model=llama-3.3-70b"],
            "attempts": 1,
            "cost": 0.0005,
        },
    ),
    "ngrok": (
        {"ngrok-aig-request-id": "rq_2", "ngrok-aig-attempts": "3", "ngrok-aig-model": "gemini-3.6-flash"},
        {"route": ["upstream_model=gemini-3.6-flash"], "attempts": 2},
    ),
    "portkey": (
        {
            "x-portkey-trace-id": "t",
            "x-portkey-retry-attempt-count": "3",
            "x-portkey-cache-status": "MISS",
            "x-portkey-provider": "openai",
            "x-portkey-last-used-option-index": "config.targets[1]",
        },
        {"route": ["upstream=openai", "deployment=config.targets[1]"], "attempts": 3},
    ),
    "cloudflare": (
        {
            "cf-aig-log-id": "01M",
            "cf-aig-step": "1",
            "cf-aig-cache-status": "MISS",
            "cf-aig-provider": "workers-ai",
            "cf-aig-model": "@cf/meta/llama-3.1-8b-instruct",
        },
        {
            "route": ["upstream=workers-ai", "deployment=1", "upstream_model=@cf/meta/llama-3.1-8b-instruct"],
            "attempts": 1,
        },
    ),
    "kong": (
        {"x-kong-proxy-latency": "7", "x-kong-upstream-latency": "20", "x-kong-llm-model": "openai/gpt-4o"},
        {"route": ["upstream=openai", "upstream_model=gpt-4o"], "spent": 0.007},
    ),
    "cloudfront": (
        {
            "server-timing": 'cdn-upstream-layer;desc="EDGE",cdn-upstream-dns;dur=0,cdn-upstream-connect;dur=3,'
            'cdn-upstream-fbl;dur=18,cdn-cache-miss,cdn-pop;desc="PHX50-C2",cdn-rid;desc="x==",cdn-downstream-fbl;dur=24'
        },
        {"route": ["region=PHX50-C2"], "spent": 0.006},
    ),
}


@pytest.mark.parametrize("gateway", TOLD)
def test_what_others_tell(gateway: str, client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    headers, expected = TOLD[gateway]
    replay.serve(whole(headers))
    ask(client)
    span = spans.one("completed")
    said = attributes(span)
    assert said["llmtrace.gateway.name"] == gateway
    assert set(expected.get("route", ())) <= set(said["llmtrace.route.fingerprint"].split(";"))
    assert said.get("llmtrace.cost.usd") == expected.get("cost")
    told = [each for each in spans.children(span) if attributes(each).get("llmtrace.attempt.told")]
    assert len(told) == expected.get("attempts", 0)
    phases = spans.phases(span)
    if "spent" in expected:
        length = phases["gateway"].end_time - phases["gateway"].start_time  # type: ignore[operator]
        assert length == pytest.approx(expected["spent"] * 1e9, abs=1e4)
    else:
        assert "gateway" not in phases


HITS = {
    "litellm": LITELLM
    | {
        "x-litellm-cache-key": "0ae5fd",
        "x-litellm-response-cost": "0.0",
        "x-litellm-attempted-retries": "0",
        "x-litellm-attempted-fallbacks": "0",
    },
    "portkey": {"x-portkey-trace-id": "t", "x-portkey-cache-status": "SEMANTIC HIT"},
    "cloudflare": {"cf-aig-log-id": "01M", "cf-aig-cache-status": "HIT"},
    "kong": {"x-cache-status": "Hit", "x-kong-response-latency": "21"},
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("gateway", HITS)
def test_an_answer_from_the_gateways_cache(
    gateway: str, streaming: bool, client: openai.OpenAI, replay: Replay, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmtrace.calls import tracer
    from llmtrace.estimate.baselines import Baselines

    learned: list[str] = []
    monkeypatch.setattr(Baselines, "end", lambda *_: learned.append("end"))
    monkeypatch.setattr(tracer, "diagnose", lambda *_: learned.append("diagnose"))
    replay.serve(stream(HITS[gateway], ttft=0.03) if streaming else whole(HITS[gateway]))
    ask(client, streaming)
    span = spans.one("completed")
    said = attributes(span)
    assert said["llmtrace.gateway.cache"] == "hit"
    assert set(spans.phases(span)) <= {"network", "gateway", "unattributed"}
    assert not [name for name in said if name.startswith("gen_ai.usage")], "counted when it was computed"
    assert not learned


AZURE = {
    "mode": "balanced",
    "session_affinity": {"mode": "sticky", "source": "session_id_payload", "decision": "switch"},
    "routing_trace": [
        {
            "latency_ms": 19,
            "attempts": [
                {
                    "model": "grok-4-1-fast",
                    "result": {"status": 429, "error": {"code": "TooMany", "message": "SECRET"}},
                },
                {"model": "gpt-4o-mini", "result": {"status": 200}},
            ],
        }
    ],
}


@pytest.mark.parametrize("streaming", [False, True])
def test_azures_model_router(streaming: bool, client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    told: Any = {"model_selection_details": {"model_router_details": AZURE}}
    replay.serve(stream(ttft=0.03, **told) if streaming else whole({}, **told))
    ask(client, streaming)
    span = spans.one("completed")
    said = attributes(span)
    assert said["llmtrace.gateway.name"] == "azure-model-router"
    assert said["llmtrace.gateway.fallbacks"] == 1
    failed, answering = spans.children(span)
    assert attributes(failed)["llmtrace.attempt.told"] is True
    assert attributes(failed)["gen_ai.request.model"] == "grok-4-1-fast"
    assert attributes(failed)["http.response.status_code"] == 429
    assert "llmtrace.attempt.told" not in attributes(answering)
    gateway = spans.phases(span)["gateway"]
    assert attributes(gateway)["llmtrace.phase.source"] == "server"
    assert gateway.end_time - gateway.start_time == pytest.approx(19e6, abs=1e4)  # type: ignore[operator]
    assert "SECRET" not in span.to_json()


@pytest.mark.parametrize("hit", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
def test_bifrosts_body(streaming: bool, hit: bool, client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    """Its headers may be dropped on the way, by a proxy of one's own; the body says the same."""
    extra = {"request_type": "chat_completion", "provider": "groq", "resolved_model_used": "llama-3.3-70b"}
    usage = play.USAGE | {"cost": {"input_tokens_cost": 0.0001, "output_tokens_cost": 0.0002, "total_cost": 0.0003}}
    told: Any = {"extra_fields": extra | {"latency": 31, "cache_debug": {"cache_hit": hit, "hit_type": "semantic"}}}
    replay.serve(stream(usage=usage, ttft=0.03, **told) if streaming else whole({}, usage=usage, **told))
    ask(client, streaming)
    said = attributes(spans.one("completed"))
    assert said["llmtrace.gateway.name"] == "bifrost"
    assert {"upstream=groq", "upstream_model=llama-3.3-70b"} <= set(said["llmtrace.route.fingerprint"].split(";"))
    assert said["llmtrace.cost.usd"] == 0.0003
    assert said.get("llmtrace.gateway.cache") == ("hit" if hit else None)
    assert ("gen_ai.usage.output_tokens" in said) is not hit


CHOSEN = METADATA | {
    "attempts": [{"model": "openai/gpt-4o-mini", "provider": "OpenAI", "status": 502}],
    "endpoints": {
        "total": 2,
        "available": [
            {"model": "openai/gpt-4o-mini", "provider": "OpenAI", "selected": False},
            {"model": "openai/gpt-4o-mini", "provider": "Azure", "selected": True},
        ],
    },
}


@pytest.mark.parametrize("place", ["in the response", "beside it"])
def test_openrouters_responses(place: str, client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    """What they tell stands in the last state of the response, or in an event after it."""
    wire = by_funnel.Responses.__new__(by_funnel.Responses)
    events = [json.loads(event.partition(b"data: ")[2]) for event in wire.events()]
    told = {"openrouter_metadata": CHOSEN}
    events[-1]["response"]["usage"] |= {"cost": 0.00014}
    if place == "in the response":
        events[-1]["response"] |= told
    else:
        events.append({"type": "response.metadata"} | told)
    replay.serve(play.Script(200, play.SSE_HEADERS, [(0.0, event) for event in by_funnel.typed_events(*events)]))
    for _ in client.responses.create(model="gpt-4o-mini", input="hello", stream=True):
        pass
    openrouters(spans)


def test_openrouters_messages(replay: Replay, spans: Spans, tracing: Any) -> None:
    import anthropic

    wire = by_funnel.Anthropic.__new__(by_funnel.Anthropic)
    events = [json.loads(event.partition(b"data: ")[2]) for event in wire.events()]
    events[-2]["usage"] |= {"cost": 0.00014}
    events[-1] |= {"openrouter_metadata": CHOSEN}
    replay.serve(play.Script(200, play.SSE_HEADERS, [(0.0, event) for event in by_funnel.typed_events(*events)]))
    tracing.on("anthropic")
    with anthropic.Anthropic(api_key="k", base_url=replay.url, max_retries=0) as client:
        for _ in client.messages.create(model="gpt-4o-mini", messages=MESSAGES, max_tokens=9, stream=True):
            pass
    openrouters(spans)


def openrouters(spans: Spans) -> None:
    span = spans.one("completed")
    said = attributes(span)
    assert {"upstream=Azure", "region=iad"} <= set(said["llmtrace.route.fingerprint"].split(";"))
    assert said["llmtrace.gateway.name"] == "openrouter"
    assert said["llmtrace.cost.usd"] == 0.00014
    assert attributes(spans.children(span)[0])["llmtrace.attempt.told"] is True


def test_a_told_price_counts_for_tasks(client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    replay.serve(whole(LITELLM, pause=0.0))
    with llmtrace.task("answer", budget=0.01) as task:
        ask(client)
        assert task.spent == 0.0123
        assert task.over_budget


ODD: list[dict[str, str]] = [
    {"x-litellm-call-id": "c", "x-litellm-overhead-duration-ms": "nan", "x-litellm-response-cost": "-1"},
    {"x-litellm-call-id": "c", "x-litellm-overhead-duration-ms": "1e400", "x-litellm-response-cost": "inf"},
    {"x-litellm-call-id": "c", "x-litellm-attempted-retries": "99999999999999999", "x-litellm-response-cost": "a"},
    {"x-litellm-call-id": "c", "x-litellm-attempted-retries": "-1", "x-litellm-model-api-base": "https://[::1"},
    {"x-litellm-call-id": "c", "x-litellm-overhead-duration-ms": "3600000"},
    {"x-litellm-call-id": "c", "x-litellm-model-id": "a;fingerprint=b", "x-litellm-model-region": "x" * 300},
    {"server-timing": "cdn-downstream-fbl;dur=-3,cdn-upstream-fbl;dur=x,cdn-pop"},
]


@pytest.mark.parametrize("headers", ODD)
def test_odd_headers(headers: dict[str, str], client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    replay.serve(whole(headers))
    ask(client)
    span = spans.one("completed")
    assert "llmtrace.cost.usd" not in attributes(span)
    assert "gateway" not in spans.phases(span)
    assert not [each for each in spans.children(span) if each.name == "llm.attempt"]
    assert "fingerprint=b" not in attributes(span)["llmtrace.route.fingerprint"].split(";")


@pytest.mark.parametrize(
    "odd",
    [
        {"provider": ["Azure"], "openrouter_metadata": "text"},
        {"provider": {"name": "Azure"}, "openrouter_metadata": {"attempts": [1, "a", None, {"status": "x"}]}},
        {"provider": "", "openrouter_metadata": {"attempt": "many", "attempts": {}, "region": 7}},
        {"provider": "\x1b[31m", "openrouter_metadata": []},
        {
            "openrouter_metadata": {
                "endpoints": {"available": [7, {"selected": True, "provider": 8}, {"selected": "x"}]}
            }
        },
        {"extra_fields": [1], "model_selection_details": "text"},
        {"extra_fields": {"cache_debug": {"cache_hit": "yes"}, "provider": ["x"]}},
        {"model_selection_details": {"model_router_details": {"routing_trace": [7, {"latency_ms": "nan"}, []]}}},
        {"model_selection_details": {"model_router_details": {"routing_trace": [{"attempts": [{"result": 429}]}]}}},
    ],
)
def test_odd_bodies(odd: dict[str, Any], client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    replay.serve(whole({}, usage=play.USAGE | {"cost": {"total": 1}}, **odd))
    ask(client)
    said = attributes(spans.one("completed"))
    assert "upstream" not in said["llmtrace.route.fingerprint"]
    assert "llmtrace.cost.usd" not in said


# ---- the diagnosis ---------------------------------------------------------------------------------------------------


def litellm_of(deployment: str, ttft: float) -> play.Script:
    own = {
        "x-litellm-model-id": deployment,
        "x-litellm-attempted-retries": "0",
        "x-litellm-attempted-fallbacks": "0",
        "x-litellm-overhead-duration-ms": "0.1",
    }
    return stream(LITELLM | own, ttft=ttft)


def openrouter_of(provider: str, ttft: float) -> play.Script:
    return stream(ttft=ttft, id="gen-1", provider=provider)


def azure_of(model: str, ttft: float) -> play.Script:
    trace = [{"latency_ms": 1, "attempts": [{"model": model, "result": {"status": 200}}]}]
    return stream(ttft=ttft, model=model, model_selection_details={"model_router_details": {"routing_trace": trace}})


def ngrok_of(model: str, ttft: float) -> play.Script:
    return stream({"ngrok-aig-attempts": "1", "ngrok-aig-model": model}, ttft=ttft)


def cloudflare_of(provider: str, ttft: float) -> play.Script:
    return stream({"cf-aig-log-id": "01M", "cf-aig-provider": provider}, ttft=ttft)


@pytest.mark.parametrize("script", [litellm_of, openrouter_of, azure_of, ngrok_of, cloudflare_of])
def test_another_upstream_is_a_change_of_route_and_no_queue(
    script: Any, client: openai.OpenAI, replay: Replay, spans: Spans, clock: Clock
) -> None:
    replay.serve(clock.playing(script("first", 0.005)))
    for _ in range(40):
        ask(client, streaming=True)
    before = spans.parents()
    assert not [span for span in before if "route_change" in attributes(span).get("llmtrace.diagnosis", ())]
    spans.clear()
    replay.serve(clock.playing(script("second", 0.15)))
    for _ in range(28):
        ask(client, streaming=True)
    causes = [attributes(span).get("llmtrace.diagnosis", ()) for span in spans.parents()]
    assert all("queueing" not in each for each in causes), causes
    assert all(each[0] == "route_change" for each in causes[:16]), causes
    for span in spans.parents()[:16]:
        (evidence,) = [event.attributes for event in span.events if event.name == "llmtrace.diagnosis"]
        assert evidence["llmtrace.diagnosis.quantity"] == "upstream"
        assert "second" in str(evidence["llmtrace.diagnosis.observed"])
        assert "first" in str(evidence["llmtrace.diagnosis.expected"])


@pytest.mark.parametrize("script", [openrouter_of, azure_of, ngrok_of])
def test_upstreams_that_take_turns_are_no_change(
    script: Any, client: openai.OpenAI, replay: Replay, spans: Spans
) -> None:
    scripts = [script("first", 0.001), script("second", 0.03), script("first", 0.001)]
    for number in range(60):
        replay.serve(scripts[number % 3])
        ask(client, streaming=True)
    causes = [cause for span in spans.parents() for cause in attributes(span).get("llmtrace.diagnosis", ())]
    assert "route_change" not in causes
    assert "model_swap" not in causes
