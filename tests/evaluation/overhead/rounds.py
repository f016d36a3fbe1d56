"""The measuring over sockets: small batches of all subjects in turn, round after round, until the time is spent."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.evaluation.overhead.processes import Broken, Fleet
from tests.evaluation.overhead.subjects import BARE, CONTROL, FLOOR, LLMTRACE, SUBJECTS, UNSAMPLED

SIZES = (0, 1000)
"""Content chunks of the streams whose difference is a chunk's cost: what the end does for each chunk is in it."""
DEFAULT_RECORDS = 8
"""Histogram records of the floor where llmtrace itself is not there to be counted."""

Tick = Callable[[float], None]


@dataclass(frozen=True)
class Section:
    """Batches that are measured together: key -> what the worker is asked."""

    name: str
    share: float
    """Part of the row's measuring time."""
    subjects: tuple[str, ...]
    batches: dict[str, dict[str, Any]]


@dataclass
class Samples:
    """What came back: for each subject and key one answer a round, None where the subject failed."""

    answers: dict[tuple[str, str], list[dict[str, Any] | None]] = field(default_factory=lambda: defaultdict(list))
    failed: dict[str, str] = field(default_factory=dict)
    epochs: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """For each key, which generation of worker processes each round ran in."""


ALL = tuple(subject.name for subject in SUBJECTS)
STREAMERS = tuple(s.name for s in SUBJECTS if s.peer or s.name in (BARE, CONTROL, LLMTRACE, UNSAMPLED))
CALLS = 40
"""Calls in a batch, among which the collection of the metrics after it is shared out."""
TIMES = 2
"""Streams in a batch: the same at each size, so that what a batch costs by itself does not end up in the slope."""


def call_sections() -> list[Section]:
    """Whole calls and streams of one chunk."""
    calls: dict[str, dict[str, Any]] = {
        "timed": {"load": "call", "kind": "timed", "times": CALLS, "slices": 8},
        "call": {"load": "call", "kind": "call", "times": CALLS, "slices": 8},
        "stream": {"load": "stream", "size": 1, "times": CALLS, "slices": 8},
        "astream": {"load": "astream", "size": 1, "times": CALLS, "slices": 8},
    }
    return [Section("calls", 1.0, ALL, calls)]


def chunk_sections() -> list[Section]:
    """Streams without a content chunk and with a thousand."""
    streams = {f"stream-{n}": {"load": "stream", "size": n, "times": TIMES, "slices": TIMES} for n in SIZES}
    astreams = {f"astream-{n}": {"load": "astream", "size": n, "times": TIMES, "slices": TIMES} for n in SIZES}
    return [
        Section("streams", 0.5, STREAMERS, streams),
        Section("asynchronous streams", 0.5, STREAMERS, astreams),
    ]


def measure(fleet: Fleet, epoch: int, section: Section, seconds: float, samples: Samples, tick: Tick) -> None:
    """Rounds of one section for about ``seconds``, at least one in the whole run."""
    names = [name for name in section.subjects if name in fleet.workers]
    started = time.monotonic()
    round_number = 0
    while time.monotonic() - started < seconds or not samples.epochs[next(iter(section.batches))]:
        # Each round begins with another subject, and every other one runs backwards: drift hits all alike.
        turn = round_number % len(names)
        order = names[turn:] + names[:turn]
        if round_number % 2:
            order.reverse()
        for key, batch in section.batches.items():
            samples.epochs[key].append(epoch)
            for name in order:
                samples.answers[name, key].append(ask(fleet, name, batch, samples))
                tick(time.monotonic() - started)
        round_number += 1


def ask(fleet: Fleet, name: str, batch: dict[str, Any], samples: Samples) -> dict[str, Any] | None:
    """One batch of one subject; a subject that fails once is left out from then on."""
    if name in samples.failed:
        return None
    if name == FLOOR:
        if batch["load"] != "call":
            return None
        batch = {"load": "floor", "times": batch["times"], "records": floor_records(samples)}
    try:
        return fleet.workers[name].ask(do="batch", **batch)
    except Broken as error:
        samples.failed[name] = str(error)
        return None


def floor_records(samples: Samples) -> int:
    """As many histogram records as llmtrace makes for a call."""
    counted = [answer for answer in samples.answers[LLMTRACE, "timed"] if answer]
    return round(counted[-1]["records"]) if counted else DEFAULT_RECORDS
