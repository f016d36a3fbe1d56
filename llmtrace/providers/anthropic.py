"""The anthropic client: how to read a request of the Messages API, an event, a message, its usage.

Field names: anthropic-sdk-python's ``types``. ``input_tokens`` leaves out what was read from and written to the cache;
the conventions count it in. What ``message_start`` says of output is a placeholder; ``message_delta`` counts from the
start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmtrace import conventions
from llmtrace.observe.answer import Answer, Usage
from llmtrace.observe.call import NOTHING, OUTPUT, REASONING
from llmtrace.providers.block_streams import blocks_output
from llmtrace.providers.declare import Operation, Platform, Provider, Request, Stainless, platform_of
from llmtrace.providers.engine_extras import add_engine
from llmtrace.providers.failures import failure_in
from llmtrace.providers.gateways import read_body
from llmtrace.providers.messages import chat_input, prompt_input, system_text, tool_definitions
from llmtrace.providers.openai import provider_of
from llmtrace.providers.safe import count, extras, fields, get, items, sampling, text


def read_request(body: Mapping[str, Any]) -> Request:
    """Model and stream of a request's body."""
    return Request(model=text(body.get("model")), streaming=body.get("stream") is True, params=body)


def request_attributes(request: Request) -> dict[str, Any]:
    """The conventions' ``gen_ai.request.*`` attributes that this request set."""
    params = request.params
    attributes = sampling(params, {"max_tokens_to_sample": "max_tokens"})
    if tier := text(params.get("service_tier")):
        attributes["anthropic.request.service_tier"] = tier
    config, thinking = params.get("output_config"), params.get("thinking")
    if level := text(get(config, "effort")):
        attributes[conventions.REASONING_LEVEL] = level
    if kind := text(get(thinking, "type")):
        attributes["anthropic.thinking.type"] = kind
    if (budget := count(get(thinking, "budget_tokens"))) is not None:
        attributes["anthropic.thinking.budget_tokens"] = budget
    formats = (get(config, "format"), params.get("output_format"))
    if any(get(output_format, "type") == "json_schema" for output_format in formats):
        attributes[conventions.OUTPUT_TYPE] = "json"
    return attributes


def classify_chunk(event: Any) -> int:
    """Whether an event contains output (text or a tool's input), thinking (its signature too), or neither.

    A block that opens is empty, but for a tool's, which has the name that the model chose, and hidden thinking.
    """
    name = get(event, "type")
    if name == "content_block_delta":
        delta = get(event, "delta")
        if get(delta, "thinking") or get(delta, "signature"):
            return REASONING
        return OUTPUT if get(delta, "text") or get(delta, "partial_json") or get(delta, "citation") else NOTHING
    if name == "content_block_start":
        block = get(event, "content_block")
        if get(block, "data"):
            return REASONING
        return OUTPUT if get(block, "text") or get(block, "name") else NOTHING
    return OUTPUT if name == "completion" and get(event, "completion") else NOTHING


def chunk_text(event: Any) -> tuple[str, int | None]:
    """The text, thinking or tool input of a delta; the token count is None, since Anthropic lists no tokens."""
    delta = get(event, "delta")
    texts = (text(get(delta, name)) for name in ("text", "thinking", "partial_json"))
    return next((string for string in texts if string), "") or text(get(event, "completion")) or "", None


