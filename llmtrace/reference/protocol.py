"""OpenAI's shapes: checks requests, and builds answers, chunks and errors."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from llmtrace.reference.model import LoadedModel
from llmtrace.reference.sampling import Sampling
from llmtrace.reference.timings import Timings

__all__ = ["ApiRequest", "BadRequest", "Shapes", "error_body", "longest_token", "parse", "prompts", "usage"]

DEFAULT_MAX_TOKENS = 256
"""Output tokens where the request names no limit (less where the context is nearly full)."""
_MAX_CHOICES = 16
_MAX_PROMPTS = 64
_MAX_STOPS = 4


class BadRequest(Exception):
    """A request that cannot be served; it becomes an error in OpenAI's shape."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(message, kind=kind, param=param, code=code)


def error_body(
    message: str, *, kind: str = "server_error", param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """`{"error": {...}}` as OpenAI sends it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True)
class ApiRequest:
    """A checked request."""

    chat: bool
    model: str
    messages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    prompt: Any = None
    """The prompt of a completion: text, token ids, or a list of either."""
    tools: list[Any] | None = None
    max_tokens: int | None = None
    """The most output tokens; None: the default."""
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    choices: int = 1
    stream: bool = False
    include_usage: bool = False
    ignore_eos: bool = False
    grammar: tuple[str, Any] | None = None
    """The grammar that the answer must follow: its kind and its source."""


def parse(raw: bytes, *, chat: bool) -> ApiRequest:
    """Check a request's body. Raises `BadRequest`."""
    decoded = _decoded(raw)
    _refuse_unsupported(decoded, chat=chat)
    body = _Fields(decoded)
    stream = body.flag("stream")
    options = body.inside("stream_options", ("include_usage", "include_obfuscation"))
    if options is not None and not stream:
        raise BadRequest("stream_options is only allowed with stream=true", param="stream_options")
    common: dict[str, Any] = {
        "model": body.text("model"),
        "max_tokens": _most_tokens(body, chat=chat),
        "sampling": Sampling(
            temperature=body.number("temperature", 0.0, 2.0, default=1.0),
            top_p=body.number("top_p", 0.0, 1.0, default=1.0, above=True),
            seed=body.whole("seed", -(2**63), 2**63 - 1),
        ),
        "stops": _stops(body.get("stop")),
        "choices": body.whole("n", 1, _MAX_CHOICES) or 1,
        "stream": stream,
        "include_usage": options is not None and options.flag("include_usage"),
        "ignore_eos": body.flag("ignore_eos"),
        "grammar": _grammar(body),
    }
    if chat:
        return ApiRequest(chat=True, messages=_messages(body.get("messages")), tools=body.get("tools"), **common)
    return ApiRequest(chat=False, prompt=_prompt(body.get("prompt")), **common)


_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape that is half of a character: valid JSON, and no text where the other half is missing."""


def _decoded(raw: bytes) -> dict[str, Any]:
    try:
        # Bytes that json.loads decodes by itself may be UTF-16, or halves of characters that are no UTF-8.
        decoded: Any = json.loads(raw.decode("utf-8-sig"))
        if _HALF.search(raw):
            json.dumps(decoded, ensure_ascii=False).encode()
    except RecursionError as error:
        raise BadRequest("the body is not valid JSON: it is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise BadRequest("the body holds half of a character (a lone surrogate)") from error
    except ValueError as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from error
    if not isinstance(decoded, dict):
        raise BadRequest("the body must be a JSON object")
    return cast(dict[str, Any], decoded)


class _Fields:
    """A request body, or an object in it, read field by field with one clear error each."""

    def __init__(self, body: dict[str, Any], where: str = "") -> None:
        self._body = body
        self._where = where

    def get(self, name: str) -> Any:
        return self._body.get(name)

    def inside(self, name: str, known: Collection[str]) -> _Fields | None:
        """The object at `name`, which may have these fields and no others; None where it is not given."""
        value = self._body.get(name)
        if value is None:
            return None
        fields = _object(value, self._where + name)
        for field_name in fields:
            if field_name not in known:
                raise _unsupported(f"{self._where}{name}.{field_name[:80]}")
        return _Fields(fields, f"{self._where}{name}.")

    def text(self, name: str) -> str:
        value = self._body.get(name)
        if not isinstance(value, str) or not value:
            raise BadRequest(f"you must provide a {name} parameter, as a string", param=name)
        return value

    def flag(self, name: str) -> bool:
        value = self._body.get(name)
        if value is not None and not isinstance(value, bool):
            raise BadRequest(f"{self._where}{name} must be a boolean", param=self._where + name)
        return bool(value)

    def whole(self, name: str, low: int, high: int | None = None) -> int | None:
        value = self._body.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            raise BadRequest(f"{name} must be an integer {bounds}", param=name)
        return value

    def number(self, name: str, low: float, high: float, *, default: float, above: bool = False) -> float:
        value = self._body.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadRequest(f"{name} must be a number", param=name)
        if not low <= value <= high or (above and value == low):
            bounds = f"above {low:g} and at most {high:g}" if above else f"from {low:g} to {high:g}"
            raise BadRequest(f"{name} must be {bounds}", param=name)
        return float(value)


_BOTH = {
    *("model", "max_tokens", "temperature", "top_p", "seed", "stop", "n", "stream", "stream_options"),
    *("ignore_eos", "response_format", "guided_regex", "guided_grammar"),
}
_FIELDS = {
    True: _BOTH | {"messages", "max_completion_tokens", "tools", "tool_choice", "parallel_tool_calls"},
    False: _BOTH | {"prompt"},
}
"""The fields that are read, of a chat and of a completion."""
_ASIDE = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
}
"""Fields that say something about the request and change no answer."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "echo": (False,),
    "suffix": ("",),
    "functions": ([],),
    "modalities": (["text"], []),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "min_tokens": (0,),
    "best_of": (1,),
    "tool_choice": ("auto", "none"),
}
"""Values that leave the answer as it is; any other one of these is refused."""


