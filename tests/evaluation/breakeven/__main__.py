"""``make breakeven-eval``: the queueing model against the reference server, at three loads.

A round measures the machine as ``llmtrace bench`` does, then sends the server requests at random moments, at each of
three loads, and plays the same requests on the model. On two devices: this processor, and one of a set speed, whose
steps wait as a host waits for its accelerator, so that who else uses the processor hardly matters. ``--keep`` adds to
the rounds of earlier runs. What comes out goes into docs/breakeven/measured.md.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from llmtrace.analyze.breakeven.machine import Machine, machines
from llmtrace.analyze.breakeven.queueing import Asked, play
from llmtrace.reference import shapes
from llmtrace.reference.roofline import Bench, Plan
from llmtrace.reference.served import serving
from tests.evaluation.breakeven.devices import of_set_speed
from tests.evaluation.common import freshness, provenance
from tests.evaluation.common.bars import Bar
from tests.evaluation.common.pages import write_section
from tests.evaluation.common.places import DOCS, ROOT
from tests.evaluation.common.quantiles import quantile
from tests.evaluation.common.tables import Table

PAGE = DOCS / "breakeven" / "measured.md"
SHAPE = "breakeven-eval"
DEVICES = {"set": (32, 64, 2, 2, 1, 512), "cpu": (384, 1056, 6, 6, 2, 4096)}
"""The model by device: hidden, intermediate, layers, heads, key-value heads, vocabulary. On the processor computing
outweighs what the server adds."""
TITLES = {"set": "a device of a set speed", "cpu": "this processor"}
VOCABULARY = 512
LOADS = (0.3, 0.55, 0.8)
"""The share of the time in which the machine is to compute, by the model."""
LONGEST, MOST = 480, 64
"""Tokens of the longest prompt and answer."""
SHARED = 128
"""Tokens of the prefix that a third of the prompts share."""
SLOTS = 8
MEDIAN, P95 = 0.15, 0.25
"""How far the model may be off."""
Row = list[float]
"""A request's load, and s to the first token and to the end: as measured, and by the model."""


def main() -> int:
    """Measure, judge, and write the page."""
    parser = argparse.ArgumentParser(prog="make breakeven-eval", description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=tuple(DEVICES), default="set", help="cpu, or one of a set speed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of requests, at each load")
    parser.add_argument("--seed", type=int, default=None, help="drawn anew each run unless given")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="add to the rounds in this file")
    parser.add_argument("--no-write", action="store_true", help="leave docs/breakeven/measured.md as it is")
    chosen = parser.parse_args()
    seed = provenance.new_seed(chosen.seed)
    started, load = time.time(), provenance.load_average()
    shapes.SHAPES[SHAPE] = {"kind": "llama", "size": DEVICES[chosen.device], "tied": False}
    rounds: list[dict[str, Any]] = []
    if chosen.keep is not None and chosen.keep.exists():
        rounds = [json.loads(line) for line in chosen.keep.read_text().splitlines()]
    draw = random.Random(seed)
    for number in range(chosen.rounds):
        with of_set_speed() if chosen.device == "set" else nullcontext():
            rounds.append(_round(draw, chosen.seconds) | {"load_average": provenance.load_average()})
        print(f"round {number + 1}: {len(rounds[-1]['rows'])} requests", flush=True)
        if chosen.keep is not None:
            chosen.keep.write_text("".join(json.dumps(each) + "\n" for each in rounds))
    bars = _bars([row for each in rounds for row in each["rows"]])
    lines = [
        *freshness.stamp("breakeven"),
        provenance.sentence(provenance.machine(provenance.make_command("breakeven-eval"), started, load), seed),
        f"{len(rounds)} rounds.",
        "",
        _table(bars, f"The model over the server, on {TITLES[chosen.device]}").grid(),
    ]
    print("\n".join(lines))
    if not chosen.no_write:
        write_section(PAGE, f"breakeven-eval-{chosen.device}", lines)
    return int(any(bar.met is False for bar in bars))


