"""Calls that failed a moment ago, so that the call which asks for the same again can be linked to them."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Hashable, Sequence
from contextlib import suppress
from typing import Any

from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanContext, format_trace_id

from llmtrace.calls.reading import of_params
from llmtrace.emit import names
from llmtrace.fixed import fixed
from llmtrace.providers.declare import Request
from llmtrace.providers.prompt import prompt_texts, tool_name

RETRY, FALLBACK = "retry", "fallback"
_MOST = 64
_FOR_S = 600.0


@fixed()
class Failed:
    """One call that failed; equal only to itself."""

    asked: tuple[Hashable, ...]
    """What a call that asks for the same has in common with it."""
    route: tuple[Any, ...]
    span: SpanContext
    failure: str
    at: float
    """Monotonic s."""


class RetryLinks:
    """The last 64 failed calls, for ten minutes.

    Two calls belong together if they were made in the same trace, or outside of any by the same thread and task, and
    their prompts are equal. Nothing is looked at while no call has failed: a call that succeeds pays nothing for this.
    """

    def __init__(self) -> None:
        self._failed: deque[Failed] = deque(maxlen=_MOST)

    def __bool__(self) -> bool:
        """Whether any call has failed of late."""
        return bool(self._failed)

    def failed(
        self,
        where: Hashable,
        operation: str,
        request: Request,
        route: tuple[Any, ...],
        span: SpanContext,
        why: str,
        at: float,
    ) -> None:
        """Remember a call that failed; ``where``: what ``scope`` said when it began, ``at``: monotonic s."""
        texts = tuple(of_params(request, prompt_texts, tool_name))
        if texts:
            self._failed.append(Failed((where, operation, hash(texts)), route, span, why, at))

    def links(
        self, around: Span, operation: str, request: Request, route: tuple[Any, ...], now: float
    ) -> list[Link] | None:
        """The link to the failed call that this one repeats, as a span takes it.

        ``around``: the span that the call is made in; ``now``: monotonic s.

        A failed call is repeated once: what is asked after that is a repetition of the repetition, or a new question.
        """
        asked = (scope(around), operation, hash(tuple(of_params(request, prompt_texts, tool_name))))
        for each in reversed(self._failed.copy()):
            if now - each.at > _FOR_S:
                return None
            if each.asked == asked:
                with suppress(ValueError, IndexError):  # another thread was faster
                    self._failed.remove(each)
                kind = RETRY if each.route == route else FALLBACK
                return [Link(each.span, {names.LINK_KIND: kind, names.ERROR_TYPE: each.failure})]
        return None


def marks(links: Sequence[Link] | None) -> dict[str, Any] | None:
    """What a span says of its link in attributes of its own: viewers show a link's ids, and drop its attributes."""
    if not links:
        return None
    link = links[0]  # ``RetryLinks.links`` makes no more
    kind = (link.attributes or {})[names.LINK_KIND]
    return {names.LINK_KIND: kind, names.LINK_TRACE: format_trace_id(link.context.trace_id)}


def scope(around: Span) -> Hashable:
    """The trace of ``around``, the span that a call is made in; outside of any, the program's thread and task."""
    if around is not INVALID_SPAN and (context := around.get_span_context()).is_valid:
        return context.trace_id
    loop = asyncio._get_running_loop()
    task = asyncio.current_task(loop) if loop is not None else None
    return threading.get_ident(), id(task) if task is not None else None
