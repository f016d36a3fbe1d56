"""LiteLLM: one logical call, whichever provider's client or handler makes its HTTP requests beneath.

What LiteLLM hands out is in OpenAI's shape, with the provider's unknown fields left in whole answers. In streams it
takes the usage off the chunks: what the provider reported stays on the chunks that the stream object keeps, while the
usage it may hand out at the end can be its own count of the text. Only what was reported is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from llmtrace.observe.answer import Answer, Usage
from llmtrace.observe.call import NOTHING, OUTPUT
from llmtrace.providers import cohere, litellm_apis, openai
from llmtrace.providers.declare import Method, Operation, Provider, Request
from llmtrace.providers.safe import extras, get, items, text

_PROVIDERS = {
    "anthropic_text": "anthropic",
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "azure_text": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "cohere_chat": "cohere",
    "gemini": "gcp.gemini",
    "hosted_vllm": "vllm",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "ollama_chat": "ollama",
    "sagemaker": "aws.sagemaker",
    "text-completion-openai": "openai",
    "vertex_ai": "gcp.vertex_ai",
    "vertex_ai_beta": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""LiteLLM's names where the conventions, or we, have others."""

_BARE = {
    "gpt-": "openai",
    "chatgpt-": "openai",
    "o1": "openai",
    "o3": "openai",
    "o4": "openai",
    "text-embedding-": "openai",
    "claude-": "anthropic",
    "command-": "cohere",
    "gemini-": "gcp.vertex_ai",
    "dall-e-": "openai",
    "tts-": "openai",
    "whisper-": "openai",
    "omni-moderation-": "openai",
    "text-moderation-": "openai",
    "rerank-": "cohere",
}
"""Beginnings of model names that LiteLLM takes without the provider's name before them."""

_USAGE_FIELD = "usage"
_PROVIDER_FIELD = "custom_llm_provider"


def read_request(body: Mapping[str, Any]) -> Request:
    """The model, the stream flag, the number of choices, and the provider as far as the arguments tell it."""
    request = openai.CHAT.read_request(body)
    model, provider = request.model or "", text(body.get(_PROVIDER_FIELD))
    if provider is None and "/" in model:
        provider = model.partition("/")[0]
    if provider is not None:
        request.provider = _PROVIDERS.get(provider, provider)
    else:
        request.provider = next((name for start, name in _BARE.items() if model.startswith(start)), "litellm")
    request.served = _served(body)
    return request


def read_routed(body: Mapping[str, Any]) -> Request:
    """The request of a router, whose model names are the application's own and name no provider."""
    return replace(openai.CHAT.read_request(body), provider="litellm", served=_served(body))


