"""Content capture of what servers send in odd pieces, and of binary data, which is left out at any depth."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.conftest import Tracing
from tests.providers.test_content_of_recordings import captured, completed
from tests.support import by_funnel, by_library, by_method, contents, ndjson
from tests.support.by_method import Driver, aws_event
from tests.support.contents import Told
from tests.support.replay import Replay, chunk, completion, json_answer, sse
from tests.support.spans import Spans


def call(city: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "weather", "arguments": json.dumps({"city": city})}, **more}


def tools(*pieces: dict[str, Any]) -> list[bytes]:
    return sse(*(chunk({"tool_calls": [piece]}) for piece in pieces), chunk({}, finish="tool_calls"))


def said_of(
    driver: type[Driver], parts: list[bytes], kind: str, replay: Replay, spans: Spans, tracing: Tracing
) -> Told:
    """What the span says of a stream of these parts."""
    opened = driver(kind, replay.url)
    try:
        tracing.on(opened.name, capture_content="span_only")
        replay.serve(opened.script([(0.0, part) for part in parts]))
        opened.drain(opened.stream())
        (message,) = captured(completed(spans))["output.messages"]
        return contents.boiled(message)
    finally:
        opened.shut()


BOTH = [("weather", '{"city": "Oslo"}'), ("weather", '{"city": "Rome"}')]
CALLED = [{"function": {"name": "weather", "arguments": {"city": city}}} for city in ("Oslo", "Rome")]
OLLAMA = [
    ndjson.line("/api/chat", "", message={"role": "assistant", "content": "", "tool_calls": [called]})
    for called in CALLED
]
SUMMARIES = [
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm. "}]},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "So."}]},
    {"type": "text", "text": "Yes."},
]
THINKING = [{"type": "thinking", "thinking": [{"type": "text", "text": "12 "}]}, {"type": "text", "text": "1"}]
CONVERSE = [
    ("messageStart", {"role": "assistant"}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "Hm."}}}),
    ("contentBlockStart", {"contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": "t", "name": "weather"}}}),
    ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"toolUse": {"input": '{"city": '}}}),
    ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"toolUse": {"input": '"Oslo"}'}}}),
    ("messageStop", {"stopReason": "tool_use"}),
    ("metadata", {"metrics": {"latencyMs": 5}}),
]
COHERE = [
    {"id": "id-1", "type": "message-start", "delta": {"message": {"role": "assistant", "tool_plan": ""}}},
    {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "Look."}}},
    *(
        event
        for index, city in enumerate(("Oslo", "Rome"))
        for event in (
            {"type": "tool-call-start", "index": index, "delta": {"message": {"tool_calls": call("", id=f"c{index}")}}},
            {
                "type": "tool-call-delta",
                "index": index,
                "delta": {"message": {"tool_calls": {"function": {"arguments": json.dumps({"city": city})}}}},
            },
            {"type": "tool-call-end", "index": index},
        )
    ),
    {"type": "message-end", "delta": {"finish_reason": "TOOL_CALL"}},
]
for _event in COHERE:
    if _event["type"] == "tool-call-start":
        _event["delta"]["message"]["tool_calls"]["function"]["arguments"] = ""

STREAMS: dict[str, tuple[type[Driver], list[bytes], Told]] = {
    "ollama's calls in chunks of their own": (
        by_library.Ollama,
        ndjson.lines([*OLLAMA, ndjson.line("/api/chat", "", done=True)]),
        Told(calls=BOTH),
    ),
    "every call at index 0": (
        by_funnel.OpenAI,
        tools(call("Oslo", id="a", index=0), call("Rome", id="b", index=0)),
        Told(calls=BOTH),
    ),
    "calls without an index": (by_funnel.OpenAI, tools(call("Oslo", id="a"), call("Rome", id="b")), Told(calls=BOTH)),
    "calls without index and id": (by_funnel.OpenAI, tools(call("Oslo"), call("Rome")), Told(calls=BOTH)),
    "a call in pieces that all name it": (
        by_funnel.OpenAI,
        tools(
            {"index": 0, "id": "a", "function": {"name": "weather", "arguments": '{"city": '}},
            {"index": 0, "id": "a", "function": {"name": "weather", "arguments": '"Oslo"}'}},
            call("Rome", id="b", index=1),
        ),
        Told(calls=BOTH),
    ),
    "mistral's lists of thinking and text": (
        by_method.Mistral,
        sse(chunk({"role": "assistant", "content": THINKING}), chunk({"content": "44"}), chunk({}, finish="stop")),
        Told(text="144", reasoning="12 "),
    ),
    "thinking and text in lists, by another client": (
        by_funnel.OpenAI,
        sse(chunk({"role": "assistant", "content": THINKING}), chunk({"content": "44"}), chunk({}, finish="stop")),
        Told(text="144", reasoning="12 "),
    ),
    "databricks' summaries of its reasoning": (
        by_funnel.OpenAI,
        sse(*(chunk({"content": [block]}) for block in SUMMARIES), chunk({}, finish="stop")),
        Told(text="Yes.", reasoning="Hm. So."),
    ),
    "converse's calls and reasoning": (
        by_method.Bedrock,
        [aws_event(name, payload) for name, payload in CONVERSE],
        Told(reasoning="Hm.", calls=BOTH[:1]),
    ),
    "cohere's calls and plan": (by_method.Cohere, sse(*COHERE), Told(reasoning="Look.", calls=BOTH)),
    "a refusal and a transcript": (
        by_funnel.OpenAI,
        sse(
            chunk({"role": "assistant", "refusal": "I ca"}),
            chunk({"refusal": "n't."}),
            chunk({"audio": {"id": "a", "transcript": "Hel"}}),
            chunk({"audio": {"data": "AAAA", "transcript": "lo"}}),
            chunk({}, finish="stop"),
        ),
        Told(refusal="I can't.", transcript="Hello"),
    ),
    "reasoning by the name that Groq has for it": (
        by_funnel.Groq,
        sse(chunk({"reasoning": "Hm."}), chunk({"content": "Yes."}), chunk({}, finish="stop")),
        Told(text="Yes.", reasoning="Hm."),
    ),
}


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("name", [*STREAMS])
def test_streams(name: str, kind: str, replay: Replay, spans: Spans, tracing: Tracing) -> None:
    driver, parts, told = STREAMS[name]
    if kind not in driver.kinds:
        driver = by_method.AioBedrock
    assert said_of(driver, parts, kind, replay, spans, tracing) == told


def test_choices_stay_apart(replay: Replay, spans: Spans, tracing: Tracing) -> None:
    opened = by_method.Google("sync", replay.url)
    candidates = [
        {"content": {"role": "model", "parts": [{"text": word}]}, "index": index, "finishReason": "STOP"}
        for index, word in enumerate(("one", "two"))
    ]
    tracing.on(opened.name, capture_content="span_only")
    replay.serve(json_answer({"candidates": candidates}))
    opened.call()
    messages = captured(completed(spans))["output.messages"]
    assert [contents.boiled(message).text for message in messages] == ["one", "two"]
    opened.shut()


WAYS = ["with_raw_response", "with_streaming_response"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_answer_that_the_application_takes_raw(
    kind: str, way: str, streaming: bool, replay: Replay, spans: Spans, tracing: Tracing
) -> None:
    """LangChain asks so."""
    from tests.providers.test_mutants import see

    opened = by_funnel.OpenAI(kind, replay.url)
    tracing.on(opened.name, capture_content="span_only")
    replay.serve(opened.script([(0.0, b"".join(opened.events()))]) if streaming else opened.whole())
    see(opened, streaming, way)
    (message,) = captured(completed(spans))["output.messages"]
    assert contents.boiled(message).text == "".join(by_method.WORDS)
    opened.shut()


# ---- binary data -----------------------------------------------------------------------------------------------------

BYTES = bytes(range(256)) * 64
DATA = base64.b64encode(BYTES).decode()
URL = f"data:image/png;base64,{DATA}"
PDF = f"data:application/pdf;base64,{DATA}"
LINES = base64.encodebytes(BYTES).decode()
SMALL = base64.b64encode(b"\x89PNG tiny").decode()
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}
TINY = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": SMALL}}
PLAIN = {"type": "text", "media_type": "text/plain", "data": "A chart."}
RESULT = [{"type": "text", "text": "A chart."}, IMAGE, TINY, {"deep": [{"er": {"inline": DATA}}]}]
USER = {"role": "user"}

SHOT = "Screenshot taken.\n" + json.dumps({"type": "image", "mimeType": "image/png", "data": DATA})
SHOT_TINY = json.dumps([{"type": "image", "mimeType": "image/png", "data": SMALL}])
MCP = {"type": "mcp_call", "id": "m", "name": "look", "server_label": "s", "arguments": "{}"}

OPENAI_SENT = [
    {**USER, "content": [{"type": "image_url", "image_url": {"url": URL, "detail": "low"}}]},
    {**USER, "content": [{"type": "input_audio", "input_audio": {"data": SMALL, "format": "wav"}}]},
    {**USER, "content": [{"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}}]},
    {"role": "assistant", "tool_calls": [call("Oslo", id="a")]},
    {"role": "tool", "tool_call_id": "a", "content": json.dumps({"text": "A chart.", "png": DATA, "also": URL})},
    {"role": "tool", "tool_call_id": "a", "content": f"A chart. ![it]({URL})"},
    {"role": "tool", "tool_call_id": "a", "content": SHOT},
    {"role": "tool", "tool_call_id": "a", "content": json.dumps({"png": DATA}).replace("/", "\\/")},
    {"role": "tool", "tool_call_id": "a", "content": "[INFO] {ok}\n" * 40 + SHOT_TINY},
    {"role": "tool", "tool_call_id": "a", "content": f"\n  {SHOT_TINY}"},
    {"role": "tool", "tool_call_id": "a", "content": SHOT_TINY},
    {"role": "tool", "tool_call_id": "a", "content": f"As Python prints it: {json.loads(SHOT_TINY)!r}, it's so"},
    {"role": "tool", "tool_call_id": "a", "content": json.dumps({"file_data": SMALL, "input_audio": {"data": SMALL}})},
    {"role": "tool", "tool_call_id": "a", "content": f"img {LINES}"},
    {"role": "tool", "tool_call_id": "a", "content": json.dumps({"log": json.dumps({"log": f"img {LINES}"})})},
    {"role": "system", "content": f"Its logo is {URL}."},
    {**USER, "content": f"What is {URL}?"},
    {"role": "assistant", "content": [{"type": "text", "text": f"It is {URL}."}]},
]
ANTHROPIC_SENT = [
    {**USER, "content": [IMAGE, {"type": "document", "source": PLAIN}]},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "look", "input": {"image": URL}}]},
    {**USER, "content": [{"type": "tool_result", "tool_use_id": "t", "content": RESULT}]},
    {**USER, "content": [{"type": "tool_result", "tool_use_id": "t", "content": f"img {DATA}"}]},
    {**USER, "content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": SHOT}]}]},
]
CONVERSE_SENT = [
    {**USER, "content": [{"image": {"format": "png", "source": {"bytes": BYTES}}}, {"text": "A chart."}]},
    {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "look", "input": {"a": 1}}}]},
    {
        **USER,
        "content": [
            {
                "toolResult": {
                    "toolUseId": "t",
                    "content": [{"text": "A chart."}, {"image": {"format": "png", "source": {"bytes": BYTES}}}],
                }
            }
        ],
    },
]
RESPONSES_SENT = [
    {**USER, "content": [{"type": "input_image", "image_url": URL}, {"type": "input_text", "text": "A chart."}]},
    {**USER, "content": [{"type": "input_file", "filename": "a.pdf", "file_data": URL}]},
    {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": URL}]},
    {**MCP, "output": SHOT},
    {**MCP, "output": f"Screenshot taken: {SHOT_TINY}"},
    {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "image_url": URL}},
]
OLLAMA_SENT = [{**USER, "content": "A chart.", "images": [DATA]}]
SENT: dict[str, tuple[type[Driver], dict[str, Any]]] = {
    "openai": (by_funnel.OpenAI, {"messages": OPENAI_SENT}),
    "responses": (by_funnel.Responses, {"input": RESPONSES_SENT}),
    "anthropic": (by_funnel.Anthropic, {"messages": ANTHROPIC_SENT, "max_tokens": 9}),
}


def check_binary(attrs: dict[str, Any]) -> list[Any]:
    told = captured(attrs)
    whole = json.dumps(told)
    assert DATA[:64] not in whole
    assert SMALL not in whole
    assert len(whole) < 3_300
    assert "A chart." in whole, "what is no data is there"
    return told["input.messages"]


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("name", [*SENT])
def test_binary_data_is_left_out(name: str, kind: str, replay: Replay, spans: Spans, tracing: Tracing) -> None:
    made, sent = SENT[name]
    opened = type(made.__name__, (made,), {"sent": sent})(kind, replay.url)
    tracing.on(opened.name, capture_content="span_only")
    replay.serve(opened.whole())
    opened.call()
    assert DATA in replay.last.body.decode(), "it was sent"
    check_binary(completed(spans))
    opened.shut()


def test_binary_data_is_left_out_of_converse(replay: Replay, spans: Spans, tracing: Tracing) -> None:
    opened = by_method.Bedrock("sync", replay.url)
    tracing.on(opened.name, capture_content="span_only")
    replay.serve(opened.whole())
    opened.client.converse(modelId="m", messages=CONVERSE_SENT, system=[{"text": "Be brief."}])
    messages = check_binary(completed(spans))
    assert contents.boiled(messages[1]).calls == [("look", '{"a": 1}')]
    assert contents.boiled(messages[2]).results[0].startswith("A chart.")


def test_binary_data_is_left_out_of_gemini(replay: Replay, spans: Spans, tracing: Tracing) -> None:
    from google.genai import types

    opened = by_method.Google("sync", replay.url)
    tracing.on(opened.name, capture_content="span_only")
    replay.serve(opened.whole())
    image = types.Part.from_bytes(data=BYTES, mime_type="image/png")
    result = types.Part.from_function_response(name="look", response={"text": "A chart.", "png": DATA})
    opened.client.models.generate_content(model="m", contents=["See.", image, result])
    (message,) = check_binary(completed(spans))
    assert [part["type"] for part in message["parts"]] == ["text", "inline_data", "tool_call_response"]
    assert message["parts"][1]["modality"] == "image"


def test_binary_data_is_left_out_of_ollama(replay: Replay, spans: Spans, tracing: Tracing) -> None:
    opened = by_library.Ollama("sync", replay.url)
    tracing.on(opened.name, capture_content="span_only")
    replay.serve(opened.whole())
    opened.client.chat(model="m", messages=OLLAMA_SENT)
    (message,) = check_binary(completed(spans))
    assert [part["type"] for part in message["parts"]] == ["text", "image"]


SEALED = "U2VhbGVk"
"""Encrypted, and no longer than a word."""
FOUND = [
    {"type": "web_search_result", "title": "A chart.", "url": "https://a.example", "encrypted_content": SEALED},
    {"type": "web_search_result", "title": "Another", "url": "https://b.example", "encrypted_content": SEALED * 90},
]
SEARCHED = [{"type": "web_search_tool_result", "tool_use_id": "s", "content": FOUND}]


def test_encrypted_data_is_left_out_however_short(replay: Replay, spans: Spans, tracing: Tracing) -> None:
    """Of a search's results, those that are sent back with the history too, and where a tool gives them as JSON."""
    given = [{"type": "tool_result", "tool_use_id": "t", "content": json.dumps(FOUND)}]
    sent = [{"role": "assistant", "content": SEARCHED}, {**USER, "content": given}]
    opened = type("Anthropic", (by_funnel.Anthropic,), {"sent": {"messages": sent, "max_tokens": 9}})(
        "sync", replay.url
    )
    tracing.on(opened.name, capture_content="span_only")
    replay.serve(json_answer(opened.message(content=SEARCHED, stop_reason="end_turn")))
    opened.call()
    assert SEALED in replay.last.body.decode(), "it was sent"
    told = json.dumps(captured(completed(spans)))
    assert SEALED not in told
    assert told.count("A chart.") == told.count("https://b.example") == 3, "what is no data is there"
    opened.shut()