def read_chunks(chunks: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    """The answer, as far as a stream's first and last events tell it."""
    answer = Answer()
    started: Any = None
    counted: Any = None
    unmodelled: dict[str, Any] = {}
    for event in chunks:
        name = get(event, "type")
        if name == "message_start":
            started = get(event, "message")
            answer.id, answer.model = text(get(started, "id")), text(get(started, "model"))
        elif name == "message_delta":
            counted = get(event, "usage")
            _ends(answer, get(event, "delta"))
        elif name == "completion":
            _ends(answer, event)
            answer.id, answer.model = text(get(event, "id")), text(get(event, "model"))
        if more := extras(event):
            unmodelled.update(more)
    usage = get(started, "usage")
    answer.usage = _usage(usage, counted, None if counted is None else count(get(counted, "output_tokens")))
    unmodelled = {**extras(started), **unmodelled}
    _describe(answer, started, usage, unmodelled, headers)
    answer.hop = read_body({**unmodelled, "id": answer.id}, {**fields(usage), **fields(counted)})
    return answer


def read_response(response: Any, headers: Mapping[str, str] | None) -> Answer:
    """The answer in a whole message."""
    answer = Answer(id=text(get(response, "id")), model=text(get(response, "model")))
    if get(response, "type") == "error":
        answer.failed = failure_in(response) or "error"
    _ends(answer, response)
    usage = get(response, "usage")
    answer.usage = _usage(usage, usage, count(get(usage, "output_tokens")))
    _describe(answer, response, usage, extras(response), headers)
    answer.hop = read_body({**extras(response), "id": answer.id}, usage)
    return answer


def _ends(answer: Answer, source: Any) -> None:
    if reason := text(get(source, "stop_reason")):
        answer.finish_reasons = (reason,)


def _usage(first: Any, last: Any, output: int | None) -> Usage:
    """The counts of a ``Usage``, updated by the ``MessageDeltaUsage`` after it, which may leave some out."""

    def latest_count(name: str) -> int | None:
        later = count(get(last, name))
        return count(get(first, name)) if later is None else later

    uncached, read, written = map(
        latest_count, ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )
    usage = Usage(
        input_tokens=None if uncached is None else uncached + (read or 0) + (written or 0),
        output_tokens=output,
        cached_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=count(get(get(last, "output_tokens_details"), "thinking_tokens")),
    )
    for iteration in items(get(last, "iterations")):
        if get(iteration, "type") == "compaction":
            _add_summary(usage, iteration)
    return usage


def _add_summary(usage: Usage, summing: Any) -> None:
    """Add what summing the history up took, which the counts beside it leave out: they are of the answer alone. The
    model is the same. (An advisor's tokens stay out: they are another model's, at another price.)"""
    uncached, read, written, made = (
        count(get(summing, name)) or 0
        for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
    )
    usage.input_tokens = (usage.input_tokens or 0) + uncached + read + written
    usage.output_tokens = (usage.output_tokens or 0) + made
    usage.summary_tokens = (usage.summary_tokens or 0) + made
    usage.cached_tokens = usage.cached_tokens if not read else (usage.cached_tokens or 0) + read
    usage.cache_write_tokens = usage.cache_write_tokens if not written else (usage.cache_write_tokens or 0) + written


def _describe(
    answer: Answer, message: Any, usage: Any, unmodelled: Mapping[str, Any], headers: Mapping[str, str] | None
) -> None:
    add_engine(answer, unmodelled, {}, headers)
    answer.service_tier = text(get(usage, "service_tier"))
    missed = get(get(message, "diagnostics"), "cache_miss_reason")
    reason = text(get(missed, "type"))
    if reason is not None and reason.endswith("_changed"):  # the others say that it could not be found out
        answer.cache_miss = reason
        answer.cache_missed_tokens = count(get(missed, "cache_missed_input_tokens"))
    attributes = {
        "anthropic.response.service_tier": answer.service_tier,
        "anthropic.response.inference_geo": text(get(usage, "inference_geo")),
        "anthropic.response.speed": text(get(usage, "speed")),
        "anthropic.response.cache_miss_reason": reason,
        "anthropic.response.cache_missed_input_tokens": count(get(missed, "cache_missed_input_tokens")),
    }
    for field in ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"):
        attributes[f"anthropic.usage.cache_creation.{field}"] = count(get(get(usage, "cache_creation"), field))
    answer.extra = {name: value for name, value in attributes.items() if value is not None}


def provider_name(client: Any, host: str | None) -> str:
    """The platform that the client is for (Bedrock, Vertex), else the host's provider, else ``anthropic``."""
    return platform_of(client, _PLATFORMS) or (host and provider_of(host)) or "anthropic"


_BEDROCK = ("AnthropicBedrock", "AsyncAnthropicBedrock", "AnthropicBedrockMantle", "AsyncAnthropicBedrockMantle")
_PLATFORMS = (
    Platform("aws.bedrock", "anthropic.lib.bedrock", _BEDROCK),
    Platform("gcp.vertex_ai", "anthropic.lib.vertex", ("AnthropicVertex", "AsyncAnthropicVertex")),
)


MESSAGES = Operation(
    name="chat",
    path="/v1/messages",
    read_request=read_request,
    request_attributes=request_attributes,
    classify_chunk=classify_chunk,
    chunk_text=chunk_text,
    read_chunks=read_chunks,
    read_response=read_response,
    system_instructions=system_text,
    tool_definitions=tool_definitions,
    input_messages=chat_input,
    output_messages=blocks_output,
)
COMPLETE = replace(MESSAGES, name="text_completion", path="/v1/complete", input_messages=prompt_input)
"""The older text completions API, which some versions of the client still have."""

ANTHROPIC = Provider(
    hooks=(
        Stainless(
            client_module="anthropic._base_client",
            stream_module="anthropic._streaming",
            operations=(MESSAGES, COMPLETE),
            own_spans=True,
        ),
    ),
    provider_name=provider_name,
)
