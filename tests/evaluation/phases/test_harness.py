"""Arrivals, cells, calls that are played, the client that is kept from the truth, the page, a run that is stopped."""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import math
import random
import signal
import subprocess
import sys
import xml.etree.ElementTree as xml
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.common.places import ROOT
from tests.evaluation.phases import __main__ as command
from tests.evaluation.phases import audit, live, measured, offline, recorded, report, simulated, strangers
from tests.evaluation.phases import replay as played
from tests.evaluation.phases.arrivals import ARRIVALS, Ask, Prompts
from tests.evaluation.phases.cells import TRAFFIC, Cell, warm_up
from tests.evaluation.phases.drive import Driver
from tests.evaluation.phases.engines import Engine
from tests.evaluation.phases.measured import DECODE, PREFILL, QUEUE, Measured, Truth
from tests.evaluation.phases.run import Asked, Run
from tests.evaluation.phases.truths import truth_of
from tests.support.replay import After, Replay, Request, Script
from tests.support.waiting import wait_for


# --- what is asked ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ARRIVALS)
def test_arrivals_keep_their_rate(kind: str) -> None:
    moments = ARRIVALS[kind](random.Random(4), 5.0, 4000)
    assert moments == sorted(moments)
    assert 4000 / moments[-1] == pytest.approx(5.0, rel=0.12)


def test_bursts_are_bursts() -> None:
    """The gaps of bursty arrivals scatter more than a Poisson process's, whose deviation is its mean."""
    for kind, least in (("Poisson", 0.8), ("bursty", 1.5)):
        moments = ARRIVALS[kind](random.Random(5), 5.0, 3000)
        gaps = [after - before for before, after in pairwise(moments)]
        mean = sum(gaps) / len(gaps)
        deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
        assert deviation / mean > least


def test_prompts() -> None:
    prompts = Prompts(random.Random(6), 2.0, longest=2048)
    lengths = [len(prompts.one().text.split()) / 2 for _ in range(2000)]
    assert min(lengths) >= 31
    assert max(lengths) <= 2050
    middle = sorted(lengths)[1000]
    assert middle == pytest.approx(256, rel=0.25), "log-uniform: the geometric mean of 32 and 2,048"
    shared = [prompts.one(400, share=True).text for _ in range(30)]
    assert len({text[:200] for text in shared}) <= 4
    assert len(set(shared)) == 30
    assert len({prompts.one(400).text[:200] for _ in range(30)}) == 30


def test_conversations_grow() -> None:
    asks = list(islice(Prompts(random.Random(6)).of("chat"), 48))
    assert [len(ask.messages) for ask in asks[::6]] == [1, 3, 5, 7, 9, 11, 13, 15]
    for before, after in pairwise(asks[::6]):
        assert after.messages[: len(before.messages)] == before.messages
    assert asks[1].messages != asks[0].messages


# --- what is planned --------------------------------------------------------------------------------------------------
def test_every_cell_gets_what_time_it_can_use() -> None:
    wanted = list(live.cells("vllm"))
    planned, left_out = live.plan(wanted, {"alone": 10.0, "chat": 16.0}, 600.0)
    assert left_out == []
    assert sum(each.seconds for each in planned) <= 600.0
    for each in planned:
        assert warm_up(each.cell.traffic) + live.FEWEST <= each.count <= warm_up(each.cell.traffic) + live.MOST
        assert each.rate + each.others == pytest.approx(each.cell.load * each.cell.capacity)
        assert each.rate / (each.rate + each.others) == pytest.approx(each.cell.share)


def test_cells_without_time_for_enough_calls_are_left_out() -> None:
    wanted = list(live.cells("reference"))
    planned, left_out = live.plan(wanted, {"alone": 4.0, "chat": 5.0}, 120.0)
    assert left_out
    assert len(planned) + len(left_out) == len(wanted)
    assert all(each.count >= warm_up(each.cell.traffic) + live.FEWEST for each in planned)


