"""Hearing of the import of a namespace package, which no import hook is told of: it has no loader and runs no code.

What an application uses of it lies in a module below, whose import is seen before it begins; by then the package is
there. A package that has an ``__init__`` is hooked in the usual way, once that has run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any

from llmtrace.observe import internal_errors

Action = Callable[[Any], None]


class _Watch:
    """A finder that finds nothing, and sees what is looked for."""

    def __init__(self) -> None:
        self.awaited: dict[str, list[Action]] = {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Called for each module that is about to be imported."""
        parent = name.rpartition(".")[0]
        if parent in self.awaited:
            try:
                self._seen(parent)
            except Exception as error:
                internal_errors.note("looking at a namespace package", error)
        return None

    def _seen(self, package: str) -> None:
        module = sys.modules.get(package)
        spec = getattr(module, "__spec__", None)
        if spec is None or spec.origin is not None or spec.submodule_search_locations is None:
            return  # it has an `__init__`, which may be running now
        for action in self.awaited.pop(package, ()):
            action(module)


_watch = _Watch()


def when_imported(package: str, action: Action) -> None:
    """Run ``action(module)`` when the first module below ``package`` is imported, if that is a namespace package."""
    _watch.awaited.setdefault(package, []).append(action)
    if _watch not in sys.meta_path:
        sys.meta_path.insert(0, _watch)  # type: ignore[arg-type]


def forget(package: str, action: Action) -> None:
    """Run ``action`` no more."""
    actions = _watch.awaited.get(package, [])
    if action in actions:
        actions.remove(action)
    if not actions:
        _watch.awaited.pop(package, None)
    if not _watch.awaited and _watch in sys.meta_path:
        sys.meta_path.remove(_watch)  # type: ignore[arg-type]
