"""`llmtrace bench grammar`: what holding answers to a schema is worth, against asking again."""

import importlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from llmtrace.commands.common import Device, fail, guarded, importing, terminal


def add(group: Any) -> None:
    """Register the command."""

    @group.command()
    @guarded
    def grammar(  # pyright: ignore[reportUnusedFunction]
        model: Annotated[
            Path | None, typer.Option(help="A model's folder.  [default: the tiny model]", show_default=False)
        ] = None,
        schema: Annotated[
            Path | None, typer.Option(help="A file with a JSON schema.", show_default="one of its own")
        ] = None,
        prompts: Annotated[
            Path | None, typer.Option(help="A file with a prompt per line.", show_default="eight of its own")
        ] = None,
        tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer, at most.")] = 96,
        tries: Annotated[int, typer.Option(min=1, help="Tries without a grammar, at most.")] = 3,
        temperature: Annotated[
            float, typer.Option(min=0.0, help="0 is greedy, and then a retry changes nothing.")
        ] = 0.7,
        device: Annotated[Device, typer.Option(help="Where the model runs.")] = "auto",
        as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    ) -> None:
        """Say how many answers fit a schema at the first try: with a grammar, without, and with retries."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        with importing("grammar"):
            for package in ("jsonschema", "llguidance"):
                importlib.import_module(package)
            from llmtrace.reference.grammar_bench import PROMPTS, SCHEMA, Plan, measure
            from llmtrace.reference.model import build_or_load
        chosen = SCHEMA if schema is None else _schema(schema)
        lines = PROMPTS if prompts is None else [line for line in _text(prompts).splitlines() if line.strip()]
        if not lines:
            fail(f"--prompts {prompts}: there is no prompt in it")
        plan = Plan(chosen, lines, tokens, tries, temperature)
        loaded = build_or_load(model, device=device)
        stderr = terminal(stderr=True)
        columns = (BarColumn(), TextColumn("{task.completed}/{task.total} prompts"), TimeElapsedColumn())
        with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
            task = progress.add_task("", total=len(lines))
            results = measure(loaded, plan, lambda: progress.advance(task))
        if as_json:
            print(json.dumps(results, indent=1))
        else:
            _print(terminal(highlight=False), results)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror or error}")
    except UnicodeDecodeError:
        fail(f"cannot read {path}: it is not UTF-8 text")


def _schema(path: Path) -> dict[str, Any]:
    try:
        schema = json.loads(_text(path))
    except ValueError as error:
        fail(f"--schema {path} is no JSON: {error}")
    if not isinstance(schema, dict):
        fail(f"--schema {path}: a JSON schema is an object")
    return schema


def _print(console: Any, results: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("way", "valid at the first try", "valid in the end", "tries", "tokens", "s, median")
    for way, row in results["ways"].items():
        table.add_row(
            way,
            f"{row['valid_first_try']:.0%}",
            f"{row['valid']:.0%}",
            f"{row['tries']:.1f}",
            f"{row['tokens']:.0f}",
            f"{row['seconds']:.3f}",
        )
    console.print(
        f"{results['model']} on {results['device']}: {results['answers']} answers of at most {results['max_tokens']} "
        f"tokens, up to {results['tries']} tries"
    )
    console.print(table)
    held = results["ways"]["with grammar"]
    if held["valid"] < 1:
        console.print(
            f"an answer that is held to the schema does not fit where it is cut off at {results['max_tokens']} tokens: "
            "--tokens asks for longer ones"
        )
    console.print(
        f"compiling took {held['compile_seconds'] * 1e3:.1f} ms (the first, with the tokenizer, "
        f"{held['compile_seconds_first'] * 1e3:.1f} ms), masks {held['mask_seconds_per_token'] * 1e6:.0f} µs per token"
    )
    if "warning" in results:
        console.print(f"warning: {results['warning']}", style="yellow", soft_wrap=True)
