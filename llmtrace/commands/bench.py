"""`llmtrace bench`: What this device can do, and how much of it a model uses."""

from pathlib import Path
from typing import Annotated, Any

import typer

from llmtrace.commands.common import Device, fail, guarded, needs


def add(app: Any) -> None:
    """Register the command."""

    @app.command()
    @guarded
    def bench(  # pyright: ignore[reportUnusedFunction]
        model: Annotated[
            str, typer.Option(help="tiny, qwen2-0.5b, qwen2-1.5b, llama-8b (random weights), or a model folder.")
        ] = "tiny",
        device: Annotated[Device, typer.Option(help="Where the model runs.")] = "auto",
        formats: Annotated[str, typer.Option(help="Weight formats: fp32, bf16, fp16, int8, int4.")] = "fp32,bf16,int8",
        prompts: Annotated[str, typer.Option(help="Prompt lengths, tokens.")] = "128,512",
        batches: Annotated[str, typer.Option(help="Batch sizes of decode.")] = "1,4",
        contexts: Annotated[str, typer.Option(help="Context lengths of decode, tokens.")] = "128,512",
        steps: Annotated[int, typer.Option(min=1, help="Decode steps per point; the median counts.")] = 16,
        out: Annotated[Path, typer.Option(help="The JSON file.")] = Path("llmtrace-bench.json"),
    ) -> None:
        """Measure copy bandwidth, matrix rate, prefill (MFU) and decode (MBU) in several weight formats."""
        from rich.console import Console

        with needs("reference"):
            from llmtrace.reference.roofline import FORMATS, Bench
        chosen = [name.strip() for name in formats.split(",")]
        for name in chosen:
            if name not in FORMATS:
                fail(f"unknown weight format {name!r}: use {', '.join(FORMATS)}")
        lengths, sizes, depths = (_counts(text) for text in (prompts, batches, contexts))
        console = Console(highlight=False)
        with Console(stderr=True).status("starting") as status:
            run = Bench(model, device, status.update)
            try:
                run.run(chosen, lengths, sizes, depths, steps)
            finally:
                run.write(out)  # Ctrl-C leaves what has been measured, with "done": false
        _print(console, run.results)
        console.print(f"wrote {out}")


def _counts(text: str) -> list[int]:
    try:
        found = [int(each) for each in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        fail(f"{text!r} is no list of counts: give for instance 128,512")
    return found


def _print(console: Any, results: dict[str, Any]) -> None:
    from rich.table import Table

    console.print(f"{results['model']} on {results['device']}, {results['threads']} threads")
    console.print(f"copy bandwidth {results['copy_bytes_per_second'] / 1e9:.1f} GB/s (read and write)")
    table = Table("format", "work", "tokens/s", "of the ceiling", "weights, MB")
    for name, found in results["formats"].items():
        size = f"{found['weight_bytes'] / 1e6:.1f}" if "weight_bytes" in found else ""
        for row in found.get("prefill", ()):
            table.add_row(
                name, f"prefill {row['tokens']}", f"{row['tokens_per_second']:.0f}", f"MFU {row['mfu']:.0%}", size
            )
        for row in found.get("decode", ()):
            work = f"decode batch {row['batch']}, context {row['context']}"
            table.add_row(name, work, f"{row['tokens_per_second']:.0f}", f"MBU {row['mbu']:.0%}", size)
        if "reason" in found:
            table.add_row(name, "not measured", "", found["reason"], size)
    console.print(table)
