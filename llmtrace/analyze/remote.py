"""Traces by the query interfaces of Jaeger, Tempo and ``llmtrace view``, into a file that is read like any other."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

from llmtrace.errors import LlmtraceError
from llmtrace.observe.address import apart

TIMEOUT_S: Final = 30.0
QUERY: Final = '{ name =~ "chat.*|llm.*|text_completion.*|embeddings.*|task.*" }'
"""The query for Tempo where the user gives none."""
_AT_ONCE: Final = 500
"""Traces asked for in one request: Jaeger and Tempo both refuse some larger number."""
_SHORTEST_S: Final = 0.001
_MEANS: Final[Mapping[int, str]] = {
    401: "it wants credentials: put them into the address, http://USER:PASSWORD@HOST",
    403: "it refuses these credentials, or this tenant",
    404: "it has no such address: is this the query interface (Jaeger: port 16686, Tempo: 3200)?",
    429: "it is asked too much: try again, or ask for fewer hours",
    500: "it failed at this question: try fewer hours or a smaller --limit",
    502: "a proxy before it cannot reach it",
    503: "it is not ready",
    504: "it took too long: try fewer hours or a smaller --limit",
}
_NOT_THERE: Final = (404, 405, 501)

Window = tuple[float, float]
"""A stretch of time, epoch s."""


class _AnswerError(LlmtraceError):
    """An answer that is none, with its HTTP status (0: there was none, or it was no JSON)."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def fetch(
    base: str, folder: Path, *, service: str | None = None, query: str | None = None, hours: float = 1.0,
    limit: int = 1000, notes: list[str] | None = None,
) -> Path:  # fmt: skip
    """Fetch the traces of the last ``hours``, the newest first; returns their file.

    ``limit``: traces in all (Jaeger: of each service). Where there are more, a sentence of ``notes`` says so.

    Raises:
        LlmtraceError: nobody answers, what answers is none of them, or it has no such service.
    """
    server = _Server(base)
    end = time.time()
    window = (end - hours * 3600, end)
    target = folder / f"{abs(hash(base))}.jsonl"
    with target.open("w", encoding="utf-8") as file:
        for answer in _answers(server, service, query, window, limit, [] if notes is None else notes):
            file.write(json.dumps(answer) + "\n")
    return target


def _answers(
    server: _Server, service: str | None, query: str | None, window: Window, limit: int, notes: list[str]
) -> Iterator[dict[str, Any]]:
    """What the server has, by whichever interface it answers to."""
    status = server.ask_if_there("/api/status")
    if status is not None and "spans" in status and "traces" in status:
        yield from _viewer(server, service, window, limit, notes)
        return
    for path, key, read in (("/api/v3/services", "services", _jaeger_v3), ("/api/services", "data", _jaeger)):
        names = (server.ask_if_there(path) or {}).get(key)
        if isinstance(names, list):
            for name in _services(server, [str(name) for name in names], service):
                ask = read(server, name)
                yield from _by_windows(ask, window, limit, f"{server.shown}, service {name}", notes)
            return
    yield from _tempo(server, query or _tempo_query(service), window, limit, notes)


def _services(server: _Server, known: list[str], wanted: str | None) -> list[str]:
    if wanted is None:
        return known
    if wanted not in known:
        raise LlmtraceError(f"{server.shown} has no service {wanted!r}; it knows {', '.join(known) or 'none'}")
    return [wanted]


@dataclass(frozen=True, slots=True)
class _Page:
    """An answer to one question, and how many traces it holds."""

    answers: list[dict[str, Any]]
    traces: set[str]


Ask = Callable[[Window, int], _Page]


def _by_windows(ask: Ask, window: Window, limit: int, whose: str, notes: list[str]) -> Iterator[dict[str, Any]]:
    """Ask for the window; where there is more in it than one answer holds, for its newer half and then its older one.

    None of the interfaces has pages. A trace that lies in both halves comes twice, and is read once.
    """
    seen: set[str] = set()
    windows, cut = [window], False
    while windows and len(seen) < limit:
        first, last = windows.pop()
        most = min(_AT_ONCE, limit)
        page = ask((first, last), most)
        is_full = len(page.traces) >= most
        if is_full and last - first > _SHORTEST_S and most < limit:
            middle = (first + last) / 2
            windows += [(first, middle), (middle, last)]
            continue
        cut = cut or is_full
        yield from page.answers
        seen |= page.traces
    if cut or windows:
        notes.append(f"{whose}: {len(seen):,} traces were read, and there are more: --limit reads more of them")


# Jaeger: since 2.9 by /api/v3, before that by the interface of its page


