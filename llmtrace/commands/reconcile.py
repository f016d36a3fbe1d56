"""`llmtrace reconcile`: joins what others say was billed with recorded traces."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmtrace.commands.common import fail, guarded, importing, terminal
from llmtrace.wording import clean_json

_WITH = (
    "An export: OpenRouter's generations, LiteLLM's spend logs, OpenAI's or Anthropic's usage (JSON or CSV); or an "
    "address that is asked. May be repeated."
)


def add(app: Any) -> None:
    """Register the command."""

    @app.command()
    @guarded
    def reconcile(  # pyright: ignore[reportUnusedFunction]
        sources: Annotated[
            list[str], typer.Argument(metavar="TRACES...", help="Trace files, folders or addresses, as for report.")
        ],
        exports: Annotated[
            list[str] | None, typer.Option("--with", metavar="EXPORT", help=_WITH, show_default=False)
        ] = None,
        file: Annotated[
            Path, typer.Option(metavar="FILE", help="Append what was billed to this OTLP/JSON file, as spans.")
        ] = Path("billed.otlp.jsonl"),
        within: Annotated[
            float, typer.Option(min=0, max=3600, metavar="SECONDS", help="How far times may be apart without an id.")
        ] = 2.0,
        format: Annotated[Literal["text", "json"], typer.Option(help="What to print.")] = "text",
    ) -> None:
        """Join exports of what was billed with recorded traces, by response id, else by time and size.

        An address: https://openrouter.ai/api/v1 or a LiteLLM proxy's is asked for each call whose tokens are not known;
        OpenAI's /v1/organization/usage/completions?... and Anthropic's /v1/organizations/usage_report/messages?... for
        their sums. Keys: OPENROUTER_API_KEY, LITELLM_MASTER_KEY, OPENAI_ADMIN_KEY, ANTHROPIC_ADMIN_KEY.
        """
        if not exports:
            fail("nothing to join the traces with: name an export by --with")
        with importing("analyze"):
            from llmtrace.analyze.billing import asking, spans
            from llmtrace.analyze.billing import reconcile as joining
            from llmtrace.analyze.book import Book
            from llmtrace.analyze.load import load
            from llmtrace.analyze.report import as_json
            from llmtrace.view import report_text
        told = joining.read(exports)
        addresses = [each for each in exports if asking.is_address(each)]
        with load(sources) as traces:
            made = joining.reconcile(Book(traces), told, addresses, within)
            if made.matches:
                spans.write(made.matches, file)
            report = joining.report(made, str(file))
            report.stats = (traces.stats,)
        if format == "json":
            print(clean_json(json.dumps(as_json(report), ensure_ascii=False, indent=1)))
        else:
            report_text.show(report, terminal())
