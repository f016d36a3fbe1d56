"""The row of instructions, counted under valgrind (which has to be installed).

A count does not depend on what else the machine does, and hardly on which machine it is: what the warm row measures in
time, on caches that the client's own call has just swept, is counted here without them. Only the calls themselves are
counted, on the thread that makes them, and not the process's start: callgrind is switched on and off around them. A
short run is taken off a long one.

``python -m tests.evaluation.overhead.instructions JOBS`` (as JSON) runs under valgrind.
"""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count as counting
from pathlib import Path
from typing import NamedTuple

from llmtrace.observe import stream
from llmtrace.observe.clock import now
from tests.evaluation.common.bars import Bar
from tests.evaluation.common.places import ROOT
from tests.evaluation.common.tables import Table
from tests.evaluation.overhead import inmemory, replayed
from tests.evaluation.overhead.environments import surroundings
from tests.evaluation.overhead.inmemory import ALL_PHASES, MODES, NO_METRICS, Action
from tests.evaluation.overhead.outcome import NotMeasured, Outcome, Plan
from tests.evaluation.overhead.sinks import Sinks
from tests.evaluation.overhead.warm import BARE, DROPPED, SAME, SAME_RECORDS, SPANS, SPANS_RECORDS, ratios

OVER_FLOOR = 1.5
"""llmtrace's instructions over those of the SDK's own parent, four children and as many records."""
CONCURRENT = (10,)
"""Streams at once. Under valgrind a turn of 100 takes half a minute: ``--streams`` for more."""
_WARM_UP = 60
_HELD_NS = 5_000
"""How long a stream's clock says that the application held each chunk, and waited for it. By the real clock valgrind
makes that fifty times longer, and what is done for an application that pauses would be counted."""
_TOTALS = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)


class Job(NamedTuple):
    """What is run so many times, first few and then many. ``what``: a name of the warm row, or ``stream CHUNKS`` or
    ``concurrent STREAMS``."""

    what: str
    few: int
    many: int


def measure(plan: Plan) -> Outcome:
    """Count everything, in a process of its own for each way that llmtrace is switched on, and one for the bare client.

    Raises:
        NotMeasured: valgrind is not here, or a run failed.
    """
    if shutil.which("callgrind_control") is None:
        raise NotMeasured("valgrind is not installed: it counts the instructions (apt install valgrind)")
    few, many = (2, 6) if plan.quick else (20, 60)
    streams = (1, 2) if plan.quick else (1, 3)
    sizes = plan.streams or CONCURRENT
    long, short = f"stream {inmemory.LONG}", "stream 0"
    read = [Job(long, *streams), Job(short, *streams)]
    read += [Job(f"concurrent {size}", *((1, 2) if size >= 100 else (2, 6))) for size in sizes]
    own = [Job(what, few, many) for what in (BARE, SPANS, SPANS_RECORDS, SAME, SAME_RECORDS, DROPPED)]
    with plan.console.status("instructions of the bare client and the SDK") as status:
        bare = count("", [*own, *read])
        known = {job.what: bare[job.what] for job in own}
        for mode in MODES:
            status.update(f"instructions: {mode}")
            traced = count(mode, [Job(BARE, few, many), *(read if mode == NO_METRICS else [])])
            known[mode] = traced[BARE] - bare[BARE]
            if mode == NO_METRICS:
                chunk, own_chunk = ((each[long] - each[short]) / inmemory.LONG for each in (traced, bare))
                known |= {"the bare client's own chunk, of 1,000": own_chunk, "a chunk of 1,000": chunk - own_chunk}
                for size in sizes:
                    what, at_once = f"concurrent {size}", f"{size:,} concurrent streams"
                    known[f"{at_once}: the bare client's own call"] = bare[what] / size
                    known[f"{at_once}: a call"] = (traced[what] - bare[what]) / size
    rows = [[what, f"{number / 1e3:,.1f}", *ratios(what, known)] for what, number in known.items()]
    bars = [
        Bar(f"instructions, {mode}, to {floor}", known[mode] / known[floor], most=OVER_FLOOR, calls=many, unit="x")
        for mode, floor in ((ALL_PHASES, SPANS_RECORDS), (NO_METRICS, SPANS))
    ]
    table = Table("Instructions", ["what", "thousand instructions", "x the SDK's", "x the SDK's for the same"], rows)
    return Outcome([table], bars, figures={"instructions": known})


