"""How much memory an object holds."""

from __future__ import annotations

import sys


def size(thing: object, seen: set[int] | None = None) -> int:
    """Bytes of an object and of all that only it holds."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, type) or thing is None:
        return 0
    seen.add(id(thing))
    held: list[object] = []
    if isinstance(thing, dict):
        held = [*thing.keys(), *thing.values()]
    elif isinstance(thing, (list, tuple)):
        held = list(thing)
    for cls in type(thing).__mro__:
        held.extend(getattr(thing, name, None) for name in getattr(cls, "__slots__", ()))
    return sys.getsizeof(thing) + sum(size(part, seen) for part in held)
