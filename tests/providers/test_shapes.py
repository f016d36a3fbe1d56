"""Answers of shapes that few providers send: the span says of them what it says of any other."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest

from llmtrace.calls import byte_taps
from tests.conftest import Tracing
from tests.support.by_funnel import MESSAGES, Anthropic, OpenAI
from tests.support.by_method import MODEL, Cohere, Driver, Mistral
from tests.support.replay import (
    JSON_HEADERS,
    SSE_HEADERS,
    USAGE,
    Replay,
    Script,
    chunk,
    completion,
    events_script,
    json_answer,
    openai_chunks,
    sse,
)
from tests.support.said import completions, disagreements
from tests.support.spans import Spans, attributes

pytestmark = pytest.mark.usefixtures("kind")

CODINGS = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.fixture
def opened(kind: str, replay: Replay, tracing: Tracing) -> Any:
    made: list[Driver] = []

    def open_(driver: type[Driver]) -> Driver:
        made.append(driver(kind, replay.url))
        tracing.on(driver.name)
        return made[-1]

    yield open_
    for driver in made:
        driver.shut()


def streaming_response(driver: Driver, streaming: bool) -> bytes:
    """The bytes of ``with_streaming_response``, as the application reads them."""
    create = driver.client.chat.completions.with_streaming_response.create
    asked = {"model": MODEL, "messages": MESSAGES} | ({"stream": True} if streaming else {})
    if driver.loop is None:
        with create(**asked) as response:
            return b"".join(response.iter_bytes())

    async def read() -> bytes:
        async with create(**asked) as response:
            return b"".join([piece async for piece in response.iter_bytes()])

    return driver.loop.run_until_complete(read())


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("streaming", [False, True])
def test_compressed_bodies_that_the_application_reads_itself(
    opened: Any, replay: Replay, spans: Spans, coding: str, streaming: bool
) -> None:
    driver = opened(OpenAI)
    said = openai_chunks(["Hel", "lo"], USAGE) if streaming else [completion()]
    body = b"".join(sse(*said)) if streaming else json.dumps(said[0]).encode()
    data = CODINGS[coding](body)
    headers = (SSE_HEADERS if streaming else JSON_HEADERS) | {"content-encoding": coding}
    replay.serve(Script(200, headers, [(0.0, data[:40]), (0.0, data[40:])]))
    assert streaming_response(driver, streaming) == body
    attrs = attributes(spans.one("completed"))
    assert not disagreements(attrs, completions(said))
    assert ("llmtrace.call.ttft" in attrs) is streaming


def test_a_compressed_stream_that_is_cut_off(opened: Any, replay: Replay, spans: Spans) -> None:
    driver = opened(OpenAI)
    packer = zlib.compressobj(wbits=31)
    events = sse(*openai_chunks(["Hel", "lo"], USAGE))
    data = packer.compress(b"".join(events[:3])) + packer.flush(zlib.Z_SYNC_FLUSH)
    replay.serve(Script(200, SSE_HEADERS | {"content-encoding": "gzip"}, [(0.0, data)], after="cut"))
    with pytest.raises(Exception, match=r"incomplete|peer closed"):
        streaming_response(driver, True)
    attrs = attributes(spans.one("error"))
    assert attrs["gen_ai.response.id"] == completion()["id"]
    assert "llmtrace.call.ttft" in attrs


def test_a_compressed_body_that_stands_for_very_much(
    opened: Any, replay: Replay, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_taps, "_UNPACKED", 50_000)
    driver = opened(OpenAI)
    said = openai_chunks(["x" * 30_000, "lo", "y" * 200_000], USAGE)
    data = zlib.compress(b"".join(sse(*said)))
    replay.serve(Script(200, SSE_HEADERS | {"content-encoding": "deflate"}, [(0.0, data[:60]), (0.0, data[60:])]))
    assert streaming_response(driver, True) == b"".join(sse(*said))
    assert attributes(spans.one("completed"))["gen_ai.response.id"] == completion()["id"]


def test_an_event_in_several_lines_that_the_application_reads_itself(opened: Any, replay: Replay, spans: Spans) -> None:
    driver = opened(OpenAI)
    said = openai_chunks(["Hel", "lo"], USAGE)
    lines = [json.dumps(each, indent=1).split("\n") for each in said]
    events = ["".join(f"data: {line}\n" for line in event) + "\n" for event in lines]
    replay.serve(Script(200, SSE_HEADERS, [(0.0, event.encode()) for event in events]))
    streaming_response(driver, True)
    assert not disagreements(attributes(spans.one("completed")), completions(said))


@pytest.mark.parametrize("further", [40, 400])
def test_a_choice_that_ends_long_before_the_others(opened: Any, replay: Replay, spans: Spans, further: int) -> None:
    driver = opened(OpenAI)
    said = [chunk({"role": "assistant", "content": "x"}, index=index) for index in (0, 1)]
    said += [chunk({}, index=0, finish="length"), *(chunk({"content": "x"}, index=1) for _ in range(further))]
    said += [chunk({}, index=1, finish="stop"), chunk(None, usage=USAGE)]
    replay.serve(events_script(*said))
    stream = driver.run(lambda: driver.client.chat.completions.create(model=MODEL, messages=MESSAGES, n=2, stream=True))
    assert len(driver.drain(stream)) == len(said)
    attrs = attributes(spans.one("completed"))
    assert attrs["gen_ai.response.finish_reasons"] == ("length", "stop")
    assert not disagreements(attrs, completions(said))


def test_an_end_with_much_after_it(opened: Any, replay: Replay, spans: Spans) -> None:
    driver = opened(OpenAI)
    said = [*openai_chunks(["Hel", "lo"]), *(chunk(None) for _ in range(9))]
    said[3] |= {"usage": USAGE}
    replay.serve(events_script(*said))
    driver.drain(driver.stream())
    assert not disagreements(attributes(spans.one("completed")), completions(said))


def test_an_index_that_is_none(opened: Any, replay: Replay, spans: Spans) -> None:
    driver = opened(OpenAI)
    said = openai_chunks(["Hel", "lo"], USAGE)
    said[-2]["choices"][0]["index"] = [{"a": 1}]
    replay.serve(events_script(*said))
    driver.drain(driver.stream())
    assert not disagreements(attributes(spans.one("completed")), completions(said))


def test_events_before_the_one_that_says_who_answers(opened: Any, replay: Replay, spans: Spans) -> None:
    """Anthropic's client hands on events of types that it does not know, where their names are known."""
    driver = opened(Anthropic)
    stray = b'event: content_block_stop\ndata: {"type": "content_block_stop", "index": 7}\n\n'
    replay.serve(driver.script([(0.0, event) for event in (stray, stray, *driver.events())]))
    driver.drain(driver.stream())
    attrs = attributes(spans.one("completed"))
    assert attrs["gen_ai.response.id"] == "msg_1"
    assert attrs["gen_ai.usage.input_tokens"] == 40


