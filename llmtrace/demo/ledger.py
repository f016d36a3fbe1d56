"""Keeps, for each call, the server's own measurement and what the client would have said without it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

from opentelemetry.trace import format_span_id, format_trace_id

from llmtrace.instrument.ended import Ended
from llmtrace.phases.model import DECODE, NETWORK, PREFILL, QUEUE, QUEUE_PREFILL, Phase
from llmtrace.phases.timeline import split
from llmtrace.view import text

_SERVER = ("queue", "kv_cache_hit", "prefill", "decode")
_BLIND = (NETWORK, QUEUE, PREFILL, QUEUE_PREFILL, DECODE)


@dataclass(frozen=True, slots=True)
class Entry:
    """One call of the demo."""

    scenario: str
    title: str
    trace_id: str
    span_id: str
    outcome: str
    ttft: float | None
    prompt: int | None
    cached: int | None
    server: dict[str, float | None]
    client: dict[str, float | None]
    """Blind: what the client says of the same call when it may not look at the server's numbers."""

    def as_json(self) -> dict[str, Any]:
        """For truth.json. Durations in seconds, null where nobody knows."""
        return {
            "trace_id": self.trace_id,
            "span_id": self.span_id,
            "scenario": self.scenario,
            "outcome": self.outcome,
            "ttft": self.ttft,
            "prompt_tokens": self.prompt,
            "cached_tokens": self.cached,
            "server": self.server,
            "client": self.client,
        }


class Ledger:
    """Listens to ended calls while a scenario is on."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.scenario: tuple[str, str] | None = None
        self._lock = threading.Lock()

    def __call__(self, ended: Ended) -> None:
        """Take in one ended call."""
        if self.scenario is None:
            return
        name, title = self.scenario
        said = ended.seen.server
        blind = _by_name(split(replace(ended.seen, server=None), ended.estimate)[0])
        context = ended.payload.span.get_span_context()
        usage, call = ended.answer.usage, ended.call
        with self._lock:
            number = sum(entry.scenario == name for entry in self.entries) + 1
            self.entries.append(
                Entry(
                    scenario=name,
                    title=title if number == 1 else f"{title} ({number})",
                    trace_id=format_trace_id(context.trace_id),
                    span_id=format_span_id(context.span_id),
                    outcome=call.outcome or "",
                    ttft=None if ended.seen.first_token is None else (ended.seen.first_token - call.start) / 1e9,
                    prompt=usage.input_tokens,
                    cached=usage.cached_tokens,
                    server={phase: None if said is None else getattr(said, phase) for phase in _SERVER},
                    client={phase: blind.get(phase) for phase in _BLIND},
                )
            )

    def table(self) -> text.Table:
        """Measured by the server against inferred by the client, a row per call."""
        rows: list[list[str | None]] = []
        for entry in self.entries:
            tokens = None if entry.prompt is None else text.count(entry.prompt)
            if tokens is not None and entry.cached:
                tokens = f"{tokens} ({text.count(entry.cached)} cached)"
            rows.append(
                [
                    entry.title,
                    tokens,
                    *(_shown(entry.server[phase]) for phase in _SERVER),
                    *(_shown(entry.client[phase]) for phase in _BLIND),
                ]
            )
        return text.Table(
            columns=(
                "scenario",
                "prompt tokens",
                "queue",
                "cache",
                "prefill",
                "decode",
                "network",
                "queue",
                "prefill",
                "queue+prefill",
                "decode",
            ),
            rows=rows,
            title="Measured by the server, inferred by the client alone",
            note="A dash: nobody can say. The client alone splits queue from prefill only once it knows the route.",
            groups=(("", 1), ("server measured", 4), ("client alone", 5)),
        )


def _by_name(phases: list[Phase]) -> dict[str, float]:
    return {phase.name: phase.duration for phase in phases}


def _shown(value: float | None) -> str | None:
    return None if value is None else text.seconds(value)
