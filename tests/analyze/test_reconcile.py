"""`llmtrace reconcile`: exports of every kind read, joined with calls, written as spans that the report reads."""

from __future__ import annotations

import gzip
import json
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from llmtrace.analyze.billing.exports import read_file, read_text
from llmtrace.analyze.billing.join import BY_ID, BY_TIME, Call, checks, join, same_model
from llmtrace.analyze.billing.records import NS, Exports, Record, Unreadable, moment
from llmtrace.cli import build_app
from llmtrace.errors import LlmtraceError
from tests.analyze.writing import EPOCH, Writer
from tests.support.replay import Replay, Request, Script, json_answer, refused_url

CALM = [("network", 10), ("queue", 100), ("prefill", 200), ("decode", 500)]
DAY = EPOCH // NS // 86_400 * 86_400
BOUNDS = {
    "llmtrace.cancellation.phase": "decode",
    "llmtrace.cancellation.delivered_tokens": 40,
    "llmtrace.cancellation.billed_tokens.lower": 45,
    "llmtrace.cancellation.billed_tokens.upper": 200,
}


def iso(ms: float) -> str:
    return (datetime.fromtimestamp(EPOCH / NS, timezone.utc) + timedelta(milliseconds=ms)).isoformat()


def generation(id: str, at: float, tokens: Any = 61) -> dict[str, Any]:
    return {
        "id": id, "model": "openai/gpt-4o-mini", "created_at": iso(at), "generation_time": 800, "cancelled": True,
        "native_tokens_prompt": 1000, "native_tokens_completion": tokens, "total_cost": 0.001,
        "provider_name": "OpenAI",
    }  # fmt: skip


def spend_log(id: str, at: float, tokens: Any = 199) -> dict[str, Any]:
    return {
        "request_id": id, "model": "gpt-4o-mini", "model_group": "small", "startTime": iso(at + 300),
        "endTime": iso(at + 2100), "prompt_tokens": 1000, "completion_tokens": tokens, "spend": 0.0003,
        "api_base": "https://api.openai.com/v1",
    }  # fmt: skip


BUCKET = {
    "object": "bucket", "start_time": DAY, "end_time": DAY + 86_400,
    "results": [
        {"input_tokens": 2500, "output_tokens": 200, "num_model_requests": 2, "model": "gpt-4o-mini-2024-07-18"},
        {"input_tokens": 500, "output_tokens": 100, "num_model_requests": 1, "model": "gpt-4o-mini-2024-07-18"},
        {"input_tokens": 1, "output_tokens": 7, "num_model_requests": 1, "model": "o9"},
    ],
}  # fmt: skip


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(build_app(), [str(each) for each in arguments])


def recorded(folder: Path) -> Path:
    """A call that completed, three that were cut short: one with an id, one of a proxy's, one that nobody tells of."""
    writer = Writer()
    writer.call(0, CALM)
    routed = {
        **BOUNDS, "gen_ai.response.id": "gen-1", "gen_ai.provider.name": "openrouter",
        "gen_ai.request.model": "openai/gpt-4o-mini", "gen_ai.response.model": "openai/gpt-4o-mini",
        "llmtrace.cancellation.cause": "closed",
    }  # fmt: skip
    writer.call(10_000, CALM, outcome="closed_early", tokens=(1000, 0, 40), marks=routed)
    timeout = {**BOUNDS, "llmtrace.cancellation.cause": "client_timeout"}
    writer.call(20_000, CALM, outcome="timed_out", tokens=(1000, 0, 40), marks=timeout)
    writer.call(40_000, CALM, outcome="abandoned", tokens=(1000, 0, 40), marks=BOUNDS)
    return writer.save(folder / "traces.jsonl")


