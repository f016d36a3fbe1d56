"""`llmtrace view`: a page over the spans that programs send, or over files."""

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from llmtrace.commands.common import fail, guarded, importing, needs
from llmtrace.listening import is_loopback
from llmtrace.wording import say

_PORT = 4319
_MOST_BYTES = 1 << 60
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def add(app: Any) -> None:
    """Register the command."""

    @app.command()
    @guarded
    def view(  # pyright: ignore[reportUnusedFunction]
        files: Annotated[
            list[str] | None,
            typer.Argument(metavar="[FILE]...", help="OTLP/JSON files to open, .gz too, or folders of them."),
        ] = None,
        host: Annotated[
            str, typer.Option(help="Address to listen on; another than this machine's own lets others in.")
        ] = "127.0.0.1",
        port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = _PORT,
        store: Annotated[
            Path | None,
            typer.Option(
                metavar="PATH",
                help="File to keep spans in. Default: the user's data folder; a passing one where files are opened.",
                show_default=False,
            ),
        ] = None,
        memory: Annotated[bool, typer.Option("--memory", help="Keep spans in memory only.")] = False,
        max_size: Annotated[
            str, typer.Option(metavar="SIZE", help="Room for spans (500MB, 2GB): the oldest traces go first.")
        ] = "2GB",
        jaeger: Annotated[
            str | None,
            typer.Option(
                metavar="URL", help="A Jaeger that has the same traces: each gets a link.", show_default=False
            ),
        ] = None,
        allow_host: Annotated[
            list[str] | None,
            typer.Option(metavar="NAME", help="A further name that this server goes by; may be repeated."),
        ] = None,
        allow_origin: Annotated[
            list[str] | None,
            typer.Option(
                metavar="ORIGIN", help="An origin whose pages may send spans (http://localhost:8080); may be repeated."
            ),
        ] = None,
        default_ports: Annotated[
            bool | None,
            typer.Option(
                "--default-ports/--no-default-ports",
                help="Listen on OTLP's own ports 4317 and 4318 too, where they are free. Default: with port 4319.",
                show_default=False,
            ),
        ] = None,
        open: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    ) -> None:
        """Receive spans by OTLP, or open files, and show them as a page."""
        if memory and store is not None:
            fail("--memory and --store exclude each other")
        if jaeger is not None and not re.match(r"https?://[^/\s]+", jaeger):
            fail(f"--jaeger takes an address such as http://localhost:16686, not {jaeger!r}")
        most_bytes = _bytes(max_size)
        with importing("view"):
            from llmtrace.analyze import no_pandas

            no_pandas.keep_out()
            from llmtrace.view.serve.guard import origin_of
            from llmtrace.view.serve.run import Options, Ready, run
        if not is_loopback(host):
            say(f"warning: with --host {host} everyone who reaches this machine can read and send spans")

        def ready(up: Ready) -> None:
            print(f"The page: {up.url}   ({up.place})")
            here = "" if up.url.endswith(f":{_PORT}") else f"--otlp {up.url} "
            print(f"A program's LLM calls come here with: llmtrace run {here}-- COMMAND")
            if up.ports:
                print(f"Programs that send OTLP by default do so already (port {' and '.join(map(str, up.ports))}).")
            print("Other programs send here with:")
            print(f"  export OTEL_EXPORTER_OTLP_ENDPOINT={up.url}")
            if not up.grpc:
                print("  export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf")
            print("Ctrl-C ends it.", flush=True)
            if open:
                import webbrowser

                webbrowser.open(up.url)

        options = Options(
            files=files or (),
            host=host,
            port=port,
            store=store,
            memory=memory,
            max_bytes=most_bytes,
            jaeger_url=jaeger.rstrip("/") if jaeger else None,
            names=tuple(allow_host or ()),
            origins=tuple(map(origin_of, allow_origin or ())),
            default_ports=port == _PORT if default_ports is None else default_ports,
        )
        with needs("view"), _progress() as progress:
            run(options, ready, progress, say)


@contextmanager
def _progress() -> Generator[Callable[[Any], None], None, None]:
    """A bar on a terminal's stderr while files are read."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, visible=False)

        def tell(loading: Any) -> None:
            if loading is None:
                bar.update(task, visible=False)
            else:
                bar.update(task, completed=loading.done_bytes, total=loading.total_bytes or None, visible=True)

        yield tell


def _bytes(text: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", text, re.IGNORECASE)
    size = float(match[1]) * _UNITS[match[2].upper()] if match is not None else 0.0
    if not 1 <= size <= _MOST_BYTES:
        fail(f"--max-size {text[:40]!r} is no size: give for instance 500MB or 2GB")
    return int(size)
