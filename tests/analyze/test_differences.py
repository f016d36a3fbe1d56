"""How often a comparison is sure of what isn't there, by simulation over equal pairs; and that it finds what is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmtrace.analyze.differences import Difference, Row, Side, between

PHASES = ("network", "queue", "prefill", "decode")
ROWS = [
    *(Row(name) for name in (*PHASES, "duration", "attempts", "tokens")),
    *(Row(name, rank) for name in ("duration", "ttft") for rank in (0.5, 0.95, 0.99)),
]


def traffic(random: Any, traces: int, calls: int, slower: float = 1.0) -> Side:
    """Calls of long-tailed phases; those of one trace share most of what makes them slow."""
    numbers = np.repeat(np.arange(traces), calls)
    shared = random.normal(size=traces)[numbers] * (0.8 if calls > 1 else 0.0)
    columns: dict[str, Any] = {}
    for name, middle in zip(PHASES, (0.01, 0.05, 0.2, 1.0), strict=True):
        columns[name] = middle * np.exp(shared + random.normal(size=len(numbers)) * 0.6)
    columns["decode"] *= slower
    columns["duration"] = sum(columns[name] for name in PHASES)
    columns["ttft"] = columns["network"] + columns["queue"] + columns["prefill"]
    columns["attempts"] = 1.0 + (random.random(len(numbers)) < 0.03)
    columns["tokens"] = np.round(100 * np.exp(shared))
    return Side(columns, numbers)


@pytest.mark.parametrize(("traces", "calls", "pairs", "many"), [(30, 1, 200, 20), (30, 10, 80, 11)])
def test_any_row_is_sure_in_about_five_of_a_hundred_equal_pairs(traces: int, calls: int, pairs: int, many: int) -> None:
    random = np.random.default_rng(7)
    alarms = 0
    for _ in range(pairs):
        sides = [traffic(random, traces, calls) for _ in range(2)]
        alarms += any(difference.sure for difference in between(*sides, ROWS))
    # Five of a hundred are to be expected; as many as here come once in 300 such runs or less.
    assert 0 < alarms < many


def test_finds_what_is_there() -> None:
    random = np.random.default_rng(7)
    differences = dict(zip(ROWS, between(traffic(random, 100, 1), traffic(random, 100, 1, 1.6), ROWS), strict=True))
    assert differences[Row("decode")].sure
    assert differences[Row("duration")].sure
    assert not differences[Row("network")].sure
    assert differences[Row("decode")].low < differences[Row("decode")].change < differences[Row("decode")].high


def test_ten_calls_in_each_of_two_traces_are_two_and_not_twenty() -> None:
    numbers = np.repeat(np.arange(2), 10)
    before = Side({"duration": np.linspace(1.0, 1.1, 20)}, numbers)
    after = Side({"duration": np.linspace(2.0, 2.1, 20)}, numbers)
    (difference,) = between(before, after, [Row("duration")])
    assert difference.change == pytest.approx(1.0)
    assert not difference.sure


@pytest.mark.parametrize(("calls", "judged"), [(299, False), (300, True)])
def test_a_99th_percentile_has_an_interval_from_300_calls(calls: int, judged: bool) -> None:
    random = np.random.default_rng(7)
    (difference,) = between(traffic(random, calls, 1), traffic(random, 400, 1), [Row("duration", 0.99)])
    assert difference.judged is judged


def test_rounding_and_missing_values_are_no_change() -> None:
    numbers = np.arange(50)
    before = Side({"same": np.full(50, 0.1), "none": np.full(50, np.nan)}, numbers)
    after = Side({"same": np.full(50, 0.1 + 1e-17), "none": np.full(50, 1.0)}, numbers)
    same, none = between(before, after, [Row("same"), Row("none")])
    assert not same.sure
    assert not none.judged
    assert isinstance(none, Difference)


def test_many_traces_are_judged_by_a_part_of_them() -> None:
    random = np.random.default_rng(7)
    differences = between(traffic(random, 9000, 1), traffic(random, 9000, 1, 1.05), [Row("decode"), Row("network")])
    decode, network = differences
    assert decode.sure
    assert not network.sure
    wide = (decode.high - decode.low) / decode.before
    # 2 * 1.96 standard errors of the difference of means of 9000 lognormal values each
    assert wide == pytest.approx(2 * 1.96 * (2 * (np.exp(0.36) - 1) / 9000) ** 0.5, rel=0.15)
