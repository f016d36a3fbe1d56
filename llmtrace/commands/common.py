"""Error handling of all commands: mistakes in one line, missing packages by the extra that brings them."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final, Literal, NoReturn

from llmtrace import interpreter
from llmtrace.commands import interrupts
from llmtrace.errors import LlmtraceError
from llmtrace.version import install_hint
from llmtrace.wording import clean, say

Device = Literal["auto", "cpu", "cuda", "mps"]

_FAILED = 1
INTERRUPTED = 130
_MOST: Final = 1_000_000_000
"""The largest number that any option takes: seconds, tokens, rows, USD."""


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a command so that expected errors become one line and an exit code, as do numbers that nothing takes."""

    @functools.wraps(command, updated=())
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            try:
                _check_numbers(kwargs)
                return command(*args, **kwargs)
            finally:
                sys.stdout.flush()  # `--help` and `--version` leave through SystemExit
        except LlmtraceError as error:
            fail(str(error))
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None
        except RuntimeError as error:
            if not isinstance(error.__cause__, KeyboardInterrupt):  # what DuckDB makes of Ctrl-C while it works
                raise
            raise SystemExit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader of the output has what it wanted (`| head`), so no message is printed and nothing is wrong.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            if error.strerror is None:
                raise
            fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)

    return guarded


def _check_numbers(options: Mapping[str, Any]) -> None:
    """Refuse what a range of typer's lets through: NaN, infinity, and numbers beyond all use, which overflow later."""
    for name, value in options.items():
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(number, (int, float)) and not is_usable(number):
                import typer

                option, told = name.replace("_", "-"), f"{number:g}" if isinstance(number, float) else f"{number}"[:20]
                raise typer.BadParameter(f"--{option} is {told}; it takes a number of at most {_MOST:,}")


def was_given(context: Any, name: str) -> bool:
    """Whether the option ``name`` of a command (typer's context) stands on its command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def check_given(context: Any) -> None:
    """Refuse options and sources that are given and empty, as by a variable of the shell's that is not set, and pages
    and tables that would be written over what is read.
    """
    import typer

    sources: list[str] = []
    for parameter in context.command.params:
        value = context.params.get(parameter.name)
        if parameter.param_type_name == "argument":
            given = [str(each) for each in (value if isinstance(value, (list, tuple)) else (value,))]
            if "" in given:
                shown = (parameter.metavar or parameter.name).upper().rstrip(".")
                raise typer.BadParameter(f"{shown} is empty: name one")
            sources += given
        elif ("" in value if isinstance(value, (list, tuple)) else value == "") and was_given(context, parameter.name):
            raise typer.BadParameter(f"{parameter.opts[0]} is empty: leave it out, or say what")
    for name in _WRITTEN:
        place = context.params.get(name)
        if place is not None and any(_is_same(place, source) for source in sources):
            raise typer.BadParameter(f"--{name} is {place}, which is read: name another file")


_WRITTEN: Final = ("html", "save")
"""The options that name a file to write."""


def _is_same(one: str | os.PathLike[str], other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # one of them is not there, or is an address
        return False


def is_usable(number: float) -> bool:
    """Whether a number that was given can be meant: a finite one, of at most ``_MOST``."""
    return abs(number) <= _MOST


@contextlib.contextmanager
def importing(extra: str) -> Generator[None, None, None]:
    """Load what a command needs: Ctrl-C ends it at once, and a missing package is an error as in ``needs``."""
    with interrupts.loading(), needs(extra):
        yield


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


def require(extra: str, *modules: str) -> None:
    """End the command in one line if a module is missing, before anything is done; names all that are."""
    missing = [module for module in modules if not interpreter.finds(module)]
    if missing:
        names = " and ".join(filter(None, (", ".join(missing[:-1]), missing[-1])))
        fail(f"{names} {'is' if len(missing) == 1 else 'are'} not installed: {install_hint(extra)}")


def terminal(**options: Any) -> Any:
    """A rich Console whose reader may leave (`| head`): ``guarded`` ends the command then."""
    from rich.console import Console

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Terminal(**options)


def fail(message: str) -> NoReturn:
    """Print ``message`` on stderr, in one line but where a terminal is narrower, and exit."""
    say(" ".join(clean(message, 4000).split()))
    raise SystemExit(_FAILED)
