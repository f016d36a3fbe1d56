"""OpenAI's images, audio and moderation: plain calls, whose engines tell nothing that a phase could be made of.

The GenAI conventions (v0.1.0) name none of these operations; the names are ours. Field names: openai-python's
``types/images_response``, ``types/image_gen_completed_event``, ``types/audio``, ``types/moderation_create_response``.
Of what is sent and answered only the model, counts and ids are read: no prompt, no sound, no picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmtrace import conventions
from llmtrace.observe.answer import Answer, Usage
from llmtrace.observe.call import NOTHING, OUTPUT
from llmtrace.providers.declare import Operation, Request
from llmtrace.providers.event_stream import events_in
from llmtrace.providers.safe import by_modality, count, extras, fields, get, text
from llmtrace.providers.timings import read_timings


def _read_request(body: Mapping[str, Any]) -> Request:
    streaming = body.get("stream") is True or body.get("stream_format") == "sse"
    return Request(model=text(body.get("model")), streaming=streaming, params=body)


def _request_attributes(output: str | None) -> Callable[[Request], dict[str, Any]]:
    """``output``: ``gen_ai.output.type`` of the operation, where it has one."""

    def request_attributes(request: Request) -> dict[str, Any]:
        attributes: dict[str, Any] = {} if output is None else {conventions.OUTPUT_TYPE: output}
        wanted = count(request.params.get("n"))
        if wanted is not None and wanted != 1:
            attributes[conventions.CHOICE_COUNT] = wanted
        return attributes

    return request_attributes


def _read_usage(usage: Any) -> Usage:
    """The token counts; some models bill the sound's seconds instead, and then there are none."""
    inputs = get(usage, "input_tokens_details") or get(usage, "input_token_details")
    return Usage(
        input_tokens=count(get(usage, "input_tokens")),
        output_tokens=count(get(usage, "output_tokens")),
        cached_tokens=count(get(inputs, "cached_tokens")),
        input_by_modality=by_modality(inputs),
        output_by_modality=by_modality(get(usage, "output_tokens_details")),
    )


def _read_response(response: Any, headers: Mapping[str, str] | None) -> Answer:
    usage = get(response, "usage")
    return Answer(
        id=text(get(response, "id")),
        model=text(get(response, "model")),
        usage=_read_usage(usage),
        timings=read_timings(extras(response), fields(usage), headers),
    )


def _read_chunks(chunks: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    """The answer in the last event, which has the usage."""
    return _read_response(chunks[-1] if chunks else None, headers)


_LAST_BYTES = 4096
"""Of a body of events, what the last of them fits into."""


def _read_speech(response: Any, headers: Mapping[str, str] | None) -> Answer:
    """The answer with the sound; where that came as events and was read whole, the one in the last of them, which has
    no sound: the others are long, and are not read."""
    body = get(get(response, "response"), "_content")
    if isinstance(body, bytes) and body.startswith((b"event:", b"data:")):
        return _read_chunks([event for _, event in events_in(body[-_LAST_BYTES:])], headers)
    return _read_response(response, headers)


def _classify_text(event: Any) -> int:
    return OUTPUT if get(event, "type") == "transcript.text.delta" and get(event, "delta") else NOTHING


def _operation(
    name: str, path: str, output: str | None = None, classify_chunk: Callable[[Any], int] | None = None
) -> Operation:
    """``classify_chunk``: given where the pieces of an answer are tokens of a model."""
    return Operation(
        name=name,
        path=path,
        read_request=_read_request,
        request_attributes=_request_attributes(output),
        classify_chunk=classify_chunk or (lambda event: NOTHING),
        in_tokens=classify_chunk is not None,
        read_chunks=_read_chunks,
        read_response=_read_response,
    )


MEDIA = (
    *(
        _operation("image_generation", f"/images/{path}", output="image")
        for path in ("generations", "edits", "variations")
    ),
    replace(_operation("text_to_speech", "/audio/speech", output="speech"), read_response=_read_speech),
    _operation("transcription", "/audio/transcriptions", output="text", classify_chunk=_classify_text),
    _operation("translation", "/audio/translations", output="text"),
    _operation("moderation", "/moderations"),
)
