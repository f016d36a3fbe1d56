"""`llmtrace doctor`: lists what is installed and what is missing."""

from pathlib import Path
from typing import Annotated, Any

import typer

from llmtrace.commands import interrupts
from llmtrace.commands.common import guarded, terminal


def add(app: Any) -> None:
    """Register the command."""

    @app.command()
    @guarded
    def doctor(  # pyright: ignore[reportUnusedFunction]
        file: Annotated[
            Path | None,
            typer.Argument(
                help="Spans as OTLP/JSON: of each route in them, what keeps its phases merged.",
                show_default=False,
                readable=False,
            ),
        ] = None,
        everything: Annotated[bool, typer.Option("--all", help="List what is fine as well.")] = False,
    ) -> None:
        """Tell what is traced, where spans go, and what is wrong, with the command that mends it."""
        with interrupts.loading():
            from llmtrace import doctor as module
        code = module.run(terminal(highlight=False), traces=file, everything=everything)
        if code:
            raise SystemExit(code)
