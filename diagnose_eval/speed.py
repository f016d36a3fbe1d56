"""What one verdict costs on the caller's thread."""

from __future__ import annotations

import random
import time

from diagnose_eval.traffic import Faults, Traffic, draw_habits
from llmtrace.phases.diagnosis.facts import facts_of
from llmtrace.phases.diagnosis.judge import Diagnoser


def microseconds(calls: int = 1500) -> tuple[float, float, float]:
    """Mean, median and 99th percentile of facts and verdict, µs of CPU, on a route whose windows are full."""
    draw = random.Random(1)
    traffic, diagnoser = Traffic(draw_habits(draw, told=False), draw), Diagnoser()
    made = [traffic.call(Faults()) for _ in range(calls)]
    taken: list[int] = []
    for number, call in enumerate(made):
        begin = time.thread_time_ns()
        facts_of(call.seen, call.gaps)
        diagnoser.judge("route", call.facts)
        if number >= 300:
            taken.append(time.thread_time_ns() - begin)
    taken.sort()
    return sum(taken) / len(taken) / 1e3, taken[len(taken) // 2] / 1e3, taken[len(taken) * 99 // 100] / 1e3
