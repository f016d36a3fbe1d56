"""``llmtrace report fleet`` on a fleet whose truth is known: ``tests/support/fleet.py``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import Any

import duckdb
import pytest
from rich.console import Console

from llmtrace.analyze import fleet, reports, schema
from llmtrace.analyze.book import Book
from llmtrace.analyze.load import load
from llmtrace.analyze.report import Report, as_json
from llmtrace.errors import LlmtraceError
from llmtrace.view import report_text
from tests.analyze.spark import same
from tests.analyze.writing import Writer
from tests.support import fleet as made_up

CALLS = 60_000


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up.write_parquet(tmp_path_factory.mktemp("fleet") / "fleet.parquet", CALLS)


@pytest.fixture(scope="module")
def whole(table: Path) -> Report:
    return build(table)


@pytest.fixture(scope="module")
def made(whole: Report) -> dict[str, Any]:
    return as_json(whole)


def build(source: Path, **options: Any) -> Report:
    with load([str(source)], cache=False) as traces:
        return reports.make("fleet", Book(traces), reports.Options(**options))


def report(source: Path, **options: Any) -> dict[str, Any]:
    return as_json(build(source, **options))


def written(path: Path, documents: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in documents))
    return path


def rows(made: dict[str, Any], title: str) -> list[dict[str, Any]]:
    section = next(each for each in made["sections"] if each["title"] == title)
    names = [column["title"] for column in section["columns"]]
    return [dict(zip(names, row, strict=True)) for row in section["rows"]]


def ask(table: Path, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        return connection.execute(query.format(table=f"'{table}'")).fetchall()


def test_versions_and_their_spread_are_those_of_the_calls(table: Path, made: dict[str, Any]) -> None:
    versions = rows(made, "Versions")
    assert [row["version"] for row in versions] == list(made_up.VERSIONS)
    counted = dict(ask(table, "SELECT weights, count(*) FROM {table} GROUP BY 1"))
    assert {row["version"]: row["calls"] for row in versions} == counted
    times = ask(table, "SELECT weights, min(start_ns), max(start_ns) FROM {table} GROUP BY 1 ORDER BY 1")
    assert [(row["version"], row["first call"], row["last call"]) for row in versions] == times
    (newest,) = (row for row in versions if row["version"] == "fp_d")
    assert 0.93 < newest["of instances now"] < 0.99, "one in 25 takes eight times as long, one in 100 never does"
    (spread,) = (row for row in rows(made, "How fast they spread") if row["version"] == "fp_d")
    # Offered to all after five days, taken after 2.5 more in the mean; counted from the first call, by days.
    assert 5 < spread["50% of instances, days"] < 8.5
    assert spread["90% of instances, days"] < 14
    assert spread["99% of instances, days"] is None


def test_the_newest_ones_curve_is_that_of_the_calls(table: Path, made: dict[str, Any]) -> None:
    curve = rows(made, "The newest, fp_d, over time")
    of_calls = [row["of calls"] for row in curve]
    assert of_calls[0] < 0.05
    assert of_calls[-1] > 0.95
    assert max(abs(row["of calls"] - row["of instances"]) for row in curve) < 0.02, "who calls more is no earlier"
    ((on, everything),) = ask(
        table,
        "SELECT count(*) FILTER (weights = 'fp_d'), count(*) FROM {table} "
        "WHERE start_ns >= (SELECT min(start_ns) + 59 * 86400000000000 FROM {table})",
    )
    assert of_calls[-1] == pytest.approx(on / everything)


def test_what_a_version_changed_is_found_and_nothing_else(made: dict[str, Any]) -> None:
    changes = {(row["version"], row["figure"]): row for row in rows(made, "Against the version before")}
    slower = changes["fp_d", "TPOT"]
    assert slower["from"] < 0.18 < slower["to"]
    assert (slower["sure"], slower["before"], slower["compared on"]) == ("yes", "fp_b", "same instances")
    assert changes["fp_c", "output tokens"]["sure"] == changes["fp_c", "cut at the limit"]["sure"] == "yes"
    assert changes["fp_c", "output tokens"]["lengths apart"] > 0.2
    sure = {key for key, row in changes.items() if row["sure"] == "yes"}
    assert sure == {("fp_d", "TPOT"), ("fp_c", "output tokens"), ("fp_c", "cut at the limit")}
    assert sum("fp_d is" in note and "slower per token" in note for note in made["notes"]) == 1


def test_the_one_that_was_withdrawn_shows_as_moves_back(made: dict[str, Any]) -> None:
    back = {(row["from"], row["to"]): row["instances"] for row in rows(made, "Moves") if row["how"] == "back"}
    assert max(back, key=lambda move: back[move]) == ("fp_c", "fp_b")
    (withdrawn,) = (row for row in rows(made, "Versions") if row["version"] == "fp_c")
    assert (withdrawn["of calls now"], withdrawn["instances now"]) == (0.0, 0)


def test_stragglers_are_the_instances_whose_last_call_was_on_the_oldest(table: Path, made: dict[str, Any]) -> None:
    expected = ask(
        table,
        "SELECT instance, arg_max(weights, start_ns) AS w, max(start_ns) AS seen FROM {table} GROUP BY 1 "
        "HAVING w = 'fp_a' AND seen >= (SELECT max(start_ns) - 7 * 86400000000000 FROM {table}) "
        "ORDER BY seen DESC LIMIT 20",
    )
    assert [row["instance"] for row in rows(made, "Stragglers")] == [row[0] for row in expected]


def test_answers_by_another_model_are_all_counted(table: Path, made: dict[str, Any]) -> None:
    ((count,),) = ask(table, "SELECT count(*) FROM {table} WHERE request_model <> response_model")
    assert sum(row["calls"] for row in rows(made, "Answered by another model than asked")) == count > 0


def test_the_version_that_is_named_the_newest_is_newer_than_all_others(tmp_path: Path) -> None:
    """Also the one that was there first: a fleet that went back to what it had."""
    source = written(tmp_path / "fleet.jsonl", made_up.documents(400))
    made = report(source, newest="fp_a")
    assert [row["version"] for row in rows(made, "Versions")] == ["fp_b", "fp_c", "fp_d", "fp_a"]
    assert {row["version"] for row in rows(made, "How fast they spread")} == {"fp_b", "fp_c", "fp_d"}
    assert "the instances had it after" not in made["headline"], "nobody knows since when it was there"
    lagging = rows(made, "Who lags, by device")
    assert all(row["behind"] == round(row["instances"] * (1 - row["on the newest"])) for row in lagging)
    assert {row["version"] for row in rows(made, "Stragglers")} <= {"fp_b", "fp_c", "fp_d"}
    back = {(row["from"], row["to"]) for row in rows(made, "Moves") if row["how"] == "back"}
    assert not any(after == "fp_a" for _, after in back)
    assert same(report(source, newest="fp_d")["sections"], report(source)["sections"])


def test_quality_is_the_evaluations_score_where_none_is_named(tmp_path: Path) -> None:
    documents = list(made_up.documents(40))
    for document in documents:
        (span,) = document["resourceSpans"][0]["scopeSpans"][0]["spans"]
        score = {"gen_ai.evaluation.score.value": 0.25, "mine": 4.0}
        span["attributes"] += [{"key": key, "value": {"doubleValue": value}} for key, value in score.items()]
    source = written(tmp_path / "fleet.jsonl", documents)
    assert {row["quality"] for row in rows(report(source), "What they answer")} == {0.25}
    with load([str(source)], cache=False, extra=schema.extra(["mine"])) as traces:
        named = as_json(reports.make("fleet", Book(traces), reports.Options(quality="mine")))
    assert {row["quality"] for row in rows(named, "What they answer")} == {4.0}


def test_reasoning_that_no_stream_showed_makes_no_token_faster(tmp_path: Path) -> None:
    documents = list(made_up.documents(400))
    plain = rows(report(written(tmp_path / "plain.jsonl", documents)), "What they answer")
    for document in documents[::2]:
        (span,) = document["resourceSpans"][0]["scopeSpans"][0]["spans"]
        for each in span["attributes"]:  # those that failed made nothing
            if each["key"] == "gen_ai.usage.output_tokens":
                each["value"]["intValue"] = str(int(each["value"]["intValue"]) + 5000)
        span["attributes"].append({"key": "gen_ai.usage.reasoning.output_tokens", "value": {"intValue": "5000"}})
    thought = rows(report(written(tmp_path / "thought.jsonl", documents)), "What they answer")
    for row, same_version in zip(thought, plain, strict=True):
        assert row["TPOT p50"] == pytest.approx(same_version["TPOT p50"], rel=0.15), "5,000 tokens more, in no time"


def test_a_sample_of_the_instances_says_the_same(
    table: Path, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "SAMPLED", 2000)
    sampled = report(table)
    assert any("instances, drawn evenly" in note for note in sampled["notes"])
    for title in ("Versions", "Stragglers", "Answered by another model than asked"):
        assert rows(sampled, title) == rows(made, title)
    all_of_them, part = (
        {row["version"]: row["50% of instances, days"] for row in rows(each, "How fast they spread")}
        for each in (made, sampled)
    )
    assert part == pytest.approx(all_of_them, abs=1.01), "within a day, which is what they are counted by"


def test_spans_tell_the_same_as_the_table(tmp_path: Path) -> None:
    calls = 800
    of_spans = report(written(tmp_path / "fleet.jsonl", made_up.documents(calls)))
    of_table = report(made_up.write_parquet(tmp_path / "fleet.parquet", calls))
    assert same(of_spans["sections"], of_table["sections"]), "but for the last digits, which follow the order of rows"


def test_a_wrong_clock_moves_nobody_else(tmp_path: Path) -> None:
    """One device of the seventies, one of the end of the century: else nobody called "in the last week" but it."""
    documents = list(made_up.documents(400))
    right = report(written(tmp_path / "right.jsonl", documents))
    for number, moment in enumerate((5, 4_000_000_000_000_000_000)):
        stray = json.loads(json.dumps(documents[number]))
        (span,) = stray["resourceSpans"][0]["scopeSpans"][0]["spans"]
        span |= {"spanId": f"{number + 1:015x}f", "startTimeUnixNano": str(moment), "endTimeUnixNano": str(moment + 1)}
        documents.append(stray)
    wrong = report(written(tmp_path / "wrong.jsonl", documents))
    assert same(wrong["sections"], right["sections"])
    assert sum(note.startswith("left out: 2 calls dated half a year or more") for note in wrong["notes"]) == 1


def test_a_name_of_any_length_leaves_the_sentences_readable(tmp_path: Path) -> None:
    name = "fp_d" + "0123456789" * 200
    text = written(tmp_path / "fleet.jsonl", made_up.documents(200)).read_text().replace('"fp_d"', f'"{name}"')
    (tmp_path / "fleet.jsonl").write_text(text)
    made = report(tmp_path / "fleet.jsonl")
    assert made["headline"].startswith(f"{name[:71]}…, the newest of ")
    assert name in {row["version"] for row in rows(made, "Versions")}


def test_a_narrow_terminal_holds_it(whole: Report) -> None:
    shown = StringIO()
    report_text.show(whole, Console(width=60, color_system=None, file=shown))
    assert max(map(len, shown.getvalue().splitlines())) <= 60


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "a single version of weights (fp_1) in all of 3 calls"),
        ({"version_of": "app"}, "no call tells a version of the application"),
        ({"version_of": "model", "newest": "m-9"}, "no version 'm-9' among m-1, m-2"),
    ],
)
def test_what_a_fleet_lacks_is_said(tmp_path: Path, options: dict[str, str], says: str) -> None:
    writer = Writer(about={"llmtrace.model.fingerprint": "fp_1"})
    for number in range(3):
        writer.call(number * 1000, [("decode", 400)], answered=f"m-{1 + number % 2}")
    with pytest.raises(LlmtraceError) as raised:
        report(writer.save(tmp_path / "spans.jsonl"), **options)
    assert says in str(raised.value)
