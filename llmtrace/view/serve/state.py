"""The state of a running viewer: its store, its writer, the files that it reads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmtrace.analyze import plausible
from llmtrace.version import VERSION
from llmtrace.view.serve.notes import Notes
from llmtrace.view.serve.store import Store
from llmtrace.view.serve.traces import Traces
from llmtrace.view.serve.writer import Writer


@dataclass(slots=True)
class Source:
    """A file that was opened."""

    path: str
    spans: int = 0
    bad_lines: int = 0
    odd: int = 0
    """Values in it that cannot be, and count as not known."""
    problem: str = ""
    """The first fault in the file."""


@dataclass(slots=True)
class Loading:
    """The progress of reading files, in bytes."""

    path: str
    done_bytes: int
    total_bytes: int


@dataclass(slots=True)
class State:
    """The state that the answers are made from."""

    store: Store
    writer: Writer
    jaeger_url: str | None = None
    notes: Notes = field(default_factory=Notes)
    sources: list[Source] = field(default_factory=list[Source])
    loading: Loading | None = None
    warnings: list[str] = field(default_factory=list[str])
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    traces: Traces = field(init=False)

    def __post_init__(self) -> None:
        self.traces = Traces(self.store)

    def status(self) -> dict[str, Any]:
        """The answer of ``/api/status``."""
        counts, loading = self.store.counts, self.loading
        return {
            "version": VERSION,
            "spans": counts.spans,
            "traces": counts.traces,
            "calls": counts.calls,
            "bytes": self.store.bytes(),
            "max_bytes": self.store.max_bytes,
            "dropped_spans": self.store.dropped,
            "rejected": dict(self.writer.rejected),
            "since_us": counts.since_us,
            "until_us": counts.until_us,
            "jaeger_url": self.jaeger_url,
            "live": True,
            "sources": [
                {"path": source.path, "spans": source.spans, "bad_lines": source.bad_lines} for source in self.sources
            ],
            "loading": None
            if loading is None
            else {"path": loading.path, "done_bytes": loading.done_bytes, "total_bytes": loading.total_bytes},
            "warnings": [*self.warnings, *self._warnings()],
            "notes": self.notes.sentences,
        }

    def live(self) -> dict[str, Any]:
        """An event of the live tail."""
        counts = self.store.counts
        return {"spans": counts.spans, "calls": counts.calls, "newest_us": counts.until_us}

    def _warnings(self) -> Sequence[str]:
        warnings: list[str] = []
        if self.writer.catching_up:
            warnings.append("spans that came before the last, sudden end are still being read: they will be here soon")
        if self.writer.trouble:
            warnings.append(f"nothing can be stored just now: {self.writer.trouble}")
        warnings += [
            f"{Path(source.path).name}: {source.bad_lines} broken parts were skipped, the first: {source.problem}"
            for source in self.sources
            if source.bad_lines
        ]
        warnings += [f"{Path(source.path).name}: {plausible.note(source.odd)}" for source in self.sources if source.odd]
        return warnings
