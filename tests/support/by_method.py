"""Clients that are patched method by method, behind the same verbs, and their servers' answers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import gc
import importlib.util
import inspect
import json
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from tests.support.replay import SSE_HEADERS, USAGE, Part, Script, completion, event, json_answer, openai_chunks, sse

MODEL = "a-model"
TIMEOUT = 30.0
"""s. For every client: none takes so long, however busy the machine is."""
WORDS = ("Hel", "lo", " thére", " 🎈", "!")
EVENT_STREAM = {"content-type": "application/vnd.amazon.eventstream", "x-amzn-requestid": "r-1"}


class Driver:
    """One client library. A stream handle is whatever the client returned."""

    name = ""
    kinds: tuple[str, ...] = ("sync", "async")
    finish = "stop"
    usage: tuple[int, int] = (40, 6)
    """Input and output tokens in the server's answer."""
    cached: int | None = 16
    phases = {"queue_prefill", "decode"}
    """The phases that its streams have at least."""
    exempt: dict[str, str] = {}
    """Tests of the shared suite that do not apply to it, and why."""

    def __init__(self, kind: str, url: str, attempts: int = 1) -> None:
        self.kind, self.url, self.attempts = kind, url, attempts
        self.loop = asyncio.new_event_loop() if kind == "async" else None
        self.client = self.run(self.make) if self.loop else self.make()

    # What the client is and does.
    def make(self) -> Any: ...
    def ask(self, streaming: bool) -> Any: ...
    def iterate(self, stream: Any) -> Any:
        return stream

    def plain(self, item: Any) -> Any:
        return item.model_dump()

    def close(self, stream: Any) -> None:
        self.run(stream.aclose) if self.loop else stream.close()

    # Its server's answers.
    def whole(self, **extra: Any) -> Script: ...
    def events(self, words: Sequence[str] = WORDS, usage: bool = True, **extra: Any) -> list[bytes]: ...
    def script(self, parts: Sequence[Part], **more: Any) -> Script:
        return Script(200, SSE_HEADERS, parts, **more)

    def malformed(self) -> bytes:
        """An event that nobody can read."""
        return event(b'{"broken')

    def refusal(self, status: int = 429) -> Script:
        return json_answer({"message": "slow down", "error": {"code": status, "message": "x"}}, status=status)

    # Verbs.
    def run(self, action: Callable[..., Any], *args: Any) -> Any:
        result = action(*args)
        if self.loop is None:
            return result
        return self.loop.run_until_complete(result) if asyncio.iscoroutine(result) else result

    def call(self) -> Any:
        return self.plain(self.run(self.ask, False))

    def stream(self) -> Any:
        return self.run(self.ask, True)

    def pull(self, iterator: Any) -> Any:
        async def next_item() -> Any:  # begun inside the loop: that is whose hook closes a generator that is let go of
            return await anext(iterator)

        return self.loop.run_until_complete(next_item()) if self.loop else next(iterator)

    def drain(self, stream: Any) -> list[Any]:
        async def all_of() -> list[Any]:
            return [self.plain(item) async for item in self.iterate(stream)]

        if self.loop:
            return self.loop.run_until_complete(all_of())
        return [self.plain(item) for item in self.iterate(stream)]

    def read(self) -> None:
        """Read a whole stream, without looking at what it brings."""
        stream = self.stream()

        async def all_of() -> None:
            async for _ in self.iterate(stream):
                pass

        if self.loop:
            self.loop.run_until_complete(all_of())
            return
        for _ in self.iterate(stream):
            pass

    def settle(self) -> None:
        """Let go of what is only held in cycles, and let the loop close, step by step, what it was handed."""
        from llmtrace.observe.call import open_calls

        for _ in range(100):
            gc.collect()
            if not open_calls():
                return
            if self.loop is None:
                time.sleep(0.01)  # what another thread of the client's still holds
            else:
                self.loop.run_until_complete(asyncio.sleep(0.01))

    def shut(self) -> None:
        if self.loop is not None:
            tasks = asyncio.all_tasks(self.loop)  # some libraries leave workers of theirs behind
            for task in tasks:
                task.cancel()
            if tasks:
                self.loop.run_until_complete(asyncio.wait(tasks))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


