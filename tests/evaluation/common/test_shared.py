"""The arithmetic, the tables and the bars that every measurement shares, on values whose answers are known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.common import bars, provenance
from tests.evaluation.common.bars import Bar
from tests.evaluation.common.quantiles import mean, median, quantile, quartiles
from tests.evaluation.common.tables import Table

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1)


def test_quantile() -> None:
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile([0, 1], 0.9) == pytest.approx(0.9)
    assert quartiles([1, 2, 3, 4, 5]) == (2, 4)
    assert mean([1, 2, 6]) == 3
    for nothing in (quantile([], 0.5), median([]), mean([])):
        assert math.isnan(nothing)


@given(VALUES, st.floats(0, 1))
def test_a_quantile_lies_among_the_values_and_grows_with_its_rank(values: list[float], rank: float) -> None:
    found = quantile(values, rank)
    assert min(values) <= found <= max(values)
    assert quantile(values, rank / 2) <= found


@pytest.mark.parametrize(
    ("bar", "met", "words"),
    [
        (Bar("x", 0.05, most=0.08, calls=50), True, "met"),
        (Bar("x", 0.101, most=0.08, calls=50), False, "**missed** by 2.1 points"),
        (Bar("x", 0.96, least=0.97, calls=50), False, "**missed** by 1.0 points"),
        (Bar("x", 0.99, 0.85, 0.95, calls=50), False, "**missed** by 4.0 points"),
        (Bar("x", 0.80, 0.85, 0.95, calls=50), False, "**missed** by 5.0 points"),
        (Bar("x", 0.05, most=0.08, calls=3), None, "no evidence (under 10 calls)"),
        (Bar("x", math.nan, most=0.08, calls=30), None, "no evidence"),
        (Bar("x", 712.4, most=600, calls=5, unit=" µs", fewest=5), False, "**missed** by 112 µs"),
        (Bar("x", 1.19, most=1.2, calls=5, unit="x", fewest=5), True, "met"),
    ],
)
def test_bars(bar: Bar, met: bool | None, words: str) -> None:
    assert bar.met is met
    assert bar.cells()[3] == words


def test_a_table_of_bars_has_each_figure_beside_its_limit() -> None:
    table = bars.table([Bar("a call", 712.4, most=600, calls=7, unit=" µs", fewest=5)])
    assert table.rows == [["a call", "712 µs", "<= 600 µs", "**missed** by 112 µs", "7"]]


def test_a_table_in_markdown() -> None:
    table = Table("Title", ["what", "µs"], [["a call", "1"]])
    assert table.grid() == "| what | µs |\n| --- | ---: |\n| a call | 1 |\n"
    assert table.markdown(4).startswith("#### Title\n\n| what |")


def test_where_a_figure_was_taken() -> None:
    where = provenance.machine(provenance.make_command("bench", ["calls", "--only", "a b"]), 0.0, 0.5)
    words = provenance.sentence(where, 7)
    assert "make bench ARGS=\"calls --only 'a b'\"" in words
    assert "seed 7" in words
    assert "1970-01-01 00:00 UTC" in words
    assert provenance.new_seed(7) == 7
