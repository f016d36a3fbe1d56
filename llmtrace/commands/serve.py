"""`llmtrace serve`: Serve a real model."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from llmtrace.commands.common import Device, fail, guarded, needs
from llmtrace.errors import LlmtraceError


def add(app: Any) -> None:
    """Register the command."""

    @app.command()
    @guarded
    def serve(  # pyright: ignore[reportUnusedFunction]
        model: Annotated[
            Path | None,
            typer.Option(help="Folder of a Hugging Face causal LM; a small one is built where this is not given."),
        ] = None,
        host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
        port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8101,
        device: Annotated[Device, typer.Option(help="Where the model runs.")] = "auto",
        max_running: Annotated[int, typer.Option(min=1, help="Requests decoded at the same time.")] = 1,
        max_queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; further ones get a 429.")] = 64,
        faults: Annotated[bool, typer.Option("--faults", help="Obey requests that ask for a fault (tests).")] = False,
    ) -> None:
        """Serve a real model with an OpenAI-compatible API and every phase measured."""
        with needs("reference"):
            from llmtrace import reference

            run: Callable[..., None] = getattr(reference, "serve")  # noqa: B009
            expected: type[Exception] = getattr(reference, "RunnerError", LlmtraceError)
        try:
            with needs("reference"):
                run(
                    model=model,
                    host=host,
                    port=port,
                    device=device,
                    max_running=max_running,
                    max_queue=max_queue,
                    faults=faults,
                )
        except expected as error:
            fail(str(error))
