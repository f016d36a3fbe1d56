"""Who answers behind a gateway: a change is told, and chance is not."""

from __future__ import annotations

import random

import pytest

from llmtrace.diagnosis.upstreams import Upstreams


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_a_gateway_that_draws_from_two_upstreams_never_changes(share: float) -> None:
    changes = 0
    for seed in range(40):
        draw, upstreams = random.Random(seed), Upstreams()
        for _ in range(200):
            name = "alpha" if draw.random() < share else "beta"
            changes += upstreams.changed(name, 0.3 * draw.lognormvariate(0, 0.4)) is not None
    assert changes == 0


@pytest.mark.parametrize("before", [("alpha",), ("alpha", "beta")])
def test_two_calls_to_somebody_new_are_a_change(before: tuple[str, ...]) -> None:
    draw, upstreams = random.Random(1), Upstreams()
    for _ in range(40):
        assert upstreams.changed(draw.choice(before), 0.3) is None
    upstreams.changed("gamma", 0.3)
    verdict = upstreams.changed("gamma", 0.3)
    assert verdict is not None
    assert verdict.observed == "gamma"
