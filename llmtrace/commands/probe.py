"""`llmtrace probe`: asks a provider what nobody documents."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmtrace.commands.common import INTERRUPTED, fail, guarded, needs, terminal

_PER_MILLION = 1e6


def add(app: Any) -> None:
    """Register the command, a group whose default is the probe itself."""
    group = typer.Typer(invoke_without_command=True, no_args_is_help=False, rich_markup_mode=None)
    app.add_typer(group, name="probe")

    @group.callback()
    @guarded
    def probe(  # pyright: ignore[reportUnusedFunction]
        context: typer.Context,
        base_url: Annotated[
            str | None,
            typer.Option(metavar="URL", help="Base URL; the client's own by default.", show_default=False),
        ] = None,
        model: Annotated[
            str | None, typer.Option(help="The model; the only one by default, where one is listed.", show_default=False)
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
                metavar="IN OUT", help="USD per million prompt and answer tokens, for a model not known.", show_default=False
            ),
        ] = None,
        yes: Annotated[bool, typer.Option("--yes", "-y", help="Send without asking.")] = False,
        longest: Annotated[int, typer.Option(min=256, help="Tokens of the longest prompt.")] = 3000,
        at_once: Annotated[int, typer.Option(min=0, max=256, help="Calls sent at once; 0 sends none.")] = 16,
        ttl: Annotated[
            float | None,
            typer.Option(
                min=1, metavar="SECONDS", help="Find how long prefixes are kept, in this time.", show_default=False
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
        file: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Append the calls' spans to this OTLP/JSON file.", show_default=False),
        ] = None,
    ) -> None:
        """Ask a provider by designed calls what nobody documents: costs, cache, limits, chunks; print a spec sheet.

        The client takes its key and base URL from the environment, as in your own program. What will be sent is shown
        before, with its price.
        """
        if context.invoked_subcommand is not None:
            return
        from llmtrace.observe.address import host_of, is_private
        from llmtrace.probe import plan, text
        from llmtrace.probe.answers import Refusal
        from llmtrace.probe.clients import open_client, shown
        from llmtrace.probe.probing import probe as ask
        from llmtrace.probe.prompts import Prompts
        from llmtrace.probe.session import Purse, Session
        from llmtrace.probe.tracing import Tracing, destination

        try:
            opened = open_client(client, base_url, model)
            private = is_private(host_of(opened.base_url))
            known = _price(opened.provider, opened.model, price, asked=budget is not None or not private)
            if budget is not None and known is None:
                fail(
                    f"the price of {opened.model} is not known, so that a budget cannot be kept: "
                    "give --price IN OUT, in USD per million tokens"
                )
            options = plan.Options(min(longest, _room(opened)), at_once, ttl)
            steps = plan.steps(options, opened.least)
            if budget is not None and known is not None:
                steps, left_out = plan.affordable(steps, known, budget)
                if not steps:
                    least = left_out[0].cost(known)
                    fail(f"the first calls alone may cost {text.usd(least)}, more than the budget: nothing was sent")
            else:
                left_out = []
            screen = terminal(highlight=False)
            screen.print(text.announcement(shown(opened.base_url), opened.model, steps, known, private), markup=False)
            if left_out:
                screen.print(f"the budget leaves out: {', '.join(step.name for step in left_out)}", markup=False)
            _confirm(yes)
            tracing = Tracing(opened.kind, destination(file), baseline)
            session = Session(opened, Prompts(), Purse(known, budget), options.longest)
            try:
                with _progress(session, steps) as begins:
                    sheet, learned = ask(session, tracing, steps, options, begins)
            finally:
                tracing.close()
                opened.close()
        except Refusal as refusal:
            fail(str(refusal))
        text.print_sheet(sheet, screen)
        if json_file is not None:
            json_file.write_text(json.dumps(sheet.to_json(), indent=1) + "\n", encoding="utf-8")
        if tracing.baseline and learned.prompts:
            screen.print(f"\nbaseline: {tracing.baseline}", markup=False)
        if sheet.stopped == "interrupted":
            raise SystemExit(INTERRUPTED)


def _price(provider: str, model: str, given: tuple[float, float] | None, *, asked: bool) -> Any:
    """The model's price, None where it is not known. ``asked``: a missing price list is an error."""
    from llmtrace.tasks import prices

    if given is not None:
        into, out = (each / _PER_MILLION for each in given)
        return prices.Price(input=into, cached=into, written=into, output=out)
    if not asked:
        return None
    with needs("analyze"):
        return prices.price(provider, model)


def _room(client: Any) -> int:
    """The longest prompt that the model's listed context has room for, where it is listed."""
    from llmtrace.probe import plan

    for each in client.models():
        length = getattr(each, "max_model_len", None)
        if getattr(each, "id", None) == client.model and isinstance(length, int):
            return max(plan.LEAST_LONGEST, int(0.9 * length) - plan.BESIDE_ANSWER // 2)
    return sys.maxsize


def _confirm(yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        fail("nothing was sent: say --yes where nobody can be asked")
    if not typer.confirm("Send them?"):
        raise SystemExit(0)


def _progress(session: Any, steps: Any) -> Any:
    """A bar over all calls, on stderr; gives the function that is told of each step."""
    import contextlib
    from collections.abc import Callable, Generator

    @contextlib.contextmanager
    def bar() -> Generator[Callable[[Any], None]]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("probe", total=sum(step.calls for step in steps))
            session.done = lambda: progress.advance(task)
            yield lambda step: progress.update(task, description=step.name)

    return bar()
