"""OpenAI's chat and text completions, and all APIs of their shape: how to read a request, a chunk, a response.

Field names: openai-python's ``types/chat`` and ``types/completion_usage``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmtrace import conventions
from llmtrace.observe.answer import Answer, Usage
from llmtrace.observe.call import NOTHING, OUTPUT, REASONING
from llmtrace.providers.content_blocks import thought
from llmtrace.providers.declare import Operation, Request
from llmtrace.providers.engine_extras import add_engine
from llmtrace.providers.failures import failure_in
from llmtrace.providers.gateways import read_body
from llmtrace.providers.messages import chat_input, chat_output, prompt_input, tool_definitions
from llmtrace.providers.safe import by_modality, count, fields, get, items, sampling, set_finish_reasons, text


def read_request(body: Mapping[str, Any]) -> Request:
    """The model, the stream flag and the number of choices of a body; each prompt of a list has choices of its own."""
    prompt = items(body.get("prompt"))
    prompts = len(prompt) if prompt and not isinstance(prompt[0], int) else 1
    return Request(
        model=text(body.get("model")),
        streaming=body.get("stream") is True,
        params=body,
        choices=(count(body.get("n")) or 1) * prompts,
    )


def request_attributes(request: Request) -> dict[str, Any]:
    """The conventions' ``gen_ai.request.*`` attributes that this request set."""
    params = request.params
    attributes = sampling(params, {"max_completion_tokens": "max_tokens"})
    if tier := text(params.get("service_tier")):
        attributes["openai.request.service_tier"] = tier
    if level := text(params.get("reasoning_effort")) or text(get(params.get("reasoning"), "effort")):  # OpenRouter's
        attributes[conventions.REASONING_LEVEL] = level
    if request.choices != 1:
        attributes[conventions.CHOICE_COUNT] = request.choices
    if "response_format" in params:
        kind = get(params["response_format"], "type")
        if kind in ("text", "json_object", "json_schema"):
            attributes[conventions.OUTPUT_TYPE] = "text" if kind == "text" else "json"
    return attributes


def classify_chunk(chunk: Any) -> int:
    """Whether a chunk contains output, reasoning or neither (role only, usage only, content filter results, empty)."""
    kind = NOTHING
    for choice in items(get(chunk, "choices")):
        delta = get(choice, "delta")
        if delta is None:
            if get(choice, "text"):  # of a text completion
                return OUTPUT
            continue
        content = get(delta, "content")
        if isinstance(content, list) and content and all(get(block, "type") in _THOUGHT for block in content):
            kind = REASONING if any(map(_block_text, content)) else kind
            content = None
        if content or get(delta, "tool_calls") or get(delta, "function_call") or get(delta, "refusal"):
            return OUTPUT
        if get(delta, "audio"):
            return OUTPUT
        # Names of engines that stream their reasoning: vLLM, SGLang, DeepSeek (reasoning_content), OpenRouter, Groq.
        if get(delta, "reasoning_content") or get(delta, "reasoning"):
            kind = REASONING
    return kind


_THOUGHT = ("thinking", "reasoning")
"""The types of blocks that reasoning comes in where content is a list: Mistral's, Databricks'."""


def _block_text(block: Any) -> str:
    """The text in one block of a list: its own, or that of the pieces of a thought."""
    return thought(block, "text")


def chunk_text(chunk: Any) -> tuple[str, int | None]:
    """The text of a chunk's choices, and the tokens that their log probabilities list."""
    texts: list[str] = []
    tokens: int | None = None
    for choice in items(get(chunk, "choices")):
        delta = get(choice, "delta")
        reasoning = text(get(delta, "reasoning_content")) or text(get(delta, "reasoning"))
        content = get(delta, "content")
        texts += [text(content) or text(get(choice, "text")) or "", reasoning or "", *map(_block_text, items(content))]
        texts.append(text(get(delta, "refusal")) or "")
        for call in items(get(delta, "tool_calls")):
            function = get(call, "function")
            texts += [text(get(function, "name")) or "", text(get(function, "arguments")) or ""]
        logprobs = get(choice, "logprobs")
        if logprobs is not None:
            listings = (items(get(logprobs, name)) for name in ("content", "refusal", "tokens"))
            tokens = (tokens or 0) + max(map(len, listings))
    return "".join(texts), tokens or None


def ends(chunk: Any) -> bool:
    """Whether a choice of a chunk says why it ended."""
    return any(get(choice, "finish_reason") for choice in items(get(chunk, "choices")))


_CACHED = ("prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens")
"""What other servers call the cached tokens of a prompt, beside its tokens: DeepSeek, Moonshot, Databricks."""