WEATHER_TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}


def test_the_tools_that_a_search_for_tools_found(replay: Replay, spans: Spans, tracing: Tracing) -> None:
    """What a tool of the Responses API gives need not stand in a field of that name."""
    found = {"type": "tool_search_output", "status": "completed", "tools": [WEATHER_TOOL]}
    sent = [{**USER, "content": "Find it."}, {**found, "execution": "client", "call_id": "c"}]
    opened = type("Responses", (by_funnel.Responses,), {"sent": {"input": sent}})("sync", replay.url)
    tracing.on(opened.name, capture_content="span_only")
    replay.serve(json_answer(opened.state("completed") | {"output": [{**found, "execution": "server", "id": "o"}]}))
    opened.call()
    told = captured(completed(spans))
    (output,) = told["output.messages"]
    for id, message in (("c", told["input.messages"][1]), (None, output)):
        assert message["parts"] == [{"type": "tool_call_response", "id": id, "response": {"tools": [WEATHER_TOOL]}}]
    opened.shut()


def test_what_only_looks_like_data_stays(replay: Replay, spans: Spans, tracing: Tracing) -> None:
    """A result without a space in it, a link, a list of words, and a person's text without a data URL in it."""
    long, link = "x" * 5_000, "https://example.com/" + "a/" * 400
    result = json.dumps({"data": "plain", "long": long, "url": link, "format": "json"})
    words = "\n".join(f"word{number}{letter}" for number in range(9) for letter in "abcdefghijklmnopqrstuvwxyz")
    written = f"Read {DATA}, data:image/png;base64,... and {SHOT}"
    printed = (
        f"{ {'data': 'plain', 'pair': (1, 2), 'path': chr(92)}!r} and {{'data': Image(1)}} and {{'data': '{chr(92)}d'}}"
    )
    results = [{"role": "tool", "tool_call_id": "a", "content": content} for content in (result, words, printed)]
    sent = [*results, {**USER, "content": written}]
    opened = type("OpenAI", (by_funnel.OpenAI,), {"sent": {"messages": sent}})("sync", replay.url)
    tracing.on(opened.name, capture_content="span_only")
    replay.serve(json_answer(completion()))
    opened.call()
    *tools, user = captured(completed(spans))["input.messages"]
    assert [told["parts"][0]["response"] for told in tools] == [result, words, printed]
    assert user["parts"] == [{"type": "text", "content": written}]
    opened.shut()


