"""What a provider is: a declaration of where its calls are and how to read them. No patching, no clocks, no spans."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmtrace.observe.facts import Answer


@dataclass(slots=True)
class Request:
    """What is known of a call before it is sent."""

    model: str | None
    streaming: bool
    params: Mapping[str, Any]
    """The request's body as the client will send it; read, never changed."""
    choices: int = 1


@dataclass(frozen=True, slots=True)
class Operation:
    """One API operation of a provider."""

    name: str
    """``gen_ai.operation.name``: chat, text_completion, embeddings, ..."""
    path: str
    """The request path that means this operation, as the client spells it before it adds a base URL."""
    read_request: Callable[[Mapping[str, Any]], Request]
    request_attributes: Callable[[Request], dict[str, Any]]
    """Span attributes of the request, made at the call's end."""
    kind_of: Callable[[Any], int]
    """What a chunk brings: ``NOTHING``, ``REASONING`` or ``OUTPUT`` of ``llmtrace.observe.call``."""
    read_chunks: Callable[[Sequence[Any], Mapping[str, str] | None], Answer]
    """The answer, from a stream's first and last chunks (client objects or plain dicts) and the headers."""
    read_response: Callable[[Any, Mapping[str, str] | None], Answer]
    """The answer, from a whole response (a client object or a plain dict) and the headers."""
    ask_for_usage: Callable[[Mapping[str, Any]], Mapping[str, Any] | None] = lambda body: None
    """A copy of the body that asks for usage in the stream, for the setting that wants it; None: leave it."""
    input_messages: Callable[[Request], Any] = lambda request: None
    """Content capture: the messages sent, in the GenAI conventions' shape."""
    output_messages: Callable[[Sequence[Any] | Any, bool], Any] = lambda answer, streamed: None
    """Content capture: the messages received, from all chunks or from the whole response."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One client library: where its calls pass through and which operations they are."""

    name: str
    """As in ``llmtrace.instrument(name)``; also the extra that installs the client."""
    distribution: str
    versions: str
    """The supported versions, as a requirement specifier: ``openai >= 1.40``."""
    client_module: str
    """Module with the client's ``SyncAPIClient`` and ``AsyncAPIClient``, through whose ``request`` all calls go."""
    stream_module: str
    """Module with the client's ``Stream`` and ``AsyncStream``."""
    operations: tuple[Operation, ...]
    provider_name: Callable[[Any, str | None], str]
    """``gen_ai.provider.name``, from the client object and the host it talks to."""
