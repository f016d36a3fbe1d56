"""Answers with everything in them: several choices, tool calls, reasoning, log probabilities, citations, details."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from tests.support import by_funnel, by_library, by_method, ndjson
from tests.support.by_method import MODEL, Driver, aws_event
from tests.support.replay import USAGE, chunk, completion, sse

DRIVERS = (*by_funnel.DRIVERS, *by_method.DRIVERS, by_library.Ollama, by_library.HuggingFace)
"""Clients that give the same for the same answer. (LiteLLM puts the time and addresses of its own into it.)"""

_USAGE = USAGE | {
    "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 0, "accepted_prediction_tokens": 1},
    "prompt_tokens_details": {"cached_tokens": 16, "cache_write_tokens": 2, "audio_tokens": 0},
    "queue_time": 0.01,
    "total_time": 0.2,
}
_LOGPROBS = {"content": [{"token": "Hel", "logprob": -0.1, "bytes": [72], "top_logprobs": []}], "refusal": None}
_CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
_FILTER = {"hate": {"filtered": False, "severity": "safe"}}


def _chat() -> tuple[dict[str, Any], list[bytes]]:
    whole = completion(n=2, usage=_USAGE, x_groq={"id": "req_1", "usage": {"dram_cached_tokens": 4}})
    message = {"content": None, "refusal": "No.", "tool_calls": [_CALL], "annotations": [], "reasoning_content": "Hm."}
    whole["choices"][0] |= {"logprobs": _LOGPROBS, "finish_reason": "tool_calls", "content_filter_results": _FILTER}
    whole["choices"][0]["message"] = whole["choices"][0]["message"] | message
    chunks = [
        chunk(None, id="", model="", prompt_filter_results=[{"prompt_index": 0, "content_filter_results": _FILTER}]),
        chunk({"role": "assistant", "content": None, "refusal": None}, x_groq={"id": "req_1"}),
        chunk({"reasoning_content": "Hm."}),
        chunk({"content": "Hel"}),
        chunk({"tool_calls": [_CALL | {"index": 0}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
        chunk({}, finish="tool_calls", usage=None, service_tier=None),
        chunk(None, usage=_USAGE, x_groq={"id": "req_1", "usage": _USAGE}),
    ]
    chunks[3]["choices"][0]["logprobs"] = _LOGPROBS
    return whole, sse(*chunks)


def _completions(driver: Any) -> tuple[dict[str, Any], list[bytes]]:
    listed = {"tokens": ["x"], "token_logprobs": [-1.0], "top_logprobs": [{"x": -1.0}], "text_offset": [0]}
    whole = driver.answer_body("Hel", "stop", usage=_USAGE)
    whole["choices"] += [{"index": 1, "text": "lo", "logprobs": listed, "finish_reason": "length"}]
    return whole, sse(
        driver.answer_body("Hel"), driver.answer_body("lo", "length", usage=None), driver.answer_body("", usage=_USAGE)
    )


def _responses(driver: Any) -> tuple[dict[str, Any], list[bytes]]:
    thought = {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "Hm."}], "status": None}
    call = {"type": "function_call", "id": "fc", "call_id": "call_1", "name": "look", "arguments": "{}"}
    counts = driver.counts | {"output_tokens_details": {"reasoning_tokens": 3}}
    end = driver.state("incomplete", ["Hel"], counts, incomplete_details={"reason": "max_output_tokens"})
    end |= {"service_tier": "flex", "metadata": {}, "error": None, "output": [thought, call, *end["output"]]}
    place = {"item_id": "m", "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": driver.state("queued")},
        {"type": "response.output_item.added", "output_index": 0, "item": thought},
        {"type": "response.reasoning_summary_text.delta", "item_id": "rs", "output_index": 0, "delta": "Hm."},
        {"type": "response.output_item.added", "output_index": 1, "item": call},
        {"type": "response.function_call_arguments.delta", "item_id": "fc", "output_index": 1, "delta": "{}"},
        {"type": "response.output_text.delta", **place, "delta": "Hel", "logprobs": _LOGPROBS["content"]},
        {"type": "response.incomplete", "response": end},
    ]
    return end, by_funnel.typed_events(*({"sequence_number": at, **event} for at, event in enumerate(events)))


def _messages(driver: Any) -> tuple[dict[str, Any], list[bytes]]:
    usage = driver.counts | {
        "output_tokens": 6,
        "output_tokens_details": {"thinking_tokens": 4},
        "service_tier": "standard",
        "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 0},
        "server_tool_use": {"web_search_requests": 1},
    }
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    call = {"type": "tool_use", "id": "t", "name": "look", "input": {"a": 1}}
    cited = {"type": "text", "text": "Hel", "citations": [{"type": "char_location", "cited_text": "x"}]}
    whole = driver.message(content=[thought, cited, call], stop_reason="tool_use", usage=usage, container=None)
    ended = {"input_tokens": 21, "cache_read_input_tokens": 16, "cache_creation_input_tokens": None, "output_tokens": 9}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": driver.message(usage=usage | {"output_tokens": 1})},
        {"type": "content_block_start", "index": 0, "content_block": thought | {"thinking": "", "signature": ""}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm."}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "c2ln"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": call | {"input": {}}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": ended},
        {"type": "message_stop"},
    ]
    return whole, by_funnel.typed_events(*events)


def _google() -> tuple[dict[str, Any], list[bytes]]:
    counts = {"promptTokenCount": 9, "toolUsePromptTokenCount": 1, "cachedContentTokenCount": 4}
    counts |= {"candidatesTokenCount": 5, "thoughtsTokenCount": 2, "totalTokenCount": 17}
    details = [{"modality": "TEXT", "tokenCount": 9}]
    parts = [{"text": "Hm.", "thought": True}, {"text": "Hel"}, {"functionCall": {"name": "look", "args": {"a": 1}}}]
    identity = {"modelVersion": MODEL, "responseId": "id-1"}

    def chunk_of(parts: list[Any], **more: Any) -> dict[str, Any]:
        return {"candidates": [{"content": {"role": "model", "parts": parts}, "index": 0, **more}], **identity}

    end = {
        "finishReason": "MAX_TOKENS",
        "safetyRatings": [],
        "citationMetadata": {"citations": []},
        "avgLogprobs": -0.1,
    }
    usage = {"usageMetadata": counts | {"promptTokensDetails": details}, "promptFeedback": {}}
    events = [chunk_of([part]) | {"usageMetadata": {"promptTokenCount": 9}} for part in parts]
    return chunk_of(parts, **end) | usage, sse(*events, chunk_of([{"text": ""}], **end) | usage, done=False)


def _cohere(driver: Any) -> tuple[dict[str, Any], list[bytes]]:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    content = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Hel"}]
    message = {"role": "assistant", "content": content, "tool_plan": "Look.", "tool_calls": [call], "citations": []}
    whole = {"id": "id-1", "message": message, "finish_reason": "TOOL_CALL", "usage": driver.counts(), "logprobs": None}
    start = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    return whole, sse(
        {"id": "id-1", "type": "message-start", "delta": {"message": start}},
        {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "Look."}}},
        {"type": "tool-call-start", "index": 0, "delta": {"message": {"tool_calls": call}}},
        {
            "type": "tool-call-delta",
            "index": 0,
            "delta": {"message": {"tool_calls": {"function": {"arguments": "{}"}}}},
        },
        {"type": "tool-call-end", "index": 0},
        {"type": "message-end", "delta": {"finish_reason": "TOOL_CALL", "usage": driver.counts()}},
    )


def _converse(driver: Any) -> tuple[dict[str, Any], list[bytes]]:
    thought = {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "s"}}}
    call = {"toolUse": {"toolUseId": "t", "name": "look", "input": {"a": 1}}}
    facts = {"usage": driver.counts, "metrics": {"latencyMs": 5}, "performanceConfig": {"latency": "standard"}}
    message = {"role": "assistant", "content": [thought, {"text": "Hel"}, call]}
    delta = {"reasoningContent": {"text": "Hm."}}
    events: Sequence[tuple[str, dict[str, Any]]] = (
        ("messageStart", {"role": "assistant", "p": "abc"}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": delta}),
        ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "Hel"}}),
        ("contentBlockStart", {"contentBlockIndex": 2, "start": {"toolUse": {"toolUseId": "t", "name": "look"}}}),
        ("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": "{}"}}}),
        ("contentBlockStop", {"contentBlockIndex": 2}),
        ("messageStop", {"stopReason": "tool_use", "additionalModelResponseFields": {}}),
        ("metadata", facts | {"trace": {"guardrail": {"inputAssessment": {}}}}),
    )
    whole = {"output": {"message": message}, "stopReason": "tool_use", **facts}
    return whole, [aws_event(name, payload) for name, payload in events]


def _invoke() -> tuple[dict[str, Any], list[bytes]]:
    metrics = {"inputTokenCount": 9, "outputTokenCount": 5, "invocationLatency": 90, "firstByteLatency": 30}
    whole = {
        "inputTextTokenCount": 9,
        "results": [{"tokenCount": 5, "outputText": "Hel", "completionReason": "FINISH"}],
    }
    events: list[dict[str, Any]] = [
        {"outputText": "Hel", "index": 0, "inputTextTokenCount": 9, "amazon-bedrock-guardrailAction": "NONE"},
        {"outputText": "lo", "index": 0},
        {"outputText": "", "index": 0, "totalOutputTextTokenCount": 5, "completionReason": "FINISH"},
    ]
    events[-1]["amazon-bedrock-invocationMetrics"] = metrics
    return whole, [
        aws_event("chunk", {"bytes": base64.b64encode(json.dumps(event).encode()).decode()}) for event in events
    ]


def _ollama() -> tuple[dict[str, Any], list[bytes]]:
    last_fields = ndjson.COUNTS | ndjson.DURATIONS | {"logprobs": [{"token": "x", "logprob": -0.1}]}
    call = {"function": {"name": "look", "arguments": {"a": 1}}}
    whole = ndjson.line("/api/chat", "Hel", thinking="Hm.", done=True, **last_fields)
    whole["message"] |= {"tool_calls": [call], "images": None}
    objects = [
        ndjson.line("/api/chat", "", thinking="Hm."),
        ndjson.line("/api/chat", "Hel"),
        ndjson.line("/api/chat", ""),
    ]
    objects[2]["message"]["tool_calls"] = [call]
    return whole, ndjson.lines([*objects, ndjson.line("/api/chat", "", done=True, **last_fields)])


def rich(driver: Driver) -> tuple[dict[str, Any], list[bytes]]:
    """A whole answer's body and a stream's events for the client of ``driver``."""
    match driver:
        case by_funnel.Completions():
            return _completions(driver)
        case by_funnel.Responses():
            return _responses(driver)
        case by_funnel.Anthropic():
            return _messages(driver)
        case by_method.Google():
            return _google()
        case by_method.Cohere():
            return _cohere(driver)
        case by_method.BedrockInvoke():
            return _invoke()
        case by_method.Bedrock():
            return _converse(driver)
        case by_library.Ollama():
            return _ollama()
        case _:
            return _chat()
