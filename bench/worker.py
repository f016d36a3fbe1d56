"""One subject in one process: runs the batches it is told on standard input, answers with what they cost.

Run as ``python -m bench.worker SUBJECT PORT`` by the interpreter of the subject's environment. Ends with its input.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from bench.floor import floor
from bench.loads import Loads
from bench.sinks import Sinks, records
from bench.subjects import CONTROL, by_name
from bench.switches import Switch


class Worker:
    """The loads of one subject, measured."""

    def __init__(self, name: str, port: int) -> None:
        self.switch = Switch(by_name(name))
        self.sinks: Sinks = self.switch.sinks
        self.loads = Loads(port)
        self.floor: Callable[[int], None] | None = None
        self.both = bool(self.switch.patched) or name == CONTROL
        self.turn = False

    def batch(self, load: str, times: int, **args: Any) -> dict[str, Any]:
        """Run ``load`` with the instrumentation on and, in turns before or after that, with it off."""
        run, warm = self._load(load, times, **args)
        self.turn = not self.turn
        found: dict[bool, dict[str, Any]] = {}
        for on in (self.turn, not self.turn) if self.both else (True,):
            self.switch.flip(on)
            warm()
            found[on] = self._measure(run, times)
        self.switch.flip(True)
        return found[True] | ({"off": found[False]["cpu"]} if self.both else {})

    def _measure(self, run: Callable[[], None], times: int) -> dict[str, Any]:
        """What one run costs: CPU time of the whole process with its share of collecting the metrics, and the rest."""
        self.sinks.tracer_provider.force_flush()
        before, counted = records(self.sinks.collect()), (self.sinks.dropper.spans, self.sinks.dropper.attributes)
        self.loads.peak = 0
        gc.collect()
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        run()
        self.sinks.tracer_provider.force_flush()
        data = self.sinks.collect()
        cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
        return {
            "cpu": cpu / times,
            "wall": wall / times,
            "spans": (self.sinks.dropper.spans - counted[0]) / times,
            "attributes": (self.sinks.dropper.attributes - counted[1]) / times,
            "records": (records(data) - before) / times,
            "peak": self.loads.peak,
        }

    def memory(self, size: int) -> dict[str, Any]:
        """Bytes held by one open stream: the middle one of three, after one that fills the caches."""
        self.loads.memory(1)
        return {"bytes": sorted(self.loads.memory(size) for _ in range(3))[1]}

    def _load(self, load: str, times: int, **args: Any) -> tuple[Callable[[], None], Callable[[], None]]:
        """The load, and a small one of its kind that warms the caches which other processes have cooled."""
        loads = self.loads
        if load == "floor":
            spans = self.floor = self.floor or floor(self.sinks, args["records"])
            return lambda: spans(times), lambda: spans(2)
        if load == "call":
            return lambda: loads.call(args["kind"], times), lambda: loads.call(args["kind"], 2)
        if load == "crowd":
            warm = (lambda: None) if loads.crowd_clients else (lambda: loads.crowd(0, times))
            return lambda: loads.crowd(args["size"], times), warm
        small = loads.stream if load == "stream" else loads.astream
        return lambda: getattr(loads, load)(args["size"], times), lambda: small(10, 2)


def main() -> None:
    """Answer one JSON line for each JSON line that comes in."""
    # Whatever the packages print goes to standard error; the answers have the real standard output for themselves.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker(sys.argv[1], int(sys.argv[2]))
    gc.collect()
    gc.freeze()  # the imported packages are no garbage: collections look only at what the calls make
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        message: dict[str, Any] = json.loads(line)
        result = getattr(worker, message.pop("do"))(**message)
        print(json.dumps(result), file=answers)


if __name__ == "__main__":
    main()
