"""Numbers and names as people read them."""

from __future__ import annotations

import pytest

from llmtrace.view import text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 s"),
        (4.12e-7, "0.41 µs"),
        (4.12e-4, "412 µs"),
        (9.996e-4, "1.00 ms"),
        (0.00321, "3.21 ms"),
        (0.0321, "32.1 ms"),
        (0.99949, "999 ms"),
        (0.9996, "1.00 s"),
        (1.244, "1.24 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (123, "2 min 03 s"),
        (3725, "1 h 02 min"),
        (-0.5, "-500 ms"),
        (float("nan"), text.DASH),
    ],
)
def test_seconds(value: float, shown: str) -> None:
    assert text.seconds(value) == shown


@pytest.mark.parametrize("span", [1e-9, 3e-6, 0.0007, 0.34, 1, 1.83, 7, 59, 3600, 1e6])
@pytest.mark.parametrize("most", [2, 3, 6, 20])
def test_ticks_are_few_round_and_inside(span: float, most: int) -> None:
    ticks = text.ticks(span, most)
    assert ticks[0] == 0
    assert len(ticks) <= most
    assert ticks[-1] <= span * 1.001
    labels = [text.tick(at, span) for at in ticks]
    assert len(set(labels)) == len(labels)
    assert all(len(label) <= 10 for label in labels)


def test_no_ticks_on_no_axis() -> None:
    assert text.ticks(0, 5) == [0.0]


def test_names_cannot_steer_the_terminal() -> None:
    assert text.clean("a\x1b[31mb\x07\u202ec\nd\te") == "a\ufffd[31mb\ufffdc d e"
    assert text.clean("日本語 👩‍💻 é") == "日本語 👩‍💻 é"
    assert text.clean("x" * 500, 10) == "xxxxxxxxx…"
    assert text.clean("\ud800") == "\ufffd"


def test_values_in_one_line() -> None:
    assert text.value((True, 1, 0.1, "x", None)) == "[true, 1, 0.1, x, ]"
    assert text.value({"k": b"\x01"}) == "{k: 01}"


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (0.807, 0.914, "807-914 ms"),
        (-0.01, 0.0606, "0-60.6 ms"),
        (0.92, 1.06, "0.92-1.06 s"),
        (50.0, 70.0, "50.0 s to 1 min 10 s"),
    ],
)
def test_between(low: float, high: float, shown: str) -> None:
    assert text.between(low, high) == shown
