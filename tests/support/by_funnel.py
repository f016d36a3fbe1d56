"""Clients that Stainless generated, behind the same verbs as the others, and their servers' answers."""

from __future__ import annotations

import importlib
import inspect
import json
import operator
from collections.abc import Sequence
from typing import Any

from tests.support.by_method import MODEL, TIMEOUT, WORDS, Driver
from tests.support.replay import USAGE, Script, completion, json_answer, openai_chunks, sse

KEY = "sk-sentinel-key"
MESSAGES = [{"role": "user", "content": "PROMPT-SENTINEL"}]


class Stainless(Driver):
    """OpenAI's shape, unless a subclass says otherwise."""

    package = ""
    names = ("", "")
    """The synchronous and the asynchronous client class."""
    prefix = "/v1"
    """The beginning of paths that is part of the base URL, not of the client's paths."""
    resource = "chat.completions"
    sent: dict[str, Any] = {"messages": MESSAGES}
    """The request's arguments besides the model and the stream flag."""
    settings: dict[str, Any] = {}
    """Settings of the client class, where its version knows them."""

    def make(self) -> Any:
        client_class = getattr(importlib.import_module(self.package), self.names[self.kind == "async"])
        url = self.url + self.prefix
        known_settings = {k: v for k, v in self.settings.items() if k in inspect.signature(client_class).parameters}
        return client_class(api_key=KEY, base_url=url, max_retries=self.attempts - 1, timeout=TIMEOUT, **known_settings)

    def run(self, action: Any, *args: Any) -> Any:
        async def make_client() -> Any:  # the asynchronous clients want their loop running when they are made
            return action(*args)

        if self.loop is not None and action == self.make:
            return self.loop.run_until_complete(make_client())
        return super().run(action, *args)

    def ask(self, streaming: bool, way: str = "") -> Any:
        """``way``: what stands between the resource and ``create``, if anything: ``with_raw_response``."""
        create = operator.attrgetter(".".join(filter(None, (self.resource, way, "create"))))(self.client)
        return create(model=MODEL, **self.sent, **({"stream": True} if streaming else {}))

    def close(self, stream: Any) -> None:
        self.run(stream.close)

    def shut(self) -> None:
        self.run(self.client.close)
        super().shut()

    def refusal(self, status: int = 429) -> Script:
        return json_answer(
            {"type": "error", "error": {"type": "x", "message": "slow down"}},
            status=status,
            headers={"retry-after-ms": "5"},
        )

    def whole(self, **extra: Any) -> Script:
        return json_answer(completion("".join(WORDS), usage=extra.pop("usage", USAGE), **extra))

    def events(self, words: Sequence[str] = WORDS, usage: bool = True, **extra: Any) -> list[bytes]:
        return sse(*(chunk | extra for chunk in openai_chunks(words, USAGE if usage else None)))


class OpenAI(Stainless):
    name = package = "openai"
    names = ("OpenAI", "AsyncOpenAI")


class Completions(OpenAI):
    """The older API."""

    resource, sent = "completions", {"prompt": "PROMPT-SENTINEL"}

    def answer_body(self, text: str, finish: str | None = None, **extra: Any) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": MODEL, "choices": [choice], **extra}

    def whole(self, **extra: Any) -> Script:
        usage = extra.pop("usage", USAGE)
        return json_answer(
            self.answer_body("".join(WORDS), "stop", **({} if usage is None else {"usage": usage}), **extra)
        )

    def events(self, words: Sequence[str] = WORDS, usage: bool = True, **extra: Any) -> list[bytes]:
        chunks = [*(self.answer_body(word) for word in words), self.answer_body("", "stop")]
        if usage:
            chunks.append(self.answer_body("") | {"choices": [], "usage": USAGE})
        return sse(*(chunk | extra for chunk in chunks))