class Mistral(Driver):
    name = "mistralai"

    def make(self) -> Any:
        try:
            from mistralai.client import Mistral as Client
            from mistralai.client.utils import BackoffStrategy, RetryConfig
        except ImportError:  # before 2.0
            from mistralai import Mistral as Client
            from mistralai.models import UsageInfo
            from mistralai.utils import BackoffStrategy, RetryConfig

            if UsageInfo.model_config.get("extra") != "allow":
                self.cached = None  # an older client drops what its models do not have

        retry = RetryConfig("backoff", BackoffStrategy(5, 10, 1.0, 60_000 if self.attempts > 1 else 0), True)
        return Client(api_key="sk-sentinel-key", server_url=self.url, retry_config=retry if self.attempts > 1 else None)

    def ask(self, streaming: bool) -> Any:
        chat = self.client.chat
        method = {"sync": (chat.complete, chat.stream), "async": (chat.complete_async, chat.stream_async)}[self.kind]
        return method[streaming](model=MODEL, messages=[{"role": "user", "content": "PROMPT-SENTINEL"}])

    def close(self, stream: Any) -> None:
        if hasattr(stream, "close"):
            self.run(stream.close)
        else:  # an older one's stream cannot be closed itself
            self.run(stream.response.aclose if self.loop else stream.response.close)

    def whole(self, **extra: Any) -> Script:
        usage = {} if extra.pop("usage", USAGE) is None else USAGE  # a whole answer without is no answer to the client
        return json_answer(completion("".join(WORDS), usage=usage, **extra))

    def events(self, words: Sequence[str] = WORDS, usage: bool = True, **extra: Any) -> list[bytes]:
        chunks = openai_chunks(words, USAGE if usage else None)
        return sse(*(chunk | extra for chunk in chunks))


class Google(Driver):
    name = "google-genai"
    finish = "STOP"
    usage = (1200, 444)
    cached = 1024

    def make(self) -> Any:
        from google import genai

        options: dict[str, Any] = {"base_url": self.url}
        if "retry_options" in genai.types.HttpOptions.model_fields:
            options["retry_options"] = {"attempts": self.attempts, "initial_delay": 0.01, "max_delay": 0.02}
        return genai.Client(api_key="sk-sentinel-key", http_options=options)

    def ask(self, streaming: bool) -> Any:
        models = self.client.models if self.kind == "sync" else self.client.aio.models
        method = models.generate_content_stream if streaming else models.generate_content
        return method(model=MODEL, contents="PROMPT-SENTINEL")

    def plain(self, item: Any) -> Any:
        return item.model_dump(exclude={"sdk_http_response"})

    def answer_chunk(self, text: str, last: bool = False, usage: bool = True, **extra: Any) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
        body: dict[str, Any] = {"candidates": [candidate], "modelVersion": MODEL, "responseId": "id-1", **extra}
        if last:
            candidate["finishReason"] = "STOP"
        if last and usage:
            body["usageMetadata"] = {
                "promptTokenCount": 1200,
                "cachedContentTokenCount": 1024,
                "candidatesTokenCount": 32,
                "thoughtsTokenCount": 412,
                "totalTokenCount": 1644,
            }
        return body

    def whole(self, **extra: Any) -> Script:
        return json_answer(self.answer_chunk("".join(WORDS), True, extra.pop("usage", True) is not None, **extra))

    def events(self, words: Sequence[str] = WORDS, usage: bool = True, **extra: Any) -> list[bytes]:
        last = len(words) - 1
        return sse(*(self.answer_chunk(word, i == last, usage, **extra) for i, word in enumerate(words)), done=False)


