"""Cohere's client: chat and its streams, v2 and v1, and what v1 calls generate; embeddings and reranking.

Field names: cohere's ``types`` (usage, api_meta, the stream events of both versions). The methods are those of the raw
clients, through which the plain ones and ``with_raw_response`` both go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmtrace import conventions
from llmtrace.observe.answer import Answer, Usage
from llmtrace.observe.call import NOTHING, OUTPUT, REASONING
from llmtrace.providers import parts
from llmtrace.providers.declare import Method, Operation, Provider, Request
from llmtrace.providers.messages import chat_input, instructions, message_parts, tool_definitions, user_message
from llmtrace.providers.safe import count, fields, get, items, sampling, text
from llmtrace.providers.stream_messages import ChoiceMessage


def _read_request(body: Mapping[str, Any]) -> Request:
    choices = count(body.get("num_generations")) or 1
    return Request(text(body.get("model")), body.get("stream") is True, body, choices)


def _request_attributes(request: Request) -> dict[str, Any]:
    attributes = sampling(request.params, {"p": "top_p", "k": "top_k"})
    if (dimension := count(request.params.get("output_dimension"))) is not None:
        attributes[conventions.DIMENSIONS] = dimension
    if request.choices != 1:
        attributes[conventions.CHOICE_COUNT] = request.choices
    if kind := text(get(request.params.get("response_format"), "type")):
        attributes[conventions.OUTPUT_TYPE] = "json" if kind == "json_object" else "text"
    return attributes


def _classify_chunk(event: Any) -> int:
    """The kind of an event by its fields: v1 has ``text``, v2's delta a message of content, thinking, plan or calls."""
    if get(event, "event_type") is not None:  # v1; its last event repeats the whole text
        return OUTPUT if get(event, "text") or get(event, "tool_calls") or get(event, "tool_call_delta") else NOTHING
    message = get(get(event, "delta"), "message")
    content = get(message, "content")
    if get(content, "text") or get(message, "tool_calls"):
        return OUTPUT
    return REASONING if get(content, "thinking") or get(message, "tool_plan") else NOTHING


def _chunk_text(event: Any) -> tuple[str, int | None]:
    if get(event, "event_type") is not None:
        return text(get(event, "text")) or "", None
    message = get(get(event, "delta"), "message")
    content = get(message, "content")
    written = text(get(content, "text")) or text(get(content, "thinking")) or text(get(message, "tool_plan")) or ""
    return written + (text(get(get(get(message, "tool_calls"), "function"), "arguments")) or ""), None


def _read_usage(usage: Any) -> Usage:
    """The billed counts, which the conventions ask for where both are told; else those of ``tokens``.

    A billed input count below the cached tokens cannot be the whole prompt: then the count of ``tokens`` is taken.
    """
    billed, counted = get(usage, "billed_units"), get(usage, "tokens")
    cached = count(get(usage, "cached_tokens"))
    input_counts = [count(get(source, "input_tokens")) for source in (billed, counted)]
    inputs = [tokens for tokens in input_counts if tokens is not None and tokens >= (cached or 0)]
    output_counts = [count(get(source, "output_tokens")) for source in (billed, counted)]
    return Usage(
        input_tokens=inputs[0] if inputs else None,
        output_tokens=next((tokens for tokens in output_counts if tokens is not None), None),
        cached_tokens=cached,
    )


