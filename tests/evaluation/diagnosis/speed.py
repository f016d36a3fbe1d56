"""What one verdict costs on the caller's thread."""

from __future__ import annotations

import random
import time

from llmtrace.calls.verdict import Diagnoser
from llmtrace.diagnosis.symptoms import symptoms_of
from tests.evaluation.diagnosis.traffic import Faults, Traffic, draw_habits


def microseconds(calls: int = 3000) -> tuple[float, float, float]:
    """Symptoms and verdict on a route with full windows, µs: mean CPU time; median and 99th percentile of wall time."""
    draw = random.Random(1)
    traffic, diagnoser = Traffic(draw_habits(draw, told=False), draw), Diagnoser()
    made = [traffic.call(Faults()) for _ in range(calls + 300)]
    for call in made[:300]:
        diagnoser.judge("route", call.facts)
    spent, taken = time.process_time(), list[float]()
    clock = time.perf_counter
    for call in made[300:]:
        begin = clock()
        symptoms_of(call.seen, call.gaps)
        diagnoser.judge("route", call.facts)
        taken.append(clock() - begin)
    spent = time.process_time() - spent
    taken.sort()
    return 1e6 * spent / calls, 1e6 * taken[calls // 2], 1e6 * taken[calls * 99 // 100]