def test_the_dearest_cells_get_their_fewest_calls_first() -> None:
    planned, left_out = live.plan(list(live.cells("vllm")), {"alone": 9.0, "chat": 11.0}, 530.0)
    assert not left_out
    (dear,) = [each for each in planned if each.cell.traffic == "share05"]
    assert dear.count == warm_up("share05") + live.FEWEST


def test_every_kind_of_traffic_is_in_a_plan() -> None:
    live_kinds = {cell.traffic for engine in live.PLANS for cell, _ in live.cells(engine)}
    assert live_kinds | {cell.traffic for cell in simulated.cells()} == set(TRAFFIC)
    keys = [cell.key for cell in simulated.cells()]
    keys += [cell.key for engine in live.PLANS for cell, _ in live.cells(engine)]
    assert len(keys) == len(set(keys))
    twins = [cell.twin for cell in simulated.cells() if cell.twin]
    assert twins
    assert set(twins) <= set(keys)


def simulation(traffic: str, slots: str = next(iter(simulated.ENGINES))) -> Cell:
    return next(cell for cell in simulated.cells() if cell.traffic == traffic and cell.slots == slots)


def test_a_seed_repeats_its_calls() -> None:
    cell = simulation("share30")
    assert simulated.trips(cell, 5) == simulated.trips(cell, 5)
    assert simulated.trips(cell, 5) != simulated.trips(cell, 6)


def test_the_same_calls_with_and_without_usage() -> None:
    told, untold = (simulated.trips(simulation(traffic), 5) for traffic in ("alone", "nousage"))
    told = simulated.trips(next(cell for cell in simulated.cells() if cell.name == "alone 0.7"), 5)
    assert [replace(trip, usage=True) for trip in untold] == told
    assert not any(trip.usage for trip in untold)


@pytest.mark.parametrize("traffic", ["alone", "share30", "tenants20", "chat", "whole", "mixed", "regime"])
def test_simulated_truth(traffic: str) -> None:
    """Way there, queue, prefill and decode make up each call, and the client is one of many where it should be."""
    trips = simulated.trips(simulation(traffic), 7)
    for trip in trips:
        told = trip.truth
        assert min(told.queue or 0, told.prefill or 0, told.decode or 0, told.network or 0) >= 0
        parts = (told.queue or 0) + (told.prefill or 0) + (told.decode or 0) + (told.network or 0)
        hop = 0.0035  # there and back
        assert trip.end - trip.begin == pytest.approx(parts + hop, abs=1e-6)


def test_strangers_make_the_queue_longer() -> None:
    """This client's own load is the same; with 2.3 times as much of others beside it there is more to wait for."""
    cell = simulation("share30")
    quiet = replace(cell, load=cell.load * cell.share, share=1.0)
    with_others, alone = (simulated.trips(which, 3) for which in (cell, quiet))

    def queue(trips: list[played.Trip]) -> float:
        return sum(trip.truth.queue or 0.0 for trip in trips) / len(trips)

    assert len(with_others) == len(alone)
    assert queue(with_others) > 1.5 * queue(alone)


def test_a_change_and_an_image_make_prefill_longer() -> None:
    def cost(trip: played.Trip) -> float:
        return (trip.truth.prefill or 0.0) / trip.prompt

    trips = simulated.trips(simulation("regime"), 3)
    before, after = trips[: -simulated.AFTER], trips[-simulated.AFTER :]
    long = [[trip for trip in some if trip.prompt > 300] for some in (before, after)]
    means = [sum(map(cost, some)) / len(some) for some in long]
    assert means[1] > 1.4 * means[0]
    mixed = simulated.trips(simulation("mixed"), 3)
    images = [trip for trip in mixed if isinstance(trip.messages[0]["content"], list)]
    assert 0.2 < len(images) / len(mixed) < 0.4
    assert min(trip.truth.prefill or 0.0 for trip in images) > 0.2, (
        "its quarter of a second, on an engine whose steps jitter"
    )


