"""Which record is of which call: by the answer's id, else by time and size where only one can be meant."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from llmtrace.analyze.billing.records import NS, Bucket, Record

BY_ID: Final = "response_id"
BY_TIME: Final = "time"
_KIND = re.compile(r"[A-Za-z]+(?=[-_])")
_DATED = re.compile(r"-(?:\d{8}|\d{4}-\d{2}-\d{2})$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One recorded call. Times in ns since the epoch; None: not known."""

    trace_id: str
    span_id: str
    start_ns: int
    end_ns: int
    provider: str
    models: tuple[str, ...]
    """The one that answered, the one that was asked."""
    response_id: str
    input_tokens: int | None
    lower: int | None
    upper: int | None
    """Output tokens, within bounds; equal where they are known."""
    is_cut: bool
    """It did not complete."""

    @property
    def is_exact(self) -> bool:
        """Whether its output tokens are known."""
        return self.lower is not None and self.lower == self.upper


@dataclass(frozen=True, slots=True)
class Match:
    """A record and the call that it is of."""

    record: Record
    call: Call
    by: str


@dataclass(slots=True)
class Joined:
    """What became of the records."""

    matches: list[Match] = field(default_factory=list[Match])
    ambiguous: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """``FILE:LINE`` and the reason: several calls could be meant."""
    alone: list[Record] = field(default_factory=list[Record])
    """Records of no recorded call."""


def join(records: Sequence[Record], calls: Sequence[Call], within_s: float) -> Joined:
    """``within_s``: how far clocks and the moments that are noted may be apart."""
    joined = Joined()
    by_id: dict[str, list[Call]] = {}
    for call in calls:
        if call.response_id:
            by_id.setdefault(call.response_id, []).append(call)
    taken: set[tuple[str, str]] = set()
    rest: list[Record] = []
    for record in records:
        named = next((by_id[id] for id in record.ids if id in by_id), [])
        free = [call for call in named if (call.trace_id, call.span_id) not in taken]
        if len(named) > 1:
            joined.ambiguous.append((record.place, f"{len(named)} calls have its id"))
        elif free:
            taken.add((free[0].trace_id, free[0].span_id))
            joined.matches.append(Match(record, free[0], BY_ID))
        elif named:
            joined.ambiguous.append((record.place, "another record is of the same call"))
        else:
            rest.append(record)
    _by_time(rest, [call for call in calls if (call.trace_id, call.span_id) not in taken], within_s, joined)
    return joined


def _by_time(records: Sequence[Record], calls: Sequence[Call], within_s: float, joined: Joined) -> None:
    """Join what fits one call only, which in turn fits no other record."""
    ordered = sorted(calls, key=lambda call: call.start_ns)
    starts = [call.start_ns for call in ordered]
    slack = round(within_s * NS)
    fitting: list[list[Call]] = []
    claims: dict[tuple[str, str], int] = {}
    for record in records:
        fits: list[Call] = []
        if record.start_ns is not None:
            near = ordered[bisect_left(starts, record.start_ns - slack) : bisect_right(starts, record.start_ns + slack)]
            fits = [call for call in near if _fits(record, call, slack)]
        fitting.append(fits)
        for call in fits:
            claims[call.trace_id, call.span_id] = claims.get((call.trace_id, call.span_id), 0) + 1
    for record, fits in zip(records, fitting, strict=True):
        if not fits:
            joined.alone.append(record)
        elif len(fits) > 1:
            joined.ambiguous.append((record.place, f"{len(fits)} calls fit its time and size"))
        elif claims[fits[0].trace_id, fits[0].span_id] > 1:
            joined.ambiguous.append((record.place, "the call that fits it fits other records too"))
        else:
            joined.matches.append(Match(record, fits[0], BY_TIME))


def _fits(record: Record, call: Call, slack: int) -> bool:
    if any(_kind(id) == _kind(call.response_id) for id in record.ids):
        return False  # ids of one kind that differ: another call
    if not any(same_model(a, b) for a in record.models for b in call.models):
        return False
    if record.input_tokens is not None and call.input_tokens is not None and record.input_tokens != call.input_tokens:
        return False
    if call.lower is not None and record.output_tokens < call.lower:
        return False
    if call.upper is not None and record.output_tokens > call.upper:
        return False
    if record.end_ns is None:
        return True
    # Whoever went on after the client had left ended later than the call.
    return record.end_ns >= call.end_ns - slack and (call.is_cut or record.end_ns <= call.end_ns + slack)


def _kind(id: str) -> str:
    match = _KIND.match(id)
    return match[0] if match is not None else "" if id else "none"


def same_model(one: str, other: str) -> bool:
    """Whether two names are of one model: with or without who serves it in front, and the date behind."""
    return _plain(one) == _plain(other)


def _plain(model: str) -> str:
    return _DATED.sub("", model.rpartition("/")[2].partition(":")[0].lower())


@dataclass(frozen=True, slots=True)
class Check:
    """A bucket beside the recorded calls that began in it; output tokens within bounds, None: no upper one."""

    bucket: Bucket
    calls: int
    input_tokens: int
    """Of the calls whose input is known."""
    lower: int
    upper: int | None

    @property
    def unexplained(self) -> int:
        """Billed output tokens beyond what the recorded calls may have made; below 0: less than they did make."""
        if self.upper is not None and self.bucket.output_tokens > self.upper:
            return self.bucket.output_tokens - self.upper
        return min(0, self.bucket.output_tokens - self.lower)


def checks(buckets: Sequence[Bucket], calls: Sequence[Call], known: Mapping[tuple[str, str], int]) -> Iterator[Check]:
    """Every bucket that has calls or tokens. ``known``: output tokens by call (trace, span) that a record told."""
    for bucket in sorted(buckets, key=lambda each: (each.start_ns, each.source, each.model or "")):
        own = [
            call
            for call in calls
            if call.provider == bucket.source
            and bucket.start_ns <= call.start_ns < bucket.end_ns
            and (bucket.model is None or _answered(bucket.model, call.models))
        ]
        if not own and not bucket.input_tokens and not bucket.output_tokens:
            continue
        lower, upper = 0, 0
        endless = False
        for call in own:
            told = known.get((call.trace_id, call.span_id))
            lower += told if told is not None else call.lower or 0
            if told is None and call.upper is None:
                endless = True
            upper += told if told is not None else call.upper or 0
        inputs = sum(call.input_tokens or 0 for call in own)
        yield Check(bucket, len(own), inputs, lower, None if endless else upper)


def _answered(model: str, models: Sequence[str]) -> bool:
    """Whether a bucket's model is the one that answered. Two dated names are of one model only where they are equal."""
    if models and _DATED.search(model) and _DATED.search(models[0]):
        return model == models[0]
    return any(same_model(model, each) for each in models)
