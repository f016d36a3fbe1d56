"""Amazon Bedrock through botocore (boto3) or aiobotocore (aioboto3): Converse, InvokeModel, and both as event streams.

Field names: botocore's ``bedrock-runtime`` service model. What InvokeModel sends and gets is the model maker's JSON:
Anthropic's, Amazon's (Titan, Nova), Meta's, Mistral's, Cohere's, AI21's, DeepSeek's, or an imported model's. Each name
below is one of theirs; none means something else in another's. Counts stand in headers too (``x-amzn-bedrock-...``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmtrace import conventions
from llmtrace.observe.answer import Answer, Usage
from llmtrace.observe.call import NOTHING, OUTPUT, REASONING
from llmtrace.providers.block_streams import blocks_output, converse_output, is_blocks, is_converse
from llmtrace.providers.content_blocks import content_parts
from llmtrace.providers.declare import Botocore, Operation, Provider, Request
from llmtrace.providers.generic_json import alternatives, generic_input, generic_output, own_text
from llmtrace.providers.messages import chat_output, tool
from llmtrace.providers.safe import count, fields, get, items, number, parsed, text
from llmtrace.providers.timings import read_bedrock

_PARAMS = {
    conventions.MAX_TOKENS: (
        *("maxTokens", "max_tokens", "maxTokenCount", "max_gen_len", "max_tokens_to_sample", "max_new_tokens"),
        *("max_completion_tokens",),
    ),
    conventions.TEMPERATURE: ("temperature",),
    conventions.TOP_P: ("topP", "top_p", "p"),
    conventions.TOP_K: ("topK", "top_k", "k"),
}
_STOPS = ("stopSequences", "stop_sequences", "stop")
_CONFIGS = ("inferenceConfig", "textGenerationConfig", "additionalModelRequestFields")
_REASONS = ("stopReason", "stop_reason", "finishReason", "finish_reason", "completionReason")
_METRICS = "amazon-bedrock-invocationMetrics"
_INPUTS = (
    *("inputTokens", "input_tokens", "inputTokenCount", "inputTextTokenCount", "prompt_token_count"),
    *("prompt_tokens",),
)
_OUTPUTS = (
    *("outputTokens", "output_tokens", "outputTokenCount", "totalOutputTextTokenCount", "generation_token_count"),
    *("completion_tokens",),
)
_READS = ("cacheReadInputTokens", "cacheReadInputTokenCount", "cache_read_input_tokens")
_WRITES = ("cacheWriteInputTokens", "cacheWriteInputTokenCount", "cache_creation_input_tokens")
_THINKING = (("output_tokens_details", "thinking_tokens"), ("completion_tokens_details", "reasoning_tokens"))
"""Anthropic's, and that of the models in OpenAI's shape."""
_HEADER = "x-amzn-bedrock-{}-token-count"


def _read_request(body: Mapping[str, Any]) -> Request:
    return Request(text(body.get("modelId")), body["operation"].endswith("Stream"), body)


def _request_document(request: Request) -> Mapping[str, Any]:
    """What was sent to the model: the JSON body of InvokeModel, or the parameters of Converse."""
    return parsed(request.params["body"]) if "body" in request.params else request.params


def _request_attributes(request: Request) -> dict[str, Any]:
    body = _request_document(request)
    sources = [body, *(get(body, name) for name in _CONFIGS)]
    attributes: dict[str, Any] = {}
    for attribute, names in _PARAMS.items():
        accept = count if attribute.endswith(("max_tokens", "top_k")) else number
        if (value := _first(sources, names, accept)) is not None:
            attributes[attribute] = value
    places = (("reasoningConfig", "maxReasoningEffort"), ("output_config", "effort"))  # Nova's, Anthropic's
    levels = [text(get(source, "reasoning_effort")) for source in sources]
    levels += [text(get(get(source, name), field)) for source in sources for name, field in places]
    if level := next((candidate for candidate in levels if candidate), None):
        attributes[conventions.REASONING_LEVEL] = level
    if stops := [stop for source in sources for name in _STOPS for stop in items(get(source, name))]:
        attributes[conventions.STOP_SEQUENCES] = [stop for stop in stops if isinstance(stop, str)]
    return attributes


def _first(sources: Iterable[Any], names: Sequence[str], accept: Any = count) -> Any:
    for source in sources:
        for name in names:
            if (value := accept(get(source, name))) is not None:
                return value
    return None


def _event_document(event: Any) -> Any:
    """A stream's event as a mapping; an event of InvokeModel holds bytes, whose JSON is parsed."""
    data = get(get(event, "chunk"), "bytes")
    return event if data is None else parsed(data)