def test_the_whole_way(tmp_path: Path) -> None:
    traces, billed = recorded(tmp_path), tmp_path / "billed.jsonl"
    generations, logs, usage = (tmp_path / name for name in ("generations.jsonl", "logs.json", "usage.json"))
    lines = [json.dumps({"data": generation("gen-1", 10_000)}), "{broken", json.dumps(generation("gen-2", 0, -1))]
    generations.write_text("\n".join(lines))
    logs.write_text(json.dumps([spend_log("chatcmpl-1", 20_000), spend_log("chatcmpl-2", 500_000)], indent=1))
    usage.write_text(json.dumps({"object": "page", "data": [BUCKET], "has_more": False, "next_page": None}))
    given = [each for path in (generations, logs, usage) for each in ("--with", path)]
    result = run("reconcile", traces, *given, "--file", billed, "--format", "json")
    assert result.exit_code == 0, result.output
    sections = {section["title"]: section["rows"] for section in json.loads(result.stdout)["sections"]}
    assert [row[:6] for row in sections["Records of single calls"]] == [
        ["litellm", 2, 0, 1, 0, 1],
        ["openrouter", 1, 1, 0, 0, 0],
    ]
    # 101 of the call that completed, 199 of the proxy's record, and 45 to 200 of the one that nobody tells of.
    assert [row[4:] for row in sections["Sums by bucket and model"]] == [
        [3, 3, 3000, 3000, 300, 345, 500, -45],
        [1, 0, 1, 0, 7, 0, 0, 7],
    ]
    assert [row[0] for row in sections["Rows that could not be read (2)"]] == [f"{generations}:2", f"{generations}:3"]

    result = run("reconcile", traces, "--with", generations, "--file", billed)  # written twice, it counts once
    assert result.exit_code == 0, result.output
    result = run("report", "cancellations", traces, billed, "--format", "json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    tax = {row[0]: row[2:] for row in report["sections"][0]["rows"]}
    per_token = 0.6e-6
    assert tax["user stop"][:4] == ["openrouter: OpenAI", 1, 1, 21]
    assert tax["user stop"][4] == pytest.approx(21 * per_token)
    assert tax["timeout"][:4] == ["litellm: api.openai.com", 1, 1, 159]
    assert tax["abandoned"][:4] == ["not told", 1, 0, 0]
    assert tax["abandoned"][5:8] == [1, 5, 160]
    assert tax["abandoned"][8:] == pytest.approx([5 * per_token, 160 * per_token])
    assert "exactly 180 tokens" in report["headline"]
    costs = {row[1]: row[-2:] for row in report["sections"][1]["rows"]}
    assert costs["closed_early"] == [0.001, 0.001]


@pytest.mark.parametrize(
    ("text", "output", "ids"),
    [
        (json.dumps([generation("gen-1", 0)]), 61, ("gen-1",)),
        (json.dumps({"data": generation("gen-1", 0) | {"upstream_id": "chatcmpl-1"}}), 61, ("gen-1", "chatcmpl-1")),
        ("generation_id,created_at,cost_total,tokens_prompt,tokens_completion,model_permaslug,generation_time_ms\n"
         "gen-1,2026-06-28 03:46:57.713,0.0123,10389,137,openai/gpt-oss-120b,800\n", 137, ("gen-1",)),
        (json.dumps({"data": [spend_log("x", 0)], "total": 1}), 199, ("x",)),
        ("request_id,model,startTime,endTime,prompt_tokens,completion_tokens,spend\n"
         "x,m,2026-06-28T03:46:57Z,2026-06-28T03:46:59Z,10,20,0.1\n", 20, ("x",)),
    ],
)  # fmt: skip
def test_records_of_single_calls(text: str, output: int, ids: tuple[str, ...]) -> None:
    exports = Exports()
    read_text(text, "export", exports)
    (record,) = exports.records
    assert (record.output_tokens, record.ids, exports.problems) == (output, ids, [])
    assert record.start_ns is not None
    assert record.end_ns is not None
    assert record.end_ns > record.start_ns


@pytest.mark.parametrize(
    ("text", "sums"),
    [
        (json.dumps(BUCKET), [("gpt-4o-mini-2024-07-18", 3000, 300), ("o9", 1, 7)]),
        ("start_time,end_time,start_time_iso,end_time_iso,model,num_model_requests,input_tokens,output_tokens\n"
         "1761523200,1761523260,x,y,gpt-5,3,30,4\n1761523200,1761523260,x,y,gpt-5,1,10,2\n", [("gpt-5", 40, 6)]),
        (json.dumps({"data": [{"starting_at": "2026-11-01T00:00:00Z", "ending_at": "2026-11-02T00:00:00Z", "results": [
            {"uncached_input_tokens": 10, "cache_read_input_tokens": 3, "output_tokens": 4, "model": "claude-x",
             "cache_creation": {"ephemeral_1h_input_tokens": 1, "ephemeral_5m_input_tokens": 2}}]}]}),
         [("claude-x", 16, 4)]),
        ("usage_date_utc,model_version,usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,"
         "usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,usage_output_tokens\n"
         "2026-11-01,claude-x,5,1,1,1,6\n", [("claude-x", 8, 6)]),
    ],
)  # fmt: skip
def test_sums_by_bucket(text: str, sums: list[tuple[str, int, int]]) -> None:
    exports = Exports()
    read_text(text, "export", exports)
    buckets = exports.buckets.values()
    assert [(each.model, each.input_tokens, each.output_tokens) for each in buckets] == sums
    assert not exports.problems


@pytest.mark.parametrize(
    ("text", "records", "bad"),
    [
        ('[{"request_id":"a","completion_tokens":1},\n{"request_id":"b",oops},\n{"request_id":"c","completion_tokens":3}]',
         2, [2]),
        ('{"request_id":"a","completion_tokens":1}\n{"request_id":"b","completion_tokens":"many"}\n[7]\nnonsense\n'
         '{"request_id":"c","completion_tokens":true}\n{"request_id":"d","completion_tokens":4}', 2, [2, 3, 4, 5]),
        ('{"data":[\n{"request_id":"a","completion_tokens":1},\n{"request_id":"b","compl', 1, [3]),
        ("request_id,completion_tokens,startTime\na,1,\nb,2\nc,1e400,\nd,4,yesterday\ne,5,\n", 2, [3, 4, 5]),
        ('request_id,completion_tokens,note\na,1,"two\nlines"\nb,x,\n', 1, [4]),
        ('{"request_id":"a","completion_tokens":1}\n{"request_id":"a","completion_tokens":1}', 1, []),
    ],
)  # fmt: skip
def test_bad_rows_cost_themselves_only(text: str, records: int, bad: list[int]) -> None:
    exports = Exports()
    read_text(text, "f", exports)
    assert len(exports.records) == records
    assert [place for place, _ in exports.problems] == [f"f:{line}" for line in bad]


def test_a_record_that_contradicts_an_earlier_one_is_named(tmp_path: Path) -> None:
    export = tmp_path / "logs.jsonl"
    export.write_text("".join(json.dumps(spend_log("chatcmpl-1", 20_000, tokens)) + "\n" for tokens in (199, 199, 150)))
    result = run("reconcile", recorded(tmp_path), "--with", export, "--file", tmp_path / "b.jsonl", "--format", "json")
    assert result.exit_code == 0, result.output
    sections = {section["title"]: section["rows"] for section in json.loads(result.stdout)["sections"]}
    ((place, why),) = sections["Records that contradict an earlier one (1)"]
    assert place == f"{export}:3"
    assert "150 output tokens" in why
    assert f"{export}:1 said" in why
    assert sections["Records of single calls"][0][6] == 199


def test_what_a_spreadsheet_saves(tmp_path: Path) -> None:
    exports, wide, split = Exports(), tmp_path / "wide.csv", tmp_path / "split.csv"
    wide.write_text("request_id\tcompletion_tokens\na\t1\n", encoding="utf-16")
    read_file(wide, exports)
    assert [record.output_tokens for record in exports.records] == [1]
    split.write_text("request_id;completion_tokens\na;1\n")
    with pytest.raises(LlmtraceError, match="has semicolons between its cells: save it with commas or tabs"):
        read_file(split, exports)


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "[1, 2]", '[{"a":' * 50_000, "", "\x00\x01", '{"data": [{"x": 1}]}'])
def test_what_is_no_export_is_an_error(text: str) -> None:
    with pytest.raises(LlmtraceError, match=r"nothing can be read of f:|f is empty"):
        read_text(text, "f", Exports())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-01T00:00:01Z", 1), ("2026-11-01 00:00:01.5", 1.5), ("2026-11-01T01:00:01.1234567+01:00", 1.123456),
        (1793491201, 1), ("1793491201.5", 1.5), (1793491201500, 1.5),
    ],
)  # fmt: skip
def test_moments(text: Any, seconds: float) -> None:
    assert moment(text) == 1793491200 * NS + round(seconds * 1e6) * 1000


