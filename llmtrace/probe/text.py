"""The plan, the sheet and the progress as people read them in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmtrace.probe import plan
from llmtrace.probe.plan import Step
from llmtrace.probe.sheet import Figure, Sheet
from llmtrace.tasks.prices import Price
from llmtrace.wording import clean

_LEAST_NOTE = 16
"""Columns that are left for notes beside the figures; with fewer they stand below."""
_SCALES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def announcement(base_url: str, model: str, steps: Sequence[Step], price: Price | None, private: bool) -> str:
    """What will be sent, and its price."""
    sums = plan.total(list(steps), price)
    cost = f"at most {usd(sums['usd'])}" if price is not None else "no price" if private else "price not known"
    return (
        f"{clean(model, 80)} at {clean(base_url, 120)}: {sums['calls']:,.0f} calls, about "
        f"{sums['prompt_tokens']:,.0f} prompt and {sums['answer_tokens']:,.0f} answer tokens, {cost}"
    )


def usd(amount: float) -> str:
    """An amount of money, to two figures where it is small."""
    return f"{amount:.2f} USD" if amount >= 1 else f"{amount:.2g} USD"


def seconds(value: float) -> str:
    """A time in a unit that suits it."""
    if not value:
        return "0 s"
    scale, unit = next((each for each in _SCALES if abs(value) >= each[0]), _SCALES[-1])
    return f"{value / scale:.3g} {unit}"


def amount(figure: Figure, value: float | int | str | None) -> str:
    """A value in the figure's unit."""
    if value is None:
        return ""
    if isinstance(value, str):
        return clean(value, 200)
    kind = figure.unit.partition("/")[0]
    return seconds(value) if kind == "s" else f"{value:,.0f}"


def between(figure: Figure) -> str:
    """The interval, empty where there is none or it is the value itself."""
    if figure.low is None and figure.high is None:
        return ""
    if figure.high is None:
        return f"over {amount(figure, figure.low)}"
    if figure.low == figure.high == figure.value:
        return ""
    return f"{amount(figure, figure.low)} to {amount(figure, figure.high)}"


def print_sheet(sheet: Sheet, terminal: Any) -> None:
    """The sheet as a table, and below it what could not be told."""
    from rich.table import Table

    spent = "" if sheet.usd is None else f", {usd(sheet.usd)}"
    terminal.print(
        f"{clean(sheet.model, 80)} at {clean(sheet.base_url, 120)}: {sheet.calls:,} calls, "
        f"{sheet.prompt_tokens:,} prompt and {sheet.answer_tokens:,} answer tokens{spent}",
        markup=False,
    )
    table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("found", justify="right", no_wrap=True)
    table.add_column("90 % interval", no_wrap=True)
    known = [figure for figure in sheet.figures if figure.value is not None or figure.low is not None]
    unknown = [figure for figure in sheet.figures if figure not in known]
    cells = [(figure.label, amount(figure, figure.value) or "-", between(figure)) for figure in known]
    taken = sum(max(map(len, column)) for column in zip(*cells, strict=True)) + 3 if cells else 0
    beside = terminal.width - taken >= _LEAST_NOTE
    if beside:
        table.add_column("", overflow="fold")
    for figure, row in zip(known, cells, strict=True):
        table.add_row(*row, *([clean(figure.note, 200)] if beside else []))
    terminal.print(table, markup=False)
    for figure in known if not beside else ():
        if figure.note:
            terminal.print(f"{figure.label.strip()}: {clean(figure.note, 200)}", markup=False)
    if unknown:
        terminal.print("\ncould not be told:")
        for figure in unknown:
            terminal.print(f"  {figure.label}: {clean(figure.note, 300)}", markup=False)
    if sheet.stopped:
        terminal.print(f"\nended early: {clean(sheet.stopped, 300)}", markup=False)