def read_usage(usage: Any) -> Usage:
    """The counts of a ``CompletionUsage`` (object or mapping); what is missing or malformed stays None."""
    prompt_details, output_details = get(usage, "prompt_tokens_details"), get(usage, "completion_tokens_details")
    cached = count(get(prompt_details, "cached_tokens"))
    written = count(get(prompt_details, "cache_write_tokens"))
    if cached is None:
        cached = next((told for name in _CACHED if (told := count(get(usage, name))) is not None), None)
    if written is None:
        written = count(get(usage, "cache_creation_input_tokens"))
    asked, answered = count(get(usage, "prompt_tokens")), count(get(usage, "completion_tokens"))
    reasoned = count(get(output_details, "reasoning_tokens"))
    if reasoned and answered is not None and count(get(usage, "total_tokens")) == (asked or 0) + answered + reasoned:
        answered += reasoned  # xAI's are beside the answer's, as the total shows
    return Usage(
        input_tokens=asked,
        output_tokens=answered,
        cached_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=reasoned,
        input_by_modality=by_modality(prompt_details),
        output_by_modality=by_modality(output_details),
    )


def read_chunks(chunks: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    """The answer, as far as a stream's first and last chunks tell it."""
    answer = Answer()
    reasons: dict[int, str] = {}
    usage: Any = None
    chunk_fields: dict[str, Any] = {}  # one client models what the next leaves as an extra field
    for chunk in chunks:
        own = fields(chunk)
        chunk_fields.update(own)
        _identify(answer, own)
        answer.failed = failure_in(own) or answer.failed
        for place, choice in enumerate(items(get(own, "choices"))):
            if reason := text(get(choice, "finish_reason")):
                reasons[_position(choice, place)] = reason
            if usage is None:
                usage = get(choice, "usage")  # Moonshot's, in the chunk that ends the choice
        reported = get(own, "usage")
        if reported is not None:
            usage = reported
        elif usage is None and "x_groq" in own:
            usage = get(own["x_groq"], "usage")
    set_finish_reasons(answer, reasons)
    _add_usage_and_timings(answer, usage, chunk_fields, headers)
    return answer


def read_response(response: Any, headers: Mapping[str, str] | None) -> Answer:
    """The answer in a whole chat completion."""
    answer = Answer()
    own = fields(response)
    _identify(answer, own)
    answer.failed = failure_in(own)
    choices = items(get(own, "choices"))
    positions = [_position(choice, place) for place, choice in enumerate(choices)]
    if len(set(positions)) < len(positions):
        positions = range(len(choices))  # numbers that come twice are no positions
    reasons = {
        position: reason
        for position, choice in zip(positions, choices, strict=True)
        if (reason := text(get(choice, "finish_reason")))
    }
    set_finish_reasons(answer, reasons)
    _add_usage_and_timings(answer, get(own, "usage"), own, headers)
    return answer


def _position(choice: Any, place: int) -> int:
    """The index of a choice; where it has none, its ``place`` among the choices that came with it."""
    index = count(get(choice, "index"))
    return place if index is None else index


def _identify(answer: Answer, own: Mapping[str, Any]) -> None:
    """Take who answered from the fields of a chunk or response; of several chunks the last that says so counts."""
    answer.id = answer.id or text(own.get("id"))
    answer.model = text(own.get("model")) or answer.model
    answer.fingerprint = text(own.get("system_fingerprint")) or answer.fingerprint
    answer.service_tier = text(own.get("service_tier")) or answer.service_tier


def _add_usage_and_timings(
    answer: Answer, usage: Any, body_fields: Mapping[str, Any], headers: Mapping[str, str] | None
) -> None:
    if usage is not None:
        answer.usage = read_usage(usage)
    add_engine(answer, body_fields, fields(usage), headers)
    answer.hop = read_body(body_fields, usage)
    attributes = {
        conventions.SYSTEM_FINGERPRINT: answer.fingerprint,
        conventions.SERVICE_TIER: answer.service_tier,
    }
    answer.extra = {name: value for name, value in attributes.items() if value}


def ask_for_usage(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The body with ``stream_options.include_usage``, unless it is not a stream or says something about it."""
    options = body.get("stream_options")
    if body.get("stream") is not True or (options is not None and not isinstance(options, Mapping)):
        return None
    if options and "include_usage" in options:
        return None
    return {**body, "stream_options": {**(options or {}), "include_usage": True}}


CHAT = Operation(
    name="chat",
    path="/chat/completions",
    read_request=read_request,
    request_attributes=request_attributes,
    classify_chunk=classify_chunk,
    chunk_text=chunk_text,
    ends=ends,
    read_chunks=read_chunks,
    read_response=read_response,
    ask_for_usage=ask_for_usage,
    tool_definitions=tool_definitions,
    input_messages=chat_input,
    output_messages=chat_output,
)

COMPLETION = replace(CHAT, name="text_completion", path="/completions", input_messages=prompt_input)
