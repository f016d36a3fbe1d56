"""The answers of an Ollama server: one JSON object on each line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.support.replay import Delay, Part, Script

MODEL = "llama3.2"
HEADERS = {"content-type": "application/x-ndjson"}
COUNTS = {"prompt_eval_count": 40, "eval_count": 6}
DURATIONS = {
    "total_duration": 21_000_000,
    "load_duration": 4_000_000,
    "prompt_eval_duration": 7_000_000,
    "eval_duration": 9_000_000,
}
"""ns: 5 ms before the prompt is evaluated, of which 4 are the model's being made ready."""


def line(path: str, text: str, *, thinking: str = "", done: bool = False, **more: Any) -> dict[str, Any]:
    """One object of an answer of ``/api/chat`` or ``/api/generate``."""
    body: dict[str, Any] = {"model": MODEL, "created_at": "2026-11-24T19:00:00.000001Z", "done": done}
    if path == "/api/chat":
        body["message"] = {"role": "assistant", "content": text} | ({"thinking": thinking} if thinking else {})
    else:
        body |= {"response": text} | ({"thinking": thinking} if thinking else {})
    return body | ({"done_reason": "stop"} if done else {}) | more


def lines(objects: Iterable[Mapping[str, Any]]) -> list[bytes]:
    return [json.dumps(body, ensure_ascii=False).encode() + b"\n" for body in objects]


def stream(
    words: Sequence[str] = ("Hel", "lo", " there", ",", " you", " two"),
    *,
    path: str = "/api/chat",
    end: Mapping[str, Any] | None = None,
    ttft: Delay = 0.0,
    itl: Delay = 0.0,
    **fields: Any,
) -> Script:
    """A streamed answer; ``end``: what the last object says beside its being done."""
    last = line(path, "", done=True, **(COUNTS | DURATIONS if end is None else end))
    data = lines([*(line(path, word) for word in words), last])
    parts: list[Part] = [(ttft if not i else itl, piece) for i, piece in enumerate(data)]
    return Script(200, HEADERS, parts, **fields)


def whole(text: str = "Hello there, you two", *, path: str = "/api/chat", **fields: Any) -> Script:
    """An answer in one object."""
    data = lines([line(path, text, done=True, **COUNTS, **DURATIONS)])[0]
    return Script(200, {"content-type": "application/json"}, [(0.0, data)], chunked=False, **fields)
