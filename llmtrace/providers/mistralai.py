"""Mistral's own client: chat, agents, fill-in-the-middle and embeddings, whose bodies have OpenAI's shape.

Field names: mistralai's ``client/models`` (usageinfo, completionchunk, thinkchunk). Its layout was flat before 2.0, and
the clients for Azure and Google Cloud are packages beside it; all have the same methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmtrace import conventions
from llmtrace.observe.answer import Answer
from llmtrace.providers import chat_completions as openai
from llmtrace.providers.declare import Method, Operation, Provider, Request
from llmtrace.providers.messages import chat_output, user_message
from llmtrace.providers.safe import count, get, items, text

_LAYOUTS = (
    "mistralai",
    "mistralai.client",
    "mistralai.azure.client",
    "mistralai.gcp.client",
    "mistralai_azure",
    "mistralai_gcp",
)


def _request_attributes(request: Request) -> dict[str, Any]:
    attributes = openai.request_attributes(request)
    for name, attribute, accept in (
        ("random_seed", conventions.SEED, count),
        ("output_dimension", conventions.DIMENSIONS, count),
        ("agent_id", conventions.AGENT_ID, text),
    ):
        if (value := accept(request.params.get(name))) is not None:
            attributes[attribute] = value
    return attributes


def _classify_chunk(event: Any) -> int:
    return openai.classify_chunk(get(event, "data"))


def _chunk_text(event: Any) -> tuple[str, int | None]:
    return openai.chunk_text(get(event, "data"))


def _read_chunks(events: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    return _correct_answer(
        openai.read_chunks([get(event, "data") for event in events], headers), get(events[-1], "data")
    )


def _read_response(response: Any, headers: Mapping[str, str] | None) -> Answer:
    return _correct_answer(openai.read_response(response, headers), response)


def _correct_answer(answer: Answer, source: Any) -> Answer:
    """Add the service tier, which Mistral puts into the usage, and remove counts that are the client's defaults."""
    usage = get(source, "usage")
    fields_set = getattr(usage, "model_fields_set", None)
    if fields_set is not None and "prompt_tokens" not in fields_set:
        answer.usage.input_tokens = None
    if fields_set is not None and "completion_tokens" not in fields_set:
        answer.usage.output_tokens = None
    if tier := text(get(usage, "service_tier")):
        answer.service_tier = tier
        answer.extra = {**(answer.extra or {}), conventions.SERVICE_TIER: tier}
    return answer


def _output(answer: Sequence[Any] | Any, streamed: bool) -> Any:
    return chat_output([get(event, "data") for event in items(answer)] if streamed else answer, streamed)


def _whole(client: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**kwargs, "stream": False}


def _streamed(client: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**kwargs, "stream": True}


def _prompt(request: Request) -> Any:
    return user_message(request.params.get("prompt"))


CHAT = replace(
    openai.CHAT,
    path="",
    request_attributes=_request_attributes,
    classify_chunk=_classify_chunk,
    chunk_text=_chunk_text,
    ends=lambda event: openai.ends(get(event, "data")),
    read_chunks=_read_chunks,
    read_response=_read_response,
    output_messages=_output,
)
FILL_IN = replace(CHAT, name="text_completion", input_messages=_prompt)
EMBEDDINGS = replace(CHAT, name="embeddings", input_messages=lambda request: None, output_messages=lambda *_: None)


def _methods(module: str, cls: str, operation: Operation) -> list[Method]:
    bodies: tuple[tuple[str, str, Callable[..., Any]], ...]
    bodies = (("complete", "", _whole), ("stream", "generator", _streamed))
    if operation is EMBEDDINGS:
        bodies = (("create", "", _whole),)
    return [
        Method(module=module, path=f"{cls}.{name}{mode}", operation=operation, body=body, inner=inner)
        for name, inner, body in bodies
        for mode in ("", "_async")
    ]


def _base_url(client: Any) -> str:
    return client.sdk_configuration.get_server_details()[0]


def _senders(client: Any) -> list[Any]:
    """Both are httpx's, unless the application gave one of its own make, which may send with whatever it likes."""
    config = client.sdk_configuration
    clients = [getattr(config, name, None) for name in ("client", "async_client")]
    own_make = any(each is not None and not hasattr(each, "_transport") for each in clients)
    return [] if own_make else clients


def _provider_name(client: Any, host: str | None) -> str:
    module = type(client).__module__
    if "azure" in module:
        return "azure.ai.inference"
    return "gcp.vertex_ai" if "gcp" in module else "mistral_ai"


MISTRALAI = Provider(
    hooks=tuple(
        method
        for layout in _LAYOUTS
        for module, cls, operation in (
            ("chat", "Chat", CHAT),
            ("agents", "Agents", CHAT),
            ("fim", "Fim", FILL_IN),
            ("embeddings", "Embeddings", EMBEDDINGS),
        )
        for method in _methods(f"{layout}.{module}", cls, operation)
    ),
    provider_name=_provider_name,
    senders=_senders,
    base_url=_base_url,
    own_spans=True,
)
