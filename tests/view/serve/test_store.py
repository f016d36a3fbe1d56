"""The store as users meet it: sudden ends, full disks, other processes, too little room."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import duckdb
import pytest

from llmtrace.view.serve import store as module
from llmtrace.view.serve.store import Store, StoreError, UnavailableError
from llmtrace.view.serve.writer import SETTLE_S, Held, Writer, rest
from tests.analyze import writing
from tests.view.serve.running import Viewer, viewer


def calls(first: int, count: int) -> dict[str, Any]:
    writer = writing.Writer(count=first * 10)
    for number in range(first, first + count):
        writer.call(number * 10.0, [("network", 1.0), ("prefill", 3.0), ("decode", 2.0)], trace=number + 1)
    return writer.document()


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_nothing_acknowledged_is_lost_to_a_sudden_end(tmp_path: Path) -> None:
    acknowledged: list[int] = []
    path = tmp_path / "s.duckdb"
    with viewer("--store", path) as killed:
        enough = threading.Event()

        def send(begin: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", killed.port, timeout=60)
            for first in range(begin, begin + 100_000, 5):
                body = json.dumps(calls(first, 5)).encode()
                try:
                    connection.request("POST", "/v1/traces", body, {"Content-Type": "application/json"})
                    answer = connection.getresponse()
                    answer.read()
                except (OSError, http.client.HTTPException):
                    return
                if answer.status == 200:
                    acknowledged.append(first)
                if len(acknowledged) >= 30:
                    enough.set()

        threads = [threading.Thread(target=send, args=(begin,)) for begin in (0, 200_000, 400_000)]
        for thread in threads:
            thread.start()
        assert enough.wait(120)
        killed.process.send_signal(signal.SIGKILL)  # while bodies are on their way
        for thread in threads:
            thread.join()
        killed.process.wait()
    with viewer("--store", path) as again:
        again.until(lambda status: status["traces"] >= 5 * len(acknowledged))
        for first in acknowledged:
            trace = again.get(f"/api/traces/{first + 1:032x}")
            assert trace["total"] == 4
        assert again.get("/api/status")["warnings"] == []
        assert again.stop() == 130
        assert again.errors == ""


def test_ctrl_c_leaves_a_valid_store_without_a_log(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "s.duckdb"
    with viewer("--store", path) as made:
        made.send(calls(0, 3))
        assert made.stop(signal.SIGINT) == 130
        assert made.errors == ""
    assert [each.name for each in path.parent.iterdir()] == ["s.duckdb"]
    assert path.stat().st_mode & 0o077 == 0
    with viewer("--store", path, warm=False) as made:
        assert made.get("/api/status")["calls"] == 3
        assert made.stop(signal.SIGTERM) == 143


FAILING = """
import json, sys
from llmtrace.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["llmtrace", "view", *arguments]
    try:
        main()
    except SystemExit as end:
        print(end.code, file=sys.stderr)
