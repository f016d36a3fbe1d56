"""The parts of a provider: declarations of where its calls are and how to read them. No patching, clocks or spans."""

from __future__ import annotations

import abc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llmtrace.fixed import fixed
from llmtrace.observe.answer import Answer
from llmtrace.observe.call import COMPLETED


@dataclass(slots=True, eq=False, repr=False)
class Request:
    """What is known of a call before it is sent."""

    model: str | None
    streaming: bool
    params: Mapping[str, Any]
    """The request's body as the client will send it; read, never changed."""
    choices: int = 1
    provider: str | None = None
    """``gen_ai.provider.name`` where the request, not the client, decides it."""
    served: Mapping[str, Any] | None = None
    """The headers of the request that the application is serving with this call, where it hands them on: a gateway."""


@fixed(kw_only=True)
class Operation:
    """One API operation of a provider."""

    name: str
    """``gen_ai.operation.name``: chat, text_completion, embeddings, ..."""
    path: str = ""
    """For clients that Stainless generates: the request path that means this operation, as the client spells it before
    it adds a base URL, without a query. Where a client spells a whole URL, its end is compared."""
    read_request: Callable[[Mapping[str, Any]], Request]
    request_attributes: Callable[[Request], dict[str, Any]]
    """Span attributes of the request, made at the call's end."""
    classify_chunk: Callable[[Any], int]
    """What a chunk contains: ``NOTHING``, ``REASONING`` or ``OUTPUT`` of ``llmtrace.observe.call``."""
    read_chunks: Callable[[Sequence[Any], Mapping[str, str] | None], Answer]
    """The answer, from a stream's first and last chunks (client objects or plain dicts) and the headers."""
    read_response: Callable[[Any, Mapping[str, str] | None], Answer]
    """The answer, from a whole response (a client object or a plain dict) and the headers."""
    chunk_text: Callable[[Any], tuple[str, int | None]] | None = None
    """The text in a chunk (reasoning and a tool call's arguments too), and the number of tokens that it lists (None: it
    lists none). It is read off a stream's last chunks at the stream's end, and never kept."""
    ends: Callable[[Any], bool] | None = None
    """Whether a chunk ends one of several choices, which may be long before the stream's end."""
    announces: bool = False
    """Whether a stream's first event comes at once, before the prompt is computed."""
    in_tokens: bool = True
    """Whether the pieces of a stream are tokens of a model. Where they are not (a picture half done, sound), there is
    no first token that could part prefill from decode."""
    reroutes: bool = False
    """Whether a call's attempts may ask different models: each attempt then says which."""
    ask_for_usage: Callable[[Mapping[str, Any]], Mapping[str, Any] | None] = lambda body: None
    """A copy of the body that asks for usage in the stream, for the setting that wants it; None: leave it."""
    complete: Callable[[Request, Answer], None] | None = None
    """Completes the answer from the request's mapping: with the counters of a model in this process, say."""
    system_instructions: Callable[[Request], Any] = lambda request: None
    """Content capture: what the model is told apart from the history, as parts of the GenAI conventions' shape."""
    tool_definitions: Callable[[Request], Any] = lambda request: None
    """Content capture: the tools that the model may use, type and name of each."""
    input_messages: Callable[[Request], Any] = lambda request: None
    """Content capture: the messages sent, in the GenAI conventions' shape."""
    output_messages: Callable[[Sequence[Any] | Any, bool], Any] = lambda answer, streamed: None
    """Content capture: the messages received, from all chunks or from the whole response."""


def _itself(model: Any) -> Any:
    return model


def _own_url(client: Any) -> Any:
    return getattr(client, "_base_url", None)


@fixed(kw_only=True)
class Botocore:
    """Services of botocore's or aiobotocore's, all of whose calls go through one method."""

    paths: Mapping[str, str]
    """By service, as in ``boto3.client(service)``: what the path of each request of these calls holds."""
    asynchronous: bool = False
    """Whether it is aiobotocore's rather than botocore's own."""
    operations: tuple[Operation, ...]
    """All that there are."""
    operation: Callable[[str, Mapping[str, Any]], Operation | None]
    """The operation that an API call is, from its name (``Converse``) and parameters; None: no call to trace. Its
    ``read_request`` gets the parameters, and the name as ``operation``."""


