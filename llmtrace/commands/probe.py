"""`llmtrace probe`: asks a provider what nobody documents."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmtrace.commands.common import fail, guarded, was_given

_MOST_S = 30 * 86_400
"""The longest that anything is waited for, s."""


_Model = Annotated[
    str | None, typer.Option(help="The model; the only one by default, where one is listed.", show_default=False)
]
_Client = Annotated[
    Literal["openai", "anthropic"] | None,
    typer.Option(help="Client library; by default the one whose key is set.", show_default=False),
]
_Budget = Annotated[
    float | None, typer.Option(min=0, metavar="USD", help="Spend no more than this.", show_default=False)
]
_Price = Annotated[
    tuple[float, float] | None,
    typer.Option(
        metavar="IN OUT", help="USD per million prompt and answer tokens, for a model not known.", show_default=False
    ),
]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Send without asking.")]
_File = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Append the calls' spans to this OTLP/JSON file.", show_default=False),
]


def add(app: Any) -> None:
    """Register the commands."""
    group = typer.Typer(rich_markup_mode=None)

    @group.callback(invoke_without_command=True)
    @guarded
    def probe(  # pyright: ignore[reportUnusedFunction]
        context: typer.Context,
        base_url: Annotated[
            list[str] | None,
            typer.Option(
                metavar="URL", help="Base URL, the client's own by default; several to watch.", show_default=False
            ),
        ] = None,
        model: _Model = None,
        client: _Client = None,
        budget: _Budget = None,
        price: _Price = None,
        yes: _Yes = False,
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
        file: _File = None,
    ) -> None:
        """Ask a provider by designed calls what nobody documents: costs, cache, limits, chunks; print a spec sheet.

        The client takes its key and base URL from the environment, as in your own program. What will be sent is shown
        before, with its price.
        """
        if context.invoked_subcommand is not None:
            for option in context.command.params:
                if option.name and was_given(context, option.name):
                    raise typer.BadParameter(f"{option.opts[0]} goes behind {context.invoked_subcommand}")
            return
        if not watch and (state is not None or rounds):
            raise typer.BadParameter("--state and --rounds are only for --watch")
        if watch and any(given is not None for given in (ttl, json_file, baseline)):
            raise typer.BadParameter("--ttl, --json and --baseline are not for --watch")
        _check(price)
        urls = [url or None for url in base_url or [""]]
        if len(urls) > 1 and not watch:
            fail("several base URLs are only for --watch: give one")
        from llmtrace.commands import probing  # only for this command: it brings all of the probe along

        asked = probing.Asked(client, urls, model, budget, price, yes, file)
        if watch:
            probing.watch(asked, every, rounds, state)
        else:
            probing.spec_sheet(asked, longest, at_once, ttl, json_file, baseline)

    @group.command()
    @guarded
    def cancel(  # pyright: ignore[reportUnusedFunction]
        base_url: Annotated[
            str | None, typer.Option(metavar="URL", help="Base URL, the client's own by default.", show_default=False)
        ] = None,
        model: _Model = None,
        client: _Client = None,
        metrics: Annotated[
            list[str] | None,
            typer.Option(
                metavar="URL",
                help="Page of metrics of the engine behind a gateway; once for each of several.",
                show_default=False,
            ),
        ] = None,
        tokens: Annotated[int, typer.Option(min=60, help="Tokens of the stream that is closed after ten.")] = 400,
        budget: _Budget = None,
        price: _Price = None,
        yes: _Yes = False,
        json_file: Annotated[
            Path | None, typer.Option("--json", metavar="FILE", help="Write the answer as JSON.", show_default=False)
        ] = None,
        file: _File = None,
    ) -> None:
        """Close a long stream after ten tokens, and find out who goes on.

        Gateway, engine, rate limit and bill are asked. A whole answer is sent too, to compare with. What will be sent
        is shown before, with its price.
        """
        _check(price)
        from llmtrace.commands import cancelling, probing

        asked = probing.Asked(client, [base_url or None], model, budget, price, yes, file)
        cancelling.prove(asked, tokens, metrics or [], json_file)

    app.add_typer(group, name="probe")


def _check(price: tuple[float, float] | None) -> None:
    if price is not None and not all(0 <= usd < math.inf for usd in price):
        raise typer.BadParameter("--price takes USD per million prompt and answer tokens: 0 or more each")
