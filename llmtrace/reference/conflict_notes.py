"""What the server says of each composition of adapters, before it serves it for the first time."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import replace

from llmtrace.observe.clock import now
from llmtrace.reference.adapters import Adapter, Adapters
from llmtrace.reference.conflicts import Conflict

__all__ = ["ConflictNotes"]

_log = logging.getLogger("llmtrace.reference")
_MOST = 64
"""The most compositions whose conflicts are remembered."""


class ConflictNotes:
    """The conflicts of the compositions that were asked for. For one event loop."""

    def __init__(self, adapters: Adapters) -> None:
        self._adapters = adapters
        self._known: OrderedDict[str, Conflict] = OrderedDict()
        self._lock = asyncio.Lock()

    @property
    def known(self) -> dict[str, Conflict]:
        """What was found, by the composition's name."""
        return dict(self._known)

    async def of(self, adapter: Adapter | None) -> Conflict | None:
        """How the parts of this adapter conflict; None where it is not a composition.

        Worked out on a thread when a composition comes for the first time, and then told in the log too: as a warning
        where two of its adapters pull against each other.
        """
        if adapter is None or adapter.composition is None:
            return None
        before = now()
        async with self._lock:  # another request may be waiting for the same
            if (conflict := self._known.get(adapter.name)) is not None:
                self._known.move_to_end(adapter.name)
                return conflict
            pairs = await asyncio.to_thread(self._adapters.conflicts, adapter.composition)
            conflict = Conflict(pairs)
            self._known[adapter.name] = conflict
            while len(self._known) > _MOST:
                self._known.popitem(last=False)
        for pair in pairs:
            level = logging.WARNING if pair.is_conflict else logging.INFO
            _log.log(level, "composition %s: %s", adapter.name, pair.says())
        return replace(conflict, check_ns=now() - before)