# --- calls that are played --------------------------------------------------------------------------------------------
def trips(count: int = 60, **more: Any) -> list[played.Trip]:
    """Calls one after the other: 4 ms to the headers, prefill 10 ms + 0.1 ms a token, decode 60 ms."""
    draw = random.Random(8)
    made: list[played.Trip] = []
    for number in range(count):
        tokens, begin = round(32 * 32 ** draw.random()), number * 0.5
        prefill = 0.01 + 0.0001 * tokens
        first = begin + 0.004 + prefill
        text = f"{begin!r} ".ljust(3 * tokens, "x")
        trip = played.Trip(
            begin=begin,
            sent=begin + 0.0004,
            headers=begin + 0.004,
            first=first,
            end=first + 0.06,
            prompt=tokens,
            cached=0,
            output=16,
            truth=Truth(0.0, prefill, 0.06),
            messages=({"role": "user", "content": text},),
        )
        made.append(replace(trip, **more))
    return made


CELL = Cell("recorded", "reference", "4 slots", "alone 0.3", "alone", 0.3, 1.0)


def calls() -> list[Measured]:
    return played.play(trips(), CELL.key, 30, played.Place())


def test_a_recording_is_judged_as_live_calls_are() -> None:
    """Nothing is split before the route is known; then prefill is found, and decode is what the wire showed."""
    some = calls()
    assert [call.warm for call in some] == [False] * 30 + [True] * 30
    first, last = some[0].claim, some[-1].claim
    assert not first.split
    assert first.merged_of == (QUEUE, PREFILL)
    assert first.because == "few_calls"
    assert first.merged + first.network == pytest.approx(some[0].scale)
    assert last.split
    assert last.prefill == pytest.approx(some[-1].truth.prefill, abs=0.006)
    assert last.decode == pytest.approx(0.06, abs=0.001)
    low, high = last.ranges[PREFILL]
    assert low <= (last.prefill or 0.0) <= high


def test_whole_answers_are_played_with_their_usage() -> None:
    from llmtrace.calls import tracer
    from llmtrace.calls.result import Result

    ended: list[Result] = []
    some = [replace(trip, first=None, headers=None) for trip in trips(5)]
    tracer.listeners.append(ended.append)
    try:
        made = played.play(some, CELL.key, 0, played.Place())
    finally:
        tracer.listeners.remove(ended.append)
    assert [result.answer.usage.input_tokens for result in ended] == [trip.prompt for trip in some]
    assert {result.answer.usage.output_tokens for result in ended} == {16}
    for call in made:
        assert call.first is None
        assert call.scale == call.end
        assert {QUEUE, PREFILL, DECODE} == {*call.claim.merged_of} | {
            phase for phase in (QUEUE, PREFILL, DECODE) if getattr(call.claim, phase) is not None
        }


def test_without_usage_none_is_told() -> None:
    from llmtrace.calls import tracer
    from llmtrace.calls.result import Result

    ended: list[Result] = []
    tracer.listeners.append(ended.append)
    try:
        played.play(trips(3, usage=False), CELL.key, 0, played.Place())
    finally:
        tracer.listeners.remove(ended.append)
    assert [result.answer.usage.input_tokens for result in ended] == [None] * 3


def test_hits_are_told_where_the_provider_does_not_count() -> None:
    """Every second prompt begins as an earlier one, and costs a fifth: said of those calls, never of fresh ones."""
    from llmtrace.calls import tracer as reports
    from llmtrace.calls.result import Result

    made: list[played.Trip] = []
    for number, trip in enumerate(trips(260, cached=None)):
        beginning, share = ("shared " * 60, 0.2) if number % 2 else (f"{number} " * 150, 1.0)
        text = beginning.ljust(3 * trip.prompt, ".")
        faster = ((trip.first or 0.0) - (trip.headers or 0.0)) * (1 - share)
        message = {"role": "user", "content": text}
        made.append(replace(trip, messages=(message,), first=(trip.first or 0.0) - faster, end=trip.end - faster))
    hits: list[float | None] = []

    def listen(ended: Result) -> None:
        hits.append(ended.hit.hit)

    reports.listeners.append(listen)
    try:
        played.play(made, CELL.key, 30, played.Place())
    finally:
        reports.listeners.remove(listen)
    assert hits[0::2] == [None] * 130
    late = [probability for probability in hits[201::2] if probability is not None]
    assert len(late) == 30
    assert sum(probability > 0.5 for probability in late) > 27


