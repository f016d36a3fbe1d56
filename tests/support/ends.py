"""Shows which of a process's last spans arrive, by how it ends: real processes (``ends_app.py``), the replay server.

The suite runs the cases that matter most; ``make ends`` (tests/evaluation/ends) runs them all.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.replay import Replay, Request, Script, openai_body, openai_stream
from tests.support.warm import CLIENT, warm

ROOT = Path(__file__).resolve().parents[2]
APP = str(Path(__file__).with_name("ends_app.py"))
MODULE = "tests.support.ends_app"
WARM = ("openai", "opentelemetry.sdk.trace.export")
"""What the programs import before anything of llmtrace."""
RUN = "import sys; del sys.argv[0]; exec(compile(open(sys.argv[0]).read(), sys.argv[0], 'exec'))"
"""A program that does what another one's file says."""
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
    Case("waiting", "SIGTERM while the process's one call waits for its answer", False, NONE, ("abandoned",)),
    Case("handled", "SIGTERM, a handler that calls `sys.exit`", True, ALL, ALL),
    Case("handled_before", "SIGTERM, such a handler set before `instrument()`", True, ALL, ALL),
    Case("asyncio_handler", "SIGTERM, `loop.add_signal_handler`, `asyncio.run` returns", True, ALL, ALL),
    Case("handled_then_default", "SIGTERM after a handler was set and taken back", False, NONE, ALL),
    Case("chained", "SIGTERM, a handler that ends as the one before it would", False, NONE, ALL),
    Case("sigterm_pid1", "SIGTERM to process 1 of a container, then SIGKILL", False, NONE,
         ("completed", "completed")),
    Case("sigterm_kill", "SIGKILL", False, NONE, NONE),
    Case("uvicorn_run_term", "uvicorn, one process, `uvicorn.run`, SIGTERM", False, NONE, ALL),
    Case("uvicorn_cli_term", "uvicorn, one process, command line, SIGTERM", False, NONE, ALL),
    Case("uvicorn_cli_workers_term", "uvicorn, two workers, SIGTERM", False, NONE, ALL),
    Case("uvicorn_run_int", "uvicorn, `uvicorn.run`, SIGINT", True, ALL, ALL),
    Case("uvicorn_cli_int", "uvicorn, command line, SIGINT", True, ALL, ALL),
    Case("gunicorn_term", "gunicorn, preloaded, SIGTERM", True, ALL, ALL),
    Case("gunicorn_int", "gunicorn, preloaded, SIGINT", True, ALL, ALL),
    Case("fork_os_exit", "`os.fork`, the child leaves by `os._exit`", False, NONE, NONE),
    Case("fork_shutdown_os_exit", "`os.fork`, the child leaves by `os._exit` after `provider.shutdown()`",
         True, ALL, ALL),
    Case("fork_sys_exit", "`os.fork`, the child leaves by `sys.exit`", True, ALL, ALL),
    Case("process_fork", "`multiprocessing.Process`, fork", False, ALL, ALL),
    Case("process_fork", "`multiprocessing.Process`, fork, set up in the child", False, ALL, ALL, "child"),
    Case("process_spawn", "`Process`, spawn", True, ALL, ALL),
    Case("process_forkserver", "`Process`, forkserver", False, ALL, ALL),
    Case("late_thread", "`Process`, a thread calls after the target returned", False, ALL, ALL),
    Case("idle_executor", "`Process`, a thread pool never shut down", False, ALL, ALL),
    Case("nested", "`Process` in a `Process`", False, ALL, ALL),
    Case("process_terminate", "`Process.terminate()`", False, NONE, ALL),
    Case("pool_close", "`multiprocessing.Pool`, `close()` and `join()`", False, ALL, ALL),
    Case("pool_terminate", "`Pool.terminate()`, and so `with Pool()`", False, NONE, ALL, race=True),
    Case("executor", "`ProcessPoolExecutor`", False, ALL, ALL),
    Case("executor", "`ProcessPoolExecutor`, set up in the child", False, ALL, ALL, "child"),
    Case("celery_warm", "Celery prefork, stopped warm (SIGTERM)", False, ALL, ALL),
    Case("celery_cold", "Celery prefork, stopped cold (SIGQUIT)", False, ALL, ALL),
    Case("celery_cold", "Celery prefork, stopped cold, set up in the child", False, ALL, ALL, "child"),
    Case("celery_busy_cold", "Celery prefork, stopped cold in the middle of a task", False, ALL, ALL),
    Case("celery_recycled", "Celery prefork, the child replaced after its task", False, ALL, ALL),
    Case("celery_redis_warm", "Celery prefork with Redis, stopped warm", False, ALL, ALL),
    Case("celery_redis_cold", "Celery prefork with Redis, stopped cold", False, ALL, ALL),
    Case("celery_redis_busy_cold", "Celery prefork with Redis, cold in the middle of a task", False, ALL, ALL),
]  # fmt: skip
MODES = ("plain", "hooks", "sigterm")
"""OpenTelemetry alone; with llmtrace; with ``flush_on_sigterm`` too."""


class Left(NamedTuple):
    """The result of a process: the spans that arrived, by owner, its exit code, and how long its end took (s)."""

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
        body = request.json
        if body["model"] == "slow":
            Path(request.headers["x-ready"]).write_text(request.headers["x-pid"])
            return replace(openai_body(), before=WAITED_S)
        return openai_stream() if body.get("stream") else openai_body()

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
    by_word = {"int": signal.SIGINT, "cold": signal.SIGQUIT, "kill": signal.SIGKILL}
    return next((number for word, number in by_word.items() if word in words), signal.SIGTERM)


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
    patience: float = 30.0,
    python: str = sys.executable,
    broker: str = "",
    by_fork: bool = False,
) -> Left:
    """Run the program of ``case`` to its end.

    ``late``: after how many seconds the backend takes spans. ``patience``: how long an end may be held up, in s; longer
    than by default, so that no busy machine decides what arrives. ``by_fork``: of an interpreter that has imported the
    client already, where the program is Python's own.
    """
    started = command(case, python)
    if by_fork := by_fork and started[1] == APP:
        started = [python, "-SE", "-c", CLIENT, warm(*WARM).address, RUN, *started[1:]]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        out = Path(folder) / "spans"
        env = {name: value for name, value in os.environ.items() if not name.startswith(("LLMTRACE_", "OTEL_"))}
        settings = {"CASE": case, "MODE": mode, "PROVIDER": provider, "OUT": out, "URL": api(), "BROKER": broker}
        env |= {f"ENDS_{name}": str(value) for name, value in (settings | {"LATE": late, "PATIENCE": patience}).items()}
        env |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        log = Path(folder) / "log"
        with log.open("w") as written:
            process = subprocess.Popen(started, env=env, cwd=folder, stdout=written, stderr=written)
        try:
            if is_signalled(case):
                ready = _await(Path(f"{out}.ready"), process)
                _signal(process, case, int(ready) if by_fork else process.pid)
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


def _await(marker: Path, process: subprocess.Popen[bytes]) -> str:
    until = time.monotonic() + WAITED_S
    while not (marker.exists() and marker.read_text()):
        assert process.poll() is None, "ended before it was ready"
        assert time.monotonic() < until, "not ready in time"
        time.sleep(0.02)
    time.sleep(0.1)  # what comes right after the marker: the wait for a signal
    return marker.read_text()


def _signal(process: subprocess.Popen[bytes], case: str, pid: int) -> None:
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
