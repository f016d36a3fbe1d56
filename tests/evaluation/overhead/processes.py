"""The server's and the workers' processes. However the command ends, none of them is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

from tests.evaluation.common.places import ROOT
from tests.evaluation.overhead.environments import python, surroundings
from tests.evaluation.overhead.outcome import NotMeasured
from tests.evaluation.overhead.subjects import Subject

LONGEST = 300.0
"""Seconds that a process may take over an answer, where nobody says otherwise."""


class Broken(Exception):
    """A child process ended or failed; the text says which and how."""


def printed(module: str, *args: str, by: str | Path = sys.executable) -> Any:
    """What a program of ours prints last, as JSON, in a process that does nothing else; ``by``: the interpreter.

    Raises:
        NotMeasured: it failed.
    """
    command = [str(by), "-m", module, *args]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=surroundings(), check=False)
    if done.returncode:
        raise NotMeasured((done.stderr.splitlines() or ["no reason given"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


class Child:
    """A Python process in a session of its own, so that Ctrl-C reaches only the parent, which then ends it."""

    def __init__(self, env: str, module: str, *args: str, **variables: str) -> None:
        self.name = " ".join((module, *args[:1]))
        self.process = subprocess.Popen(
            [str(python(env)), "-m", module, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=surroundings(**variables),
            start_new_session=True,
        )
        self.stdin: TextIO = self.process.stdin  # type: ignore[assignment]
        self.stdout: TextIO = self.process.stdout  # type: ignore[assignment]
        self.errors: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self.process.stderr or ():
            self.errors = [*self.errors[-20:], line.rstrip()]

    def line(self, within: float = LONGEST) -> str:
        """The next line of its output, for which it has ``within`` seconds."""
        watch = threading.Timer(within, self.process.kill)
        watch.start()
        line = self.stdout.readline()
        watch.cancel()
        if not line:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            if watch.finished.is_set() and self.process.returncode == -signal.SIGKILL:
                raise Broken(f"{self.name} gave no answer within {within:.0f} s")
            raise Broken(f"{self.name} ended: {self.errors[-1] if self.errors else self.process.returncode}")
        return line

    def ask(self, within: float = LONGEST, **message: Any) -> dict[str, Any]:
        """Send one request, wait for its answer, ``within`` seconds at most."""
        try:
            self.stdin.write(json.dumps(message) + "\n")
            self.stdin.flush()
        except (BrokenPipeError, OSError):
            raise Broken(f"{self.name} ended: {self.errors[-1] if self.errors else 'no reason given'}") from None
        return json.loads(self.line(within))

    def pin(self, core: int | None) -> None:
        """Keep the process on one core, where the platform can."""
        if core is not None:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(self.process.pid, {core})

    def dismiss(self) -> None:
        """Close the process's input, which ends it when it is done with what it does."""
        with contextlib.suppress(OSError):
            self.stdin.close()

    def close(self) -> None:
        """See the process end, by force if it takes its time."""
        try:
            self.process.wait(0.3)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.stdout.close()


class Fleet(contextlib.AbstractContextManager["Fleet"]):
    """The replay server and one worker per subject. The server has one core to itself where there are two."""

    def __init__(self, subjects: list[Subject], **variables: str) -> None:
        self.subjects = subjects
        self.variables = variables
        self.children: list[Child] = []
        self.workers: dict[str, Child] = {}
        self.failed: dict[str, str] = {}

    def __enter__(self) -> Fleet:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        first, last = (cores[0], cores[-1]) if len(cores) > 1 else (None, None)
        try:
            server = self._start("bare", "tests.evaluation.overhead.replay")
            port = server.line().strip()
            server.pin(first)
            worker = "tests.evaluation.overhead.worker"
            started = {s.name: self._start(s.env, worker, s.name, port) for s in self.subjects}
            for name, child in started.items():
                try:
                    child.line()
                except Broken as error:
                    self.failed[name] = str(error)
                else:
                    child.pin(last)
                    self.workers[name] = child
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.dismiss()
        for child in self.children:
            child.close()

    def _start(self, env: str, module: str, *args: str) -> Child:
        child = Child(env, module, *args, **self.variables)
        self.children.append(child)
        return child
