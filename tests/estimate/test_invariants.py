"""Whatever calls are seen, in whatever order: an estimate is made of non-negative parts that add up, or is none."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtrace.estimate.baselines import Baselines
from llmtrace.estimate.sample import Sample
from llmtrace.phases.merged import NOT_ESTIMATED
from llmtrace.phases.model import REASONS, Estimate, Unknown
from tests.support.effort import examples

MS = 1_000_000


counts = st.one_of(st.integers(0, 3000), st.sampled_from([0, 1, 10**8]))
lengths = st.one_of(st.integers(0, 3_000 * MS), st.sampled_from([0, 1, 10**15]))
calls = st.lists(
    st.tuples(
        st.integers(0, 100 * MS),  # after the one before
        st.one_of(st.none(), st.integers(-10 * MS, 50 * MS)),  # headers, after the start
        lengths,  # first token
        lengths,  # end after that
        counts,  # uncached
        st.one_of(st.just(0), counts),  # cached
        counts,  # output
        st.booleans(),  # whole
        st.integers(0, 2),  # images
        st.booleans(),  # nothing is told of it
    ),
    min_size=40,
    max_size=90,
)


@settings(max_examples=examples(15), deadline=None)
@given(calls)
def test_an_estimate_adds_up_whatever_was_seen(
    drawn: list[tuple[int, int | None, int, int, int, int, int, bool, int, bool]],
) -> None:
    known = Baselines(min_calls=16, min_spread=1.0, background=False)
    start = 10**12
    for later, headers, first, rest, uncached, cached, output, whole, media, silent in drawn:
        start += later
        end = start + first + rest
        in_flight = known.begin("route", start, 4 * (uncached + cached))
        if silent:
            assert known.end("route", in_flight, end) is NOT_ESTIMATED
            continue
        sample = Sample(
            start, end if whole else start + first, end, uncached, cached,
            None if headers is None or whole else start + headers, tokens=output, whole=whole, media=media,
        )  # fmt: skip
        made = known.end("route", in_flight, end, sample)
        if isinstance(made, Unknown):
            assert made.reason in REASONS
            assert made.detail
            continue
        parts = (made.admission, made.step_wait, made.queue, made.prefill, made.decode or 0.0)
        assert min(parts) >= 0.0
        assert sum(parts) == pytest.approx((sample.first - start) / 1e9, abs=1e-6)
        assert (made.decode is not None) == whole
        for name in (field.name for field in fields(Estimate) if field.name.endswith(("low", "high", "uncertainty"))):
            side = getattr(made, name)
            assert side is None or (math.isfinite(side) and side >= 0.0), name
