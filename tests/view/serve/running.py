"""`llmtrace view` as a user has it: a process of its own, spoken to over sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

PATIENCE = 180.0


class Viewer:
    """A running viewer. ``warm``: it imports beforehand what spans will need, a second's work; else with the first."""

    def __init__(self, *arguments: str | Path, prelude: str = "", warm: bool = True, **environment: str) -> None:
        if not warm:
            prelude += "\nimport llmtrace.view.serve.run as run\nrun._warm = lambda: None"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LLMTRACE_"))}
        code = f"{prelude}\nimport sys\nfrom llmtrace.cli import main\nsys.argv = ['llmtrace', *sys.argv[1:]]\nmain()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "view", "--port", "0", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**kept, "PYTHONUTF8": "1", "COLUMNS": "200", **environment},
        )
        self.said: list[str] = []
        self.store: Path | None = None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if "Ctrl-C" in line:
                break
        found = re.search(r"http://127\.0\.0\.1:(\d+)", "".join(self.said))
        if found is None:
            raise AssertionError(f"it did not start: {self.process.communicate()[1]}")
        self.port = int(found[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, method: str = ""
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def get(self, path: str, status: int = 200, **parameters: Any) -> Any:
        query = f"?{urlencode(parameters, doseq=True)}" if parameters else ""
        code, _, body = self.ask(path + query)
        assert code == status, body
        return json.loads(body)

    def send(self, document: Any, status: int = 200) -> Any:
        code, _, body = self.ask("/v1/traces", json.dumps(document).encode(), {"Content-Type": "application/json"})
        assert code == status, body
        return json.loads(body)

    def until(self, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for a status. Calls are made of spans a moment after they were taken."""
        for _ in self.patiently():
            if true(status := self.get("/api/status")):
                return status
        raise AssertionError(status)

    @staticmethod
    def patiently() -> Iterator[None]:
        """Turns of asking, less and less often: each costs the viewer 20 ms, which it may need for the answer."""
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < PATIENCE:
            yield
            time.sleep(min(0.05 + passed / 4, 1.0))

    def stop(self, number: int = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.errors = self.process.communicate(timeout=PATIENCE)[1]
        return self.process.returncode


@contextlib.contextmanager
def viewer(*arguments: str | Path, **options: Any) -> Iterator[Viewer]:
    made = Viewer(*arguments, **options)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.process.kill()
        for pipe in (made.process.stdout, made.process.stderr):
            if pipe is not None:
                pipe.close()
        made.process.wait()