@pytest.mark.shared
def test_every_recording_can_be_read() -> None:
    cells = list(recorded.cells())
    assert len(cells) == 16
    for cell, path in cells:
        some = recorded.read(path)
        assert len(some) >= 80
        assert all(trip.begin <= trip.sent <= trip.end for trip in some), path
        assert all(trip.first is None for trip in some) == cell.traffic.startswith("whole")


@pytest.mark.shared
def test_what_was_recorded_is_judged_again_as_it_was_then() -> None:
    """The published error of llmtrace as it was is near; an estimator that got better is told by being below it."""
    from tests.evaluation.phases import scoring

    (judged,) = [calls for _, calls in offline.recordings(lambda cell: cell.name == "share30_load60")]
    pairs = [(call, call.claim) for call in judged if call.warm]
    errors = scoring.errors(pairs, QUEUE)
    assert errors is not None
    assert errors.calls == 170
    assert errors.truth == pytest.approx(0.0653, abs=0.001)
    assert errors.split_share < 0.20


@pytest.mark.shared
def test_the_envelope_on_recorded_truth() -> None:
    """The published figures of a plain envelope come out of this harness too: 47 % at 18 calls/s, 12 % at 4."""
    from tests.evaluation.phases import methods, scoring

    for name, share in (("unlimited_rate18", 0.468), ("unlimited_rate4", 0.118)):
        folder = recorded.data("vllm_runs")
        assert folder is not None
        cell = next(cell for cell, _ in recorded.cells() if cell.name == name)
        some = played.play(recorded.read(folder / f"{name}.jsonl"), cell.key, 30, recorded.place(cell))
        pairs = [p for p in zip(some, methods.envelope(some, True), strict=True) if p[0].warm]
        error = scoring.errors(pairs, QUEUE)
        assert error is not None
        assert error.share == pytest.approx(share, abs=0.02)


# --- the truth, and who may know it -----------------------------------------------------------------------------------
def test_truths() -> None:
    metrics = {"queue_time_ms": 5.0, "time_to_first_token_ms": 20.0, "generation_time_ms": 100.0}
    assert truth_of({"metrics": metrics}) == Truth(0.005, 0.02, 0.1)
    assert truth_of({"timings": {"prompt_ms": 20.0, "predicted_ms": 50.0}}) == Truth(None, 0.02, 0.05)
    assert truth_of({"choices": []}) is None


USAGE = {
    "prompt_tokens": 40,
    "completion_tokens": 3,
    "total_tokens": 43,
    "prompt_tokens_details": {"cached_tokens": 16},
}
METRICS = {"queue_time_ms": 5.0, "time_to_first_token_ms": 20.0, "generation_time_ms": 100.0}


def event(**more: Any) -> bytes:
    data = {"id": "one", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": [], **more}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def choices(text: str | None, reason: str | None = None) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": reason}]


