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
from llmtrace.providers.declare import Method, Operation, Provider, Request
from llmtrace.providers.messages import chat_input, instructions, tool_definitions
from llmtrace.providers.safe import count, get, items, sampling, text


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
    prompt = text(request.params.get("message")) or text(request.params.get("prompt"))
    return [{"role": "user", "parts": [{"type": "text", "content": prompt}]}] if prompt else chat_input(request)


def _output(answer: Sequence[Any] | Any, streamed: bool) -> list[dict[str, Any]]:
    sources = items(answer) if streamed else [get(answer, "_data")]
    written: list[str] = []
    for source in sources:
        message = get(get(source, "delta"), "message") if streamed else get(source, "message")
        content = get(message, "content")
        for part in (
            source,
            *items(content),
            *items(get(source, "generations")),
            *([] if items(content) else [content]),
        ):
            written.append(text(get(part, "text")) or "")
    read = (_read_chunks if streamed else _read_response)(answer, None)
    parts = [{"type": "text", "content": "".join(written)}]
    return [{"role": "assistant", "parts": parts, "finish_reason": (read.finish_reasons or ("error",))[0].lower()}]


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
