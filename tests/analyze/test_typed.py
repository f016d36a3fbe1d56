"""Long lines are read column by column; whatever stands in them, the table is the one of the way span by span."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtrace.analyze import chunks, half_pairs
from llmtrace.analyze.chunks import Outcome, arrow_schema, arrow_table
from llmtrace.analyze.engine_spans import MARKS
from llmtrace.analyze.flatten import Flattener
from llmtrace.analyze.schema import COLUMNS
from llmtrace.conventions import EVALUATION_EVENT
from tests.analyze.writing import Writer
from tests.support.effort import examples

SCHEMA = arrow_schema(COLUMNS)
NAMES = sorted({name for column in COLUMNS for name in column.attributes})
RESOURCES = sorted({name for column in COLUMNS for name in column.resource} | {"service.name"})
SEVERAL = ["operation", "input_tokens", "request_model", "ttft", "diagnosis"]
"""Columns that several attributes fill."""
RIVALS = sorted({name for column in COLUMNS if column.name in SEVERAL for name in column.attributes})

texts = st.sampled_from(["chat", "", "1", "7.5", "NaN", "true", "é", "\ud83d", "\N{GRINNING FACE}", '"\\\n'])
integers = st.sampled_from([0, 1, -3, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64, 10**30])
floats = st.sampled_from([0.0, 1.5, -2e-9, 1e308, 7.0, float("nan"), float("inf")])
plain = (
    texts.map(lambda item: {"stringValue": item})
    | integers.map(lambda item: {"intValue": str(item)})
    | integers.map(lambda item: {"intValue": item})
    | floats.map(lambda item: {"doubleValue": item})
    | integers.map(lambda item: {"doubleValue": item})
    | st.booleans().map(lambda item: {"boolValue": item})
)
odd = st.sampled_from(
    [
        {}, None, "text", 5, [], {"stringValue": None}, {"stringValue": 5}, {"intValue": "x"}, {"intValue": 1.5},
        {"intValue": True}, {"boolValue": "true"}, {"doubleValue": "NaN"}, {"doubleValue": "1.5"},
        {"bytesValue": "AAAA"}, {"kvlistValue": {"values": []}}, {"arrayValue": {}}, {"arrayValue": None},
        {"arrayValue": {"values": [{}]}}, {"arrayValue": {"values": [{"intValue": 10**30}]}},
        {"stringValue": "a", "intValue": "1"}, {"string_value": "a"},
    ]
)  # fmt: skip
few = st.sampled_from(
    [{"stringValue": "chat"}, {"intValue": "7"}, {"intValue": 7}, {"doubleValue": 0.5}, {"doubleValue": 1}]
)
lists = st.lists(few, max_size=3).map(lambda values: {"arrayValue": {"values": values}})
values = st.one_of(plain, plain, plain, lists, odd)
regular = few | lists | st.booleans().map(lambda item: {"boolValue": item})


def attributes(of: st.SearchStrategy[Any], names: list[str]) -> st.SearchStrategy[list[Any]]:
    keys = st.sampled_from([*names, "unknown"])
    return st.lists(st.builds(lambda key, value: {"key": key, "value": value}, keys, of), max_size=6)


def events(of: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda name, about: {"name": name, "timeUnixNano": "5", "attributes": about},
        st.sampled_from(["", "llmtrace.call.details", EVALUATION_EVENT, "llmtrace.diagnosis"]),
        attributes(of, NAMES),
    )


@st.composite
def spans(draw: st.DrawFn, of: st.SearchStrategy[Any], changed: bool) -> dict[str, Any]:
    # Few shapes, so that spans of a line share them.
    names = draw(st.sampled_from([NAMES, RIVALS, [*NAMES[:3], *sorted(MARKS)[:1]] if changed else RIVALS]))
    span: dict[str, Any] = {
        "traceId": draw(st.sampled_from(["0af7651916cd43dd8448eb211c80319c", "0AF7651916CD43DD8448EB211C80319D"])),
        "spanId": draw(st.sampled_from(["b7ad6b7169203331", "B7AD6B7169203332"])),
        "name": draw(texts if changed else st.sampled_from(["chat", "é", '"\\n'])),
        "startTimeUnixNano": draw(st.sampled_from(["1760000000000000001", 1760000000000000001])),
        "endTimeUnixNano": "1760000000000000002",
        "attributes": draw(attributes(of, names)),
    }
    more = {
        "parentSpanId": st.sampled_from(["", "00F067AA0BA902B7", "0" * 16, None]),
        "kind": st.integers(0, 5),
        "status": st.sampled_from([{}, None, {"code": 2, "message": "x"}, {"message": "y"}]),
        "events": st.lists(events(of), max_size=2) | st.none(),
        "flags": st.just(256),
    }
    for name in draw(st.lists(st.sampled_from(sorted(more)), unique=True)):
        span[name] = draw(more[name])
    if changed and draw(st.integers(0, 3)) == 0:
        name = draw(st.sampled_from(["traceId", "spanId", "startTimeUnixNano", "kind", "status", "name", "events"]))
        span[name] = draw(
            st.sampled_from([None, 0, -1, "", "x", "zz" * 8, "ab cdef012345 67", [], {}, 2**63, 1.7e18, 9, {"code": 7}])
        )
    return span


def documents(of: st.SearchStrategy[Any], changed: bool) -> st.SearchStrategy[Any]:
    resources = attributes(of, RESOURCES).map(lambda about: {"attributes": about})
    scopes = st.builds(
        lambda name, own: {"scope": {"name": name}, "spans": own},
        st.sampled_from(["llmtrace", "x", "sglang server"] if changed else ["llmtrace", "x"]),
        st.lists(spans(of, changed), max_size=5),
    )
    return st.builds(
        lambda about, own: {"resourceSpans": [{"resource": about, "scopeSpans": own}]},
        resources, st.lists(scopes, max_size=2),
    )  # fmt: skip


def tables(text: bytes) -> tuple[bool, pa.Table, pa.Table]:
    """Whether the line was taken as it is, and the tables of both ways."""
    quick, other = Flattener(COLUMNS), Flattener(COLUMNS)
    taken = quick.add_line(text)
    assert taken or len(quick) == 0
    other.add(half_pairs.loads(text), 1)
    if not taken:
        quick.add(half_pairs.loads(text), 1)
    return taken, arrow_table(quick, SCHEMA), arrow_table(other, SCHEMA)


def read_carefully(document: Any) -> pa.Table:
    """The table of the careful reader alone."""
    careful = Flattener(COLUMNS)
    careful.add([document, 5], 1)  # what is no document sends all of it that way
    return arrow_table(careful, SCHEMA)


@settings(max_examples=examples(150), deadline=None)
@given(document=documents(values, True))
def test_any_line_gives_the_same_table(document: Any) -> None:
    text = json.dumps(document).encode()
    if "NaN" in json.dumps(document).replace('"NaN"', "") or "Infinity" in json.dumps(document):
        assert not Flattener(COLUMNS).add_line(text)
        return
    _, quick, other = tables(text)
    assert quick.equals(other)


@settings(max_examples=examples(75), deadline=None)
@given(documents_=st.lists(documents(regular, False), max_size=4))
def test_regular_lines_are_taken(documents_: list[Any]) -> None:
    quick, other = Flattener(COLUMNS), Flattener(COLUMNS)
    for document in documents_:
        assert quick.add_line(json.dumps(document, ensure_ascii=False).encode())
        other.add(document, 1)
    assert arrow_table(quick, SCHEMA).equals(arrow_table(other, SCHEMA))


@settings(max_examples=examples(75), deadline=None)
@given(document=documents(st.sampled_from(["7", "8"]).map(lambda item: {"stringValue": item}), False))
def test_of_several_attributes_for_one_column_all_ways_take_the_same(document: Any) -> None:
    """The better name, of one name the last value, and a span's own before its events': as a mapping would."""
    taken, quick, other = tables(json.dumps(document).encode())
    assert taken
    assert quick.equals(other)
    assert quick.equals(read_carefully(document))


def test_an_empty_member_of_a_list_costs_nothing() -> None:
    writer = Writer()
    writer.call(0, [("queue", 20)])
    members = {"arrayValue": {"values": [{"stringValue": "stop"}, {}]}}
    writer.spans[0]["attributes"].append({"key": "gen_ai.response.finish_reasons", "value": members})
    _, quick, other = tables(json.dumps(writer.document()).encode())
    assert quick.equals(other)
    assert quick["finish"].to_pylist() == ["stop,None", None]


IDS = [("parentSpanId", "0" * 16, 1), ("parentSpanId", "0" * 32, 1), ("parentSpanId", "0x00f067aa0ba902b7", 1)]
NOBODYS = [("spanId", "0" * 16, 0), ("traceId", "0" * 32, 0), ("traceId", "", 0)]


@pytest.mark.parametrize(("name", "value", "rows"), [*IDS, *NOBODYS])
def test_an_id_means_the_same_to_all_ways_of_reading(name: str, value: str, rows: int) -> None:
    """A parent of zeros is none, and a span or trace of zeros cannot be."""
    writer = Writer()
    writer.span("chat", 0, 1)
    writer.spans[0][name] = value
    document = writer.document()
    _, quick, other = tables(json.dumps(document).encode())
    assert quick.equals(other)
    assert quick.equals(read_carefully(document))
    assert quick.num_rows == rows
    if not value.strip("0"):
        assert quick["parent_id"].to_pylist() == [None] * rows


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("recorded/*.gz")), ids=lambda path: path.name)
def test_recorded_files(path: Path) -> None:
    texts_ = gzip.decompress(path.read_bytes()).splitlines()
    results = [tables(text) for text in texts_]
    assert all(quick.equals(other) for _, quick, other in results)
    assert all(taken for taken, _, _ in results)


def converted(path: Path, monkeypatch: pytest.MonkeyPatch, long: int) -> tuple[pa.Table, Outcome]:
    monkeypatch.setattr(chunks, "LONG", long)
    (stretch,) = chunks.cut(path)
    target = path.with_suffix(f".{long}.parquet")
    outcome = chunks.convert(stretch, target)
    return pq.read_table(target), outcome


@pytest.mark.parametrize("batch", [1, 3, 4096])
def test_a_file_of_good_and_bad_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    writer = Writer()
    for number in range(4):
        writer.call(number * 1000, [("network", 10), ("queue", 20)], marks={"llmtrace.call.ttft": 0.1})
    good = [json.dumps(document).encode() for document in (writer.document(), *writer.documents())]
    bad = [
        good[0][:-7],
        good[0].replace(b'"x"', b'"\xff"'),
        good[0].replace(b'"x"', b'"\\ud83d"'),
        good[0].replace(b'"x"', b'"\\q"'),
        good[0].replace(b'{"name": "x"}', b"NaN"),
        good[0].replace(b'"resourceSpans": [', b'"resourceSpans": 5, "resourceSpans": [', 1),
        good[0].replace(b'"spans": [', b'"spans": [], "spans": ['),
        good[0].replace(b'"spans": [', b'"spans": [5, '),
        good[1].decode().encode("utf-16"),
        b"[" * 5000,
        b"",
        b"[" + good[1] + b"]",
        b"\xef\xbb\xbf" + good[1],
    ]
    lines = [line for pair in zip(good * 2, bad, strict=False) for line in pair]
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join([good[0], *lines]))
    monkeypatch.setattr(chunks, "BATCH", batch)
    monkeypatch.setattr(chunks, "GROUP", 2 * batch)
    (quick, told), (other, said) = (converted(path, monkeypatch, long) for long in (0, sys.maxsize))
    assert quick.equals(other)
    assert told == said
    assert told.problem_count >= 6
    assert told.spans == quick.num_rows


LINE = json.dumps(
    {
        "resourceSpans": [
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "a\u00e9"}}]},
                "scopeSpans": [
                    {
                        "scope": {"name": "x", "attributes": [{"key": "n", "value": {"doubleValue": -2.5}}]},
                        "spans": [
                            {
                                "traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331",
                                "name": "\N{GRINNING FACE}", "traceState": 'a="b"', "flags": 256,
                                "startTimeUnixNano": "1760000000000000001", "endTimeUnixNano": "1760000000000000002",
                                "links": [{"traceId": "0af7651916cd43dd8448eb211c80319c", "dropped": None}],
                            }
                        ],
                    }
                ],
            }
        ]
    },
    ensure_ascii=False,
).encode()  # fmt: skip


@settings(max_examples=examples(300), deadline=None)
@given(
    at=st.integers(0, len(LINE)),
    cut=st.integers(0, 3),
    put=st.sampled_from(
        [b"", b'"', b"\\", b",", b":", b"{", b"}", b"[", b"]", b"-", b"+", b"\\u", b"\\ud800", b"\x00", b"\n",
         b"\xff", b"\xc3", b"\xed\xa0\x80", b"NaN", b"Infinity", b"null", b"tru", b"\\q", b"01", b"/*x*/"]
    ),
)  # fmt: skip
def test_what_is_no_json_is_not_taken(at: int, cut: int, put: bytes) -> None:
    """Wherever the fault is, in what is read or in what is skipped."""
    text = LINE[:at] + put + LINE[at + cut :]
    try:
        _, quick, other = tables(text)
    except json.JSONDecodeError:
        assert not Flattener(COLUMNS).add_line(text)
    else:
        assert quick.equals(other)
