"""Ollama, Hugging Face and LiteLLM beyond the suite that all share; LiteLLM's retries, routers and fallbacks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.trace import StatusCode

import llmtrace
from tests.support import by_library
from tests.support.by_library import KEY, MESSAGES
from tests.support.by_method import MODEL, Driver
from tests.support.clock import Clock
from tests.support.replay import Replay, Request, Script, json_answer, openai_body, paced
from tests.support.spans import Spans, attributes

SLACK = 5_000_000
"""ns. Two clocks (the span's anchor and ``time.time_ns``), one machine."""


@pytest.fixture(
    params=[(made, kind) for made in by_library.DRIVERS for kind in made.kinds],
    ids=lambda p: "-".join((p[0].__name__, p[1])),
)
def library(request: pytest.FixtureRequest, replay: Replay) -> Iterator[Driver]:
    make, kind = request.param
    made = make(kind, replay.url)
    yield made
    made.shut()


@pytest.fixture
def on(library: Driver, spans: Spans) -> Iterator[None]:
    llmtrace.instrument(library.name, tracer_provider=spans.provider)
    yield
    llmtrace.uninstrument()


def held(library: Driver, gate: threading.Event, first: int = 2) -> Script:
    """A stream whose rest waits."""
    events = library.events()
    return library.script([(0.0, b"".join(events[:first])), (gate, b"".join(events[first:]))])


@pytest.mark.usefixtures("on")
def test_a_stream_takes_as_long_as_it_took(library: Driver, replay: Replay, spans: Spans) -> None:
    replay.serve(library.script(paced(library.events())))
    library.drain(library.stream())  # some libraries load a lot of themselves then
    spans.clear()
    first, second, *others = library.events()
    # Both with the first token, if it is the second that has it; what follows comes late enough to be told apart.
    replay.serve(library.script([(0.1, first + second), *paced(others, 0.5, 0.02)]))
    library.drain(library.stream())
    left = time.time_ns()
    span = spans.one("completed")
    decode, written = spans.phases(span)["decode"], replay.last.written
    assert attributes(span)["llmtrace.call.ttft"] >= 0.1
    assert written[0] - SLACK <= decode.start_time < written[1]
    assert written[-2] - SLACK <= decode.end_time <= left + SLACK, "LiteLLM keeps the last one, the usage, to itself"


@pytest.mark.usefixtures("on")
def test_usage_that_nobody_reported(library: Driver, replay: Replay, spans: Spans) -> None:
    replay.serve(library.script(paced(library.events(usage=False))))
    library.drain(library.stream())
    assert not [name for name in attributes(spans.one("completed")) if name.startswith("gen_ai.usage.")]


@pytest.mark.usefixtures("on")
def test_left_and_collected_later(library: Driver, replay: Replay, spans: Spans) -> None:
    gate = threading.Event()
    replay.serve(held(library, gate))
    stream = library.stream()
    iterator = library.iterate(stream)
    library.pull(iterator)
    left = time.time_ns()
    time.sleep(0.1)
    del stream, iterator
    library.settle()
    gate.set()
    span = spans.one("abandoned")
    assert span.status.status_code is StatusCode.UNSET
    assert span.end_time is not None
    assert span.end_time <= left + SLACK


@pytest.mark.usefixtures("on")
def test_a_slow_reader_is_not_a_slow_model(library: Driver, replay: Replay, spans: Spans, clock: Clock) -> None:
    replay.serve(library.script(paced(library.events())))
    stream = library.stream()
    iterator = library.iterate(stream)
    library.pull(iterator)
    library.pull(iterator)
    clock.advance(0.2)
    library.drain(stream)
    decode = spans.phases(spans.one("completed"))["decode"]
    assert attributes(decode)["llmtrace.decode.consumer_wait"] == pytest.approx(0.2, abs=0.001)


@pytest.mark.usefixtures("on")
def test_the_clients_own_timeout(library: Driver, replay: Replay, spans: Spans, monkeypatch: Any) -> None:
    monkeypatch.setattr(by_library, "TIMEOUT", 0.3)
    gate = threading.Event()
    impatient = type(library)(library.kind, replay.url)
    replay.serve(held(impatient, gate))
    with pytest.raises(Exception):
        impatient.drain(impatient.stream())
    spans.one("timed_out")
    gate.set()
    impatient.shut()


# ---- LiteLLM: one call of the application's is one span --------------------------------------------------------------


@pytest.fixture(params=["sync", "async"])
def wire(request: pytest.FixtureRequest, replay: Replay, spans: Spans) -> Iterator[by_library.LiteLLM]:
    """LiteLLM and the clients that it uses, all traced."""
    made = by_library.LiteLLM(request.param, replay.url)
    llmtrace.instrument(tracer_provider=spans.provider)
    yield made
    llmtrace.uninstrument()
    made.shut()


def deployments(replay: Replay, *names: str) -> list[dict[str, Any]]:
    """One model of a router's for each name, all served from the replay server."""
    place = {"api_base": f"{replay.url}/v1", "api_key": KEY, "max_retries": 0}
    return [{"model_name": name, "litellm_params": {"model": f"openai/{name}-served", **place}} for name in names]


def asked(wire: by_library.LiteLLM, method: Any, streaming: bool, **more: Any) -> Any:
    """What the application gets of one call."""
    result = wire.run(lambda: method(messages=MESSAGES, stream=streaming, **more))
    return wire.drain(result) if streaming else wire.plain(result)


def check(spans: Spans, statuses: list[int], models: list[str] | None = None) -> None:
    span = spans.one("completed")
    tops = [each for each in spans.finished() if each.parent is None]
    assert tops == [span], "no second call for the client beneath"
    attempts = spans.children(span)
    if len(statuses) == 1:
        assert all(each.name != "llm.attempt" for each in attempts)
        return
    assert [each.name for each in attempts] == ["llm.attempt"] * len(statuses)
    assert [attributes(each)["http.response.status_code"] for each in attempts] == statuses
    if models is not None:
        assert [attributes(each).get("gen_ai.request.model") for each in attempts] == models


@pytest.mark.parametrize("streaming", [False, True])
def test_no_double_count_with_the_client_beneath(
    wire: by_library.LiteLLM, replay: Replay, spans: Spans, streaming: bool
) -> None:
    replay.serve(wire.script(paced(wire.events())) if streaming else wire.whole())
    wire.drain(wire.stream()) if streaming else wire.call()
    check(spans, [200])


@pytest.mark.parametrize("order", [("openai", "litellm"), ("litellm", "openai")])
def test_two_that_wrap_one_function_leave_nothing_of_theirs_in_either_order(order: tuple[str, str]) -> None:
    pytest.importorskip("litellm")
    import openai._base_client as base

    before = base.BaseClient.__dict__["_build_request"]
    for _ in range(2):
        llmtrace.instrument("openai")
        llmtrace.instrument("litellm")
        wrapper = base.BaseClient.__dict__["_build_request"]
        assert wrapper.__wrapped__ is not before, "both wrap it"
        llmtrace.uninstrument(order[0])
        assert base.BaseClient.__dict__["_build_request"].__wrapped__ is before, "one is left"
        llmtrace.uninstrument(order[1])
        assert base.BaseClient.__dict__["_build_request"] is before


@pytest.mark.parametrize("streaming", [False, True])
def test_litellms_own_retries(wire: by_library.LiteLLM, replay: Replay, spans: Spans, streaming: bool) -> None:
    answer = wire.script(paced(wire.events())) if streaming else wire.whole()
    replay.play(wire.refusal(503), answer)
    function = wire.client.completion if wire.loop is None else wire.client.acompletion
    place = {"api_base": f"{wire.url}/v1", "api_key": KEY, "model": f"groq/{MODEL}", "num_retries": 2}
    asked(wire, function, streaming, **place)
    check(spans, [503, 200])


@pytest.mark.parametrize("streaming", [False, True])
def test_a_router_that_falls_back(wire: by_library.LiteLLM, replay: Replay, spans: Spans, streaming: bool) -> None:
    def answer(request: Request) -> Script:
        if request.json["model"] == "first-served":
            return wire.refusal(500)
        return wire.script(paced(wire.events())) if streaming else wire.whole()

    replay.serve(answer)
    router = wire.client.Router(
        model_list=deployments(replay, "first", "second"), fallbacks=[{"first": ["second"]}], num_retries=0
    )
    method = router.completion if wire.loop is None else router.acompletion
    asked(wire, method, streaming, model="first")
    span = spans.one("completed")
    assert attributes(span)["gen_ai.request.model"] == "first"
    check(spans, [500, 200], ["first-served", "second-served"])


def test_a_router_that_retries(wire: by_library.LiteLLM, replay: Replay, spans: Spans) -> None:
    replay.play(wire.refusal(500), wire.whole())
    router = wire.client.Router(model_list=deployments(replay, "first"), num_retries=1, retry_after=0)
    asked(wire, router.completion if wire.loop is None else router.acompletion, False, model="first")
    check(spans, [500, 200])


@pytest.mark.parametrize("answering", ["first-served", "another"])
def test_a_routers_own_name_for_a_model_is_no_swap(
    wire: by_library.LiteLLM, replay: Replay, spans: Spans, answering: str
) -> None:
    replay.serve(openai_body(model=answering))
    router = wire.client.Router(model_list=deployments(replay, "first"))
    asked(wire, router.completion if wire.loop is None else router.acompletion, False, model="first")
    causes = attributes(spans.one("completed")).get("llmtrace.diagnosis", ())
    assert ("model_swap" in causes) is (answering == "another")


@pytest.mark.parametrize("place", ["function", "router"])
def test_a_gateways_call_is_beneath_the_one_that_it_serves(
    wire: by_library.LiteLLM, replay: Replay, spans: Spans, place: str
) -> None:
    """LiteLLM's proxy hands the headers of the request on to the call; nothing need trace its server."""
    replay.serve(wire.whole())
    served = {"proxy_server_request": {"headers": {"Traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}}}
    if place == "router":
        router = wire.client.Router(model_list=deployments(replay, "first"))
        function, arguments = router.completion if wire.loop is None else router.acompletion, {"model": "first"}
    else:
        function = wire.client.completion if wire.loop is None else wire.client.acompletion
        arguments = {"api_base": f"{wire.url}/v1", "api_key": KEY, "model": f"groq/{MODEL}"}
    asked(wire, function, False, **arguments, **served)
    alone = spans.one("completed")
    assert alone.context.trace_id == int("ab" * 16, 16)
    assert alone.parent is not None
    assert (alone.parent.span_id, alone.parent.is_remote) == (int("cd" * 8, 16), True)
    spans.clear()
    with spans.provider.get_tracer("a server's").start_as_current_span("POST /chat/completions") as server:
        asked(wire, function, False, **arguments, **served)
    assert spans.one("completed").parent == server.get_span_context(), "whoever traces the server has read the header"
    spans.clear()
    for odd in ({"headers": None}, {"headers": {"traceparent": "00-1-2-3", 5: b"x"}}, None):
        asked(wire, function, False, **arguments, proxy_server_request=odd)
    assert [span.parent for span in spans.parents()] == [None] * 3


def test_a_router_that_finds_nobody(wire: by_library.LiteLLM, replay: Replay, spans: Spans) -> None:
    replay.serve(json_answer({"error": {"message": "no"}}, status=400))
    router = wire.client.Router(
        model_list=deployments(replay, "first", "second"), fallbacks=[{"first": ["second"]}], num_retries=0
    )
    with pytest.raises(Exception):
        asked(wire, router.completion if wire.loop is None else router.acompletion, False, model="first")
    span = spans.one("error")
    assert attributes(span)["error.type"] == "400"
    assert {each.name for each in spans.children(span)} == {"llm.attempt"}


def test_what_a_client_asks_beside_its_call_is_no_attempt(replay: Replay, spans: Spans) -> None:
    """A registry, or a token service: asked while the call is being made, and not about it."""
    import httpx
    import ollama
    import urllib3

    wire = by_library.Ollama("sync", replay.url)
    replay.serve(wire.whole())
    replay.serve(json_answer({}), path="/beside")

    def beside(request: Any) -> None:
        httpx.get(f"{replay.url}/beside")
        httpx.post(f"{replay.url}/beside", data={"grant_type": "refresh_token"})
        urllib3.PoolManager().request("POST", f"{replay.url}/beside", fields={"a": "b"}, encode_multipart=False)

    llmtrace.instrument("ollama", tracer_provider=spans.provider)
    try:
        ollama.Client(host=replay.url, event_hooks={"request": [beside]}).chat(model=MODEL, messages=MESSAGES)
    finally:
        llmtrace.uninstrument()
        wire.shut()
    assert [request.method for request in replay.requests] == ["GET", "POST", "POST", "POST"]
    assert not [each for each in spans.children(spans.one("completed")) if each.name == "llm.attempt"]
