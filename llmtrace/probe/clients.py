"""Sends a prompt through the user's own client, streamed, with the settings that the client itself takes from the
environment; what a provider refuses in a request is left out from then on."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from llmtrace.errors import LlmtraceError
from llmtrace.observe.address import host_of, is_private, without_credentials
from llmtrace.probe.answers import Answer, Live, Refusal, TooLong, TooShort
from llmtrace.probe.prompts import Prompt
from llmtrace.version import install_hint
from llmtrace.wording import clean

FEWEST = 2
"""Output tokens of a short answer: the first shows when the prompt was done, and the second that it was not all."""
_MOST_CHANGES = 6
_MOST_LEAST = 64
_TIMEOUT_S = 120.0
_TRANSPORTS = ("httpx", "httpx2", "httpcore", "httpcore2")
"""Whose errors the clients let through in the middle of a stream."""
_GARBLED = (ValueError, TypeError, AttributeError)
"""What the clients raise over an answer that is not of their API: a page, broken JSON, fields that are null."""
_AT_LEAST = re.compile(r"(?:at least|minimum|greater than(?: or equal to)?|>=|above|below)\D{0,40}?(\d+)", re.I)
_CONTEXT = re.compile(r"context|too long|too large|maximum.{0,30}length|exceeds?.{0,40}(limit|length|size)", re.I)


class Client(Protocol):
    """A way to a provider's chat API."""

    kind: str
    """The client library's name."""
    base_url: str
    model: str
    provider: str
    """``gen_ai.provider.name``."""
    least: int
    """The fewest output tokens that the provider lets one ask for."""

    @property
    def library(self) -> Any:
        """The library's own client, for what only one provider has."""
        ...

    def send(self, prompt: Prompt, tokens: int, live: Live | None = None) -> Answer:
        """Send a prompt and read the answer of at most so many tokens.

        Raises:
            TooLong: it does not fit the model's context.
            Refusal: the provider answers with an error, or not at all.
        """
        ...

    def offer_logprobs(self) -> None:
        """Ask for the first token's probability from now on, as long as the provider takes that."""
        ...

    def models(self) -> list[Any]:
        """The models that the provider lists, empty where it lists none."""
        ...

    def close(self) -> None:
        """Let the connections go."""
        ...


