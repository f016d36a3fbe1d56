"""`llmtrace bench adapters`: how LoRA adapters conflict, and how far together they move the answers."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from llmtrace import interpreter
from llmtrace.commands.common import Device, fail, guarded, importing, is_usable, terminal
from llmtrace.whole_file import write_text
from llmtrace.wording import clean

_BAR = 32


def add(group: Any) -> None:
    """Register the command."""

    @group.command()
    @guarded
    def adapters(  # pyright: ignore[reportUnusedFunction]
        adapter: Annotated[
            list[str], typer.Argument(metavar="ADAPTER...", help="Two or more LoRA adapters: PATH or NAME=PATH.")
        ],
        model: Annotated[
            Path | None,
            typer.Option(help="The base model's folder.  [default: what the adapters name]", show_default=False),
        ] = None,
        weights: Annotated[
            str | None, typer.Option(help="The adapters' weights, as in 0.7,0.3.", show_default="1 each")
        ] = None,
        method: Annotated[
            str, typer.Option(help="stacked, or a way of PEFT's add_weighted_adapter: cat, linear, ties, svd ...")
        ] = "stacked",
        density: Annotated[
            float | None,
            typer.Option(
                min=0.0,
                max=1.0,
                help="The share of values that ties, dare and magnitude_prune keep.",
                show_default="0.5",
            ),
        ] = None,
        prompts: Annotated[
            Path | None, typer.Option(help="A file with a prompt per line.", show_default="eight of its own")
        ] = None,
        tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer, at most.")] = 32,
        device: Annotated[Device, typer.Option(help="Where the model runs.")] = "auto",
        as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, each matrix too.")] = False,
        out: Annotated[
            Path | None, typer.Option(help="Write it as JSON there, and as a page beside it.", show_default=False)
        ] = None,
    ) -> None:
        """Say how LoRA adapters conflict, and how far together they move the answers from each alone."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        parts = _weights(weights)
        if out is not None and out.suffix == ".html":
            fail(f"--out names the JSON file; the page is written beside it: give {out.with_suffix('.json')}")
        if out is not None and not out.parent.is_dir():
            fail(f"cannot write {out}: there is no folder {out.parent}")
        with importing("adapters"):
            if not interpreter.finds("peft"):
                raise ImportError(name="peft")
            from llmtrace.reference.adapter_bench import Asked, measure, named_folders
        threads = max(1, (os.cpu_count() or 2) // 2)  # torch's spin: on a machine that is not idle, fewer are faster
        asked = Asked(named_folders(adapter), parts, method, density, model, device, prompts, tokens, threads)
        stderr = terminal(stderr=True)
        columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
            task = progress.add_task("starting", total=None)

            def tell(doing: str, done: int, of: int) -> None:
                progress.update(task, description=doing, completed=done, total=of)

            results = measure(asked, tell)
        if out is not None:
            from llmtrace.view import adapters_page

            write_text(out, json.dumps(results, indent=1) + "\n")
            write_text(out.with_suffix(".html"), adapters_page.render(results))
        if as_json:
            print(json.dumps(results, indent=1))
            return
        console = terminal(highlight=False)
        _print(console, results)
        if out is not None:
            console.print(f"wrote {out} and {out.with_suffix('.html')}", soft_wrap=True, markup=False)


def _weights(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        weights = []
    if not weights or not all(map(is_usable, weights)):
        fail(f"{text!r} is no list of weights: give for instance 0.7,0.3")
    return weights


def _print(console: Any, results: dict[str, Any]) -> None:
    composed = results["composition"]
    _line(console, f"{composed['name']} on {results['model']} ({results['dtype']}, {results['device']})", "bold")
    for conflict in results["conflicts"]:
        _conflict(console, conflict)
    _shifts(console, results)
    console.print()
    for sentence in results["says"]:
        _line(console, sentence)


def _line(console: Any, text: str, style: str = "") -> None:
    console.print(clean(text, 4000), style=style, markup=False)


def _table(*heads: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number else "left", overflow="fold")
    return table


def _conflict(console: Any, conflict: dict[str, Any]) -> None:
    first, second = conflict["adapters"]
    console.print()
    _line(console, f"{first} and {second}", "bold")
    whole = conflict["whole"]
    counts = zip(conflict["matrices_of_one_only"], (first, second), strict=True)
    only = [f"{count} only of {name}" for count, name in counts if count]
    if only:
        _line(console, f"matrices: {'; '.join(only)}")
    if whole is None:
        return
    table = _table("", "cosine", "signs\ndiffer", "cancels", "same\noutputs", "same\ninputs")
    for group in (*conflict["groups"], whole):
        table.add_row(
            group["name"],
            _cosine(group["cosine"]),
            f"{group['signs_differ']:.0%}",
            f"{group['cancelled']:.0%}",
            f"{group['overlap_outputs']:.0%}",
            f"{group['overlap_inputs']:.0%}",
        )
    by_chance = whole["overlap_by_chance"]
    table.add_section()
    table.add_row("by chance", "0", "50%", "", f"{by_chance['outputs']:.0%}", f"{by_chance['inputs']:.0%}")
    console.print(table)
    _bars(
        console, "cosine: against each other, and alike", [(one["name"], one["cosine"]) for one in conflict["groups"]]
    )
    if not whole["exact"]:
        _line(console, "signs and what cancels: from a sample of each large matrix")


def _cosine(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # and no -0.00


def _bars(console: Any, title: str, values: list[tuple[str, float]]) -> None:
    """A bar for each value from -1 to 1, to the left or to the right of the middle."""
    from rich.text import Text

    plain = console.options.ascii_only
    block, middle = ("#", "|") if plain else ("█", "│")
    label = max(len(name) for name, _ in values)
    half = max(4, min(_BAR, console.width - label - 8) // 2)
    console.print(title, style="dim")
    for name, value in values:
        size = round(min(1.0, abs(value)) * half)
        line = Text(f"{name:<{label}} ")
        line.append((block * size if value < 0 else "").rjust(half), style="red")
        line.append(middle, style="dim")
        line.append((block * size if value >= 0 else "").ljust(half), style="green")
        line.append(f"{_cosine(value):>6}")
        console.print(line, no_wrap=True, overflow="crop")


def _shifts(console: Any, results: dict[str, Any]) -> None:
    prompts = results["prompts"]
    asked = f"{prompts['count']} prompts of {prompts['file'] or 'its own'}"
    console.print()
    _line(console, f"Answers to {asked}: all together against each alone", "bold")
    table = _table("alone", "same\ntoken", "KL, nats\nper token", "KL\np95", "same\nanswer", "tokens")
    for shift in results["shifts"]:
        table.add_row(
            clean(shift["adapter"] or "the base", 40),
            f"{shift['top1']:.0%}",
            f"{shift['kl']:.3g}",
            f"{shift['kl_p95']:.3g}",
            f"{shift['same_answers']}/{shift['answers']}",
            f"{shift['tokens']}",
        )
    console.print(table)
    _shares(console, [(clean(shift["adapter"] or "the base", 40), shift["top1"]) for shift in results["shifts"]])


def _shares(console: Any, values: list[tuple[str, float]]) -> None:
    from rich.text import Text

    block = "#" if console.options.ascii_only else "█"
    label = max(len(name) for name, _ in values)
    width = max(8, min(_BAR, console.width - label - 8))
    console.print("same token: what is left of each", style="dim")
    for name, value in values:
        line = Text(f"{name:<{label}} ")
        line.append(block * round(value * width), style="green")
        line.append(f" {value:.0%}")
        console.print(line, no_wrap=True, overflow="crop")
