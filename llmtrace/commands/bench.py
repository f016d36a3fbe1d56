"""`llmtrace bench`: the speed of this device, and the share of it that a model uses."""

from pathlib import Path
from typing import Annotated, Any

import typer

from llmtrace.commands import bench_adapters, bench_grammar
from llmtrace.commands.common import Device, fail, guarded, importing, is_usable, terminal
from llmtrace.whole_file import write_text


def add(app: Any) -> None:
    """Register the command, and `bench adapters` and `bench grammar` under it."""
    group = typer.Typer()
    app.add_typer(group, name="bench")
    bench_adapters.add(group)
    bench_grammar.add(group)

    @group.callback(invoke_without_command=True)
    @guarded
    def bench(  # pyright: ignore[reportUnusedFunction]
        context: typer.Context,
        model: Annotated[
            str,
            typer.Option(
                help="tiny, tiny-qwen2, qwen2-0.5b, qwen2-1.5b, llama-8b (random weights), or a model folder."
            ),
        ] = "tiny",
        device: Annotated[Device, typer.Option(help="Where the model runs.")] = "auto",
        formats: Annotated[
            str, typer.Option(help="Weight formats: fp32, bf16, fp16, int8, int4.")
        ] = "fp32,bf16,fp16,int8,int4",
        prompts: Annotated[str, typer.Option(help="Prompt lengths, tokens.")] = "128,512",
        batches: Annotated[str, typer.Option(help="Batch sizes of decode.")] = "1,4",
        contexts: Annotated[str, typer.Option(help="Context lengths of decode, tokens.")] = "128,512",
        steps: Annotated[int, typer.Option(min=1, help="Decode steps per point; the median counts.")] = 16,
        pairs: Annotated[int, typer.Option(min=1, help="Pairs of runs per comparison; the median counts.")] = 5,
        served: Annotated[
            bool, typer.Option("--served/--no-served", help="Measure behind a server too, for llmtrace breakeven.")
        ] = True,
        out: Annotated[Path, typer.Option(help="The JSON file; the page lies beside it.")] = Path(
            "llmtrace-bench.json"
        ),
    ) -> None:
        """Measure copy bandwidth, matrix rate, prefill (MFU) and decode (MBU) in several weight formats."""
        if context.invoked_subcommand is not None:
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        from llmtrace.view import bench_page

        with importing("reference"):
            from llmtrace.reference.roofline import FORMATS, Bench, Plan
        names = [name.strip() for name in formats.split(",")]
        for name in names:
            if name not in FORMATS:
                fail(f"unknown weight format {name!r}: use {', '.join(FORMATS)}")
        lengths, sizes, depths = (_counts(text) for text in (prompts, batches, contexts))
        if out.suffix == ".html":
            fail(f"--out names the JSON file; the page is written beside it: give {out.with_suffix('.json')}")
        console, page = terminal(highlight=False), out.with_suffix(".html")
        stderr = terminal(stderr=True)
        columns = (BarColumn(), TextColumn("{task.completed}/{task.total}"), TextColumn("{task.description}"))
        with Progress(
            *columns, TimeElapsedColumn(), console=stderr, transient=True, disable=not stderr.is_terminal
        ) as progress:
            task = progress.add_task("starting", total=None)

            def tell(doing: str, done: int, of: int) -> None:
                progress.update(task, description=doing, completed=done, total=of)

            run = Bench(model, device, tell, out)
            try:
                run.run(Plan(names, lengths, sizes, depths, steps, pairs, served))
            finally:
                run.write(out)  # Ctrl-C leaves what has been measured, with "done": false
                write_text(page, bench_page.render(run.results))
        _print(console, run.results)
        console.print(f"wrote {out} and {page}", soft_wrap=True)


def _counts(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1 or not is_usable(max(numbers)):
        fail(f"{text!r} is no list of counts: give for instance 128,512")
    return numbers


def _print(console: Any, results: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from llmtrace.view.bench_formats import side_by_side

    console.print(f"{results['model']} on {results['device']}, {results['threads']} threads")
    console.print(f"copy bandwidth {results['copy_bytes_per_second'] / 1e9:.1f} GB/s (read and write)")
    table = Table("format", "work", "tokens/s", "of the ceiling", "launch-bound", "weights, MB")
    notes: list[str] = []
    for name, measured in results["formats"].items():
        size = f"{measured['weight_bytes'] / 1e6:.1f}" if "weight_bytes" in measured else ""
        for row in measured.get("prefill", ()):
            table.add_row(
                name, f"prefill {row['tokens']}", f"{row['tokens_per_second']:.0f}", f"MFU {row['mfu']:.0%}", "", size
            )
        for row in measured.get("decode", ()):
            work = f"decode batch {row['batch']}, context {row['context']}"
            bound = "n/a" if row["launch_bound_ratio"] is None else f"{row['launch_bound_ratio']:.0%}"
            table.add_row(name, work, f"{row['tokens_per_second']:.0f}", f"MBU {row['mbu']:.0%}", bound, size)
        if row := measured.get("cache_hit"):
            notes.append(
                f"{name}: cached prefix of {row['tokens']} tokens ({row['bytes'] / 1e6:.2f} MB) found in "
                f"{row['seconds'] * 1e3:.3f} ms; it is shared, not copied"
            )
        if row := measured.get("serving"):
            alone, crowd = row["rows"][0], max(row["rows"], key=lambda each: each["batch"])
            notes.append(
                f"{name}: behind the server, {alone['prompt']} tokens: first token after "
                f"{alone['ttft_seconds'] * 1e3:.1f} ms, then {alone['seconds_per_step'] * 1e3:.1f} ms a token, with "
                f"{crowd['batch']} at once {crowd['seconds_per_step'] * 1e3:.1f} ms"
            )
        if "serving_reason" in measured:
            notes.append(f"{name}: not measured behind the server: {measured['serving_reason']}")
        if "note" in measured:
            notes.append(f"{name}: {measured['note']}")
        if row := measured.get("timing"):
            notes.append(f"{name}: decode with timing on / off, tokens/s: {_ratio(row)}")
        if row := measured.get("generate"):
            equal = f"the first {row['equal_tokens']} of {row['tokens']} tokens equal"
            notes.append(f"{name}: runner / generate() with a static cache, tokens/s: {_ratio(row)}; {equal}")
        if "reason" in measured:
            notes.append(f"{name}: not measured: {measured['reason']}")
    if "launch_bound" in results:
        notes.append(f"launch-bound ratio: {results['launch_bound']}")
    console.print(table)
    heads, rows, words = side_by_side(results)
    if rows:
        formats = Table(*heads, title="Weight formats side by side", title_justify="left", title_style="")
        for row in rows:
            formats.add_row(*row)
        console.print(formats)
        notes.insert(0, words)
    for line in notes:
        console.print(escape(line), soft_wrap=True)
    if "warning" in results:
        console.print(f"warning: {escape(results['warning'])}", style="yellow", soft_wrap=True)


def _ratio(row: dict[str, Any]) -> str:
    return f"{row['ratio']:.3f} (quartiles {row['low']:.3f} to {row['high']:.3f}, {row['pairs']} pairs)"
