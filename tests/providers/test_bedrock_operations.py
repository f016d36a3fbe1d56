"""Bedrock: what is asked through an inference profile, whose ARN says nothing of the model, and reranking."""

from __future__ import annotations

import base64
import json
from typing import Any

import boto3
import pytest
from botocore.config import Config

from llmtrace.providers import bedrock
from tests.conftest import Tracing
from tests.support.by_method import EVENT_STREAM, aws_event
from tests.support.replay import Replay, Script, json_answer
from tests.support.spans import Spans, assert_golden, attributes, shape

ARN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc"
HEADERS = {"x-amzn-requestid": "req-9", "x-amzn-bedrock-input-token-count": "8"}
CLAUDE = {
    "id": "msg_bdrk_1",
    "type": "message",
    "content": [{"type": "text", "text": "a"}],
    "usage": {"input_tokens": 5, "output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}},
}
RANKED = {"results": [{"index": 0, "relevance_score": 0.5}]}
TITAN = {"results": [{"tokenCount": 3, "outputText": "x", "completionReason": "FINISH"}]}


def client(service: str, url: str) -> Any:
    return boto3.client(  # type: ignore[call-overload]
        service,
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(retries={"max_attempts": 1}),
    )


CASES: list[tuple[str, str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("rerank", ARN, {"query": "q", "documents": ["SENTINEL"], "api_version": 2}, RANKED, {"input_tokens": 8}),
    ("rerank", "cohere.rerank-v3-5:0", {"query": "q", "documents": ["d"]}, RANKED, {"input_tokens": 8}),
    ("embeddings", ARN, {"inputText": "SENTINEL"}, {"embedding": [0.1], "inputTextTokenCount": 3}, {"input_tokens": 3}),
    ("embeddings", ARN, {"texts": ["SENTINEL"]}, {"id": "co-1", "embeddings": [[0.1]]}, {"input_tokens": 8}),
    ("embeddings", ARN, {"inputs": [{"content": []}], "input_type": "image"}, {"id": "co-2"}, {"input_tokens": 8}),
    ("embeddings", ARN, {"taskType": "SINGLE_EMBEDDING", "singleEmbeddingParams": {}}, {"embeddings": []}, {}),
    ("text_completion", ARN, {"inputText": "q", "textGenerationConfig": {}}, TITAN, {"output_tokens": 3}),
    ("text_completion", "amazon.titan-text", {"inputText": "q"}, TITAN, {"output_tokens": 3}),
    ("chat", ARN, {"messages": []}, CLAUDE, {"output_tokens": 9, "reasoning.output_tokens": 4}),
]


@pytest.mark.parametrize(("operation", "model", "body", "answer", "usage"), CASES)
def test_what_is_invoked(
    operation: str,
    model: str,
    body: dict[str, Any],
    answer: dict[str, Any],
    usage: dict[str, int],
    replay: Replay,
    tracing: Tracing,
    spans: Spans,
) -> None:
    replay.serve(json_answer(answer, headers=HEADERS))
    tracing.on("bedrock")
    runtime = client("bedrock-runtime", replay.url)
    response = runtime.invoke_model(modelId=model, body=json.dumps(body))
    assert json.loads(response["body"].read()) == answer
    span = spans.one("completed")
    attrs = attributes(span)
    assert span.name == f"{operation} {model}"
    assert attrs.get("gen_ai.response.id") == answer.get("id")
    assert {f"gen_ai.usage.{name}": count for name, count in usage.items()}.items() <= attrs.items()


def test_reranking_by_agents_for_bedrock(replay: Replay, tracing: Tracing, spans: Spans) -> None:
    replay.serve(json_answer({"results": [{"index": 0, "relevanceScore": 0.25}]}, headers=HEADERS))
    tracing.on("bedrock", capture_content=True)
    arn = "arn:aws:bedrock:us-east-1::foundation-model/cohere.rerank-v3-5:0"
    reranking = {"modelConfiguration": {"modelArn": arn}}
    document = {"type": "TEXT", "textDocument": {"text": "SENTINEL"}}
    agents = client("bedrock-agent-runtime", replay.url)
    response = agents.rerank(
        queries=[{"type": "TEXT", "textQuery": {"text": "SENTINEL"}}],
        sources=[{"type": "INLINE", "inlineDocumentSource": document}],
        rerankingConfiguration={"type": "BEDROCK_RERANKING_MODEL", "bedrockRerankingConfiguration": reranking},
    )
    assert response["results"] == [{"index": 0, "relevanceScore": 0.25}]
    span = spans.one("completed")
    assert span.name == "rerank cohere.rerank-v3-5:0"
    assert not [value for value in attributes(span).values() if "SENTINEL" in str(value)]
    assert_golden("rerank", shape(spans, span))


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", "5", 7, None, b'{"query": 1', '{"documents": {}, "query": []}'])
def test_bodies_that_say_nothing(body: Any) -> None:
    operation = bedrock.BEDROCK.services[0].operation("InvokeModel", {"modelId": ARN, "body": body})
    assert operation in (bedrock.COMPLETION, bedrock.RERANK)


def test_a_tool_call_is_the_first_token_of_a_model_in_openais_shape(
    replay: Replay, tracing: Tracing, spans: Spans
) -> None:
    """Of which InvokeModel passes on what the model's maker sends."""
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    deltas = [{"role": "assistant", "content": ""}, {"tool_calls": [call]}, {"content": None}]
    documents = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    documents[-1]["choices"][0]["finish_reason"] = "tool_calls"
    events = [aws_event("chunk", {"bytes": base64.b64encode(json.dumps(one).encode()).decode()}) for one in documents]
    replay.serve(Script(200, EVENT_STREAM, [(0.0, event) for event in events]))
    tracing.on("bedrock")
    runtime = client("bedrock-runtime", replay.url)
    list(runtime.invoke_model_with_response_stream(modelId="qwen.qwen3", body='{"messages": []}')["body"])
    span = spans.one("completed")
    assert attributes(span)["gen_ai.response.finish_reasons"] == ("tool_calls",)
    assert "decode" in spans.phases(span)