def count(mode: str, jobs: list[Job]) -> dict[str, float]:
    """Instructions of one action of each job, llmtrace switched on in this mode ("": not at all).

    Raises:
        NotMeasured: the run failed.
    """
    with tempfile.TemporaryDirectory(prefix="llmtrace-instructions-") as folder:
        out, log = Path(folder) / "out", Path(folder) / "log"
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes"]
        command += [
            f"--callgrind-out-file={out}",
            f"--log-file={log}",
            sys.executable,
            "-m",
            "tests.evaluation.overhead.instructions",
        ]
        command += [mode, json.dumps(jobs)]
        surrounded = surroundings(PYTHONHASHSEED="0")
        done = subprocess.run(command, cwd=ROOT, env=surrounded, check=False, capture_output=True, text=True)
        dumps = sorted(Path(folder).glob("out.*-01"), key=lambda path: int(path.suffix[1:].partition("-")[0]))
        if done.returncode or len(dumps) < 2 * len(jobs):
            raise NotMeasured(f"{mode}: {(done.stderr.splitlines() or ['valgrind wrote no counts'])[-1]}")
        totals = [int(_TOTALS.findall(dump.read_text())[-1]) for dump in dumps]
    return {
        job.what: (long - short) / (job.many - job.few)
        for job, short, long in zip(jobs, totals[0::2], totals[1::2], strict=False)
    }


@contextmanager
def prepared(what: str) -> Iterator[Action]:
    """What is counted."""
    kind, _, size = what.partition(" ")
    if kind == "concurrent":
        with inmemory.concurrent_calls(int(size)) as action:
            yield action
    elif kind == "stream":
        stream.now = counting(now(), _HELD_NS).__next__
        yield inmemory.streamed_call(int(size))
        stream.now = now
    else:
        yield _once(what)


def _once(what: str) -> Action:
    """A call, or what the SDK alone does."""
    if what in (SPANS, SPANS_RECORDS):
        histogram_records = inmemory.records_of_a_call() if what == SPANS_RECORDS else 0
        return inmemory.sdk_spans(Sinks(sampled=True, with_metrics=True, everywhere=False), histogram_records)
    if what in (SAME, SAME_RECORDS):
        sinks = Sinks(sampled=True, with_metrics=True, everywhere=False)
        return replayed.of_a_call(sinks, with_metrics=what == SAME_RECORDS)
    if what == DROPPED:
        return inmemory.dropped_span(Sinks(sampled=False, with_metrics=False, everywhere=False))
    return inmemory.call()


def work(mode: str, jobs: list[Job]) -> None:
    """Runs under valgrind: of each job a warm-up, then both counted runs."""
    if mode:
        inmemory.switched_on(mode)
    for job in jobs:
        with prepared(job.what) as action:
            for _ in range(_warm_up(job.what)):
                action()
            gc.collect()
            gc.freeze()
            for times in (job.few, job.many):
                _callgrind("--instr=on")
                for _ in range(times):
                    action()
                _callgrind("--instr=off")
                _callgrind("--dump")


def _warm_up(what: str) -> int:
    """Actions until the caches are warm and the estimator knows the route."""
    if what.startswith("stream"):
        return 3
    return 1 + _WARM_UP // int(what.split()[1]) if what.startswith("concurrent") else _WARM_UP


def _callgrind(command: str) -> None:
    subprocess.run(["callgrind_control", command, str(os.getpid())], check=True, capture_output=True)


if __name__ == "__main__":
    work(sys.argv[1], [Job(*each) for each in json.loads(sys.argv[2])])
