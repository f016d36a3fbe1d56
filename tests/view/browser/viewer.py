"""``llmtrace view`` as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class Viewer:
    """A running viewer."""

    url: str
    process: subprocess.Popen[str]

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/{path}", timeout=60) as response:
            return json.load(response)

    def send(self, line: str) -> None:
        """Export spans, as a program would."""
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.url}/v1/traces", line.encode(), headers), timeout=60
        ) as response:
            assert response.status == 200

    def wait_loaded(self, seconds: float = 300) -> None:
        """Until the files it was given are read."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = self.get("status")
            if status["loading"] is None and status["spans"]:
                return
            time.sleep(0.1)
        raise AssertionError("the files were not read in time")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)


@contextlib.contextmanager
def viewing(*arguments: str, port: int = 0) -> Iterator[Viewer]:
    """A viewer with these arguments, until the block ends."""
    command = [sys.executable, "-m", "llmtrace.cli", "view", *arguments, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    try:
        told: list[str] = []
        for line in process.stdout:
            told.append(line)
            if line.startswith("The page: "):
                break
        else:
            raise AssertionError(f"the viewer did not start: {''.join(told)}")
        yield Viewer(line.split()[2], process)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        process.stdout.close()
