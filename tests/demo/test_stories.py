"""The demo's bars, without playing it."""

from __future__ import annotations

import pytest

from llmtrace.demo.stories import cells


@pytest.mark.parametrize("room", [1.0, 7.3, 40.0])
def test_a_bar_is_as_wide_as_its_room_whatever_its_parts(room: float) -> None:
    parts = [("network", 0.0004), ("queue", 0.706), ("prefill", 0.128), ("decode", 0.486)]
    drawn = list(cells(parts, room))
    assert sum(columns for _, columns in drawn) == round(room)
    assert [family for family, _ in drawn] == [family for family, _ in parts if family in dict(drawn)]


def test_a_call_without_length_has_no_bar() -> None:
    assert list(cells([("decode", 0.0)], 40.0)) == []
    assert list(cells([], 40.0)) == []
