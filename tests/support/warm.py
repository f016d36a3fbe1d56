"""Programs that need a process of their own, but no interpreter of their own: a warm one forks for each of them.

It has imported what takes most of a program's time, and nothing that the program itself is to import first. Arguments,
environment, working directory and streams are the program's own, and it ends as any other does, by its return code and
with its exit actions. What an interpreter reads as it starts (the ``PYTHON`` variables) is the warm one's.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CLIENT = (
    "import json, os, socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1]);"
    "socket.send_fds(s, [json.dumps([sys.argv[2], sys.argv[3:], dict(os.environ), os.getcwd()]).encode()], [0, 1, 2]);"
    "code = int(s.recv(16)); os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)"
)
"""A program for ``python -SE -c``, to be started with an address, a program and its arguments: it stands for a process
where a shell wants one."""
COMMAND = ("typer", "rich.console", "llmtrace.commands.show", "llmtrace.commands.doctor")
"""What the command line imports for most of its commands; not DuckDB and Arrow, whose threads bear no fork."""
_MOST = 1 << 20


class Warm:
    """An interpreter that has imported ``modules`` and waits; it ends with this process."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="warm", ignore_cleanup_errors=True)
        self.address = str(Path(self._folder.name, "socket"))
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests.support import warm; warm.serve()", self.address, *modules],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def run(
        self, program: str, *arguments: str, env: Mapping[str, str], cwd: str | Path, timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        """What ``python -c PROGRAM ARGUMENTS`` prints and returns."""
        with (
            open(os.devnull) as nothing,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking,
        ):
            asking.settimeout(timeout)
            asking.connect(self.address)
            streams = [nothing.fileno(), out.fileno(), err.fileno()]
            socket.send_fds(asking, [json.dumps([program, arguments, dict(env), str(cwd)]).encode()], streams)
            code = int(asking.recv(16))
            told = [stream.seek(0) or stream.read().decode() for stream in (out, err)]
        return subprocess.CompletedProcess(["python", "-c", program, *arguments], code, *told)


@functools.cache
def warm(*modules: str) -> Warm:
    """The interpreter that has imported ``modules``: one for each process that asks."""
    return Warm(modules)


def serve() -> None:
    """Import what is asked for and fork for each program, until the process that started this one has ended."""
    _, address, *modules = sys.argv
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen(16)
        os.write(1, b"ready\n")
        children = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for programs
        while listener in select.select([listener, 0], [], [])[0]:
            asked, _ = listener.accept()
            if os.fork() == 0:
                break
            asked.close()
        else:
            return
    signal.signal(signal.SIGCHLD, children)
    message, streams, _, _ = socket.recv_fds(asked, _MOST, 3)
    if child := os.fork():
        threading.Thread(target=_kill_if_left, args=(asked, child), daemon=True).start()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with contextlib.suppress(OSError):
            asked.send(str(code).encode())
        os._exit(0)
    asked.close()
    _become(*json.loads(message), streams)


def _kill_if_left(asked: socket.socket, child: int) -> None:
    """End a program once nobody waits for it any more."""
    with contextlib.suppress(OSError):
        asked.recv(1)
        os.kill(child, signal.SIGKILL)


def _become(program: str, arguments: list[str], env: dict[str, str], cwd: str, streams: list[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # Those of before keep whether theirs was a pipe, a file or a terminal.
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv[:] = ["-c", *arguments]
    main: Any = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    exec(compile(program, "<string>", "exec"), main.__dict__)
