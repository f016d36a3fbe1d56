"""Which span a call adopts: at most one call for each span, and only one that can be meant."""

from __future__ import annotations

import gc
import threading
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from llmtrace.calls.adoption import OWN, Claims, place
from llmtrace.emit import names
from llmtrace.providers.declare import Operation, Request

TRACER = TracerProvider().get_tracer("another")
OPERATIONS = ("chat", "text_completion", "embeddings")
MODELS = ("a", "b", None)


def operation(name: str) -> Operation:
    unused: Any = None
    return Operation(
        name=name,
        read_request=unused,
        request_attributes=unused,
        classify_chunk=unused,
        read_chunks=unused,
        read_response=unused,
    )


calls = st.tuples(st.sampled_from(OPERATIONS), st.sampled_from(MODELS))
opened = st.tuples(st.sampled_from((*OPERATIONS, "invoke_agent", None)), st.sampled_from(MODELS))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.one_of(st.none(), opened), calls), max_size=12))
def test_once_and_for_the_same(steps: list[Any]) -> None:
    """Whatever is opened and asked, in whatever order."""
    adopted: dict[int, tuple[Any, Any]] = {}
    current: Any = trace.INVALID_SPAN
    said: tuple[Any, Any] = (None, None)
    for opens, (asked, model) in steps:
        if opens is not None:
            said = opens
            about = {names.OPERATION: opens[0], names.REQUEST_MODEL: opens[1]}
            current = TRACER.start_span("theirs", attributes={k: v for k, v in about.items() if v is not None})
        found = place(current, operation(asked), Request(model, False, {}), TRACER, None, "auto")
        first = current.get_span_context().span_id not in adopted
        meant = said[0] == asked and (said[1] is None or model is None or said[1] == model)
        if meant and first:
            assert found.adopted is current
            adopted[current.get_span_context().span_id] = said
        else:
            assert found is OWN


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(calls, opened)
def test_own_adopts_nothing(asked: tuple[str, Any], said: tuple[Any, Any]) -> None:
    span = TRACER.start_span("theirs", attributes={names.OPERATION: said[0] or ""})
    assert place(span, operation(asked[0]), Request(asked[1], False, {}), TRACER, None, "own") is OWN


def test_one_of_many_threads_has_it() -> None:
    claims, winners = Claims(), []
    ready = threading.Barrier(8)

    def claim() -> None:
        ready.wait()
        winners.extend(key for key in range(200) if claims.take(key))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(winners) == list(range(200))


def test_its_memory_is_bounded() -> None:
    claims = Claims(most=10)
    assert all(claims.take(number) for number in range(100))
    assert not claims.take(99)
    assert claims.take(0), "long forgotten"


def test_an_identity_that_is_given_anew() -> None:
    """``id`` numbers are used again once their object is gone."""

    class Owner:
        pass

    claims = Claims()
    first, second = Owner(), Owner()
    assert claims.take(1, first)
    assert not claims.take(1, first)
    del first
    gc.collect()
    assert claims.take(1, second)
    assert not claims.take(1, second)
