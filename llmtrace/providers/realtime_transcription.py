"""Sessions of OpenAI's Realtime API that transcribe only: each stretch of speech that is committed is a call.

Field names: openai-python's ``types/realtime/conversation_item_input_audio_transcription_*_event`` and
``realtime_transcription_session_create_response``. As of all transcriptions no content is captured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmtrace.observe.answer import Answer
from llmtrace.observe.call import COMPLETED, ERROR, NOTHING, OUTPUT
from llmtrace.providers import openai_media
from llmtrace.providers.declare import CHUNK, END, Mark
from llmtrace.providers.failures import named
from llmtrace.providers.safe import get, text

_COMMITTED = "input_audio_buffer.committed"
_PIECES = "conversation.item.input_audio_transcription."
_ENDS = {"completed": COMPLETED, "failed": ERROR}


def transcribes(kind: str, session: Any) -> bool:
    """Whether a session, of which an event of that ``kind`` tells, only transcribes."""
    return kind.startswith("transcription_session.") or text(get(session, "type")) == "transcription"


def model_of(session: Any) -> str | None:
    """The model that transcribes in a session."""
    heard = get(get(get(session, "audio"), "input"), "transcription") or get(session, "input_audio_transcription")
    return text(get(heard, "model"))


def mark(kind: str, event: Any, model: str | None) -> Mark | None:
    """What an event of that ``kind`` means in such a session."""
    item = text(get(event, "item_id"))
    if item is None or not (kind == _COMMITTED or kind.startswith(_PIECES)):
        return None
    outcome = _ENDS.get(kind.removeprefix(_PIECES))
    kind = CHUNK if outcome is None else END
    return Mark(kind, item, {"model": model}, outcome or COMPLETED, event, operation=TRANSCRIPTION)


def _classify_chunk(event: Any) -> int:
    return OUTPUT if get(event, "type") == f"{_PIECES}delta" and get(event, "delta") else NOTHING


def _read_chunks(events: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    """The answer in the last event, which has the usage or the error."""
    last = events[-1] if events else None
    answer = _WHOLE.read_response(last, headers)
    answer.id = text(get(last, "item_id"))
    if (error := get(last, "error")) is not None:
        answer.failed = named(error) or "failed"
    return answer


_WHOLE = next(operation for operation in openai_media.MEDIA if operation.name == "transcription")
TRANSCRIPTION = replace(_WHOLE, path="", classify_chunk=_classify_chunk, read_chunks=_read_chunks)
