"""What was seen of a stream that was closed early, and who went on making it: pure functions over counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from llmtrace.probe.engines import Engine, Reading

STOPPED, RAN_ON, UNKNOWN = "stopped", "ran_on", "unknown"
State = Literal["stopped", "ran_on", "unknown"]
_WHOLE = 0.9
"""Of a whole answer's tokens: who made as many ran on."""
_SLACK: Final = 3
"""Tokens by which counts of one answer may differ: the last step, the end's own token."""
_SHARE = 0.05
_SPREAD = 0.1
_OTHERS = 2.0
"""Times a whole answer's tokens: what takes more from a rate limit was not alone."""
_SURE = 0.25
"""Of the tokens that were left to make: an interval wider than this tells nothing."""


@dataclass(frozen=True, slots=True)
class Said:
    """What is known of one hop. ``low`` and ``high``: tokens that it made, charged or billed; ``why``: one line."""

    hop: str
    state: State
    low: int | None = None
    high: int | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Cut:
    """The stream that was closed, and the one like it that was read to its end."""

    came: int
    """Tokens that had come when it was closed."""
    whole: int
    """Tokens of the one that was read to its end."""
    closed: float
    """Monotonic s."""
    pace: float
    """Seconds between tokens."""


@dataclass(frozen=True, slots=True)
class Watched:
    """An engine's counters around the calls."""

    idle: Sequence[Reading]
    """While no call of ours was under way."""
    whole: tuple[Reading, Reading]
    """Before and after the call that was read to its end."""
    after: Sequence[Reading]
    """Of the call that was closed: before it, and then from its close on."""


def engine(seen: Watched, kind: Engine, cut: Cut) -> Said:
    """What an engine's counters say."""
    before, last = seen.after[0], seen.after[-1]
    whole = seen.whole[1].tokens - seen.whole[0].tokens
    made = last.tokens - before.tokens
    if made < 0 or whole < 0:
        return _unknown("engine", f"{kind.name} began to count anew in the middle")
    others = _others(seen, cut)
    if others is not None:
        return _among_others(seen, kind, cut, made, others)
    off = whole - cut.whole
    if whole == 0:
        return _unknown(
            "engine",
            f"the {cut.whole} tokens of a whole answer did not move {kind.tokens}: they were made elsewhere, or it is "
            "one of several engines",
        )
    if abs(off) > max(_SLACK, _SHARE * cut.whole) and not (kind.steps and off < 0):
        return _unknown(
            "engine", f"the {cut.whole} tokens of a whole answer moved {kind.tokens} by {whole:.0f}: others use it too"
        )
    if kind.steps:
        made = made - off if abs(off) <= _SLACK else made * cut.whole / whole
    if not kind.counts_cut and made == 0:
        return _by_time(seen, kind, cut)
    tokens = round(made)
    if tokens < cut.came - _SLACK:
        return _unknown("engine", f"it counted {tokens} of the {cut.came} tokens that came: several engines answer")
    return _judged("engine", tokens, tokens, cut, f"counted by {kind.name}")


def gateway(name: str, behind: Said, aborted: bool) -> Said:
    """What the engine behind a gateway shows of the gateway. ``aborted``: the engine counted a call given up."""
    if behind.state == STOPPED:
        return Said("gateway", STOPPED, why=f"{name}: the engine behind it stopped")
    if behind.state == RAN_ON and aborted:
        return Said("gateway", STOPPED, why=f"{name}: the engine behind it counted a call given up")
    if behind.state == RAN_ON:
        return _unknown(
            "gateway",
            f"{name} did not pass the close on, or the engine did not heed it: ask the engine itself, with its own "
            "--base-url",
        )
    return _unknown("gateway", "what the engine behind it did could not be seen")