@pytest.mark.parametrize("text", ["soon", "1e30", -1e30, "2026-13-01"])
def test_no_moments(text: Any) -> None:
    with pytest.raises(Unreadable):
        moment(text)


def call(at: float, *, id: str = "", span: int = 1, cut: bool = True, **more: Any) -> Call:
    """At so many seconds, of one second."""
    bounds: dict[str, Any] = {"lower": 40, "upper": 200, **more}
    start = round(at * NS)
    return Call(
        trace_id=f"{span:032x}", span_id=f"{span:016x}", start_ns=start, end_ns=start + NS, provider="openai",
        models=("gpt-4o-mini-2024-07-18", "gpt-4o-mini"), response_id=id, input_tokens=1000, is_cut=cut, **bounds,
    )  # fmt: skip


def record(at: float, output: int = 60, *, id: str = "", lasts: float = 1, **more: Any) -> Record:
    fields: dict[str, Any] = {"models": ("openai/gpt-4o-mini",), "input_tokens": 1000, "place": f"f:{at:g}", **more}
    start = round(at * NS)
    return Record(
        source="litellm", ids=(id,) if id else (), start_ns=start, end_ns=start + round(lasts * NS),
        output_tokens=output, usd=None, hop="litellm", **fields,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("records", "calls", "by", "ambiguous", "alone"),
    [
        ([record(0, id="gen-1")], [call(90, id="gen-1")], [BY_ID], 0, 0),  # whatever the clocks say
        ([record(0)], [call(1)], [BY_TIME], 0, 0),
        ([record(0, lasts=60)], [call(1)], [BY_TIME], 0, 0),  # it went on
        ([record(0, lasts=60)], [call(1, cut=False)], [], 0, 1),
        ([record(0)], [call(3)], [], 0, 1),
        ([record(0, output=30)], [call(0)], [], 0, 1),  # fewer than came
        ([record(0, output=300)], [call(0)], [], 0, 1),  # more than was asked for
        ([record(0, input_tokens=9)], [call(0)], [], 0, 1),
        ([record(0, models=("gpt-4o",))], [call(0)], [], 0, 1),
        ([record(0, id="gen-1")], [call(0, id="gen-2")], [], 0, 1),  # another of the same make
        ([record(0, id="chatcmpl-1")], [call(0, id="gen-2")], [BY_TIME], 0, 0),
        ([record(0)], [call(0), call(1, span=2)], [], 1, 0),
        ([record(0), record(1)], [call(0)], [], 2, 0),
        ([record(0, id="a")], [call(0, id="a"), call(9, id="a", span=2)], [], 1, 0),
    ],
)
def test_a_record_is_joined_where_only_one_call_can_be_meant(
    records: list[Record], calls: list[Call], by: list[str], ambiguous: int, alone: int
) -> None:
    joined = join(records, calls, within_s=2)
    assert [match.by for match in joined.matches] == by
    assert (len(joined.ambiguous), len(joined.alone)) == (ambiguous, alone)


