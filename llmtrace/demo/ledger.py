"""Keeps, for each call, the server's own measurement and what the client infers without it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

from opentelemetry.trace import format_span_id, format_trace_id

from llmtrace.calls.result import Result
from llmtrace.phases.model import DECODE, KV_CACHE_HIT, NETWORK, PREFILL, QUEUE, QUEUE_PREFILL, UNATTRIBUTED, Phase
from llmtrace.phases.timeline import split
from llmtrace.view import text

_SWAP = "adapter_swap"  # the reference server's own phase; the client sees it as part of prefill
_SERVER = (QUEUE, KV_CACHE_HIT, PREFILL, DECODE)
_BLIND = (NETWORK, UNATTRIBUTED, QUEUE, PREFILL, QUEUE_PREFILL, DECODE)


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
    server: dict[str, float | None]
    client: dict[str, float | None]
    """The phases (s) that the client infers for the same call without the server's numbers."""

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
            "server": self.server,
            "client": self.client,
        }


class Ledger:
    """Collects the calls that end while a scenario is played."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.scenario: tuple[str, str] | None = None
        self._lock = threading.Lock()

    def __call__(self, ended: Result) -> None:
        """Add one ended call."""
        if self.scenario is None:
            return
        name, title = self.scenario
        server_timings = ended.seen.server
        blind = _by_name(split(replace(ended.seen, server=None), ended.estimate)[0])
        context = ended.state.span.get_span_context()
        usage, call = ended.answer.usage, ended.call
        with self._lock:
            number = sum(entry.scenario == name for entry in self.entries) + 1
            self.entries.append(
                Entry(
                    scenario=name,
                    title=title if number == 1 else f"{title} ({number})",
                    label=name.replace("_", " ") + (f" {number}" if number > 1 else ""),
                    trace_id=format_trace_id(context.trace_id),
                    span_id=format_span_id(context.span_id),
                    outcome=call.outcome or "",
                    ttft=None if ended.seen.first_token is None else (ended.seen.first_token - call.start) / 1e9,
                    prompt=usage.input_tokens,
                    cached=usage.cached_tokens,
                    server={
                        phase: None if server_timings is None else getattr(server_timings, phase) for phase in _SERVER
                    },
                    client={phase: blind.get(phase) for phase in _BLIND},
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

    def table(self) -> text.Table:
        """A table with a row for each call: measured by the server beside inferred by the client."""
        rows: list[list[str | None]] = []
        for entry in self.entries:
            server, client = entry.server, entry.client
            together = client[QUEUE_PREFILL]
            rows.append(
                [
                    entry.label,
                    _shown(server[QUEUE]),
                    _shown(client[QUEUE]),
                    _shown(server.get(_SWAP)),
                    _shown(server[KV_CACHE_HIT]),
                    _shown(server[PREFILL]),
                    _shown(client[PREFILL]) if together is None else f"{_shown(together)}*",
                    _shown(server[DECODE]),
                    _shown(client[DECODE]),
                ]
            )
        return text.Table(
            columns=("call", "server", "client", "server", "server", "server", "client", "server", "client"),
            rows=rows,
            title="Measured by the server, inferred by the client alone",
            note="* queue and prefill together: without token counts, or before it knows the route, the client cannot "
            "split them. A slow reader's decode is longer on the client's clock; its consumer_wait says so.",
            groups=(("queue", 2), ("swap", 1), ("cache hit", 1), ("prefill", 2), ("decode", 2)),
        )


def _by_name(phases: list[Phase]) -> dict[str, float]:
    return {phase.name: phase.duration for phase in phases}


def _shown(value: float | None) -> str | None:
    return None if value is None else text.seconds(value)
