"""Ollama: chat, generate and embed of its own API, streamed as one JSON object a line.

Field names: ollama-python's ``_types.py``; what the durations span: the server's ``server/routes.go``. The last object
of an answer holds them all. The request is sent when a stream is first read, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmtrace import conventions
from llmtrace.observe.answer import Answer, Usage
from llmtrace.observe.call import NOTHING, OUTPUT, REASONING
from llmtrace.providers import parts
from llmtrace.providers.declare import Method, Operation, Provider, Request
from llmtrace.providers.messages import chat_message, chat_output, system_text, tool_definitions, user_message
from llmtrace.providers.safe import count, fields, get, items, sampling, text
from llmtrace.providers.timings import read_ollama


def read_request(body: Mapping[str, Any]) -> Request:
    """Model and stream of a request's body."""
    return Request(model=text(body.get("model")), streaming=body.get("stream") is True, params=body)


def request_attributes(request: Request) -> dict[str, Any]:
    """The conventions' ``gen_ai.request.*`` attributes, from ``options``, ``think`` and ``format``."""
    attributes = sampling(get(request.params, "options"), {"num_predict": "max_tokens"})
    if level := text(request.params.get("think")):
        attributes[conventions.REASONING_LEVEL] = level
    if request.params.get("format"):
        attributes[conventions.OUTPUT_TYPE] = "json"
    return attributes


def classify_chunk(chunk: Any) -> int:
    """Whether a line contains output (text, a tool call, an image), thinking, or neither."""
    message = get(chunk, "message")
    if message is None:
        message = chunk
    if get(message, "content") or get(message, "response") or get(message, "tool_calls") or get(message, "image"):
        return OUTPUT
    return REASONING if get(message, "thinking") else NOTHING


def chunk_text(chunk: Any) -> tuple[str, int | None]:
    """The text or thinking of a line, and the number of tokens that its log probabilities list."""
    message = _openai_message(chunk)
    written = text(message["content"]) or text(message["reasoning_content"]) or ""
    return written, len(items(get(chunk, "logprobs"))) or None


def read_chunks(chunks: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    """The answer in a stream's last line; where that is missing, the model named in the first."""
    answer = Answer()
    for chunk in chunks:
        if get(chunk, "done") is True:
            answer = read_response(chunk, headers)
    if answer.model is None and chunks:
        answer.model = text(get(chunks[0], "model"))
    return answer


def read_response(response: Any, headers: Mapping[str, str] | None) -> Answer:
    """The answer in a whole response or in a stream's last line.

    ``prompt_eval_count`` is left out where the server took the whole prompt from its cache, in versions up to 0.1; then
    the input tokens are not known. Cached tokens are never reported.
    """
    reason = text(get(response, "done_reason"))
    return Answer(
        model=text(get(response, "model")),
        finish_reasons=(reason,) if reason else (),
        usage=Usage(
            input_tokens=count(get(response, "prompt_eval_count")), output_tokens=count(get(response, "eval_count"))
        ),
        timings=read_ollama(fields(response)),
    )


def generate_input(request: Request) -> list[dict[str, Any]]:
    """The prompt sent, as a message."""
    messages = user_message(request.params.get("prompt"))
    if messages:
        messages[0]["parts"] += _images(request.params)
    return messages


def chat_input(request: Request) -> list[dict[str, Any]]:
    """The messages sent. A tool's result names the tool and has no id; the images of a message lie beside its text."""
    messages: list[dict[str, Any]] = []
    for message in items(request.params.get("messages")):
        converted = chat_message(message)
        converted["parts"] = [*parts.reasonings(get(message, "thinking")), *converted["parts"], *_images(message)]
        messages.append(converted)
    return messages


def _images(source: Any) -> list[parts.Part]:
    """One part for each image, without its data."""
    return [{"type": "image", "modality": "image"} for _ in items(get(source, "images"))]


def output_messages(answer: Sequence[Any] | Any, streamed: bool) -> list[dict[str, Any]]:
    """The messages received, read through OpenAI's shape."""
    if not streamed:
        return chat_output(
            {"choices": [{"message": _openai_message(answer), "finish_reason": get(answer, "done_reason")}]}, False
        )
    return chat_output(
        [
            {"choices": [{"delta": _openai_message(chunk), "finish_reason": get(chunk, "done_reason")}]}
            for chunk in items(answer)
        ],
        True,
    )


def _openai_message(source: Any) -> dict[str, Any]:
    """The message of a chat answer, or the text of a generate answer, in OpenAI's shape."""
    inner = get(source, "message")
    message = source if inner is None else inner
    return {
        "role": get(message, "role"),
        "content": get(message, "content") or get(message, "response"),
        "reasoning_content": get(message, "thinking"),
        "tool_calls": items(get(message, "tool_calls")),
    }


CHAT = Operation(
    name="chat",
    read_request=read_request,
    request_attributes=request_attributes,
    classify_chunk=classify_chunk,
    chunk_text=chunk_text,
    read_chunks=read_chunks,
    read_response=read_response,
    tool_definitions=tool_definitions,
    input_messages=chat_input,
    output_messages=output_messages,
)
GENERATE = replace(CHAT, name="text_completion", system_instructions=system_text, input_messages=generate_input)
EMBED = replace(
    CHAT,
    name="embeddings",
    input_messages=lambda request: None,
    output_messages=lambda answer, streamed: None,
)


def _sent_to(path: str) -> Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Mapping[str, Any] | None]:
    """The body of a request to ``path``: ``_request(type, "POST", path, json=..., stream=...)``."""
    return lambda client, args, kwargs: kwargs.get("json") if args[2:3] == (path,) else None


# Not the public methods: ``ollama.chat`` and its like are bound to a client before anything can be put in their place.
OLLAMA = Provider(
    hooks=tuple(
        Method(module="ollama._client", path=f"{client}._request", operation=operation, body=_sent_to(path), lazy=True)
        for client in ("Client", "AsyncClient")
        for path, operation in (
            ("/api/chat", CHAT),
            ("/api/generate", GENERATE),
            ("/api/embed", EMBED),
            ("/api/embeddings", EMBED),
        )
    ),
    provider_name=lambda client, host: "ollama",
    senders=lambda client: [client._client],
    base_url=lambda client: client._client.base_url,
)
