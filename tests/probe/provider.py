"""A provider over real sockets whose every answer is settled by the test: what it refuses, counts and keeps."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.replay import Replay, Request, Script, json_answer

MODEL = "scripted-1"


@dataclass
class Provider:
    """Answers chat requests with so many tokens as asked for; a prompt's tokens are its words."""

    refuse: Callable[[Mapping[str, Any]], tuple[int, str] | None] = lambda body: None
    """The status and message that a request is refused with; None: it is answered."""
    usage: bool = True
    block: int | None = 16
    """Tokens per block of its prefix cache; None: it does not count cached tokens."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    answer: str = "one"
    delay: Callable[[int], float] = lambda tokens: 0.0
    """Seconds to the first token for so many new prompt tokens."""
    pace: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    answered: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Prompt and answer tokens of each call that was answered."""
    _seen: set[str] = field(default_factory=set[str])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def serve(self, server: Replay) -> None:
        """Stand behind this server's addresses."""
        server.serve(json_answer({"object": "list", "data": [{"id": MODEL, "object": "model"}]}), "/v1/models")
        server.serve(self.handle, "/v1/chat/completions")

    def handle(self, request: Request) -> Script:
        """Answer one request."""
        body = request.json
        with self._lock:
            self.bodies.append(body)
        refusal = self.refuse(body)
        if refusal is not None:
            status, message = refusal
            return json_answer({"error": {"message": message, "type": "scripted"}}, status=status, headers=self.headers)
        text = body["messages"][0]["content"]
        words = text.split()
        cached = 0 if self.block is None else self._cached(words, self.block)
        count = body.get("max_tokens") or body.get("max_completion_tokens")
        chunks: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": {"content": f"{self.answer} "}, "finish_reason": None}]}
            for _ in range(count)
        ]
        with self._lock:
            self.answered.append((len(words), count))
        if self.usage and body.get("stream_options"):
            counts: dict[str, Any] = {"prompt_tokens": len(words), "completion_tokens": count}
            if self.block is not None:
                counts["prompt_tokens_details"] = {"cached_tokens": cached}
            chunks.append({"choices": [], "usage": counts | {"total_tokens": len(words) + count}})
        whole = [
            b"data: "
            + json.dumps({"id": "c", "object": "chat.completion.chunk", "model": MODEL, "created": 1} | c).encode()
            for c in chunks
        ]
        parts = [(self.pace, event + b"\n\n") for event in whole] + [(0.0, b"data: [DONE]\n\n")]
        parts[0] = (self.delay(len(words) - cached), parts[0][1])
        return Script(headers={"content-type": "text/event-stream", **self.headers}, parts=parts)

    def _cached(self, words: list[str], block: int) -> int:
        """Blocks at the beginning that an earlier prompt had too; those of this one are kept."""
        beginnings = [" ".join(words[:at]) for at in range(block, len(words), block)]
        with self._lock:
            known = next((i for i, each in enumerate(beginnings) if each not in self._seen), len(beginnings))
            self._seen.update(beginnings)
        return known * block