def rate_limit(name: str, remaining: Sequence[float], cut: Cut, refill: float, apart: tuple[float, float]) -> Said:
    """What the remaining tokens of a rate limit say.

    ``remaining``: as five calls were told in turn: a short one, the whole one, a short one, the one that was closed, a
    short one. ``refill``: tokens per second, at most, that the limit gains. ``apart``: seconds between the short ones.
    """
    first, at_whole, middle, at_cut, last = remaining
    whole, charged = first - middle, middle - last
    if whole < cut.whole / 2:
        return _unknown(
            "rate limit", f"a whole answer moved {name} by {whole:.0f}: it is refilled or rounded meanwhile"
        )
    if max(whole, charged) > _OTHERS * cut.whole:
        return _unknown("rate limit", f"{name} fell by {max(whole, charged):.0f}: others use the limit too")
    blur = math.ceil(refill * abs(apart[1] - apart[0]))
    tokens = max(cut.came, round(cut.whole - (whole - charged)))
    low, high = max(cut.came, tokens - blur), min(cut.whole, tokens + blur)
    if high - low > _SURE * (cut.whole - cut.came):
        return _unknown("rate limit", f"{name} is refilled by up to {refill:.0f} tokens a second")
    reserved = first - at_whole >= _WHOLE * whole and middle - at_cut >= _WHOLE * charged
    if reserved and high >= _WHOLE * cut.whole:
        return _unknown("rate limit", f"{name} takes the tokens asked for beforehand, and got none back")
    return _judged("rate limit", low, high, cut, f"by {name}")


def billed(hop: str, tokens: int, cut: Cut, how: str, slack: int = 0) -> Said:
    """What somebody's bill says, who counts ``tokens`` to within ``slack``."""
    return _judged(hop, max(cut.came, tokens - slack) if slack else tokens, tokens + slack, cut, how)


def _judged(hop: str, low: int, high: int, cut: Cut, how: str) -> Said:
    if low >= _WHOLE * cut.whole:
        return Said(hop, RAN_ON, low, high, how)
    if high < _WHOLE * cut.whole:
        return Said(hop, STOPPED, low, high, how)
    return _unknown(hop, f"between {low} and {high} tokens, {how}")


def _unknown(hop: str, why: str) -> Said:
    return Said(hop, UNKNOWN, why=why)


def _others(seen: Watched, cut: Cut) -> tuple[float, float] | None:
    """The least and most tokens that others' calls made a second while ours were not under way; None: no others."""
    rates = [
        (b.tokens - a.tokens) / (b.moment - a.moment)
        for a, b in zip(seen.idle, seen.idle[1:], strict=False)
        if b.moment > a.moment
    ]
    busy = any(reading.running for reading in (*seen.idle, seen.after[0]))
    first, last = seen.after[0], seen.after[-1]
    if not any(rates) and not busy and not _ended_beside(first, last, cut):
        return None
    least, most = min(rates, default=0.0), max(rates, default=0.0)
    spread = most - least + _SPREAD * most  # a few readings do not show all that others may do
    return max(0.0, least - spread), most + spread


def _ended_beside(first: Reading, last: Reading, cut: Cut) -> bool:
    """Whether a call that is not ours ended meanwhile: a second one, or one to its end though ours was not made."""
    if first.finished is None or last.finished is None:
        return False
    ended = last.finished - first.finished
    aborted = (last.aborted or 0.0) - (first.aborted or 0.0)
    return ended > 1 or (ended > aborted and last.tokens - first.tokens < _WHOLE * cut.whole)


def _among_others(seen: Watched, kind: Engine, cut: Cut, made: float, rates: tuple[float, float]) -> Said:
    if not kind.live:
        return _unknown(
            "engine", f"other calls ran, and {kind.name} counts tokens only when a call ends: try again when it is idle"
        )
    if kind.steps:
        return _unknown("engine", f"other calls ran, whose steps {kind.name} counts together with ours")
    seconds = seen.after[-1].moment - seen.after[0].moment
    low = min(cut.whole, max(cut.came, math.floor(made - seconds * rates[1])))
    high = max(low, min(cut.whole, math.ceil(made - seconds * rates[0])))
    if high - low > _SURE * (cut.whole - cut.came):
        return _unknown("engine", f"other calls made {rates[0]:.0f} to {rates[1]:.0f} tokens a second before")
    return _judged(
        "engine", low, high, cut, f"counted by {kind.name}, less others' {rates[0]:.0f} to {rates[1]:.0f} a second"
    )


def _by_time(seen: Watched, kind: Engine, cut: Cut) -> Said:
    """Bounds of an engine that does not count what was cut: from when it had no call any more."""
    free = next((reading.moment for reading in seen.after[1:] if not reading.running), None)
    if free is None:
        return _unknown("engine", f"{kind.name} does not count tokens of calls that were cut, and still had one")
    high = cut.came + math.ceil(max(0.0, free - cut.closed) / cut.pace) if cut.pace > 0 else cut.whole
    return _judged("engine", cut.came, min(high, cut.whole), cut, f"{kind.name} had no call any more by then")
