"""The report's arithmetic on numbers whose answers are known."""

from __future__ import annotations

import pytest

from tests.evaluation.phases import figures
from tests.evaluation.phases.audit import auc, wilson
from tests.evaluation.phases.measured import Claim, Measured, Truth


def call(first: float, queue: float, prefill: float, **changes: object) -> Measured:
    """A call with this truth; nothing else about it matters."""
    values: dict[str, object] = {
        "cell": "reference|few slots|Poisson 0.3",
        "began": 0.0,
        "warm": True,
        "sent": 0.001,
        "headers": 0.002,
        "event": first,
        "first": first,
        "end": first + 0.1,
        "rtt": 0.0,
        "prompt": 100,
        "cached": 0,
        "output": 8,
        "truth": Truth(queue, prefill, 0.1),
        "claim": Claim(0.0, 0.0, first),
    }
    return Measured(**{**values, **changes})  # type: ignore[arg-type]


def test_errors() -> None:
    pairs = [
        (call(1.0, 0.5, 0.5), Claim(0.0, 0.4, 0.6)),
        (call(1.0, 0.0, 1.0), Claim(0.0, 0.3, 0.7)),
        (call(2.0, 0.0, 2.0), Claim(0.0, None, None)),
    ]
    found = figures.errors(pairs, "queue")
    assert found is not None
    assert found.calls == 2, "a call that was not split has no error"
    assert found.bias == pytest.approx(0.1)
    assert found.median == pytest.approx(0.2)
    assert found.p90 == pytest.approx(0.28)
    assert found.mean_share == pytest.approx(0.2)
    assert found.mean_relative == pytest.approx(0.8)
    assert figures.errors(pairs, "network") is None, "nobody knows the network's truth"


def test_queued_and_false_queue() -> None:
    pairs = [
        (call(1.0, 0.5, 0.5), Claim(0.0, 0.4, 0.6)),
        (call(1.0, 0.2, 0.8), Claim(0.0, 0.1, 0.9)),
        (call(1.0, 0.05, 0.95), Claim(0.0, 0.3, 0.7)),
        (call(1.0, 0.0, 1.0), Claim(0.0, 0.02, 0.98)),
    ]
    assert figures.queued(pairs) == (2, pytest.approx(0.35))
    assert figures.false_queue(pairs) == (2, pytest.approx(0.5))


def test_coverage() -> None:
    pairs = [
        (call(1.0, 0.5, 0.5), Claim(0.0, 0.4, 0.6, queue_half=0.2)),
        (call(1.0, 0.0, 1.0), Claim(0.0, 0.1, 0.9, queue_half=0.05)),
        (call(1.0, 0.0, 1.0), Claim(0.0, 0.1, 0.9)),
    ]
    found = figures.coverage(pairs, "queue")
    assert found is not None
    assert found.calls == 2
    assert found.inside == 0.5
    assert found.width == pytest.approx(0.25)


def test_an_interval_does_not_reach_below_zero() -> None:
    found = figures.coverage([(call(1.0, 0.0, 1.0), Claim(0.0, 0.1, 0.9, queue_half=0.2))], "queue")
    assert found is not None
    assert found.width == pytest.approx(0.3)


def test_refusals() -> None:
    pairs = [
        (call(1.0, 0.5, 0.5), Claim(0.0, None, None)),
        (call(1.0, 0.5, 0.5), Claim(0.0, None, None)),
        (call(1.0, 0.5, 0.5), Claim(0.0, 0.5, 0.5, lower_bound=True)),
        (call(1.0, 0.5, 0.5), Claim(0.0, 0.5, 0.5)),
    ]
    plain = [Claim(0.0, 0.5, 0.5), Claim(0.0, 0.1, 0.9), Claim(0.0, 0.5, 0.5), Claim(0.0, 0.5, 0.5)]
    found = figures.refusals(pairs, plain)
    assert (found.share, found.right, found.bounds) == (0.5, 0.5, 0.5)


def test_rest() -> None:
    median, mean = figures.rest([call(1.0, 0.4, 0.5), call(1.0, 0.3, 0.4)])
    assert median == pytest.approx(0.2)
    assert mean == pytest.approx(0.2)


def test_auc() -> None:
    assert auc([1, 2], [3, 4]) == 1.0
    assert auc([1, 2], [1, 2]) == 0.5
    assert auc([3, 4], [1, 2]) == 0.0


def test_wilson() -> None:
    low, high = wilson(0.5, 100)
    assert low == pytest.approx(0.419, abs=0.002)
    assert high == pytest.approx(0.581, abs=0.002)
    assert wilson(0.0, 0) == (0.0, 1.0)
