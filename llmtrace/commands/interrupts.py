"""Ctrl-C at any moment: no traceback, and 130 for whoever asks how the command ended."""

import _thread
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Generator
from typing import Any

_SOON_S = 0.005
"""How long a destructor has to end before the Ctrl-C that it swallowed comes again."""


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


@contextlib.contextmanager
def heard() -> Generator[None, None, None]:
    """A Ctrl-C that strikes in a destructor or a weak reference's callback comes again right after it.

    Python would print where that was, and go on as if nobody had pressed it.
    """
    others = sys.unraisablehook

    def hook(swallowed: Any) -> None:
        if issubclass(swallowed.exc_type, KeyboardInterrupt):  # raised in here it would be swallowed too
            _thread.start_new_thread(_press, ())
        else:
            others(swallowed)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = others


def _press() -> None:
    time.sleep(_SOON_S)
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, signal.SIGINT)  # which wakes it, too
    else:
        _thread.interrupt_main()


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
