"""Reading OTLP/JSON, our own and other people's, whole and broken."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan

from llmtrace.analyze import otlp
from llmtrace.analyze.otlp import Problem, Span, TraceFileError
from tests.support.effort import examples

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def span(number: int = 1, parent: int | None = None, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "traceId": TRACE,
        "spanId": f"{number:016x}",
        "name": f"span {number}",
        "kind": 1,
        "startTimeUnixNano": "1760000000000000000",
        "endTimeUnixNano": "1760000001000000000",
    }
    if parent is not None:
        made["parentSpanId"] = f"{parent:016x}"
    made.update(changes)
    return {key: value for key, value in made.items() if value is not ...}


def wrap(*spans: Any) -> dict[str, Any]:
    return {"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def comparable(spans: Sequence[ReadableSpan]) -> list[Span]:
    made = []
    for one in spans:
        assert one.context
        assert one.start_time
        assert one.end_time
        assert one.instrumentation_scope
        made.append(
            Span(
                trace_id=f"{one.context.trace_id:032x}",
                span_id=f"{one.context.span_id:016x}",
                parent_id=f"{one.parent.span_id:016x}" if one.parent else None,
                name=one.name,
                kind=one.kind.name.lower(),
                start_ns=one.start_time,
                end_ns=one.end_time,
                attributes=dict(one.attributes or {}),
                status=otlp.Status(one.status.status_code.name.lower(), one.status.description or ""),
                events=tuple(otlp.Event(e.name, e.timestamp, dict(e.attributes or {})) for e in one.events),
                resource=dict(one.resource.attributes),
                scope=otlp.Scope(one.instrumentation_scope.name, one.instrumentation_scope.version or ""),
            )
        )
    return made


def test_what_the_sdk_made_comes_back_equal(recorder: Any, tmp_path: Path) -> None:
    parent = recorder.call(
        [("network", 2.0, "client", 0.25, None), ("decode", 100.0, "device", None, 12)], error="APIError"
    )
    with recorder.tracer.start_as_current_span("tool") as tool:
        tool.set_attributes({"list": ["a", "b"], "big": 2**62, "negative": -1, "text": "数 \u202e", "ratio": 1e-9})
        tool.add_event("exception", {"exception.message": "no"}, timestamp=1_760_000_000_000_000_001)
    assert parent.get_span_context().is_valid
    path = recorder.save(tmp_path / "t.jsonl")
    assert list(otlp.read(path).spans) == comparable(recorder.spans)


def as_base64(item: dict[str, Any]) -> dict[str, Any]:
    ids = ("traceId", "spanId", "parentSpanId")
    return {k: base64.b64encode(bytes.fromhex(v)).decode() if k in ids else v for k, v in item.items()}


def snake(item: Any) -> Any:
    names = {
        "resourceSpans": "resource_spans", "scopeSpans": "scope_spans", "traceId": "trace_id", "spanId": "span_id",
        "startTimeUnixNano": "start_time_unix_nano", "endTimeUnixNano": "end_time_unix_nano",
        "stringValue": "string_value",
    }  # fmt: skip
    if isinstance(item, dict):
        return {names.get(key, key): snake(value) for key, value in item.items()}
    return [snake(member) for member in item] if isinstance(item, list) else item


FOREIGN: dict[str, Any] = {
    "one object": wrap(span()),
    "base64 ids": wrap(as_base64(span())),
    "upper-case ids": wrap(span(traceId=TRACE.upper())),
    "0x ids": wrap(span(traceId="0x" + TRACE)),
    "numbers for times": wrap(span(startTimeUnixNano=1760000000000000000, endTimeUnixNano=1760000001000000000)),
    "floats for times": wrap(span(startTimeUnixNano=1.76e18)),
    "enumerations by name": wrap(span(kind="SPAN_KIND_INTERNAL", status={"code": "STATUS_CODE_OK"})),
    "protobuf's own names": snake(wrap(span())),
    "an empty parent": wrap(span(parentSpanId="")),
    "a parent of zeros": wrap(span(parentSpanId="0" * 16)),
    "Tempo's batches": {"batches": wrap(span())["resourceSpans"]},
    "Tempo's trace": {"trace": wrap(span())},
    "an old library's scopes": {"resourceSpans": [{"instrumentationLibrarySpans": [{"spans": [span()]}]}]},
    "a list of objects": [wrap(span())],
}


@pytest.mark.parametrize("document", FOREIGN.values(), ids=FOREIGN.keys())
@pytest.mark.parametrize("layout", ["line", "pretty", "gzip", "bom"])
def test_other_peoples_files(tmp_path: Path, document: Any, layout: str) -> None:
    path = tmp_path / "t.json"
    text = json.dumps(document, indent=2 if layout == "pretty" else None)
    if layout == "gzip":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_bytes((b"\xef\xbb\xbf" if layout == "bom" else b"") + text.encode())
    file = otlp.read(path, strict=True)
    (found,) = file.spans
    assert (found.trace_id, found.span_id, found.parent_id) == (TRACE, "0000000000000001", None)
    assert (found.kind, found.start_ns) == ("internal", 1760000000000000000)
    assert found.duration == pytest.approx(1)


def test_ids_of_64_bits_and_short_base64(tmp_path: Path) -> None:
    raw = base64.b64encode(bytes.fromhex(TRACE)).decode().rstrip("=")
    path = write(tmp_path / "t", wrap(span(traceId="00000000deadbeef"), span(2, traceId=raw)))
    assert [one.trace_id for one in otlp.read(path).spans] == ["0" * 24 + "deadbeef", TRACE]


def test_values_of_every_kind(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "text": {"stringValue": "x"},
        "empty": {"stringValue": ""},
        "int as text": {"intValue": "-5"},
        "int": {"intValue": 5},
        "bool": {"boolValue": False},
        "nan": {"doubleValue": "NaN"},
        "bytes": {"bytesValue": "AAE="},
        "map": {"kvlistValue": {"values": [{"key": "k", "value": {"arrayValue": {"values": [{"intValue": "1"}]}}}]}},
        "nothing": {},
        "bad int": {"intValue": "many"},
    }
    path = write(tmp_path / "t", wrap(span(attributes=[{"key": k, "value": v} for k, v in values.items()])))
    found = dict(otlp.read(path).spans[0].attributes)
    assert repr(found.pop("nan")) == "nan"
    assert found == {
        "text": "x", "empty": "", "int as text": -5, "int": 5, "bool": False, "bytes": b"\0\1",
        "map": {"k": (1,)}, "nothing": None, "bad int": "many",
    }  # fmt: skip


def test_an_unfinished_span_has_no_length(tmp_path: Path) -> None:
    path = write(tmp_path / "t", wrap(span(endTimeUnixNano=...), span(2, endTimeUnixNano="5")))
    assert [one.duration for one in otlp.read(path).spans] == [0, 0]


def test_broken_lines_are_skipped_and_told(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    good = json.dumps(wrap(span()))
    lines = [
        good,
        "{not json",
        "",
        json.dumps({"resourceSpans": 7}),
        json.dumps(wrap(span(2, spanId="xyz"), span(3), span(4, startTimeUnixNano="soon"), 5)),
        "[1]",
        json.dumps({"resourceLogs": []}),
        json.dumps({"name": "s", "context": {"trace_id": "0x1"}}),
        good.replace("0001", "0009").replace("span 1", "span \\ud800 9"),
        '{"resourceSpans":[{"scopeSp',
    ]
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\n")
    file = otlp.read(path)
    assert [one.span_id[-1] for one in file.spans] == ["1", "3", "9"]
    assert file.problems == (
        Problem(2, "not valid JSON: Expecting property name enclosed in double quotes at column 2"),
        Problem(4, "resourceSpans is not a list"),
        Problem(5, "span 'span 2': spanId is neither 16 hex digits nor base64: 'xyz'"),
        Problem(5, "span 'span 4': startTimeUnixNano is not a number"),
        Problem(5, "a span: not an object"),
        Problem(6, "not an OTLP object"),
        Problem(8, "no resourceSpans: this is the SDK's console exporter's output, not OTLP"),
        Problem(10, "not valid JSON: Unterminated string starting at column 20"),
        Problem(11, "not valid UTF-8"),
    )
    with pytest.raises(TraceFileError) as caught:
        otlp.read(path, strict=True)
    assert caught.value.line == 2
    assert str(caught.value) == (
        f"{path}:2: not valid JSON: Expecting property name enclosed in double quotes at column 2 (and 8 more)"
    )


BAD_SPANS = {
    "traceId is missing": {"traceId": ...},
    "traceId is all zeros": {"traceId": "0" * 32},
    "spanId is not a string": {"spanId": 5},
    "spanId is neither": {"spanId": "12"},
    "startTimeUnixNano is missing": {"startTimeUnixNano": 0},
    "startTimeUnixNano is out of range": {"startTimeUnixNano": "-5"},
    "endTimeUnixNano is out of range": {"endTimeUnixNano": 10**30},
    "endTimeUnixNano is not a number": {"endTimeUnixNano": float("inf")},
    "attributes is not a list": {"attributes": {"a": 1}},
}


@pytest.mark.parametrize(("reason", "changes"), BAD_SPANS.items(), ids=BAD_SPANS.keys())
def test_a_broken_span_costs_only_itself(tmp_path: Path, reason: str, changes: dict[str, Any]) -> None:
    file = otlp.read(write(tmp_path / "t", wrap(span(), span(2, **changes), span(3))))
    assert [one.span_id[-1] for one in file.spans] == ["1", "3"]
    (problem,) = file.problems
    assert problem.line == 1
    assert reason in problem.reason


def test_a_pretty_printed_file_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(wrap(span()), indent=1) + "\n" + json.dumps(wrap(span(2)), indent=1)[:-20])
    file = otlp.read(path)
    assert len(file.spans) == 1
    assert file.problems[0].reason in ("the file ends in the middle of a JSON value",) or file.problems[0].line > 20
    path.write_text(json.dumps(wrap(span()), indent=1)[:-5])
    with pytest.raises(TraceFileError, match=r":\d+: "):
        otlp.read(path)


def test_gzip_cut_short_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "t.gz"
    lines = "".join(json.dumps(wrap(span(n, name=f"{n * 7919 % 10007}"))) + "\n" for n in range(1, 4000))
    packed = gzip.compress(lines.encode())
    path.write_bytes(packed[: len(packed) // 2])
    file = otlp.read(path)
    assert 100 < len(file.spans) < 3999
    assert any("cut short" in problem.reason for problem in file.problems)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "the file is empty"),
        (b'{"resourceSpans":[]}\n', "no spans in this file"),
        (b'{"resourceMetrics":[]}\n', "no spans in this file"),
        (b"hello\n", ":1: not valid JSON: Expecting value at column 1"),
        (b'{"data":[{"traceID":"1"}]}', "Jaeger's own JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"1" * 5000, ":1: "),
        (b"\x28\xb5\x2f\xfdxxxx", "zstd"),
        (b"\x1f\x8bnonsense", "gzip data is cut short or damaged"),
        (b"\x00\x01\x02", "not valid JSON"),
    ],
)
def test_files_without_spans(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "t"
    path.write_bytes(content)
    with pytest.raises(TraceFileError) as caught:
        otlp.read(path)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(TraceFileError, match="no such file"):
        otlp.read(tmp_path / "none")
    with pytest.raises(TraceFileError, match="is a directory"):
        otlp.read(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["resourceSpans", "scopeSpans", "spans", "traceId", "spanId", "attributes", "key", "value"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=examples(75), deadline=None)
@given(
    document=json_values, changed=st.sampled_from(sorted(span(attributes=[], events=[], status={}))), odd=json_values
)
def test_no_json_breaks_the_reader(tmp_path_factory: Any, document: Any, changed: str, odd: Any) -> None:
    path = write(tmp_path_factory.mktemp("odd") / "t", document, wrap(span(9)), wrap({**span(8), changed: odd}))
    file = otlp.read(path)
    assert file.spans[0].span_id == "0000000000000009" or len(file.spans) > 1
