"""How much memory an object holds."""

from __future__ import annotations

import sys


def size(root: object, seen: set[int] | None = None) -> int:
    """Bytes of an object and of all that only it holds."""
    seen = set() if seen is None else seen
    if id(root) in seen or isinstance(root, type) or root is None:
        return 0
    seen.add(id(root))
    parts: list[object] = []
    if isinstance(root, dict):
        parts = [*root.keys(), *root.values()]
    elif isinstance(root, (list, tuple)):
        parts = list(root)
    for cls in type(root).__mro__:
        parts.extend(getattr(root, name, None) for name in getattr(cls, "__slots__", ()))
    return sys.getsizeof(root) + sum(size(part, seen) for part in parts)
