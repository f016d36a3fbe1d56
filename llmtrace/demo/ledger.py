"""Keeps, for each call, the server's own measurement and what the client infers without it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from opentelemetry.trace import format_span_id, format_trace_id

from llmtrace.calls.result import Result
from llmtrace.demo.scenarios import Scenario
from llmtrace.diagnosis.verdict import ROUTE_CHANGE
from llmtrace.phases.model import DECODE, KV_CACHE_HIT, NETWORK, PREFILL, QUEUE, QUEUE_PREFILL, UNATTRIBUTED, Phase
from llmtrace.phases.timeline import split
from llmtrace.view import text

_SWAP = "adapter_swap"  # the reference server's own phase; the client sees it as part of prefill
_SERVER = (QUEUE, KV_CACHE_HIT, PREFILL, DECODE)
_BLIND = (NETWORK, UNATTRIBUTED, QUEUE, PREFILL, QUEUE_PREFILL, DECODE)
_JUDGED = (QUEUE, PREFILL)


@dataclass(frozen=True, slots=True)
class Entry:
    """One call of the demo."""

    scenario: str
    title: str
    label: str
    """A short name for the table."""
    trace_id: str
    span_id: str
    outcome: str
    ttft: float | None
    prompt: int | None
    cached: int | None
    causes: list[str]
    """The diagnosis' causes, most certain first."""
    server: dict[str, float | None]
    client: dict[str, float | None]
    """The phases (s) that the client infers for the same call without the server's numbers."""
    interval: dict[str, tuple[float, float]]
    """How much shorter and how much longer (s) they may be, by the client's 90 % intervals."""

    def as_json(self) -> dict[str, Any]:
        """The entry for truth.json. Durations in seconds, null where they are not known."""
        return {
            "trace_id": self.trace_id,
            "span_id": self.span_id,
            "scenario": self.scenario,
            "outcome": self.outcome,
            "ttft": self.ttft,
            "prompt_tokens": self.prompt,
            "cached_tokens": self.cached,
            "causes": self.causes,
            "server": self.server,
            "client": self.client,
            "client_interval": {name: list(sides) for name, sides in self.interval.items()},
        }

    def judged(self) -> Iterator[Judged]:
        """Queue and prefill, where both sides have a number."""
        for phase in _JUDGED:
            truth, guess, sides = self.server.get(phase), self.client.get(phase), self.interval.get(phase)
            if phase == PREFILL and truth is not None:
                truth += self.server.get(_SWAP) or 0.0  # which a client can only take for prefill
            if truth is not None and guess is not None and sides is not None:
                yield Judged(self.label, phase, truth, guess, *sides)


@dataclass(frozen=True, slots=True)
class Judged:
    """One phase of one call, measured and inferred, in seconds."""

    label: str
    phase: str
    truth: float
    guess: float
    low: float
    """How much shorter the client says it may be."""
    high: float
    """How much longer."""

    @property
    def inside(self) -> bool:
        """Whether the client's interval holds the truth."""
        return self.guess - self.low <= self.truth <= self.guess + self.high


class Ledger:
    """Collects the calls that end while a scenario is played."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.scenario: Scenario | None = None
        self._lock = threading.Lock()

    def __call__(self, ended: Result) -> None:
        """Add one ended call."""
        if self.scenario is None:
            return
        scenario = self.scenario
        name, title = scenario.name, scenario.title
        server_timings = ended.seen.server
        blind = {phase.name: phase for phase in split(replace(ended.seen, server=None), ended.estimate)[0]}
        context = ended.state.span.get_span_context()
        usage, call = ended.answer.usage, ended.call
        with self._lock:
            number = sum(entry.scenario == name for entry in self.entries) + 1
            self.entries.append(
                Entry(
                    scenario=name,
                    title=title if number == 1 else f"{title} ({number})",
                    label=(scenario.short or title.lower()) + (f" {number}" if number > 1 else ""),
                    trace_id=format_trace_id(context.trace_id),
                    span_id=format_span_id(context.span_id),
                    outcome=call.outcome or "",
                    ttft=None if ended.seen.first_token is None else (ended.seen.first_token - call.start) / 1e9,
                    prompt=usage.input_tokens,
                    cached=usage.cached_tokens,
                    causes=[verdict.cause for verdict in ended.verdicts],
                    server={
                        phase: None if server_timings is None else getattr(server_timings, phase) for phase in _SERVER
                    },
                    client={name: blind[name].duration if name in blind else None for name in _BLIND},
                    interval={name: sides for name, phase in blind.items() if (sides := _sides(phase)) is not None},
                )
            )

    def take_truth(self, requests: list[dict[str, Any]]) -> bool:
        """Put the server's own records into the entries; returns whether there was one for each.

        The records include the calls that were cut short. ``requests``: those of the reference server's
        ``/debug/requests``, matched by trace id; of several attempts in one trace the last one answered.
        """
        phases_by_trace = {request.get("trace_id"): request.get("phases_s") or {} for request in requests}
        self.entries = [
            replace(
                entry,
                server={
                    **entry.server,
                    **{name: phases_by_trace[entry.trace_id].get(name) for name in (*_SERVER, _SWAP)},
                },
            )
            if entry.trace_id in phases_by_trace
            else entry
            for entry in self.entries
        ]
        return all(entry.trace_id in phases_by_trace for entry in self.entries)

    def of(self, scenario: str) -> list[Entry]:
        """The calls of one scenario, in the order in which they ended."""
        return [entry for entry in self.entries if entry.scenario == scenario]

    def table(self) -> text.Table:
        """A row for each phase that both sides have a number of: the truth, the client alone, whether it was right.

        Calls that the diagnosis puts down to a changed route are not in it: what was learned is of another server.
        """
        judged = [one for entry in self.entries if ROUTE_CHANGE not in entry.causes for one in entry.judged()]
        rows: list[list[str | None]] = [
            [
                one.label,
                one.phase,
                text.seconds(one.truth),
                text.seconds(one.guess),
                text.between(one.guess - one.low, one.guess + one.high),
                "yes" if one.inside else "no",
            ]
            for one in judged
        ]
        return text.Table(
            columns=("call", "phase", "server", "client", "90% within", "in?"),
            rows=rows,
            title="Measured by the server, inferred by the client alone",
            note=self._score(judged),
        )

    def _score(self, judged: list[Judged]) -> str:
        """How often the client alone was right, in a sentence or two."""
        inside = sum(one.inside for one in judged)
        changed = sum(ROUTE_CHANGE in entry.causes for entry in self.entries)
        merged = sum(
            entry.client.get(QUEUE_PREFILL) is not None and ROUTE_CHANGE not in entry.causes for entry in self.entries
        )
        words = (
            "Without the server's word the client was right, within its interval, for "
            f"{inside} of {len(judged)} phases."
        )
        if merged:
            words += f" For {text.plural(merged, 'call')} it did not tell queue from prefill, and said so."
        if changed:
            words += (
                f" {text.plural(changed, 'call')} after the route change are not judged: what it had learned was "
                "another server's, as the verdict says."
            )
        return words


def _sides(phase: Phase) -> tuple[float, float] | None:
    if phase.uncertainty is None:
        return None
    low = phase.uncertainty if phase.uncertainty_low is None else phase.uncertainty_low
    high = phase.uncertainty if phase.uncertainty_high is None else phase.uncertainty_high
    return min(low, phase.duration), high
