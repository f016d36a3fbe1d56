"""``fixed``: a dataclass whose fields are set once. The type checker holds that, and nothing at run time.

For classes that are made as a program starts: for ``frozen=True`` the stdlib's decorator takes as long again as for all
else that it does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

_Class = TypeVar("_Class", bound=type[Any])

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform

    @dataclass_transform(frozen_default=True, eq_default=False)
    def fixed(*, kw_only: bool = False, eq: bool = False) -> Callable[[_Class], _Class]:
        """Make a class a dataclass with slots; equal only to itself, but for ``eq``."""
        ...

else:

    def fixed(*, kw_only=False, eq=False):
        return dataclass(slots=True, kw_only=kw_only, eq=eq, repr=False)
