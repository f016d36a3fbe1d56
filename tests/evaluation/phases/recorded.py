"""Recordings of engines that knew the truth, made into calls to play. The folders lie beside a checkout, or are absent.

``vllm_runs``: the client alone on vLLM. ``shared_engine_runs``: vLLM and the reference server, with an untraced process
that sends the rest of the load.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.evaluation.phases.cells import Cell
from tests.evaluation.phases.measured import Truth
from tests.evaluation.phases.replay import Place, Trip
from tests.evaluation.phases.truths import truth_of
from tests.support.replay import shared_folder

_TO_SEND = 0.0004
_CHARS_PER_TOKEN = 3
_PAUSE = 0.5
"""Seconds between whole answers whose recordings say how long they took, but not when they began."""
_UNTIMED = "the recording has no moments: played one after the other, so the client's other calls are missing"

NOT_HERE = "its recordings are not beside this checkout"
_NO_CAPACITY = "the recording tells no capacity: its load is an estimate"
_ALONE = {"seqs4_rate4": 0.2, "seqs4_rate12": 0.6, "unlimited_rate4": 0.2, "unlimited_rate18": 0.9}
"""Recordings that tell no capacity: about what share of it they used."""
_SHARED = {
    "alone_load70": ("alone", 0.7, 1.0),
    "share30_load60": ("share30", 0.6, 0.3),
    "share30_load90": ("share30", 0.9, 0.3),
    "whole_alone_load70": ("whole", 0.7, 1.0),
    "whole_share30_load60": ("whole30", 0.6, 0.3),
    "vllm_alone_load60": ("alone", 0.6, 1.0),
    "vllm_share30_load60": ("share30", 0.6, 0.3),
    "vllm_share30_load90": ("share30", 0.9, 0.3),
    "vllm_share05_load70": ("share05", 0.7, 0.05),
    "vllm_chat_alone_load60": ("chat", 0.6, 1.0),
    "vllm_chat_share30_load60": ("chat30", 0.6, 0.3),
    "vllm_whole_alone_load60": ("whole", 0.6, 1.0),
}
"""File -> kind of traffic, load, this client's share of it."""


def data(name: str) -> Path | None:
    """A folder of recordings beside this checkout, or None."""
    shared = shared_folder()
    return None if shared is None or not (shared / name).is_dir() else shared / name


def missing() -> dict[str, str]:
    """The folders that are not there, with a word on it."""
    names = ("shared_engine_runs", "vllm_runs")
    return {f"recorded, {name}": NOT_HERE for name in names if data(name) is None}


def cells() -> Iterator[tuple[Cell, Path]]:
    """Every recording that is there, as a cell."""
    alone, shared = data("vllm_runs"), data("shared_engine_runs")
    for name, load in _ALONE.items() if alone else ():
        assert alone is not None
        slots = "4 slots" if name.startswith("seqs4") else "free slots"
        rate = name.partition("rate")[2]
        yield _cell("vllm", name, f"{slots}, {rate} calls/s", "alone", load, 1.0), alone / f"{name}.jsonl"
    for name, (traffic, load, share) in _SHARED.items() if shared else ():
        assert shared is not None
        engine = "vllm" if name.startswith("vllm") else "reference"
        yield _cell(engine, name, "4 slots", traffic, load, share), shared / f"{name}.jsonl"


def _cell(engine: str, name: str, slots: str, traffic: str, load: float, share: float) -> Cell:
    whole = traffic.startswith("whole")
    return Cell(
        source="recorded",
        engine=engine,
        slots=slots,
        name=name,
        traffic=traffic,
        load=load,
        share=share,
        admitted=name in _ALONE,
        decides=not whole,
        note=_UNTIMED if whole else _NO_CAPACITY if name in _ALONE else "",
    )


def read(path: Path) -> list[Trip]:
    """One trip per call, in the order of their sending."""
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    if "sent_s" in rows[0]:
        trips = [_with_headers(row) for row in rows]
    else:
        at, trips = 0.0, list[Trip]()
        origin = min((row["truth"].get("start", 0.0) for row in rows), default=0.0)
        for row in rows:
            trips.append(_of_truth(row, at, origin))
            at = trips[-1].end + _PAUSE
    return sorted(trips, key=lambda trip: trip.begin)


def place(cell: Cell) -> Place:
    """Where the recorded calls went."""
    return Place(port=8000, whole_queue=False) if cell.engine == "vllm" else Place()


def _with_headers(row: dict[str, Any]) -> Trip:
    told = row["truth"]
    return Trip(
        begin=row["sent_s"],
        sent=row["sent_s"] + _TO_SEND,
        headers=row["headers_s"],
        event=row["first_event_s"],
        first=row["first_content_s"],
        end=row["last_content_s"],
        chunks=row["content_chunks"],
        prompt=row["prompt_tokens"],
        cached=row["cached_tokens"],
        output=row["completion_tokens"],
        truth=Truth(told["queue_ms"] / 1e3, told["prefill_ms"] / 1e3, told["decode_ms"] / 1e3),
        messages=own_text(row["sent_s"], row["prompt_tokens"]),
    )


def _of_truth(row: dict[str, Any], at: float, origin: float) -> Trip:
    """``at``: when it began, if the recording does not say; ``origin``: the moment that counts as 0."""
    told = row["truth"]
    usage, truth = told["usage"], truth_of({"metrics": told})
    assert truth is not None
    begin = told["start"] - origin if "start" in told else at
    end = told["end"] - origin if "end" in told else at + told["total"]
    # What the client saw as network then lies in front of the request's last byte: this project's own account of it.
    wire = row["phases"].get("network", [_TO_SEND])[0]
    return Trip(
        begin=begin,
        sent=begin + wire,
        headers=None,
        first=begin + told["ttft"] if "ttft" in told else None,
        end=end,
        prompt=usage["prompt_tokens"],
        cached=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
        output=usage["completion_tokens"],
        truth=truth,
        messages=own_text(begin, usage["prompt_tokens"]),
    )


def own_text(begin: float, tokens: int) -> tuple[dict[str, Any], ...]:
    """A prompt that begins like no other: the recordings do not hold what was asked."""
    return ({"role": "user", "content": f"{begin!r} ".ljust(_CHARS_PER_TOKEN * tokens, "x")},)