class Cohere(Driver):
    name = "cohere"
    exempt = {"test_retried[stream]": "the client does not retry its streams"}
    finish = "COMPLETE"
    usage = (7, 6)
    cached = 4

    def make(self) -> Any:
        import cohere

        client_class = cohere.ClientV2 if self.kind == "sync" else cohere.AsyncClientV2
        retries = (
            {"max_retries": self.attempts - 1} if "max_retries" in inspect.signature(client_class).parameters else {}
        )
        return client_class("sk-sentinel-key", base_url=self.url, **retries)

    def ask(self, streaming: bool) -> Any:
        method = self.client.chat_stream if streaming else self.client.chat
        return method(model=MODEL, messages=[{"role": "user", "content": "PROMPT-SENTINEL"}])

    def counts(self) -> dict[str, Any]:
        billed = {"input_tokens": 7, "output_tokens": 6}
        return {"billed_units": billed, "tokens": {"input_tokens": 69, "output_tokens": 6}, "cached_tokens": 4}

    def whole(self, **extra: Any) -> Script:
        message = {"role": "assistant", "content": [{"type": "text", "text": "".join(WORDS)}]}
        body = {"id": "id-1", "message": message, "finish_reason": "COMPLETE"}
        usage = {} if extra.pop("usage", True) is None else {"usage": self.counts()}
        return json_answer(body | usage | extra)

    def events(self, words: Sequence[str] = WORDS, usage: bool = True, **extra: Any) -> list[bytes]:
        ended: dict[str, Any] = {"finish_reason": "COMPLETE"} | ({"usage": self.counts()} if usage else {})
        start = {"message": {"role": "assistant", "content": []}}
        return sse(
            {"id": "id-1", "type": "message-start", "delta": start, **extra},
            {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}},
            *(
                {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": word}}}, **extra}
                for word in words
            ),
            {"type": "content-end", "index": 0},
            {"type": "message-end", "delta": ended},
        )


def aws_event(kind: str, payload: Any, message: str = "event") -> bytes:
    """One message of an AWS event stream: prelude, headers, payload, both checksums."""
    headers = b""
    name = ":event-type" if message == "event" else ":exception-type"
    for key, value in ((name, kind), (":content-type", "application/json"), (":message-type", message)):
        headers += struct.pack("!B", len(key)) + key.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()
    data = json.dumps(payload, ensure_ascii=False).encode()
    prelude = struct.pack("!II", 16 + len(headers) + len(data), len(headers))
    prelude += struct.pack("!I", zlib.crc32(prelude))
    whole = prelude + headers + data
    return whole + struct.pack("!I", zlib.crc32(whole))


