"""The spec sheet: what was learned, each figure with its interval, and what could not be told and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from llmtrace.probe import plan
from llmtrace.probe.learned import Learned, Reused
from llmtrace.probe.maths import bursts, cache, chunks, fits
from llmtrace.probe.maths.fits import PromptCost
from llmtrace.probe.maths.intervals import LEVEL, Interval

VERSION = 1
_THOUSAND = 1000
_ORDERS = {"fifo": "first come, first served", "lifo": "last come, first served", "none": "no order seen"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the sheet. ``value`` is None where it could not be told, and ``note`` then says why."""

    name: str
    label: str
    value: float | int | str | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    note: str = ""


@dataclass(slots=True)
class Sheet:
    """What was asked, and what came of it."""

    base_url: str
    model: str
    figures: list[Figure] = field(default_factory=list[Figure])
    calls: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    usd: float | None = None
    stopped: str = ""
    """Why it ended before its time; empty where it did not."""
    when: float = 0.0
    """Epoch s."""

    def __getitem__(self, name: str) -> Figure:
        return next(figure for figure in self.figures if figure.name == name)

    def to_json(self) -> dict[str, Any]:
        """The sheet as plain values; the interval of each figure holds the truth in 90 of 100 cases."""
        return {"version": VERSION, "level": LEVEL, **asdict(self)}


def figures(learned: Learned) -> list[Figure]:
    """Every line, in the order in which they are shown."""
    cost = fits.prompt_cost(learned.prompts)
    return [
        *_way(learned, cost),
        *_prompt(learned, cost),
        *_cache(learned, cost),
        _life(learned),
        *_answers(learned),
        _chunk(learned),
        *_bursts(learned),
        _limits(learned),
    ]


def _why(learned: Learned, step: str, otherwise: str) -> str:
    if step in learned.ended:
        return learned.ended[step]
    return otherwise if step in learned.asked else "not asked"


def _interval(name: str, label: str, unit: str, interval: Interval, note: str = "") -> Figure:
    return Figure(name, label, interval.value, interval.low, interval.high, unit, note)


def _way(learned: Learned, cost: PromptCost | None) -> list[Figure]:
    name, label = "wire", "wire, round trip"
    trips = learned.round_trips
    wire = Figure(name, label, note="the kernel does not tell it here")
    if trips:
        wire = Figure(name, label, min(trips), min(trips), max(trips), "s", "by the kernel")
    if cost is None:
        why = _why(learned, plan.CURVE, "too few calls")
        return [wire, Figure("fixed", "fixed, per call", note=why)]
    return [wire, _interval("fixed", "fixed, per call", "s", cost.fixed, "with the wire")]


def _prompt(learned: Learned, cost: PromptCost | None) -> list[Figure]:
    slope, bend = ("prompt.per_token", "prompt, per token"), ("prompt.per_square", "prompt, per token²")
    thousand = ("prompt.thousand", "1,000 new tokens take")
    if cost is None:
        why = _why(learned, plan.CURVE, "too few calls")
        return [Figure(*slope, note=why), Figure(*bend, note=why), Figure(*thousand, note=why)]
    note = "" if learned.counts_tokens else "tokens reckoned from characters: the provider does not count them"
    per_token = _interval(*slope, "s/token", cost.per_token, note)
    whole = _interval(*thousand, "s", cost.thousand, "to first token")
    if cost.per_square is not None:
        return [per_token, _interval(*bend, "s/token²", cost.per_square), whole]
    unseen = f"none seen up to {learned.longest:,} tokens"
    return [per_token, Figure(*bend, 0.0, 0.0, cost.bend, "s/token²", unseen), whole]


def _cache(learned: Learned, cost: PromptCost | None) -> list[Figure]:
    least, block = ("cache.minimum", "shortest prefix kept, tokens"), ("cache.block", "block of the cache, tokens")
    saved = ("cache.saved_per_token", "saved, per cached token")
    reused = learned.reused
    if not reused:
        why = _why(learned, plan.CACHE, "no calls")
        return [Figure(*least, note=why), Figure(*block, note=why), Figure(*saved, note=why)]
    if not learned.counts_cached:
        return _cache_by_time(reused, cost)
    counted = [cache.Reuse(one.shared, one.cached or 0) for one in reused]
    edges, step = cache.minimum(counted), cache.block(counted)
    if edges is None:
        why = f"no beginning of up to {max(one.shared for one in reused):,} tokens was served from a cache"
        return [Figure(*least, note=why), Figure(*block, note=why), Figure(*saved, note=why)]
    lines = [Figure(*least, edges[1], edges[0], edges[1], "tokens")]
    too_few = "too few different counts of cached tokens"
    if step is None:
        lines.append(Figure(*block, note=too_few))
    else:
        lines.append(Figure(*block, step, step, step, "tokens", "to the token" if step == 1 else ""))
    savings = None
    if cost is not None:
        # What a cached prompt still costs is fixed; what it does not cost any more is the difference to a new one.
        points = [(float(one.cached), cost.seconds(one.tokens) - one.ttft) for one in reused if one.cached]
        savings = fits.through_zero(points)
    lines.append(Figure(*saved, note="too few calls") if savings is None else _interval(*saved, "s/token", savings))
    return lines


