"""LiteLLM's other APIs: Responses, images, audio and moderation in OpenAI's shape, Messages in Anthropic's, whatever
model answers.

A stream of Messages comes as bytes: server-sent events, as the provider sent them or as LiteLLM writes them, one or
several in a piece, and a piece may end inside an event.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmtrace import conventions
from llmtrace.observe.answer import Answer, Usage
from llmtrace.observe.call import NOTHING, OUTPUT, REASONING
from llmtrace.providers import anthropic, openai_media, responses
from llmtrace.providers.declare import Operation, Request
from llmtrace.providers.event_stream import events_in
from llmtrace.providers.safe import get, items

_WORDS = ((b"thinking_delta", REASONING), (b"signature_delta", REASONING), (b"content_block_delta", OUTPUT))
"""By which a piece with no whole event in it is known."""


# --- Responses ----------------------------------------------------------------------------------------------------
def _in_its_own_names(usage: Any) -> Any:
    """A usage that LiteLLM has turned into that of a chat completion, which it does with a stream's at its end."""
    if get(usage, "prompt_tokens") is None:
        return usage
    renamed = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens"}
    details = {f"{name}_details": get(usage, f"{theirs}_details") for name, theirs in renamed.items()}
    return {name: get(usage, theirs) for name, theirs in renamed.items()} | details


def _unwrapped(given: str | None) -> str | None:
    """The provider's own id of a response, from the one that LiteLLM makes of it: with the deployment's, in base64."""
    if given is None or not given.startswith("resp_"):
        return given
    try:
        made = b64decode(given.removeprefix("resp_"), validate=True).decode()
    except ValueError:
        return given
    _, known, own = made.partition(";response_id:")
    return own if known and made.startswith("litellm:") else given


def _request_attributes(request: Request) -> dict[str, Any]:
    attributes = responses.RESPONSES.request_attributes(request)
    if previous := _unwrapped(attributes.get(conventions.PREVIOUS_RESPONSE)):
        attributes[conventions.PREVIOUS_RESPONSE] = previous
    return attributes


def _read_response(response: Any, headers: Mapping[str, str] | None) -> Answer:
    """The answer in a whole response, without a usage of zeros, which nobody reported (no prompt has 0 tokens)."""
    answer = responses.read_response(response, headers)
    answer.id = _unwrapped(answer.id)
    usage = _in_its_own_names(get(response, "usage"))
    answer.usage = responses.read_usage(usage) if get(usage, "input_tokens") else Usage()
    return answer


def _read_response_chunks(chunks: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    answer = responses.read_chunks(chunks, headers)
    answer.id = _unwrapped(answer.id)
    states = [state for chunk in chunks if (state := get(chunk, "response")) is not None]
    if states:
        answer.usage = _read_response(states[-1], headers).usage
    return answer


RESPONSES = replace(
    responses.RESPONSES,
    path="",
    request_attributes=_request_attributes,
    read_chunks=_read_response_chunks,
    read_response=_read_response,
)


# --- Images, audio, moderation ------------------------------------------------------------------------------------
def _media(operation: Operation) -> Operation:
    return replace(
        operation,
        path="",
        read_response=lambda response, headers: _reported(operation.read_response(response, headers)),
    )


MEDIA = tuple(map(_media, openai_media.MEDIA))


# --- Messages -----------------------------------------------------------------------------------------------------
def _events(chunks: Sequence[Any]) -> list[Any]:
    """The events of a stream, from its pieces; of those that are not bytes each is an event."""
    body = b"".join(chunk for chunk in chunks if isinstance(chunk, bytes))
    return [event for _, event in events_in(body)] + [chunk for chunk in chunks if not isinstance(chunk, bytes)]


def _classify_piece(piece: Any) -> int:
    kinds = [anthropic.classify_chunk(event) for event in _events([piece])]
    if not kinds and isinstance(piece, bytes):
        return next((kind for word, kind in _WORDS if word in piece), NOTHING)
    return OUTPUT if OUTPUT in kinds else max(kinds, default=NOTHING)


def _piece_text(piece: Any) -> tuple[str, int | None]:
    return "".join(anthropic.chunk_text(event)[0] for event in _events([piece])), None


def _reported(answer: Answer) -> Answer:
    """``answer`` without a usage of zeros, and with the provider's own id."""
    answer.id = _unwrapped(answer.id)
    if not answer.usage.input_tokens:
        answer.usage = Usage()
    return answer


def _read_pieces(chunks: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    return _reported(anthropic.read_chunks(_events(chunks), headers))


def _read_message(response: Any, headers: Mapping[str, str] | None) -> Answer:
    return _reported(anthropic.read_response(response, headers))


MESSAGES = replace(
    anthropic.MESSAGES,
    path="",
    classify_chunk=_classify_piece,
    chunk_text=_piece_text,
    read_chunks=_read_pieces,
    read_response=_read_message,
    output_messages=lambda answer, streamed: anthropic.MESSAGES.output_messages(
        _events(items(answer)) if streamed else answer, streamed
    ),
)