def test_a_data_url_in_the_pieces_of_a_stream_is_left_out(replay: Replay, spans: Spans, tracing: Tracing) -> None:
    written = f"Here: {URL} is it, and {URL}\nNice"
    pieces = [chunk({"content": written[place : place + 700]}) for place in range(0, len(written), 700)]
    said = said_of(by_funnel.OpenAI, sse(*pieces, chunk({}, finish="stop")), "sync", replay, spans, tracing)
    assert said.text == "Here: <binary data left out> is it, and <binary data left out>\nNice"


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_images_beside_the_content_are_told(streamed: bool, replay: Replay, spans: Spans, tracing: Tracing) -> None:
    """OpenRouter and LiteLLM put them there."""
    images = [{"type": "image_url", "index": 0, "image_url": {"url": URL}}]
    opened = by_funnel.OpenAI("sync", replay.url)
    tracing.on(opened.name, capture_content="span_only")
    if streamed:
        pieces = sse(chunk({"content": "Here."}), chunk({"images": images}), chunk({}, finish="stop"))
        replay.serve(opened.script([(0.0, piece) for piece in pieces]))
        opened.drain(opened.stream())
    else:
        body = completion()
        body["choices"][0]["message"] |= {"content": "Here.", "images": images}
        replay.serve(json_answer(body))
        opened.call()
    (message,) = captured(completed(spans))["output.messages"]
    left_out = {"url": "<binary data left out>"}
    assert message["parts"] == [
        {"type": "text", "content": "Here."},
        {"type": "image_url", "index": 0, "image_url": left_out},
    ]
    opened.shut()


def test_instructions_without_data_urls(replay: Replay, spans: Spans, tracing: Tracing) -> None:
    opened = by_funnel.Responses("sync", replay.url)
    tracing.on(opened.name, capture_content="span_only")
    replay.serve(opened.whole())
    opened.client.responses.create(model="m", input="Hi", instructions=f"Draw {URL}")
    (part,) = captured(completed(spans))["system_instructions"]
    assert part["content"] == "Draw <binary data left out>"
    opened.shut()


def test_links_and_uploaded_files_are_told(replay: Replay, spans: Spans, tracing: Tracing) -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "file", "file": {"file_id": "file-1"}},
    ]
    sent = {"messages": [{**USER, "content": parts}]}
    opened = type("OpenAI", (by_funnel.OpenAI,), {"sent": sent})("sync", replay.url)
    tracing.on(opened.name, capture_content="span_only")
    replay.serve(json_answer(completion()))
    opened.call()
    (message,) = captured(completed(spans))["input.messages"]
    assert message["parts"] == [
        {"type": "uri", "modality": "image", "uri": "https://example.com/a.png"},
        {"type": "file", "modality": "document", "file_id": "file-1"},
    ]
    opened.shut()
