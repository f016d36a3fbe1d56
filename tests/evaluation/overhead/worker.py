"""One subject in one process: runs the batches it is told on standard input, answers with what they cost.

Run as ``python -m tests.evaluation.overhead.worker SUBJECT PORT`` by the interpreter of the subject's environment.
Ends with its input.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.evaluation.overhead.conversations import Asker
from tests.evaluation.overhead.floor import floor
from tests.evaluation.overhead.loads import Loads
from tests.evaluation.overhead.sinks import Sinks, records
from tests.evaluation.overhead.subjects import CONTROL, SDK_ALONE, by_name
from tests.evaluation.overhead.switches import Switch


class Worker:
    """The loads of one subject, measured."""

    def __init__(self, name: str, port: int) -> None:
        self.switch = Switch(by_name(name))
        self.sinks: Sinks = self.switch.sinks
        self.loads = Loads(port)
        self.floor: Callable[[int], None] | None = None
        self.after = _made_by_the_sdk(self.sinks) if name == SDK_ALONE.name else None
        self.both = bool(self.switch.patched or self.after) or name == CONTROL
        self.turn = False

    def batch(self, load: str, times: int, slices: int = 1, **args: Any) -> dict[str, Any]:
        """Run ``load`` in slices, the instrumentation on and off in turns; what it costs per time, on and off.

        The metrics are collected once, after the last slice, at the expense of the slices that were on.
        """
        run, warm = self._load(load, times // slices, **args)
        modes = (True, False) if self.both else (True,)
        for on in modes:
            self.switch.flip(on)
            warm()
        dropper = self.sinks.dropper
        self.sinks.tracer_provider.force_flush()
        before, counted = records(self.sinks.collect()), (dropper.spans, dropper.attributes)
        spent = dict.fromkeys(modes, 0)
        gc.collect()
        for _ in range(slices):
            self.turn = not self.turn
            for on in modes if self.turn else reversed(modes):
                self.switch.flip(on)
                start = time.process_time_ns()
                run()
                self.sinks.tracer_provider.force_flush()
                spent[on] += time.process_time_ns() - start
        start = time.process_time_ns()
        data = self.sinks.collect()
        spent[True] += time.process_time_ns() - start
        self.switch.flip(True)
        times = times // slices * slices
        found = {
            "cpu": spent[True] / times,
            "spans": (dropper.spans - counted[0]) / times,
            "attributes": (dropper.attributes - counted[1]) / times,
            "records": (records(data) - before) / times,
        }
        return found | ({"off": spent[False] / times} if self.both else {})

    def concurrent(self, streams: int, turns: int, seconds: float, seed: int) -> dict[str, Any]:
        """The same traffic with the instrumentation on and off, each first in turn; CPU time a call, ns, and lag, s."""
        sessions = [asker.session(turns) for asker in [Asker(seed)] for _ in range(streams)]
        answer: dict[str, Any] = {}
        self.turn = not self.turn
        modes = (True, False) if self.both else (True,)
        for on in modes if self.turn else reversed(modes):
            self.switch.flip(on)
            self.loads.after = self.after if on else None
            self.loads.peak = 0
            dropper, spans = self.sinks.dropper, self.sinks.dropper.spans
            gc.collect()
            start = time.process_time_ns()
            lag = self.loads.concurrent(sessions, seconds)
            self.sinks.tracer_provider.force_flush()
            if on:
                self.sinks.collect()
            spent = (time.process_time_ns() - start) / (streams * turns)
            mode = "on" if on else "off"
            answer |= {f"cpu_{mode}": spent, f"lag_{mode}": lag.longest, f"peak_{mode}": self.loads.peak}
            answer[f"spans_{mode}"] = (dropper.spans - spans) / (streams * turns)
        self.switch.flip(True)
        return answer

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
        small = loads.stream if load == "stream" else loads.astream
        return lambda: getattr(loads, load)(args["size"], times), lambda: small(10, 2)


def _made_by_the_sdk(sinks: Sinks) -> Callable[[], None]:
    from tests.evaluation.overhead import replayed  # here: it needs llmtrace, which most workers do not have

    return replayed.of_a_stream(sinks)


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
