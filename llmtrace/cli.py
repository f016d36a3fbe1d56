"""The command line: `llmtrace COMMAND`, each command a module of `llmtrace.commands`."""
# No deferred annotations here: typer reads them, and it is imported only where the commands are made.

import contextlib
import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any

from llmtrace.commands import COMMANDS, interrupts

with interrupts.loading():
    from llmtrace import name_clash
    from llmtrace.commands.common import INTERRUPTED, fail, guarded
    from llmtrace.version import VERSION, install_hint


def main() -> None:
    """Run the command line; leaves through ``SystemExit``."""
    try:
        _main()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    finally:
        interrupts.ending()


def _main() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed (`>&-`): what is said goes nowhere, and not to the other one
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process
    if name_clash.imported() and sys.argv[1:2] != ["doctor"]:
        fail(f"another package called llmtrace has overwritten this one: {name_clash.mend()}")
    with interrupts.loading():
        try:
            for package in ("typer", "rich"):
                import_module(package)
        except ImportError as error:
            fail(f"{error.name} is missing, which came with llmtrace: {install_hint(upgrade=True)}")
        app = build_app()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    with interrupts.heard():
        guarded(app)(prog_name="llmtrace")


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

    def show_version(asked_for: bool) -> None:
        if asked_for:
            print(f"llmtrace {VERSION}")
            raise typer.Exit

    @app.callback()
    def root(  # pyright: ignore[reportUnusedFunction]
        show: Annotated[
            bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
        ] = False,
    ) -> None:
        """Where each LLM call's time went, how it is known, and how sure that is."""

    for command in COMMANDS:
        import_module(f"llmtrace.commands.{command}").add(app)
    return app


if name_clash.imported():
    # The command is the other package's too, and asks for `llmtrace.cli.cli:cli`: so it comes to say what is wrong.
    _theirs: Any = ModuleType("llmtrace.cli.cli")
    _theirs.cli = main
    sys.modules["llmtrace.cli.cli"] = _theirs

if __name__ == "__main__":
    main()