def _refuse_unsupported(body: dict[str, Any], *, chat: bool) -> None:
    """Raise `BadRequest` for every field that would be ignored, by its name."""
    for name, value in body.items():
        if value is None or name in _ASIDE or value in _NEUTRAL.get(name, ()):
            continue
        if name == "tool_choice":
            raise BadRequest("tool_choice: this server cannot force a tool call", param=name)
        if name not in _FIELDS[chat]:
            raise _unsupported(name[:80])
    tools = body.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise BadRequest("tools must be a list", param="tools")
    _Fields(body).flag("parallel_tool_calls")


def _unsupported(name: str) -> BadRequest:
    return BadRequest(f"{name} is not supported by the reference server", param=name)


def _most_tokens(body: _Fields, *, chat: bool) -> int | None:
    asked = body.whole("max_tokens", 1)
    newer = body.whole("max_completion_tokens", 1) if chat else None
    if asked is not None and newer is not None and asked != newer:
        raise BadRequest("give one of max_tokens and max_completion_tokens", param="max_tokens")
    return asked if newer is None else newer


def _grammar(body: _Fields) -> tuple[str, Any] | None:
    """OpenAI's `response_format`, or vLLM's `guided_regex` or `guided_grammar`."""
    grammars: list[tuple[str, Any]] = []
    for name in ("guided_regex", "guided_grammar"):
        if body.get(name) is not None:
            grammars.append((name.removeprefix("guided_"), body.text(name)))
    form = body.inside("response_format", ("type", "json_schema"))
    if form is not None:
        kind = form.get("type")
        if kind == "json_schema":
            described = form.inside("json_schema", ("name", "description", "schema", "strict"))
            if described is None:
                raise BadRequest("response_format.json_schema must be an object", param="response_format.json_schema")
            schema = described.get("schema")
            if not isinstance(schema, bool):
                schema = _object(schema, "response_format.json_schema.schema")
            grammars.append((kind, schema))
        elif kind == "json_object":
            grammars.append((kind, None))
        elif kind != "text":
            raise BadRequest(
                "response_format.type must be text, json_object or json_schema", param="response_format.type"
            )
    if len(grammars) > 1:
        raise BadRequest("give one of response_format, guided_regex and guided_grammar", param="response_format")
    return grammars[0] if grammars else None


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"{name} must be an object", param=name)
    return cast(dict[str, Any], value)


