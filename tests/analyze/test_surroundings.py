"""The report commands where they are run: narrow terminals, closed pipes, no home, a cache that can't be, Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from llmtrace.analyze import load as loading
from llmtrace.analyze.load import load
from llmtrace.cli import build_app
from tests.analyze.writing import Writer
from tests.support.waiting import wait_for

PHASES = [("network", 10), ("queue", 20), ("prefill", 100), ("decode", 400)]
EVIL = "gpt\x1b[31m\x07\x9b2J\u202e4"
STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")


def traces(path: Path, calls: int = 25, **options: Any) -> str:
    writer = Writer()
    for number in range(calls):
        marks = {"llmtrace.diagnosis": ["queueing"], "server.port": 8000}
        outcome = "cancelled" if number % 5 == 0 else "completed"
        writer.call(number * 1000, PHASES, **{"model": EVIL, "marks": marks, "outcome": outcome, **options})
    return str(writer.save(path))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LLMTRACE_CACHE", str(tmp_path / "cache"))
    return traces(tmp_path / "traces.jsonl")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Calls enough for several reading processes."""
    return traces(tmp_path_factory.mktemp("many") / "many.jsonl", 8000)


def commands(source: str) -> list[list[str]]:
    reports = ("phases", "causes", "cost", "cancellations", "floor", "models", "accuracy")
    return [
        *(["report", name, source] for name in reports),
        ["compare", source, source],
        ["whatif", source, "--phase", "decode", "--factor", "0.5"],
        ["show", source],
    ]


def test_sixty_columns_without_colour_and_nothing_that_steers(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    for arguments in commands(source):
        result = CliRunner().invoke(build_app(), arguments)
        assert result.exit_code == 0, (arguments, result.output)
        assert not STEERING.search(result.output), arguments
        too_long = [line for line in result.stdout.splitlines() if cell_len(line) > 60]
        assert not too_long, (arguments, too_long)
        assert "None " not in result.stdout
        assert "fingerprint=" not in result.stdout


def test_json_and_pages_hold_nothing_that_steers_and_json_keeps_the_name(source: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    for arguments in commands(source)[:-1]:
        result = CliRunner().invoke(build_app(), [*arguments, "--format", "json", "--html", str(page)])
        assert not STEERING.search(result.stdout), arguments
        assert not STEERING.search(page.read_text()), arguments
    told = CliRunner().invoke(build_app(), ["report", "phases", source, "--format", "json"]).stdout
    assert EVIL in json.loads(told)["sections"][0]["rows"][0][0]


def test_one_call_is_one_call_and_a_port_stands_in_the_route(tmp_path: Path) -> None:
    source = traces(tmp_path / "one.jsonl", 1, model="gpt-4o")
    told = CliRunner().invoke(build_app(), ["report", "phases", source]).stdout
    assert "1 call;" in told
    assert "@ api.openai.com:8000" in told
    usual = traces(tmp_path / "usual.jsonl", 1, marks={"server.port": 443})
    assert "api.openai.com:" not in CliRunner().invoke(build_app(), ["report", "phases", usual]).stdout


def test_a_call_whose_provider_nobody_told(tmp_path: Path) -> None:
    writer = Writer()
    asked = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o", "gen_ai.usage.input_tokens": 1000}
    writer.span("chat", 0, 500, {**asked, "llmtrace.cost.usd": 0.5, "llmtrace.call.outcome": "completed"}, kind=3)
    told = CliRunner().invoke(build_app(), ["report", "cost", str(writer.save(tmp_path / "a.jsonl"))]).stdout
    assert "gpt-4o" in told
    assert "None" not in told


def environment(**more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "VIRTUAL_ENV") if name in os.environ}
    return {**kept, "PYTHONWARNINGS": "ignore", **more}


def llmtrace(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "llmtrace", *arguments]


@pytest.mark.parametrize("arguments", [("report", "phases"), ("show",)])
def test_a_reader_that_leaves_is_no_failure(arguments: tuple[str, ...], source: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(
            llmtrace(*arguments, source),
            check=False,
            stdout=writer,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=300,
        )
    finally:
        os.close(writer)
    assert (result.returncode, result.stderr) == (0, b"")


def test_no_home_and_a_cache_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "SMALL", 0)
    path = traces(tmp_path / "traces.jsonl")
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("LLMTRACE_CACHE", str(blocked))
    with load([path]) as opened:
        assert opened.stats.spans == 125
    for name in ("LLMTRACE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    with load([path]) as opened:
        assert opened.stats.spans == 125


def test_a_cache_that_is_read_only_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "SMALL", 0)
    monkeypatch.setenv("LLMTRACE_CACHE", str(tmp_path / "cache"))
    path = traces(tmp_path / "traces.jsonl")
    with load([path]):
        pass

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    read: list[object] = []
    with load([path], tell=lambda done, whole: read.append(done)) as opened:
        assert opened.stats.spans == 125
    assert read == []


@pytest.mark.parametrize(
    "arguments",
    [("report", "phase", "SOURCE"), ("whatif", "SOURCE", "--phase", "decode", "--factor", "-1"), ("report", "phases")],
)
def test_wrong_usage_is_two(arguments: tuple[str, ...], source: str) -> None:
    given = [source if argument == "SOURCE" else argument for argument in arguments]
    assert CliRunner().invoke(build_app(), given).exit_code == 2


@pytest.mark.skipif(sys.platform != "linux", reason="looks for a process's children in /proc")
@pytest.mark.parametrize("stage", ["imports", "reading", "engine"])
def test_ctrl_c_ends_it_without_a_traceback(stage: str, many: str) -> None:
    """Wherever it strikes: in the imports, among the reading processes, in the engine after them."""
    program = (
        "import sys; from llmtrace.cli import main; print('begun', flush=True); "
        f"sys.argv = ['llmtrace', 'report', 'phases', {many!r}, '--no-cache']; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"

    def reading() -> bool:
        with suppress(OSError):
            return bool(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        return False

    def importing() -> bool:
        with suppress(OSError):
            return "pyarrow" in Path(f"/proc/{process.pid}/maps").read_text()
        return False

    wait_for(lambda: importing() or process.poll() is not None)
    if stage != "imports":
        wait_for(lambda: reading() or process.poll() is not None)
    if stage == "engine":
        wait_for(lambda: not reading())
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert errors == b""
    # While modules load the signal itself ends it, which a shell calls 130 too; 0: it was done before.
    assert process.returncode in (130, -signal.SIGINT, 0)
