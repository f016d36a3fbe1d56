"""Engines' own spans: what they tell becomes phases, joined to the client's call where there is one, counted once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtrace.analyze import engine_spans, otlp, reports
from llmtrace.analyze.book import Book
from llmtrace.analyze.load import load
from llmtrace.errors import LlmtraceError
from llmtrace.view import calls, tree
from llmtrace.view.selection import select
from tests.analyze import engines
from tests.analyze.writing import Writer

VLLM = {"queue": 0.2, "prefill": 0.3, "decode": 0.4}
ALONE = {
    "vllm": (engines.vllm, VLLM),
    "sglang": (engines.sglang, {"queue": 0.2, "prefill": 0.24, "decode": 0.48}),
    "tgi": (engines.tgi, {"queue": 0.1, "opaque": 0.89}),
    "triton": (engines.triton, {"queue": 0.1, "opaque": 0.88}),
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTRACE_CACHE", str(tmp_path / "cache"))


def reported(folder: Path, writers: Iterable[Writer]) -> tuple[int, dict[str, tuple[float, str]]]:
    """The number of calls, and of each phase the seconds in all and who told them, as ``report phases`` reads them."""
    with load([engines.save(folder / "spans.jsonl", writers)]) as traces:
        book = Book(traces)
        ((count,),) = book.rows(book.calls.agg(n=book.calls.count()))
        rows = book.rows(book.phases.select("phase", "seconds", "source"))
        found: dict[str, tuple[float, str]] = {}
        for phase, seconds, source in rows:
            found[phase] = (round(found.get(phase, (0.0, ""))[0] + seconds, 6), source)
        reports.make("phases", book, reports.Options())  # and it can be drawn
        return count, found


def by_server(phases: dict[str, float]) -> dict[str, tuple[float, str]]:
    return {name: (pytest.approx(seconds, abs=1e-6), "server") for name, seconds in phases.items()}  # type: ignore[misc]


def client_call(phases: list[tuple[str, float]], trace: int) -> tuple[Writer, str]:
    writer = Writer(count=1_000_000 * trace)
    return writer, writer.call(0, phases, trace=trace)


def other_tracers(trace: int) -> tuple[Writer, str]:
    """A client's call by a tracer that knows no phases, 1 s, and the span of its transport."""
    writer = Writer(count=1_000_000 * trace)
    said = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.provider.name": "openai"}
    call = writer.span("chat m", 0, 1000, said, trace=trace, kind=3)
    return writer, writer.span("POST", 5, 995, trace=trace, parent=call, kind=3)


