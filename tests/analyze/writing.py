"""Trace files of known content, written as a Collector writes them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MS = 1_000_000
EPOCH = 1_760_000_000_000_000_000


def value(item: Any) -> dict[str, Any]:
    if isinstance(item, bool):
        return {"boolValue": item}
    if isinstance(item, int):
        return {"intValue": str(item)}
    if isinstance(item, float):
        return {"doubleValue": item}
    if isinstance(item, (list, tuple)):
        return {"arrayValue": {"values": [value(member) for member in item]}}
    return {"stringValue": item}


def attributes(items: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value(item)} for key, item in items.items()]


@dataclass
class Writer:
    """Collects spans; ids are counted, times in ms from a fixed moment."""

    service: str = "app"
    about: dict[str, str] = field(default_factory=dict)
    """Further attributes of the resource."""
    spans: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0

    def span(
        self,
        name: str,
        start: float,
        end: float,
        marks: Mapping[str, Any] | None = None,
        *,
        trace: int = 1,
        parent: str = "",
        kind: int = 1,
    ) -> str:
        self.count += 1
        own = f"{self.count:016x}"
        self.spans.append(
            {
                "traceId": f"{trace:032x}",
                "spanId": own,
                "parentSpanId": parent,
                "name": name,
                "kind": kind,
                "startTimeUnixNano": str(EPOCH + round(start * MS)),
                "endTimeUnixNano": str(EPOCH + round(end * MS)),
                "attributes": attributes(marks or {}),
                "status": {},
            }
        )
        return own

    def call(
        self,
        start: float,
        phases: Sequence[tuple[str, float]],
        *,
        trace: int | None = None,
        parent: str = "",
        model: str = "gpt-4o-mini",
        answered: str = "gpt-4o-mini-2024-07-18",
        outcome: str = "completed",
        tokens: tuple[int, int, int] = (1000, 0, 101),
        source: str = "client",
        marks: Mapping[str, Any] | None = None,
        shown: int | None = None,
    ) -> str:
        """A call with phases (name, ms) one after the other; tokens are (input, cached, output), ``shown`` those of the
        output that came in its decode (None: all)."""
        trace = trace if trace is not None else self.count + 1000
        end = start + sum(length for _, length in phases)
        said = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": model,
            "gen_ai.response.model": answered,
            "server.address": "api.openai.com",
            "gen_ai.usage.input_tokens": tokens[0],
            "gen_ai.usage.cache_read.input_tokens": tokens[1],
            "gen_ai.usage.output_tokens": tokens[2],
            "llmtrace.schema_version": 1,
            "llmtrace.call.outcome": outcome,
            "llmtrace.route.fingerprint": f"model={answered};fingerprint=fp_1",
            **(marks or {}),
        }
        own = self.span(f"chat {model}", start, end, said, trace=trace, parent=parent, kind=3)
        at = start
        for name, length in phases:
            made = tokens[2] if shown is None else shown
            part = {"llmtrace.phase": name, "llmtrace.phase.source": source, "llmtrace.phase.tokens": made}
            self.span(f"llm.{name}", at, at + length, part, trace=trace, parent=own)
            at += length
        return own

    def documents(self) -> list[dict[str, Any]]:
        resource = {"attributes": attributes({"service.name": self.service, **self.about})}
        return [
            {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "x"}, "spans": [span]}]}]}
            for span in self.spans
        ]

    def document(self) -> dict[str, Any]:
        """All of it in one."""
        return {"resourceSpans": [entry for document in self.documents() for entry in document["resourceSpans"]]}

    def save(self, path: Path) -> Path:
        text = "".join(json.dumps(document) + "\n" for document in self.documents())
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(text.encode()))
        else:
            path.write_text(text)
        return path
