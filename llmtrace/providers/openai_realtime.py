"""OpenAI's Realtime API: events over a websocket, each response a call.

Field names: openai-python's ``types/realtime`` and ``types/beta/realtime``, whose events have other names for the same.
The operation's name is the one that the GenAI conventions are getting after v0.1.0 (their page on realtime spans).
Sound is not kept: of items and events only text and transcripts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmtrace import conventions
from llmtrace.observe.answer import Answer, Usage
from llmtrace.observe.call import CANCELLED, COMPLETED, ERROR
from llmtrace.providers import realtime_transcription as transcription
from llmtrace.providers import responses
from llmtrace.providers.declare import BEGIN, CHUNK, END, REFUSED, Conversation, Mark, Opened, Protocol, Request
from llmtrace.providers.failures import named
from llmtrace.providers.safe import by_modality, count, fields, get, items, sampling, text

_SETTINGS = (
    *("instructions", "tools", "max_output_tokens", "max_response_output_tokens", "output_modalities", "modalities"),
    *("reasoning", "temperature"),
)
_SESSIONS = ("session.created", "session.updated", "transcription_session.created", "transcription_session.updated")
_MOST_ITEMS = 256
"""Items of one request that are kept for the next call."""
_OUTCOMES = {"cancelled": CANCELLED, "failed": ERROR}


class _Realtime(Protocol):
    """The events of one connection."""

    def __init__(self, model: str | None, transcribes: bool = False) -> None:
        self._settings: dict[str, Any] = {"model": model}
        self._transcribes = transcribes
        """Whether the session only transcribes."""
        self._items: list[dict[str, Any]] = []
        self._last_sent: str | None = None
        """Type of the last event sent, sound left out."""

    def sent(self, event: Any) -> Mark | None:
        event = _parsed(event)
        kind = text(get(event, "type"))
        if kind != "input_audio_buffer.append":
            self._last_sent = kind
        if kind == "conversation.item.create" and len(self._items) < _MOST_ITEMS:
            self._items.append(_without_sound(get(event, "item")))
        if kind != "response.create":
            return None
        return Mark(BEGIN, text(get(event, "event_id")) or "", body={**self.body(), **_set(get(event, "response"))})

    def received(self, event: Any) -> Mark | None:
        event = _parsed(event)
        kind = text(get(event, "type")) or ""
        if kind in _SESSIONS:
            session = get(event, "session")
            self._settings |= _set(session)
            self._transcribes = self._transcribes or transcription.transcribes(kind, session)
            model = transcription.model_of(session) if self._transcribes else text(get(session, "model"))
            self._settings["model"] = model or self._settings["model"]
        elif self._transcribes:
            return transcription.mark(kind, event, self._settings["model"])
        elif kind == "response.done":
            response = get(event, "response")
            outcome = _OUTCOMES.get(text(get(response, "status")) or "", COMPLETED)
            return Mark(END, text(get(response, "id")) or "", outcome=outcome, event=event)
        elif kind.startswith("response."):
            answer = text(get(event, "response_id")) or text(get(get(event, "response"), "id")) or ""
            return Mark(CHUNK, answer, event=event, content=not kind.endswith("audio.delta")) if answer else None
        elif kind == "error":
            about = text(get(get(event, "error"), "event_id"))
            # One that names no event is about the last.
            return Mark(REFUSED, about or "", event=event) if about or self._last_sent == "response.create" else None
        return None

    def body(self) -> Mapping[str, Any]:
        asked, self._items = self._items, []
        return {**self._settings, "input": asked}


def _parsed(event: Any) -> Any:
    """An event as the client's object or a mapping; of one that is text or bytes, what its JSON says."""
    if not isinstance(event, (str, bytes, bytearray)):
        return event
    try:
        return json.loads(event)
    except (ValueError, RecursionError):
        return None


def _set(settings: Any) -> dict[str, Any]:
    """What a session, or one request, sets."""
    return {name: value for name in _SETTINGS if (value := get(settings, name)) is not None}


def _without_sound(item: Any) -> dict[str, Any]:
    """An item of the conversation, as far as it is text."""
    kept = {
        name: value
        for name in ("type", "role", "call_id", "name", "arguments", "output")
        if (value := text(get(item, name)))
    }
    parts = [_text_part(part) for part in items(get(item, "content"))]
    return {**kept, "content": parts} if parts else kept


def _text_part(part: Any) -> dict[str, Any]:
    written, spoken = text(get(part, "text")), text(get(part, "transcript"))
    if written or not spoken:
        return {"type": text(get(part, "type")) or "text"} | ({"text": written} if written else {})
    return {"type": "text", "text": spoken}


def _request_attributes(request: Request) -> dict[str, Any]:
    params = request.params
    limits = {"max_output_tokens": "max_tokens", "max_response_output_tokens": "max_tokens"}
    attributes = sampling({name: params[name] for name in (*limits, "temperature") if name in params}, limits)
    if effort := text(get(params.get("reasoning"), "effort")):
        attributes[conventions.REASONING_LEVEL] = effort
    if modalities := items(params.get("output_modalities") or params.get("modalities")):
        attributes[conventions.OUTPUT_TYPE] = "speech" if "audio" in modalities else "text"
    return attributes


def _chunk_text(event: Any) -> tuple[str, int | None]:
    kind = text(get(event, "type")) or ""
    return ("", None) if kind.endswith("audio.delta") else responses.chunk_text(event)


