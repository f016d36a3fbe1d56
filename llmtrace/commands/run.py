"""`llmtrace run`: A program, traced."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from llmtrace.commands.common import guarded
from llmtrace.launch.destinations import choose
from llmtrace.wording import say

_NOT_FOUND, _NOT_RUNNABLE = 127, 126
_SITE = Path(__file__).parent.parent / "launch" / "site"


def add(app: Any) -> None:
    """Register the command."""

    @app.command(context_settings={"allow_interspersed_args": False})
    @guarded
    def run(  # pyright: ignore[reportUnusedFunction]
        command: Annotated[list[str], typer.Argument(metavar="[--] COMMAND...", help="The program and its arguments.")],
        view: Annotated[
            bool, typer.Option("--view", help="Send to llmtrace view on this machine; start it where it does not run.")
        ] = False,
        otlp: Annotated[
            str | None,
            typer.Option(metavar="URL", help="Send to this OTLP endpoint (a port 4317 is gRPC's).", show_default=False),
        ] = None,
        file: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Append to this OTLP/JSON file.", show_default=False)
        ] = None,
        console: Annotated[bool, typer.Option("--console", help="Print each call on stderr as it ends.")] = False,
    ) -> None:
        """Run a program with its LLM calls traced; it keeps its output, its exit code and its time.

        With no option the first of these is used: OTEL_EXPORTER_OTLP_ENDPOINT, a viewer that runs, a collector on port
        4318, a viewer started now, a file. Settings come from LLMTRACE_* variables, as ever.
        """
        program = _program(command[0])  # first: a viewer that is started for a slip of the keys would go on
        destination = choose(view=view, otlp=otlp, file=file, console=console)
        say(destination.sentence)
        ahead = os.environ.get("PYTHONPATH")
        _become(
            program,
            command,
            {
                **os.environ,
                **destination.to_environ(),
                "PYTHONPATH": f"{_SITE}{os.pathsep}{ahead}" if ahead else str(_SITE),
            },
        )


def _program(name: str) -> str:
    """The program's path; where there is none, the command ends as a shell does."""
    program = shutil.which(name)
    if program is None:
        there = os.path.dirname(name) and os.path.exists(name)
        say(f"{name}: {'it cannot be executed' if there else 'no such program'}")
        raise SystemExit(_NOT_RUNNABLE if there else _NOT_FOUND)
    return program


def _become(program: str, command: Sequence[str], environ: dict[str, str]) -> NoReturn:
    """Become the program: it has our process, so its signals, terminal and exit code are its own."""
    sys.stdout.flush()
    if os.name == "nt":  # where a process cannot become another
        raise SystemExit(subprocess.run([program, *command[1:]], env=environ, check=False).returncode)
    try:
        os.execve(program, list(command), environ)
    except OSError as error:
        say(f"{command[0]}: {error.strerror}")
        raise SystemExit(_NOT_RUNNABLE) from None
