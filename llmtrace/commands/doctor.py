"""`llmtrace doctor`: lists what is installed and what is missing."""

from typing import Any

from llmtrace.commands.common import guarded


def add(app: Any) -> None:
    """Register the command."""

    @app.command()
    @guarded
    def doctor() -> None:  # pyright: ignore[reportUnusedFunction]
        """Tell what is installed and patched, where spans go, and what is missing."""
        from rich.console import Console

        from llmtrace import doctor as module

        code = module.run(Console(highlight=False))
        if code:
            raise SystemExit(code)