def _jaeger_v3(server: _Server, service: str) -> Ask:
    def ask(window: Window, most: int) -> _Page:
        first, last = (datetime.fromtimestamp(at, timezone.utc).isoformat() for at in window)
        names = ("service_name", "start_time_min", "start_time_max", "search_depth")
        values = (service, first, last, most)
        path = f"/api/v3/traces?{_query({f'query.{name}': value for name, value in zip(names, values, strict=True)})}"
        try:
            documents = server.ask_several(path)
        except _AnswerError as error:
            if error.status == 404:  # no trace fits
                return _Page([], set())
            raise
        results = [result for one in documents if isinstance(result := one.get("result", one), dict)]
        spans = [
            span
            for result in results
            for resource in result.get("resourceSpans") or ()
            for scope in resource.get("scopeSpans") or ()
            for span in scope.get("spans") or ()
        ]
        return _Page(results, {str(span.get("traceId")) for span in spans})

    return ask


def _jaeger(server: _Server, service: str) -> Ask:
    def ask(window: Window, most: int) -> _Page:
        first, last = (int(at * 1e6) for at in window)
        answer = server.ask(f"/api/traces?{_query({'service': service, 'start': first, 'end': last, 'limit': most})}")
        return _Page([answer], {str(trace.get("traceID")) for trace in answer.get("data") or ()})

    return ask


# Tempo


def _tempo_query(service: str | None) -> str:
    return QUERY if service is None else f"{{ resource.service.name = {json.dumps(service)} }}"


def _tempo(server: _Server, query: str, window: Window, limit: int, notes: list[str]) -> Iterator[dict[str, Any]]:
    def ask(window: Window, most: int) -> _Page:
        first, last = int(window[0]), int(window[1]) + 1
        answer = server.ask(f"/api/search?{_query({'q': query, 'start': first, 'end': last, 'limit': most})}")
        traces = answer.get("traces")
        if traces is None and "metrics" not in answer:
            raise LlmtraceError(f"{server.shown} answers like none of Jaeger, Tempo and llmtrace view")
        return _Page(list(traces or ()), {str(trace["traceID"]) for trace in traces or ()})

    fetched: set[str] = set()
    for trace in _by_windows(ask, window, limit, server.shown, notes):
        if trace["traceID"] not in fetched:
            fetched.add(trace["traceID"])
            yield server.ask(f"/api/traces/{urllib.parse.quote(str(trace['traceID']))}")


# llmtrace view


def _viewer(
    server: _Server, service: str | None, window: Window, limit: int, notes: list[str]
) -> Iterator[dict[str, Any]]:
    asked: dict[str, Any] = {"since_us": int(window[0] * 1e6), "until_us": int(window[1] * 1e6), "limit": limit}
    more = False
    for document in server.ask_several(f"/api/otlp?{_query(asked | ({'service': service} if service else {}))}"):
        if document.get("more"):
            more = True
        else:
            yield document
    if more:
        notes.append(f"{server.shown}: {limit:,} traces were read, and there are more: --limit reads more of them")


# Asking


def _query(values: Mapping[str, Any]) -> str:
    return urllib.parse.urlencode(values)


class _Server:
    """A query interface: its address, and the credentials in it, which no message repeats."""

    def __init__(self, base: str) -> None:
        self.shown, self._authorization = apart(base.rstrip("/"))

    def ask(self, path: str) -> dict[str, Any]:
        """The JSON object at ``path``. Raises LlmtraceError."""
        return next(iter(self.ask_several(path)), {})

    def ask_if_there(self, path: str) -> dict[str, Any] | None:
        """The same; None where the server has no such path, or answers no JSON there, as a page's server does."""
        try:
            return self.ask(path)
        except _AnswerError as error:
            if error.status in (0, *_NOT_THERE):
                return None
            raise

    def ask_several(self, path: str) -> list[dict[str, Any]]:
        """The JSON objects at ``path``, one after the other: long answers come in several. Raises LlmtraceError."""
        url = f"{self.shown}{path}"
        request = urllib.request.Request(url, headers={"Accept": "application/json"})
        if self._authorization:  # which nobody gets to whom the answer sends one on
            request.add_unredirected_header("Authorization", self._authorization)
        where = url.partition("?")[0]
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                text = response.read().decode("utf-8", errors="replace")
        except urllib.error.HTTPError as error:
            error.close()
            means = _MEANS.get(error.code, error.reason)
            raise _AnswerError(f"{where} answers {error.code}: {means}", error.code) from error
        except (OSError, HTTPException) as error:
            raise LlmtraceError(f"cannot reach {self.shown}: {getattr(error, 'reason', error)}") from error
        try:
            return [document for document in _documents(text) if isinstance(document, dict)]
        except ValueError as error:
            raise _AnswerError(f"{where} answers no JSON: is this Jaeger, Tempo or llmtrace view?") from error


def _documents(text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    at = 0
    while (at := _next(text, at)) < len(text):
        document, at = decoder.raw_decode(text, at)
        yield document


def _next(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at
