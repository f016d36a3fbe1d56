"""What `make bench` asks, how it is answered, and what becomes of the figures."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import llmtrace
from llmtrace.calls import tracer
from llmtrace.calls.result import Result
from llmtrace.observe import stream
from llmtrace.observe.clock import now
from tests.evaluation.common.bars import Bar
from tests.evaluation.common.pages import read_section
from tests.evaluation.common.places import DOCS, ROOT
from tests.evaluation.common.tables import Table
from tests.evaluation.overhead import __main__ as bench
from tests.evaluation.overhead import concurrency, inmemory, layouts, lines, replay, replayed, results
from tests.evaluation.overhead.concurrency import Cell
from tests.evaluation.overhead.conversations import LONGEST, SHORTEST, Asker, tokens_of
from tests.evaluation.overhead.figures import call, slope
from tests.evaluation.overhead.loads import Loads
from tests.evaluation.overhead.outcome import NotMeasured, Outcome, Plan, Row
from tests.evaluation.overhead.rounds import Samples
from tests.evaluation.overhead.sinks import Sinks


@pytest.fixture
def port() -> Iterator[int]:
    """The replay server, in a process of its own."""
    command = [sys.executable, "-m", "tests.evaluation.overhead.replay"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdin
        assert server.stdout
        yield int(server.stdout.readline())
        server.stdin.close()


def test_prompts_have_every_length_and_conversations_grow() -> None:
    asker = Asker(1)
    sessions = [asker.session(6) for _ in range(200)]
    lengths = [tokens_of(messages) for session in sessions for messages in session]
    assert min(lengths) >= SHORTEST
    assert max(lengths) <= LONGEST
    assert max(lengths) > 20 * min(lengths)
    grown = [(before, after) for s in sessions for before, after in pairwise(s) if len(after) > 1]
    assert len(grown) > 100
    for before, after in grown:
        assert after[: len(before)] == before
        assert after[len(before)]["role"] == "assistant"


def test_the_same_seed_asks_the_same() -> None:
    assert Asker(5).session(8) == Asker(5).session(8)
    assert Asker(5).session(8) != Asker(6).session(8)


def test_a_paced_stream_takes_its_time_and_counts_its_prompt() -> None:
    messages = [{"role": "user", "content": "x" * 4000}, {"role": "assistant", "content": "y"}]
    messages.append({"role": "user", "content": "z" * 400})
    writes = replay.paced(messages, 2.0, random.Random(1))
    moments = [moment for moment, _ in writes]
    assert moments == sorted(moments)
    assert moments[-1] == 2.0
    body = b"".join(data for _, data in writes)
    assert body.count(b'"content": " token') == replay.PACED_CHUNKS
    usage, uncached = replay.prompt_usage(messages)
    assert usage["prompt_tokens"] == 1100
    assert usage["prompt_tokens_details"]["cached_tokens"] == 896  # type: ignore[index]
    assert uncached == 1100 - 896


def test_a_longer_prompt_waits_longer_for_its_first_token() -> None:
    def first(tokens: int) -> float:
        chance = random.Random(1)
        chance.random = lambda: 1.0  # type: ignore[method-assign]  # nobody queues
        return replay.paced([{"role": "user", "content": "x" * 4 * tokens}], 1.0, chance)[1][0]

    assert first(3000) - first(30) == pytest.approx(2970 * replay.PER_TOKEN)


def test_concurrent_sessions_lie_open_side_by_side(port: int) -> None:
    """Over real sockets: each caller has one stream open at a time, and all of them at once."""
    loads, asker = Loads(port), Asker(2)
    lag = loads.concurrent([asker.session(2) for _ in range(25)], 0.6)
    assert loads.open == 0
    assert 20 <= loads.peak <= 25
    assert len(loads.many) == 2
    assert lag.longest > 0


@pytest.fixture
def results_of() -> Iterator[list[Result]]:
    """Every call that llmtrace has ended."""
    ended: list[Result] = []
    tracer.listeners.append(ended.append)
    yield ended
    tracer.listeners.remove(ended.append)
    llmtrace.uninstrument()


def test_concurrent_calls_in_memory_are_split(results_of: list[Result]) -> None:
    """On their own clock the estimator learns what a prompt costs, so that its work is in what is counted."""
    inmemory.switched_on(inmemory.ALL_PHASES)
    with inmemory.concurrent_calls(20) as action:
        for _ in range(6):
            action()
    assert len(results_of) == 120
    assert {result.call.outcome for result in results_of} == {"completed"}
    late = [{phase.name for phase in result.phases} for result in results_of[60:]]
    assert sum({"queue", "prefill", "decode"} <= names for names in late) > 30


@pytest.mark.parametrize("mode", inmemory.MODES)
def test_what_is_counted_is_what_the_tables_say(mode: str, results_of: list[Result]) -> None:
    sinks, action = inmemory.switched_on(mode), inmemory.call()
    action()
    action()
    sinks.tracer_provider.force_flush()
    if mode == inmemory.UNSAMPLED:
        assert (sinks.dropper.spans, len(results_of)) == (0, 0)
    else:
        assert sinks.dropper.spans == 2 * 6, "the call and its five phases"
    counted = inmemory.records(sinks.collect())
    assert (counted > 0) is (mode == inmemory.ALL_PHASES)


def test_lines_are_counted_by_function(results_of: list[Result]) -> None:
    inmemory.switched_on(inmemory.ALL_PHASES)
    counted = lines.count(5)
    assert len(results_of) == 5 * (1 + 150 // 5 + 1)
    assert counted["observe/stream.py:asplice"] > 5, "a line or more for each chunk"
    packages, functions = lines.tables(counted)
    assert {"providers", "calls", "estimate"} <= {name for name, _ in packages.rows}
    assert len(functions.rows) == lines.SHOWN


def test_a_call_that_is_not_sampled_runs_few_lines(results_of: list[Result]) -> None:
    """Nothing is read for it but what the sampler decides by, and nothing is kept."""
    inmemory.switched_on(inmemory.UNSAMPLED)
    action = inmemory.call()
    action()
    run = lines.run_by(action)
    assert run.total() < 200, run.most_common()
    assert not [name for name in run if name.startswith(("estimate/", "phases/", "diagnosis/", "providers/variants"))]


def test_a_long_stream_ends_without_a_loop_over_its_chunks(
    results_of: list[Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 ms to each chunk, for which the application takes 5 us."""
    inmemory.switched_on(inmemory.NO_METRICS)
    action = inmemory.streamed_call(1000)
    begin = now()
    times = (begin + 20_000_000 * (step // 2) + (step % 2) * 19_995_000 for step in count())
    monkeypatch.setattr(stream, "now", times.__next__)
    run = lines.run_by(action)
    assert len(results_of) == 1
    at_the_end = {name for name, number in run.items() if name != "observe/stream.py:splice" and number > 500}
    assert at_the_end <= {"providers/safe.py:get"}, "which reads the last chunks"


def test_the_sdk_gets_what_llmtrace_gives_it(results_of: list[Result]) -> None:
    """The floor of the same telemetry: as many spans and attributes, and as many values."""
    sinks = inmemory.switched_on(inmemory.ALL_PHASES)
    action = inmemory.call()
    for _ in range(100):
        action()
    before = totals(sinks)
    action()
    given = [after - earlier for earlier, after in zip(before, totals(sinks), strict=True)]
    llmtrace.uninstrument()
    sinks = Sinks(sampled=True, with_metrics=True, everywhere=False)
    replayed.of_a_call(sinks, with_metrics=True)()
    assert totals(sinks) == given


def totals(sinks: Sinks) -> list[int]:
    """Spans, their attributes, and histogram records."""
    return [sinks.dropper.spans, sinks.dropper.attributes, inmemory.records(sinks.collect())]


def samples(bare: float, added: float, per_chunk: float = 0.0, rounds: int = 6) -> Samples:
    """Rounds whose costs are known, in ns."""
    found = Samples()
    for key, chunks in (("timed", 0), ("stream-0", 0), ("stream-1000", 1000)):
        for number in range(rounds):
            noise = 100 * (number % 3)
            cpu = bare + added + per_chunk * chunks + noise
            found.answers["llmtrace", key].append({"cpu": cpu * 1e3, "off": (bare + noise) * 1e3})
            found.epochs[key].append(number % 2)
    return found


def test_a_call_is_the_difference_within_each_round() -> None:
    figure = call(samples(2000, 300), "llmtrace", "timed")
    assert figure is not None
    assert (figure.value, figure.low, figure.high, figure.rounds) == (300, 300, 300, 6)


def test_a_chunk_has_its_share_of_the_end_and_not_the_call() -> None:
    figure = slope(samples(2000, 300, per_chunk=1.5), "llmtrace", "stream", (0, 1000))
    assert figure is not None
    assert figure.value == pytest.approx(1.5)


def test_a_chunk_is_the_difference_of_two_arms_over_their_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process in five lies badly, in each arm: a median does not mind."""
    asked: list[tuple[str, int]] = []

    def process(arm: str, layout: int) -> dict[str, float]:
        asked.append((arm, layout))
        us = 80.0 + 3.0 * (arm == layouts.TRACED) + 9.0 * (len(asked) % 15 < 3)
        return dict.fromkeys(layouts.KINDS, us)

    monkeypatch.setattr(layouts, "_in_a_process", process)
    known = layouts.measure(20, 7, lambda arm: None)
    assert {len(known[arm][kind]) for arm in layouts.ARMS for kind in layouts.KINDS} == {20}
    for arm, true in ((layouts.TRACED, 3.0), (layouts.CONTROL, 0.0)):
        for value, low, high in layouts.differences(known, arm).values():
            assert value == true
            assert low <= true <= high
    assert layouts.table(known).rows[0] == ["bare client (own cost)", "80.00", "80.00"]
    before, asked[:] = list(asked), []
    layouts.measure(20, 7, lambda arm: None)
    assert asked == before
    assert len({layout for _, layout in asked}) == 60


def test_a_layout_is_drawn_by_its_seed() -> None:
    sizes = [len(layouts.lay_out(seed)) for seed in range(10)]
    assert sizes == [len(layouts.lay_out(seed)) for seed in range(10)]
    assert max(sizes) - min(sizes) > layouts.MOST_CLASSES / 4


def cell(streams: int, added: float, lag: float) -> Cell:
    each = {"cpu_off": 2.5e6, "cpu_on": 2.5e6 + added * 1e3, "lag_off": 0.01, "lag_on": 0.01 * lag}
    each |= {"peak_on": streams, "peak_off": streams, "spans_on": 5.0}
    return Cell("llmtrace", streams, [dict(each) for _ in range(5)])


def test_concurrent_streams_are_held_against_their_bars() -> None:
    cells = [cell(10, 500, 1.1), cell(2000, 700, 1.3)]
    bars = {bar.what: bar for bar in concurrency._bars(cells)}
    assert bars["10 concurrent streams: a call"].met
    assert bars["2,000 concurrent streams: a call"].verdict() == "**missed** by 100 µs"
    assert bars["2,000 concurrent streams: longest lag, to the bare client's"].verdict() == "**missed** by 0.10x"
    assert bars["concurrent streams: a call at the dearest number of them, to the cheapest"].value == pytest.approx(1.4)
    assert concurrency._table(cells).rows[1][3] == "700 (700…700)"


def test_few_callers_make_many_calls_each() -> None:
    assert [concurrency.turns(streams) for streams in (10, 100, 500, 2000)] == [40, 6, 1, 1]


def test_every_row_has_its_section_on_the_page() -> None:
    for row in bench.ROWS:
        assert read_section(DOCS / "benchmarks.md", row.name)
    assert read_section(DOCS / "benchmarks.md", "bars")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page and a file of results that are not the real ones."""
    page = tmp_path / "benchmarks.md"
    page.write_text("".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in ("bars", "warm", "memory")))
    monkeypatch.setattr(results, "PAGE", page)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.json")
    return page


def measured(plan: Plan) -> Outcome:
    bars = [Bar("a chunk", 1.5, most=1.0, calls=5, unit=" µs", fewest=5)]
    return Outcome([Table("Title", ["what", "µs"], [["a chunk", "1.50"]])], bars, ["A remark."], {"us": 1.5})


def test_a_row_is_written_with_its_commit_and_its_bars(places: Path) -> None:
    plan = Plan(Console(file=io.StringIO()), quick=True, seed=7)
    assert bench.measure(Row("warm", "", measured, envs=()), plan, {}, write=True)
    results.publish_bars(["memory", "warm"])
    section = read_section(places, "warm")
    assert "| a chunk | 1.50 |" in section
    assert "A remark." in section
    assert "seed 7" in section
    assert "*Measured at" in section
    assert "changed since" not in section
    assert "| a chunk | 1.50 µs | <= 1.00 µs | **missed** by 0.50 µs | 5 |" in read_section(places, "bars")
    kept: dict[str, Any] = json.loads(results.RESULTS.read_text())
    assert kept["warm"]["figures"] == {"us": 1.5}


def test_a_row_that_cannot_be_measured_says_why_and_leaves_the_page(places: Path) -> None:
    def cannot(plan: Plan) -> Outcome:
        raise NotMeasured("valgrind is not installed")

    before, out = places.read_text(), io.StringIO()
    plan = Plan(Console(file=out, width=200), quick=True, seed=7)
    assert not bench.measure(Row("warm", "", cannot, envs=()), plan, {}, write=True)
    assert "valgrind is not installed" in out.getvalue()
    assert places.read_text() == before


def test_a_row_that_fails_costs_no_other_and_resuming_measures_it_alone(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def first_broken(plan: Plan) -> Outcome:
        asked.append("memory")
        return measured(plan) if "warm" in asked else {}["a fault of the row's"]

    def whole(plan: Plan) -> Outcome:
        asked.append("warm")
        return measured(plan)

    monkeypatch.setattr(bench, "ROWS", [Row("memory", "", first_broken, envs=()), Row("warm", "", whole, envs=())])
    monkeypatch.setattr(bench, "ROOT", places.parent)
    monkeypatch.setattr(sys, "argv", ["bench", "--resume"])
    assert bench.main() == 1
    assert results.read().keys() == {"warm"}
    assert bench.main() == 0
    assert asked == ["memory", "warm", "memory"]
    assert results.read().keys() == {"warm", "memory"}


def test_a_row_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "nonsense"])
    with pytest.raises(SystemExit):
        bench.arguments()
    assert "no such row: nonsense" in capsys.readouterr().err