@fixed(kw_only=True)
class Stainless:
    """A client that Stainless generated: all calls go through one ``request``, all streams are of one class."""

    client_module: str
    """Module with the client's ``SyncAPIClient`` and ``AsyncAPIClient``."""
    stream_module: str
    """Module with the client's ``Stream`` and ``AsyncStream``."""
    operations: tuple[Operation, ...]
    own_spans: bool = False
    """Whether the client may open a GenAI span of its own around ``_request``: then ``_request`` is patched instead of
    ``request``, so that the span is there to put phases under."""


@fixed(kw_only=True)
class Method:
    """One method of a client whose calls do not go through one funnel.

    Whether it is a function, a coroutine or a generator is seen from its code; whether it returns a value or a stream,
    the request says (``Request.streaming``).
    """

    module: str
    """Module that defines it: ``ollama._client``."""
    path: str
    """The place in that module: ``Client.chat``, or a function's name."""
    operation: Operation
    body: Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Mapping[str, Any] | None]
    """The request as one mapping, from the object and the arguments that the method was called with; None: no call
    to trace."""
    inner: str = ""
    """The attribute of the returned stream object that holds the iterator it pulls from; empty: the method returns a
    bare generator for a stream."""
    read_stream: Callable[[Any], Sequence[Any]] | None = None
    """Given for a stream object without an inner iterator that timing could go into: its own ``__next__`` and
    ``__anext__`` are timed. What the function reads off that object goes to ``read_chunks`` after the chunks. (Where
    the method returns a bare generator all the same, that is timed as one.)"""
    lazy: bool = False
    """Whether the method is a function that returns a generator which makes the request when it is first pulled. (A
    method that is itself a generator does not need this.)"""
    managed: bool = False
    """Whether the method is a function that ``contextlib`` made of a generator: it returns a context manager, which
    makes the request when it is entered and then gives the stream object."""


BEGIN, CHUNK, END, REFUSED = "begin", "chunk", "end", "refused"


class Mark(NamedTuple):
    """What an event of a conversation means for the calls in it."""

    kind: str
    """``BEGIN``: an answer is asked for, or begins unasked. ``CHUNK``: a piece of an answer. ``END``: its last one.
    ``REFUSED``: what was asked for will not be answered."""
    id: str = ""
    """The answer's id, where several may be under way; empty until it has one. With ``BEGIN`` and ``REFUSED`` the id of
    the event that asks for it; empty: it has none, and the one asked for last is refused."""
    body: Mapping[str, Any] | None = None
    """With ``BEGIN``: the request as one mapping."""
    outcome: str = COMPLETED
    """With ``END``: how the answer ended."""
    event: Any = None
    """With any but ``BEGIN``: the event, as the operation's functions read it."""
    content: bool = True
    """Whether content capture needs the event (it does not need sound)."""
    operation: Operation | None = None
    """What an answer is that begins with this; None: the conversation's own operation."""


class Protocol(abc.ABC):
    """One conversation over one connection: told of every event in order, it says what each means. It keeps no times,
    and of what is said no more than the next request's mapping."""

    @abc.abstractmethod
    def sent(self, event: Any) -> Mark | None:
        """The application has sent ``event``."""

    @abc.abstractmethod
    def received(self, event: Any) -> Mark | None:
        """``event`` has come. ``CHUNK`` with an id that no call has yet is of the call that was asked for first; where
        none was, a call begins with it."""

    @abc.abstractmethod
    def body(self) -> Mapping[str, Any]:
        """The request of an answer that nobody asked for (the user's silence did), as one mapping."""


class Opened(NamedTuple):
    """A conversation that was just opened."""

    client: Any
    """The client object: calls' provider and address are found by it."""
    url: Any
    """Where the connection goes, None: to the client's base URL."""
    protocol: Protocol


@fixed(kw_only=True)
class Conversation:
    """A connection (of websockets) over which a model is asked again and again: each answer is a call."""

    module: str
    """Module that defines its classes."""
    opens: tuple[str, ...]
    """The methods that open a connection and return it, or whose context managers give it: ``Manager.__enter__``."""
    takes: tuple[str, ...] = ()
    """The methods that are handed a connection, as their first argument, before anything has come over it."""
    opened: Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Opened | None]
    """The conversation, from the object and the arguments that one of ``opens`` or ``takes`` was called with; None:
    none to trace."""
    sends: tuple[str, ...]
    """The connection's methods that send an event."""
    sent: Callable[[str, tuple[Any, ...], Mapping[str, Any]], Any]
    """The event, from a method's name in ``sends`` and its arguments."""
    receives: tuple[str, ...]
    """The connection's methods that return the next event. Where one calls another, the outermost counts."""
    closes: tuple[str, ...]
    """The connection's methods that close it."""
    operation: Operation


