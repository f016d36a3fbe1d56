"""Opens trace files: processes read them and the writer stores their spans, while the page can be used."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmtrace import interpreter, scratch
from llmtrace.analyze.chunks import Stretch, cpus, cut
from llmtrace.analyze.load import trace_files
from llmtrace.view.serve.state import Loading, Source, State
from llmtrace.view.serve.store import UnavailableError


class Reader:
    """Reads ``files`` (and folders of them) into the store, on a thread and processes of its own.

    Raises:
        LlmtraceError: a file does not exist or cannot be read.
    """

    def __init__(
        self, files: Sequence[str], state: State, tell: Callable[[Loading | None], None] | None = None
    ) -> None:
        paths = [path for file in files for path in trace_files(file)]
        self._work = [(Source(str(path)), stretch) for path in dict.fromkeys(paths) for stretch in cut(path)]
        by_path: dict[str, Source] = {}
        self._work = [(by_path.setdefault(source.path, source), stretch) for source, stretch in self._work]
        state.sources.extend(by_path.values())
        self._state = state
        self._tell = tell or (lambda loading: None)
        self._total = sum(stretch.end - stretch.start for _, stretch in self._work)
        self._done = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._processes: list[subprocess.Popen[str]] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to read."""
        self._progress(self._work[0][0].path if self._work else "", 0)
        # One processor is left to the writer and the page.
        for _ in range(max(1, min(cpus() - 1, len(self._work)))):
            thread = threading.Thread(target=self._read, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Read no further."""
        with self._lock:
            self._stopped.set()
            processes = list(self._processes)
        for process in processes:
            process.kill()
        for thread in self._threads:
            thread.join()

    def _read(self) -> None:
        with tempfile.TemporaryDirectory(prefix="llmtrace-parts-", dir=scratch.folder()) as folder:
            process = self._process()
            if process is None:
                return
            try:
                while (next_ := self._next()) is not None:
                    self._stretch(process, Path(folder), *next_)
            except (BrokenPipeError, UnavailableError) as error:
                if not self._stopped.is_set():
                    self._state.warnings.append(f"reading stopped: {error}")
            finally:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()
                self._left()

    def _process(self) -> subprocess.Popen[str] | None:
        with self._lock:
            if self._stopped.is_set():
                return None
            process = subprocess.Popen(
                [sys.executable, "-m", "llmtrace.view.serve.reading"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=interpreter.environ(),
                start_new_session=True,  # Ctrl-C is the parent's: it ends this process in its own time
            )
            self._processes.append(process)
        return process

    def _next(self) -> tuple[Source, Stretch] | None:
        with self._lock:
            return None if self._stopped.is_set() or not self._work else self._work.pop(0)

    def _left(self) -> None:
        with self._lock:
            self._processes.pop()
            if not self._processes:
                self._state.loading = None
        if self._state.loading is None:
            self._tell(None)

    def _stretch(self, process: subprocess.Popen[str], folder: Path, source: Source, stretch: Stretch) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._say(process, json.dumps({"stretch": asdict(stretch), "folder": str(folder)}))
        for line in process.stdout:
            message: dict[str, Any] = json.loads(line)
            if "part" in message:
                part = Path(message["part"])
                self._store(part)
                part.unlink()
                source.spans += message["spans"]
                source.bad_lines += message["bad"]
                source.odd += message["odd"]
                source.problem = source.problem or message["first"]
                self._progress(source.path, message["done"])
                self._say(process, "next")
            elif "error" in message:
                source.bad_lines += 1
                source.problem = source.problem or message["error"]
                return
            else:
                return
        if not self._stopped.is_set():
            source.bad_lines += 1
            source.problem = source.problem or "the reading process ended (out of memory?)"
            raise BrokenPipeError(f"the process that read {source.path} ended")

    def _store(self, part: Path) -> None:
        """Store a part: wait for its commit, and for room where the disk is full."""
        while True:
            try:
                self._state.writer.part(part).result()
                return
            except UnavailableError:
                if self._stopped.is_set():
                    raise
                self._stopped.wait(1.0)

    @staticmethod
    def _say(process: subprocess.Popen[str], text: str) -> None:
        assert process.stdin is not None
        process.stdin.write(text + "\n")
        process.stdin.flush()

    def _progress(self, path: str, more: int) -> None:
        with self._lock:
            self._done += more
            loading = Loading(path, min(self._done, self._total), self._total)
            self._state.loading = loading
        self._tell(loading)
