"""What calls and tasks that are under way still need (a provider, hooks): it is taken down once the last has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from llmtrace.observe.internal_errors import note
from llmtrace.observe.process import after_fork


class InUse:
    """The calls and tasks under way that need one thing."""

    def __init__(self) -> None:
        self._users: set[object] = set()
        self._when_free: list[Callable[[], None]] = []
        _all.add(self)

    def __bool__(self) -> bool:
        """Whether anything under way needs it."""
        return bool(self._users)

    def __contains__(self, user: object) -> bool:
        """Whether ``user`` needs it and is under way."""
        return user in self._users

    def begin(self, user: object) -> None:
        """``user``, a call or a task, needs it from now on."""
        self._users.add(user)

    def end(self, user: object) -> None:
        """``user`` needs it no more. The last one to say so does what waits for that."""
        self._users.discard(user)
        if self._when_free and not self._users:
            self._do()

    def when_free(self, action: Callable[[], None]) -> None:
        """Call ``action`` once nothing under way needs it: at once, or on the thread of the last user."""
        self._when_free.append(action)
        if not self._users:
            self._do()

    def _do(self) -> None:
        while True:
            try:
                action = self._when_free.pop(0)  # one thread gets it, where two are here
            except IndexError:
                return
            try:
                action()
            except Exception as error:
                note("taking down what was in use", error)

    def forget(self) -> None:
        """In a forked child: what was under way, and what waits for it, is the parent's."""
        self._users.clear()
        self._when_free.clear()


_all: WeakSet[InUse] = WeakSet()
_by_provider: WeakKeyDictionary[Any, InUse] = WeakKeyDictionary()


def in_use(provider: Any) -> InUse:
    """Who uses ``provider``: one object for all that write to it."""
    try:
        known = _by_provider.get(provider)
        return _by_provider.setdefault(provider, InUse()) if known is None else known
    except TypeError:  # it cannot be a key, and so is none of ours to take down
        return InUse()


def _forget_all() -> None:
    for each in list(_all):
        each.forget()


after_fork(_forget_all)