def _classify_chunk(event: Any) -> int:
    opened = _event_document(event)
    delta = get(get(opened, "contentBlockDelta"), "delta") or get(opened, "delta")  # Converse and Nova; Anthropic
    if get(delta, "reasoningContent") or get(delta, "thinking"):
        return REASONING
    if get(delta, "toolUse") or get(delta, "partial_json"):
        return OUTPUT
    for source in (delta, opened, *alternatives(opened)):
        for part in (source, get(source, "delta"), get(source, "message")):
            if own_text(part) or get(part, "tool_calls"):
                return OUTPUT
            if get(part, "reasoning_content"):
                return REASONING
    return NOTHING


def _layers(document: Any) -> Iterator[Any]:
    """Yields every part of an answer or an event that may tell something of the answer, the most final one first."""
    yield from (get(document, _METRICS), get(get(document, "metadata"), "usage"), get(document, "usage"))
    message = get(document, "message")  # Anthropic's first event, whose count of output is a placeholder
    first_usage = {name: value for name, value in fields(get(message, "usage")).items() if name not in _OUTPUTS}
    yield from (
        document,
        get(document, "delta"),
        get(document, "messageStop"),
        message,
        first_usage,
        *alternatives(document),
    )


def _usage(sources: Sequence[Any], headers: Mapping[str, Any]) -> Usage:
    """The token counts. Cached tokens are added to the input's, unless the total shows that they are in it already."""
    names = {"input": _INPUTS, "output": _OUTPUTS, "cache-read-input": _READS, "cache-write-input": _WRITES}
    counts: dict[str, int | None] = {}
    for name, keys in names.items():
        header = text(headers.get(_HEADER.format(name)))
        counts[name] = _first(sources, keys)
        if counts[name] is None and header and header.isdecimal() and len(header) < 20:
            counts[name] = count(int(header))
    inputs, read, write = counts["input"], counts["cache-read-input"], counts["cache-write-input"]
    outputs = counts["output"]
    if (
        outputs is None
        and (result_counts := [count(get(part, "tokenCount")) for part in sources])
        and any(result_counts)
    ):
        outputs = sum(tokens or 0 for tokens in result_counts)  # Titan, which counts each result
    cached = (read or 0) + (write or 0)
    total = _first(sources, ("totalTokens", "total_tokens"))
    if inputs is not None and (total != inputs + (outputs or 0) or cached > inputs):
        inputs += cached
    if read is None:
        read = _detail(sources, "prompt_tokens_details", "cached_tokens")
    thinking = next((tokens for place in _THINKING if (tokens := _detail(sources, *place)) is not None), None)
    return Usage(inputs, outputs, read, write, thinking)


def _detail(sources: Sequence[Any], details: str, name: str) -> int | None:
    """The first count of that name in the sources' details."""
    return _first([get(source, details) for source in sources], (name,))


def _read(documents: Sequence[Any], headers: Mapping[str, Any]) -> Answer:
    layers = [layer for document in reversed(documents) for layer in _layers(document) if layer is not None]
    answer = Answer(id=_first(layers, ("id",), text), model=_first(layers, ("model",), text))
    if answer.id is None and (numeric_id := _first(layers, ("id",))) is not None:
        answer.id = str(numeric_id)  # AI21
    last, metadata = documents[-1], get(documents[-1], "metadata")
    router = get(get(last, "trace") or get(metadata, "trace"), "promptRouter")
    answer.model = answer.model or text(get(router, "invokedModelId"))
    fields_by_layer = ([layer, *(get(layer, name) for name in _REASONS)] for layer in layers)
    reasons = (_first(layer_fields, (*_REASONS, "reason"), text) for layer_fields in fields_by_layer)
    answer.finish_reasons = tuple(reason for reason in reasons if reason)
    answer.usage = _usage(layers, headers)
    sources = (get(last, _METRICS), get(metadata, "metrics"), get(last, "metrics"))
    answer.timings = read_bedrock(*sources, headers)
    return answer


