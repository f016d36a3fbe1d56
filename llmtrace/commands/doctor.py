"""`llmtrace doctor`: lists what is installed and what is missing."""

from pathlib import Path
from typing import Annotated, Any

import typer

from llmtrace.commands.common import guarded


def add(app: Any) -> None:
    """Register the command."""

    @app.command()
    @guarded
    def doctor(  # pyright: ignore[reportUnusedFunction]
        file: Annotated[
            Path | None,
            typer.Argument(
                help="Spans as OTLP/JSON: of each route in them, what keeps its phases merged.", show_default=False
            ),
        ] = None,
    ) -> None:
        """Tell what is installed and patched, where spans go, what is missing, and why phases are merged."""
        from rich.console import Console

        from llmtrace import doctor as module

        code = module.run(Console(highlight=False), traces=file)
        if code:
            raise SystemExit(code)
