"""What is remembered by route: bounded, the least recently used route goes first, safe between threads and forks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from llmtrace.observe.process import Lock

T = TypeVar("T")
ROUTES = 256
"""Routes remembered by default."""


class RouteTable(Generic[T]):
    """One ``T`` for each route. Everything but ``len`` is to be called with ``lock`` held."""

    def __init__(self, make: Callable[[], T], most: int = ROUTES) -> None:
        self.lock = Lock()
        self._make = make
        self._most = most
        self._routes: OrderedDict[Hashable, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._routes)

    def route(self, key: Hashable) -> T:
        """What is remembered of route ``key``, made anew where there is nothing; it is the last one used now."""
        known = self._routes.get(key)
        if known is not None:
            self._routes.move_to_end(key)
            return known
        made = self._routes[key] = self._make()
        if len(self._routes) > self._most:
            self._routes.popitem(last=False)
        return made

    def known(self, key: Hashable) -> T | None:
        """The same, None where there is nothing; leaves the order alone."""
        return self._routes.get(key)

    def items(self) -> Iterator[tuple[Hashable, T]]:
        """All routes, the least recently used one first."""
        return iter(self._routes.items())