@pytest.mark.parametrize("usage", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_a_client_is_kept_from_the_truth(replay: Replay, usage: bool, together: bool) -> None:
    """Real client, real sockets: neither metrics nor, unless it asked, usage reach it, and both are known."""

    events = [event(choices=choices("a")), event(choices=choices("b")), event(choices=choices(None, "length"))]
    events += [event(usage=USAGE, metrics=METRICS), b"data: [DONE]\n\n"]
    parts = [(0.0, b"".join(events))] if together else [(0.0, part) for part in events]
    replay.play(Script(headers={"content-type": "text/event-stream"}, parts=parts))
    seen: list[Any] = []

    async def ask() -> dict[str, Any]:
        async with Driver(f"{replay.url}/v1", "tiny", usage=usage) as driver:
            options = {"stream_options": {"include_usage": True}} if usage else {}
            create: Any = driver.client.chat.completions.create
            messages = [{"role": "user", "content": "x"}]
            async for chunk in await create(model="tiny", messages=messages, stream=True, **options):
                seen.append(chunk)
            return dict(driver.blindfold.words)

    word = asyncio.run(ask())["one"]
    assert word.truth == Truth(0.005, 0.02, 0.1)
    assert (word.prompt, word.cached, word.output) == (40, 16, 3)
    assert "".join(c.delta.content or "" for chunk in seen for c in chunk.choices) == "ab"
    assert not any("metrics" in (chunk.model_extra or {}) for chunk in seen)
    assert [chunk.usage.prompt_tokens for chunk in seen if chunk.usage] == ([40] if usage else [])
    asked = json.loads(replay.requests[0].body)
    assert asked["stream_options"] == {"include_usage": True}, "the truth of streams without usage is asked for too"


def test_a_whole_answer_loses_its_timings(replay: Replay) -> None:

    message = {"index": 0, "message": {"role": "assistant", "content": "ab"}, "finish_reason": "stop"}
    body = {"id": "two", "object": "chat.completion", "created": 1, "model": "tiny", "choices": [message]}
    raw = json.dumps(body | {"usage": USAGE, "metrics": METRICS}).encode()
    replay.play(Script(headers={"content-type": "application/json"}, parts=[(0.0, raw)]))

    async def ask() -> tuple[str | None, dict[str, Any]]:
        async with Driver(f"{replay.url}/v1", "tiny", streamed=False) as driver:
            return await driver.ask(Ask(({"role": "user", "content": "x"},), 3)), dict(driver.blindfold.words)

    name, words = asyncio.run(ask())
    assert name == "two"
    assert words["two"].truth == Truth(0.005, 0.02, 0.1)


def answer_of_nothing(name: str = "one") -> Script:
    events = [event(id=name, choices=choices("a")), event(id=name, choices=choices("b", "length"))]
    events += [event(id=name, usage=USAGE, metrics=METRICS), b"data: [DONE]\n\n"]
    return Script(headers={"content-type": "text/event-stream"}, parts=[(0.0, part) for part in events])


def test_strangers_send_until_they_are_stopped_and_are_not_traced(replay: Replay) -> None:
    replay.serve(answer_of_nothing())
    with strangers.sending(replay.base_url, "tiny", "chat", 20.0, 1.0, 7, 200) as sent:
        wait_for(lambda: len(replay.requests) >= 8)
    assert sent.calls >= 8
    assert sent.failed == 0
    bodies = [json.loads(request.body) for request in replay.requests[:8]]
    begun = [len(body["messages"]) == 1 for body in bodies]
    assert begun.count(True) <= 6, "six conversations: in whatever order they arrive, the others go on with one"
    assert not any("traceparent" in request.headers for request in replay.requests)


def test_strangers_that_end_early_are_not_overlooked() -> None:
    no_length = -1
    with (
        pytest.raises(RuntimeError, match="ended early"),
        strangers.sending("http://127.0.0.1:9/v1", "tiny", "alone", 1.0, 1.0, 7, no_length) as sent,
    ):
        wait_for(sent.ended)


@pytest.mark.parametrize("traffic", ["share30", "nousage"])
def test_a_cell_is_sent_and_its_calls_meet_their_truth(replay: Replay, traffic: str) -> None:
    """Real clients over real sockets, strangers beside: what llmtrace said of each call stands beside what was told."""
    share = 0.3 if traffic == "share30" else 1.0

    def strangers_are_there() -> bool:
        return share == 1.0 or any("traceparent" not in request.headers for request in replay.requests)

    def answer(request: Request) -> Script:
        return replace(answer_of_nothing(f"answer {request.arrived}"), before=After(strangers_are_there))

    replay.serve(answer)
    engine = Engine("reference", "Replay", replay.base_url, "tiny", whole_queue=True, admitted=True)
    cell = Cell("live", "reference", "4 slots", traffic, traffic, 0.6, share)
    planned = live.Planned(cell, 40.0, 40.0 if share < 1 else 0.0, 12)
    done, some = live.play(engine, planned, 1.0, random.Random(3), lambda what, seconds: None)
    assert (done.failed, done.why) == (0, "")
    assert [call.warm for call in some] == [False] * 6 + [True] * 6
    for call in some:
        assert (call.truth.queue, call.truth.prefill, call.truth.decode) == (0.005, 0.02, 0.1)
        assert (call.prompt, call.cached, call.output) == (40, 16, 3), "known of streams without usage too"
        assert not call.claim.split, "so few calls teach nothing"
    traced = ["traceparent" in request.headers for request in replay.requests]
    assert traced.count(True) == 12
    assert (traced.count(False) > 0) == (share < 1)
    assert ("strangers sent" in done.note) == (share < 1)


# --- the page ---------------------------------------------------------------------------------------------------------
def facts(**changes: Any) -> dict[str, Any]:
    where = {"cpu": "a processor", "cores": 2, "python": "3.11", "system": "Linux", "date": "today", "seconds": 1}
    where |= {"command": "make accuracy", "load_average_at_start": 0.1, "commit": "abc1234", "code": "0" * 12}
    cell = replace(CELL, failed=1, why="APITimeoutError", capacity=2.0)
    made = {"machine": where, "seed": 1, "cells": [cell.as_json()], "audit": [], "cost": {}}
    return made | {"not_run": {"vllm": "not installed"}} | changes


def test_saved_calls_come_back(tmp_path: Path) -> None:
    some = calls()
    measured.write(tmp_path / "deep" / "calls.jsonl", facts(), some)
    assert measured.read(tmp_path / "deep" / "calls.jsonl") == (facts(), some)


def test_the_page(tmp_path: Path) -> None:
    path = report.write(tmp_path, facts(), calls())
    text = path.read_text()
    for words in (
        "seed 1",
        "Measured at commit `abc1234`; the code has changed since",
        "Not run: vllm: not installed.",
        "bars met, each decided by its worst cell",
        "met | missed (bar), cells |",
        "What was not split counts",
        "The cells of real engines, with plots: [cells.md](accuracy/cells.md). All 1, with",
    ):
        assert words in text
    cells = (tmp_path / "accuracy" / "cells.md").read_text()
    for words in (
        "Measured at commit `abc1234`; the code has changed since",
        "reference, alone 0.3: 1 calls had no answer or no truth (the first: APITimeoutError)",
    ):
        assert words in cells
    assert "nan" not in cells
    assert text.index("## In short") < text.index("## How to read it")
    assert "nan" not in text
    for line in text.splitlines():
        if line.startswith("!["):
            drawing = (tmp_path / line.partition("(")[2].rstrip(")")).read_text()
            assert xml.fromstring(drawing).tag.endswith("svg")
            assert "nan" not in drawing
    assert list((tmp_path / "accuracy").glob("*.svg"))
    with (tmp_path / "accuracy" / "cells.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert [len(row) for row in rows] == [len(head)], "all that is known of a cell lies beside the page"
    assert len(text.replace("|", " ").split()) < 1_500, "the page is to be read"


def test_what_an_earlier_run_measured_on_real_servers_stays(tmp_path: Path) -> None:
    cell = replace(CELL, source="live")
    some = [replace(call, cell=cell.key) for call in calls()]
    measured.write(tmp_path / "earlier.jsonl", facts(cells=[cell.as_json(), CELL.as_json()]), [*some, *calls()])
    run = Run(Asked((), 1, 1.0))
    told = run.keep(facts(cells=[]), tmp_path / "earlier.jsonl")
    assert [each["source"] for each in told["cells"]] == ["live"]
    assert run.calls == some
    cells = report.judged_cells(told, run.calls)
    assert "The live cells are an earlier run's** (commit abc1234, today)" in report.page(told, cells)[0]
    assert "Measured by an earlier run (commit abc1234, today)" in report.cells_page(told, cells)


def test_a_page_of_nothing(tmp_path: Path) -> None:
    """Stopped before anything was measured: a page all the same."""
    path = report.write(tmp_path, facts(cells=[]), [])
    assert "Not run" in path.read_text()


def timings(path: Path, hit: float, miss: float) -> Path:
    draw = random.Random(9)
    lines = ["kind,sent_unix_s,client_s,server_s,prompt_tokens,completion_tokens"]
    for number in range(400):
        kind, middle = (("cache_hit", hit), ("cache_miss", miss))[number % 2]
        server = middle * draw.lognormvariate(0, 0.1)
        lines.append(f"{kind},{number},{server + 0.1 + draw.random() / 100},{server},5000,1")
    with gzip.open(path, "wt") as out:
        out.write("\n".join(lines) + "\n")
    return path


def test_audit(tmp_path: Path) -> None:
    name = "some_model_per_user_n250_p5000_pf1_v25_2024-09-06T031435Z.csv.gz"
    caching = audit.judge(timings(tmp_path / name, 0.1, 0.3))
    assert (caching.provider, caching.condition) == ("some_model", "whole prompt sent 25x before by the same user")
    assert caching.auc > 0.99
    assert caching.filtered > 0.95
    plain = audit.judge(timings(tmp_path / name, 0.3, 0.3))
    assert (plain.claimed, plain.filtered) == (0.0, 0.5)
    assert plain.server is not None
    assert plain.server["history"] < 0.05
    assert plain.server["coverage"] == pytest.approx(0.9, abs=0.06)
    text, pictures = report.page(facts(cells=[], audit=[json.loads(json.dumps(plain.as_json()))]), [])
    assert "some_model" in text
    assert "some_model" in report.files(facts(cells=[], audit=[plain.as_json()]), [])["hits.csv"]
    assert "hits.svg" in pictures


# --- the command ------------------------------------------------------------------------------------------------------
def test_what_the_command_line_asks_for() -> None:
    def asked(*words: str) -> tuple[Any, Any]:
        args = command.arguments([*words])
        return args.parts, args.only

    assert asked() == (command.PARTS, ())
    assert asked("--recorded") == (("recorded", "simulation"), ())
    assert asked("--only", "vllm,cost") == (("cost", "vllm"), ())
    assert asked("--only", "share30") == (("recorded", "simulation", "reference", "vllm", "llama"), ("share30",))
    assert asked("--recorded", "--only", "simulation,chat") == (("simulation",), ("chat",))
    assert "vllm" not in asked("--quick")[0]


def test_a_rehearsal_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--quick", "--only", "simulation,share30", "--seed", "3", "--out", str(tmp_path)]
    assert command.main(given) == 0
    assert "seed 3" in capsys.readouterr().out
    text = (tmp_path / "accuracy.md").read_text()
    assert "A rehearsal" in text
    assert "whole prompts, 4 slots: share30 0.6" in (tmp_path / "accuracy" / "cells.csv").read_text()
    kept, some = measured.read(tmp_path / "calls.jsonl")
    assert kept["seed"] == 3
    assert len(some) == warm_up("share30") + simulated.CALLS
    assert command.main(["--from", str(tmp_path / "calls.jsonl"), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "accuracy.md").read_text() == text


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_a_stopped_run_leaves_a_page_of_what_it_has(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "tests.evaluation.phases", "--quick", "--only", "simulation"]
    arguments += ["--out", str(tmp_path)]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("done: "):
                process.send_signal(signal.SIGINT)
                break
        process.communicate()
    assert process.returncode == 130
    text = (tmp_path / "accuracy.md").read_text()
    assert "Not run: the rest: the run was stopped." in text
    assert "whole prompts, 4 slots: alone 0.7" in (tmp_path / "accuracy" / "cells.csv").read_text()
