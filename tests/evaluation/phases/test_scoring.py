"""The rules of scoring, on calls so few that each figure can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.evaluation.common.bars import Bar
from tests.evaluation.phases import bars, scoring
from tests.evaluation.phases.audit import auc, wilson
from tests.evaluation.phases.cells import Cell
from tests.evaluation.phases.judged import Judged, judge
from tests.evaluation.phases.measured import DECODE, PREFILL, QUEUE, Claim, Measured, Truth


def call(first: float, queue: float | None, prefill: float | None, **more: object) -> Measured:
    made = Measured(
        cell="made up",
        began=0.0,
        warm=True,
        sent=0.0,
        headers=0.0,
        event=first,
        first=first,
        end=first + 1.0,
        rtt=0.0,
        prompt=100,
        cached=0,
        output=11,
        truth=Truth(queue, prefill, 1.0),
        claim=Claim(0.0, queue, prefill, 1.0),
    )
    return replace(made, **more)  # type: ignore[arg-type]


MERGED = Claim(0.0, None, None, 1.0, merged=2.0, merged_of=(QUEUE, PREFILL), because="few_calls")


def test_errors() -> None:
    pairs = [
        (call(1.0, 0.5, 0.5), Claim(0.0, 0.4, 0.6)),
        (call(1.0, 0.0, 1.0), Claim(0.0, 0.3, 0.7)),
    ]
    queue = scoring.errors(pairs, QUEUE)
    assert queue is not None
    assert (queue.calls, queue.truth) == (2, 0.25)
    assert queue.bias == pytest.approx(0.1)
    assert queue.share == pytest.approx(0.2)
    assert queue.of_itself == pytest.approx(0.2), "only where there was a queue is its error a share of it"
    prefill = scoring.errors(pairs, PREFILL)
    assert prefill is not None
    assert prefill.of_itself == pytest.approx((0.2 + 0.3) / 2)
    assert scoring.errors([(call(1.0, None, 0.5), Claim(0.0, 0.5, 0.5))], QUEUE) is None, "nobody knows the truth"


def test_a_refusal_counts_with_the_equal_parts_of_its_span() -> None:
    pairs = [
        (call(1.0, 0.5, 0.5), Claim(0.0, 0.4, 0.6)),
        (call(2.0, 0.2, 1.7), MERGED),
    ]
    queue, prefill = scoring.errors(pairs, QUEUE), scoring.errors(pairs, PREFILL)
    assert queue is not None
    assert prefill is not None
    assert queue.calls == 2
    assert queue.share == pytest.approx((0.1 + 0.8) / 2 / 1.5), "1.0 s of the merged 2.0 s, and 0.2 s is true"
    assert queue.split_share == pytest.approx(0.1 / 1.0)
    assert prefill.share == pytest.approx((0.1 + 0.7) / 2 / 1.5)
    assert scoring.refused(pairs) == 0.5
    assert scoring.merged_error(pairs) == pytest.approx(0.1 / 2.0), "1.9 s of the 2.0 s were queue and prefill"
    inside = scoring.coverage(pairs, QUEUE)
    assert inside is None, "a merged span has no interval of its parts"


def test_an_opaque_call_is_a_third_each() -> None:
    claim = Claim(0.0, None, None, None, merged=3.0, merged_of=(QUEUE, PREFILL, DECODE))
    assert [claim.value(phase) for phase in (QUEUE, PREFILL, DECODE)] == [1.0, 1.0, 1.0]
    whole = replace(call(1.0, 0.5, 0.5), first=None, end=3.0, truth=Truth(0.5, 0.5, 2.0))
    decode = scoring.errors([(whole, claim)], DECODE)
    assert decode is not None
    assert decode.share == pytest.approx(1.0 / 3.0), "of a whole answer, errors are shares of the total"


def test_a_good_split_is_cheaper_than_a_refusal_and_a_bad_one_dearer() -> None:
    truth = call(2.0, 0.2, 1.8)

    def cost(claim: Claim) -> float:
        errors = scoring.errors([(truth, claim)], QUEUE)
        assert errors is not None
        return errors.share

    assert cost(Claim(0.0, 0.3, 1.7)) < cost(MERGED) < cost(Claim(0.0, 1.8, 0.2))


def test_coverage_and_width() -> None:
    pairs = [
        (call(1.0, 0.5, 0.5), Claim(0.0, 0.4, 0.6, ranges={QUEUE: (0.2, 0.6)})),
        (call(1.0, 0.0, 1.0), Claim(0.0, 0.1, 0.9, ranges={QUEUE: (0.05, 0.15)})),
        (call(1.0, 0.0, 1.0), Claim(0.0, 0.1, 0.9)),
    ]
    inside = scoring.coverage(pairs, QUEUE)
    assert inside is not None
    assert (inside.calls, inside.inside) == (2, 0.5)
    assert inside.half == pytest.approx((0.2 + 0.05) / 2)
    assert inside.ratio == pytest.approx(0.125 / 0.1)
    assert inside.width == pytest.approx(0.25)


def test_the_engines_own_queue_takes_its_interval_along() -> None:
    claim = Claim(0.0, 0.4, 0.6, ranges={QUEUE: (0.3, 0.5)}, engine_queue=0.2)
    pairs = [(call(1.0, 0.15, 0.8), claim)]
    exported, own = scoring.coverage(pairs, QUEUE), scoring.engine_queue_coverage(pairs)
    assert exported is not None
    assert own is not None
    assert (exported.inside, own.inside) == (0.0, 1.0)
    errors = scoring.engine_queue_errors([*pairs, (call(2.0, 0.2, 1.7), MERGED)])
    assert errors is not None
    assert errors.share == pytest.approx((0.05 + 0.8) / 2 / 1.5)


def test_queue_where_none_is() -> None:
    pairs = [
        (call(1.0, 0.5, 0.5), Claim(0.0, 0.9, 0.1)),
        (call(1.0, 0.05, 0.95), Claim(0.0, 0.3, 0.7, ranges={QUEUE: (0.2, 0.4)})),
        (call(1.0, 0.0, 1.0), Claim(0.0, 0.1, 0.9, ranges={QUEUE: (0.0, 0.4)})),
        (call(2.0, 0.0, 2.0), MERGED),
    ]
    calls, share = scoring.queue_where_none(pairs)
    assert calls == 2, "a merged span ascribes no queue; a queued call is none of these"
    assert share == pytest.approx(0.2)
    assert scoring.falsely_queued(pairs) == 0.5


def test_sure_and_wrong() -> None:
    wide = Claim(0.0, 0.1, 0.9, 1.0, ranges={QUEUE: (0.0, 0.6), PREFILL: (0.4, 1.0)})
    sure = Claim(0.0, 0.1, 0.9, 1.0, ranges={QUEUE: (0.0, 0.2), PREFILL: (0.8, 1.0)})
    near = Claim(0.0, 0.4, 0.6, 1.0, ranges={QUEUE: (0.35, 0.45), PREFILL: (0.55, 0.65)})
    truth = call(1.0, 0.5, 0.5)
    assert [scoring.sure_and_wrong([(truth, claim)]) for claim in (wide, sure, near, MERGED)] == [0, 1, 0, 0]


# --- bars -------------------------------------------------------------------------------------------------------------
def cell(name: str, traffic: str = "share30", source: str = "simulation", **more: object) -> Cell:
    made = Cell(source, "engine", "4 slots", name, traffic, 0.6, 0.3)
    return replace(made, **more)  # type: ignore[arg-type]


def of_cell(which: Cell, inside: int, outside: int) -> Judged:
    """A cell with so many calls whose queue's interval holds the truth, and so many that miss it by 0.4 of 2 s."""
    calls: list[Measured] = []
    for number in range(inside + outside):
        length = 1.0 + 0.01 * number
        claimed = 0.5 if number < inside else 0.9
        claim = Claim(0.0, claimed, length, 1.0, ranges={QUEUE: (claimed - 0.1, claimed + 0.1)})
        truth = call(0.5 + length, 0.5, length, prompt=100 + number, began=float(number))
        calls.append(replace(truth, cell=which.key, claim=claim))
    (judged,) = judge([which], calls)
    return judged


