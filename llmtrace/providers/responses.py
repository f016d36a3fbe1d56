"""OpenAI's Responses API: how to read a request, an event, a response, its usage.

Field names: openai-python's ``types/responses``. Of a stream's events only those that bring what the model wrote are
tokens: ``response.created`` and ``response.in_progress`` come with the headers, long before the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmtrace import conventions
from llmtrace.observe.answer import Answer, Usage
from llmtrace.observe.call import NOTHING, OUTPUT, REASONING
from llmtrace.providers.declare import Operation, Request
from llmtrace.providers.engine_extras import add_engine
from llmtrace.providers.failures import named
from llmtrace.providers.gateways import read_body
from llmtrace.providers.messages import instructions, tool_definitions
from llmtrace.providers.response_items import input_messages, streamed_items, whole_message
from llmtrace.providers.safe import by_modality, count, extras, fields, get, items, sampling, text

_UNDER_WAY = ("queued", "in_progress")


def read_request(body: Mapping[str, Any]) -> Request:
    """Model and stream of a request's body."""
    return Request(model=text(body.get("model")), streaming=body.get("stream") is True, params=body)


def request_attributes(request: Request) -> dict[str, Any]:
    """The conventions' ``gen_ai.request.*`` attributes that this request set."""
    params = request.params
    attributes = sampling(params, {"max_output_tokens": "max_tokens"})
    if tier := text(params.get("service_tier")):
        attributes["openai.request.service_tier"] = tier
    if effort := text(get(params.get("reasoning"), "effort")):
        attributes[conventions.REASONING_LEVEL] = effort
    if previous := text(params.get("previous_response_id")):
        attributes[conventions.PREVIOUS_RESPONSE] = previous
    conversation = params.get("conversation")
    if conversation_id := text(conversation) or text(get(conversation, "id")):
        attributes[conventions.CONVERSATION] = conversation_id
    kind = get(get(params.get("text"), "format"), "type")
    if kind in ("text", "json_object", "json_schema"):
        attributes[conventions.OUTPUT_TYPE] = "text" if kind == "text" else "json"
    return attributes


def classify_chunk(event: Any) -> int:
    """Whether an event contains output (a delta of text, refusal, audio or a call's arguments), reasoning, or neither.

    A reasoning item that opens says that the model has begun to reason, whether or not the reasoning is shown; one of
    any other kind but a message has a name or an action in it, which the model wrote.
    """
    name = get(event, "type")
    if not isinstance(name, str):
        return NOTHING
    if name == "response.output_item.added":
        item = get(get(event, "item"), "type")
        if item == "reasoning":
            return REASONING
        return NOTHING if item in (None, "message") else OUTPUT
    if name.endswith(".delta") or name.endswith(".partial_image"):
        return REASONING if ".reasoning" in name else OUTPUT
    return OUTPUT if name == "response.output_text.done" and get(event, "text") else NOTHING


def chunk_text(event: Any) -> tuple[str, int | None]:
    """The text of a delta, and the number of tokens that its log probabilities list."""
    name = get(event, "type")
    if not isinstance(name, str) or not name.endswith(".delta"):
        return "", None
    return text(get(event, "delta")) or "", len(items(get(event, "logprobs"))) or None


def read_chunks(chunks: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    """The answer in the latest state of the response that a stream's events hold."""
    latest: Any = None
    error: Any = None
    beside: dict[str, Any] = {}
    for chunk in chunks:
        response = get(chunk, "response")
        if response is not None:
            latest = response
        elif get(chunk, "type") == "error":
            error = chunk
        if more := extras(chunk):
            beside.update(more)  # a gateway's, which may stand beside the response
    answer = _read(latest, headers, beside)
    if error is not None:
        answer.failed = named(get(error, "error")) or named(error)
    return answer


def read_usage(usage: Any) -> Usage:
    """The token counts of a response."""
    input_details, output_details = get(usage, "input_tokens_details"), get(usage, "output_tokens_details")
    return Usage(
        input_tokens=count(get(usage, "input_tokens")),
        output_tokens=count(get(usage, "output_tokens")),
        cached_tokens=count(get(input_details, "cached_tokens")),
        cache_write_tokens=count(get(input_details, "cache_write_tokens")),
        reasoning_tokens=count(get(output_details, "reasoning_tokens")),
        input_by_modality=by_modality(input_details),
        output_by_modality=by_modality(output_details),
    )


def read_response(response: Any, headers: Mapping[str, str] | None) -> Answer:
    """The answer in a response. One in the background may still be queued: it has neither usage nor finish reason."""
    return _read(response, headers, {})


def _read(response: Any, headers: Mapping[str, str] | None, beside: Mapping[str, Any]) -> Answer:
    """``beside``: what the events of a stream have besides the response, and the client has no model of."""
    usage = get(response, "usage")
    status = text(get(response, "status"))
    answer = Answer(
        id=text(get(response, "id")),
        model=text(get(response, "model")),
        usage=read_usage(usage),
        service_tier=text(get(response, "service_tier")),
        hop=read_body({**beside, **extras(response), "id": get(response, "id")}, usage),
    )
    add_engine(answer, extras(response), fields(usage), headers)
    _diagnose(answer, get(response, "prompt_cache_diagnostics"))
    if status == "failed":
        answer.failed = named(get(response, "error")) or "failed"
    if status is not None and status not in _UNDER_WAY:
        why = text(get(get(response, "incomplete_details"), "reason")) if status == "incomplete" else None
        answer.finish_reasons = (why or status,)
    if answer.service_tier and status not in _UNDER_WAY:
        answer.extra = {**(answer.extra or {}), conventions.SERVICE_TIER: answer.service_tier}
    return answer


def _diagnose(answer: Answer, diagnostics: Any) -> None:
    """Why the prompt cache missed: openai-python ``types/responses/response.py``, PromptCacheDiagnosticsCacheMiss."""
    if get(diagnostics, "type") != "cache_miss":
        return
    answer.cache_miss = text(get(diagnostics, "reason"))
    answer.cache_missed_tokens = count(get(diagnostics, "cache_missed_tokens"))
    known = {
        "openai.response.cache_miss_reason": answer.cache_miss,
        "openai.response.cache_missed_input_tokens": answer.cache_missed_tokens,
    }
    answer.extra = {name: value for name, value in known.items() if value is not None}


def output_messages(answer: Sequence[Any] | Any, streamed: bool) -> list[dict[str, Any]]:
    """The message received, from a response or from the events of a stream."""
    latest: Any = None if streamed else answer
    for event in items(answer) if streamed else ():
        latest = get(event, "response") or latest
    if streamed and not (items(get(latest, "output")) and get(latest, "status") not in _UNDER_WAY):
        output = streamed_items(items(answer))  # cut short, or a server that does not say it all again at the end
    else:
        output = items(get(latest, "output"))
    reasons = read_response(latest, None).finish_reasons
    return [whole_message(output, reasons[0] if reasons else "error")]


RESPONSES = Operation(
    name="chat",
    path="/responses",
    read_request=read_request,
    request_attributes=request_attributes,
    classify_chunk=classify_chunk,
    chunk_text=chunk_text,
    announces=True,
    read_chunks=read_chunks,
    read_response=read_response,
    system_instructions=lambda request: instructions(request.params.get("instructions")),
    tool_definitions=tool_definitions,
    input_messages=input_messages,
    output_messages=output_messages,
)
