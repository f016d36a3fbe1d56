"""Google's Interactions API (``client.interactions.create``): how to read a request, an event, an interaction.

Field names: google-genai's ``_gaos/types/interactions``. Where an answer is continued by itself, each request for it is
a call. An agent's interaction has no model; one in the background is answered before it has a usage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmtrace import conventions
from llmtrace.observe.answer import Answer, Usage
from llmtrace.observe.call import NOTHING, OUTPUT, REASONING
from llmtrace.providers.declare import Method, Operation, Request
from llmtrace.providers.failures import named
from llmtrace.providers.google_genai import read_usage
from llmtrace.providers.messages import instructions, tool_definitions
from llmtrace.providers.safe import fields, get, items, sampling, text

_UNDER_WAY = ("in_progress", "queued", "idle")
_COUNTS = {
    "total_input_tokens": "prompt_token_count",
    "total_tool_use_tokens": "tool_use_prompt_token_count",
    "total_output_tokens": "candidates_token_count",
    "total_thought_tokens": "thoughts_token_count",
    "total_cached_tokens": "cached_content_token_count",
    "input_tokens_by_modality": "prompt_tokens_details",
    "tool_use_tokens_by_modality": "tool_use_prompt_tokens_details",
    "output_tokens_by_modality": "candidates_tokens_details",
    "cached_tokens_by_modality": "cache_tokens_details",
}
"""Fields of an interaction's usage, and what the same is called in an answer of ``generate_content``."""
_OTHERS = ("request", "api_version", "extra_headers", "extra_query", "extra_body", "timeout")
"""Arguments of ``create`` that are none of the request's body."""


