"""Writes ui.json, Jaeger's configuration for llmtrace: ``python examples/jaeger/generate.py my-app``.

The name is the ``service.name`` that the saved searches ask for; without one it is the demo's. Jaeger cannot search all
services at once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from llmtrace.diagnosis.verdict import CAUSES, TOLD_CAUSES

HERE = Path(__file__).parent
TOP = (
    "llmtrace.diagnosis.cause",
    "llmtrace.call.outcome",
    "llmtrace.call.ttft",
    "llmtrace.diagnosis",
    "llmtrace.phase.source",
    "llmtrace.phase.uncertainty",
    "llmtrace.phase.tokens",
    "llmtrace.phase.time_per_token",
    "llmtrace.phase.merged_because",
    "llmtrace.link",
    "llmtrace.side",
)
"""Attributes that stand first in a span's details, and in the line above them."""
OTHERS: dict[str, dict[str, str]] = {
    "failed": {"tags": '{"error":"true"}'},
    "retried": {"operation": "llm.attempt", "tags": '{"http.response.status_code":"429"}'},
    "given up before the first token": {"tags": '{"llmtrace.cancellation.phase":"prefill"}'},
    "asked again after a failure": {"tags": '{"llmtrace.link.kind":"retry"}'},
    "asked elsewhere after a failure": {"tags": '{"llmtrace.link.kind":"fallback"}'},
    "not split: too few calls": {"tags": '{"llmtrace.phase.merged_because":"few_calls"}'},
    "long waits in the client's queue": {
        "operation": "llm.queue",
        "minDuration": "500ms",
        "tags": '{"llmtrace.side":"client"}',
    },
}


def search(service: str, **query: str) -> str:
    """The address of a search in the UI. Two days is what Jaeger looks back where it is not told from when to when."""
    return "/search?" + urlencode({"service": service, "lookback": "2d", "limit": "50", **query})


def item(label: str, url: str) -> dict[str, str]:
    return {"label": label, "url": url, "anchorTarget": "_self"}


def configuration(service: str) -> dict[str, Any]:
    """What the UI takes as its configuration."""
    causes = [
        item(cause, search(service, tags=json.dumps({"llmtrace.diagnosis.cause": cause}, separators=(",", ":"))))
        for cause in (*CAUSES, *TOLD_CAUSES)
    ]
    return {
        "criticalPathEnabled": True,
        "topTagPrefixes": list(TOP),
        "menu": [
            {"label": "Causes", "items": causes},
            {"label": "Calls", "items": [item(label, search(service, **query)) for label, query in OTHERS.items()]},
            {"label": "Jaeger", "items": [{"label": "Documentation", "url": "https://www.jaegertracing.io/docs/"}]},
        ],
        "linkPatterns": [
            {
                "type": "tags",
                "key": "llmtrace.link.trace_id",
                "url": "/trace/#{llmtrace.link.trace_id}",
                "text": "The call that failed before this one",
            }
        ],
    }


def text(service: str) -> str:
    return json.dumps(configuration(service), indent=1) + "\n"


if __name__ == "__main__":
    (HERE / "ui.json").write_text(text(sys.argv[1] if len(sys.argv) > 1 else "llmtrace-demo"), encoding="utf-8")
    print("ui.json")
