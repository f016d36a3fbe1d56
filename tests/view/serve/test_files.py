"""Files opened in the viewer, and what does not fit on a page."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtrace.analyze import plausible
from llmtrace.view.serve.arrange import arrange
from tests.analyze.writing import Writer
from tests.support.effort import examples
from tests.view.serve.running import viewer


def test_files_folders_and_broken_lines(tmp_path: Path) -> None:
    folder = tmp_path / "traces"
    (folder / "deep").mkdir(parents=True)
    plain, packed = Writer(), Writer(count=5000)
    for number in range(20):
        plain.call(number * 5.0, [("network", 1.0), ("decode", 2.0)], trace=number + 1)
        packed.call(number * 5.0, [("decode", 2.0)], trace=number + 101)
    text = plain.save(folder / "plain.jsonl").read_text()
    (folder / "plain.jsonl").write_text(f"{text.splitlines()[0]}\nbroken\n{text}")
    packed.save(folder / "deep" / "packed.jsonl.gz")
    whole = tmp_path / "whole.json"
    whole.write_text(json.dumps(Writer(count=9000).documents() or {"resourceSpans": []}, indent=1))
    with viewer(folder, whole) as made:
        status = made.until(lambda status: status["loading"] is None and status["spans"] == 100)
        assert (status["calls"], status["traces"]) == (40, 40)
        sources = {Path(source["path"]).name: source for source in status["sources"]}
        assert sources["plain.jsonl"]["bad_lines"] == 1
        assert sources["packed.jsonl.gz"]["spans"] == 40
        assert any("plain.jsonl" in warning for warning in status["warnings"])
        made.send(Writer(count=20_000).document() or {})  # it receives too
        assert made.stop() == 130
    assert not list(Path(tmp_path).rglob("*.duckdb"))


def test_a_trace_of_100_000_spans_page_by_page(tmp_path: Path) -> None:
    count = 100_000
    path = tmp_path / "one.jsonl.gz"
    start = 1_760_000_000_000_000_000
    with gzip.open(path, "wt", compresslevel=1) as file:
        for first in range(0, count, 1000):
            spans = [
                {
                    "traceId": f"{7:032x}",
                    "spanId": f"{number + 1:016x}",
                    "parentSpanId": "" if number == 0 else f"{(number - 1) // 2 + 1:016x}",
                    "name": "<img src=x onerror=alert(1)>",
                    "kind": 1,
                    "startTimeUnixNano": str(start + number * 1000),
                    "endTimeUnixNano": str(start + count * 2000 - number),
                }
                for number in range(first, first + 1000)
            ]
            file.write(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}) + "\n")
    with viewer(path) as made:
        made.until(lambda status: status["loading"] is None and status["spans"] == count)
        page = made.get(f"/api/traces/{7:032x}", limit=500)
        assert (page["total"], page["offset"], len(page["spans"])) == (count, 0, 500)
        first = page["spans"][0]
        assert (first["descendants"], first["depth"], first["name"]) == (count - 1, 0, "<img src=x onerror=alert(1)>")
        assert [span["depth"] for span in page["spans"][:5]] == [0, 1, 2, 3, 4]
        last = made.get(f"/api/traces/{7:032x}", limit=500, offset=count - 500)
        assert len(last["spans"]) == 500
        around = made.get(f"/api/traces/{7:032x}", limit=100, around=last["spans"][250]["span_id"])
        assert last["spans"][250]["span_id"] in [span["span_id"] for span in around["spans"]]
        assert made.get(f"/api/traces/{7:032x}", offset=count)["spans"] == []
        assert "no span" in made.get(f"/api/traces/{7:032x}", 404, around="f" * 16)["error"]


@settings(max_examples=examples(100), deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 5), st.integers(0, 5), st.booleans()), min_size=1, max_size=12
    )
)
def test_every_span_once_and_below_its_parent(shape: list[tuple[int, int, int, bool]]) -> None:
    """Whatever parents are named: missing ones, themselves, rings."""
    parents, starts, lengths, known = (np.array(column) for column in zip(*shape, strict=True))
    ids = np.arange(len(shape), dtype=np.uint64)
    found = arrange(ids, parents.astype(np.uint64), known.astype(bool), starts, starts + lengths)
    assert sorted(found.order) == list(range(len(shape)))
    place = {at: number for number, at in enumerate(found.order)}
    for at in range(len(shape)):
        below = found.order[place[at] + 1 : place[at] + 1 + found.descendants[at]]
        assert all(found.depth[each] > found.depth[at] for each in below)
        after = place[at] + 1 + found.descendants[at]
        assert after == len(shape) or found.depth[found.order[after]] <= found.depth[at]
        if found.depth[at]:
            assert place[int(parents[at])] < place[at]
            assert found.depth[at] == found.depth[int(parents[at])] + 1
        assert found.orphan[at] == (bool(known[at]) and int(parents[at]) >= len(shape))


def test_files_of_nothing_are_told_on_the_page(tmp_path: Path) -> None:
    for number, text in enumerate(["{", '{"resourceSpans": 5}', "\n\n"]):
        (tmp_path / f"{number}.jsonl").write_text(text)
    with viewer(tmp_path) as made:
        status = made.until(lambda status: status["loading"] is None)
        assert status["spans"] == 0
        assert [source["bad_lines"] for source in status["sources"]] == [1, 1, 0]
        assert len(status["warnings"]) == 2


def test_values_that_cannot_be_are_told_once(tmp_path: Path) -> None:
    spans = [
        {
            "traceId": "4bf92f3577b34da6a3ce929d0e0e4736",
            "spanId": f"{number:016x}",
            "name": "chat m",
            "kind": 3,
            "startTimeUnixNano": "1760000001000000000",
            "endTimeUnixNano": "1760000000000000000",
            "attributes": [
                {"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}},
                {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "-5"}},
            ],
        }
        for number in (1, 2)
    ]
    file = tmp_path / "odd.jsonl"
    file.write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}) + "\n")
    with viewer(file) as made:
        status = made.until(lambda status: status["loading"] is None and status["spans"] == 2)
        assert status["warnings"] == [f"odd.jsonl: {plausible.note(4)}"]
        calls = made.get("/api/calls")["calls"]
        assert [(call["duration_s"], call["input_tokens"]) for call in calls] == [(None, None)] * 2
