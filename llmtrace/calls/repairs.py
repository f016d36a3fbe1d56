"""Answers that the program found wanting: a call that asks again, with the answer and what is wrong with it, is linked
to the one that it repairs.

No HTTP client makes these retries and no attempt shows them. They are told by the beginning of the prompt, which is the
whole prompt of an earlier call: of that one only a hash is kept (``estimate.prefixes.chain``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.trace import Link, SpanContext

from llmtrace.emit import names
from llmtrace.estimate.prefixes import chain
from llmtrace.observe.process import Lock
from llmtrace.providers.reask import is_reask

REPAIR = "repair"
_MOST = 256
_FOR_S = 600.0
_QUICK_S = 2.0
"""Seconds in which no person reads an answer and writes what is wrong with it."""
_OPERATIONS = frozenset({"chat", "generate_content", "text_completion"})


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Asked:
    """A call that was answered."""

    span: SpanContext
    repairs: int
    """How many repairs led to it; 0: it was no repair itself."""
    at: float
    """When its answer ended, monotonic s."""


class Repairs:
    """The last 256 answered calls, for ten minutes, by the hash of where they were made and of their whole prompt.

    Two calls belong together if they were made in the same trace, or outside of any by the same thread and task.
    """

    def __init__(self) -> None:
        self._asked: OrderedDict[int, Asked] = OrderedDict()
        self._lock = Lock()

    def hashes(self, where: Hashable, operation: str, texts: Sequence[str]) -> list[int]:
        """The hash of the prompt up to each of its texts; none for an operation that repairs nothing.

        ``where``: what ``retry_links.scope`` says.
        """
        return chain((where, operation), texts) if operation in _OPERATIONS else []

    def answered(self, hashes: Sequence[int], span: SpanContext, repairs: int, at: float) -> None:
        """Remember a call whose answer ended at ``at`` (monotonic s)."""
        if not hashes:
            return
        with self._lock:
            self._asked[hashes[-1]] = Asked(span, repairs, at)
            self._asked.move_to_end(hashes[-1])
            if len(self._asked) > _MOST:
                self._asked.popitem(last=False)

    def repaired(self, hashes: Sequence[int], params: Mapping[str, Any], now: float, told: bool) -> Asked | None:
        """The call whose answer this one repairs. ``now``: monotonic s; ``told``: the application says that it repairs,
        so that the earlier call alone is looked for.
        """
        if not self._asked:
            return None
        with self._lock:
            known = (self._asked.get(each) for each in reversed(hashes[:-1]))
            earlier = next((asked for asked in known if asked is not None), None)
        if earlier is None or now - earlier.at > _FOR_S:
            return None
        return earlier if told or is_reask(params, now - earlier.at < _QUICK_S) else None


def link_to(asked: Asked) -> Link:
    """The link from a repair to the call whose answer it repairs."""
    return Link(asked.span, {names.LINK_KIND: REPAIR})