def _read_usage(usage: Any) -> Usage:
    inputs, outputs = get(usage, "input_token_details"), get(usage, "output_token_details")
    return Usage(
        input_tokens=count(get(usage, "input_tokens")),
        output_tokens=count(get(usage, "output_tokens")),
        cached_tokens=count(get(inputs, "cached_tokens")),
        reasoning_tokens=count(get(outputs, "reasoning_tokens")),
        input_by_modality=by_modality(inputs),
        output_by_modality=by_modality(outputs),
        cached_by_modality=by_modality(get(inputs, "cached_tokens_details")),
    )


def _read_chunks(events: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    """The answer in the last state of the response, and in the error that came instead of one."""
    answer = Answer()
    for event in events:
        response = get(event, "response")
        if response is not None:
            answer = _read_response(response, headers)
        elif get(event, "type") == "error":
            answer.failed = named(get(event, "error")) or "error"
        else:
            answer.id = answer.id or text(get(event, "response_id"))
    return answer


def _read_response(response: Any, headers: Mapping[str, str] | None) -> Answer:
    answer = Answer(id=text(get(response, "id")), usage=_read_usage(get(response, "usage")))
    status, details = text(get(response, "status")), get(response, "status_details")
    if status == "failed":
        answer.failed = named(get(details, "error")) or "failed"
    if status is not None and status != "in_progress":
        answer.finish_reasons = (text(get(details, "reason")) or status,)
    if conversation := text(get(response, "conversation_id")):
        answer.extra = {conventions.CONVERSATION: conversation}
    return answer


def _output(answer: Sequence[Any] | Any, streamed: bool) -> list[dict[str, Any]]:
    """The message received, from the response's last state; of one that never came to it, from its text deltas."""
    events = items(answer) if streamed else [{"response": answer}]
    states = [state for event in events if (state := get(event, "response")) is not None]
    written = [_without_sound(item) for item in items(get(states[-1], "output"))] if states else []
    messages = responses.RESPONSES.input_messages(Request(None, True, {"input": written}))
    parts = [part for message in messages for part in message["parts"]]
    if not parts and (said := "".join(_chunk_text(event)[0] for event in events)):
        parts = [{"type": "text", "content": said}]
    end = _read_response(states[-1], None).finish_reasons if states else ()
    return [{"role": "assistant", "parts": parts, "finish_reason": end[0] if end else "error"}]


REALTIME = replace(
    responses.RESPONSES,
    name="realtime_inference",
    path="",
    request_attributes=_request_attributes,
    chunk_text=_chunk_text,
    read_chunks=_read_chunks,
    read_response=_read_response,
    output_messages=_output,
)


def _opened(manager: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Opened | None:
    """The conversation that a connection manager has opened; what it was made with stands in private attributes."""
    made_with = {name.partition("__")[2]: value for name, value in fields(manager).items() if "__" in name}
    client = made_with.get("client")
    if client is None:
        return None
    return Opened(client, getattr(client, "websocket_base_url", None), _Realtime(text(made_with.get("model"))))


def _first(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The first argument: the event that a method sends."""
    return args[0] if args else next(iter(kwargs.values()), None)


def _of(module: str) -> Conversation:
    kinds = ("", "Async")
    return Conversation(
        module=module,
        opens=tuple(
            f"{kind}RealtimeConnectionManager.{name}" for kind in kinds for name in ("__enter__", "__aenter__", "enter")
        ),
        opened=_opened,
        sends=tuple(f"{kind}RealtimeConnection.{name}" for kind in kinds for name in ("send", "send_raw")),
        sent=_first,
        receives=tuple(f"{kind}RealtimeConnection.{name}" for kind in kinds for name in ("recv", "recv_bytes")),
        closes=tuple(f"{kind}RealtimeConnection.close" for kind in kinds),
        operation=REALTIME,
    )


def _opened_by_agents(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Opened:
    """The conversation over a connection that a model of the Agents SDK has opened."""
    url = text(kwargs.get("url")) or text(next(iter(args), None))
    return Opened(model, url, _Realtime(text(get(model, "model"))))


def _taken_by_agents(session: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Opened:
    """The conversation over a connection by which the Agents SDK has speech transcribed."""
    client = get(session, "_client")
    return Opened(client, getattr(client, "base_url", None), _Realtime(text(get(session, "_model")), transcribes=True))


def _by_agents(module: str, opened: Any, opens: str = "", takes: str = "") -> Conversation:
    """The Agents SDK has no connection of openai's beneath, but one of websockets'."""
    return Conversation(
        module=f"agents.{module}",
        opens=(opens,) if opens else (),
        takes=(takes,) if takes else (),
        opened=opened,
        sends=("websockets.ClientConnection.send",),
        sent=_first,
        receives=("websockets.ClientConnection.recv",),
        closes=("websockets.ClientConnection.close",),
        operation=REALTIME,
    )


CONVERSATIONS = (
    *(_of(f"openai.resources.{place}realtime.realtime") for place in ("", "beta.")),
    _by_agents(
        "realtime.openai_realtime",
        _opened_by_agents,
        opens="OpenAIRealtimeWebSocketModel._create_websocket_connection",
    ),
    _by_agents("voice.models.openai_stt", _taken_by_agents, takes="OpenAISTTTranscriptionSession._setup_connection"),
)
