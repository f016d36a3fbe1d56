"""Google's client (google-genai), for the Gemini API and Vertex AI: where its calls are."""

from __future__ import annotations

from typing import Any

from llmtrace.providers.declare import Method, Operation, Provider
from llmtrace.providers.google_genai import EMBED, GENERATE
from llmtrace.providers.google_interactions import METHODS as INTERACTIONS
from llmtrace.providers.google_live import CONVERSATION as LIVE


def _method(cls: str, name: str, operation: Operation = GENERATE) -> Method:
    streaming = name.endswith("_stream")
    return Method(
        module="google.genai.models",
        path=f"{cls}.{name}",
        operation=operation,
        body=lambda client, args, kwargs: {**kwargs, "stream": streaming},
    )


def _senders(client: Any) -> list[Any]:
    """Its HTTP clients, and the session of aiohttp that its asynchronous calls go through where that is installed."""
    configuration = getattr(client, "sdk_configuration", None)
    if configuration is not None:  # the interactions', which have clients of their own
        clients = [configuration.client, configuration.async_client]
    else:
        api = client._api_client
        clients = [getattr(api, name, None) for name in ("_httpx_client", "_async_httpx_client", "_aiohttp_session")]
    # An asynchronous one may send through another for each event loop.
    inner = [loop_client for each in clients for loop_client in getattr(each, "_loop_clients", {}).values()]
    return [*clients, *inner]


GOOGLE_GENAI = Provider(
    hooks=tuple(
        method
        for cls in ("Models", "AsyncModels")
        for method in (
            _method(cls, "_generate_content"),
            _method(cls, "_generate_content_stream"),
            _method(cls, "embed_content", EMBED),
        )
    )
    + INTERACTIONS
    + (LIVE,),
    provider_name=lambda client, host: "gcp.vertex_ai" if client._api_client.vertexai else "gcp.gemini",
    senders=_senders,
    base_url=lambda client: client._api_client._http_options.base_url,
)