def _read_chunks(events: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    return _read([_event_document(event) for event in events], {})


def _response_document(response: Any) -> Any:
    """A whole response as a mapping: the JSON body of InvokeModel, or the response of Converse."""
    return parsed(response["body"]) if "body" in response else response


def _read_response(response: Any, headers: Mapping[str, str] | None) -> Answer:
    return _read([_response_document(response)], fields(get(get(response, "ResponseMetadata"), "HTTPHeaders")))


def _tools(request: Request) -> list[dict[str, Any]]:
    """The tools: those of Converse and Nova lie each in an object named after its kind, Anthropic's in a plain list."""
    body = _request_document(request)
    specs = [spec for entry in items(get(body.get("toolConfig"), "tools")) for spec in fields(entry).values()]
    return [tool(definition) for definition in (*specs, *items(body.get("tools"))) if get(definition, "name")]


def _output(answer: Any, streamed: bool) -> list[dict[str, Any]]:
    """The messages received, by the shape of the answer: Converse's, Anthropic's, OpenAI's, or another maker's."""
    documents = [_event_document(event) for event in items(answer)] if streamed else [_response_document(answer)]
    reasons = _read(documents, {}).finish_reasons if documents else ()
    end = reasons[0] if reasons else None
    if any(map(is_converse, documents)):
        return converse_output(documents, end)
    if any(map(is_blocks, documents)):
        return blocks_output(documents if streamed else documents[0], streamed)
    choices = [choice for document in documents for choice in items(get(document, "choices"))]
    if any(get(choice, "message" if not streamed else "delta") is not None for choice in choices):
        return chat_output(documents if streamed else documents[0], streamed)
    return generic_output(documents, reasons)


CHAT = Operation(
    name="chat",
    read_request=_read_request,
    request_attributes=_request_attributes,
    classify_chunk=_classify_chunk,
    read_chunks=_read_chunks,
    read_response=_read_response,
    system_instructions=lambda request: content_parts(_request_document(request).get("system")),
    tool_definitions=_tools,
    input_messages=lambda request: generic_input(_request_document(request)),
    output_messages=_output,
)
COMPLETION = replace(CHAT, name="text_completion")
_SILENT = replace(CHAT, input_messages=lambda request: None, output_messages=lambda *_: None)
EMBEDDINGS = replace(_SILENT, name="embeddings")


def _rerank_request(body: Mapping[str, Any]) -> Request:
    """Of Agents for Amazon Bedrock, which name the model by its ARN; in InvokeModel it is as for any other."""
    configuration = get(get(body.get("rerankingConfiguration"), "bedrockRerankingConfiguration"), "modelConfiguration")
    arn = text(get(configuration, "modelArn"))
    return Request(text(body.get("modelId")) or (arn.rpartition("/")[2] if arn else None), False, body)


RERANK = replace(_SILENT, name="rerank", read_request=_rerank_request)
"""The conventions (v0.1.0) have no name for it."""


def _operation(name: str, params: Mapping[str, Any]) -> Operation | None:
    """The operation of an API call, for InvokeModel by its model or body; None for calls that are not traced."""
    if name in ("Converse", "ConverseStream"):
        return CHAT
    if name == "Rerank":
        return RERANK
    if name not in ("InvokeModel", "InvokeModelWithResponseStream"):
        return None
    model = str(params.get("modelId"))
    if "embed" in model:
        return EMBEDDINGS
    if "rerank" in model:
        return RERANK
    body: Any = params.get("body")
    words = body.encode(errors="replace") if isinstance(body, str) else body
    if not isinstance(words, (bytes, bytearray)):
        return COMPLETION
    if b'"messages"' in words:
        return CHAT
    return _unnamed(parsed(words)) if model.startswith("arn:") else COMPLETION


_EMBEDDED = (
    "texts",
    "images",
    "input_type",
    "inputImage",
    "embeddingTypes",
    "embeddingConfig",
    "singleEmbeddingParams",
)
"""Fields that only a model of embeddings is sent: Cohere's, Titan's, Nova's."""


def _unnamed(body: Mapping[str, Any]) -> Operation:
    """The operation behind an inference profile, whose ARN does not name its model: by what is sent."""
    if "query" in body and "documents" in body:
        return RERANK
    only_text = "inputText" in body and "textGenerationConfig" not in body  # Titan's older model of embeddings
    return EMBEDDINGS if only_text or any(name in body for name in _EMBEDDED) else COMPLETION


def _senders(client: Any) -> list[Any]:
    """The connection pools of urllib3, or the sessions of aiohttp or httpx, that the client sends with."""
    session = client._endpoint.http_session
    if not any(hasattr(session, name) for name in ("_manager", "_sessions", "_session")):
        return []  # of the application's own make
    managers = [getattr(session, "_manager", None), *getattr(session, "_proxy_managers", {}).values()]
    pools = [pool for each in managers if each is not None for pool in map(each.pools.get, each.pools.keys())]
    sessions = [*(getattr(session, "_sessions", None) or {}).values(), getattr(session, "_session", None)]
    return [session, *pools, *sessions]  # itself, since it is there before those


RUNTIME = Botocore(
    paths={"bedrock-runtime": "/model/", "bedrock-agent-runtime": "/rerank"},
    operations=(CHAT, COMPLETION, EMBEDDINGS, RERANK),
    operation=_operation,
)
BEDROCK = Provider(
    hooks=(),
    services=(RUNTIME,),
    provider_name=lambda client, host: "aws.bedrock",
    senders=_senders,
    base_url=lambda client: client.meta.endpoint_url,
)
AIOBOTOCORE = replace(BEDROCK, services=(replace(RUNTIME, asynchronous=True),))