class TestAlone:
    @pytest.mark.parametrize("engine", ALONE)
    def test_an_engines_span_is_a_call_with_phases(self, engine: str, tmp_path: Path) -> None:
        write, phases = ALONE[engine]
        assert reported(tmp_path, [write()]) == (1, by_server(phases))

    @pytest.mark.parametrize("engine", ["sglang", "triton"])
    def test_each_span_may_be_exported_by_itself(self, engine: str, tmp_path: Path) -> None:
        write, phases = ALONE[engine]
        assert reported(tmp_path, engines.one_by_one(write())) == (1, by_server(phases))

    def test_triton_tells_the_model(self, tmp_path: Path) -> None:
        with load([engines.save(tmp_path / "spans.jsonl", [engines.triton()])]) as traces:
            book = Book(traces)
            assert book.rows(book.calls.select("route", "request_model")) == [("triton llama", "llama")]

    def test_tritons_moments_on_one_span(self, tmp_path: Path) -> None:
        assert reported(tmp_path, [engines.triton(own_span=False)]) == (1, by_server({"queue": 0.1, "opaque": 0.88}))

    def test_a_model_within_an_ensemble_is_no_call(self, tmp_path: Path) -> None:
        ensemble = engines.triton()
        ensemble.spans[0]["attributes"][3]["value"] = {"intValue": "2"}
        with pytest.raises(LlmtraceError, match="no LLM calls"):
            reported(tmp_path, [ensemble])

    @pytest.mark.parametrize("unit", [1, 1e3, 1e6, 1e9])
    def test_the_unit_is_judged_by_the_spans_length(self, unit: float, tmp_path: Path) -> None:
        assert reported(tmp_path, [engines.vllm(unit=unit)]) == (1, by_server(VLLM))

    def test_numbers_that_fit_in_no_unit_are_no_phases(self, tmp_path: Path) -> None:
        with pytest.raises(LlmtraceError, match="no LLM calls"):
            reported(tmp_path, [engines.vllm(unit=1e15)])

    def test_tensorrt_llm_leaves_prefill_to_be_reckoned(self, tmp_path: Path) -> None:
        told = engines.vllm(time_in_model_prefill=None, time_in_model_decode=None, time_in_model_inference=None)
        told.scope = "tensorrt_llm"
        count, phases = reported(tmp_path, [told])
        assert (count, phases) == (1, by_server({"queue": 0.2, "prefill": 0.31, "decode": 0.41}))

    @pytest.mark.parametrize("odd", [10**400, -1, float("nan"), float("inf"), True, "0.2"])
    def test_one_odd_number_costs_itself_only(self, odd: Any, tmp_path: Path) -> None:
        told = engines.vllm(time_in_queue=None)
        value = {"intValue": str(odd)} if type(odd) is int else engines.attributes({"x": odd})[0]["value"]
        told.spans[0]["attributes"].append({"key": "gen_ai.latency.time_in_queue", "value": value})
        (call,) = TestShow().nodes(str(told.save(tmp_path / "odd.jsonl")))
        found = [each.span.attributes["llmtrace.phase"] for each in calls.phases(call)]
        assert found == ["prefill", "decode"]

    def test_only_the_first_tokens_time(self, tmp_path: Path) -> None:
        told = engines.vllm(**dict.fromkeys(engines.LATENCIES) | {"time_to_first_token": 0.51})
        assert reported(tmp_path, [told]) == (1, by_server({"queue_prefill": 0.51, "decode": 0.41}))

    def test_parts_longer_than_the_whole(self, tmp_path: Path) -> None:
        count, phases = reported(tmp_path, [engines.vllm(time_in_model_decode=0.9)])
        assert (count, phases) == (1, {}), "a call, whose phases nobody can lay out"


class TestJoined:
    """One call where the trace has the client's and the engine's."""

    @pytest.mark.parametrize("engine", ALONE)
    def test_a_call_without_phases_takes_the_engines(self, engine: str, tmp_path: Path) -> None:
        write, phases = ALONE[engine]
        writer, transport = other_tracers(5)
        assert reported(tmp_path, [writer, write(trace=5, parent=transport)]) == (1, by_server(phases))

    def test_a_call_that_knows_its_phases_keeps_them(self, tmp_path: Path) -> None:
        own = [("network", 20.0), ("queue", 190.0), ("prefill", 310.0), ("decode", 420.0)]
        writer, call = client_call(own, 5)
        count, phases = reported(tmp_path, [writer, engines.vllm(20, trace=5, parent=call)])
        assert count == 1
        assert phases == {name: (pytest.approx(ms / 1e3), "client") for name, ms in own}

    def test_what_the_client_could_not_tell_apart(self, tmp_path: Path) -> None:
        writer, call = client_call([("network", 20.0), ("queue_prefill", 560.0), ("decode", 420.0)], 5)
        count, phases = reported(tmp_path, [writer, engines.vllm(20, trace=5, parent=call)])
        assert count == 1
        assert phases == {
            "network": (0.02, "client"),
            "unattributed": (0.06, "client"),
            "queue": (0.2, "server"),
            "prefill": (0.3, "server"),
            "decode": (0.42, "client"),
        }

    def test_a_whole_answer_that_was_opaque(self, tmp_path: Path) -> None:
        writer, call = client_call([("network", 20.0), ("opaque", 980.0)], 5)
        count, phases = reported(tmp_path, [writer, engines.vllm(20, trace=5, parent=call)])
        assert count == 1
        assert phases == by_server(VLLM) | {"network": (0.02, "client"), "unattributed": (0.08, "client")}

    def test_each_call_takes_its_own_engines(self, tmp_path: Path) -> None:
        writers: list[Writer] = []
        for trace in (5, 6):
            writer, transport = other_tracers(trace)
            writers += [writer, engines.vllm(trace=trace, parent=transport)]
        count, phases = reported(tmp_path, [*writers, engines.vllm(trace=7)])
        assert count == 3
        assert phases == by_server({name: 3 * seconds for name, seconds in VLLM.items()})

    def test_an_engine_behind_another_counts_once(self, tmp_path: Path) -> None:
        front = engines.vllm(trace=5)
        above = str(front.spans[0]["spanId"])
        behind = engines.vllm(trace=5, parent=above)
        behind.spans[0]["spanId"] = f"{77:016x}"
        assert reported(tmp_path, [front, behind])[0] == 1