def _stops(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    items: Any = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise BadRequest("stop must be a string or a list of strings", param="stop")
    stops = tuple(item for item in cast(list[str], items) if item)
    if len(stops) > _MAX_STOPS:
        raise BadRequest(f"at most {_MAX_STOPS} stop strings", param="stop")
    return stops


def _messages(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise BadRequest("messages must be a list with at least one message", param="messages")
    return [_message(item, index) for index, item in enumerate(cast(list[Any], value))]


def _message(value: Any, index: int) -> dict[str, Any]:
    where = f"messages[{index}]"
    if not isinstance(value, dict):
        raise BadRequest(f"{where} must be an object", param=where)
    message = cast(dict[str, Any], value)
    if not isinstance(message.get("role"), str):
        raise BadRequest(f"{where}.role must be a string", param=f"{where}.role")
    content = message.get("content")
    if isinstance(content, list):
        parts = cast(list[Any], content)
        texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
        if not all(isinstance(text, str) for text in texts):
            raise BadRequest(f"{where}.content: only text parts are supported", param=f"{where}.content")
        content = "".join(cast(list[str], texts))
    if content is not None and not isinstance(content, str):
        raise BadRequest(f"{where}.content must be a string or a list of text parts", param=f"{where}.content")
    return {**message, "content": content or ""}


def _prompt(value: Any) -> Any:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        items = cast(list[Any], value)
        if all(type(item) is int for item in items):  # a boolean is no token
            return [items]
        if all(isinstance(item, str) for item in items) or all(
            isinstance(item, list) and item and all(type(token) is int for token in cast(list[Any], item))
            for item in items
        ):
            if len(items) > _MAX_PROMPTS:
                raise BadRequest(f"at most {_MAX_PROMPTS} prompts in one request", param="prompt")
            return items
    raise BadRequest("prompt must be a string, a list of token ids, or a list of either", param="prompt")


def longest_token(tokenizer: Any) -> int:
    """The most characters of text that one token can stand for, with room to spare."""
    return max(64, *(len(token) for token in tokenizer.get_vocab()))


def prompts(
    api_request: ApiRequest, loaded: LoadedModel, room: int | None = None, per_token: int | None = None
) -> list[list[int]]:
    """The token ids to begin from; one list, or one per prompt of a completion. Raises `BadRequest`.

    `room`: the longest sequence that the server's cache for keys and values can hold, where that is a limit.
    `per_token`: the most characters of a token; a text that must be too long is refused before it is tokenised.
    """
    param = "messages" if api_request.chat else "prompt"

    def check(characters: int) -> None:
        least = 0 if per_token is None else -(-characters // per_token)
        if least > min(loaded.context, room or loaded.context):
            raise _too_long(loaded, room, f"the {param} alone has at least {least} tokens", param)

    items = api_request.prompt
    if api_request.chat:
        check(sum(len(message["content"]) for message in api_request.messages))
        items = [_rendered(api_request, loaded)]  # with all that the template takes of other fields and of tools
    for item in items:
        if isinstance(item, str):
            check(len(item))
    prompt_ids = [
        _encode(loaded, item, special=not api_request.chat) if isinstance(item, str) else item for item in items
    ]
    for ids in prompt_ids:
        if not ids:
            raise BadRequest("the prompt has no tokens", param=param)
        if min(ids) < 0 or max(ids) >= loaded.vocabulary:
            raise BadRequest(f"token ids must lie in [0, {loaded.vocabulary})", param=param)
        output_tokens = api_request.max_tokens or 1
        asked = len(ids) + output_tokens
        if asked > loaded.context or (room is not None and asked > room):
            parts = f"({len(ids)} in the {param}, {output_tokens} in the completion)"
            raise _too_long(loaded, room, f"you requested {asked} tokens {parts}", param, more=" or completion")
    return prompt_ids


def _rendered(api_request: ApiRequest, loaded: LoadedModel) -> str:
    """The messages as the chat template writes them."""
    if not loaded.has_chat_template:
        raise BadRequest(f"the model {loaded.name} has no chat template: use /v1/completions", code="no_chat_template")
    try:
        return loaded.tokenizer.apply_chat_template(
            api_request.messages, tools=api_request.tools, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # templates raise what they like
        raise BadRequest(f"the chat template refuses these messages: {error}", param="messages") from error


def _too_long(loaded: LoadedModel, room: int | None, asked: str, param: str, more: str = "") -> BadRequest:
    limit, mend = f"This model's maximum context length is {loaded.context} tokens", ""
    if room is not None and room < loaded.context:
        limit = f"This server has room for the keys and values of {room} tokens"
        mend = ", or start it with more --cache-tokens"
    return BadRequest(
        f"{limit}. However, {asked}. Please reduce the length of the {param}{more}{mend}.",
        param=param,
        code="context_length_exceeded",
    )


def _encode(loaded: LoadedModel, text: str, *, special: bool) -> list[int]:
    return [int(token) for token in loaded.tokenizer(text, add_special_tokens=special)["input_ids"]]


def usage(timings: Sequence[Timings]) -> dict[str, Any]:
    """OpenAI's `usage` over all prompts of a request."""
    prompt = sum(one.prompt_tokens for one in timings)
    output = sum(one.output_tokens for one in timings)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": sum(one.cached_tokens for one in timings)},
    }


class Shapes:
    """Bodies and chunks of one response."""

    def __init__(self, api_request: ApiRequest, loaded: LoadedModel) -> None:
        self._chat = api_request.chat
        self._usage_asked = api_request.include_usage
        prefix = "chatcmpl" if api_request.chat else "cmpl"
        self.id = f"{prefix}-{uuid.uuid4().hex}"
        self._base: dict[str, Any] = {
            "id": self.id,
            "object": "chat.completion" if api_request.chat else "text_completion",
            "created": int(time.time()),
            "model": api_request.model,
            "system_fingerprint": loaded.fingerprint,
        }

    def role(self, index: int) -> bytes:
        """The chunk that says who speaks; it goes out with the first token."""
        return self._chunk(index, {"role": "assistant", "content": ""}, "", None)

    def text(self, index: int, text: str) -> bytes:
        return self._chunk(index, {"content": text}, text, None)

    def finish(self, index: int, reason: str | None, metrics: dict[str, Any] | None) -> bytes:
        return self._chunk(index, {}, "", reason, metrics)

    def usage(self, usage: dict[str, Any], metrics: dict[str, Any] | None) -> bytes:
        chunk: dict[str, Any] = {**self._streamed(), "choices": [], "usage": usage}
        if metrics is not None:
            chunk["metrics"] = metrics
        return event(chunk)

    def _streamed(self) -> dict[str, Any]:
        return {**self._base, "object": "chat.completion.chunk"} if self._chat else self._base

    def _chunk(
        self,
        index: int,
        delta: dict[str, str],
        text: str,
        reason: str | None,
        metrics: dict[str, Any] | None = None,
    ) -> bytes:
        content: dict[str, Any] = {"delta": delta} if self._chat else {"text": text}
        choice = {"index": index, **content, "logprobs": None, "finish_reason": reason}
        chunk: dict[str, Any] = {**self._streamed(), "choices": [choice]}
        if self._usage_asked:
            chunk["usage"] = None
        if metrics is not None:
            chunk["metrics"] = metrics
        return event(chunk)

    def body(
        self, texts: list[tuple[str, str | None]], usage: dict[str, Any], metrics: dict[str, Any] | None
    ) -> dict[str, Any]:
        """A response that is not streamed; `texts` holds (text, finish reason) by choice."""
        choices: list[dict[str, Any]] = []
        for index, (text, reason) in enumerate(texts):
            content: dict[str, Any] = {"text": text}
            if self._chat:
                content = {"message": {"role": "assistant", "content": text, "refusal": None}}
            choices.append({"index": index, **content, "logprobs": None, "finish_reason": reason})
        return {**self._base, "choices": choices, "usage": usage, "metrics": metrics}


def event(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