class Bedrock(Driver):
    name = "bedrock"
    kinds = ("sync",)
    finish = "end_turn"
    usage = (20, 6)
    cached = 12
    counts = {"inputTokens": 8, "outputTokens": 6, "totalTokens": 26, "cacheReadInputTokens": 12}
    converses = True

    def make(self) -> Any:
        import boto3

        return self.adapted(boto3.client("bedrock-runtime", **self.settings()))

    def settings(self) -> dict[str, Any]:
        from botocore.config import Config

        retries = {"total_max_attempts": self.attempts, "mode": "standard"}
        return {
            "region_name": "us-east-1",
            "endpoint_url": self.url,
            "aws_access_key_id": "a",
            "aws_secret_access_key": "sk-sentinel-key",
            "config": Config(retries=retries, read_timeout=TIMEOUT),
        }

    def adapted(self, client: Any) -> Any:
        usage_members = client.meta.service_model.shape_for("TokenUsage").members
        if self.converses and "cacheReadInputTokens" not in usage_members:  # an older client drops unknown fields
            self.usage, self.cached = (8, 6), None
        return client

    def ask(self, streaming: bool) -> Any:
        method = self.client.converse_stream if streaming else self.client.converse
        return method(modelId=MODEL, messages=[{"role": "user", "content": [{"text": "PROMPT-SENTINEL"}]}])

    def plain(self, item: Any) -> Any:
        return {name: value for name, value in item.items() if name != "ResponseMetadata"}

    def of(self, answer: Any) -> Any:
        """The stream in an answer."""
        return answer["stream"] if "stream" in answer else answer["body"]

    def iterate(self, stream: Any) -> Any:
        return iter(self.of(stream))

    def close(self, stream: Any) -> None:
        self.of(stream).close()

    def whole(self, **extra: Any) -> Script:
        message = {"role": "assistant", "content": [{"text": "".join(WORDS)}]}
        usage = {} if extra.pop("usage", True) is None else {"usage": self.counts}
        return json_answer({"output": {"message": message}, "stopReason": self.finish, **usage, **extra})

    def events(self, words: Sequence[str] = WORDS, usage: bool = True, **extra: Any) -> list[bytes]:
        metadata = {"metrics": {"latencyMs": 5}} | ({"usage": self.counts} if usage else {})
        return [
            aws_event("messageStart", {"role": "assistant", **extra}),
            *(aws_event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": word}}) for word in words),
            aws_event("contentBlockStop", {"contentBlockIndex": 0}),
            aws_event("messageStop", {"stopReason": self.finish}),
            aws_event("metadata", metadata | extra),
        ]

    def script(self, parts: Sequence[Part], **more: Any) -> Script:
        return Script(200, EVENT_STREAM, parts, **more)

    def malformed(self) -> bytes:
        return aws_event("chunk", {"bytes": "e30="})


class BedrockInvoke(Bedrock):
    """InvokeModel, with Anthropic's bodies."""

    converses = False
    body = json.dumps({"messages": [{"role": "user", "content": "PROMPT-SENTINEL"}], "max_tokens": 5})
    input_counts = {"input_tokens": 8, "cache_read_input_tokens": 12, "cache_creation_input_tokens": 0}

    def ask(self, streaming: bool) -> Any:
        method = self.client.invoke_model_with_response_stream if streaming else self.client.invoke_model
        answer = method(modelId=MODEL, body=self.body)
        return answer if streaming else answer | {"body": answer["body"].read()}

    def whole(self, **extra: Any) -> Script:
        usage = {} if extra.pop("usage", True) is None else {"usage": self.input_counts | {"output_tokens": 6}}
        content = [{"type": "text", "text": "".join(WORDS)}]
        return json_answer({"id": "id-1", "content": content, "stop_reason": self.finish, **usage, **extra})

    def events(self, words: Sequence[str] = WORDS, usage: bool = True, **extra: Any) -> list[bytes]:
        counts = {"usage": self.input_counts | {"output_tokens": 1}} if usage else {}
        ended = {"usage": {"output_tokens": 6}} if usage else {}
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": {"id": "id-1", "role": "assistant", "content": [], **counts}, **extra},
            *(
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
                for word in words
            ),
            {"type": "message_delta", "delta": {"stop_reason": self.finish}, **ended},
            {"type": "message_stop"},
        ]
        return [
            aws_event("chunk", {"bytes": base64.b64encode(json.dumps(event).encode()).decode()}) for event in events
        ]


@functools.cache
def aws_data() -> Any:
    """botocore's descriptions of services, read once: each asynchronous session would read its megabytes anew."""
    from botocore.loaders import create_loader

    return create_loader()


class AioBedrock(Bedrock):
    """Through aiobotocore, by aioboto3 where that is installed."""

    name = "aiobotocore"
    kinds = ("async",)

    async def make(self) -> Any:
        self.opened = contextlib.AsyncExitStack()
        return self.adapted(await self.opened.enter_async_context(self.context()))

    def context(self) -> Any:
        if importlib.util.find_spec("aioboto3"):
            import aioboto3

            return aioboto3.Session().client("bedrock-runtime", **self.settings())
        from aiobotocore.session import get_session

        session = get_session()
        session.register_component("data_loader", aws_data())
        return session.create_client("bedrock-runtime", **self.settings())

    def iterate(self, stream: Any) -> Any:
        return aiter(self.of(stream))

    def shut(self) -> None:
        self.run(self.opened.aclose)
        super().shut()


class AioBedrockInvoke(AioBedrock, BedrockInvoke):
    async def ask(self, streaming: bool) -> Any:
        if streaming:
            return await self.client.invoke_model_with_response_stream(modelId=MODEL, body=self.body)
        answer = await self.client.invoke_model(modelId=MODEL, body=self.body)
        return answer | {"body": await answer["body"].read()}


DRIVERS: tuple[type[Driver], ...] = (Mistral, Google, Cohere, Bedrock, BedrockInvoke, AioBedrock, AioBedrockInvoke)
