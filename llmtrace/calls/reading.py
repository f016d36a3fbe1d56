"""Reading a request of which any value may raise when it is read: that costs what is read of it, and never the call.

What an application passes (tools, messages, a format) may be of classes of its own, and ``if tools`` runs their code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from llmtrace.observe import internal_errors
from llmtrace.providers.declare import Operation, Request

T = TypeVar("T")
_DEEPEST = 32
_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})


def read_request(operation: Operation, body: Mapping[str, Any]) -> Request:
    """The request in ``body``; without the fields that cannot be read, where there are such."""
    try:
        return operation.read_request(body)
    except Exception as error:
        return operation.read_request(_readable(body, error))


def of_request(request: Request, read: Callable[[Request], T]) -> T:
    """What ``read`` makes of the request, from which fields that cannot be read are taken if it raises."""
    try:
        return read(request)
    except Exception as error:
        request.params = _readable(request.params, error)
        return read(request)


def of_params(request: Request, read: Callable[..., T], *more: Any) -> T:
    """As ``of_request``, for what reads the request's fields: ``read(request.params, *more)``."""
    try:
        return read(request.params, *more)
    except Exception as error:
        request.params = _readable(request.params, error)
        return read(request.params, *more)


def _readable(params: Mapping[str, Any], error: Exception) -> dict[str, Any]:
    """The fields whose values can be asked all that is asked of a value. ``error``: what one of the others raised."""
    internal_errors.note("reading a request", error)
    return {name: value for name, value in params.items() if _is_readable(value, _DEEPEST)}


def _is_readable(value: Any, deep: int) -> bool:
    """Whether nothing that is asked of ``value``, and of what it holds down to so ``deep``, raises."""
    if type(value) in _PLAIN:
        return True
    try:
        _ = bool(value), value in ("",)
        if isinstance(value, Mapping):
            _ = len(value), [*value], value.get(""), "" in value
            inner = [item for _, item in value.items()]
        elif isinstance(value, (list, tuple)):
            _ = len(value), value[:1]
            inner = [*value]
        else:
            return True
        return deep > 0 and all(_is_readable(each, deep - 1) for each in inner)
    except Exception:
        return False
