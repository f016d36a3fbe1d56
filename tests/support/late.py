"""Modules that take seconds to import, imported when a test first looks into them.

Every worker collects every file, and most of them never run a test that needs such a module.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Late:
    """Stands for the module of this name. For the type checker the module itself is imported beside it::

    if TYPE_CHECKING:
        import torch
    else:
        torch = Late("torch")
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_") and attribute != "__version__":  # pytest looks at whatever a test file holds
            raise AttributeError(attribute)
        return getattr(import_module(self._name), attribute)