def test_models_names() -> None:
    assert same_model("openai/gpt-4o-mini", "gpt-4o-mini-2024-07-18")
    assert same_model("anthropic/claude-sonnet-5:beta", "claude-sonnet-5-20260101")
    assert not same_model("gpt-4o", "gpt-4o-mini")


def test_what_cannot_be_read_costs_itself_only() -> None:
    exports = Exports()
    broken = {**BUCKET, "results": [BUCKET["results"][0], {"output_tokens": -3, "model": "a"}, BUCKET["results"][2]]}
    read_text(json.dumps(broken), "f", exports)
    assert [bucket.output_tokens for bucket in exports.buckets.values()] == [200, 7]
    assert [place for place, _ in exports.problems] == ["f:1"]
    endless = {**generation("gen-1", 0), "generation_time": 1e308}
    read_text(json.dumps([endless, generation("gen-2", 0)]), "g", exports)
    assert [(each.ids, each.end_ns is None) for each in exports.records] == [(("gen-1",), True), (("gen-2",), False)]


def test_a_call_without_a_limit_leaves_no_upper_bound() -> None:
    exports = Exports()
    read_text(json.dumps(BUCKET), "f", exports)
    calls = [call(DAY + 5, upper=None)]
    unbounded, _ = checks(list(exports.buckets.values()), calls, {})
    assert (unbounded.lower, unbounded.upper, unbounded.unexplained) == (40, None, 0)
    exact, _ = checks(list(exports.buckets.values()), calls, {(calls[0].trace_id, calls[0].span_id): 290})
    assert (exact.lower, exact.upper, exact.unexplained) == (290, 290, 10)


# ---- those who are asked ---------------------------------------------------------------------------------------------


