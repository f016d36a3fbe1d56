"""Clients whose streams are as lazy or as managed as they please, behind the same verbs as the others."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from tests.support import by_funnel, ndjson
from tests.support.by_method import MODEL, TIMEOUT, WORDS, Driver
from tests.support.replay import USAGE, Part, Script, completion, json_answer, openai_chunks, sse

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network for a price list at import

KEY = "sk-sentinel-key"
MESSAGES: list[Any] = [{"role": "user", "content": "PROMPT-SENTINEL"}]


class Ollama(Driver):
    name = "ollama"
    cached = None
    phases = {"queue", "prefill", "decode"}  # the server tells them
    exempt = {"test_retried": "the client does not retry"}

    def make(self) -> Any:
        import ollama

        return (ollama.Client if self.kind == "sync" else ollama.AsyncClient)(host=self.url, timeout=TIMEOUT)

    def ask(self, streaming: bool) -> Any:
        return self.client.chat(model=MODEL, messages=MESSAGES, stream=streaming)

    def last_fields(self, usage: bool) -> dict[str, Any]:
        return ndjson.DURATIONS | (ndjson.COUNTS if usage else {})

    def whole(self, **extra: Any) -> Script:
        counts = self.last_fields(extra.pop("usage", True) is not None)
        return json_answer(ndjson.line("/api/chat", "".join(WORDS), done=True, **counts, **extra))

    def events(self, words: Sequence[str] = WORDS, usage: bool = True, **extra: Any) -> list[bytes]:
        word_lines = [ndjson.line("/api/chat", word, **extra) for word in words]
        return ndjson.lines([*word_lines, ndjson.line("/api/chat", "", done=True, **self.last_fields(usage), **extra)])

    def script(self, parts: Sequence[Part], **more: Any) -> Script:
        return Script(200, ndjson.HEADERS, parts, **more)

    def malformed(self) -> bytes:
        return b'{"model": "a-model", "mess\n'


class HuggingFace(Driver):
    name = "huggingface"
    exempt = {"test_retried": "the client does not retry its inference calls"}

    def make(self) -> Any:
        from huggingface_hub import AsyncInferenceClient, InferenceClient

        client_class = InferenceClient if self.kind == "sync" else AsyncInferenceClient
        return client_class(base_url=f"{self.url}/v1", api_key=KEY, timeout=TIMEOUT)

    def ask(self, streaming: bool) -> Any:
        return self.client.chat_completion(model=MODEL, messages=MESSAGES, stream=streaming)

    def plain(self, item: Any) -> Any:
        return dict(item)

    def whole(self, **extra: Any) -> Script:
        return json_answer(completion("".join(WORDS), usage=extra.pop("usage", USAGE), **extra))

    def events(self, words: Sequence[str] = WORDS, usage: bool = True, **extra: Any) -> list[bytes]:
        return sse(*(chunk | extra for chunk in openai_chunks(words, USAGE if usage else None)))


class LiteLLM(HuggingFace):
    """Through OpenAI's client."""

    name = "litellm"
    exempt = {}
    model = f"openai/{MODEL}"

    def make(self) -> Any:
        import litellm

        litellm.suppress_debug_info = True
        keeps_usage = hasattr(litellm.CustomStreamWrapper, "_record_usage_only_chunk")
        self.asked = {} if keeps_usage else {"stream_options": {"include_usage": True}}  # an older one drops it
        return litellm

    def ask(self, streaming: bool) -> Any:
        function = self.client.completion if self.kind == "sync" else self.client.acompletion
        place = {"api_base": f"{self.url}/v1", "api_key": KEY, "timeout": TIMEOUT} | (self.asked if streaming else {})
        return function(model=self.model, messages=MESSAGES, stream=streaming, **place, **self.retries())

    def retries(self) -> dict[str, Any]:
        return {"max_retries": self.attempts - 1}

    def plain(self, item: Any) -> Any:
        return item.model_dump() | {"created": None, "id": None}  # stamped anew each time

    def settle(self) -> None:
        getattr(self.client, "error_logs", {}).clear()  # where an older one keeps its last stream until the next call
        super().settle()

    def close(self, stream: Any) -> None:  # not in every version
        close = getattr(stream, "aclose" if self.loop else "close", None)
        if close is not None:
            self.run(close)


class LiteLLMHandler(LiteLLM):
    """Through a handler of LiteLLM's own."""

    model = f"groq/{MODEL}"
    exempt = {"test_retried": "its handlers do not retry; LiteLLM's retries are test_litellm.py's"}

    def retries(self) -> dict[str, Any]:
        return {"max_retries": 0}


class LiteLLMResponses(LiteLLM):
    """The Responses API, of a model whose stream LiteLLM passes on as it comes."""

    model = "openai/gpt-4o"
    finish = "completed"
    exempt = {"test_retried": "its handlers do not retry"}

    def ask(self, streaming: bool) -> Any:
        function = self.client.responses if self.kind == "sync" else self.client.aresponses
        place = {"api_base": f"{self.url}/v1", "api_key": KEY, "timeout": TIMEOUT}
        return function(model=self.model, input="PROMPT-SENTINEL", stream=streaming, **place)

    def answers(self) -> by_funnel.Responses:
        return by_funnel.Responses.__new__(by_funnel.Responses)

    def whole(self, **extra: Any) -> Script:
        return self.answers().whole(**extra)

    def events(self, words: Sequence[str] = WORDS, usage: bool = True, **extra: Any) -> list[bytes]:
        return self.answers().events(words, usage, **extra)


class LiteLLMMessages(LiteLLM):
    """Anthropic's Messages API, of a model that LiteLLM asks through another one: a stream of bytes."""

    model = f"groq/{MODEL}"
    finish = "end_turn"
    exempt = {
        "test_retried": "its handlers do not retry",
        "test_missing_usage_and_unknown_fields": "its translation fails where an answer has no usage",
    }

    def ask(self, streaming: bool) -> Any:
        messages = self.client.anthropic.messages
        function = messages.create if self.kind == "sync" else messages.acreate
        place = {"api_base": f"{self.url}/v1", "api_key": KEY, "timeout": TIMEOUT}
        return function(model=self.model, messages=MESSAGES, max_tokens=9, stream=streaming, **place)

    def plain(self, item: Any) -> Any:
        return re.sub(rb"msg_[-0-9a-f]+", b"", item) if isinstance(item, bytes) else item


LITELLM_APIS: tuple[type[Driver], ...] = (LiteLLMResponses, LiteLLMMessages)
DRIVERS: tuple[type[Driver], ...] = (Ollama, HuggingFace, LiteLLM, LiteLLMHandler)
