"""Ctrl-C at any moment: no traceback, and 130 for whoever asks how the command ended."""

import contextlib
import signal
from collections.abc import Generator
from typing import Any


@contextlib.contextmanager
def loading() -> Generator[None, None, None]:
    """While modules load, Ctrl-C ends the process as it ends a C program: a shell sees 130 for that too.

    Python's own way would be a KeyboardInterrupt in the middle of somebody's module, which prints where that was, or
    is swallowed there. Nothing of ours is open then. A signal that is ignored (``nohup``) or has a handler stays so.
    """
    changed = _change(signal.default_int_handler, signal.SIG_DFL)
    try:
        yield
    finally:
        if changed:
            _change(signal.SIG_DFL, signal.default_int_handler)


def ending() -> None:
    """From now on the same: what Python still does at its end prints no traceback either."""
    _change(signal.default_int_handler, signal.SIG_DFL)


def _change(expected: object, handler: Any) -> bool:
    """Whether the handler was the one expected, and could be changed: only the main thread may."""
    if signal.getsignal(signal.SIGINT) is not expected:
        return False
    try:
        signal.signal(signal.SIGINT, handler)
    except ValueError:
        return False
    return True