def _served(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The headers of the request that LiteLLM's proxy answers with this call."""
    headers = get(body.get("proxy_server_request"), "headers")
    return headers if isinstance(headers, Mapping) else None


def read_stream(stream: Any) -> list[dict[str, Any]]:
    """One mapping of what a stream object holds beside its chunks: the usage that was reported, and the provider."""
    chunks = get(stream, "chunks") or get(get(stream, "completion_stream"), "chunks")
    reported: dict[str, Any] = {_PROVIDER_FIELD: get(stream, _PROVIDER_FIELD)}
    for chunk in items(chunks)[-4:]:
        if (usage := _reported_usage(chunk)) is not None:
            reported |= {**extras(chunk), _USAGE_FIELD: usage}
    return [reported]


def read_chunks(chunks: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    """The answer, from the chunks handed out (objects) and from what the stream object keeps (mappings)."""
    stream_facts = [chunk for chunk in chunks if isinstance(chunk, dict)]
    answer = openai.CHAT.read_chunks([*chunks, *stream_facts], headers)
    if not any(_USAGE_FIELD in facts for facts in stream_facts):
        answer.usage = Usage()  # what was handed out is LiteLLM's own count
    return _set_provider(answer, stream_facts[-1] if stream_facts else None)


def read_response(response: Any, headers: Mapping[str, str] | None) -> Answer:
    """The answer that a whole response tells of."""
    answer = openai.CHAT.read_response(response, headers)
    if _reported_usage(response) is None:
        answer.usage = Usage()
    return _set_provider(answer, getattr(response, "_hidden_params", None))


def _reported_usage(source: Any) -> Any:
    """The usage that the provider reported; None where LiteLLM filled in one of zeros (no prompt has 0 tokens)."""
    usage = get(source, _USAGE_FIELD)
    return usage if get(usage, "prompt_tokens") else None


def _set_provider(answer: Answer, source: Any) -> Answer:
    """Set the provider that ``source`` names; an answer from LiteLLM's own cache names none."""
    provider = text(get(source, _PROVIDER_FIELD))
    if provider is not None and provider != "cached_response":
        answer.provider = _PROVIDERS.get(provider, provider)
    return answer


def _of_its_own(operation: Operation) -> Operation:
    """An operation of another API, with the provider that LiteLLM chose for the model."""

    def chunks_read(chunks: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
        stream_facts = [chunk for chunk in chunks if _is_facts(chunk)]
        answer = operation.read_chunks([chunk for chunk in chunks if not _is_facts(chunk)], headers)
        return _set_provider(answer, stream_facts[-1] if stream_facts else None)

    def response_read(response: Any, headers: Mapping[str, str] | None) -> Answer:
        return _set_provider(operation.read_response(response, headers), getattr(response, "_hidden_params", None))

    return replace(
        operation, read_request=read_request, read_chunks=chunks_read, read_response=response_read, reroutes=True
    )


def _is_facts(chunk: Any) -> bool:
    """Whether ``read_provider`` has made it: none of an answer's events is a mapping of that one field."""
    return isinstance(chunk, dict) and _PROVIDER_FIELD in chunk


def read_provider(stream: Any) -> list[dict[str, Any]]:
    """One mapping with the provider, as the stream object of another API names it."""
    return [{_PROVIDER_FIELD: get(stream, _PROVIDER_FIELD)}]


CHAT = replace(
    openai.CHAT,
    path="",
    read_request=read_request,
    read_chunks=read_chunks,
    read_response=read_response,
    ask_for_usage=lambda body: None,
    reroutes=True,
)
TEXT = replace(
    CHAT,
    name="text_completion",
    classify_chunk=lambda chunk: (
        OUTPUT if any(get(choice, "text") for choice in items(get(chunk, "choices"))) else NOTHING
    ),
    input_messages=lambda request: None,
    output_messages=lambda answer, streamed: None,
)
EMBED = replace(
    CHAT,
    name="embeddings",
    input_messages=lambda request: None,
    output_messages=lambda answer, streamed: None,
)


RESPONSES = _of_its_own(litellm_apis.RESPONSES)
MESSAGES = _of_its_own(litellm_apis.MESSAGES)
RERANK = _of_its_own(cohere.RERANK)
MEDIA = {operation.name: _of_its_own(operation) for operation in litellm_apis.MEDIA}
"""Images, audio and moderation, by operation."""


def _arguments(*names: str) -> Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Mapping[str, Any]]:
    """A call's arguments as one mapping; ``names`` are those of the positional ones."""
    return lambda client, args, kwargs: {**dict(zip(names, args, strict=False)), **kwargs}


class _Api(NamedTuple):
    """One of LiteLLM's APIs: its functions, in all places where they can be called."""

    modules: tuple[str, ...]
    functions: tuple[str, ...]
    operation: Operation
    parameters: tuple[str, ...]
    """The positional ones, as far as we need them."""
    read_stream: Callable[[Any], Sequence[Any]] = read_stream


# The public functions, and those of the same names that they lead to, by which LiteLLM's own parts call each other.
_MAIN = ("litellm", "litellm.main")
_ROUTERS = ("litellm.router_rust.core", "litellm.router")
_APIS = (
    _Api(_MAIN, ("completion", "acompletion"), CHAT, ("model", "messages")),
    _Api(_MAIN, ("text_completion", "atext_completion"), TEXT, ("prompt", "model")),
    _Api(_MAIN, ("embedding", "aembedding"), EMBED, ("model", "input")),
    _Api(
        ("litellm", "litellm.responses.dispatch", "litellm.responses.main"),
        ("responses", "aresponses"),
        RESPONSES,
        ("input", "model"),
        read_provider,
    ),
    _Api(
        (
            *("litellm", "litellm.messages", "litellm.messages.dispatch"),
            "litellm.llms.anthropic.messages.native.handler",
            "litellm.llms.anthropic.experimental_pass_through.messages.handler",
        ),
        ("anthropic_messages", "anthropic_messages_handler"),
        MESSAGES,
        ("max_tokens", "messages", "model"),
        read_provider,
    ),
    _Api(
        ("litellm.anthropic_interface.messages",),
        ("create", "acreate"),
        MESSAGES,
        ("max_tokens", "messages", "model"),
        read_provider,
    ),
    *(
        _Api(("litellm", module), (name, f"a{name}"), operation, parameters, read_provider)
        for module, name, operation, parameters in (
            ("litellm.images.main", "image_generation", MEDIA["image_generation"], ("prompt", "model")),
            ("litellm.images.main", "image_edit", MEDIA["image_generation"], ("image",)),
            ("litellm.images.main", "image_variation", MEDIA["image_generation"], ("image", "model")),
            ("litellm.main", "speech", MEDIA["text_to_speech"], ("model",)),
            ("litellm.main", "transcription", MEDIA["transcription"], ("model",)),
            ("litellm.main", "moderation", MEDIA["moderation"], ("input", "model")),
            ("litellm.rerank_api.main", "rerank", RERANK, ("model",)),
        )
    ),
)
_ROUTED = (
    _Api(_ROUTERS, ("completion", "acompletion"), CHAT, ("model", "messages")),
    _Api(_ROUTERS, ("text_completion", "atext_completion"), TEXT, ("model", "prompt")),
    _Api(_ROUTERS, ("embedding", "aembedding"), EMBED, ("model", "input")),
    _Api(_ROUTERS, ("aresponses",), RESPONSES, ("model", "input"), read_provider),
    _Api(_ROUTERS, ("anthropic_messages", "aanthropic_messages"), MESSAGES, (), read_provider),
)


def _methods(apis: Sequence[_Api], owners: tuple[str, ...] = ("",)) -> Iterator[Method]:
    """The methods of ``apis``; ``owners``: the classes that they may lie in, each with a dot."""
    for api in apis:
        for module in api.modules:
            for owner in owners:
                for name in api.functions:
                    yield Method(
                        module=module,
                        path=owner + name,
                        operation=replace(api.operation, read_request=read_routed) if owner else api.operation,
                        body=_arguments(*api.parameters),
                        read_stream=api.read_stream,
                    )


LITELLM = Provider(
    hooks=(*_methods(_APIS), *_methods(_ROUTED, ("RustCore.", "Router."))),
    provider_name=lambda client, host: "litellm",
    base_url=lambda client: None,
    posts={
        "litellm.llms.custom_httpx.http_handler": (
            "HTTPHandler.post",
            "AsyncHTTPHandler.post",
            "AsyncHTTPHandler.single_connection_post_request",
        ),
        "openai._base_client": ("BaseClient._build_request",),
    },
    callbacks={"litellm.litellm_core_utils.litellm_logging": ("Logging.pre_call", "Logging.post_call")},
)