def test_cohere_v1_says_who_answers_last(opened: Any, replay: Replay, spans: Spans) -> None:
    """The same id streamed and whole: the response's, not the generation's."""
    import cohere

    driver = opened(Cohere)
    meta = {"billed_units": {"input_tokens": 7, "output_tokens": 2}, "tokens": {"input_tokens": 69, "output_tokens": 3}}
    whole = {"response_id": "r-1", "generation_id": "g-1", "text": "Arr", "finish_reason": "COMPLETE", "meta": meta}
    events = [
        {"event_type": "stream-start", "is_finished": False, "generation_id": "g-1"},
        {"event_type": "text-generation", "is_finished": False, "text": "Arr"},
        {"event_type": "stream-end", "is_finished": True, "finish_reason": "COMPLETE", "response": whole},
    ]
    client = (cohere.AsyncClient if driver.loop else cohere.Client)("sk-sentinel-key", base_url=driver.url)
    replay.play(json_answer(whole))
    driver.run(lambda: client.chat(model=MODEL, message="PROMPT-SENTINEL"))
    lines = [json.dumps(event).encode() + b"\n" for event in events]
    replay.play(Script(200, {"content-type": "application/stream+json"}, [(0.0, line) for line in lines]))
    driver.drain(driver.run(lambda: client.chat_stream(model=MODEL, message="PROMPT-SENTINEL")))
    for span in spans.parents():
        attrs = attributes(span)
        assert attrs["gen_ai.response.id"] == "r-1"
        assert (attrs["gen_ai.usage.input_tokens"], attrs["gen_ai.usage.output_tokens"]) == (7, 2)
        assert attrs["gen_ai.response.finish_reasons"] == ("COMPLETE",)
    assert len(spans.parents()) == 2


def test_counts_that_only_the_client_made_up(opened: Any, replay: Replay, spans: Spans) -> None:
    driver = opened(Mistral)
    body = completion(usage={"prompt_tokens": 3})
    replay.serve(json_answer(body))
    driver.call()
    assert not disagreements(attributes(spans.one("completed")), completions([body]))


CACHED = {
    "of Moonshot": {"cached_tokens": 16},
    "of Databricks": {"cache_read_input_tokens": 16, "cache_creation_input_tokens": 8},
    "of DeepSeek": {"prompt_cache_hit_tokens": 16, "prompt_cache_miss_tokens": 24},
}


def told_both_ways(driver: OpenAI, replay: Replay, spans: Spans, usage: Any) -> list[dict[str, Any]]:
    """The attributes of a whole answer and of a stream with this usage, compared with what the bodies say."""
    chunks = openai_chunks(("Hi",), usage)
    replay.play(json_answer(completion(usage=usage)), events_script(*chunks))
    driver.call()
    driver.drain(driver.stream())
    told = [attributes(span) for span in spans.parents()]
    assert len(told) == 2
    for attrs in told:
        assert not disagreements(attrs, completions(chunks))
    return told


