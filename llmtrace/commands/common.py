"""Error handling of all commands: mistakes in one line, missing packages by the extra that brings them."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Generator
from typing import Any, Literal, NoReturn

from llmtrace.errors import LlmtraceError
from llmtrace.version import install_hint

Device = Literal["auto", "cpu", "cuda", "mps"]

_FAILED = 1
_INTERRUPTED = 130


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a command so that expected errors become one line and an exit code."""

    @functools.wraps(command, updated=())
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            result = command(*args, **kwargs)
            sys.stdout.flush()
            return result
        except LlmtraceError as error:
            fail(str(error))
        except KeyboardInterrupt:
            raise SystemExit(_INTERRUPTED) from None
        except BrokenPipeError:
            # The reader of the output has gone, so no message is printed.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(_FAILED) from None
        except OSError as error:
            if error.strerror is None:
                raise
            fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)

    return guarded


@contextlib.contextmanager
def needs(extra: str) -> Generator[None, None, None]:
    """Turn a missing package into an error that names the extra which brings it."""
    try:
        yield
    except ImportError as error:
        missing = (error.name or "").split(".")[0]
        if not missing or missing == "llmtrace":
            raise
        fail(f"{missing} is not installed: {install_hint(extra)}")


def fail(message: str) -> NoReturn:
    """Print ``message`` in one line on stderr and exit."""
    line = " ".join(message.split())
    print(f"llmtrace: {line}", file=sys.stderr)
    raise SystemExit(_FAILED)
