"""`llmtrace serve`: Serve a real model."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from llmtrace.commands.common import Device, fail, guarded, importing, needs
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
        max_running: Annotated[int, typer.Option(min=1, help="Requests decoded at the same time.")] = 8,
        max_queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; further ones get a 429.")] = 64,
        prefill_chunk: Annotated[
            int, typer.Option(min=0, help="Prompt tokens per step and request; 0 computes prompts whole.")
        ] = 512,
        cache_tokens: Annotated[
            int | None,
            typer.Option(
                min=256, help="Room for keys and values, of running requests and of prefixes.", show_default=False
            ),
        ] = None,
        block_size: Annotated[int, typer.Option(min=4, help="Tokens per block of keys and values.")] = 128,
        prefix_cache_ttl: Annotated[
            float | None,
            typer.Option(min=0.001, help="Seconds after which an unused block is dropped.", show_default=False),
        ] = None,
        chunk_spans: Annotated[
            bool, typer.Option("--chunk-spans", help="A span for each chunk of a prompt, under its prefill.")
        ] = False,
        adapter: Annotated[
            list[str] | None,
            typer.Option(metavar="NAME=PATH", help="A PEFT LoRA adapter and its name as a model; may be repeated."),
        ] = None,
        merge_adapters: Annotated[
            bool, typer.Option("--merge-adapters", help="Merge the adapter in use into the weights.")
        ] = False,
        allow_host: Annotated[
            list[str] | None,
            typer.Option(metavar="NAME", help="A host name that requests may use beside addresses; may be repeated."),
        ] = None,
        grace: Annotated[float, typer.Option(min=0, help="Seconds from SIGTERM to the end (2 at least).")] = 3.0,
        faults: Annotated[bool, typer.Option("--faults", help="Obey requests that ask for a fault (tests).")] = False,
        run_on: Annotated[
            bool, typer.Option("--run-on", help="A fault: make answers to their ends though their clients have gone.")
        ] = False,
    ) -> None:
        """Serve a real model with an OpenAI-compatible API and every phase measured."""
        with importing("reference"):
            from llmtrace import reference

            run: Callable[..., None] = getattr(reference, "serve")  # noqa: B009
            parse_adapters: Callable[..., Any] = getattr(reference, "parse_adapters")  # noqa: B009
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
                    run_on=run_on,
                    prefill_chunk=prefill_chunk or None,
                    cache_tokens=cache_tokens,
                    block_size=block_size,
                    prefix_cache_ttl=prefix_cache_ttl,
                    chunk_spans=chunk_spans,
                    adapters=parse_adapters(adapter or []),
                    merge_adapters=merge_adapters,
                    allow_hosts=allow_host or [],
                    grace=grace,
                )
        except expected as error:
            fail(str(error))
