"""LiteLLM's other two APIs: Responses in OpenAI's shape, Messages in Anthropic's, whatever model answers.

A stream of Messages comes as bytes: server-sent events, as the provider sent them or as LiteLLM writes them, one or
several in a piece, and a piece may end inside an event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmtrace.observe.answer import Answer, Usage
from llmtrace.observe.call import NOTHING, OUTPUT, REASONING
from llmtrace.providers import anthropic, responses
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


def _read_response(response: Any, headers: Mapping[str, str] | None) -> Answer:
    """The answer in a whole response, without a usage of zeros, which nobody reported (no prompt has 0 tokens)."""
    answer = responses.read_response(response, headers)
    usage = _in_its_own_names(get(response, "usage"))
    answer.usage = responses.read_usage(usage) if get(usage, "input_tokens") else Usage()
    return answer


def _read_response_chunks(chunks: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    answer = responses.read_chunks(chunks, headers)
    states = [state for chunk in chunks if (state := get(chunk, "response")) is not None]
    if states:
        answer.usage = _read_response(states[-1], headers).usage
    return answer


RESPONSES = replace(responses.RESPONSES, path="", read_chunks=_read_response_chunks, read_response=_read_response)


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
    """``answer`` without a usage of zeros."""
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
