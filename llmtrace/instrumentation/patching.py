"""Putting wrappers in and taking them out again, for clients that are imported now or later.

A wrapper is wrapt's, which looks like the function that it wraps to ``inspect``; what wrapt leaves open is added here:
it pickles by the name under which it stands, as functions do, and copies as itself. What is pickled needs no llmtrace
to be read again: it names the client's function, traced where llmtrace is on and as it is where not.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import wrapt

from llmtrace.instrumentation import namespaces
from llmtrace.observe import internal_errors

_ABSENT: Any = object()
Hook = Callable[[Any, Any, tuple[Any, ...], dict[str, Any]], Any]
"""The function that a wrapper calls: (the wrapped function, bound; the object or class it is bound to; args;
kwargs)."""


class _PatchedMethod(wrapt.BoundFunctionWrapper):  # pyright: ignore[reportMissingTypeArgument]
    """A patched function as an attribute of a class or of an object."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._self_instance is None:  # taken from the class: the function itself
            return self._self_parent.__reduce_ex__(protocol)
        return getattr, (self._self_instance, self.__wrapped__.__name__)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if self._self_instance is None:
            return self
        return getattr(copy.deepcopy(self._self_instance, memo), self.__wrapped__.__name__)


class Patched(wrapt.FunctionWrapper):  # pyright: ignore[reportMissingTypeArgument]
    """A patched function in its module or class."""

    __bound_function_wrapper__ = _PatchedMethod

    def __init__(self, wrapped: Any, hook: Hook, enabled: Callable[[], bool], place: str) -> None:
        """``place``: where the function stands, in the form of ``pkgutil.resolve_name``: ``module:Class.name``."""
        super().__init__(wrapped, hook, enabled=enabled)
        self._self_place = place

    def __reduce_ex__(self, protocol: Any) -> Any:
        from pkgutil import resolve_name  # here, since few programs pickle a client

        return resolve_name, (self._self_place,)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


def _place(owner: Any, name: str) -> str:
    if isinstance(owner, ModuleType):
        return f"{owner.__name__}:{name}"
    return f"{owner.__module__}:{owner.__qualname__}.{name}"


class Patches:
    """The wrappers of one instrumentation, undone together."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any]] = []
        self._put: dict[tuple[int, str], Any] = {}
        self._wrapped: dict[int, Patched] = {}
        """By the function's identity: one function under two names has one wrapper, or it would not pickle."""
        self._when_undone: list[Callable[[], None]] = []
        self._active = True
        self.seen: set[str] = set()
        """The modules that are hooked, of those that ``when_imported`` was asked for."""

    def when_imported(self, module: str, action: Callable[[Any], None]) -> None:
        """Run ``action(module)`` now if the module is imported, else as soon as it is; never imports it."""
        if module in sys.modules:
            self._attempt(action, sys.modules[module])
        else:
            wrapt.register_post_import_hook(once := self._once(action), module)
            if len(module.split(".", 2)) < 3:  # a client's package, not a module of its own inside
                namespaces.when_imported(module, once)
                self._when_undone.append(lambda: namespaces.forget(module, once))

    def _once(self, action: Callable[[Any], None]) -> Callable[[Any], None]:
        """``action`` as a hook that runs once, though two finders may report the same import."""
        todo = [action]

        def imported(module: Any) -> None:
            if todo:
                self._attempt(todo.pop(), module)

        return imported

    def wrap(self, module: Any, path: str, hook: Hook) -> None:
        """Wrap ``Class.method`` or a function of ``module``; skipped where a version does not have it."""
        owner_name, _, name = path.rpartition(".")
        self.wrap_method(getattr(module, owner_name, None) if owner_name else module, name, hook)

    def wrap_method(self, owner: Any, name: str, hook: Hook) -> None:
        """Wrap what ``owner`` itself defines as ``name``; does nothing where it defines none."""
        if owner is None or name not in vars(owner):
            return
        original = vars(owner)[name]
        if self._made(original) and not self.holds(owner, name):
            self._undo.append((owner, name, original.__wrapped__))  # imported from where it was wrapped before
            return
        patched = self._wrapped.get(id(original))
        if patched is None:
            # Where another wrapper lies on top of ours, ours stays in place after `undo` and lets everything through.
            patched = self._wrapped[id(original)] = Patched(original, hook, lambda: self._active, _place(owner, name))
        setattr(owner, name, patched)
        self._undo.append((owner, name, original))

    def put(self, owner: Any, name: str, value: Any) -> None:
        """Put ``value`` in the place of what ``owner`` itself defines as ``name``.

        Where another wrapper came to lie on top, ``value`` stays after ``undo``, and must let everything through then.
        """
        self._undo.append((owner, name, vars(owner)[name]))
        self._put[id(owner), name] = value
        setattr(owner, name, value)

    def when_undone(self, action: Callable[[], None]) -> None:
        """Call ``action`` after the wrappers are taken out, to undo what was put in another way than by wrapping."""
        self._when_undone.append(action)

    def holds(self, owner: Any, name: str) -> bool:
        """Whether ``owner``'s ``name`` is wrapped already."""
        return any(patched_owner is owner and patched_name == name for patched_owner, patched_name, _ in self._undo)

    def _made(self, value: Any) -> bool:
        """Whether ``value`` is a wrapper of this instrumentation (by identity: a wrapper equals what it wraps)."""
        return any(value is patched for patched in self._wrapped.values())

    def functions(self) -> list[tuple[Any, str]]:
        """The functions that are wrapped now, as (module or class, name)."""
        return [(owner, name) for owner, name, _ in self._undo if isinstance(vars(owner).get(name), Patched)]

    def undo(self) -> None:
        """Put back the very functions that were there; wrappers that others put on top of ours stay.

        Two instrumentations of llmtrace may wrap one function and be taken out in either order, so ours is taken out
        from beneath another one's wrapper too: left there, each turn of switching on and off would add one.
        """
        self._active = False
        for owner, name, original in reversed(self._undo):
            current: Any = vars(owner).get(name)
            if current is self._put.get((id(owner), name), _ABSENT):
                setattr(owner, name, original)
            elif self._made(current):
                setattr(owner, name, current.__wrapped__)
            else:
                while isinstance(current, Patched):
                    beneath: Any = current.__wrapped__
                    if self._made(beneath):
                        current.__wrapped__ = beneath.__wrapped__
                        break
                    current = beneath
        self._undo.clear()
        self._put.clear()
        self._wrapped.clear()
        for action in self._when_undone:
            action()
        self._when_undone.clear()

    def _attempt(self, action: Callable[[Any], None], module: Any) -> None:
        if not self._active:
            return
        try:
            action(module)
            self.seen.add(module.__name__)
        except Exception as error:
            internal_errors.note(f"patching {module.__name__}", error)
