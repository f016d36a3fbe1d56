"""Answers that the program found wanting: a call that asks again, with the answer and what is wrong with it, is linked
to the one that it repairs.

No HTTP client makes these retries and no attempt shows them. What gives them away is the prompt, which begins with
the whole prompt of an earlier call: of that one only a hash is kept (``estimate.prefixes.chain``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from opentelemetry.trace import Link, Span, SpanContext

from llmtrace.emit import names
from llmtrace.estimate.losses import chain
from llmtrace.observe.process import Lock

REPAIR = "repair"
_KIND = {names.LINK_KIND: REPAIR}
_MOST = 512
_FOR_S = 600.0
_QUICK_S = 2.0
"""Seconds in which no person reads an answer and writes what is wrong with it."""
_PREVIOUS = ("previous_response_id", "previous_interaction_id")
"""By which a request goes on from an answer whose history the server keeps."""
_OPERATIONS = frozenset({"chat", "generate_content", "text_completion"})


class Asked(NamedTuple):
    """A call that was answered."""

    span: SpanContext
    repairs: int
    """How many repairs led to it; 0: it was no repair itself."""
    at: float
    """When its answer ended, monotonic s."""


class Question(NamedTuple):
    """What a call that begins asks, and whether it repairs an answer by that."""

    hashes: Sequence[int]
    """The hash of its prompt up to each text of it; none for an operation that repairs nothing."""
    earlier: Asked | None
    """The call whose answer it repairs, if that is known."""
    declared: bool
    """The application says that it repairs one."""
    place: Hashable
    """Where it was made, and of which operation."""

    @property
    def repairs(self) -> int:
        """How many repairs led to it, itself counted; 0: it is none."""
        return int(self.declared) if self.earlier is None else self.earlier.repairs + 1

    def links(self, others: Sequence[Link] | None) -> Sequence[Link] | None:
        """``others`` and the link to the call whose answer it repairs, as a span takes them."""
        return others if self.earlier is None else [*(others or ()), Link(self.earlier.span, _KIND)]

    def link_from(self, span: Span) -> None:
        """Link a span that there is already, where its API can (since 1.23)."""
        if self.earlier is not None and hasattr(span, "add_link"):
            span.add_link(self.earlier.span, _KIND)


class Repairs:
    """The last answered calls, for ten minutes, by the hash of where they were made and of their whole prompt, and by
    that of their answer's id.

    Two calls belong together if they were made in the same trace, or outside of any by the same thread.
    """

    def __init__(self) -> None:
        self._asked: OrderedDict[int, Asked] = OrderedDict()
        self._lock = Lock()

    @property
    def any(self) -> bool:
        """Whether any answered call is remembered."""
        return bool(self._asked)

    def asked(
        self,
        params: Mapping[str, Any],
        where: Hashable,
        operation: str,
        texts: Sequence[str],
        now: float,
        declared: bool,
    ) -> Question:
        """What a call that begins ``now`` (monotonic s) asks.

        ``where``: what ``retry_links.scope`` says; ``texts``: those of ``params``, in their order; ``declared``: the
        application says that it repairs an answer, so that the earlier call alone is looked for.
        """
        where = where[0] if isinstance(where, tuple) else where  # the thread: agents ask from tasks that they start
        place = (where, operation)
        hashes = chain(place, texts) if operation in _OPERATIONS else ()
        earlier = self._earlier(place, hashes, params, now, declared) if self._asked and hashes else None
        return Question(hashes, earlier, declared, place)

    def answered(self, question: Question, span: SpanContext, at: float, answer: str | None) -> None:
        """Remember a call whose answer, of the id ``answer``, ended at ``at`` (monotonic s)."""
        if not question.hashes:
            return
        keys = [question.hashes[-1], *([hash((question.place, answer))] if answer else ())]
        with self._lock:
            for key in keys:
                self._asked[key] = Asked(span, question.repairs, at)
                self._asked.move_to_end(key)
            while len(self._asked) > _MOST:
                self._asked.popitem(last=False)

    def _earlier(
        self, place: Hashable, hashes: Sequence[int], params: Mapping[str, Any], now: float, declared: bool
    ) -> Asked | None:
        previous = next((given for name in _PREVIOUS if isinstance(given := params.get(name), str)), None)
        keys = reversed(hashes[:-1]) if previous is None else (hash((place, previous)),)
        with self._lock:
            known = (self._asked.get(each) for each in keys)
            earlier = next((asked for asked in known if asked is not None), None)
        if earlier is None or now - earlier.at > _FOR_S:
            return None
        if declared:
            return earlier
        from llmtrace.providers.reask import is_reask  # here, since few calls come so far: its patterns take long

        return earlier if is_reask(params, now - earlier.at < _QUICK_S, previous is not None) else None
