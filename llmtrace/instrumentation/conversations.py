"""Conversations over one connection (OpenAI's Realtime API, Gemini Live): each answer in it is a call.

Nothing is pulled ahead, held back or changed: the client's own methods send and receive, and what passes is looked at
when they return. A connection that belongs to a conversation carries a ``_Talk``, and all others only pass by.
"""

from __future__ import annotations

import contextlib
import inspect
from collections import deque
from contextvars import ContextVar, Token
from typing import Any

from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from llmtrace.calls import finalizers
from llmtrace.calls.tracer import CallTracer
from llmtrace.instrumentation.patching import Patches
from llmtrace.observe import call as calls
from llmtrace.observe import internal_errors
from llmtrace.observe.call import Call
from llmtrace.observe.chunk_timing import BLOCK
from llmtrace.observe.clock import now
from llmtrace.observe.stream import Guard, cause_of
from llmtrace.providers.declare import BEGIN, CHUNK, END, Conversation, Mark, Opened, Provider

_KEY = "_llmtrace_talk"
"""Where a connection holds its ``_Talk``."""
_within: ContextVar[bool] = ContextVar("llmtrace_conversation", default=False)
"""Whether one of the connection's methods is under way here: what that calls in turn is the same event."""
_MOST = 64
"""Answers that may be asked for or under way in one conversation; of more, the oldest is given up."""


def patch(patches: Patches, tracer: CallTracer, provider: Provider, conversation: Conversation) -> None:
    """Patch ``conversation``, now or when its module is imported."""
    wrappers = _Wrappers(tracer, provider, conversation)

    def hook(module: Any) -> None:
        for path in conversation.opens:
            _wrap(patches, module, path, wrappers.opens, wrappers.aopens, wrappers.manages)
        for path in conversation.takes:
            _wrap(patches, module, path, None, wrappers.atakes)
        for path in conversation.sends:
            _wrap(patches, module, path, wrappers.sends, wrappers.asends)
        for path in conversation.receives:
            _wrap(patches, module, path, wrappers.receives, wrappers.areceives)
        for path in conversation.closes:
            _wrap(patches, module, path, wrappers.closes, wrappers.acloses)

    patches.when_imported(conversation.module, hook)


def _wrap(patches: Patches, module: Any, path: str, plain: Any, asynchronous: Any, managed: Any = None) -> None:
    *owners, name = path.split(".")
    cls: Any = module
    for owner_name in owners:
        cls = getattr(cls, owner_name, None)
    if not isinstance(cls, type):
        return
    # A method may be inherited from a base that other connections have too: those carry no talk.
    owner = next((each for each in cls.__mro__ if name in vars(each)), None)
    if owner is None or patches.holds(owner, name):
        return
    original = inspect.unwrap(vars(owner)[name])
    if inspect.isasyncgenfunction(original):
        patches.wrap_method(owner, name, managed)
    else:
        patches.wrap_method(owner, name, asynchronous if inspect.iscoroutinefunction(original) else plain)


class _Answering:
    """A call of a conversation, from being asked for to its end."""

    __slots__ = ("asked_by", "call", "guard", "waited")

    def __init__(self, call: Call, waited: int, asked_by: str) -> None:
        self.call = call
        self.asked_by = asked_by
        """The id of the event that asked for it; empty: it has none."""
        self.guard: Guard = finalizers.guard(call)
        """Dies with the connection, and then has the call ended."""
        self.waited = waited
        """Nanoseconds that the application had waited in all, as the last chunk of this call came."""


