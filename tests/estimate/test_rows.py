"""Rows in two bytes a number: nothing worth knowing is lost, and what is lost is lost once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtrace.estimate.rows import CLASS, COLUMNS, PACE, WHOLE, Ring, pack, unpack

numbers = st.one_of(st.just(0.0), st.just(-1.0), st.floats(1e-7, 1e6))
rows = st.lists(numbers, min_size=COLUMNS, max_size=COLUMNS).map(lambda row: (*row[:CLASS], 3.0, *row[CLASS + 1 :]))


@given(rows)
def test_a_number_stays_as_it_is_but_for_a_part_in_two_thousand(row: tuple[float, ...]) -> None:
    (kept,) = unpack(pack([row]))
    assert kept == pytest.approx(row, rel=2.6e-4)
    assert kept[CLASS] == 3.0
    assert unpack(pack([kept])) == [kept], "what is packed again loses nothing more"


def test_what_is_compared_with_a_number_is_exact() -> None:
    row = [1.0] * COLUMNS
    row[PACE] = WHOLE
    assert unpack(pack([row])) == [tuple(row)]


def test_what_no_row_can_hold_is_the_nearest_that_it_can() -> None:
    row = [1e300] * (COLUMNS - 1) + [1e-300]
    row[CLASS] = 0.0
    (kept,) = unpack(pack([row]))
    assert 1e6 < kept[0] < 1e8
    assert 0.0 < kept[-1] < 1e-6


@pytest.mark.parametrize("put", [0, 3, 5, 12])
def test_a_ring_holds_the_last_rows_oldest_first(put: int) -> None:
    ring = Ring(5)
    for number in range(put):
        ring.put([2.0**number] * CLASS + [0.0] + [2.0**number] * (COLUMNS - CLASS - 1))
    last = [2.0**number for number in range(put)][-5:]
    assert ring.count == len(last)
    assert [row[0] for row in ring.last()] == pytest.approx(last, rel=1e-3)
    assert [row[0] for row in ring.last(2)] == pytest.approx(last[-2:], rel=1e-3)
    ring.keep(2)
    ring.put([7.0] * CLASS + [0.0] + [7.0] * (COLUMNS - CLASS - 1))
    assert [row[0] for row in ring.last()] == pytest.approx([*last[-2:], 7.0], rel=1e-3)