"""


def test_what_cannot_be_opened_is_one_line(tmp_path: Path, asked: Viewer) -> None:
    cases = {
        "choose another --port": ["--port", asked.port, "--memory"],
        "in use by another llmtrace view": ["--port", "0", "--store", asked.store],
        "no such file or folder": ["--port", "0", tmp_path / "nothing.jsonl"],
        "is no size": ["--max-size", "much"],
        "exclude each other": ["--memory", "--store", tmp_path],
        "--jaeger takes an address": ["--jaeger", "localhost"],
    }
    done = subprocess.run(
        [sys.executable, "-c", FAILING, json.dumps([[str(each) for each in case] for case in cases.values()])],
        capture_output=True, text=True, timeout=120, check=False, env=os.environ | {"COLUMNS": "500"},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert [line for line in lines if line == "1"] == ["1"] * len(cases), done.stderr
    last = [before for before, code in itertools.pairwise(lines) if code == "1"]
    for line, words in zip(last, cases, strict=True):
        assert words in line


def test_stores_that_are_none(tmp_path: Path) -> None:
    def why(path: Path) -> str:
        with pytest.raises(StoreError) as told:
            Store(path, 1 << 30)
        return str(told.value)

    broken = tmp_path / "broken.duckdb"
    broken.write_bytes(b"no database" * 1000)
    assert "move it away" in why(broken)
    other = tmp_path / "other.duckdb"
    with duckdb.connect(str(other)) as connection:
        connection.execute("CREATE TABLE state (other VARCHAR)")
    assert "no store of llmtrace" in why(other)
    newer = tmp_path / "newer.duckdb"
    Store(newer, 1 << 30).close()
    with duckdb.connect(str(newer)) as connection:
        connection.execute("UPDATE state SET version = version + 1")
    assert "newer llmtrace: pip install --upgrade" in why(newer)
    assert "name another file with --store" in why(tmp_path)


def table(document: dict[str, Any]) -> Any:
    held = Held()
    held.read(json.dumps(document).encode(), False)
    return held.table()


def test_the_oldest_go_first_when_room_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_GROUP", 2048)  # as many groups in the least room as there are in 2 GB
    made = Store(tmp_path / "s.duckdb", 0)  # the least there is: 32 MiB
    text = {"text": os.urandom(3000).hex()}
    largest = 0
    for first in range(0, 9000, 450):
        writer = writing.Writer(count=first * 10)
        for number in range(first, first + 450):
            text["text"] = os.urandom(3000).hex()
            writer.call(number * 10.0, [("decode", 2.0)], trace=number + 1, marks=text)
        made.add(table(writer.document()))
        made.settle()
        largest = max(largest, made.bytes())
    counts = made.counts
    assert made.dropped > 0
    assert counts.spans + made.dropped == 18_000
    assert largest <= made.max_bytes
    with made.reading() as cursor:
        ((oldest, newest),) = cursor.execute("SELECT min(start_us), max(start_us) FROM calls").fetchall()
    assert newest == (writing.EPOCH + 8999 * 10 * writing.MS) // 1000
    assert oldest > writing.EPOCH // 1000
    assert counts.spans == 2 * counts.calls == 2 * counts.traces  # whole traces went
    dropped = made.dropped
    made.close()
    again = Store(tmp_path / "s.duckdb", 0)
    assert again.dropped == dropped
    again.close()


def test_a_full_disk_is_told_and_gone_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Store(tmp_path / "s.duckdb", 1 << 30)
    writer = Writer(made)
    writer.start()
    bodies = [json.dumps(calls(first, 1)).encode() for first in range(0, 30, 10)]
    assert writer.body(bodies[0], False).result(30).spans == 4

    def full(self: Store, connection: Any) -> None:
        raise duckdb.IOException("Could not write file: No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Store, "_commit", full)
        with pytest.raises(UnavailableError, match="No space left"):
            writer.body(bodies[1], False).result(30)
        assert "No space left" in writer.trouble
    assert writer.body(bodies[1], False).result(30).spans == 4
    assert writer.trouble == ""
    # DuckDB gives a whole connection up after some errors: the store opens it again.
    monkeypatch.setattr(Store, "_commit", lambda self, connection: fatal())
    with pytest.raises(UnavailableError):
        writer.body(bodies[2], False).result(30)
    monkeypatch.undo()
    assert writer.body(bodies[2], False).result(30).spans == 4
    writer.stop()
    assert (made.counts.spans, made.counts.calls) == (12, 3)
    made.close()


def fatal() -> None:
    raise duckdb.FatalException("database has been invalidated")


LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on the size of files")
def test_a_file_that_may_not_grow_costs_nothing_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    acknowledged = 0
    with viewer("--store", path, prelude=LIMITED) as made:
        refused: list[str] = []
        for first in range(0, 4000, 50):
            writer = writing.Writer(count=first * 10)
            for number in range(first, first + 50):
                marks = {"text": os.urandom(500).hex()}
                writer.call(number * 10.0, [("decode", 2.0)], trace=number + 1, marks=marks)
            body = json.dumps(writer.document()).encode()
            code, headers, answer = made.ask("/v1/traces", body, {"Content-Type": "application/json"})
            if code == 200:
                assert not refused or acknowledged
                acknowledged += 50
            else:
                assert code == 503, answer
                assert headers["retry-after"]
                refused.append(json.loads(answer)["error"])
                if len(refused) > 3:
                    break
        assert refused
        assert any("cannot be written" in reason for reason in refused)
        assert made.get("/api/status")["warnings"] if made.ask("/api/status")[0] == 200 else True
        made.process.kill()
    with viewer("--store", path) as again:
        status = again.until(lambda status: status["calls"] >= acknowledged)
        assert status["calls"] >= acknowledged
        again.send(calls(100_000, 1))
        again.until(lambda status: status["calls"] >= acknowledged + 1)


def test_a_store_of_nothing_answers(tmp_path: Path) -> None:
    made = Store(None, 1 << 28)
    assert made.counts == module.Counts()
    assert not made.settle()
    assert made.bytes() > 0
    made.close()
    made.close()
    with pytest.raises(UnavailableError), made.reading():
        pass


def test_a_slow_first_time_keeps_nobody_waiting() -> None:
    assert rest(0.01) == SETTLE_S
    assert rest(0.5) == 1.5, "writing keeps three quarters of the time"
    assert rest(60.0) == 3.0, "as it may take where modules are loaded on a busy machine"
