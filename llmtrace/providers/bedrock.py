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
from llmtrace.providers.declare import Botocore, Operation, Provider, Request
from llmtrace.providers.generic_json import alternatives, loose_input, loose_output, written
from llmtrace.providers.messages import instructions, tool
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
_HEADER = "x-amzn-bedrock-{}-token-count"


def _read_request(body: Mapping[str, Any]) -> Request:
    return Request(text(body.get("modelId")), body["operation"].endswith("Stream"), body)


def _sent(request: Request) -> Mapping[str, Any]:
    """What was sent to the model: InvokeModel's body, Converse's own parameters."""
    return parsed(request.params["body"]) if "body" in request.params else request.params


def _request_attributes(request: Request) -> dict[str, Any]:
    sent = _sent(request)
    sources = [sent, *(get(sent, name) for name in _CONFIGS)]
    found: dict[str, Any] = {}
    for attribute, names in _PARAMS.items():
        accept = count if attribute.endswith(("max_tokens", "top_k")) else number
        if (value := _first(sources, names, accept)) is not None:
            found[attribute] = value
    places = (("reasoningConfig", "maxReasoningEffort"), ("output_config", "effort"))  # Nova's, Anthropic's
    levels = [text(get(source, "reasoning_effort")) for source in sources]
    levels += [text(get(get(source, name), field)) for source in sources for name, field in places]
    if level := next((each for each in levels if each), None):
        found[conventions.REASONING_LEVEL] = level
    if stops := [stop for source in sources for name in _STOPS for stop in items(get(source, name))]:
        found[conventions.STOP_SEQUENCES] = [stop for stop in stops if isinstance(stop, str)]
    return found


def _first(sources: Iterable[Any], names: Sequence[str], accept: Any = count) -> Any:
    for source in sources:
        for name in names:
            if (value := accept(get(source, name))) is not None:
                return value
    return None


def _opened(event: Any) -> Any:
    """A stream's event; of InvokeModel's, which hold bytes, the JSON in them."""
    data = get(get(event, "chunk"), "bytes")
    return event if data is None else parsed(data)


def _kind_of(event: Any) -> int:
    opened = _opened(event)
    delta = get(get(opened, "contentBlockDelta"), "delta") or get(opened, "delta")  # Converse and Nova; Anthropic
    if get(delta, "reasoningContent") or get(delta, "thinking"):
        return REASONING
    if get(delta, "toolUse") or get(delta, "partial_json"):
        return OUTPUT
    for source in (delta, opened, *alternatives(opened)):
        for part in (source, get(source, "delta"), get(source, "message")):
            if written(part):
                return OUTPUT
            if get(part, "reasoning_content"):
                return REASONING
    return NOTHING


def _layers(said: Any) -> Iterator[Any]:
    """All places in an answer or an event where something about the answer may stand, the last word first."""
    yield from (get(said, _METRICS), get(get(said, "metadata"), "usage"), get(said, "usage"))
    message = get(said, "message")  # Anthropic's first event, whose count of output is a placeholder
    begun = {name: value for name, value in fields(get(message, "usage")).items() if name not in _OUTPUTS}
    yield from (said, get(said, "delta"), get(said, "messageStop"), message, begun, *alternatives(said))


def _usage(sources: Sequence[Any], headers: Mapping[str, Any]) -> Usage:
    """Counts, of which the cache's come on top of the input's, unless the total says that they are in it."""
    names = {"input": _INPUTS, "output": _OUTPUTS, "cache-read-input": _READS, "cache-write-input": _WRITES}
    told: dict[str, int | None] = {}
    for name, keys in names.items():
        header = text(headers.get(_HEADER.format(name)))
        told[name] = _first(sources, keys)
        if told[name] is None and header and header.isdecimal():
            told[name] = int(header)
    inputs, read, write = told["input"], told["cache-read-input"], told["cache-write-input"]
    outputs = told["output"]
    if outputs is None and (each := [count(get(part, "tokenCount")) for part in sources]) and any(each):
        outputs = sum(tokens or 0 for tokens in each)  # Titan, which counts each result
    cached = (read or 0) + (write or 0)
    total = _first(sources, ("totalTokens", "total_tokens"))
    if inputs is not None and (total != inputs + (outputs or 0) or cached > inputs):
        inputs += cached
    details = [get(get(source, "prompt_tokens_details"), "cached_tokens") for source in sources]
    return Usage(inputs, outputs, read if read is not None else _first([{"c": d} for d in details], ("c",)), write)