def covers(cells: list[Judged]) -> bars.Line:
    title = "30 % of the load: 90 % interval of queue covers"
    return next(line for line in bars.lines(cells) if line.title == title)


def test_the_worst_cell_decides() -> None:
    """Pooled, these would cover 86 %, within the bar."""
    line = covers([of_cell(cell("good"), 95, 5), of_cell(cell("bad", source="recorded"), 15, 15)])
    worst = line.worst()
    assert worst is not None
    assert (worst.where, worst.bar.value, line.met) == ("engine, 4 slots, bad", 0.5, False)
    good = line.worst("simulation")
    assert good is not None
    assert good.bar.value == 0.95
    assert line.worst("live") is None


def test_what_does_not_decide() -> None:
    """Cells whose recording lacks something, and cells of too few calls."""
    weak = of_cell(cell("weak", decides=False), 10, 20)
    few = of_cell(cell("few"), 5, 8)
    line = covers([of_cell(cell("good"), 90, 10), weak, few])
    assert line.met
    assert covers([weak, few]).met is None


def test_chance() -> None:
    def verdict(inside: int, outside: int) -> str:
        return covers([of_cell(cell("one"), inside, outside)]).verdict()

    assert verdict(31, 9) == "**missed** by 4.5 points, within chance"
    assert verdict(20, 20) == "**missed** by 32.0 points"
    assert verdict(36, 4) == "met"


def test_half_width_and_other_methods() -> None:
    lines = {line.what: line for line in bars.lines([of_cell(cell("one"), 30, 10)])}
    half = lines["half width of queue, over its mean |error|"].worst()
    assert half is not None
    assert half.bar.value == pytest.approx(0.1 / 0.1)
    prefill = lines["queue, to the error of all prefill"].worst()
    assert prefill is not None
    assert prefill.bar.value == pytest.approx(0.1 / 0.5), "all prefill misses the whole queue of 0.5 s"


def test_without_usage_against_the_same_calls_with_it() -> None:
    told = of_cell(cell("share30 0.6"), 30, 10)
    untold = of_cell(cell("nousage30 0.6", "nousage30", twin=told.cell.key), 20, 20)
    lines = {line.title: line for line in bars.lines([told, untold])}
    worst = lines["no usage: queue, to the error with usage"].worst()
    assert worst is not None
    assert worst.bar.value == pytest.approx(2.0)
    alone = {line.title: line for line in bars.lines([untold])}
    assert alone["no usage: queue, to the error with usage"].met is None, "without its twin there is nothing to tell"


def test_excess() -> None:
    two_sided = [Bar("", value, 0.82, 0.96) for value in (0.99, 0.7, 0.9)]
    assert [round(bars.excess(bar), 2) for bar in two_sided] == [0.03, 0.12, -0.06]


def test_auc() -> None:
    assert auc([1, 2], [3, 4]) == 1.0
    assert auc([1, 2], [1, 2]) == 0.5
    assert auc([3, 4], [1, 2]) == 0.0


def test_wilson() -> None:
    low, high = wilson(0.5, 100)
    assert low == pytest.approx(0.419, abs=0.002)
    assert high == pytest.approx(0.581, abs=0.002)
    assert wilson(0.0, 0) == (0.0, 1.0)
