"""Each report over traces of known content: the figures are worked out by hand here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtrace.analyze import compare, reports, whatif
from llmtrace.analyze.book import Book
from llmtrace.analyze.load import load
from llmtrace.analyze.report import Report, Section, as_json, cell, plain
from llmtrace.errors import LlmtraceError
from tests.analyze.writing import Writer

CALM = [("network", 10), ("queue", 20), ("prefill", 100), ("decode", 400)]
ROUTE = "openai gpt-4o-mini @ api.openai.com"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTRACE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def writer() -> Writer:
    return Writer()


class Reader:
    """Reports on what a writer wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def save(self, writer: Writer) -> str:
        self.count += 1
        return str(writer.save(self.folder / f"{self.count}.jsonl"))

    def __call__(self, name: str, writer: Writer, **options: Any) -> Report:
        with load([self.save(writer)]) as traces:
            return reports.make(name, Book(traces), reports.Options(**options))


@pytest.fixture
def report(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


def section(made: Report, title: str) -> Section:
    (found,) = [each for each in made.sections if each.title == title]
    return found


def table(made: Report, title: str) -> list[dict[str, Any]]:
    found = section(made, title)
    names = [column.title for column in found.columns]
    return [dict(zip(names, row, strict=True)) for row in found.rows]


def test_phases(writer: Writer, report: Reader) -> None:
    for number in range(10):
        writer.call(number * 1000, CALM)
    writer.call(20_000, [("queue_prefill", 70), ("decode", 1000)], outcome="error")
    made = report("phases", writer)
    (route,) = table(made, "By route")
    assert (route["route"], route["calls"]) == (ROUTE, 11)
    assert route["p50"] == pytest.approx(0.53)
    assert route["p99"] == pytest.approx(1.07, rel=0.06)
    assert route["failed"] == pytest.approx(1 / 11)
    by_phase = {row["phase"]: row for row in table(made, "By phase")}
    assert by_phase["prefill"]["calls"] == 10
    assert by_phase["prefill"]["mean"] == pytest.approx(0.1)
    assert by_phase["decode"]["share"] == pytest.approx(5.0 / (10 * 0.53 + 1.07))
    assert by_phase["decode"]["per token"] == pytest.approx(5.0 / (11 * 101))
    assert by_phase["queue"]["known by"] == "client"
    assert "most of the time is decode" in made.headline
    assert any("not told apart" in note for note in made.notes)


def test_phases_lie_under_the_attempt_that_answered(writer: Writer, report: Reader) -> None:
    call = writer.call(0, [], trace=7)
    writer.spans[-1]["endTimeUnixNano"] = str(int(writer.spans[-1]["startTimeUnixNano"]) + 900_000_000)
    writer.span("llm.attempt", 0, 100, {"http.response.status_code": 429}, trace=7, parent=call)
    last = writer.span("llm.attempt", 300, 900, {"http.response.status_code": 200}, trace=7, parent=call)
    said = {"llmtrace.phase": "prefill", "llmtrace.phase.source": "server"}
    writer.span("llm.prefill", 300, 900, said, trace=7, parent=last)
    with load([report.save(writer)]) as traces:
        book = Book(traces)
        ((attempts, prefill),) = book.rows(book.calls.select("attempts", "s_prefill"))
    assert (attempts, prefill) == (2, pytest.approx(0.6))


def test_two_tracers_count_a_call_once(writer: Writer, report: Reader) -> None:
    outer = writer.span("ChatCompletion", 0, 600, {"openinference.span.kind": "LLM"}, trace=9)
    writer.call(10, CALM, trace=9, parent=outer)
    (route,) = table(report("phases", writer), "By route")
    assert route["calls"] == 1


@pytest.mark.parametrize("between", [False, True])
def test_a_gateways_own_call_is_the_clients(writer: Writer, report: Reader, between: bool) -> None:
    """Counted once, as the client saw it: only the client's call knows the price that the gateway told."""
    where = {"llmtrace.route.fingerprint": "model=m;upstream=eu;deployment=dep-a", "llmtrace.cost.usd": 0.5}
    outer = writer.call(0, CALM, trace=9, marks={"gen_ai.response.id": "same", **where})
    if between:
        outer = writer.span("POST /v1/chat/completions", 5, 500, {}, trace=9, parent=outer)
    writer.call(10, CALM[1:], trace=9, parent=outer, marks={"gen_ai.response.id": "same"})
    writer.call(2000, CALM, trace=9, marks={"gen_ai.response.id": "another"})
    (route,) = table(report("phases", writer), "By route")
    assert route["calls"] == 2
    (model,) = table(report("cost", writer), "By model")
    assert model["calls"] == 2
    assert model["cost"] > 0.5


@pytest.mark.parametrize("between", [1, 2, 12])
def test_what_lies_between_two_llm_spans_does_not_count_a_call_twice(
    writer: Writer, report: Reader, between: int
) -> None:
    above = writer.span("ChatOpenAI", 0, 600, {"openinference.span.kind": "LLM"}, trace=9)
    for number in range(between):
        above = writer.span(
            f"RunnableSequence {number}", 0, 600, {"openinference.span.kind": "CHAIN"}, trace=9, parent=above
        )
    writer.call(10, CALM, trace=9, parent=above)
    writer.call(2000, CALM, trace=10)
    (route,) = table(report("phases", writer), "By route")
    assert (route["route"], route["calls"]) == (ROUTE, 2)


def test_a_gateways_own_call_behind_its_server_span_is_no_inner_one(writer: Writer, report: Reader) -> None:
    call = writer.call(0, CALM, trace=9)
    server = writer.span("POST /v1/chat/completions", 20, 500, trace=9, parent=call, kind=2)
    writer.call(30, CALM, trace=9, parent=server)
    (route,) = table(report("phases", writer), "By route")
    assert route["calls"] == 2


def test_whatif_knows_what_retries_can_give_back(writer: Writer, report: Reader) -> None:
    call = writer.call(0, [], trace=7)
    writer.spans[-1]["endTimeUnixNano"] = str(int(writer.spans[-1]["startTimeUnixNano"]) + 3_000_000_000)
    writer.span("llm.attempt", 0, 500, {"http.response.status_code": 429}, trace=7, parent=call)
    writer.span("llm.attempt", 1500, 3000, {"http.response.status_code": 200}, trace=7, parent=call)
    with load([report.save(writer)]) as traces:
        made = whatif.make(Book(traces), {"retry": 0})
    assert table(made, "End to end")[0]["change"] == pytest.approx(-1.5)


def test_causes(writer: Writer, report: Reader) -> None:
    for number in range(9):
        writer.call(number * 1000, CALM)
    marks = {"llmtrace.diagnosis": ["queueing", "network"], "llmtrace.diagnosis.confidence": [0.9, 0.6]}
    writer.call(10_000, [("network", 500), ("queue", 2000), ("prefill", 100), ("decode", 400)], marks=marks, trace=77)
    made = report("causes", writer)
    rows = {row["cause"]: row for row in table(made, "By cause")}
    assert set(rows) == {"queueing", "network"}
    assert rows["queueing"]["calls"] == 1
    assert rows["queueing"]["beyond calm"] == pytest.approx(3.0 - 0.53)
    assert rows["queueing"]["calm p50"] == pytest.approx(0.53)
    (worst,) = table(made, "The costliest calls")
    assert worst["trace"] == f"{77:032x}"
    assert "1 of 10 calls" in made.headline


def test_cost_by_model_and_per_resolved_task(writer: Writer, report: Reader) -> None:
    for number, resolved in enumerate((True, False)):
        trace = 50 + number
        marks = {"llmtrace.task.id": f"t{number}"}
        said = {"llmtrace.task.name": "resolve ticket", "llmtrace.task.budget": 0.0005, **marks}
        task = writer.span("task resolve ticket", 0, 5000, {**said, "llmtrace.task.resolved": resolved}, trace=trace)
        writer.call(0, CALM, trace=trace, parent=task, tokens=(1_000_000, 500_000, 100_000), marks=marks)
        checking = {**marks, "llmtrace.step.kind": "guardrail"}
        writer.call(1000, CALM, trace=trace, parent=task, tokens=(1_000_000, 0, 0), marks=checking)
        step = {"llmtrace.step.kind": "rerank", "llmtrace.cost.usd": 0.25, **marks}
        writer.span("rerank five", 2000, 2100, step, trace=trace, parent=task)
    made = report("cost", writer, span_usd=1e6)
    (model,) = table(made, "By model")
    # gpt-4o-mini: USD 0.15 a million input tokens, 0.075 cached, 0.60 output.
    first = 0.5 * 0.15 + 0.5 * 0.075 + 0.1 * 0.6
    assert model["cost"] == pytest.approx(2 * (first + 0.15))
    assert model["saved by cache"] == pytest.approx(2 * 0.5 * 0.075)
    assert model["not priced"] == 0
    assert made.headline.endswith("for 4 calls; $0.5000 for tools and other steps"), "what the components add up to"
    (task_row,) = table(made, "By task")
    assert (task_row["tasks"], task_row["resolved"], task_row["over budget"]) == (2, 1, 2)
    assert task_row["model"] == pytest.approx(2 * first)
    assert task_row["guardrail"] == pytest.approx(2 * 0.15)
    assert task_row["rerank"] == pytest.approx(0.5)
    assert task_row["telemetry"] == pytest.approx(2 * 12)  # 12 spans a task, a dollar each
    assert task_row["per resolved"] == pytest.approx(task_row["cost"])
    assert task_row["calls/task"] == 2


def test_sound_is_paid_at_the_price_of_sound(writer: Writer, report: Reader) -> None:
    from llmtrace.observe.answer import Usage
    from llmtrace.tasks import prices

    heard = {"gen_ai.usage.audio.input_tokens": 900, "gen_ai.usage.audio.output_tokens": 80}
    heard["gen_ai.usage.audio.cache_read.input_tokens"] = 150
    writer.call(0, CALM, model="gpt-realtime", answered="gpt-realtime", tokens=(1000, 200, 100), marks=heard)
    writer.call(0, CALM, tokens=(1000, 200, 100))
    known = prices.price("openai", "gpt-realtime")
    assert known is not None
    usage = Usage(
        input_tokens=1000,
        output_tokens=100,
        cached_tokens=200,
        input_by_modality={"audio": 900},
        output_by_modality={"audio": 80},
        cached_by_modality={"audio": 150},
    )
    cost = {row["model"]: row["cost"] for row in table(report("cost", writer), "By model")}
    assert cost["gpt-realtime"] == pytest.approx(known.of(usage))
    assert cost["gpt-4o-mini-2024-07-18"] == pytest.approx(800 * 0.15e-6 + 200 * 0.075e-6 + 100 * 0.6e-6)


@pytest.mark.parametrize("marks", [{"llmtrace.task.id": "x"}, {}], ids=["with an id", "without"])
def test_cost_of_failures_goes_to_retries_and_cancellations(
    writer: Writer, report: Reader, marks: dict[str, str]
) -> None:
    task = writer.span("task t", 0, 9000, {"llmtrace.task.name": "t", **marks}, trace=5)
    for outcome in ("error", "cancelled", "completed"):
        writer.call(0, CALM, trace=5, parent=task, outcome=outcome, tokens=(1_000_000, 0, 0))
    (row,) = table(report("cost", writer), "By task")
    assert (row["retries"], row["cancelled"], row["model"]) == pytest.approx((0.15, 0.15, 0.15))
    assert row["per resolved"] is None


def test_repairs_stand_apart(writer: Writer, report: Reader) -> None:
    task = writer.span("task t", 0, 9000, {"llmtrace.task.name": "t", "llmtrace.task.id": "x"}, trace=5)
    writer.call(0, CALM, trace=5, parent=task, tokens=(1_000_000, 0, 0))
    for number in (1, 2):
        marks = {"llmtrace.call.repairs": number}
        writer.call(1000 * number, CALM, trace=5, parent=task, tokens=(2_000_000, 0, 100), marks=marks)
    made = report("cost", writer)
    (model,), (row,) = table(made, "By model"), table(made, "By task")
    cost = 2 * (2 * 0.15 + 100 * 0.6e-6)
    assert (model["calls"], model["repairs"], model["repair tokens"]) == (3, 2, 4_000_200)
    assert model["repair cost"] == pytest.approx(cost)
    assert model["cost"] == pytest.approx(cost + 0.15)
    assert (row["repair"], row["model"]) == pytest.approx((cost, 0.15))
    assert row["repairs/task"] == 2


def test_models_without_a_price_are_named(writer: Writer, report: Reader) -> None:
    writer.call(0, CALM, model="no-such-model", answered="no-such-model")
    made = report("cost", writer)
    assert "no price known" in made.headline
    assert any("1 of 1 call without a price" in note for note in made.notes)


def test_cancellations(writer: Writer, report: Reader) -> None:
    writer.call(0, CALM)
    marks = {
        "llmtrace.cancellation.phase": "decode",
        "llmtrace.cancellation.cause": "closed",
        "llmtrace.cancellation.delivered_tokens": 40,
        "llmtrace.cancellation.billed_tokens.lower": 50,
        "llmtrace.cancellation.billed_tokens.upper": 200,
        "llmtrace.cancellation.time_to_close": 0.004,
    }
    writer.call(2000, CALM, outcome="closed_early", tokens=(1_000_000, 0, 40), marks=marks, trace=3)
    made = report("cancellations", writer)
    (row,) = table(made, "By route, outcome and phase")
    assert (row["outcome"], row["in phase"], row["calls"]) == ("closed_early", "decode", 1)
    assert (row["delivered"], row["billed ≥"], row["billed ≤"]) == (40, 50, 200)
    assert row["to close p50"] == pytest.approx(0.004)
    assert row["cost ≥"] == pytest.approx(0.15 + 50 * 0.6e-6)
    assert row["cost ≤"] == pytest.approx(0.15 + 200 * 0.6e-6)
    (longest,) = table(made, "The longest")
    assert (longest["trace"], longest["cause"]) == (f"{3:032x}", "closed")


def test_cancelled_calls_are_billed_exactly_where_somebody_tells(writer: Writer, report: Reader) -> None:
    cut = {"llmtrace.cancellation.billed_tokens.lower": 50, "llmtrace.cancellation.billed_tokens.upper": 200}

    def cancelled(trace: int, **more: Any) -> str:
        return writer.call(0, CALM, outcome="cancelled", tokens=(1000, 0, 40), marks={**cut, **more}, trace=trace)

    # vLLM's span counts the tokens; this one lies under a transport's span.
    transport = writer.span("POST", 0, 900, trace=1, parent=cancelled(1), kind=3)
    writer.span("llm_request", 0, 900, {"gen_ai.usage.completion_tokens": 61}, trace=1, parent=transport, kind=2)
    # The reference server's does not, its decode phase does.
    served = writer.span("llm_request", 0, 900, trace=2, parent=cancelled(2), kind=2)
    writer.span(
        "llm.decode", 500, 900, {"llmtrace.phase": "decode", "llmtrace.phase.tokens": 62}, trace=2, parent=served
    )
    # Somebody asked for the usage afterwards, in another trace.
    cancelled(3, **{"gen_ai.response.id": "gen-1"})
    later = {"gen_ai.response.id": "gen-1", "gen_ai.usage.output_tokens": 63}
    writer.span("look up generation", 5000, 5100, later, trace=9)
    cancelled(4)
    made = report("cancellations", writer)
    (row,) = table(made, "By route, outcome and phase")
    assert (row["calls"], row["exactly known"]) == (4, 3)
    found = {row["trace"]: (row["billed ≥"], row["billed ≤"]) for row in table(made, "The longest")}
    assert found == {f"{1:032x}": (61, 61), f"{2:032x}": (62, 62), f"{3:032x}": (63, 63), f"{4:032x}": (50, 200)}


def test_a_refused_call_costs_nothing_and_one_that_may_have_begun_stays_within_bounds(
    writer: Writer, report: Reader
) -> None:
    limits = {"gen_ai.request.max_tokens": 500, "llmtrace.cancellation.billed_tokens.upper": 500}
    for number, kind in enumerate(("429", "400", "408", "500", "APIConnectionError")):
        span = {**limits, "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "error.type": kind}
        span |= {"gen_ai.request.model": "gpt-4o-mini", "llmtrace.schema_version": 2, "llmtrace.call.outcome": "error"}
        writer.span("chat gpt-4o-mini", number * 10, number * 10 + 5, span, trace=number + 1, kind=3)
    made = report("cancellations", writer)
    rows = {row["cause"]: row for row in table(made, "The cancellation tax, by cause, route and who told it")}
    refused, failed = rows["refused"], rows["server error"]
    assert (refused["calls"], refused["exactly known"], refused["tax"], refused["told by"]) == (2, 2, 0, "the refusal")
    assert (failed["calls"], failed["exactly known"], failed["tax ≤"]) == (3, 0, 1500)
    assert "exactly 0 tokens ($0) in 2 calls" in made.headline


def test_floor(writer: Writer, report: Reader) -> None:
    for number in range(20):
        writer.call(number * 1000, CALM)
    for number in range(20):
        slow = [("network", 30), ("queue", 220), ("prefill", 300), ("decode", 800)]
        writer.call((100 + number) * 1000, slow)
    made = report("floor", writer)
    (row,) = table(made, "By route, a mean call")
    assert row["floor"] == pytest.approx(0.51)
    assert row["took"] == pytest.approx((0.53 + 1.35) / 2)
    assert row["+ queue"] == pytest.approx(0.12)
    assert row["+ prefill"] == pytest.approx(0.1)
    assert row["+ decode"] == pytest.approx(0.2)
    assert row["+ network"] == pytest.approx(0.01)
    assert row["prefill floor /token"] == pytest.approx(1e-4)
    assert row["ITL floor"] == pytest.approx(0.004)


def test_reasoning_that_no_stream_shows_is_part_of_the_floor_and_sets_none(writer: Writer, report: Reader) -> None:
    for number in range(20):
        writer.call(number * 1000, CALM)
    for number in range(10):
        thought = [("network", 10), ("queue_prefill", 4120), ("decode", 400)]
        writer.call((100 + 10 * number) * 1000, thought, tokens=(1000, 0, 1101), shown=101)
    (row,) = table(report("floor", writer), "By route, a mean call")
    assert row["prefill floor /token"] == pytest.approx(1e-4)
    assert row["ITL floor"] == pytest.approx(0.004), "not what 1,100 tokens in 0.4 s would be"
    assert row["floor"] == pytest.approx((20 * 0.51 + 10 * 4.51) / 30)


def test_floor_needs_enough(writer: Writer, report: Reader) -> None:
    writer.call(0, CALM)
    assert report("floor", writer).headline == "no route has a floor yet"


def test_models(writer: Writer, report: Reader) -> None:
    hour = 3_600_000
    for number in range(4):
        writer.call(number * hour, CALM)
    for number in range(4, 6):
        writer.call(number * hour, CALM, answered="gpt-9-turbo")
    made = report("models", writer)
    rows = {row["answered"]: row for row in table(made, "Who answered")}
    assert rows["gpt-4o-mini-2024-07-18"]["calls"] == 4
    assert rows["gpt-9-turbo"]["of the route"] == pytest.approx(1 / 3)
    (change,) = table(made, "Changes")
    assert change["how"] == "replaced"
    assert made.notes == ["answered under another name than asked: gpt-4o-mini → gpt-9-turbo"]
    chart = section(made, "Who answered").chart
    assert chart is not None
    assert len(chart.bars) == 6


def test_models_behind_a_gateway(writer: Writer, report: Reader) -> None:
    hour = 3_600_000
    for number in range(6):
        upstream = "Groq" if number < 4 else "Azure"
        who = {"llmtrace.route.fingerprint": f"model=m;upstream={upstream};deployment=d1", "llmtrace.cost.usd": 0.25}
        writer.call(number * hour, CALM, answered="m", marks=who)
    made = report("models", writer)
    rows = {row["upstream"]: row for row in table(made, "Who answered")}
    assert {upstream: row["calls"] for upstream, row in rows.items()} == {"Groq": 4, "Azure": 2}
    assert rows["Groq"]["fingerprint"] == "deployment=d1"
    (change,) = table(made, "Changes")
    assert (change["from"], change["to"], change["how"]) == (
        "m Groq deployment=d1",
        "m Azure deployment=d1",
        "replaced",
    )
    (row,) = table(report("cost", writer), "By model")
    assert row["cost"] == pytest.approx(1.5), "what was told counts, not the price list"


@pytest.mark.parametrize(
    ("fingerprint", "upstream", "rest"),
    [
        ("model=m;deployment=d1;region=eu", "d1", "region=eu"),
        ("model=m;upstream_model=n", "n", "-"),
        ("model=m;upstream=Groq;deployment=d1;upstream_model=n", "Groq", "deployment=d1;upstream_model=n"),
    ],
)
def test_who_answered_where_a_gateway_names_no_provider(
    fingerprint: str, upstream: str, rest: str, writer: Writer, report: Reader
) -> None:
    writer.call(0, CALM, answered="m", marks={"llmtrace.route.fingerprint": fingerprint})
    (row,) = table(report("models", writer), "Who answered")
    assert (row["upstream"], row["fingerprint"].replace("\N{EN DASH}", "-")) == (upstream, rest)


@pytest.mark.parametrize("name", reports.NAMES)
def test_other_tracers_files_say_what_they_lack(name: str, writer: Writer, report: Reader) -> None:
    said = {"gen_ai.operation.name": "chat", "gen_ai.system": "openai", "gen_ai.request.model": "gpt-4o-mini"}
    tokens = {"gen_ai.usage.prompt_tokens": 1000, "gen_ai.usage.completion_tokens": 10}
    for number in range(30):
        writer.span("openai.chat", number * 1000, number * 1000 + 500, {**said, **tokens}, trace=number + 1, kind=3)
    if name == "slo":
        with pytest.raises(LlmtraceError, match="no call has an objective"):
            report(name, writer)
        return
    if name == "fleet":
        with pytest.raises(LlmtraceError, match="no call tells a version"):
            report(name, writer)
        return
    made = report(name, writer)
    assert made.sections or made.notes
    text = json.dumps(as_json(made))
    if name == "accuracy":
        assert any("no engine told its queue or its prefill" in note for note in made.notes)
    elif name == "cache":
        assert any("no span here is llmtrace's" in note for note in made.notes)
        assert made.headline == "no provider of 30 calls counts cached tokens"
    elif name in ("phases", "causes", "cancellations", "floor"):
        assert any("another tracer" in note or "no phase" in note or "No span here" in note for note in made.notes)
    else:
        assert "gpt-4o-mini" in text


def test_no_calls_at_all(writer: Writer, report: Reader) -> None:
    writer.span("GET /", 0, 10)
    with pytest.raises(LlmtraceError, match="no LLM calls in"):
        report("phases", writer)


def test_compare_says_what_changed_and_where_the_bottleneck_went(report: Reader) -> None:
    before, after = Writer(), Writer()
    for number in range(60):
        wobble = number % 7
        before.call(number * 1000, [("network", 10), ("queue", 20), ("prefill", 100), ("decode", 400 + wobble)])
        after.call(number * 1000, [("network", 10), ("queue", 500), ("prefill", 100), ("decode", 240 + wobble)])
    with load([report.save(before)]) as old, load([report.save(after)]) as new:
        made = compare.make(Book(old), Book(new))
    rows = {row["mean of"]: row for row in table(made, "By phase")}
    assert rows["decode"]["change"] == pytest.approx(-0.16, abs=1e-3)
    assert rows["queue"]["change"] == pytest.approx(0.48)
    assert rows["decode"]["sure"] == "yes"
    assert rows["network"]["sure"] == "no"
    assert sum(row["change"] for name, row in rows.items() if name != "end to end") == pytest.approx(
        rows["end to end"]["change"]
    )
    for row in rows.values():
        assert row["from"] <= row["change"] + 1e-9
        assert row["change"] <= row["to"] + 1e-9
    assert made.headline.startswith("queue +480 ms, decode -40%")
    assert "end to end +60%" in made.headline
    assert "moved from decode to queue" in section(made, "Critical path of a mean trace").note
    percentiles = {row["of"]: row for row in table(made, "Percentiles")}
    assert percentiles["end to end p95"]["sure"] == "yes"


def test_compare_with_itself_is_sure_of_nothing(report: Reader) -> None:
    writer = Writer()
    for number in range(40):
        writer.call(number * 1000, [("queue_prefill", 50 + number), ("decode", 300 + 5 * number)])
    source = report.save(writer)
    with load([source]) as old, load([source]) as new:
        made = compare.make(Book(old), Book(new))
    assert {row["sure"] for row in table(made, "By phase")} == {"no"}
    assert "may be chance" in made.headline


def test_compare_quality_and_other_traffic(report: Reader) -> None:
    before, after = Writer(), Writer()
    for number in range(40):
        before.call(number * 1000, CALM, marks={"eval.score": 0.7 + number % 3 / 100})
        after.call(number * 1000, CALM, marks={"eval.score": 0.9 + number % 3 / 100}, tokens=(5000, 0, 101))
    sources = [report.save(before), report.save(after)]
    extra = ("eval.score",)
    with load(sources[:1], extra=extra) as old, load(sources[1:], extra=extra) as new:
        made = compare.make(Book(old), Book(new), "eval.score")
    rows = {row["mean"]: row for row in table(made, "Retries, cost and quality")}
    assert rows["eval.score"]["change"] == pytest.approx(0.2)
    assert rows["eval.score"]["sure"] == "yes"
    assert any("other input tokens than before" in note for note in made.notes)


def test_whatif_counts_only_what_is_on_the_critical_path(writer: Writer, report: Reader) -> None:
    # Two calls side by side: only the longer one is waited for.
    root = writer.span("agent", 0, 1000, trace=1)
    writer.call(0, [("prefill", 100), ("decode", 900)], trace=1, parent=root)
    writer.call(0, [("prefill", 300), ("decode", 200)], trace=1, parent=root)
    with load([report.save(writer)]) as traces:
        book = Book(traces)
        made = whatif.make(book, {"decode": 0.5})
        with pytest.raises(
            LlmtraceError, match=r"nothing in these requests is 'queue'\. There are agent, call, decode, model"
        ):
            whatif.make(book, {"queue": 0.5})
        with pytest.raises(LlmtraceError, match="decode cannot take -1 times as long"):
            whatif.make(book, {"decode": -1})
        assert whatif.make(book, {"agent": 0}).headline == "end to end -100.0%: agent is 100% of the path"
    mean = table(made, "End to end")[0]
    assert mean["now"] == pytest.approx(1.0)
    assert mean["then"] == pytest.approx(0.55)
    assert mean["without it"] == pytest.approx(0.3), "the call beside it is waited for then"


def test_cells() -> None:
    assert [cell(value, "s") for value in (0.0, 1.5e-9, 2e-6, 0.0123, 0.9996, 61, None)] == [
        "0 s", "1.50 ns", "2.00 µs", "12.3 ms", "1.00 s", "61.0 s", "\N{EN DASH}",
    ]  # fmt: skip
    assert [cell(value, "usd") for value in (0, 0.0000012, 0.0123, 12.3456)] == ["$0", "$1.20e-06", "$0.0123", "$12.35"]
    assert cell(float("nan"), "share") == "\N{EN DASH}"


def test_json_has_no_digits_that_depend_on_the_order_of_a_sum() -> None:
    assert plain(0.1 + 0.2) == plain(0.3) == 0.3
    assert plain(1_764_000_000_123_456_789.0) == 1_764_000_000_123_456_789.0