@fixed(kw_only=True)
class Generate:
    """A model in this process, whose ``generate`` is the call."""

    chat: Operation
    """The operation of a call whose prompt a chat template made."""
    completion: Operation
    """The operation of every other call."""


@fixed(kw_only=True)
class Load:
    """A function that loads a model into this process and returns it, or the ``__init__`` of one."""

    module: str
    """Module that defines it: ``llama_cpp.llama``."""
    path: str
    """The place in that module: ``Llama.__init__``."""
    name: Callable[[Any], str | None]
    """The model's name as its calls have it, from the model."""
    model: Callable[[Any], Any] = _itself
    """What calls are made of, from what the function returned."""
    asked: Callable[[tuple[Any, ...], Mapping[str, Any]], str | None] = lambda args, kwargs: None
    """The same name, from the arguments that the function was called with: for a load that fails."""
    rest: str | None = None
    """The part of the load (``phases.model.LOAD_PARTS``) that all its time is which is not seen apart; None where that
    is made of several."""
    moves: tuple[str, ...] = ()
    """Methods of the model, in the same module, that take it to another device."""


@fixed(kw_only=True)
class Provider:
    """How one client library is traced. The line in ``llmtrace.providers.CLIENTS`` says which library that is."""

    hooks: tuple[Stainless | Method | Generate | Conversation, ...]
    provider_name: Callable[[Any, str | None], str]
    """``gen_ai.provider.name``, from the client object and the host it talks to."""
    in_process: bool = False
    """Whether the model runs in the application's own process: then the call's span is of kind INTERNAL."""
    base_url: Callable[[Any], Any] = _own_url
    """Where the client object's calls go: a URL, as text or as an object with ``scheme``, ``host`` and ``port``."""
    own_spans: bool = False
    """Whether the client may open a GenAI span of its own beneath the methods that are patched: each call's span is
    looked for, and only then made, as its request is sent. (For a client that Stainless generated:
    ``Stainless.own_spans``.)"""
    senders: Callable[[Any], Sequence[Any]] | None = None
    """The HTTP clients (or sessions) that the client object sends its own requests with; one that is not there yet is
    None. None of them, or no such function: not known."""
    posts: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Where HTTP clients come and go: the functions through which every request of the library's to a model goes, or by
    which a client beneath builds it, by module."""
    callbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """The functions in which the library runs the application's callbacks while a call is being made, by module: what
    is sent there is no request of the call's."""
    loads: tuple[Load, ...] = ()
    """The functions that load a model into this process."""
    services: tuple[Botocore, ...] = ()
    """The services of botocore whose calls are traced; they stand instead of hooks."""


def operations(provider: Provider) -> list[str]:
    """The names of all operations that are traced of a client library, each once."""
    traced: list[Operation] = [operation for service in provider.services for operation in service.operations]
    for hook in provider.hooks:
        if isinstance(hook, Stainless):
            traced += hook.operations
        elif isinstance(hook, Generate):
            traced += (hook.chat, hook.completion)
        else:
            traced.append(hook.operation)
    return list(dict.fromkeys(operation.name for operation in traced))


class Platform(NamedTuple):
    """A provider that a client library has client classes of its own for."""

    provider: str
    """``gen_ai.provider.name``."""
    module: str
    """The module that has the classes; it is loaded where one of them is used."""
    classes: tuple[str, ...]


def platform_of(client: Any, platforms: Sequence[Platform]) -> str | None:
    """The provider of the platform that ``client``'s class, or one that it inherits from, is for.

    The classes are looked up where the library has them: the name of a client's own class says nothing, since an
    application names its subclasses as it likes.
    """
    for platform in platforms:
        for name in platform.classes:
            known = getattr(sys.modules.get(platform.module), name, None)
            if isinstance(known, type) and isinstance(client, known):
                return platform.provider
    return None
