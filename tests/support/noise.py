"""Patience with a busy machine: a test of times may be disturbed, but not every time."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

TRIES = 4


def patient(test: Callable[..., Any]) -> Callable[..., Any]:
    """Repeat a test of times that failed, with a fresh server script and no spans; what is wrong fails each time."""

    def afresh(fixtures: dict[str, Any]) -> None:
        fixtures["replay"].reset()
        fixtures["replay"].drop_connections()
        fixtures["spans"].clear()

    if inspect.iscoroutinefunction(test):

        @functools.wraps(test)
        async def arepeated(*self: Any, **fixtures: Any) -> None:
            for tried in range(1, TRIES + 1):
                try:
                    return await test(*self, **fixtures)
                except AssertionError:
                    if tried == TRIES:
                        raise
                    afresh(fixtures)

        return arepeated

    @functools.wraps(test)
    def repeated(*self: Any, **fixtures: Any) -> None:
        for tried in range(1, TRIES + 1):
            try:
                return test(*self, **fixtures)
            except AssertionError:
                if tried == TRIES:
                    raise
                afresh(fixtures)

    return repeated
