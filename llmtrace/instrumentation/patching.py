"""Putting wrappers in and taking them out again, for clients that are imported now or later."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import wrapt

from llmtrace.observe import internal_errors

_ABSENT: Any = object()
Wrapper = Callable[[Any, Any, tuple[Any, ...], dict[str, Any]], Any]


class Patches:
    """The wrappers of one instrumentation, undone together."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any]] = []
        self._put: dict[tuple[int, str], Any] = {}
        self._active = True

    def when_imported(self, module: str, action: Callable[[Any], None]) -> None:
        """Run ``action(module)`` now if the module is imported, else as soon as it is; never imports it."""
        if module in sys.modules:
            self._attempt(action, sys.modules[module])
        else:
            wrapt.register_post_import_hook(lambda found: self._attempt(action, found), module)

    def wrap(self, module: Any, path: str, wrapper: Wrapper) -> None:
        """Wrap ``module``'s ``Class.method`` (skipped where a version does not have it)."""
        owner_name, _, name = path.rpartition(".")
        self.wrap_method(getattr(module, owner_name, None) if owner_name else module, name, wrapper)

    def wrap_method(self, owner: Any, name: str, wrapper: Wrapper) -> None:
        """Wrap what ``owner`` itself defines as ``name``; nothing where it does not."""
        if owner is None or name not in vars(owner):
            return
        original = vars(owner)[name]
        # Where another wrapper lies on top of ours, ours stays in place after `undo` and lets everything through.
        setattr(owner, name, wrapt.FunctionWrapper(original, wrapper, enabled=lambda: self._active))
        self._undo.append((owner, name, original))

    def put(self, owner: Any, name: str, value: Any) -> None:
        """Put ``value`` in the place of what ``owner`` itself defines as ``name``; it must let everything through
        once this is undone, where another wrapper came to lie on top.
        """
        self._undo.append((owner, name, vars(owner)[name]))
        self._put[id(owner), name] = value
        setattr(owner, name, value)

    def holds(self, owner: Any, name: str) -> bool:
        """Whether ``owner``'s ``name`` is wrapped already."""
        return any(held is owner and called == name for held, called, _ in self._undo)

    def undo(self) -> None:
        """Put back the very functions that were there; wrappers that others put on top of ours stay."""
        self._active = False
        for owner, name, original in reversed(self._undo):
            now = vars(owner).get(name)
            if getattr(now, "__wrapped__", None) is original or now is self._put.get((id(owner), name), _ABSENT):
                setattr(owner, name, original)
        self._undo.clear()
        self._put.clear()

    def _attempt(self, action: Callable[[Any], None], module: Any) -> None:
        if not self._active:
            return
        try:
            action(module)
        except Exception as error:
            internal_errors.note(f"patching {module.__name__}", error)
