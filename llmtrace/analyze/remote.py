"""Traces out of Jaeger's and Tempo's HTTP query interfaces, into a file of lines that is then read like any other."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmtrace.errors import LlmtraceError

TIMEOUT_S = 30.0
QUERY = '{ name =~ "chat.*|llm.*|text_completion.*|embeddings.*|task.*" }'
"""The query for Tempo where the user gives none."""


def fetch(
    base: str, folder: Path, *, service: str | None = None, query: str | None = None, hours: float = 1.0,
    limit: int = 1000,
) -> Path:  # fmt: skip
    """Fetch the traces of the last ``hours`` from Jaeger (if ``/api/services`` answers) or Tempo; returns their file.

    Raises:
        LlmtraceError: nobody answers, what answers is neither, or it has no such service.
    """
    base = base.rstrip("/")
    end = time.time()
    start = end - hours * 3600
    services = _ask(f"{base}/api/services", optional=True)
    service_names = services.get("data")
    if isinstance(service_names, list):
        answers = _jaeger(base, [str(name) for name in service_names], service, start, end, limit)
    else:
        answers = _tempo(base, query or _tempo_query(service), start, end, limit)
    target = folder / f"{abs(hash(base))}.jsonl"
    with target.open("w", encoding="utf-8") as file:
        for answer in answers:
            file.write(json.dumps(answer) + "\n")
    return target


def _jaeger(
    base: str, service_names: list[str], service: str | None, start: float, end: float, limit: int
) -> Iterator[dict[str, Any]]:
    if service is not None and service not in service_names:
        raise LlmtraceError(f"{base} has no service {service!r}; it knows {', '.join(service_names) or 'none'}")
    for name in [service] if service is not None else service_names:
        window = {"service": name, "start": int(start * 1e6), "end": int(end * 1e6), "limit": limit}
        yield _ask(f"{base}/api/traces?{urllib.parse.urlencode(window)}")


def _tempo_query(service: str | None) -> str:
    return QUERY if service is None else f"{{ resource.service.name = {json.dumps(service)} }}"


def _tempo(base: str, query: str, start: float, end: float, limit: int) -> Iterator[dict[str, Any]]:
    window = {"q": query, "start": int(start), "end": int(end) + 1, "limit": limit}
    search_result = _ask(f"{base}/api/search?{urllib.parse.urlencode(window)}")
    traces = search_result.get("traces")
    if traces is None and "metrics" not in search_result:
        raise LlmtraceError(f"{base} answers like neither Jaeger nor Tempo")
    for trace in traces or ():
        yield _ask(f"{base}/api/traces/{trace['traceID']}")


def _ask(url: str, optional: bool = False) -> dict[str, Any]:
    request = urllib.request.Request(url, headers={"Accept": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        if optional:
            return {}
        raise LlmtraceError(f"{url.partition('?')[0]} answers {error.code} {error.reason}") from error
    except ValueError as error:
        if optional:
            return {}
        raise LlmtraceError(f"{url.partition('?')[0]} answers no JSON: is this Jaeger or Tempo?") from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise LlmtraceError(f"cannot reach {url.partition('/api/')[0]}: {reason}") from error
    return answer if isinstance(answer, dict) else {}
