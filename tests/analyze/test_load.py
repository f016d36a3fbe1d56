"""Reading many traces: every way in, and what is broken on the way."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from llmtrace.analyze import chunks, remote, reports
from llmtrace.analyze.book import Book
from llmtrace.analyze.load import Stats, Traces, load
from llmtrace.analyze.report import as_json
from llmtrace.emit import names
from llmtrace.errors import LlmtraceError
from tests.analyze.writing import EPOCH, Writer
from tests.support.answering import answering
from tests.view.serve.running import viewer

AGES = 50_000.0
"""Hours back, over the writer's spans."""
PHASES = [("network", 10), ("queue", 20), ("prefill", 100), ("decode", 400)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMTRACE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tables"


@pytest.fixture
def writer() -> Writer:
    made = Writer()
    for number in range(6):
        made.call(number * 1000, PHASES)
    return made


def rows(traces: Traces) -> list[dict[str, Any]]:
    return traces.table.order_by("start_ns", "span_id").to_pyarrow().to_pylist()


def read(*sources: Path | str, **options: Any) -> tuple[list[dict[str, Any]], Stats]:
    with load([str(source) for source in sources], **options) as traces:
        return rows(traces), traces.stats


def test_a_file_comes_back_whole(writer: Writer, tmp_path: Path) -> None:
    found, stats = read(writer.save(tmp_path / "t.jsonl"))
    assert (len(found), stats.spans) == (30, 30)
    assert (stats.problem_count, stats.duplicates, stats.orphans, stats.skewed) == (0, 0, 0, 0)
    assert stats.versions == [1]
    call = found[0]
    assert call["name"] == "chat gpt-4o-mini"
    assert (call["kind"], call["service"], call["parent_id"]) == ("client", "app", None)
    assert (call["input_tokens"], call["cached_tokens"], call["output_tokens"]) == (1000, 0, 101)
    assert call["end_ns"] - call["start_ns"] == 530_000_000
    assert found[3]["phase"] == "prefill"


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.json"])
def test_other_wrappings_say_the_same(writer: Writer, tmp_path: Path, name: str) -> None:
    plain, _ = read(writer.save(tmp_path / "plain.jsonl"))
    if name == "t.json":
        path = tmp_path / name
        merged = {"resourceSpans": [entry for doc in writer.documents() for entry in doc["resourceSpans"]]}
        path.write_text(json.dumps(merged, indent=2))
    else:
        path = writer.save(tmp_path / name)
    found, stats = read(path)
    assert found == plain
    assert stats.problem_count == 0


def test_a_folder_and_several_members_of_gzip(writer: Writer, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    lines = [json.dumps(document).encode() + b"\n" for document in writer.documents()]
    (folder / "a.jsonl.gz").write_bytes(b"".join(gzip.compress(line) for line in lines[:10]))
    (folder / "b.otlp").write_bytes(b"".join(lines[10:]))
    (folder / "notes.txt").write_text("not a trace")
    found, stats = read(tmp_path / "in")
    assert len(found) == 30
    assert stats.problem_count == 0


def test_what_is_broken_is_named_and_the_rest_is_used(writer: Writer, tmp_path: Path) -> None:
    lines = [json.dumps(document) for document in writer.documents()]
    lines[3] = lines[3][:40]
    lines[7] = '{"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "no ids"}]}]}]}'
    lines.insert(0, "")
    path = tmp_path / "broken.jsonl"
    path.write_text("\n".join(lines))
    found, stats = read(path)
    assert len(found) == 28
    assert stats.problem_count == 2
    assert f"{path}:5: not valid JSON" in stats.problems[0]
    assert f"{path}:9: span 'no ids': startTimeUnixNano is missing" in stats.problems[1]
    assert stats.orphans > 0 or stats.spans == 28


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_gzip_that_is_cut_short(writer: Writer, tmp_path: Path, share: float) -> None:
    other = Writer(count=5000)
    for number in range(6):
        other.call(number * 1000, PHASES)
    whole = other.save(tmp_path / "whole.jsonl.gz").read_bytes()
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(whole[: int(len(whole) * share)])
    found, stats = read(path, writer.save(tmp_path / "beside.jsonl"))
    assert 30 <= len(found) < 60
    assert "cut short or damaged" in stats.problems[-1]


def test_numbers_as_text_ids_in_base64_and_snake_case(tmp_path: Path) -> None:
    span = {
        "trace_id": "AAAAAAAAAAAAAAAAAAAAAQ==",
        "span_id": "AAAAAAAAAAI=",
        "name": "chat x",
        "kind": "SPAN_KIND_CLIENT",
        "start_time_unix_nano": 5,
        "end_time_unix_nano": 9,
        "attributes": [
            {"key": "gen_ai.usage.input_tokens", "value": {"string_value": "12"}},
            {"key": "gen_ai.usage.output_tokens", "value": {"double_value": 7.0}},
            {"key": "gen_ai.operation.name", "value": {"string_value": "chat"}},
            {"key": "llmtrace.call.ttft", "value": {"string_value": "no number"}},
        ],
    }
    path = tmp_path / "odd.json"
    path.write_text(json.dumps({"resource_spans": [{"scope_spans": [{"spans": [span]}]}]}))
    ((found,), _) = read(path)
    assert found["trace_id"] == f"{1:032x}"
    assert (found["input_tokens"], found["output_tokens"], found["ttft"]) == (12, 7, None)


def test_numbers_that_nobody_measured_are_none(tmp_path: Path) -> None:
    """One of them would be all that is left of a sum, and its square is beyond what an engine reckons with."""
    writer = Writer()
    odd = [(1e308, 2**62, "NaN"), (-1e308, -(2**62), "Infinity"), (0.25, 7, "0.5")]
    for number, (cost, tokens, score) in enumerate(odd):
        marks = {names.COST: cost, names.INPUT_TOKENS: tokens, names.SCORE: score, names.CALL_START: EPOCH}
        writer.span("chat x", number, number + 1, marks)
    rows, stats = read(writer.save(tmp_path / "odd.jsonl"))
    values = [(row["cost_usd"], row["input_tokens"], row["score"], row["call_start_ns"]) for row in rows]
    assert sorted(values, key=str) == [(0.25, 7, 0.5, EPOCH), *[(None, None, None, EPOCH)] * 2]
    assert not stats.problems


def test_duplicates_orphans_and_clocks_that_disagree(tmp_path: Path) -> None:
    writer = Writer()
    call = writer.call(0, PHASES, trace=1)
    writer.span("lost", 0, 5, trace=1, parent="f" * 16)
    server = Writer(service="engine", count=500)
    server.span("llm_request", -50, 100, trace=1, parent=call, kind=2)
    writer.spans.append(writer.spans[0])
    a, b = writer.save(tmp_path / "a.jsonl"), server.save(tmp_path / "b.jsonl")
    found, stats = read(a, b)
    assert len(found) == 7
    assert (stats.duplicates, stats.orphans, stats.skewed) == (1, 1, 1)


@pytest.mark.parametrize(
    ("name", "told"),
    [("missing.jsonl", "no such file"), ("empty.jsonl", "no spans in"), ("folder", "no trace files in this folder")],
)
def test_nothing_to_read(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(LlmtraceError, match=told):
        read(tmp_path / name)


def test_large_files_are_read_by_several_processes_and_kept(
    writer: Writer, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmtrace.analyze import load as loading

    path = writer.save(tmp_path / "large.jsonl")
    with path.open("a") as file:
        file.write("{broken\n")
    plain, before = read(path)
    monkeypatch.setattr(loading, "SMALL", 100)
    monkeypatch.setattr(loading, "cpus", lambda: 2)
    monkeypatch.setattr(chunks, "STRETCH", 2000)
    told: list[tuple[int, int]] = []
    found, stats = read(path, tell=lambda done, whole: told.append((done, whole)))
    assert found == plain
    assert stats.problems == before.problems
    assert told[-1] == (path.stat().st_size, path.stat().st_size)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len(list(cache.glob("*/part-*.parquet"))) > 3
    monkeypatch.setattr(loading, "_run", lambda jobs, *rest: pytest.fail("read again") if jobs else None)
    again, kept = read(path)
    assert again == plain
    assert kept.problems == before.problems
    with pytest.raises(BaseException, match="read again"):
        read(path, cache=False)


def test_a_saved_table_and_one_in_an_engine(writer: Writer, tmp_path: Path) -> None:
    import duckdb

    with load([str(writer.save(tmp_path / "t.jsonl"))]) as traces:
        plain = rows(traces)
        traces.table.to_parquet(tmp_path / "spans.parquet")
    found, stats = read(tmp_path / "spans.parquet")
    assert found == plain
    with duckdb.connect(str(tmp_path / "spans.duckdb")) as engine:
        engine.execute(f"CREATE TABLE calls AS FROM read_parquet('{tmp_path / 'spans.parquet'}')")
        engine.execute("CREATE TABLE poor AS SELECT trace_id FROM calls")
    found, stats = read(f"duckdb://{tmp_path / 'spans.duckdb'}?table=calls")
    assert found == plain
    assert stats.spans == 30
    with pytest.raises(LlmtraceError, match="lacks the columns span_id, parent_id"):
        read(f"duckdb://{tmp_path / 'spans.duckdb'}?table=poor")
    with pytest.raises(LlmtraceError, match="cannot open the table"):
        read(f"duckdb://{tmp_path / 'spans.duckdb'}?table=nowhere")


class Backend(BaseHTTPRequestHandler):
    """Jaeger's or Tempo's query interface over a writer's spans, as far as it is asked."""

    writer: Writer
    flavour: str
    status = 200
    asked: list[str]

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.asked.append(self.path)
        answer = self.answer(url.path, parse_qs(url.query)) if self.status == 200 else {"error": "no"}
        self.send_response(404 if answer is None else self.status)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def answer(self, path: str, query: dict[str, list[str]]) -> Any:
        traces: dict[str, list[Any]] = {}
        for span in self.writer.spans:
            traces.setdefault(span["traceId"], []).append(span)
        if self.flavour == "jaeger 2":
            return self.jaeger_2(path, query, traces)
        if self.flavour == "jaeger":
            if path == "/api/services":
                return {"data": ["app"]}
            if path != "/api/traces":
                return None
            assert query["service"] == ["app"]
            return {"data": [self.jaeger(trace, spans, self.writer.about) for trace, spans in traces.items()]}
        if path == "/api/search":
            assert int(query["limit"][0]) > 0
            return {"traces": [{"traceID": trace} for trace in traces], "metrics": {}}
        if path.startswith("/api/traces/"):
            spans = traces[path.rpartition("/")[2]]
            resource = self.writer.document()["resourceSpans"][0]["resource"]
            return {"batches": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}
        return None

    def jaeger_2(self, path: str, query: dict[str, list[str]], traces: dict[str, list[Any]]) -> Any:
        """``/api/v3`` alone: the interface of before is gone. The newest traces of the window, as many as asked for."""
        if path == "/api/v3/services":
            return {"services": ["app"]}
        if path != "/api/v3/traces":
            return None
        assert query["query.service_name"] == ["app"]
        first, last = (
            datetime.fromisoformat(query[f"query.start_time_{end}"][0]).timestamp() * 1e9 for end in ("min", "max")
        )
        begun = {trace: min(int(span["startTimeUnixNano"]) for span in spans) for trace, spans in traces.items()}
        inside = sorted((trace for trace in traces if first <= begun[trace] <= last), key=lambda trace: -begun[trace])
        chosen = [span for trace in inside[: int(query["query.search_depth"][0])] for span in traces[trace]]
        resource = self.writer.document()["resourceSpans"][0]["resource"]
        if not chosen:
            return None
        return {"result": {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": chosen}]}]}}

    @staticmethod
    def jaeger(trace: str, spans: list[Any], about: dict[str, str]) -> Any:
        kinds = {"intValue": "int64", "doubleValue": "float64", "boolValue": "bool", "stringValue": "string"}

        def tag(pair: Any) -> Any:
            ((kind, value),) = pair["value"].items()
            return {"key": pair["key"], "type": kinds[kind], "value": int(value) if kind == "intValue" else value}

        def one(span: Any) -> Any:
            start, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
            kind = {"key": "span.kind", "type": "string", "value": "client" if span["kind"] == 3 else "internal"}
            above = {"refType": "CHILD_OF", "traceID": trace, "spanID": span["parentSpanId"]}
            return {
                "traceID": trace,
                "spanID": span["spanId"],
                "operationName": span["name"],
                "references": [above] if span["parentSpanId"] else [],
                "startTime": start // 1000,
                "duration": (end - start) // 1000,
                "tags": [kind, *map(tag, span["attributes"])],
                "processID": "p1",
            }

        process = {"serviceName": "app", "tags": [{"key": name, "value": value} for name, value in about.items()]}
        return {"traceID": trace, "spans": list(map(one, spans)), "processes": {"p1": process}}

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving(writer: Writer, flavour: str, **more: Any) -> Iterator[str]:
    handler = type("Handler", (Backend,), {"asked": [], "writer": writer, "flavour": flavour, **more})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(params=["jaeger", "jaeger 2", "tempo"])
def backend(request: pytest.FixtureRequest, writer: Writer) -> Iterator[str]:
    with serving(writer, request.param) as url:
        yield url


def test_jaeger_and_tempo_say_what_the_file_says(backend: str, writer: Writer, tmp_path: Path) -> None:
    writer.about |= {"service.version": "2.1", "service.instance.id": "i-1", "device.model.name": "Pixel 9"}
    plain, _ = read(writer.save(tmp_path / "t.jsonl"))
    found, stats = read(backend, hours=AGES)
    assert found == plain
    assert {(row["app_version"], row["instance"], row["device"]) for row in found} == {("2.1", "i-1", "Pixel 9")}
    assert stats.sources == [backend]


def test_a_fleet_is_the_same_from_jaeger_and_tempo(backend: str, writer: Writer, tmp_path: Path) -> None:
    writer.about |= {"service.instance.id": "i-1", "device.model.name": "Pixel 9"}
    for number, span in enumerate(writer.spans):
        mark = {"key": "llmtrace.model.fingerprint", "value": {"stringValue": f"fp_{number * 2 // len(writer.spans)}"}}
        span["attributes"].append(mark)
    made: list[dict[str, Any]] = []
    for source in (str(writer.save(tmp_path / "t.jsonl")), backend):
        with load([source], hours=AGES) as traces:
            made.append(as_json(reports.make("fleet", Book(traces))))
    plain, asked = ({**each, "input": None} for each in made)
    assert asked == plain
    assert "the newest of 2, runs on 100.0% of 1 active instance" in str(plain["headline"])


def test_the_viewer_says_what_the_file_says(writer: Writer, tmp_path: Path) -> None:
    plain, _ = read(writer.save(tmp_path / "t.jsonl"))
    with viewer("--memory") as running:
        running.send(writer.document())
        running.until(lambda status: status["spans"] == len(writer.spans))
        rows, stats = read(running.url, hours=AGES)
        assert rows == plain
        assert stats.notes == []
        few, cut = read(running.url, hours=AGES, limit=2)
        assert len({row["trace_id"] for row in few}) == 2
        assert cut.notes == [f"{running.url}: 2 traces were read, and there are more: --limit reads more of them"]
        with pytest.raises(LlmtraceError, match=r"no spans in http.* in the last 2 h \(--hours\)"):
            read(running.url, hours=2, service="nobody")


def test_what_lies_beyond_one_answer_is_asked_for_too(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_AT_ONCE", 2)
    plain, _ = read(writer.save(tmp_path / "t.jsonl"))
    asked: list[str] = []
    with serving(writer, "jaeger 2", asked=asked) as url:
        rows, stats = read(url, hours=AGES)
        assert rows == plain
        assert stats.notes == []
        assert len(asked) > 5
        _, cut = read(url, hours=AGES, limit=3)
        assert "there are more: --limit reads more of them" in cut.notes[0]


@pytest.mark.parametrize(("status", "words"), [(401, "wants credentials"), (500, "fewer hours"), (503, "not ready")])
def test_what_a_status_means(writer: Writer, status: int, words: str) -> None:
    with serving(writer, "jaeger", status=status) as url:
        secret = url.replace("//", "//me:secret@")
        with pytest.raises(LlmtraceError, match=f"answers {status}: .*{words}") as refused:
            read(secret)
        assert "me:secret" not in str(refused.value)


def test_a_download_from_jaegers_page(writer: Writer, tmp_path: Path) -> None:
    plain, _ = read(writer.save(tmp_path / "t.jsonl"))
    handler = type("Handler", (Backend,), {"asked": [], "writer": writer, "flavour": "jaeger"})
    answer = handler.answer(handler.__new__(handler), "/api/traces", {"service": ["app"]})
    path = tmp_path / "download.json"
    path.write_text(json.dumps(answer, indent=1))
    assert read(path)[0] == plain


def test_nobody_answers() -> None:
    with pytest.raises(LlmtraceError, match=r"cannot reach http://127\.0\.0\.1:9"):
        read("http://127.0.0.1:9")


def test_who_answers_speaks_no_http() -> None:
    with (
        answering(lambda connection: connection.sendall(b"SSH-2.0\r\n")) as (host, port),
        pytest.raises(LlmtraceError, match=r"cannot reach http://127\.0\.0\.1:\d+: "),
    ):
        read(f"http://{host}:{port}")