def _read(said: Sequence[Any], headers: Mapping[str, Any]) -> Answer:
    layers = [layer for each in reversed(said) for layer in _layers(each) if layer is not None]
    answer = Answer(id=_first(layers, ("id",), text), model=_first(layers, ("model",), text))
    if answer.id is None and (numbered := _first(layers, ("id",))) is not None:
        answer.id = str(numbered)  # AI21
    last, metadata = said[-1], get(said[-1], "metadata")
    router = get(get(last, "trace") or get(metadata, "trace"), "promptRouter")
    answer.model = answer.model or text(get(router, "invokedModelId"))
    places = ([layer, *(get(layer, name) for name in _REASONS)] for layer in layers)
    reasons = (_first(place, (*_REASONS, "reason"), text) for place in places)
    answer.finish_reasons = tuple(reason for reason in reasons if reason)
    answer.usage = _usage(layers, headers)
    sources = (get(last, _METRICS), get(metadata, "metrics"), get(last, "metrics"))
    answer.timings = read_bedrock(*sources, headers)
    return answer


def _read_chunks(events: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    return _read([_opened(event) for event in events], {})


def _said(response: Any) -> Any:
    return parsed(response["body"]) if "body" in response else response


def _read_response(response: Any, headers: Mapping[str, str] | None) -> Answer:
    return _read([_said(response)], fields(get(get(response, "ResponseMetadata"), "HTTPHeaders")))


def _tools(request: Request) -> list[dict[str, Any]]:
    """The tools of Converse and Nova, each in an object named after its kind, or those of Anthropic's shape."""
    sent = _sent(request)
    held = [spec for each in items(get(sent.get("toolConfig"), "tools")) for spec in fields(each).values()]
    return [tool(each) for each in (*held, *items(sent.get("tools"))) if get(each, "name")]


def _output(answer: Any, streamed: bool) -> list[dict[str, Any]]:
    said = [_opened(event) for event in items(answer)] if streamed else [_said(answer)]
    reasons = _read(said, {}).finish_reasons if said else ()
    return loose_output(said, (reasons or ("error",))[0])


CHAT = Operation(
    name="chat",
    read_request=_read_request,
    request_attributes=_request_attributes,
    classify_chunk=_kind_of,
    read_chunks=_read_chunks,
    read_response=_read_response,
    system_instructions=lambda request: instructions(_sent(request).get("system")),
    tool_definitions=_tools,
    input_messages=lambda request: loose_input(_sent(request)),
    output_messages=_output,
)
COMPLETION = replace(CHAT, name="text_completion")
EMBEDDINGS = replace(CHAT, name="embeddings", input_messages=lambda request: None, output_messages=lambda *_: None)


def _operation(name: str, params: Mapping[str, Any]) -> Operation | None:
    """Which operation an API call is: an InvokeModel's model or body says."""
    if name in ("Converse", "ConverseStream"):
        return CHAT
    if name not in ("InvokeModel", "InvokeModelWithResponseStream"):
        return None
    if "embed" in str(params.get("modelId")):
        return EMBEDDINGS
    body: Any = params.get("body")
    if isinstance(body, str):
        return CHAT if '"messages"' in body else COMPLETION
    return CHAT if isinstance(body, (bytes, bytearray)) and b'"messages"' in body else COMPLETION


RUNTIME = Botocore(service="bedrock-runtime", path="/model/", operation=_operation)
BEDROCK = Provider(
    hooks=(),
    services=(RUNTIME,),
    provider_name=lambda client, host: "aws.bedrock",
    base_url=lambda client: client.meta.endpoint_url,
)
AIOBOTOCORE = replace(BEDROCK, services=(replace(RUNTIME, asynchronous=True),))
