"""The command line: serve, demo, show, doctor."""
# No deferred annotations here: typer reads them, and it is imported only where the commands are made.

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Generator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from llmtrace.errors import LlmtraceError
from llmtrace.version import VERSION

Device = Literal["auto", "cpu", "cuda", "mps"]

_FAILED = 1
_INTERRUPTED = 130


def main() -> None:
    """Run the command line; leaves through ``SystemExit``."""
    try:
        for package in ("typer", "rich"):
            import_module(package)
    except ImportError:
        _fail('the command line needs two small packages: pip install "llmtrace[cli]"')
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    _guarded(build_app())(prog_name="llmtrace")


def build_app() -> Any:
    """The typer application."""
    import typer

    app = typer.Typer(
        name="llmtrace",
        help="Where each LLM call's time went, how it is known, and how sure that is.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            print(f"llmtrace {VERSION}")
            raise typer.Exit

    @app.callback()
    def root(  # pyright: ignore[reportUnusedFunction]
        show: Annotated[
            bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
        ] = False,
    ) -> None:
        """Where each LLM call's time went, how it is known, and how sure that is."""

    @app.command()
    @_guarded
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
        with _needs("reference"):
            from llmtrace import reference

            run: Callable[..., None] = getattr(reference, "serve")  # noqa: B009
            expected: type[Exception] = getattr(reference, "RunnerError", LlmtraceError)
        try:
            with _needs("reference"):
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
            _fail(str(error))

    @app.command()
    @_guarded
    def demo(  # pyright: ignore[reportUnusedFunction]
        out: Annotated[Path, typer.Option(help="Folder for traces.otlp.jsonl, truth.json and trace.html.")] = Path(
            "llmtrace-demo"
        ),
        port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the demo's server; 0 takes a free one.")] = 0,
        device: Annotated[Device, typer.Option(help="Where the model runs.")] = "auto",
        calls: Annotated[
            int | None,
            typer.Option(min=1, help="Calls to learn the route from, before the scenarios.", show_default=False),
        ] = None,
    ) -> None:
        """Call a real local model with the real client and show where each call's time went."""
        from rich.console import Console

        with _needs("demo"):
            from llmtrace.demo.run import LEARN, run

            run(out=out, device=device, console=Console(), port=port, calls=calls or LEARN)

    @app.command()
    @_guarded
    def show(  # pyright: ignore[reportUnusedFunction]
        file: Annotated[
            Path, typer.Argument(help="OTLP/JSON: lines or one object, gzipped or not.", show_default=False)
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
        from rich.console import Console

        from llmtrace.view import terminal

        if html is not None:
            from llmtrace.view import html as page
            from llmtrace.view.selection import select

            chosen = select(file, trace=trace, limit=limit, strict=strict)
            page.write_html(chosen.spans, html, title=file.name)
            for line in chosen.notes():
                print(line, file=sys.stderr)
            print(f"wrote {html}")
            return
        terminal.show(file, Console(), trace=trace, limit=limit, strict=strict, notes=Console(stderr=True))

    @app.command()
    @_guarded
    def doctor() -> None:  # pyright: ignore[reportUnusedFunction]
        """Tell what is installed and patched, where spans go, and what is missing."""
        from rich.console import Console

        from llmtrace import doctor as module

        code = module.run(Console(highlight=False))
        if code:
            raise SystemExit(code)

    return app


def _guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn what can be expected to go wrong into one line and an exit code."""

    @functools.wraps(command, updated=())
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            result = command(*args, **kwargs)
            sys.stdout.flush()
            return result
        except LlmtraceError as error:
            _fail(str(error))
        except KeyboardInterrupt:
            raise SystemExit(_INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read the output has left: nothing to say, and nobody to say it to.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(_FAILED) from None
        except OSError as error:
            if error.strerror is None:
                raise
            _fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)

    return guarded


@contextlib.contextmanager
def _needs(extra: str) -> Generator[None, None, None]:
    """A package that is not there, told with the extra that brings it."""
    try:
        yield
    except ImportError as error:
        missing = (error.name or "").split(".")[0]
        if not missing or missing == "llmtrace":
            raise
        _fail(f'{missing} is not installed: pip install "llmtrace[{extra}]"')


def _fail(message: str) -> NoReturn:
    line = " ".join(message.split())
    print(f"llmtrace: {line}", file=sys.stderr)
    raise SystemExit(_FAILED)


if __name__ == "__main__":
    main()
