"""`llmtrace probe --watch`: three fixed prompts now and then, and whether what they show has changed."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmtrace.emit import names
from llmtrace.errors import LlmtraceError
from llmtrace.observe.address import host_of
from llmtrace.probe.answers import Answer, TooLong
from llmtrace.probe.clients import shown
from llmtrace.probe.maths import drift
from llmtrace.probe.maths.drift import Change, Level, Words
from llmtrace.probe.prompts import Prompt, Prompts
from llmtrace.probe.session import Session
from llmtrace.probe.tracing import Tracing
from llmtrace.whole_file import write_text

SHORT, LONG, ANSWER = 40, 1000, 32
"""Tokens of the short prompt, of the long one, and of the answer that is compared."""
CALLS = 3
WIRE, FIXED, PREFILL, DECODE, ENGINE = "wire", "fixed", "prefill", "decode", "engine"
ANSWERS, FIRST_TOKEN, REGION = "answers", "first_token", "region"
LATENCIES = (WIRE, FIXED, PREFILL, DECODE, ENGINE)
"""What is timed: the wire's round trip, a short call, a prompt token, an answer's token, the last two together."""
KINDS = (*LATENCIES, ANSWERS, FIRST_TOKEN, REGION)
_LEAST_LONG = 200
"""Characters below which the long prompt is not cut."""
_ATTRIBUTES: Mapping[str, str] = {
    WIRE: names.PROBE_WIRE,
    FIXED: names.PROBE_FIXED,
    PREFILL: names.PROBE_PREFILL,
    DECODE: names.PROBE_DECODE,
}
_LEAST_S: Mapping[str, float] = {WIRE: 2e-3, FIXED: 1e-3, PREFILL: 1e-7, DECODE: 1e-5}
"""What is shorter counts as this long: it may double without anybody's noticing."""
_REGIONS = ("cf-ray", "x-amz-cf-pop", "x-served-by", "x-ms-region", "x-region")
"""Headers that tell where an answer came from; of ``cf-ray`` what stands behind the last hyphen."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One round of one base URL. Times in s, None where they could not be had."""

    parts: Mapping[str, float | None]
    answer: str
    logprob: float | None
    region: str


@dataclass(slots=True)
class Watched:
    """What is known of one base URL and model."""

    session: Session
    tracing: Tracing
    levels: dict[str, Level] = field(default_factory=lambda: {kind: drift.latency() for kind in LATENCIES})
    first_token: Level = field(default_factory=drift.logprob)
    answers: Words = field(default_factory=Words)
    regions: Words = field(default_factory=Words)
    floors: dict[str, float] = field(default_factory=dict[str, float])
    """The least round trip by region, s."""
    rounds: int = 0
    long: int = 1 << 20
    """Characters of the long prompt that fit the model's context."""

    @property
    def key(self) -> str:
        """Its name in the file of what was learned."""
        return f"{shown(self.session.client.base_url)} {self.session.client.model}"

    def round(self) -> tuple[Measured, dict[str, Change]]:
        """Ask the three prompts and take them in; the changes by their kind.

        Raises:
            Refusal: the provider does not answer; the round counts for nothing.
            Exhausted: the budget does not pay for it.
        """
        with self.tracing.step("watch", learns=False) as span:
            measured = self._measure()
            changes = self._take(measured)
            for kind, seconds in measured.parts.items():
                if seconds is not None:
                    span.set_attribute(_ATTRIBUTES[kind], seconds)
            span.set_attribute(names.PROBE_REGION, measured.region)
            if changes:
                span.set_attribute(names.PROBE_CHANGE, list(changes))
        return measured, changes

    def _measure(self) -> Measured:
        self.tracing.round_trips.clear()
        ask = self.session.ask
        short = ask(_SHORT)
        # Its beginning is new each time: a prompt that comes from the cache would not show what prefill takes.
        long_prompt, long = self._ask_long()
        answer = ask(_ANSWER, ANSWER)
        trips = self.tracing.round_trips
        tokens = max(1, self._tokens(long_prompt, long) - self._tokens(_SHORT, short))
        prefill = max(0.0, long.ttft - short.ttft) / tokens
        parts = {
            WIRE: min(trips) if trips else None,
            FIXED: short.ttft,
            PREFILL: prefill or None,
            DECODE: answer.seconds_per_token,
        }
        region = _region(short.headers) or host_of(self.session.client.base_url) or ""
        return Measured(parts, answer.text, answer.logprob, region)

    def _ask_long(self) -> tuple[Prompt, Answer]:
        """The long prompt, or as much of it as the model's context has room for."""
        while True:
            prompt = Prompt(f"{secrets.token_hex(4)} {_LONG.text[: self.long]}")
            try:
                return prompt, self.session.ask(prompt)
            except TooLong:
                if self.long < _LEAST_LONG:
                    raise
                self.long = min(self.long, len(_LONG.text)) // 2

    def _tokens(self, prompt: Prompt, answer: Answer) -> int:
        return self.session.input_tokens(prompt, answer) - (answer.cached_tokens or 0)

    def _take(self, measured: Measured) -> dict[str, Change]:
        self.rounds += 1
        logs = {
            kind: math.log(max(seconds, _LEAST_S[kind]))
            for kind, seconds in measured.parts.items()
            if seconds is not None
        }
        if PREFILL in logs and DECODE in logs:
            logs[ENGINE] = (logs[PREFILL] + logs[DECODE]) / 2
        changes = {kind: self.levels[kind].add(value) for kind, value in logs.items()}
        if measured.logprob is not None:
            changes[FIRST_TOKEN] = self.first_token.add(measured.logprob)
        changes[ANSWERS] = self.answers.add(measured.answer)
        changes[REGION] = self.regions.add(measured.region)
        wire = measured.parts[WIRE]
        if wire is not None:
            self.floors[measured.region] = min(wire, self.floors.get(measured.region, math.inf))
        return {kind: change for kind, change in changes.items() if change is not None}

    def to_json(self) -> dict[str, Any]:
        """What a later run needs."""
        return {
            "levels": {kind: level.to_json() for kind, level in self.levels.items()},
            "first_token": self.first_token.to_json(),
            "answers": self.answers.to_json(),
            "regions": self.regions.to_json(),
            "floors": self.floors,
        }

    def adopt(self, saved: Mapping[str, Any]) -> None:
        """Go on from what an earlier run has saved."""
        for kind, level in self.levels.items():
            level.adopt((saved.get("levels") or {}).get(kind))
        self.first_token.adopt(saved.get("first_token"))
        self.answers.adopt(saved.get("answers"))
        self.regions.adopt(saved.get("regions"))
        self.floors.update({str(key): float(value) for key, value in (saved.get("floors") or {}).items()})


