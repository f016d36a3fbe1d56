"""`llmtrace breakeven`: recorded calls on a machine that `llmtrace bench` has measured."""

from pathlib import Path
from typing import Annotated, Any

import typer

from llmtrace.commands.common import guarded, importing, was_given
from llmtrace.commands.report import SOURCES, Given, give, opened, share_of, taking


def add(app: Any) -> None:
    """Register the command."""

    @app.command()
    @guarded
    @taking
    def breakeven(  # pyright: ignore[reportUnusedFunction]
        context: typer.Context,
        sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help=SOURCES)],
        bench: Annotated[Path, typer.Option(metavar="FILE", help="What llmtrace bench wrote.")] = Path(
            "llmtrace-bench.json"
        ),
        route: Annotated[str, typer.Option(metavar="TEXT", help="Only routes with this in their names.")] = "",
        weights: Annotated[
            str,
            typer.Option(
                metavar="FORMAT",
                help="The weight format to compare; by default the one that meets the targets at the least loss.",
            ),
        ] = "",
        usd_per_hour: Annotated[float, typer.Option(min=0.0, help="What the machine costs.")] = 0.0,
        usd_per_kwh: Annotated[float, typer.Option(min=0.0, help="What energy costs, where it was measured.")] = 0.0,
        usd_in: Annotated[
            float | None,
            typer.Option(min=0.0, help="The route's price of a million input tokens.", show_default=False),
        ] = None,
        usd_out: Annotated[
            float | None, typer.Option(min=0.0, help="The same of output tokens.", show_default=False)
        ] = None,
        slo: Annotated[str, typer.Option(metavar="SHARE", help="The share of calls that are to meet targets.")] = "95%",
        slo_ttft: Annotated[float | None, typer.Option(min=0.0, help="Target: TTFT, s.", show_default=False)] = None,
        slo_itl: Annotated[
            float | None, typer.Option(min=0.0, help="Target: mean time between tokens, s.", show_default=False)
        ] = None,
        slo_total: Annotated[
            float | None, typer.Option(min=0.0, help="Target: the whole call, s.", show_default=False)
        ] = None,
        *,
        given: Given,
    ) -> None:
        """When a machine of your own beats the route: latency, cost, break-even, weight format and router."""
        with importing("analyze"):
            from llmtrace.analyze.book import Book
            from llmtrace.analyze.breakeven import machine, report
            from llmtrace.analyze.breakeven.choices import Prices, Targets
        if was_given(context, "components"):
            raise typer.BadParameter("breakeven does not take --components: it is about routes")
        for option, target in (("ttft", slo_ttft), ("itl", slo_itl), ("total", slo_total)):
            if target == 0:
                raise typer.BadParameter(f"--slo-{option} is 0; it takes seconds over 0")
        if (usd_in is None) != (usd_out is None):
            raise typer.BadParameter("--usd-in and --usd-out go together")
        results = machine.read(bench)
        machines = machine.machines(results, bench)
        targets = Targets(slo_ttft, slo_itl, slo_total, share_of(slo))
        with opened([sources], given) as (traces,):
            made = report.make(
                Book(traces), machines, f"{results.get('model', '?')} on {results.get('device', '?')}",
                targets=targets, prices=Prices(usd_per_hour, usd_per_kwh), weights=weights, route=route,
                usd_in=usd_in, usd_out=usd_out, notes=machine.left_out(results),
            )  # fmt: skip
            give(made, given)