def test_openrouter_and_litellm_are_asked_for_each_call_whose_tokens_are_not_known(
    tmp_path: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = recorded(tmp_path)
    monkeypatch.setenv("OPENROUTER_API_KEY", "k1")
    monkeypatch.setenv("LITELLM_MASTER_KEY", "k2")
    replay.serve(json_answer({"data": generation("gen-1", 10_000)}), "/api/v1/generation")
    replay.serve(json_answer([]), "/spend/logs")
    given = ("--with", f"{replay.url}/api/v1", "--with", replay.url)
    result = run("reconcile", traces, *given, "--file", tmp_path / "billed.jsonl")
    assert result.exit_code == 0, result.output
    assert "1 record joined" in result.output
    asked = [(each.path, each.headers["authorization"]) for each in replay.requests]
    assert asked == [
        ("/api/v1/generation?id=gen-1", "Bearer k1"),
        ("/spend/logs?request_id=gen-1", "Bearer k2"),
    ]


def test_sums_are_asked_for_page_by_page(tmp_path: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    traces = recorded(tmp_path)
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "k")

    def page(request: Request) -> Script:
        more = "page=" not in request.path
        return json_answer({"object": "page", "data": [BUCKET], "has_more": more, "next_page": "p2" if more else None})

    replay.serve(page)
    address = f"{replay.base_url}/organization/usage/completions?start_time=1&group_by=model"
    result = run("reconcile", traces, "--with", address, "--file", tmp_path / "b.jsonl", "--format", "json")
    assert result.exit_code == 0, result.output
    (section,) = json.loads(result.stdout)["sections"]
    assert section["rows"][0][8] == 600
    assert not (tmp_path / "b.jsonl").exists()
    assert [each.path.partition("&")[2] for each in replay.requests] == ["group_by=model", "group_by=model&page=p2"]


def test_a_key_goes_to_nobody_else(tmp_path: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    traces = recorded(tmp_path)
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "k")
    monkeypatch.setenv("OPENAI_API_KEY", "k2")
    monkeypatch.delenv("LITELLM_MASTER_KEY", raising=False)
    monkeypatch.delenv("LITELLM_API_KEY", raising=False)
    with closing(Replay()) as elsewhere:
        elsewhere.serve(json_answer({"data": [BUCKET]}))
        replay.serve(json_answer({}, status=302, headers={"location": f"{elsewhere.url}/x"}))
        address = f"{replay.base_url}/organization/usage/completions?start_time=1"
        run("reconcile", traces, "--with", address, "--file", tmp_path / "b.jsonl")
        assert [each.headers.get("authorization") for each in replay.requests] == ["Bearer k"]
        assert [each.headers.get("authorization") for each in elsewhere.requests] == [None]
    result = run("reconcile", traces, "--with", replay.url, "--file", tmp_path / "b.jsonl")
    assert "set LITELLM_MASTER_KEY" in result.output
    assert len(replay.requests) == 1


def test_what_goes_wrong_is_one_line(tmp_path: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENROUTER_API_KEY", "OPENAI_API_KEY", "LITELLM_MASTER_KEY", "LITELLM_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.delenv(name, raising=False)
    traces = recorded(tmp_path)
    cut_off = tmp_path / "cut.json.gz"
    cut_off.write_bytes(gzip.compress(json.dumps([spend_log("x", 0)]).encode())[:60])
    replay.serve(json_answer({"error": "no"}, status=401))
    damaged = tmp_path / "damaged.json.gz"
    whole = bytearray(gzip.compress(json.dumps([spend_log(str(number), 0) for number in range(50)]).encode()))
    whole[20:40] = b"\xff" * 20
    damaged.write_bytes(whole)
    cases: list[tuple[tuple[str | Path, ...], str]] = [
        ((), "name an export by --with"),
        (("--with", damaged), "cannot read"),
        (("--with", tmp_path / "none.json"), "No such file"),
        (("--with", tmp_path), "is a folder"),
        (("--with", cut_off), "cannot read"),
        (("--with", f"{replay.url}/api/v1"), "set OPENROUTER_API_KEY"),
        (("--with", "http://me:hunter2@127.0.0.1/api/v1"), "http://127.0.0.1/api/v1 is named with a user and password"),
    ]
    for arguments, says in cases:
        result = run("reconcile", traces, *arguments, "--file", tmp_path / "b.jsonl")
        assert result.exit_code == 1, result.output
        assert says in result.output
        assert "hunter2" not in result.output
        assert len(result.output.splitlines()) == 1
    monkeypatch.setenv("OPENROUTER_API_KEY", "k")
    for url, says in (
        (f"{replay.url}/api/v1", "refuses the key (401)"),
        (refused_url() + "/api/v1", "cannot be reach"),
    ):
        result = run("reconcile", traces, "--with", url, "--file", tmp_path / "b.jsonl")
        assert result.exit_code == 1, result.output
        assert says in result.output