class Responses(OpenAI):
    finish = "completed"
    resource, sent = "responses", {"input": "PROMPT-SENTINEL"}

    def state(self, status: str, words: Sequence[str] = (), usage: Any = None, **extra: Any) -> dict[str, Any]:
        part = {"type": "output_text", "text": "".join(words), "annotations": []}
        item = {"type": "message", "id": "m", "role": "assistant", "status": status, "content": [part]}
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 1.0,
            "model": MODEL,
            "status": status,
            "output": [item] if words else [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": usage,
            **extra,
        }

    counts = {
        "input_tokens": 40,
        "input_tokens_details": {"cached_tokens": 16},
        "output_tokens": 6,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 46,
    }

    def whole(self, **extra: Any) -> Script:
        return json_answer(self.state("completed", WORDS, extra.pop("usage", self.counts), **extra))

    def events(self, words: Sequence[str] = WORDS, usage: bool = True, **extra: Any) -> list[bytes]:
        end = self.state("completed", words, self.counts if usage else None)
        delta = {"type": "response.output_text.delta", "item_id": "m", "output_index": 0, "content_index": 0}
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": self.state("in_progress")},
            {"type": "response.in_progress", "response": self.state("in_progress")},
            *({**delta, "delta": word, "logprobs": []} for word in words),
            {"type": "response.completed", "response": end},
        ]
        return typed_events(*({"sequence_number": i, **event, **extra} for i, event in enumerate(events)))


class Anthropic(Stainless):
    name = package = "anthropic"
    names = ("Anthropic", "AsyncAnthropic")
    prefix = ""
    finish = "end_turn"
    resource, sent = "messages", {"max_tokens": 9, "messages": MESSAGES}
    counts = {"input_tokens": 20, "cache_read_input_tokens": 16, "cache_creation_input_tokens": 4}

    def message(self, **changes: Any) -> dict[str, Any]:
        blank = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": []}
        return blank | {"stop_reason": None, "stop_sequence": None} | changes

    def whole(self, **extra: Any) -> Script:
        usage = {} if extra.pop("usage", True) is None else {"usage": self.counts | {"output_tokens": 6}}
        content = [{"type": "text", "text": "".join(WORDS)}]
        return json_answer(self.message(content=content, stop_reason=self.finish, **usage, **extra))

    def events(self, words: Sequence[str] = WORDS, usage: bool = True, **extra: Any) -> list[bytes]:
        first_usage = {"usage": self.counts | {"output_tokens": 1}} if usage else {}
        last_usage = {"usage": {"output_tokens": 6}} if usage else {}
        delta = {"type": "content_block_delta", "index": 0}
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": self.message(**first_usage)},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            *({**delta, "delta": {"type": "text_delta", "text": word}} for word in words),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": self.finish, "stop_sequence": None}, **last_usage},
            {"type": "message_stop"},
        ]
        return typed_events(*(event | extra for event in events))


class AnthropicBeta(Anthropic):
    resource = "beta.messages"


class Groq(Stainless):
    name = package = "groq"
    names = ("Groq", "AsyncGroq")
    prefix = ""


class Together(Stainless):
    name = package = "together"
    names = ("Together", "AsyncTogether")
    prefix = ""


class Cerebras(Stainless):
    name = "cerebras"
    package = "cerebras.cloud.sdk"
    names = ("Cerebras", "AsyncCerebras")
    prefix = ""
    settings = {"warm_tcp_connection": False}


class Fireworks(Stainless):
    name = package = "fireworks"
    names = ("Fireworks", "AsyncFireworks")
    prefix = ""


def typed_events(*events: dict[str, Any]) -> list[bytes]:
    """Server-sent events that say their type in a line of its own."""
    return [f"event: {e['type']}\ndata: {json.dumps(e, ensure_ascii=False)}\n\n".encode() for e in events]


DRIVERS: tuple[type[Stainless], ...] = (
    OpenAI,
    Completions,
    Responses,
    Anthropic,
    AnthropicBeta,
    Groq,
    Together,
    Cerebras,
    Fireworks,
)