class _Talk:
    """One conversation: its calls, and the time that the application spent waiting for events."""

    def __init__(self, tracer: CallTracer, provider: Provider, conversation: Conversation, opened: Opened) -> None:
        self.tracer = tracer
        """Begins the answers' calls."""
        self._provider = provider
        self._conversation = conversation
        self._client, self._url, self._protocol = opened
        self._waited = 0
        self._asked: deque[_Answering] = deque(maxlen=_MOST)
        """Calls whose answer has no id yet, the one asked for first in front."""
        self._answered: dict[str, _Answering] = {}

    def sent(self, event: Any) -> _Answering | None:
        """The application is about to send ``event``. Returns the call that begins with it."""
        mark = self._protocol.sent(event)
        return self._asked_for(mark) if mark is not None and mark.kind == BEGIN else None

    def unsent(self, answering: _Answering, error: BaseException) -> None:
        """What ``answering`` was asked for with could not be sent."""
        if answering in self._asked:
            self._asked.remove(answering)
        answering.call.finish(cause_of(error), error=error)

    def waited(self, since: int, until: int) -> None:
        """The application has waited for an event, whether one came or not (monotonic ns)."""
        self._waited += until - since

    def received(self, event: Any, at: int) -> None:
        """``event`` has come ``at`` (monotonic ns)."""
        mark = self._protocol.received(event)
        if mark is None:
            return
        if mark.kind == BEGIN:
            self._asked_for(mark)
        elif mark.kind in (CHUNK, END):
            self._came(mark, at)
        else:
            self._refused(mark, at)

    def ended(self, outcome: str, error: BaseException | None = None) -> None:
        """The connection is gone, and with it whatever was still to come."""
        for answering in (*self._asked, *self._answered.values()):  # held meanwhile: a guard that dies ends the call
            answering.call.finish(outcome, error=error)
        self._asked.clear()
        self._answered.clear()

    def _asked_for(self, mark: Mark) -> _Answering | None:
        if not is_instrumentation_enabled():
            return None
        body = {**(self._protocol.body() if mark.body is None else mark.body), "stream": True}
        operation = mark.operation or self._conversation.operation
        call = self.tracer.begin(self._provider, operation, self._client, body, self._url)
        if not isinstance(call, Call):
            return None
        call.state.over_http = False
        call.begin_chunks()
        call.returned = call.start
        answering = _Answering(call, self._waited, mark.id if mark.kind == BEGIN else "")
        self._asked.append(answering)
        return answering

    def _refused(self, mark: Mark, at: int) -> None:
        asked = [each for each in self._asked if not mark.id or each.asked_by == mark.id]
        if asked:
            self._asked.remove(asked[-1])
            self._take_in(asked[-1], mark, at)
            asked[-1].call.finish(calls.ERROR, at)

    def _came(self, mark: Mark, at: int) -> None:
        answering = self._answered.get(mark.id) if mark.id else None
        if answering is None:
            if not self._asked and self._asked_for(mark) is None:
                return
            answering = self._asked[0]
            if mark.id:
                self._asked.popleft()
                if len(self._answered) >= _MOST:
                    del self._answered[next(iter(self._answered))]  # its guard has it ended
                self._answered[mark.id] = answering
        self._take_in(answering, mark, at)
        if mark.kind == END:
            if mark.id:
                del self._answered[mark.id]
            else:
                self._asked.popleft()
            answering.call.finish(mark.outcome, max(at, answering.call.start))

    def _take_in(self, answering: _Answering, mark: Mark, at: int) -> None:
        call = answering.call
        if not call.is_open:
            return
        at = max(at, call.start)  # it begins with this very event, where nobody asked for it
        # Between two pieces of this answer others may have come: only what was not waited for was the application's.
        timing, waited = call.chunk_timing, self._waited - answering.waited
        before = call.start if timing.last_arrival is None else timing.last_arrival
        timing.block += (max(before, at - waited), at)
        answering.waited = self._waited
        call.recent.append(mark.event)
        if call.kept is not None and mark.content:
            call.kept.append(mark.event)
        if call.first_output is None:
            call.look(mark.event, at)
        if len(timing.block) >= 2 * BLOCK:
            timing.fold(call.returned)


