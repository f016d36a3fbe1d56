"""An export of nothing, to see whether an endpoint takes it: with the exporter, protocol and headers of a real one."""

from __future__ import annotations

import logging
import re
import urllib.request
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPException
from typing import Any

from llmtrace.launch import signals
from llmtrace.launch.signals import Signal

_PATIENCE_S = 2.0
"""The exporters' own 10 s would be the wait at a program's end."""
_LONGEST_S = 86_400.0
"""The exporters reckon with the moment at which they give up, which has to be one that the system knows."""
_STATUS = re.compile(r"\bcode: (\d{3})\b|\bStatusCode\.([A-Z_]+)")
_MEANS = {
    "401": "it wants credentials: set OTEL_EXPORTER_OTLP_HEADERS",
    "403": "it refuses these credentials",
    "404": "nothing takes them at this path",
    "405": "nothing takes them at this path",
    "UNAUTHENTICATED": "it wants credentials: set OTEL_EXPORTER_OTLP_HEADERS",
    "PERMISSION_DENIED": "it refuses these credentials",
    "UNIMPLEMENTED": "nothing takes them there",
    "UNAVAILABLE": "it does not speak gRPC, or is not ready",
}


def refusal(export: Callable[[], Any]) -> str | None:
    """Why an export fails, in words; None where it succeeds. The exporter's own log lines are kept from the log."""
    with _overheard() as lines:
        try:
            outcome = export()
        except Exception as error:  # whatever an exporter raises
            lines.append(f"{type(error).__name__}: {error}")
            outcome = None
    if getattr(outcome, "name", "") == "SUCCESS":
        return None
    for line in lines:
        if status := _STATUS.search(line):
            code = status[1] or status[2]
            return f"{code}, {_MEANS[code]}" if code in _MEANS else code
    return "the export failed" + (f" ({' '.join(lines[-1].split())[:100]})" if lines else "")


def patience(environ: Mapping[str, str], signal: Signal = "TRACES") -> float:
    """How long one export may take, s: what the environment says, a day at most; else less than the exporters do."""
    for name in (signals.own(signal, "TIMEOUT"), signals.general("TIMEOUT")):
        with suppress(KeyError, ValueError):
            if (seconds := float(environ[name])) > 0:
                return min(seconds, _LONGEST_S)
    return _PATIENCE_S


def is_a_page(url: str, environ: Mapping[str, str], signal: Signal = "TRACES") -> str | None:
    """Why an address that takes an export keeps nothing: a page answers there. None where none does."""
    request = urllib.request.Request(url, data=b"", headers={"content-type": "application/x-protobuf"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=patience(environ, signal)) as response:
            is_page = response.headers.get_content_type() == "text/html"
    except (OSError, ValueError, HTTPException):
        return None  # the exporter's own word holds
    return "it answers with a page: this is not where exports are taken" if is_page else None


@contextmanager
def _overheard() -> Generator[list[str]]:
    """What OpenTelemetry logs meanwhile, instead of in the application's log."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("opentelemetry")
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield lines
    finally:
        logger.propagate = before
        logger.removeHandler(handler)
