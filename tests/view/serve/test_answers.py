"""What the page asks, answered by a real process over sockets."""

from __future__ import annotations

import pytest

from tests.analyze.writing import EPOCH, Writer
from tests.view.serve.running import Viewer


def test_status(asked: Viewer) -> None:
    status = asked.get("/api/status")
    assert (status["spans"], status["traces"], status["calls"]) == (200, 40, 40)
    assert status["since_us"] == EPOCH // 1000
    assert 0 < status["bytes"] < status["max_bytes"] == 2 << 30
    assert status["loading"] is None
    assert status["warnings"] == []


def test_percentiles_are_told_of_calls_enough(asked: Viewer) -> None:
    all_calls = asked.get("/api/percentiles")
    assert all_calls["duration"]["p90"] is not None, "40 calls"
    assert (all_calls["duration"]["p95"], all_calls["ttft"]["p99"]) == (None, None)
    ten = asked.get("/api/percentiles", model="gpt-4o")
    assert ten["duration"]["p50"] is not None
    assert ten["duration"]["p90"] is None
    assert {phase["p90"] for phase in ten["phases"]} == {None}


def test_a_trace_begins_with_its_call_in_brief(asked: Viewer) -> None:
    brief = asked.get(f"/api/traces/{4:032x}")["headline"]
    assert (brief["outcome"], brief["input_tokens"], brief["output_tokens"]) == ("error", 1000, 101)
    assert brief["tokens_per_s"] == pytest.approx(100 / 0.1)
    assert brief["cost_usd"] > 0
    assert [verdict["cause"] for verdict in brief["verdicts"]] == ["queueing", "network"]
    assert (brief["calls"], brief["failed"]) == (1, 1)
    assert asked.get(f"/api/traces/{1:032x}")["headline"]["verdicts"] == []


def test_a_calls_speed_is_that_of_the_tokens_that_its_stream_showed(taking: Viewer) -> None:
    writer = Writer()
    trace = 0xDEC0DE
    thought = [("network", 10.0), ("queue_prefill", 4000.0), ("decode", 100.0)]
    writer.call(0.0, thought, trace=trace, tokens=(1000, 0, 1101), shown=101)
    before = taking.get("/api/status")["calls"]
    taking.send(writer.document())
    taking.until(lambda status: status["calls"] == before + 1)
    brief = taking.get(f"/api/traces/{trace:032x}")["headline"]
    assert brief["output_tokens"] == 1101
    assert brief["tokens_per_s"] == pytest.approx(100 / 0.1)


def test_calls_newest_first_with_their_phases(asked: Viewer) -> None:
    answer = asked.get("/api/calls", limit=2)
    assert answer["total"] == 40
    first, second = answer["calls"]
    assert (first["trace_id"], second["trace_id"]) == (f"{40:032x}", f"{39:032x}")
    assert (first["model"], first["outcome"], first["causes"]) == ("gpt-4o", "error", ["queueing", "network"])
    assert first["confidence"] == [0.9, 0.4]
    assert first["start_us"] == EPOCH // 1000 + 39_000_000
    assert [phase["name"] for phase in first["phases"]] == ["network", "queue", "prefill", "decode"]
    assert first["phases"][1] == {
        "name": "queue", "start_s": 0.01, "duration_s": 0.5, "source": "client", "uncertainty_s": None,
    }  # fmt: skip
    assert first["duration_s"] == pytest.approx(0.699)
    assert first["cost_usd"] == pytest.approx(1000 * 0.15e-6 + 101 * 0.6e-6)
    assert second["causes"] == []


@pytest.mark.parametrize("order", ["newest", "slowest", "ttft", "tokens", "cost"])
def test_every_page_of_every_order(asked: Viewer, order: str) -> None:
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        answer = asked.get("/api/calls", order=order, limit=7, **after)
        seen += [call["trace_id"] for call in answer["calls"]]
        if answer["next"] is None:
            break
        after = {"after": answer["next"]}
    assert len(seen) == len(set(seen)) == 40
    if order == "slowest":
        assert seen[:10] == [f"{number + 1:032x}" for number in range(39, 0, -4)]


