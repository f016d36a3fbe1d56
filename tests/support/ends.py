"""What arrives of a process's last spans, by how it ends: real processes (``ends_app.py``) against the replay server.

``make ends`` runs every case and writes the table of docs/process-ends.md; the suite runs those that matter most.
``make ends ARGS="python3.10 python3.13"`` runs them on other Pythons too, ``ARGS=--only=celery`` some of them, and
writes nothing. What needs Redis runs where there is a ``redis-server``.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.replay import Replay, Request, Script, openai_body, openai_stream

ROOT = Path(__file__).resolve().parents[2]
APP = str(Path(__file__).with_name("ends_app.py"))
MODULE = "tests.support.ends_app"
WAITED_S = 60.0
"""No process of these takes longer to get ready, or to end."""

ALL = ("abandoned", "completed", "completed", "never_consumed")
"""The outcomes of the four calls."""
NONE: tuple[str, ...] = ()


class Case(NamedTuple):
    """One way in which a process ends, and what then arrives of its four calls (and of the application's span)."""

    name: str
    how: str
    """In words, for the table."""
    plain: bool
    """Whether the application's own span arrives without llmtrace, by OpenTelemetry alone."""
    hooks: tuple[str, ...]
    """The calls that arrive by default."""
    sigterm: tuple[str, ...]
    """The calls that arrive with ``flush_on_sigterm``."""
    provider: str = "parent"
    """Where OpenTelemetry and llmtrace are set up: ``parent`` (before the fork) or ``child``."""
    race: bool = False
    """By default all may arrive or nothing."""

    def expected(self, mode: str) -> tuple[str, ...]:
        return {"hooks": self.hooks, "sigterm": self.sigterm}.get(mode, NONE)


CASES = [
    Case("sigterm", "SIGTERM that nobody handles", False, NONE, ALL),
    Case("waiting", "the same, while a call waits for its answer (one call)", False, NONE, ("abandoned",)),
    Case("handled", "SIGTERM, a handler that calls `sys.exit`", True, ALL, ALL),
    Case("handled_before", "the same, the handler set before `instrument()`", True, ALL, ALL),
    Case("asyncio_handler", "SIGTERM, `loop.add_signal_handler`, `asyncio.run` returns", True, ALL, ALL),
    Case("handled_then_default", "SIGTERM after a handler was set and taken back", False, NONE, ALL),
    Case("chained", "SIGTERM, a handler that ends as the one before it would", False, NONE, ALL),
    Case("sigterm_pid1", "SIGTERM to process 1 of a container, then SIGKILL", False, NONE,
         ("completed", "completed")),
    Case("sigterm_kill", "SIGKILL, out of memory, `os.abort`", False, NONE, NONE),
    Case("uvicorn_run_term", "uvicorn, one process, `uvicorn.run`, SIGTERM", False, NONE, ALL),
    Case("uvicorn_cli_term", "uvicorn, one process, command line, SIGTERM", False, NONE, ALL),
    Case("uvicorn_cli_workers_term", "uvicorn, two workers, SIGTERM", False, NONE, ALL),
    Case("uvicorn_run_int", "uvicorn, `uvicorn.run`, SIGINT", True, ALL, ALL),
    Case("uvicorn_cli_int", "uvicorn, command line, SIGINT", True, ALL, ALL),
    Case("gunicorn_term", "gunicorn, preloaded, SIGTERM", True, ALL, ALL),
    Case("gunicorn_int", "gunicorn, preloaded, SIGINT", True, ALL, ALL),
    Case("fork_os_exit", "`os.fork`, the child leaves by `os._exit`", False, NONE, NONE),
    Case("fork_shutdown_os_exit", "the same after `provider.shutdown()`", True, ALL, ALL),
    Case("fork_sys_exit", "`os.fork`, the child leaves by `sys.exit`", True, ALL, ALL),
    Case("process_fork", "`multiprocessing.Process`, fork", False, ALL, ALL),
    Case("process_fork", "the same, set up in the child", False, ALL, ALL, "child"),
    Case("process_spawn", "`Process`, spawn", True, ALL, ALL),
    Case("process_forkserver", "`Process`, forkserver", False, ALL, ALL),
    Case("late_thread", "`Process`, a thread calls after the target returned", False, ALL, ALL),
    Case("idle_executor", "`Process`, a thread pool never shut down", False, ALL, ALL),
    Case("nested", "`Process` in a `Process`", False, ALL, ALL),
    Case("process_terminate", "`Process.terminate()`", False, NONE, ALL),
    Case("pool_close", "`multiprocessing.Pool`, `close()` and `join()`", False, ALL, ALL),
    Case("pool_terminate", "`Pool.terminate()`, and so `with Pool()`", False, NONE, ALL, race=True),
    Case("executor", "`ProcessPoolExecutor`", False, ALL, ALL),
    Case("executor", "the same, set up in the child", False, ALL, ALL, "child"),
    Case("celery_warm", "Celery prefork, stopped warm (SIGTERM)", False, ALL, ALL),
    Case("celery_cold", "Celery prefork, stopped cold (SIGQUIT)", False, ALL, ALL),
    Case("celery_cold", "the same, set up in the child", False, ALL, ALL, "child"),
    Case("celery_busy_cold", "Celery prefork, stopped cold in the middle of a task", False, ALL, ALL),
    Case("celery_recycled", "Celery prefork, the child replaced after its task", False, ALL, ALL),
    Case("celery_redis_warm", "Celery prefork with Redis, stopped warm", False, ALL, ALL),
    Case("celery_redis_cold", "Celery prefork with Redis, stopped cold", False, ALL, ALL),
    Case("celery_redis_busy_cold", "Celery prefork with Redis, cold in the middle of a task", False, ALL, ALL),
]  # fmt: skip
MODES = ("plain", "hooks", "sigterm")
"""OpenTelemetry alone; with llmtrace; with ``flush_on_sigterm`` too."""

# The table of docs/process-ends.md

PAGE = ROOT / "docs" / "process-ends.md"
BEGIN, END = "<!-- make ends -->\n", "<!-- end -->"
HEAD = "| how the process ends | OpenTelemetry alone | with llmtrace | and `flush_on_sigterm` |"


BEGIN_RUN, END_RUN = "<!-- make ends: run -->\n", "<!-- end of run -->"


def row(case: Case) -> str:
    """The line of ``case``: how many of the spans arrive, the application's own one and its calls'."""
    calls = 1 if case.name == "waiting" else len(ALL)

    def told(arrives: tuple[str, ...], race: bool = False) -> str:
        of = f"of {1 + calls}"
        return f"0 or {1 + calls} {of}" if race else f"{len(arrives) + 1 if arrives else 0} {of}"

    cells = [f"{int(case.plain)} of 1", told(case.hooks, case.race), told(case.sigterm)]
    return f"| {case.how} | {' | '.join(cells)} |"


def section(page: str) -> str:
    """The table on the page."""
    return page.partition(BEGIN)[2].partition(END)[0]


class Left(NamedTuple):
    """What came of a process: the spans that arrived, by whose they are, its exit code, how long its end took."""

    app: dict[str, int]
    calls: dict[str, tuple[str, ...]]
    code: int
    seconds: float
    log: str

    def of(self, who: str = "child") -> tuple[int, tuple[str, ...]]:
        """The application's spans and the calls' outcomes."""
        return self.app.get(who, 0), self.calls.get(who, NONE)


@functools.cache
def api() -> str:
    """The base URL of a server that answers chats, with a stream where one is asked for; model ``slow`` takes long."""

    def answer(request: Request) -> Script:
        asked = request.json
        if asked["model"] == "slow":
            Path(request.headers["x-ready"]).write_text("asked")
            return replace(openai_body(), before=WAITED_S)
        return openai_stream() if asked.get("stream") else openai_body()

    server = Replay()
    server.serve(answer)
    return server.base_url


def command(case: str, python: str) -> list[str]:
    """How the program of ``case`` is started."""
    if case.startswith("uvicorn_cli"):
        workers = ["--workers", "2"] if "workers" in case else []
        return [python, "-m", "uvicorn", f"{MODULE}:asgi", "--port", "0", "--log-level", "error", *workers]
    if case.startswith("celery"):
        return [python, "-m", "celery", "-A", MODULE, "worker", "-c", "1", "-P", "prefork", "-l", "error"]
    if case.startswith("gunicorn"):
        flags = ["-c", APP, "-b", "127.0.0.1:0", "--preload", "--log-level", "error"]
        return [python, "-m", "gunicorn", *flags, f"{MODULE}:wsgi"]
    if case.endswith("_pid1"):
        return ["unshare", "-rpf", python, APP, "sigterm"]
    program = case
    for ending in ("_int", "_term", "_kill", "_twice"):
        program = program.removesuffix(ending)
    return [python, APP, program]


def is_signalled(case: str) -> bool:
    """Whether the process ends by a signal from here."""
    names = ("sigterm", "waiting", "holding", "handled", "chained", "asyncio", "uvicorn", "celery", "gunicorn")
    return case.startswith(names)


def signal_for(case: str) -> signal.Signals:
    words = case.split("_")
    named = {"int": signal.SIGINT, "cold": signal.SIGQUIT, "kill": signal.SIGKILL}
    return next((number for word, number in named.items() if word in words), signal.SIGTERM)


def exit_code(case: str) -> int | None:
    """The exit code that the process has with llmtrace as without; None where it is not the process's own."""
    if case.endswith("_pid1"):
        return None
    if case.endswith("_kill"):
        return -signal.SIGKILL
    if case in ("sigterm", "sigterm_twice", "waiting", "holding", "chained", "handled_then_default"):
        return -signal.SIGTERM
    if case.startswith("uvicorn") and not case.endswith("_int") and "workers" not in case:
        return -signal.SIGTERM
    return 3 if case in ("handled", "handled_before") else 0


def left(
    case: str,
    mode: str,
    provider: str = "parent",
    *,
    late: float = 0.0,
    patience: float = 5.0,
    python: str = sys.executable,
    broker: str = "",
) -> Left:
    """Run the program of ``case`` to its end.

    ``late``: after how many seconds the backend takes spans; ``patience``: how long an end may be held up.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        out = Path(folder) / "spans"
        env = {name: value for name, value in os.environ.items() if not name.startswith(("LLMTRACE_", "OTEL_"))}
        told = {"CASE": case, "MODE": mode, "PROVIDER": provider, "OUT": out, "URL": api(), "BROKER": broker}
        env |= {f"ENDS_{name}": str(value) for name, value in (told | {"LATE": late, "PATIENCE": patience}).items()}
        env |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        log = Path(folder) / "log"
        with log.open("w") as written:
            process = subprocess.Popen(command(case, python), env=env, cwd=folder, stdout=written, stderr=written)
        try:
            if is_signalled(case):
                _await(Path(f"{out}.ready"), process)
                _signal(process, case)
            since = time.monotonic()
            code = process.wait(timeout=WAITED_S)
            seconds = time.monotonic() - since
        except BaseException as error:
            process.kill()
            raise AssertionError(f"{case} {mode}: {error}\n{log.read_text()}") from error
        lines: list[Any] = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        app: dict[str, int] = {}
        calls: dict[str, list[str]] = {}
        for name, model, outcome in lines:
            if name.startswith("app "):
                app[name[4:]] = app.get(name[4:], 0) + 1
            elif model is not None:
                calls.setdefault("child" if model == "slow" else model, []).append(outcome)
        return Left(app, {who: tuple(sorted(o)) for who, o in calls.items()}, code, seconds, log.read_text())


def _await(marker: Path, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + WAITED_S
    while not (marker.exists() and marker.read_text()):
        assert process.poll() is None, "ended before it was ready"
        assert time.monotonic() < until, "not ready in time"
        time.sleep(0.02)
    time.sleep(0.1)  # what comes right after the marker: the wait for a signal


def _signal(process: subprocess.Popen[bytes], case: str) -> None:
    pid = process.pid
    if case.endswith("_pid1"):
        pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    os.kill(pid, signal_for(case))
    if case.endswith("_twice"):
        time.sleep(0.3)
        os.kill(pid, signal.SIGTERM)
    if case.endswith("_pid1"):
        time.sleep(1.5)
        assert process.poll() is None, "process 1 lives on"
        os.kill(pid, signal.SIGKILL)


# make ends

SLOW = ("process_fork", "celery_cold", "celery_busy_cold", "celery_redis_warm", "celery_redis_busy_cold")
"""Cases in which a backend that answers after two seconds must be waited for."""
VENVS = ROOT / ".venvs"
NEEDS = ["celery[redis]>=5.4", "gunicorn", "uvicorn"]


def environment(python: str) -> str:
    """An environment for ``python`` with all that the cases need; its interpreter."""
    version = _told(python, "import sys; print('%d.%d' % sys.version_info[:2])")
    own = VENVS / ("ends" if python == sys.executable else f"ends-{version}")
    made = str(own / "bin" / "python")
    if not (own / ".installed").exists():
        subprocess.run([python, "-m", "venv", str(own)], check=True)
        needs = ["--editable", f"{ROOT}[openai]", *NEEDS]
        subprocess.run([made, "-m", "pip", "install", "--quiet", *needs], check=True, cwd=ROOT)
        (own / ".installed").touch()
    return made


def _told(python: str, program: str) -> str:
    return subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """A broker with an event loop, with which Celery's pool is another one than with the broker in memory."""
    server = shutil.which("redis-server")
    if server is None:
        yield ""
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    flags = ["--port", str(port), "--save", "", "--bind", "127.0.0.1"]
    process = subprocess.Popen([server, *flags], cwd=tempfile.gettempdir(), stdout=subprocess.DEVNULL)
    try:
        time.sleep(1.0)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


class Cell(NamedTuple):
    """One case in one mode, and how long the backend takes."""

    case: Case
    mode: str
    late: float = 0.0

    def run(self, python: str, broker: str) -> str:
        """What is wrong with it, nothing where all is as expected."""
        case, mode = self.case, self.mode
        try:
            arrived = left(case.name, mode, case.provider, late=self.late, python=python, broker=broker)
        except AssertionError as error:
            return f"{self}: {error}"
        calls = case.expected(mode)
        expected = [(int(case.plain if mode == "plain" else bool(calls)), calls)]
        if case.race and mode == "hooks":
            expected.append((1, ALL))
        if arrived.of() in expected and exit_code(case.name) in (None, arrived.code):
            return ""
        return f"{self}: {arrived}"

    def __str__(self) -> str:
        return f"{self.case.name}, set up in the {self.case.provider}, {self.mode}{', late' * bool(self.late)}"


def main(arguments: list[str]) -> int:
    """Run the cases; write the page if all of them were run and came out as it says."""
    only = tuple(each.removeprefix("--only=") for each in arguments if each.startswith("--only="))
    others = [shutil.which(each) or each for each in arguments if not each.startswith("--")]
    ran: list[str] = []
    wrong: list[str] = []
    with redis() as broker:
        cases = [case for case in CASES if (broker or "redis" not in case.name) and case.name.startswith(only or "")]
        for python in [sys.executable, *others]:
            made = environment(python)
            modes = MODES if python == sys.executable else MODES[1:]
            cells = [Cell(case, mode) for case in cases for mode in modes]
            cells += [Cell(case, "sigterm", 2.0) for case in cases if case.name in SLOW and case.provider == "parent"]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                bad = [told for told in pool.map(partial(Cell.run, python=made, broker=broker), cells) if told]
            ran.append(f"{_told(made, VERSIONS)}: {len(cells) - len(bad)} of {len(cells)} cells as the table says")
            print(ran[-1], *bad, sep="\n", flush=True)
            wrong += bad
    if not wrong and len(cases) == len(CASES):
        write(ran)
    return bool(wrong)


def write(ran: list[str]) -> None:
    """Put the table and ``ran``, what was run, on the page."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    page = PAGE.read_text(encoding="utf-8")
    table = "\n".join([HEAD, "|---" * 4 + "|", *map(row, CASES)]) + "\n"
    page = page.replace(BEGIN + section(page), BEGIN + table)
    before, begin, rest = page.partition(BEGIN_RUN)
    told = f"`make ends`, {datetime.date.today()}, commit {commit}, {platform.system()}, {os.cpu_count()} cores:\n\n"
    told += "".join(f"- {each}\n" for each in ran)
    PAGE.write_text(before + begin + told + END_RUN + rest.partition(END_RUN)[2], encoding="utf-8")


VERSIONS = """
import platform
from importlib.metadata import version
names = ("opentelemetry-sdk", "openai", "celery", "gunicorn", "uvicorn")
print(f"Python {platform.python_version()},", ", ".join(f"{name} {version(name)}" for name in names))
"""

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