_FIXED_PROMPTS = Prompts(seed=20)
_SHORT, _LONG, _ANSWER = (_FIXED_PROMPTS.unique(size) for size in (SHORT, LONG, SHORT))


def _region(headers: Mapping[str, str]) -> str:
    for name in _REGIONS:
        if value := headers.get(name, ""):
            return value.rpartition("-")[2] if name == "cf-ray" else value[:60]
    return ""


class Meters:
    """The metrics of the watch."""

    def __init__(self, provider: Any) -> None:
        """``provider``: a MeterProvider; None records nothing."""
        self._on = provider is not None
        if provider is None:
            return
        meter = provider.get_meter("llmtrace")
        self._floor = meter.create_gauge(names.PROBE_FLOOR, unit="s", description="Least round trip by region")
        self._latency = meter.create_gauge(names.PROBE_LATENCY, unit="s", description="The last round's times")
        self._changes = meter.create_counter(names.PROBE_CHANGES, unit="{change}", description="Changes seen")

    def begin(self, watched: Watched) -> None:
        """Let each counter begin at 0: what begins at 1 is no increase to Prometheus."""
        for kind in KINDS if self._on else ():
            self._changes.add(0, {**_common(watched), names.PROBE_CHANGE: kind})

    def record(self, watched: Watched, measured: Measured, changes: Mapping[str, Change]) -> None:
        """One round."""
        if not self._on:
            return
        common = _common(watched)
        for kind, seconds in measured.parts.items():
            if seconds is not None:
                self._latency.set(seconds, {**common, names.PROBE_PART: kind})
        for region, seconds in watched.floors.items():
            self._floor.set(seconds, {**common, names.PROBE_REGION: region})
        for kind in changes:
            self._changes.add(1, {**common, names.PROBE_CHANGE: kind})


def _common(watched: Watched) -> dict[str, str]:
    client = watched.session.client
    return {
        names.PROVIDER: client.provider,
        names.REQUEST_MODEL: client.model,
        names.SERVER_ADDRESS: host_of(client.base_url) or "",
    }


def load(path: Path, watched: list[Watched]) -> None:
    """Go on from the file; a missing one is no mistake.

    Raises:
        LlmtraceError: it is not a file of this kind.
    """
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        for one in watched:
            one.adopt(saved["watched"].get(one.key, {}))
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError):
        raise LlmtraceError(f"{path} was not written by llmtrace probe --watch: name another file") from None


def save(path: Path, watched: list[Watched]) -> None:
    """Write what was learned; of several processes that keep one file, the last one's counts."""
    whole = {"version": 1, "watched": {one.key: one.to_json() for one in watched}}
    write_text(path, json.dumps(whole))


def told(kind: str, change: Change) -> str:
    """A change in words."""
    within = f"over {change.rounds} round{'s' * (change.rounds != 1)}"
    if kind == ANSWERS:
        return f"answers are not the ones from before, {within}: another model may answer"
    if kind == FIRST_TOKEN:
        return f"the first token's log probability went from {change.before:.2f} to {change.after:.2f}, {within}"
    if kind == REGION:
        return f"answers come from {change.after or 'elsewhere'}, no more from {change.before}, {within}"
    factor = drift.times(change)
    return f"{kind} takes {factor:.2f} times as long as before, {within}"
