"""Gemini Live (google-genai's ``client.aio.live``): a conversation over a websocket, each turn of the model a call.

Field names: google-genai's ``types.py`` (LiveServerMessage, LiveServerContent, UsageMetadata). Its answers have no ids:
one is under way at a time. A turn ends where the model has said all, was interrupted, or waits for a function's result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmtrace import conventions
from llmtrace.observe.answer import Answer
from llmtrace.observe.call import CANCELLED, COMPLETED, NOTHING, OUTPUT
from llmtrace.providers import google_genai
from llmtrace.providers.declare import BEGIN, CHUNK, END, Conversation, Mark, Opened, Protocol, Request
from llmtrace.providers.safe import fields, get, items, text

_RENAMED = {"response_token_count": "candidates_token_count", "response_tokens_details": "candidates_tokens_details"}
"""Fields of a conversation's usage, and what the same is called for a single answer."""

_MOST_CONTENTS = 256
"""Contents of one request that are kept for the next call."""


class _Live(Protocol):
    """The messages of one session. What is sent here is a method's name and its arguments."""

    def __init__(self, model: str | None, config: Any) -> None:
        self._model, self._config = model, config
        self._contents: list[Any] = []
        self._asked = self._answering = False
        """An answer was asked for and has not begun; one has begun and not ended."""
        self._interrupted = False
        """The turn's end is still to come, of an answer that was cut off."""

    def sent(self, event: Any) -> Mark | None:
        name, arguments = event
        asks = _asks(name, arguments)
        said = [value for key in ("turns", "input", "text", "function_responses") if (value := arguments.get(key))]
        self._contents += [content for value in said for content in (items(value) or (value,))]
        del self._contents[:-_MOST_CONTENTS]
        if not asks or self._asked:
            return None
        self._asked = True
        return Mark(BEGIN, body=self.body())

    def received(self, event: Any) -> Mark | None:
        content = get(event, "server_content")
        brings = _classify_chunk(event) != NOTHING
        if get(content, "interrupted"):
            self._interrupted = True
            return self._end(event, CANCELLED) if self._answering else None
        if get(content, "turn_complete"):
            late, self._interrupted = self._interrupted and not brings, False
            return None if late else self._end(event, COMPLETED)
        if get(event, "tool_call") is not None:
            return self._end(event, COMPLETED)
        if not brings and not (self._answering and _tells(event)):
            return None
        self._asked, self._answering, self._interrupted = False, True, False
        return Mark(CHUNK, event=event, content=_is_written(event))

    def body(self) -> Mapping[str, Any]:
        said, self._contents = self._contents, []
        return {"model": self._model, "config": self._config, "contents": said}

    def _end(self, event: Any, outcome: str) -> Mark | None:
        known = self._answering or self._asked or _classify_chunk(event) != NOTHING
        if not self._answering:
            self._asked = False
        self._answering = False
        return Mark(END, outcome=outcome, event=event) if known else None


def _asks(name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether what is sent ends the user's turn. Spoken words do not: when they end, the server decides."""
    if name == "send_client_content":
        return arguments.get("turn_complete", True) is not False
    if name == "send_realtime_input":
        return arguments.get("activity_end") is not None or bool(arguments.get("text"))
    return name == "send_tool_response" or (name == "send" and bool(arguments.get("end_of_turn")))


def _as_answer(message: Any) -> dict[str, Any]:
    """A message as the answer of a single request has it."""
    content = get(message, "server_content")
    usage = get(message, "usage_metadata")
    answer: dict[str, Any] = {"candidates": [{"content": get(content, "model_turn")}]}
    if usage is not None:
        answer["usage_metadata"] = {_RENAMED.get(name, name): value for name, value in fields(usage).items()}
    return answer


def _spoken(message: Any) -> str:
    """What the model said, as the server wrote it down."""
    return text(get(get(get(message, "server_content"), "output_transcription"), "text")) or ""


def _classify_chunk(message: Any) -> int:
    if _spoken(message) or get(message, "tool_call") is not None:
        return OUTPUT
    return google_genai.GENERATE.classify_chunk(_as_answer(message))


def _tells(message: Any) -> bool:
    """Whether a message without output belongs to the answer all the same."""
    return get(message, "usage_metadata") is not None or bool(
        get(get(message, "server_content"), "generation_complete")
    )


def _is_written(message: Any) -> bool:
    """Whether there is more in a message than sound."""
    parts = items(get(get(get(message, "server_content"), "model_turn"), "parts"))
    return not parts or any(get(part, "inline_data") is None for part in parts)


def _chunk_text(message: Any) -> tuple[str, int | None]:
    spoken, chunk_text = _spoken(message), google_genai.GENERATE.chunk_text
    return spoken or (chunk_text(_as_answer(message))[0] if chunk_text is not None else ""), None


def _read_chunks(messages: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    answer = google_genai.GENERATE.read_chunks([_as_answer(message) for message in messages], headers)
    for message in messages:
        content = get(message, "server_content")
        if get(content, "interrupted"):
            answer.finish_reasons = ("interrupted",)
        elif get(content, "turn_complete"):
            answer.finish_reasons = (text(get(content, "turn_complete_reason")) or "turn_complete",)
        elif get(message, "tool_call") is not None:
            answer.finish_reasons = ("tool_call",)
    return answer


def _request_attributes(request: Request) -> dict[str, Any]:
    config = request.params.get("config")
    sources = (fields(get(config, "generation_config")), fields(config))
    merged = {name: value for source in sources for name, value in source.items() if value is not None}
    attributes = google_genai.GENERATE.request_attributes(replace(request, params={"config": merged}))
    modalities = [text(modality) for modality in items(merged.get("response_modalities"))]
    if modalities:
        attributes[conventions.OUTPUT_TYPE] = "speech" if "AUDIO" in modalities else "text"
    return attributes


def _output(messages: Sequence[Any] | Any, streamed: bool) -> list[dict[str, Any]]:
    """The message received: its text, what was said in words, and the functions called."""
    written: list[dict[str, Any]] = []
    for message in items(messages):
        turn = get(get(message, "server_content"), "model_turn")
        parts = [part for part in items(get(turn, "parts")) if get(part, "inline_data") is None]
        if spoken := _spoken(message):
            parts.append({"text": spoken})
        parts += [{"function_call": call} for call in items(get(get(message, "tool_call"), "function_calls"))]
        if parts:
            written.append({"candidates": [{"content": {"parts": parts}}]})
    (output,) = google_genai.GENERATE.output_messages(written, True)
    return [output | {"finish_reason": (_read_chunks(items(messages), None).finish_reasons or ("error",))[0]}]


LIVE = replace(
    google_genai.GENERATE,
    name="realtime_inference",
    request_attributes=_request_attributes,
    classify_chunk=_classify_chunk,
    chunk_text=_chunk_text,
    ends=None,
    read_chunks=_read_chunks,
    input_messages=lambda request: (
        google_genai.GENERATE.input_messages(request) if request.params.get("contents") else []
    ),
    output_messages=_output,
)


def _opened(live: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Opened:
    return Opened(live, None, _Live(text(kwargs.get("model")), kwargs.get("config")))


_SENDS = ("send", "send_client_content", "send_realtime_input", "send_tool_response")
CONVERSATION = Conversation(
    module="google.genai.live",
    opens=("AsyncLive.connect",),
    opened=_opened,
    sends=tuple(f"AsyncSession.{name}" for name in _SENDS),
    sent=lambda name, args, kwargs: (name, kwargs),
    receives=("AsyncSession._receive",),
    closes=("AsyncSession.close",),
    operation=LIVE,
)
