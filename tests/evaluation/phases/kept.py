"""Calls of real servers that were kept, with each engine's truth: a change of the estimate can be judged by them again.

A file is a cell of ``make accuracy``'s file of calls, packed: each line a call.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.evaluation.phases.cells import warm_up
from tests.evaluation.phases.measured import Measured, from_json
from tests.evaluation.phases.recorded import own_text
from tests.evaluation.phases.replay import Place, Trip, play

FOLDER = Path(__file__).parent / "kept"


def read(name: str) -> list[Measured]:
    """The calls of one file, as they were judged then."""
    rows = gzip.decompress((FOLDER / f"{name}.jsonl.gz").read_bytes()).decode().splitlines()
    return [from_json(json.loads(row)) for row in rows]


def write(name: str, calls: Iterable[Measured]) -> None:
    """Keep the calls of one cell."""
    text = "\n".join(json.dumps(call.as_json()) for call in calls) + "\n"
    (FOLDER / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


def again(calls: Sequence[Measured]) -> list[Measured]:
    """The calls of one cell with what today's estimate says of them."""
    _, engine, _, name = calls[0].cell.split("|")
    traffic = name.partition(" ")[0]
    place = Place(port=8000, whole_queue=False) if engine == "vllm" else Place()
    usage = not traffic.startswith("nousage")
    trips = [_trip(call, call.began - calls[0].began, usage=usage) for call in calls]
    return play(trips, calls[0].cell, warm_up(traffic), place)


def _trip(call: Measured, begin: float, *, usage: bool) -> Trip:
    def at(moment: float | None) -> float | None:
        return None if moment is None else begin + moment

    return Trip(
        begin=begin,
        sent=begin + (call.sent or 0.0),
        headers=at(call.headers),
        event=at(call.event) if call.first is not None and (call.event or call.first) < call.first else None,
        first=at(call.first),
        end=begin + call.end,
        prompt=call.prompt,
        cached=call.cached,
        output=call.output,
        truth=call.truth,
        messages=own_text(begin, call.prompt),
        usage=usage,
    )