def _cache_by_time(reused: list[Reused], cost: PromptCost | None) -> list[Figure]:
    """Nobody counts cached tokens: a prompt that shares more with an earlier one comes sooner, or does not."""
    least, block = ("cache.minimum", "shortest prefix kept, tokens"), ("cache.block", "block of the cache, tokens")
    saved = ("cache.saved_per_token", "saved, per cached token")
    uncounted = "the provider does not count cached tokens"
    why = f"{uncounted}, and times do not show any"
    savings = None
    if cost is not None:
        points = [(float(one.shared), cost.seconds(one.tokens) - one.ttft) for one in reused if one.shared > 0]
        savings = fits.through_zero(points)
        if savings is not None and savings.low > 0.3 * cost.per_token.value:
            note = f"{uncounted}: of tokens sent before, by time"
            return [
                Figure(*least, note=uncounted),
                Figure(*block, note=uncounted),
                _interval(*saved, "s/token", savings, note),
            ]
    return [Figure(*least, note=why), Figure(*block, note=why), Figure(*saved, note=why)]


def _life(learned: Learned) -> Figure:
    name, label = "cache.life", "prefixes are kept for"
    jumped = f"; {learned.jumped} thrown away, since the clock jumped" if learned.jumped else ""
    if not learned.idles:
        asked = "nothing was to be seen" if learned.life_asked else "ask with --ttl SECONDS"
        return Figure(name, label, note=learned.ended.get(plan.LIFE, asked) + jumped)
    low, high = cache.life(learned.idles)
    tried = f"{len(learned.idles)} idle times{jumped}"
    if math.isinf(high):
        return Figure(name, label, None, low, None, "s", f"and longer: {tried}")
    return Figure(name, label, (low + high) / 2, low, high, "s", tried)


def _answers(learned: Learned) -> list[Figure]:
    pace, context = ("answer.per_token", "answer, per token"), ("answer.per_context_token", "  per 1,000 of context")
    fitted = fits.line(learned.answers)
    if fitted is None:
        why = _why(learned, plan.ANSWERS, "answers came in too few pieces")
        return [Figure(*pace, note=why), Figure(*context, note=why)]
    return [
        _interval(*pace, "s/token", fitted[0], "short context"),
        _interval(*context, "s/token", fitted[1].scaled(_THOUSAND)),
    ]


def _chunk(learned: Learned) -> Figure:
    name, label = "prefill.chunk", "prefill chunk, tokens"
    size = chunks.chunk(learned.windows)
    if size is None:
        seen = "a stream beside a long prompt did not stall: another engine, or prompts are computed apart"
        return Figure(name, label, note=_why(learned, plan.BESIDE, seen))
    if size.value is None:
        return Figure(name, label, None, size.low, None, "tokens", f"whole, up to {size.low:,.0f} tokens")
    return Figure(name, label, size.value, size.low, size.high, "tokens")


def _bursts(learned: Learned) -> list[Figure]:
    limit, order = ("concurrency.limit", "calls at once"), ("queue.order", "order of the queue")
    whole = [burst for burst in learned.bursts if len(burst.streams) >= 2]
    if not whole:
        refused = sum(burst.limited for burst in learned.bursts)
        why = f"{refused} calls were refused for the rate" if refused else _why(learned, plan.BURST, "no answers")
        return [Figure(*limit, note=why), Figure(*order, note=why)]
    levels = [bursts.level(burst.streams) for burst in whole]
    most = max(len(burst.streams) for burst in whole)
    found = [level for level in levels if level is not None]
    # A slow beginning looks like a limit in short answers, and like none in long ones: the longer answers decide.
    if levels[-1] is None or not found:
        lines = [Figure(*limit, None, most, None, "calls", f"{most} at once, and none waited")]
        return [*lines, Figure(*order, note="none waited")]
    lines = [Figure(*limit, found[-1], min(found), max(found), "calls")]
    orders = [named for burst in whole if (named := bursts.discipline(burst.streams)) is not None]
    if not orders:
        return [*lines, Figure(*order, note="fewer than four waited")]
    named, tau = max(orders, key=lambda each: abs(each[1]))
    return [*lines, Figure(*order, named, note=f"{_ORDERS[named]}: Kendall's tau {tau:+.2f}")]


def _limits(learned: Learned) -> Figure:
    name, label = "rate.limit", "rate limit"
    refused = sum(burst.limited for burst in learned.bursts)
    told = "; ".join(f"{name}: {value}" for name, value in sorted(learned.limits.items()))
    if refused:
        at = max(burst.sent for burst in learned.bursts)
        return Figure(name, label, told or None, note=f"{refused} of {at} calls at once were refused (429)")
    return (
        Figure(name, label, told, note="told in headers") if told else Figure(name, label, note="none met, none told")
    )


Known = Mapping[str, float | int | str]
"""Settings that are known, by the figure's name."""


def agrees(figure: Figure, truth: float | str) -> bool:
    """Whether a figure's interval holds what is known to be true."""
    if isinstance(truth, str):
        return figure.value == truth
    if figure.value is None and figure.low is None:
        return False
    low = figure.low if figure.low is not None else -math.inf
    high = figure.high if figure.high is not None else math.inf
    return low <= truth <= high