class TestClaims:
    """Nobody else's span is taken for an engine's."""

    def span(self, **fields: Any) -> otlp.Span:
        plain: dict[str, Any] = {"trace_id": "1" * 32, "span_id": "1" * 16, "parent_id": None, "name": "x"}
        return otlp.Span(**(plain | {"kind": "server", "start_ns": 1, "end_ns": 10**9} | fields))

    @pytest.mark.parametrize(
        "fields",
        [
            {"name": "llm_request"},
            {"name": "generate", "attributes": {"queue_time": "1ms", "inference_time": "2ms"}},
            {"name": "prefill_forward"},
            {"name": "decode_forward", "scope": otlp.Scope("my.app")},
            {"name": "Req 12"},
            {"kind": "client", "attributes": {"gen_ai.latency.e2e": 0.5, "gen_ai.latency.time_to_first_token": 0.1}},
            {"attributes": {"gen_ai.latency.e2e": "0.5"}},
            {"attributes": {"gen_ai.latency.e2e": True}},
            {"attributes": {"total_time": 1, "queue_time": 2, "inference_time": 3, "time_per_token": 4}},
        ],
    )
    def test_not_an_engines(self, fields: dict[str, Any]) -> None:
        span = self.span(**fields)
        assert engine_spans.expanded([span]) == [span]

    @given(
        st.dictionaries(
            st.sampled_from(sorted(engine_spans.MARKS | {"queue_time", "total_time", "time_per_token", "module"})),
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just("1.5ms"),
        ),
        st.sampled_from(["llm_request", " Req ab", "decode_forward", "generate"]),
        st.sampled_from(["", "sglang server", "vllm"]),
        st.integers(0, 1 << 40),
    )
    def test_whatever_they_say_phases_lie_in_order(self, attributes: Any, name: str, scope: str, end: int) -> None:
        span = self.span(name=name, scope=otlp.Scope(scope), attributes=attributes, start_ns=1, end_ns=1 + end)
        first, *made = engine_spans.expanded([span])
        assert dict(first.attributes).items() >= attributes.items()
        at = first.start_ns
        for phase in made:
            assert at <= phase.start_ns <= phase.end_ns
            at = phase.end_ns
        assert at <= first.end_ns + engine_spans.SLACK_SHARE * end + 1e9 * engine_spans.SLACK_S + 4


class TestShow:
    def nodes(self, path: str) -> list[tree.Node]:
        return [call for trace in select(path).traces for call in calls.calls(trace.roots)]

    @pytest.mark.parametrize("engine", ALONE)
    def test_an_engine_alone_is_a_call(self, engine: str, tmp_path: Path) -> None:
        write, phases = ALONE[engine]
        (call,) = self.nodes(engines.save(tmp_path / "spans.jsonl", [write()]))
        found = {str(each.span.attributes["llmtrace.phase"]): each.span.duration for each in calls.phases(call)}
        assert found == pytest.approx(phases)
        assert {each.span.attributes["llmtrace.phase.source"] for each in calls.phases(call)} == {"server"}

    @pytest.mark.parametrize("engine", ALONE)
    def test_beneath_a_client_it_is_none(self, engine: str, tmp_path: Path) -> None:
        write, _ = ALONE[engine]
        writer, transport = other_tracers(5)
        (call,) = self.nodes(engines.save(tmp_path / "a.jsonl", [writer, write(trace=5, parent=transport)]))
        assert call.span.name == "chat m"

    def test_stages_whose_request_is_not_in_the_file_make_no_call(self, tmp_path: Path) -> None:
        part = engines.sglang()
        del part.spans[0]
        assert not self.nodes(engines.save(tmp_path / "part.jsonl", [part]))

    def test_what_it_says_of_tokens_and_the_first_one(self, tmp_path: Path) -> None:
        (call,) = self.nodes(engines.save(tmp_path / "spans.jsonl", [engines.vllm(unit=1e9)]))
        facts = calls.facts(call)
        assert (facts.input_tokens, facts.output_tokens, facts.ttft) == (100, 20, pytest.approx(0.51))