def _read_chunks(events: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    answer = Answer()
    for event in events:
        _read(answer, event)
        _read(answer, get(event, "delta"))
        _read(answer, get(event, "response"))  # v1: the last event holds the whole response
    return answer


def _read_response(response: Any, headers: Mapping[str, str] | None) -> Answer:
    answer = Answer()
    _read(answer, get(response, "_data"))
    return answer


def _read(answer: Answer, source: Any) -> None:
    answer.id = text(get(source, "response_id")) or answer.id or text(get(source, "id")) or _v1_id(source)
    reasons = [text(get(generation, "finish_reason")) for generation in (source, *items(get(source, "generations")))]
    answer.finish_reasons = tuple(reason for reason in reasons if reason) or answer.finish_reasons
    usage = get(source, "usage") or get(source, "meta")
    if usage is not None:
        answer.usage = _read_usage(usage)


def _v1_id(source: Any) -> str | None:
    return text(get(source, "generation_id")) if get(source, "event_type") == "stream-start" else None


def _input(request: Request) -> list[dict[str, Any]]:
    """The messages sent; of v1 the history, the message, and the results of tools."""
    params = request.params
    messages = chat_input(request)
    for turn in items(params.get("chat_history")):
        made = [*parts.texts(get(turn, "message")), *_calls(turn), *_results(get(turn, "tool_results"))]
        messages.append({"role": (text(get(turn, "role")) or "user").lower(), "parts": made})
    messages += user_message(params.get("message") or params.get("prompt"))
    if results := _results(params.get("tool_results")):
        messages.append({"role": "tool", "parts": results})
    return messages


def _calls(source: Any) -> list[parts.Part]:
    """The tool calls of a message of v1."""
    calls = items(get(source, "tool_calls"))
    return [parts.tool_call(None, get(call, "name"), get(call, "parameters")) for call in calls]


def _results(results: Any) -> list[parts.Part]:
    """The results of tools, as v1 is sent them."""
    return [parts.tool_result(None, get(result, "outputs")) for result in items(results)]


def _output(answer: Sequence[Any] | Any, streamed: bool) -> list[dict[str, Any]]:
    whole: Any = None if streamed else get(answer, "_data")
    events = items(answer) if streamed else ()
    for event in events:
        whole = get(event, "response") or whole  # v1 and generate: the last event holds all
    generations = items(get(whole, "generations"))
    if generations:
        return [_message(parts.texts(get(each, "text")), get(each, "finish_reason")) for each in generations]
    end = next(iter((_read_chunks if streamed else _read_response)(answer, None).finish_reasons), None)
    message = get(whole, "message")
    if message is not None:
        thought = parts.reasonings(get(message, "tool_plan"))
        return [_message([*thought, *message_parts(message)], end)]
    if whole is not None:
        return [_message([*parts.texts(get(whole, "text")), *_calls(whole)], end)]
    return [_message(_joined(events), end)]


def _message(made: list[parts.Part], end: Any) -> dict[str, Any]:
    return {"role": "assistant", "parts": made, "finish_reason": (text(end) or "error").lower()}


def _joined(events: Sequence[Any]) -> list[parts.Part]:
    """The parts that the events of a stream make; of a v1 stream those up to where it was cut short."""
    made: list[parts.Part] = []
    choice = ChoiceMessage()
    for event in events:
        for part in parts.texts(get(event, "text")):
            parts.append(made, part)
        message = get(get(event, "delta"), "message")
        content = get(message, "content")
        thought = parts.reasonings(get(message, "tool_plan")) + parts.reasonings(get(content, "thinking"))
        for part in (*thought, *parts.texts(get(content, "text"))):
            parts.append(made, part)
        for call in [calls] if (calls := get(message, "tool_calls")) and not items(calls) else items(calls):
            choice.add_call({**fields(call), "index": get(event, "index")})
        made += _calls(event)
    return made + [parts.tool_call(call.id, call.name, call.arguments) for call in choice.calls]


CHAT = Operation(
    name="chat",
    read_request=_read_request,
    request_attributes=_request_attributes,
    classify_chunk=_classify_chunk,
    chunk_text=_chunk_text,
    read_chunks=_read_chunks,
    read_response=_read_response,
    system_instructions=lambda request: instructions(request.params.get("preamble")),  # of v1
    tool_definitions=tool_definitions,
    input_messages=_input,
    output_messages=_output,
)
GENERATE = replace(CHAT, name="text_completion")
EMBED = replace(CHAT, name="embeddings", input_messages=lambda request: None, output_messages=lambda *_: None)
RERANK = replace(EMBED, name="rerank")


def _methods(module: str, cls: str) -> list[Method]:
    whole = (("chat", CHAT), ("generate", GENERATE), ("embed", EMBED), ("rerank", RERANK))
    streams = (("chat_stream", CHAT), ("generate_stream", GENERATE))
    return [
        Method(
            module=f"cohere.{module}",
            path=f"{prefix}{cls}.{name}",
            operation=operation,
            body=_streamed if streaming else _whole,
            inner="_data" if streaming else "",
            managed=streaming,
        )
        for prefix in ("", "Async")
        for streaming, methods in ((False, whole), (True, streams))
        for name, operation in methods
    ]


def _whole(client: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**kwargs, "stream": False}


def _streamed(client: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**kwargs, "stream": True}


COHERE = Provider(
    hooks=(*_methods("v2.raw_client", "RawV2Client"), *_methods("raw_base_client", "RawBaseCohere")),
    provider_name=lambda client, host: "cohere",
    senders=lambda client: [client._client_wrapper.httpx_client.httpx_client],
    base_url=lambda client: client._client_wrapper.get_base_url(),
)
