"""Hugging Face's InferenceClient: chat completions in OpenAI's shape, and text generation in that of its own server.

Field names: huggingface_hub's ``inference/_generated/types``. What a call returns decides what can be read: text
generation without ``details=True`` returns text and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmtrace.observe.answer import Answer, Usage
from llmtrace.observe.call import NOTHING, OUTPUT
from llmtrace.providers.declare import Method, Operation, Provider, Request
from llmtrace.providers.messages import user_message
from llmtrace.providers.openai import CHAT
from llmtrace.providers.safe import count, get, sampling, text
from llmtrace.providers.timings import read_timings


def text_request_attributes(request: Request) -> dict[str, Any]:
    """The conventions' attributes of a text generation's parameters."""
    return sampling(request.params, {"max_new_tokens": "max_tokens"})


def classify_text_chunk(chunk: Any) -> int:
    """``OUTPUT`` for text, and for a token that is not special (an end of sequence, say); else ``NOTHING``."""
    if isinstance(chunk, str):
        return OUTPUT if chunk else NOTHING
    token = get(chunk, "token")
    return OUTPUT if get(token, "text") and get(token, "special") is not True else NOTHING


def _text_of_chunk(chunk: Any) -> tuple[str, int | None]:
    """The text of a chunk, and its token count: with details each chunk is one token."""
    if isinstance(chunk, str):
        return chunk, None
    token_text = text(get(get(chunk, "token"), "text"))
    return token_text or "", 1 if token_text else None


def read_text_chunks(chunks: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    """The answer in the last item of a detailed stream."""
    return read_text(chunks[-1] if chunks else None, headers)


def read_text(response: Any, headers: Mapping[str, str] | None) -> Answer:
    """The answer in a detailed generation, and the server's timings, which are in its headers."""
    details = get(response, "details")
    reason = text(get(details, "finish_reason"))
    return Answer(
        finish_reasons=(reason,) if reason else (),
        usage=Usage(
            input_tokens=count(get(details, "input_length")), output_tokens=count(get(details, "generated_tokens"))
        ),
        timings=read_timings({}, {}, headers),
    )


def text_input(request: Request) -> list[dict[str, Any]]:
    """The prompt sent, as a message."""
    return user_message(request.params.get("prompt"))


def text_output(answer: Sequence[Any] | Any, streamed: bool) -> list[dict[str, Any]]:
    """The text received, as a message."""
    if streamed:
        written = "".join(
            chunk if isinstance(chunk, str) else text(get(get(chunk, "token"), "text")) or "" for chunk in answer
        )
        end = get(get(answer[-1], "details"), "finish_reason") if answer else None
    else:
        written = answer if isinstance(answer, str) else text(get(answer, "generated_text")) or ""
        end = get(get(answer, "details"), "finish_reason")
    parts = [{"type": "text", "content": written}] if written else []
    return [{"role": "assistant", "parts": parts, "finish_reason": text(end) or "stop"}]


TEXT = Operation(
    name="text_completion",
    read_request=CHAT.read_request,
    request_attributes=text_request_attributes,
    classify_chunk=classify_text_chunk,
    chunk_text=_text_of_chunk,
    read_chunks=read_text_chunks,
    read_response=read_text,
    input_messages=text_input,
    output_messages=text_output,
)
EMBED = Operation(
    name="embeddings",
    read_request=CHAT.read_request,
    request_attributes=lambda request: {},
    classify_chunk=lambda chunk: NOTHING,
    read_chunks=lambda chunks, headers: Answer(),
    read_response=lambda response, headers: Answer(timings=read_timings({}, {}, headers)),
)

_Body = Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Mapping[str, Any] | None]


def _arguments(first: str) -> _Body:
    """A call's arguments as one mapping. Where the model is a URL, the model's name is None."""

    def body(client: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        model = text(kwargs.get("model")) or text(client.model)
        if model is not None and _is_url(model):
            model = None
        return {**dict(zip((first,), args, strict=False)), **kwargs, "model": model}

    return body


def _is_url(model: str) -> bool:
    return model.startswith(("http://", "https://"))


def base_url(client: Any) -> str | None:
    """The URL that the client was given as its model; None for a hosted provider, which the first attempt shows."""
    model = text(client.model)
    return model if model is not None and _is_url(model) else None


def provider_name(client: Any, host: str | None) -> str:
    """The inference provider that the client was made for, by the conventions' name; ``huggingface`` by default."""
    provider = text(getattr(client, "provider", None))
    if provider is None or provider in ("auto", "hf-inference"):
        return "huggingface"
    return _PROVIDERS.get(provider, provider)


def _senders(client: Any) -> list[Any]:
    """An asynchronous client's own HTTP client, or the one that all others share."""
    if hasattr(client, "_async_client"):
        return [client._async_client]
    return [sys.modules["huggingface_hub.utils"].get_session()]


_PROVIDERS = {"fireworks-ai": "fireworks_ai", "together": "together_ai"}
_METHODS = (
    ("chat_completion", CHAT, "messages"),
    ("text_generation", TEXT, "prompt"),
    ("feature_extraction", EMBED, "text"),
)
_CLIENTS = (
    ("huggingface_hub.inference._client", "InferenceClient"),
    ("huggingface_hub.inference._generated._async_client", "AsyncInferenceClient"),
)

HUGGINGFACE = Provider(
    hooks=tuple(
        Method(module=module, path=f"{client}.{name}", operation=operation, body=_arguments(first))
        for module, client in _CLIENTS
        for name, operation, first in _METHODS
    ),
    provider_name=provider_name,
    senders=_senders,
    base_url=base_url,
)
