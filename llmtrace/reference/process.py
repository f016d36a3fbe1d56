"""The reference server in a process of its own, for tests and demos. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from llmtrace import scratch
from llmtrace.reference._errors import RunnerError

__all__ = ["ServerProcess"]


class ServerProcess:
    """Starts the server, waits until it answers, and stops it.

        with ServerProcess(faults=True) as server:
            client = openai.OpenAI(base_url=server.base_url, api_key="unused")

    `base_url` ends with `/v1`, as clients want it; `root_url` is the server itself. `env` is laid over this process's
    environment (a value of None removes a name). `progress(done, total)` is told of the build of the tiny model, the
    first time. `timeout` (s) is how long to wait for the server to become ready; if it does not, `RunnerError` is
    raised with the end of its output.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        device: str = "auto",
        max_running: int | None = None,
        max_queue: int = 64,
        faults: bool = True,
        env: Mapping[str, str | None] | None = None,
        timeout: float = 180.0,
        progress: Callable[[int, int], None] | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self.root_url = ""
        self.log = ""
        """The server's output, once it has been stopped."""
        self._arguments = ["--host", host, "--port", str(port), "--device", device]
        self._arguments += ["--max-running", str(max_running)] if max_running is not None else []
        self._arguments += ["--max-queue", str(max_queue)]
        self._arguments += ["--model", os.fspath(model)] if model is not None else []
        self._arguments += ["--faults"] if faults else []
        self._arguments += arguments
        merged: dict[str, str | None] = {**os.environ, **(env or {})}
        self._env = {key: value for key, value in merged.items() if value is not None}
        self._timeout = timeout
        self._progress = progress
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def base_url(self) -> str:
        """The URL for a client: `http://127.0.0.1:8101/v1`."""
        return f"{self.root_url}/v1"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> ServerProcess:
        """Start and wait until `/health` answers."""
        self._folder = tempfile.TemporaryDirectory(prefix="llmtrace-server-", dir=scratch.folder())
        state = Path(self._folder.name, "state.json")
        command = [sys.executable, "-m", "llmtrace.reference.server", *self._arguments, "--state-file", str(state)]
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=self._env
            )
        try:
            self._wait(state)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self, patience: float = 8.0) -> None:
        """Ask the server to end, and kill it after `patience` seconds. Safe to call twice."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._folder is not None:
            with contextlib.suppress(OSError):
                self.log = self._log_path.read_text(errors="replace")
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> ServerProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def get(self, path: str) -> str:
        """The text at a path of the server, such as `/metrics`."""
        with urllib.request.urlopen(self.root_url + path, timeout=10) as response:
            return response.read().decode()

    def metric(self, name: str) -> float:
        """One number of `/metrics`, by its name without the prefix (labels included); 0 where it is not there yet."""
        for line in self.get("/metrics").splitlines():
            key, _, value = line.rpartition(" ")
            if key == f"llmtrace:{name}":
                return float(value)
        return 0.0

    def truth(self, request_id: str, timeout: float = 5.0) -> dict[str, Any]:
        """The server's record of an ended request, by its `x-request-id`.

        Waits up to `timeout` s for its end.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                return json.loads(self.get(f"/debug/requests/{request_id}"))
            except urllib.error.HTTPError as error:
                error.close()
                if error.code != 404 or time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    @property
    def _log_path(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name, "log")

    def _wait(self, state_file: Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._timeout
        last_step = (0, 0)
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RunnerError(f"the reference server did not start: {self._last_words()}")
            state = self._read(state_file)
            if self._progress is not None and state.get("state") == "building":
                step = (int(state["done"]), int(state["total"]))
                if step != last_step:
                    last_step = step
                    self._progress(*step)
            if state.get("state") == "ready":
                self.root_url = str(state["base_url"])
                with contextlib.suppress(OSError):
                    self.get("/health")
                    return
            time.sleep(0.05)
        raise RunnerError(f"the reference server was not ready after {self._timeout:g} s: {self._last_words()}")

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError):
            return {}

    def _last_words(self) -> str:
        lines = [line.strip() for line in self._log_path.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].removeprefix("error: ") if lines else "it said nothing"