@pytest.mark.parametrize("whose", CACHED)
def test_what_others_call_the_cached_tokens(whose: str, opened: Any, replay: Replay, spans: Spans) -> None:
    usage = {"prompt_tokens": 40, "completion_tokens": 6, "total_tokens": 46, **CACHED[whose]}
    for attrs in told_both_ways(opened(OpenAI), replay, spans, usage):
        assert (attrs["gen_ai.usage.input_tokens"], attrs["gen_ai.usage.cache_read.input_tokens"]) == (40, 16)
        assert attrs.get("gen_ai.usage.cache_write.input_tokens") == (8 if whose == "of Databricks" else None)


@pytest.mark.parametrize(("total", "output"), [(115, 105), (20, 10)], ids=["beside", "within"])
def test_reasoning_beside_the_answers_tokens(
    total: int, output: int, opened: Any, replay: Replay, spans: Spans
) -> None:
    """As xAI counts it, whose total says so; elsewhere it is among them."""
    reasoned = {"reasoning_tokens": 95 if output > 95 else 5}
    usage = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": total, "completion_tokens_details": reasoned}
    for attrs in told_both_ways(opened(OpenAI), replay, spans, usage):
        assert attrs["gen_ai.usage.output_tokens"] == output


def test_a_usage_within_the_choice_that_it_ends(opened: Any, replay: Replay, spans: Spans) -> None:
    """As Moonshot's streams have it."""
    driver = opened(OpenAI)
    last = chunk({}, finish="stop")
    last["choices"][0]["usage"] = {"prompt_tokens": 19, "completion_tokens": 13, "total_tokens": 32, "cached_tokens": 3}
    replay.serve(events_script(chunk({"content": "Hi"}), last))
    driver.drain(driver.stream())
    attrs = attributes(spans.one("completed"))
    assert not disagreements(attrs, completions([last]))
    assert (attrs["gen_ai.usage.input_tokens"], attrs["gen_ai.usage.cache_read.input_tokens"]) == (19, 3)


SUMMING = {"type": "compaction", "input_tokens": 83_000, "output_tokens": 150, "cache_read_input_tokens": 500}
SUMMED_UP = {
    "and answered": (
        [SUMMING, {"type": "message", "input_tokens": 200, "output_tokens": 20}],
        (200, 20),
        (83_700, 170),
    ),
    "and stopped there": ([SUMMING], (0, 0), (83_500, 150)),
    "without having to": ([{"type": "message", "input_tokens": 200, "output_tokens": 20}], (200, 20), (200, 20)),
    "with another model's advice": ([{**SUMMING, "type": "advisor_message", "model": "m"}], (200, 20), (200, 20)),
}


@pytest.mark.parametrize("how", SUMMED_UP)
def test_the_tokens_of_a_history_that_was_summed_up(how: str, opened: Any, replay: Replay, spans: Spans) -> None:
    """Anthropic bills them, and leaves them out of the counts at the top of the usage."""
    iterations, (read, made), counts = SUMMED_UP[how]
    driver = opened(Anthropic)
    usage = {"input_tokens": read, "output_tokens": made, "iterations": iterations}
    text = [{"type": "text", "text": "Hi"}]
    replay.play(json_answer(driver.message(content=text, stop_reason="end_turn", usage=usage)))
    driver.call()
    *events, delta, stop = driver.events(usage=False)
    delta = delta.replace(
        b'"type": "message_delta"', b'"type": "message_delta", "usage": ' + json.dumps(usage).encode()
    )
    replay.play(Script(200, SSE_HEADERS, [(0.0, event) for event in (*events, delta, stop)]))
    driver.drain(driver.stream())
    for span in spans.parents():
        attrs = attributes(span)
        assert (attrs["gen_ai.usage.input_tokens"], attrs["gen_ai.usage.output_tokens"]) == counts
        assert attrs.get("gen_ai.usage.cache_read.input_tokens") == (500 if counts[0] > 1000 else None)
    assert len(spans.parents()) == 2


THOUGHTS = {
    "of Mistral": {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
    "of Databricks": {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
}


@pytest.mark.parametrize("whose", THOUGHTS)
def test_reasoning_in_a_list_of_blocks(whose: str, opened: Any, replay: Replay, spans: Spans) -> None:
    """Decode has its two parts, as where the reasoning is in a field of its own."""
    driver = opened(OpenAI)
    said = [chunk({"content": [THOUGHTS[whose]]}), chunk({"content": [{"type": "text", "text": "Yes."}]})]
    replay.serve(events_script(*said, chunk({"content": "!"}), chunk({}, finish="stop"), itl=0.002))
    driver.drain(driver.stream())
    decode = spans.phases(spans.one("completed"))["decode"]
    assert [part.name for part in spans.children(decode)] == ["llm.decode.reasoning", "llm.decode.output"]
