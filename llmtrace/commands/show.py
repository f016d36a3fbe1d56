"""`llmtrace show`: Waterfalls of a file."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llmtrace.commands import interrupts
from llmtrace.commands.common import check_given, guarded, terminal
from llmtrace.wording import fitted


def add(app: Any) -> None:
    """Register the command."""

    @app.command()
    @guarded
    def show(  # pyright: ignore[reportUnusedFunction]
        context: typer.Context,
        file: Annotated[
            Path,
            typer.Argument(help="OTLP/JSON: lines or one object, gzipped or not.", show_default=False, readable=False),
        ],
        trace: Annotated[
            str | None, typer.Option(metavar="ID", help="Only traces whose id begins so.", show_default=False)
        ] = None,
        limit: Annotated[
            int | None, typer.Option(min=1, metavar="N", help="Only the last N traces.", show_default=False)
        ] = None,
        html: Annotated[
            Path | None,
            typer.Option(metavar="PAGE", help="Write a self-contained page instead.", show_default=False),
        ] = None,
        strict: Annotated[bool, typer.Option("--strict", help="Fail on the first broken line.")] = False,
    ) -> None:
        """Print the waterfalls of an OTLP/JSON file, whoever wrote it."""
        check_given(context)
        with interrupts.loading():
            from llmtrace.view import html as page
            from llmtrace.view import terminal as waterfalls
            from llmtrace.view.selection import select
        if html is not None:
            selection = select(file, trace=trace, limit=limit, strict=strict)
            page.write_html(selection.spans, html, title=file.name)
            for line in selection.notes():
                print(fitted(line, sys.stderr), file=sys.stderr)
            print(f"wrote {html}")
            return
        waterfalls.show(file, terminal(), trace=trace, limit=limit, strict=strict, notes=terminal(stderr=True))