def test_filters(asked: Viewer) -> None:
    def count(**filters: object) -> int:
        return asked.get("/api/calls", **filters)["total"]

    assert count(model="gpt-4o") == 10
    assert count(model=["gpt-4o", "gpt-4o-mini"]) == 40
    assert count(cause="network") == 10
    assert count(cause=["network", "nothing"], outcome="completed") == 0
    assert count(route="openai gpt-4o @ api.openai.com") == 10
    assert count(provider="openai", service="app") == 40
    assert count(slower_s=0.6) == 10
    assert count(since_us=EPOCH // 1000 + 35_000_000) == 5
    assert count(since_us=EPOCH // 1000, until_us=EPOCH // 1000 + 3_000_000) == 4
    assert count(q="CHAT GPT-4O-M") == 30
    assert count(q=f"{17:032x}") == 1
    assert count(q="100%_' OR true --") == 0


def test_facets_count_with_all_filters_but_their_own(asked: Viewer) -> None:
    facets = asked.get("/api/facets", model="gpt-4o")
    assert facets["model"] == [{"value": "gpt-4o-mini", "count": 30}, {"value": "gpt-4o", "count": 10}]
    assert facets["outcome"] == [{"value": "error", "count": 10}]
    assert {each["value"] for each in facets["cause"]} == {"queueing", "network"}


def test_percentiles(asked: Viewer) -> None:
    answer = asked.get("/api/percentiles", outcome="completed", buckets=4)
    assert answer["count"] == 30
    phases = {phase["name"]: phase for phase in answer["phases"]}
    assert list(phases) == ["network", "queue", "prefill", "decode"]
    assert phases["queue"]["p50"] == pytest.approx(0.005)
    assert phases["queue"]["sources"] == {"client": 30}
    assert phases["decode"]["sum_s"] == pytest.approx(3.0)
    assert phases["prefill"]["p90"] <= 0.088
    assert sum(bucket["count"] for bucket in answer["over_time"]) == 30
    assert all(bucket["errors"] == 0 for bucket in answer["over_time"])
    assert len(answer["over_time"]) == 4
    assert asked.get("/api/percentiles", model="none")["over_time"] == []


def test_compare_two_calls(asked: Viewer) -> None:
    a, b = asked.get("/api/calls", limit=2)["calls"]
    assert [call.pop("root") for call in (a, b)] == ["chat gpt-4o", "chat gpt-4o-mini"]
    names = [f"{call['trace_id']}:{call['span_id']}" for call in (a, b)]
    answer = asked.get("/api/compare", a=names[0], b=names[1])
    assert answer["a"] == a
    assert answer["duration_difference_s"] == pytest.approx(-0.496)
    assert {phase["name"]: round(phase["difference_s"], 6) for phase in answer["phases"]}["queue"] == -0.495
    told = {each["key"]: (each["a"], each["b"]) for each in answer["attributes"]}
    assert told["gen_ai.request.model"] == ("gpt-4o", "gpt-4o-mini")
    assert told["llmtrace.diagnosis"] == (["queueing", "network"], None)
    assert "gen_ai.operation.name" not in told
    assert "no call" in asked.get("/api/compare", 404, a=names[0], b="abc:1")["error"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/api/calls?modle=x", "there are service, route, provider, model, outcome, cause"),
        ("/api/calls?order=oldest", "newest, slowest, ttft, tokens, cost"),
        ("/api/calls?limit=0", "from 1 to 1000"),
        ("/api/calls?after=x", "no cursor"),
        ("/api/calls?since_us=yesterday", "since_us is no number"),
        ("/api/calls?slower_s=nan", "slower_s is no number"),
        ("/api/percentiles?buckets=-1", "from 1 to 500"),
        ("/api/compare?a=1&b=2", "TRACE:SPAN"),
        ("/api/status?x=1", "there are none"),
        ("/api/traces/xyz", "hexadecimal"),
    ],
)
def test_what_cannot_be_answered_is_told(asked: Viewer, path: str, words: str) -> None:
    assert words in asked.get(path, 400)["error"]


def test_what_is_not_there(asked: Viewer) -> None:
    assert "no trace" in asked.get(f"/api/traces/{1 << 100:032x}", 404)["error"]
    assert asked.get("/api/nothing", 404)["error"]
    assert asked.ask("/api/status", b"")[0] == 405


def test_a_browser_at_a_wrong_path_gets_a_page(asked: Viewer) -> None:
    browser = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    code, headers, body = asked.ask("/trace/1", headers=browser)
    assert (code, headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert b'href="/#/calls"' in body
    for of_programs in ("/api/nothing", "/v1/nothing"):
        assert asked.ask(of_programs, headers=browser)[1]["content-type"] == "application/json"
    assert asked.ask("/trace/1")[1]["content-type"] == "application/json"


def test_the_page_and_its_files(asked: Viewer) -> None:
    code, headers, body = asked.ask("/")
    assert (code, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"<!doctype html>" in body
    assert "default-src 'self'" in headers["content-security-policy"]
    code, headers, body = asked.ask("/assets/palette.css")
    assert (code, headers["content-type"]) == (200, "text/css; charset=utf-8")
    for wrong in ("/assets/nothing.js", "/assets/../app.py", "/assets/%2e%2e%2fapp.py"):
        assert asked.ask(wrong)[0] == 404


def test_time_lost_to_retries_has_a_row(taking: Viewer) -> None:
    first, other = 1 << 24, (1 << 24) + 1  # no other test has these
    writer = Writer(count=1 << 40)
    marks = {"gen_ai.operation.name": "chat", "llmtrace.call.outcome": "completed", "llmtrace.schema_version": 1}
    own = writer.span("chat gpt-4o-mini", 0.0, 200.0, marks, trace=first, kind=3)
    writer.span("llm.attempt", 0.0, 50.0, {"http.response.status_code": 429}, trace=first, parent=own)
    second = writer.span("llm.attempt", 90.0, 200.0, {}, trace=first, parent=own)
    for name, start, end in (("network", 90.0, 100.0), ("decode", 100.0, 200.0)):
        part = {"llmtrace.phase": name, "llmtrace.phase.source": "client"}
        writer.span(f"llm.{name}", start, end, part, trace=first, parent=second)
    writer.call(1000.0, [("network", 10.0), ("decode", 100.0)], trace=other)
    before = taking.get("/api/status")["calls"]
    taking.send(writer.document())
    taking.until(lambda status: status["calls"] == before + 2)
    (retried,), (plain,) = (taking.get("/api/calls", q=f"{trace:032x}")["calls"] for trace in (first, other))
    assert [phase["name"] for phase in retried["phases"]] == ["retry", "network", "decode"]
    names = [f"{call['trace_id']}:{call['span_id']}" for call in (retried, plain)]
    answer = taking.get("/api/compare", a=names[0], b=names[1])
    rows = {phase["name"]: phase["difference_s"] for phase in answer["phases"]}
    assert rows["retry"] < 0
    assert sum(rows.values()) == pytest.approx(answer["duration_difference_s"]), "the rows add up to the total"