def _round(draw: random.Random, seconds: float) -> dict[str, Any]:
    """The machine measured, then its server under three loads."""
    bench = Bench(SHAPE, "cpu", lambda doing, done, of: None)
    bench.run(Plan(["fp32"], [64, 256, LONGEST], [1, 4, SLOTS], [64, 320], 16, 1))
    (machine,) = machines(bench.results)
    rows: list[Row] = []
    loaded = shapes.make_model(SHAPE, "fp32", "cpu")
    with serving(loaded, SLOTS, LONGEST + MOST) as address:
        prefix = [draw.randrange(VOCABULARY) for _ in range(SHARED)]
        _send(address, loaded.name, [(0.0, Asked(0.0, SHARED + 8, 2))], prefix, draw)
        for share in LOADS:
            requests = _drawn(draw, machine, share, seconds)
            measured = _send(address, loaded.name, [(each.at, each) for each in requests], prefix, draw)
            for (_, first, whole), answer in zip(measured, play(machine, requests).answers, strict=True):
                rows.append([share, first, answer.ttft, whole, answer.total])
    return {"rows": rows, "bench": bench.results["formats"]["fp32"]}


def _drawn(draw: random.Random, machine: Machine, share: float, seconds: float) -> list[Asked]:
    """Requests for so long, at random moments, as fast as makes the model compute this share of the time."""
    shapes_of = [
        (
            min(LONGEST, max(8, round(draw.lognormvariate(4.8, 0.7)))),
            min(MOST, max(4, round(draw.lognormvariate(3.1, 0.5)))),
            draw.random() < 1 / 3,
            draw.expovariate(1.0),
        )
        for _ in range(2000)
    ]

    def at_rate(rate: float) -> list[Asked]:
        requests: list[Asked] = []
        at = 0.0
        for prompt, output, shares, gap in shapes_of:
            at += gap / rate
            if at > seconds:
                break
            whole = min(LONGEST, prompt + SHARED) if shares else prompt
            requests.append(Asked(at, whole, output, SHARED if shares else 0))
        return requests

    low, high = 0.1, 100.0
    for _ in range(12):
        middle = (low * high) ** 0.5
        played = play(machine, at_rate(middle))
        low, high = (middle, high) if played.busy / max(seconds, played.span) < share else (low, middle)
    return at_rate(low)


def _send(
    address: str, model: str, requests: list[tuple[float, Asked]], prefix: list[int], draw: random.Random
) -> list[list[float]]:
    """What each request took on the server."""
    bodies: list[tuple[float, dict[str, Any]]] = []
    for at, asked in requests:
        begin = prefix if asked.cached or asked.prompt == SHARED + 8 else []
        prompt = [*begin, *(draw.randrange(VOCABULARY) for _ in range(asked.prompt - len(begin)))]
        body = {"model": model, "prompt": prompt, "max_tokens": asked.output, "stream": True, "ignore_eos": True}
        bodies.append((at, body))
    done = subprocess.run(
        [sys.executable, "-m", "tests.evaluation.breakeven.client", address],
        input=json.dumps(bodies), capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def _bars(rows: list[Row]) -> list[Bar]:
    """The model's percentiles over the server's, by load."""
    bars: list[Bar] = []
    for share in sorted({row[0] for row in rows}):
        ours = [row for row in rows if row[0] == share]
        for name, place in (("TTFT", 1), ("end to end", 3)):
            for rank, most in ((0.5, MEDIAN), (0.95, P95)):
                measured = quantile([row[place] for row in ours], rank)
                played = quantile([row[place + 1] for row in ours], rank)
                what = f"{share:.0%} busy, {name} p{rank * 100:g}: {played * 1e3:.0f} for {measured * 1e3:.0f} ms"
                bars.append(Bar(what, played / measured - 1, -most, most, len(ours)))
    return bars


def _table(bars: list[Bar], title: str) -> Table:
    """A row for each load: what the model said for what was measured, and how far it is off; in bold where too far."""
    named = [(*bar.what.partition(": ")[::2], bar) for bar in bars]
    loads = list(dict.fromkeys(what.partition(", ")[0] for what, _, _ in named))
    head = list(dict.fromkeys(what.partition(", ")[2] for what, _, _ in named))
    rows: list[list[str]] = []
    for load in loads:
        cells = [(f"{said}, {bar.value:+.1%}", bar) for what, said, bar in named if what.startswith(f"{load}, ")]
        told = [f"**{cell}**" if bar.met is False else cell for cell, bar in cells]
        rows.append([load, *told, str(cells[0][1].calls)])
    return Table(title, ["", *head, "calls"], rows)


if __name__ == "__main__":
    sys.exit(main())
