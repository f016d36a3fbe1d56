"""Reads OTLP/JSON, whoever wrote it: lines, one object or several, gzipped or not, ids in hex or base64."""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from llmtrace.analyze.contract import TELLING
from llmtrace.errors import LlmtraceError

KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
STATUSES = ("unset", "ok", "error")
_OTHER_SIGNALS = {"resourceLogs", "resourceMetrics", "resourceProfiles", "resource_logs", "resource_metrics"}
_HEX = re.compile(r"[0-9a-fA-F]+")
_LONGEST_TIME_NS = 2**63 - 1


class TraceFileError(LlmtraceError):
    """A trace file that cannot be read: which file, which line (from 1; None for the whole file) and why."""

    def __init__(self, path: str | os.PathLike[str], reason: str, line: int | None = None) -> None:
        self.path = Path(path)
        self.line = line
        self.reason = reason
        super().__init__(f"{self.path}{'' if line is None else f':{line}'}: {reason}")


@dataclass(frozen=True, slots=True)
class Problem:
    """A part of a file that was skipped; everything around it was read."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Status:
    """A span's status: ``unset``, ``ok`` or ``error``."""

    code: str = "unset"
    message: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened within a span."""

    name: str
    time_ns: int
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Link:
    """A span of this or another trace that a span points to. Ids are lower-case hex."""

    trace_id: str
    span_id: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Scope:
    """The instrumentation that made a span."""

    name: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """One span as the file has it. Ids are lower-case hex; ``parent_id`` is None for a root."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    status: Status = Status()
    events: tuple[Event, ...] = ()
    resource: Mapping[str, Any] = field(default_factory=dict[str, Any])
    scope: Scope = Scope()
    links: tuple[Link, ...] = ()
    odd: int = field(default=0, compare=False)
    """Values that it had and that cannot be: they are left out."""

    @property
    def everything(self) -> Mapping[str, Any]:
        """The attributes, and those of events that count as the span's own (``contract.TELLING``)."""
        by_events: dict[str, Any] = {}
        for event in self.events:
            beginning = TELLING.get(event.name)
            if beginning is not None:
                by_events |= {name: item for name, item in event.attributes.items() if name.startswith(beginning)}
        return {**by_events, **self.attributes} if by_events else self.attributes

    @property
    def duration(self) -> float:
        """Seconds; 0 where the end is missing or lies before the start."""
        return max(0, self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class TraceFile:
    """The contents of a file: its spans in the order written, and the problems of what was skipped."""

    path: Path
    spans: tuple[Span, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def odd(self) -> int:
        """Values that cannot be, and count as not known."""
        return sum(span.odd for span in self.spans)


def read(path: str | os.PathLike[str], strict: bool = False) -> TraceFile:
    """Read every span of an OTLP/JSON file.

    Broken lines and broken spans are skipped and listed in ``problems``; with ``strict`` the first of them raises.
    A file without a single span raises.
    """
    path = Path(path)
    problems: list[Problem] = []
    spans: list[Span] = []
    document_count = 0
    for line, document in documents(path, problems):
        document_count += 1
        read_document(document, line, spans, problems)
    problems.sort(key=lambda problem: problem.line)
    if problems and (strict or not spans):
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise TraceFileError(path, first.reason + more, first.line)
    if not spans:
        raise TraceFileError(path, "no spans: the file is empty" if not document_count else "no spans in this file")
    return TraceFile(path, tuple(spans), tuple(problems))


# The file: bytes to documents


def documents(path: Path, problems: list[Problem]) -> Iterator[tuple[int, Any]]:
    """The JSON values of a file, each with its line; what had to be skipped goes to ``problems``."""
    text, damaged = _text(path)
    problems.extend(damaged)
    yield from _documents(text, problems)


def _text(path: Path) -> tuple[str, list[Problem]]:
    try:
        raw = path.read_bytes()
    except IsADirectoryError as error:
        raise TraceFileError(path, "is a directory; name a file") from error
    except FileNotFoundError as error:
        raise TraceFileError(path, "no such file") from error
    except OSError as error:
        raise TraceFileError(path, error.strerror or str(error)) from error
    problems: list[Problem] = []
    if raw[:2] == b"\x1f\x8b":
        raw, reason = _gunzip(raw)
        if reason:
            problems.append(Problem(raw.count(b"\n") + 1, reason))
    if raw[:4] == b"\x28\xb5\x2f\xfd":
        raise TraceFileError(path, "zstd-compressed; decompress it first (zstd -d)")
    return raw.decode("utf-8-sig", "surrogateescape"), problems


def _gunzip(raw: bytes) -> tuple[bytes, str]:
    """Everything that can be unpacked, also from a file cut short, and what is wrong with the rest."""
    whole = io.BytesIO()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
            while chunk := file.read1(1 << 16):
                whole.write(chunk)
    except (EOFError, zlib.error, OSError):
        return whole.getvalue(), "the gzip data is cut short or damaged from here on"
    return whole.getvalue(), ""


def _documents(text: str, problems: list[Problem]) -> Iterator[tuple[int, Any]]:
    """JSON lines, or else one or more JSON values laid out over several lines."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        return
    good: list[tuple[int, Any]] = []
    bad: list[Problem] = []
    for number, line in lines:
        value, reason = _parse(line)
        if reason:
            bad.append(Problem(number, reason))
        else:
            good.append((number, value))
    if not bad or any(_is_otlp(value) for _, value in good):
        problems.extend(bad)
        yield from good
        return
    spread, reason = _spread(text)
    if any(_is_otlp(value) for _, value in spread) or lines[0][1].strip() in ("{", "[", "[{"):
        if reason:
            problems.append(reason)
        yield from spread
        return
    problems.extend(bad)
    yield from good


def _parse(line: str) -> tuple[Any, str]:
    try:
        line.encode("utf-8")
        return json.loads(line), ""
    except UnicodeEncodeError:
        return None, "not valid UTF-8"
    except json.JSONDecodeError as error:
        return None, f"not valid JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
    except RecursionError:
        return None, "not valid JSON: nested too deeply"
    except ValueError as error:
        return None, f"not valid JSON: {error}"


def _spread(text: str) -> tuple[list[tuple[int, Any]], Problem | None]:
    decoder = json.JSONDecoder()
    values: list[tuple[int, Any]] = []
    position = 0
    while True:
        while position < len(text) and text[position].isspace():
            position += 1
        if position >= len(text):
            return values, None
        line = text.count("\n", 0, position) + 1
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            reason = f"not valid JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
            if error.pos >= len(text.rstrip()):
                reason = "the file ends in the middle of a JSON value"
            return values, Problem(error.lineno, reason)
        except (RecursionError, ValueError) as error:
            return values, Problem(line, f"not valid JSON: {error}")
        values.append((line, value))


# A document: JSON to spans


def _is_otlp(value: Any) -> bool:
    return isinstance(value, dict) and (
        any(key in value for key in ("resourceSpans", "resource_spans", "batches", "trace"))
        or not _OTHER_SIGNALS.isdisjoint(value)
    )


def _is_mapping(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _get(item: Mapping[str, Any], camel: str, default: Any = None) -> Any:
    """OTLP/JSON's camelCase, or protobuf's own snake_case."""
    if camel in item:
        return item[camel]
    return item.get(re.sub(r"([A-Z])", lambda match: "_" + match.group(1).lower(), camel), default)


def _list(item: Mapping[str, Any], camel: str) -> list[Any]:
    value = _get(item, camel)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{camel} is not a list")
    return value


def read_document(document: Any, line: int, spans: list[Span], problems: list[Problem]) -> None:
    """Append the spans of one document to ``spans``, and what had to be skipped to ``problems``."""
    if isinstance(document, list):
        for item in document:
            read_document(item, line, spans, problems)
        return
    if not _is_mapping(document):
        problems.append(Problem(line, "not an OTLP object"))
        return
    if _is_mapping(trace := document.get("trace")):
        document = trace
    key = "batches" if "batches" in document else "resourceSpans"
    if _get(document, key) is None:
        if _OTHER_SIGNALS.isdisjoint(document):
            problems.append(Problem(line, _what_else(document)))
        return
    try:
        resources = _list(document, key)
    except ValueError as error:
        problems.append(Problem(line, str(error)))
        return
    for resource_spans in resources:
        _read_resource(resource_spans, line, spans, problems)


def _what_else(document: Mapping[str, Any]) -> str:
    if _is_mapping(document.get("context")) and "trace_id" in document["context"]:
        return "no resourceSpans: this is the SDK's console exporter's output, not OTLP"
    if isinstance(document.get("data"), list):
        return "no resourceSpans: this looks like Jaeger's own JSON, not OTLP"
    return "no resourceSpans: not OTLP"


def _read_resource(item: Any, line: int, spans: list[Span], problems: list[Problem]) -> None:
    try:
        if not _is_mapping(item):
            raise ValueError("a resourceSpans entry is not an object")
        resource = _get(item, "resource") or {}
        attributes = _attributes(resource) if _is_mapping(resource) else {}
        scopes = _list(item, "scopeSpans") or _list(item, "instrumentationLibrarySpans")
    except ValueError as error:
        problems.append(Problem(line, str(error)))
        return
    for scope_spans in scopes:
        try:
            if not _is_mapping(scope_spans):
                raise ValueError("a scopeSpans entry is not an object")
            scope = _scope(_get(scope_spans, "scope") or _get(scope_spans, "instrumentationLibrary"))
            members = _list(scope_spans, "spans")
        except ValueError as error:
            problems.append(Problem(line, str(error)))
            continue
        for member in members:
            try:
                spans.append(_span(member, attributes, scope))
            except ValueError as error:
                name = member.get("name") if _is_mapping(member) else None
                problems.append(Problem(line, f"span {name!r}: {error}" if name else f"a span: {error}"))


def _scope(item: Any) -> Scope:
    if not _is_mapping(item):
        return Scope()
    return Scope(str(item.get("name") or ""), str(item.get("version") or ""))


def _span(item: Any, resource: Mapping[str, Any], scope: Scope) -> Span:
    from llmtrace.analyze import plausible  # here, since its columns come from modules that import this one

    if not _is_mapping(item):
        raise ValueError("not an object")
    start = _time(item, "startTimeUnixNano")
    if start is None:
        raise ValueError("startTimeUnixNano is missing")
    end = _time(item, "endTimeUnixNano")
    attributes = _attributes(item)
    odd = plausible.known(attributes)
    if end is not None and end < start:
        end, odd = None, odd + 1
    parent = _get(item, "parentSpanId")
    return Span(
        trace_id=_id(item, "traceId", 16),
        span_id=_id(item, "spanId", 8),
        parent_id=_parent(parent),
        name=str(item.get("name") or ""),
        kind=_word(item.get("kind"), KINDS, "SPAN_KIND_"),
        start_ns=start,
        end_ns=start if end is None else end,
        attributes=attributes,
        status=_status(item.get("status")),
        events=tuple(_event(event, start) for event in _list(item, "events") if _is_mapping(event)),
        resource=resource,
        scope=scope,
        links=tuple(link for item in _list(item, "links") if (link := _link(item)) is not None),
        odd=odd,
    )


def _link(item: Any) -> Link | None:
    """A link; None where its ids are not valid."""
    if not _is_mapping(item):
        return None
    try:
        return Link(_id(item, "traceId", 16), _id(item, "spanId", 8), _attributes(item))
    except ValueError:
        return None


def _event(item: Mapping[str, Any], start: int) -> Event:
    time = _time(item, "timeUnixNano")
    return Event(str(item.get("name") or ""), start if time is None else time, _attributes(item))


def _status(item: Any) -> Status:
    if not _is_mapping(item):
        return Status()
    return Status(_word(item.get("code"), STATUSES, "STATUS_CODE_"), str(item.get("message") or ""))


def _word(value: Any, words: tuple[str, ...], prefix: str) -> str:
    """An enumeration, written as its number or as its name."""
    if isinstance(value, str):
        if value.isascii() and value.isdecimal():
            value = int(value)
        else:
            word = value.upper().removeprefix(prefix).lower()
            return word if word in words else words[0]
    return words[value] if isinstance(value, int) and 0 <= value < len(words) else words[0]


def _time(item: Mapping[str, Any], key: str) -> int | None:
    """Nanoseconds; None where missing. Zero is how protobuf says missing."""
    value = _get(item, key)
    if value is None or value == "":
        return None
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{key} is not a number") from None
    if not 0 <= number <= _LONGEST_TIME_NS:
        raise ValueError(f"{key} is out of range")
    return number or None


def _parent(value: Any) -> str | None:
    if not value or (isinstance(value, str) and not value.strip("0")):
        return None
    try:
        return _id({"parentSpanId": value}, "parentSpanId", 8)
    except ValueError:
        return str(value)  # whatever it is, the span has a parent that is not here


def _id(item: Mapping[str, Any], key: str, size: int) -> str:
    value = _get(item, key)
    if not value:
        raise ValueError(f"{key} is missing")
    if not isinstance(value, str):
        raise ValueError(f"{key} is not a string")
    text = value.removeprefix("0x")
    hex_id = None
    if _HEX.fullmatch(text) and (len(text) == 2 * size or (key == "traceId" and len(text) == size)):
        hex_id = text.lower().zfill(2 * size)  # a 64-bit trace id, as some tracers still have it
    else:
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=None, validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) == size:
            hex_id = raw.hex()
    if hex_id is None:
        raise ValueError(f"{key} is neither {2 * size} hex digits nor base64: {value[:40]!r}")
    if not hex_id.strip("0"):
        raise ValueError(f"{key} is all zeros")
    return hex_id


def _attributes(item: Mapping[str, Any]) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for pair in _list(item, "attributes"):
        if _is_mapping(pair) and isinstance(pair.get("key"), str):
            attributes[pair["key"]] = value_of(pair.get("value"))
    return attributes


def value_of(item: Any) -> Any:
    """An OTLP ``AnyValue`` as a plain value: lists as tuples, bytes as bytes; None where it is empty."""
    if not _is_mapping(item):
        return item
    for key in ("stringValue", "boolValue", "intValue", "doubleValue", "bytesValue", "arrayValue", "kvlistValue"):
        value = _get(item, key)
        if value is not None:
            return _VALUES[key](value)
    return None


def pairs_of(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Plain values as OTLP/JSON's list of attributes: what ``value_of`` reads back."""
    return [{"key": key, "value": _written(value)} for key, value in attributes.items()]


def _written(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, (list, tuple)):
        members: list[Any] | tuple[Any, ...] = value
        return {"arrayValue": {"values": [_written(member) for member in members]}}
    if isinstance(value, dict):
        inner: dict[str, Any] = value
        return {"kvlistValue": {"values": pairs_of(inner)}}
    return {"stringValue": "" if value is None else str(value)}


def _array(value: Any) -> Any:
    return tuple(value_of(member) for member in _list(value, "values")) if _is_mapping(value) else value


def _kvlist(value: Any) -> Any:
    return _attributes({"attributes": value.get("values")}) if _is_mapping(value) else value


def _int(value: Any) -> Any:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return value


def _float(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return value


def _bytes(value: Any) -> Any:
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError):
        return value


def _as_is(value: Any) -> Any:
    return value


_VALUES = {
    "stringValue": _as_is,
    "boolValue": _as_is,
    "intValue": _int,
    "doubleValue": _float,
    "bytesValue": _bytes,
    "arrayValue": _array,
    "kvlistValue": _kvlist,
}
