"""``python -m bench.instructions``: instructions a call, counted under valgrind (which has to be installed).

A count does not depend on what else the machine does, and hardly on which machine it is: what ``bench.warm`` measures
in time, on caches that the client's own call has just swept, is counted here without them. Takes about ten minutes.
"""

from __future__ import annotations

import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import llmtrace
from bench.report import write_section
from bench.warm import client_call, modes, sdk_floor, tracer_provider

WARM_UP, FEW, MANY = 60, 40, 160
BARE, FLOOR = "the bare client's own call", "SDK: parent and four children"


def prepare(mode: str) -> Callable[[], Any]:
    """What is counted in this mode."""
    if mode == FLOOR:
        return sdk_floor(tracer_provider())
    if mode != BARE:
        llmtrace.instrument("openai", **modes(InMemoryMetricReader())[mode])
    return client_call()


def work(mode: str, times: int) -> None:
    """Runs under valgrind: the same start in each mode, then ``times`` calls."""
    action = prepare(mode)
    for _ in range(WARM_UP):
        action()
    gc.collect()
    gc.freeze()
    for _ in range(times):
        action()


def count(mode: str, times: int) -> int:
    """Instructions of a whole run with so many calls."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", f"--log-file={log}"]
        command += [sys.executable, "-m", "bench.instructions", mode, str(times)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "0"})
        found = re.search(r"Collected : (\d+)", log.read_text())
    if found is None:
        raise SystemExit(f"valgrind said nothing of {mode}")
    return int(found[1])


def per_call(mode: str) -> float:
    """Instructions of one call: a long run less a short one."""
    return (count(mode, MANY) - count(mode, FEW)) / (MANY - FEW)


def main() -> None:
    """Count, print, and write the table into the page between its markers."""
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not installed: it counts the instructions (apt install valgrind)")
    found: dict[str, float] = {}
    for mode in (BARE, FLOOR, *modes(InMemoryMetricReader())):
        found[mode] = per_call(mode) - (found[BARE] if mode not in (BARE, FLOOR) else 0.0)
        print(f"{mode}: {found[mode]:,.0f}", flush=True)
    lines = ["| what | thousand instructions | x the SDK's |", "| --- | ---: | ---: |"]
    lines += [f"| {mode} | {n / 1e3:,.0f} | {n / found[FLOOR]:.2f} |" for mode, n in found.items()]
    write_section("instructions", lines)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        work(sys.argv[1], int(sys.argv[2]))
    else:
        main()