def open_client(kind: str | None, base_url: str | None, model: str | None) -> Client:
    """A client as the user's own program would make it.

    ``kind``: ``openai`` or ``anthropic``; None: by whose key is set. ``model``: None takes the only one listed.

    Raises:
        LlmtraceError: no key, no such client installed, or no model to be chosen.
        Refusal: the provider does not answer.
    """
    if base_url is not None and not base_url.strip():
        raise LlmtraceError("the base URL is empty: name one, or leave it out for the provider's own")
    if kind is None:
        anthropic = bool(os.environ.get("ANTHROPIC_API_KEY") or os.environ.get("ANTHROPIC_BASE_URL"))
        openai = bool(os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL"))
        kind = "anthropic" if anthropic and not openai else "openai"
    made: Client = Anthropic(base_url, model) if kind == "anthropic" else OpenAI(base_url, model)
    if not made.model:
        listed = [str(getattr(each, "id", each)) for each in made.models()]
        if len(listed) != 1:
            if not listed:
                where = shown(made.base_url)
                raise LlmtraceError(f"which model? {where} lists none: name one with --model, or check the base URL")
            raise LlmtraceError(f"which model? Name one with --model; it lists {_some(listed)}")
        made.model = listed[0]
    return made


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(clean(name, 80) for name in names[:most]) + (", ..." if len(names) > most else "")


class _Adapting:
    """Leaves out of a request what the provider refuses, and says what cannot be mended so."""

    least = FEWEST
    model: str
    base_url: str
    _failures: tuple[type[Exception], ...]
    _unreachable: type[Exception]
    _client: Any

    def __init__(self) -> None:
        self._left_out: set[str] = set()
        self._changes = 0

    @property
    def library(self) -> Any:
        """See ``Client.library``."""
        return self._client

    def send(self, prompt: Prompt, tokens: int, live: Live | None = None) -> Answer:
        """See ``Client.send``."""
        return self._until_taken(lambda: self._send(prompt, tokens, live))

    def _send(self, prompt: Prompt, tokens: int, live: Live | None) -> Answer:
        live = live or Live()
        sent = time.monotonic()
        stream = self._open(prompt, tokens)
        answer = Answer(sent=sent, end=sent, moments=live.moments)
        answer.headers = {key.lower(): value for key, value in stream.response.headers.items()}
        text: list[str] = []
        chunks = 0
        with stream:
            for chunk in stream:
                now = time.monotonic()
                chunks += 1
                self._read(chunk, now, answer, text)
                if live.done:
                    break
        self._heard(chunks, answer.headers)
        answer.end = time.monotonic()
        answer.text = "".join(text)
        return answer

    def _open(self, prompt: Prompt, tokens: int) -> Any:
        """The stream of the answer."""
        raise NotImplementedError

    def _read(self, chunk: Any, now: float, answer: Answer, text: list[str]) -> None:
        """Put what a chunk that came ``now`` tells into ``answer``, and its visible output into ``text``."""
        raise NotImplementedError

    def models(self) -> list[Any]:
        """See ``Client.models``."""
        try:
            return list(self._client.models.list())
        except self._failures as error:
            refusal = self._refusal(error)
            if refusal.status is None or refusal.status in (401, 403, 429):
                raise refusal from None
            return []
        except _GARBLED:  # a page, say
            return []

    def close(self) -> None:
        """See ``Client.close``."""
        self._client.close()

    def _until_taken(self, send: Callable[[], Answer]) -> Answer:
        while True:
            try:
                return send()
            except Exception as error:
                if not isinstance(error, self._failures):
                    if isinstance(error, _GARBLED):
                        raise self._garbled(type(error).__name__) from None
                    if type(error).__module__.partition(".")[0] not in _TRANSPORTS:
                        raise
                    raise Refusal(f"{shown(self.base_url)} broke off an answer ({type(error).__name__})") from None
                refusal = self._refusal(error)
                if refusal.status not in (400, 422) or self._changes >= _MOST_CHANGES:
                    raise refusal from None
                if _CONTEXT.search(str(refusal)) and "max_completion_tokens" not in str(refusal):
                    raise TooLong(str(refusal), refusal.status) from None
                self._changes += 1
                if self._lengthens(str(refusal)):
                    raise TooShort(str(refusal), refusal.status) from None
                if not self._leaves_out(str(refusal)):
                    raise refusal from None

    def _garbled(self, how: str) -> Refusal:
        return Refusal(f"{shown(self.base_url)} sends no answer of a chat API ({how}): check the base URL")

    def _heard(self, chunks: int, headers: Mapping[str, str]) -> None:
        """Refuse what had no chunk: a page of a web server, say, which the clients read as an empty stream."""
        if not chunks:
            kind = clean(headers.get("content-type") or "no content-type", 80)
            raise self._garbled(f"a stream without a chunk, {kind}")

    def _leaves_out(self, message: str) -> bool:
        """Leave out of the next request what was refused; False where there is no such thing."""
        for word, what in self._optional().items():
            if word in message and what not in self._left_out:
                self._left_out.add(what)
                return True
        return False

    def _lengthens(self, message: str) -> bool:
        """Ask for longer answers where these were too short for the provider."""
        asked = _AT_LEAST.search(message)
        if asked is None or "token" not in message or not self.least < int(asked[1]) + 1 <= _MOST_LEAST:
            return False
        self.least = max(self.least + 1, int(asked[1]))
        return True

    def _optional(self) -> Mapping[str, str]:
        return {"temperature": "temperature"}

    def _refusal(self, error: Exception) -> Refusal:
        status = getattr(error, "status_code", None)
        body: Any = getattr(error, "body", None)
        inner = body.get("error", body) if isinstance(body, dict) else None
        said = inner.get("message") if isinstance(inner, dict) else inner if isinstance(inner, str) else None
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
        text = clean(str(said or error), 300)
        if text.lstrip().startswith("<"):  # a page of something on the way
            text = getattr(getattr(error, "response", None), "reason_phrase", "") or "with a page"
        where = shown(self.base_url)
        after = _seconds(headers.get("retry-after"))
        if status in (None, 200) and not isinstance(error, self._unreachable):
            return Refusal(f"{where} ends a stream with an error: {text}", 200)
        if status is None:
            reason = clean(str(getattr(error, "__cause__", None) or error), 200)
            return Refusal(f"{where} cannot be reached ({reason}): check the base URL")
        if status in (401, 403):
            return Refusal(f"{where} refuses the key ({status}): {text}", status)
        if status == 404:
            return Refusal(f"{where} does not know {self.model} ({text}): name another model with --model", status)
        if status == 429:
            wait = "" if after is None else f" after {after:g} s"
            return Refusal(f"{where} limits the rate (429: {text}): try again{wait or ' later'}", status, after)
        return Refusal(f"{where} answers {status}: {text}", status, after)


class OpenAI(_Adapting):
    """The official openai client, for any server that speaks its chat API."""

    kind = "openai"

    def __init__(self, base_url: str | None, model: str | None) -> None:
        super().__init__()
        try:
            import openai
        except ImportError:
            raise LlmtraceError(f"openai is not installed: {install_hint('openai')}") from None
        self._failures, self._unreachable = (openai.APIError,), openai.APIConnectionError
        asked = base_url or os.environ.get("OPENAI_BASE_URL") or None
        private = asked is not None and is_private(host_of(asked))
        key = os.environ.get("OPENAI_API_KEY") or ("none" if private else None)
        try:
            self._client = openai.OpenAI(base_url=asked, api_key=key, max_retries=0, timeout=_TIMEOUT_S)
        except openai.OpenAIError:
            raise LlmtraceError("no key: set OPENAI_API_KEY (or ANTHROPIC_API_KEY, with --client anthropic)") from None
        from llmtrace.providers.openai import provider_name

        self.base_url = str(self._client.base_url)
        self.model = model or ""
        self.provider = provider_name(self._client, host_of(self.base_url))
        if not is_private(host_of(self.base_url)):
            self._left_out.add("ignore_eos")  # a field of engines that people run themselves
        self._left_out.add("logprobs")

    def offer_logprobs(self) -> None:
        """See ``Client.offer_logprobs``."""
        self._left_out.discard("logprobs")

    def _optional(self) -> Mapping[str, str]:
        return {
            "max_completion_tokens": "max_tokens",
            "temperature": "temperature",
            "ignore_eos": "ignore_eos",
            "logprobs": "logprobs",
            "stream_options": "stream_options",
            "include_usage": "stream_options",
        }

    def _open(self, prompt: Prompt, tokens: int) -> Any:
        tokens = max(tokens, self.least)
        limit = "max_completion_tokens" if "max_tokens" in self._left_out else "max_tokens"
        options: dict[str, Any] = {limit: tokens}
        if "temperature" not in self._left_out:
            options["temperature"] = 0
        if "stream_options" not in self._left_out:
            options["stream_options"] = {"include_usage": True}
        if "ignore_eos" not in self._left_out:
            options["extra_body"] = {"ignore_eos": True}
        if "logprobs" not in self._left_out:
            options["logprobs"] = True
        create: Any = self._client.chat.completions.create
        return create(model=self.model, messages=[{"role": "user", "content": prompt.text}], stream=True, **options)

    def _read(self, chunk: Any, now: float, answer: Answer, text: list[str]) -> None:
        answer.id = answer.id or chunk.id or ""
        if chunk.usage is not None:
            details = chunk.usage.prompt_tokens_details
            answer.input_tokens = chunk.usage.prompt_tokens
            answer.cached_tokens = None if details is None else details.cached_tokens
            answer.output_tokens = chunk.usage.completion_tokens
        for choice in chunk.choices:
            piece = _visible(choice.delta)
            if piece:
                answer.moments.append(now)
                text.append(piece)
            if answer.logprob is None and (content := getattr(choice.logprobs, "content", None)):
                answer.logprob = float(content[0].logprob)


class Anthropic(_Adapting):
    """The official anthropic client. A beginning that may be kept is marked with ``cache_control``."""

    kind = "anthropic"

    def __init__(self, base_url: str | None, model: str | None) -> None:
        super().__init__()
        try:
            import anthropic
        except ImportError:
            raise LlmtraceError(f"anthropic is not installed: {install_hint('anthropic')}") from None
        self._failures, self._unreachable = (anthropic.APIError,), anthropic.APIConnectionError
        asked = base_url or os.environ.get("ANTHROPIC_BASE_URL") or None
        key = os.environ.get("ANTHROPIC_API_KEY") or None
        if key is None and not os.environ.get("ANTHROPIC_AUTH_TOKEN"):
            if asked is None or not is_private(host_of(asked)):
                raise LlmtraceError("no key: set ANTHROPIC_API_KEY")
            key = "none"
        self._client = anthropic.Anthropic(base_url=asked, api_key=key, max_retries=0, timeout=_TIMEOUT_S)
        from llmtrace.providers.openai import provider_of

        self.base_url = str(self._client.base_url)
        self.model = model or ""
        host = host_of(self.base_url)
        self.provider = (host and provider_of(host)) or "anthropic"

    def _open(self, prompt: Prompt, tokens: int) -> Any:
        parts: list[Any] = [{"type": "text", "text": prompt.shared}]
        if prompt.tail:
            parts[0]["cache_control"] = {"type": "ephemeral"}
            parts.append({"type": "text", "text": prompt.tail})
        options: dict[str, Any] = {} if "temperature" in self._left_out else {"extra_body": {"temperature": 0}}
        create: Any = self._client.messages.create
        return create(
            model=self.model,
            max_tokens=max(tokens, self.least),
            messages=[{"role": "user", "content": parts}],
            stream=True,
            **options,
        )

    def _read(self, chunk: Any, now: float, answer: Answer, text: list[str]) -> None:
        if chunk.type == "message_start":
            answer.id = chunk.message.id
            usage = chunk.message.usage
            answer.cached_tokens = usage.cache_read_input_tokens
            written = usage.cache_creation_input_tokens or 0
            answer.input_tokens = usage.input_tokens + (answer.cached_tokens or 0) + written
        elif chunk.type == "content_block_delta":
            answer.moments.append(now)
            text.append(getattr(chunk.delta, "text", "") or getattr(chunk.delta, "thinking", "") or "")
        elif chunk.type == "message_delta":
            answer.output_tokens = chunk.usage.output_tokens

    def offer_logprobs(self) -> None:
        """This API tells none."""


def _visible(delta: Any) -> str:
    """The output in a chunk: the answer's or, of a model that thinks first, its thought's."""
    for name in ("content", "reasoning_content", "reasoning"):
        value = getattr(delta, name, None)
        if isinstance(value, str) and value:
            return value
    return ""


def _seconds(value: Any) -> float | None:
    try:
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except (TypeError, ValueError):
        return None


def shown(base_url: str) -> str:
    """A base URL without the credentials that may stand in it."""
    return without_credentials(base_url).rstrip("/")