class _Wrappers:
    """What is put around the methods of one kind of conversation."""

    def __init__(self, tracer: CallTracer, provider: Provider, conversation: Conversation) -> None:
        self._tracer = tracer
        self._provider = provider
        self._conversation = conversation

    def opens(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        connection = wrapped(*args, **kwargs)
        self._open(connection, instance, args, kwargs)
        return connection

    async def aopens(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        connection = await wrapped(*args, **kwargs)
        self._open(connection, instance, args, kwargs)
        return connection

    async def atakes(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._open(next(iter((*args, *kwargs.values())), None), instance, args, kwargs)
        return await wrapped(*args, **kwargs)

    def manages(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Wraps a function that ``contextlib`` made of an asynchronous generator, which gives the connection."""
        manager = wrapped(*args, **kwargs)
        manager.gen = self._managed(manager.gen, instance, args, kwargs)
        return manager

    async def _managed(self, gen: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        connection = await anext(gen)
        self._open(connection, instance, args, kwargs)
        try:
            yield connection
        except BaseException as error:
            _ended(connection, calls.CLOSED_EARLY)
            try:
                yield await gen.athrow(error)
            except StopAsyncIteration:
                return
        _ended(connection, calls.CLOSED_EARLY)
        async for more in gen:
            yield more

    def sends(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        talk = self._talk_at_hand(instance)
        if talk is None:
            return wrapped(*args, **kwargs)
        answering, token = self._sent(talk, wrapped, args, kwargs), _within.set(True)
        try:
            return wrapped(*args, **kwargs)
        except BaseException as error:
            _unsent(talk, answering, error)
            raise
        finally:
            _within.reset(token)

    async def asends(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        talk = self._talk_at_hand(instance)
        if talk is None:
            return await wrapped(*args, **kwargs)
        answering, token = self._sent(talk, wrapped, args, kwargs), _within.set(True)
        try:
            return await wrapped(*args, **kwargs)
        except BaseException as error:
            _unsent(talk, answering, error)
            raise
        finally:
            _leave(token)

    def receives(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        talk = self._talk_at_hand(instance)
        if talk is None:
            return wrapped(*args, **kwargs)
        token, asked = _within.set(True), now()
        try:
            event = wrapped(*args, **kwargs)
        except BaseException as error:
            _broken(talk, error, asked)
            raise
        finally:
            _within.reset(token)
        _received(talk, event, asked)
        return event

    async def areceives(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        talk = self._talk_at_hand(instance)
        if talk is None:
            return await wrapped(*args, **kwargs)
        token, asked = _within.set(True), now()
        try:
            event = await wrapped(*args, **kwargs)
        except BaseException as error:
            _broken(talk, error, asked)
            raise
        finally:
            _leave(token)
        _received(talk, event, asked)
        return event

    def closes(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _ended(instance, calls.CLOSED_EARLY)
        return wrapped(*args, **kwargs)

    async def acloses(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _ended(instance, calls.CLOSED_EARLY)
        return await wrapped(*args, **kwargs)

    def _talk_at_hand(self, connection: Any) -> _Talk | None:
        """The connection's talk, unless another of its methods has called this one."""
        talk = None if _within.get() else _talk_of(connection)
        if talk is not None:
            talk.tracer = self._tracer  # tracing may have been switched off and on since the connection was opened
        return talk

    def _open(self, connection: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            opened = self._conversation.opened(instance, args, kwargs)
            if opened is not None:
                vars(connection)[_KEY] = _Talk(self._tracer, self._provider, self._conversation, opened)
        except Exception as error:
            internal_errors.note("opening a conversation", error)

    def _sent(self, talk: _Talk, wrapped: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Answering | None:
        """The call that begins with the event that is about to be sent: its time counts from here."""
        try:
            return talk.sent(self._conversation.sent(wrapped.__name__, args, kwargs))
        except Exception as error:
            internal_errors.note("looking at an event that is sent", error)
            return None


def _talk_of(connection: Any) -> _Talk | None:
    return getattr(connection, "__dict__", {}).get(_KEY)


def _leave(token: Token[bool]) -> None:
    with contextlib.suppress(ValueError):  # closed while suspended, from another context: there it was never set
        _within.reset(token)


def _received(talk: _Talk, event: Any, asked: int) -> None:
    at = now()
    try:
        talk.waited(asked, at)
        talk.received(event, at)
    except Exception as error:
        internal_errors.note("looking at an event", error)


def _unsent(talk: _Talk, answering: _Answering | None, error: BaseException) -> None:
    try:
        if answering is not None:
            talk.unsent(answering, error)
    except Exception as ours:
        internal_errors.note("ending a call", ours)


def _broken(talk: _Talk, error: BaseException, asked: int) -> None:
    """Receiving raised ``error``. The connection goes on where only the waiting was given up, or an event could not be
    read, or another task is receiving already.
    """
    try:
        talk.waited(asked, now())
        if isinstance(error, Exception) and not isinstance(error, (TimeoutError, ValueError, RuntimeError)):
            closed = type(error).__name__ == "ConnectionClosedOK"
            talk.ended(calls.CLOSED_EARLY if closed else calls.ERROR, None if closed else error)
    except Exception as ours:
        internal_errors.note("ending a conversation", ours)


def _ended(connection: Any, outcome: str) -> None:
    try:
        talk = _talk_of(connection)
        if talk is not None:
            talk.ended(outcome)
    except Exception as error:
        internal_errors.note("ending a conversation", error)
