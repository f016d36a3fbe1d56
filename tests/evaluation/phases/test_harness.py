"""Arrivals, recordings played through the engine, the saved file, and the page that is made of it."""

from __future__ import annotations

import gzip
import json
import math
import random
import xml.etree.ElementTree as xml
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.phases import audit, live, measured, recorded, report
from tests.evaluation.phases.arrivals import ARRIVALS, Prompts
from tests.evaluation.phases.measured import Measured
from tests.support.replay import shared_folder


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
    prompts = Prompts(random.Random(6), 2.0)
    lengths = [len(prompts.one().text.split()) / 2 for _ in range(2000)]
    assert min(lengths) >= 31
    assert max(lengths) <= 2050
    middle = sorted(lengths)[1000]
    assert middle == pytest.approx(256, rel=0.25), "log-uniform: the geometric mean of 32 and 2,048"
    shared = [prompts.one(400, share=True).text for _ in range(30)]
    beginnings = {text[:200] for text in shared}
    assert len(beginnings) <= 4
    assert len(set(shared)) == 30
    assert len({prompts.one(400, share=False).text[:200] for _ in range(30)}) == 30


def test_every_load_is_in_the_plan() -> None:
    cells = live.plan(4.0, 200.0, random.Random(7))
    assert cells[0].calls == live.WARM_UP
    assert not cells[0].warm
    assert {cell.name for cell in cells[1:]} == {f"{kind} {load:g}" for kind in ARRIVALS for load in live.LOADS}
    taken = sum(cell.calls / cell.rate for cell in cells[1:])
    assert taken == pytest.approx(200, rel=0.1)


def rows(count: int = 60) -> list[dict[str, Any]]:
    """A recording of calls one after the other: 4 ms to the headers, prefill 10 ms + 0.1 ms a token."""
    draw = random.Random(8)
    found: list[dict[str, Any]] = []
    for number in range(count):
        tokens, sent = round(32 * 32 ** draw.random()), number * 0.5
        prefill = 0.01 + 0.0001 * tokens
        first = sent + 0.004 + prefill
        found.append(
            {
                "sent_s": sent,
                "headers_s": sent + 0.004,
                "first_event_s": first,
                "first_content_s": first + 0.00005,
                "last_content_s": first + 0.06,
                "content_chunks": 16,
                "prompt_tokens": tokens,
                "cached_tokens": 0,
                "completion_tokens": 16,
                "truth": {"queue_ms": 0.0, "prefill_ms": prefill * 1e3, "decode_ms": 60.0},
            }
        )
    return found


def played(cell: str = "reference|few slots|Poisson 0.3") -> list[Measured]:
    return recorded.play(rows(), cell, live.WARM_UP)


def test_a_recording_is_judged_as_live_calls_are() -> None:
    """Nothing is split before the route is known; then prefill is found, and decode is what the wire showed."""
    calls = played()
    assert [call.warm for call in calls] == [False] * 30 + [True] * 30
    assert not calls[0].claim.split
    last = calls[-1]
    assert last.claim.split
    assert last.truth.prefill is not None
    assert last.claim.prefill == pytest.approx(last.truth.prefill, abs=0.006)
    assert last.claim.decode == pytest.approx(0.06, abs=0.001)


def test_hits_are_told_where_the_provider_does_not_count() -> None:
    """Every second prompt begins as an earlier one, and costs a fifth: said of those calls, never of fresh ones."""
    from llmtrace.calls import tracer as reports
    from llmtrace.calls.result import Result

    made = rows(260)
    for number, row in enumerate(made):
        beginning, share = ("shared " * 60, 0.2) if number % 2 else (f"{number} " * 150, 1.0)
        row |= {"text": beginning.ljust(3 * row["prompt_tokens"], "."), "cached_tokens": None}
        faster = (row["first_content_s"] - row["headers_s"]) * (1 - share)
        for moment in ("first_event_s", "first_content_s", "last_content_s"):
            row[moment] -= faster
    said: list[float | None] = []

    def listen(ended: Result) -> None:
        said.append(ended.hit.hit)

    reports.listeners.append(listen)
    try:
        recorded.play(made, "reference|few slots|Poisson 0.3", live.WARM_UP)
    finally:
        reports.listeners.remove(listen)
    assert said[0::2] == [None] * 130
    late = [probability for probability in said[201::2] if probability is not None]
    assert len(late) == 30
    assert sum(probability > 0.5 for probability in late) > 27


def facts(**changes: Any) -> dict[str, Any]:
    run = {
        "engine": "reference",
        "title": "Reference server",
        "slots": "few slots",
        "slot_count": 2,
        "admitted": True,
        "has_queue": True,
        "capacity": 2.0,
        "failed": 1,
        "why": "APITimeoutError",
    }
    where = {"cpu": "a processor", "cores": 2, "python": "3.11", "system": "Linux", "date": "today", "seconds": 1}
    where |= {"command": "make accuracy", "load_average_at_start": 0.1, "commit": "abc1234", "code": "0" * 12}
    return {"machine": where, "seed": 1, "runs": [run], "audit": [], "not_run": {"vllm": "not installed"}} | changes


def test_saved_calls_come_back(tmp_path: Path) -> None:
    calls = played()
    measured.write(tmp_path / "deep" / "calls.jsonl", facts(), calls)
    assert measured.read(tmp_path / "deep" / "calls.jsonl") == (facts(), calls)


def test_the_page(tmp_path: Path) -> None:
    calls = played() + played("reference|few slots|one length")
    path = report.write(tmp_path, facts(), calls)
    text = path.read_text()
    for words in (
        "seed 1",
        "Measured at commit `abc1234`; the code has changed since",
        "Not run: vllm: not installed.",
        "Poisson 0.3",
        "1 calls failed (APITimeoutError)",
    ):
        assert words in text
    assert "nan" not in text
    for line in text.splitlines():
        if line.startswith("!["):
            drawing = (tmp_path / line.partition("(")[2].rstrip(")")).read_text()
            assert xml.fromstring(drawing).tag.endswith("svg")
            assert "nan" not in drawing
    assert list((tmp_path / "accuracy").glob("*.svg"))


def test_a_page_of_nothing(tmp_path: Path) -> None:
    """Stopped before anything was measured: a page all the same."""
    path = report.write(tmp_path, facts(runs=[]), [])
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
    text, pictures = report.page(facts(runs=[], audit=[json.loads(json.dumps(plain.as_json()))]), [])
    assert "some_model" in text
    assert "hits.svg" in pictures


@pytest.mark.shared
def test_the_envelope_on_recorded_truth() -> None:
    """The published figures of a plain envelope come out of this harness too: 47 % at 18 calls/s, 12 % at 4."""
    from tests.evaluation.phases import figures, methods

    folder = shared_folder()
    assert folder is not None
    for name, share in (("unlimited_rate18", 0.468), ("unlimited_rate4", 0.118)):
        calls = recorded.play(recorded.read(folder / "vllm_runs" / f"{name}.jsonl"), "x|y|z 0.3", live.WARM_UP)
        pairs = [p for p in zip(calls, methods.envelope(calls, True), strict=True) if p[0].warm]
        error = figures.errors(pairs, "queue")
        assert error is not None
        assert error.mean_share == pytest.approx(share, abs=0.02)
