"""LiteLLM: one logical call, whichever provider's client or handler makes its HTTP requests beneath.

What LiteLLM hands out is in OpenAI's shape, with the provider's unknown fields left in whole answers. In streams it
takes the usage off the chunks: what the provider reported stays on the chunks that the stream object keeps, while the
usage it may hand out at the end can be its own count of the text. Only what was reported is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmtrace.observe.answer import Answer, Usage
from llmtrace.observe.call import NOTHING, OUTPUT
from llmtrace.providers import openai
from llmtrace.providers.declare import Method, Provider, Request
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
}
"""Beginnings of model names that LiteLLM takes without the provider's name before them."""

_USAGE = "usage"
_SERVED = "custom_llm_provider"


def read_request(body: Mapping[str, Any]) -> Request:
    """Model, stream and number of choices, and whom the call will go to, as far as its arguments tell."""
    request = openai.CHAT.read_request(body)
    model, chosen = request.model or "", text(body.get(_SERVED))
    if chosen is None and "/" in model:
        chosen = model.partition("/")[0]
    if chosen is not None:
        request.provider = _PROVIDERS.get(chosen, chosen)
    else:
        request.provider = next((name for start, name in _BARE.items() if model.startswith(start)), "litellm")
    return request


def read_routed(body: Mapping[str, Any]) -> Request:
    """The same for a router, whose model names are its own."""
    return replace(openai.CHAT.read_request(body), provider="litellm")


def kept(stream: Any) -> list[dict[str, Any]]:
    """What the stream object holds beside what it handed out: the usage that was reported, and who served."""
    chunks = get(stream, "chunks") or get(get(stream, "completion_stream"), "chunks")
    found: dict[str, Any] = {_SERVED: get(stream, _SERVED)}
    for chunk in items(chunks)[-4:]:
        if (usage := _reported(chunk)) is not None:
            found |= {**extras(chunk), _USAGE: usage}
    return [found]


def read_chunks(chunks: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    """The answer, from the chunks handed out (objects) and from what the stream object kept (mappings)."""
    told = [chunk for chunk in chunks if isinstance(chunk, dict)]
    answer = openai.CHAT.read_chunks([*chunks, *told], headers)
    if not any(_USAGE in more for more in told):
        answer.usage = Usage()  # what was handed out is LiteLLM's own count
    return _served(answer, told[-1] if told else None)


def read_response(response: Any, headers: Mapping[str, str] | None) -> Answer:
    """The answer that a whole response tells of."""
    answer = openai.CHAT.read_response(response, headers)
    if _reported(response) is None:
        answer.usage = Usage()
    return _served(answer, getattr(response, "_hidden_params", None))


def _reported(source: Any) -> Any:
    """The usage, None where there was none: LiteLLM puts one of noughts there, and no prompt has no tokens."""
    usage = get(source, _USAGE)
    return usage if get(usage, "prompt_tokens") else None


def _served(answer: Answer, source: Any) -> Answer:
    served = text(get(source, _SERVED))
    if served is not None and served != "cached_response":
        answer.provider = _PROVIDERS.get(served, served)
    return answer


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


def _arguments(*names: str) -> Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Mapping[str, Any]]:
    """A call's arguments as one mapping; ``names`` are those of the positional ones."""
    return lambda client, args, kwargs: {**dict(zip(names, args, strict=False)), **kwargs}


_FUNCTIONS = (
    ("completion", CHAT, ("model", "messages")),
    ("text_completion", TEXT, ("prompt", "model")),
    ("embedding", EMBED, ("model", "input")),
)
# The public functions, and those of the same names that they lead to, by which LiteLLM's own parts call each other.
_PLACES = (("litellm", ""), ("litellm.main", ""))
_ROUTERS = (("litellm.router_rust.core", "RustCore."), ("litellm.router", "Router."))

LITELLM = Provider(
    hooks=tuple(
        Method(
            module=module,
            path=f"{owner}{prefix}{name}",
            operation=replace(operation, read_request=read_routed) if owner else operation,
            body=_arguments(*names),
            kept=kept,
        )
        for module, owner in (*_PLACES, *_ROUTERS)
        for name, operation, names in _FUNCTIONS
        for prefix in ("", "a")
    ),
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
)
