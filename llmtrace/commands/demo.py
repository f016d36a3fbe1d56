"""`llmtrace demo`: The demo."""

from pathlib import Path
from typing import Annotated, Any

import typer

from llmtrace.commands.common import Device, guarded, importing, require, terminal

_NEEDED = ("openai", "torch", "transformers", "starlette", "uvicorn", "opentelemetry.exporter.otlp.proto.common")


def add(app: Any) -> None:
    """Register the command."""

    @app.command()
    @guarded
    def demo(  # pyright: ignore[reportUnusedFunction]
        out: Annotated[Path, typer.Option(help="Folder for traces.otlp.jsonl, truth.json and trace.html.")] = Path(
            "llmtrace-demo"
        ),
        port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the demo's server; 0 takes a free one.")] = 0,
        device: Annotated[Device, typer.Option(help="Where the model runs.")] = "auto",
        calls: Annotated[
            int | None,
            typer.Option(min=1, help="Calls to learn the route from, before the stories.", show_default=False),
        ] = None,
        everything: Annotated[
            bool,
            typer.Option("--all", help="Retries, errors and slow readers too, and the waterfall of every call."),
        ] = False,
    ) -> None:
        """Call a real local model, show where each call's time went and why, and check it against the server."""

        require("demo", *_NEEDED)
        with importing("demo"):
            from llmtrace.demo.run import run
            from llmtrace.demo.scenarios import LEARN

            run(
                out=out,
                device=device,
                console=terminal(),
                port=port,
                calls=calls or LEARN,
                everything=everything,
            )
