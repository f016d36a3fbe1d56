"""The slow turn: eleven turns with 27,800 cached tokens and 0.8 s, a twelfth with none and 3.4 s."""

from __future__ import annotations

from llmtrace.calls.verdict import Diagnoser
from llmtrace.diagnosis.symptoms import Symptoms
from llmtrace.diagnosis.verdict import Verdict

PROMPT, CACHED = 28_000, 27_800


def slow_turn() -> Verdict:
    """The twelfth turn's first verdict."""
    diagnoser = Diagnoser()
    for number in range(11):
        diagnoser.judge("route", _turn(number, CACHED, 0.8))
    return diagnoser.judge("route", _turn(11, 0, 3.4))[0]


def _turn(number: int, cached: int, wait: float) -> Symptoms:
    begin = number * 20_000_000_000
    return Symptoms(begin, begin + 5_000_000_000, wait=wait, input_tokens=PROMPT, cached_tokens=cached, tokens=40)
