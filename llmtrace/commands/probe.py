"""`llmtrace probe`: asks a provider what nobody documents."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmtrace.commands.common import fail, guarded

_MOST_S = 30 * 86_400
"""The longest that anything is waited for, s."""


def add(app: Any) -> None:
    """Register the command."""

    @app.command()
    @guarded
    def probe(  # pyright: ignore[reportUnusedFunction]
        base_url: Annotated[
            list[str] | None,
            typer.Option(
                metavar="URL", help="Base URL, the client's own by default; several to watch.", show_default=False
            ),
        ] = None,
        model: Annotated[
            str | None,
            typer.Option(help="The model; the only one by default, where one is listed.", show_default=False),
        ] = None,
        client: Annotated[
            Literal["openai", "anthropic"] | None,
            typer.Option(help="Client library; by default the one whose key is set.", show_default=False),
        ] = None,
        budget: Annotated[
            float | None, typer.Option(min=0, metavar="USD", help="Spend no more than this.", show_default=False)
        ] = None,
        price: Annotated[
            tuple[float, float] | None,
            typer.Option(
                metavar="IN OUT",
                help="USD per million prompt and answer tokens, for a model not known.",
                show_default=False,
            ),
        ] = None,
        yes: Annotated[bool, typer.Option("--yes", "-y", help="Send without asking.")] = False,
        longest: Annotated[int, typer.Option(min=256, help="Tokens of the longest prompt.")] = 3000,
        at_once: Annotated[int, typer.Option(min=0, max=256, help="Calls sent at once; 0 sends none.")] = 16,
        ttl: Annotated[
            float | None,
            typer.Option(
                min=1,
                max=_MOST_S,
                metavar="SECONDS",
                help="Find how long prefixes are kept, in this time.",
                show_default=False,
            ),
        ] = None,
        json_file: Annotated[
            Path | None, typer.Option("--json", metavar="FILE", help="Write the sheet as JSON.", show_default=False)
        ] = None,
        baseline: Annotated[
            Path | None,
            typer.Option(
                metavar="FILE",
                help="Write the route's baseline here; LLMTRACE_BASELINE_PATH by default.",
                show_default=False,
            ),
        ] = None,
        watch: Annotated[
            bool, typer.Option("--watch", help="Ask three fixed prompts now and then, and tell what has changed.")
        ] = False,
        every: Annotated[
            float, typer.Option(min=0, max=_MOST_S, metavar="SECONDS", help="With --watch: between rounds.")
        ] = 300,
        rounds: Annotated[int, typer.Option(min=0, help="With --watch: how many; 0 until Ctrl-C.")] = 0,
        state: Annotated[
            Path | None,
            typer.Option(
                metavar="FILE", help="With --watch: keep what was learned here for the next run.", show_default=False
            ),
        ] = None,
        file: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Append the calls' spans to this OTLP/JSON file.", show_default=False),
        ] = None,
    ) -> None:
        """Ask a provider by designed calls what nobody documents: costs, cache, limits, chunks; print a spec sheet.

        The client takes its key and base URL from the environment, as in your own program. What will be sent is shown
        before, with its price.
        """
        if not watch and (state is not None or rounds):
            raise typer.BadParameter("--state and --rounds are only for --watch")
        if watch and any(given is not None for given in (ttl, json_file, baseline)):
            raise typer.BadParameter("--ttl, --json and --baseline are not for --watch")
        if price is not None and not all(0 <= usd < math.inf for usd in price):
            raise typer.BadParameter("--price takes USD per million prompt and answer tokens: 0 or more each")
        urls = [url or None for url in base_url or [""]]
        if len(urls) > 1 and not watch:
            fail("several base URLs are only for --watch: give one")
        from llmtrace.commands import probing  # only for this command: it brings all of the probe along

        asked = probing.Asked(client, urls, model, budget, price, yes, file)
        if watch:
            probing.watch(asked, every, rounds, state)
        else:
            probing.spec_sheet(asked, longest, at_once, ttl, json_file, baseline)