def _body(client: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    request = kwargs.get("request")
    body = get(request, "body")
    if body is None:
        body = kwargs if request is None or not fields(request) else request
    return {name: value for name, value in fields(body).items() if name not in _OTHERS}


def _read_request(body: Mapping[str, Any]) -> Request:
    model = text(body.get("model"))
    return Request(
        model=model.removeprefix("models/") if model else None, streaming=body.get("stream") is True, params=body
    )


def _request_attributes(request: Request) -> dict[str, Any]:
    params = request.params
    config = params.get("generation_config")
    attributes = sampling(config, {"max_output_tokens": "max_tokens"})
    if level := text(get(config, "thinking_level")):
        attributes[conventions.REASONING_LEVEL] = level.upper()
    if previous := text(params.get("previous_interaction_id")):
        attributes[conventions.PREVIOUS_RESPONSE] = previous
    if agent := text(params.get("agent")):
        attributes[conventions.AGENT_ID] = agent
    modalities = [str(text(modality)).lower() for modality in items(params.get("response_modalities"))]
    if params.get("response_mime_type") == "application/json":
        attributes[conventions.OUTPUT_TYPE] = "json"
    elif modalities:
        kinds = {"image": "image", "audio": "speech"}
        attributes[conventions.OUTPUT_TYPE] = next((kinds[each] for each in modalities if each in kinds), "text")
    return attributes


def _classify_chunk(event: Any) -> int:
    """A step that opens is empty but for a thought and for a call, which has a name; what tools find is no output."""
    kind = text(get(event, "event_type"))
    if kind == "step.start":
        step = text(get(get(event, "step"), "type")) or ""
        if step == "thought":
            return REASONING
        return OUTPUT if step.endswith("_call") else NOTHING
    if kind != "step.delta":
        return NOTHING
    delta = text(get(get(event, "delta"), "type")) or ""
    if delta.startswith("thought"):
        return REASONING
    return NOTHING if delta.endswith("_result") or delta == "text_annotation_delta" else OUTPUT


def _chunk_text(event: Any) -> tuple[str, int | None]:
    delta = get(event, "delta")
    summary = get(get(delta, "content"), "text")
    return text(get(delta, "text")) or text(get(delta, "arguments")) or text(summary) or "", None


def _read_usage(usage: Any) -> Usage:
    return read_usage({theirs: get(usage, name) for name, theirs in _COUNTS.items()})


def _read_response(interaction: Any, headers: Mapping[str, str] | None) -> Answer:
    status = text(get(interaction, "status"))
    answer = Answer(
        id=text(get(interaction, "id")),
        model=text(get(interaction, "model")),
        usage=_read_usage(get(interaction, "usage")),
    )
    if status is not None and status not in _UNDER_WAY:
        answer.finish_reasons = (status,)
    if status == "failed":
        errors = items(get(interaction, "errors"))
        answer.failed = (named(errors[0]) if errors else None) or "failed"
    return answer


def _read_chunks(events: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    """The answer in the latest state of the interaction; the first has the id and the model."""
    answer = Answer()
    for event in events:
        interaction = get(event, "interaction")
        if interaction is not None:
            latest = _read_response(interaction, headers)
            latest.id, latest.model = latest.id or answer.id, latest.model or answer.model
            answer = latest
        elif get(event, "event_type") == "error":
            answer.failed = named(get(event, "error")) or "error"
    return answer


def _parts(content: Any) -> list[dict[str, Any]]:
    """Text as parts of a message, of all else only what it is."""
    if isinstance(content, str):
        return [{"type": "text", "content": content}]
    return [
        {"type": "text", "content": written}
        if (written := text(get(part, "text")))
        else {"type": text(get(part, "type")) or "other"}
        for part in items(content) or ([content] if content is not None else [])
    ]


def _step_parts(step: Any) -> list[dict[str, Any]]:
    kind = text(get(step, "type"))
    if kind == "function_call":
        call = {name: get(step, name) for name in ("id", "name", "arguments")}
        return [{"type": "tool_call", **call}]
    if kind == "function_result":
        return [{"type": "tool_call_response", "id": get(step, "call_id"), "response": get(step, "result")}]
    if kind == "thought":
        return [part | {"type": "reasoning"} for part in _parts(get(step, "summary")) if "content" in part]
    return _parts(get(step, "content")) if get(step, "content") is not None else _parts([step])


_STEPS = ("user_input", "model_output", "function_call", "function_result", "thought")


def _input(request: Request) -> list[dict[str, Any]]:
    given = request.params.get("input")
    if items(given) and any(get(step, "type") in _STEPS for step in items(given)):
        ours = ("model_output", "function_call", "thought")
        return [
            {"role": "assistant" if get(step, "type") in ours else "user", "parts": _step_parts(step)}
            for step in items(given)
        ]
    return [{"role": "user", "parts": _parts(given)}]


def _output(answer: Sequence[Any] | Any, streamed: bool) -> list[dict[str, Any]]:
    if streamed:
        written = "".join(_chunk_text(event)[0] for event in items(answer) if _classify_chunk(event) == OUTPUT)
        parts, reasons = _parts(written) if written else [], _read_chunks(items(answer), None).finish_reasons
    else:
        parts = [part for step in items(get(answer, "steps")) for part in _step_parts(step)]
        reasons = _read_response(answer, None).finish_reasons
    return [{"role": "assistant", "parts": parts, "finish_reason": (reasons or ("error",))[0]}]


INTERACTIONS = Operation(
    name="generate_content",
    path="/interactions",
    read_request=_read_request,
    request_attributes=_request_attributes,
    classify_chunk=_classify_chunk,
    chunk_text=_chunk_text,
    announces=True,
    read_chunks=_read_chunks,
    read_response=_read_response,
    system_instructions=lambda request: instructions(request.params.get("system_instruction")),
    tool_definitions=tool_definitions,
    input_messages=_input,
    output_messages=_output,
)

METHODS = tuple(
    Method(
        module="google.genai._gaos.interactions",
        path=f"{prefix}Interactions.create",
        operation=INTERACTIONS,
        body=_body,
        inner="generator",
    )
    for prefix in ("", "Async")
)
