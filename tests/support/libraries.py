"""Client libraries that are patched method by method, behind one set of verbs, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Sequence
from typing import Any

from tests.support import ndjson
from tests.support import replay as play
from tests.support.replay import USAGE, Replay, Script
from tests.support.spans import SECRETS

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network for a price list at import

PROMPT, _, KEY = SECRETS
MESSAGES: list[Any] = [{"role": "user", "content": PROMPT}]
WORDS = ("Hel", "lo", " there", ",", " you", " two")
TIMEOUT = 5.0


class Library:
    """One library: how to make a client and a call, and what its server would send."""

    name = ""
    client = ""
    """As ``llmtrace.instrument`` knows it."""
    provider = ""
    model = "gpt-4o-mini"
    lazy = False
    """Its streams send the request when they are first read."""

    def __init__(self, server: Replay, kind: str) -> None:
        self.server, self.kind = server, kind
        self.made: Any = None
        """The client made last: some of them take their streams down with them."""
        self.loop = asyncio.new_event_loop() if kind == "async" else None

    # What it is asked.

    def call(self, **changes: Any) -> Any:
        raise NotImplementedError

    def whole(self, **changes: Any) -> Any:
        return self.run(self.call(**changes))

    def stream(self, **changes: Any) -> Any:
        return self.run(self.call(stream=True, **changes))

    # What its server sends.

    def answers(self, said: str = "Hello there, you two") -> Script:
        return play.openai_body(said)

    def streams(self, words: Sequence[str] = WORDS, *, usage: bool = True, **pace: Any) -> Script:
        return play.openai_stream(words, USAGE if usage else None, **pace)

    def malformed(self) -> Script:
        return play.malformed_chunk()

    # Pulling.

    def run(self, value: Any) -> Any:
        if self.loop is None:
            return value

        async def awaited() -> Any:
            return await value

        return self.loop.run_until_complete(awaited())

    def pull(self, stream: Any) -> Any:
        return next(stream) if self.loop is None else self.run(anext(stream))

    def drain(self, stream: Any) -> list[Any]:
        if self.loop is None:
            return list(stream)

        async def all_of_it() -> list[Any]:
            return [item async for item in stream]

        return self.run(all_of_it())

    def close(self, stream: Any) -> None:
        stream.close() if self.loop is None else self.run(stream.aclose())

    def collect(self) -> None:
        gc.collect()
        if self.loop is not None:
            for _ in range(3):
                self.run(asyncio.sleep(0))
            gc.collect()

    def shut(self) -> None:
        if self.loop is not None:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    def dump(self, item: Any) -> Any:
        """An item as plain data, but for what the library stamps on it anew each time."""
        return item.model_dump() if hasattr(item, "model_dump") else item


class Ollama(Library):
    name = client = provider = "ollama"
    model = ndjson.MODEL
    lazy = True

    def call(self, **changes: Any) -> Any:
        import ollama

        make = ollama.Client if self.loop is None else ollama.AsyncClient
        self.made = make(host=self.server.url, timeout=changes.pop("timeout", TIMEOUT))
        return self.made.chat(**{"model": self.model, "messages": MESSAGES} | changes)

    def answers(self, said: str = "Hello there, you two") -> Script:
        return ndjson.whole(said)

    def streams(self, words: Sequence[str] = WORDS, *, usage: bool = True, **pace: Any) -> Script:
        return ndjson.stream(words, end=None if usage else {}, **pace)

    def malformed(self) -> Script:
        script = ndjson.stream(WORDS[:3])
        return Script(200, ndjson.HEADERS, [*script.parts[:-1], (0.0, b'{"model": "llama3.2", "mess\n')])


class HuggingFace(Library):
    name = client = provider = "huggingface"

    def call(self, **changes: Any) -> Any:
        from huggingface_hub import AsyncInferenceClient, InferenceClient

        make = InferenceClient if self.loop is None else AsyncInferenceClient
        self.made = make(base_url=self.server.base_url, api_key=KEY, timeout=changes.pop("timeout", TIMEOUT))
        return self.made.chat_completion(**{"model": self.model, "messages": MESSAGES} | changes)


class LiteLLM(Library):
    """Through OpenAI's client."""

    name = "litellm"
    client = "litellm"
    provider = "openai"
    model = "openai/gpt-4o-mini"

    def call(self, **changes: Any) -> Any:
        import litellm

        litellm.suppress_debug_info = True
        function = litellm.completion if self.loop is None else litellm.acompletion
        place = {"api_base": self.server.base_url, "api_key": KEY, "max_retries": 0, "timeout": TIMEOUT}
        return function(**{"model": self.model, "messages": MESSAGES} | place | changes)

    def dump(self, item: Any) -> Any:
        return super().dump(item) | {"created": None}


class LiteLLMHandler(LiteLLM):
    """Through a handler of LiteLLM's own."""

    name = "litellm-groq"
    provider = "groq"
    model = "groq/llama"


LIBRARIES: tuple[type[Library], ...] = (Ollama, HuggingFace, LiteLLM, LiteLLMHandler)
