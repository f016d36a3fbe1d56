"""The one thread that writes: bodies and file parts in, whole groups of them committed, then acknowledged."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import duckdb

from llmtrace.errors import LlmtraceError
from llmtrace.view.serve.store import Store, UnavailableError

PENDING_BYTES: Final = 64 << 20
"""Bytes of bodies that may wait; a sender of more is told to come again."""
GROUP_SPANS: Final = 20_000
"""Spans after which a group is committed though more is waiting."""
SETTLE_S: Final = 0.4
"""Seconds after which what came is made into calls."""
_REST_S: Final = 2.0
"""Seconds before the next try after a failed one."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of a body."""

    spans: int
    rejected: int = 0
    reason: str = ""
    """Of the first span that was rejected."""


@dataclass(slots=True)
class _Work:
    size: int
    body: bytes = b""
    protobuf: bool = False
    part: Path | None = None
    """A Parquet file in place of a body."""
    done: Future[Taken] = field(default_factory=Future[Taken])
    taken: Taken = Taken(0)
    table: Any = None


class Writer:
    """Takes bodies from any thread; each gets a future that is done once its spans are on the disk."""

    def __init__(self, store: Store, changed: Callable[[], None] = lambda: None) -> None:
        self.store = store
        self.rejected: Counter[str] = Counter()
        """Spans and bodies not taken, by reason."""
        self.received = 0
        """Spans taken since the start."""
        self.trouble = ""
        """Why nothing can be written just now."""
        self._changed = changed
        self._waiting: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._pending = 0
        self._lock = threading.Lock()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="llmtrace-view-writer", daemon=True)
        self._unsettled = True
        self._settle_at = 0.0

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def body(self, body: bytes, protobuf: bool) -> Future[Taken]:
        """An unpacked OTLP body.

        The future raises UnavailableError where it cannot be written, ``protobuf.NotOtlpError`` where it is none.
        Raises UnavailableError at once where too much is waiting, or the end has come.
        """
        return self._put(_Work(len(body), body, protobuf))

    def part(self, path: Path) -> Future[Taken]:
        """A Parquet file with the store's columns, as ``reading`` writes it."""
        return self._put(_Work(0, part=path))

    def stop(self) -> None:
        """Write what is waiting, make calls of it, and end."""
        with self._lock:
            if self._ending:
                return
            self._ending = True
            self._waiting.put(None)
        self._thread.join()

    def _put(self, work: _Work) -> Future[Taken]:
        with self._lock:
            if self._ending:
                raise UnavailableError("shutting down")
            if self._pending and self._pending + work.size > PENDING_BYTES:
                raise UnavailableError("more is coming than can be written: try again")
            self._pending += work.size
            self._waiting.put(work)
        return work.done

    def _run(self) -> None:
        ended = False
        while not ended:
            group, ended = self._next_group()
            if group:
                self._write(group)
                self._unsettled = True
                with self._lock:
                    self._pending -= sum(work.size for work in group)
            if self._unsettled and (ended or time.monotonic() >= self._settle_at):
                self._settle()

    def _next_group(self) -> tuple[list[_Work], bool]:
        group: list[_Work] = []
        spans = 0
        while spans < GROUP_SPANS:
            try:
                work = self._waiting.get(block=not group, timeout=self._patience())
            except queue.Empty:
                break
            if work is None:
                return group, True
            spans += self._read(work)
            group.append(work)
        return group, False

    def _patience(self) -> float | None:
        return max(0.0, self._settle_at - time.monotonic()) if self._unsettled else None

    def _read(self, work: _Work) -> int:
        """Make the work's table. A body that is none is answered here; what is in the tables waits for the commit."""
        try:
            work.table, work.taken = _part(work.part) if work.part is not None else _body(work.body, work.protobuf)
        except Exception as error:
            work.done.set_exception(error)
            return 0
        work.body = b""
        return work.table.num_rows

    def _write(self, group: list[_Work]) -> None:
        """Commit the group at once, then acknowledge each of it."""
        import pyarrow as pa

        group = [work for work in group if work.table is not None]
        tables = [work.table for work in group if work.table.num_rows]
        try:
            if tables:
                self.store.add(pa.concat_tables(tables))
        except UnavailableError as error:
            self.trouble = str(error)
            for work in group:
                work.done.set_exception(error)
            return
        except duckdb.Error as error:
            if len(group) > 1:  # one of them is at fault: the others are not to suffer
                for work in group:
                    self._write([work])
            else:
                self.reject("cannot be stored", group[0].table.num_rows)
                group[0].done.set_exception(LlmtraceError(f"cannot be stored: {error}"))
            return
        except Exception as error:
            for work in group:
                work.done.set_exception(error)
            return
        self.trouble = ""
        for work in group:
            self.received += work.taken.spans
            if work.taken.rejected:
                self.reject(work.taken.reason, work.taken.rejected)
            work.done.set_result(work.taken)

    def reject(self, reason: str, count: int) -> None:
        """Count what was not taken."""
        self.rejected[reason if reason in self.rejected or len(self.rejected) < 50 else "other reasons"] += count

    def _settle(self) -> None:
        began = time.monotonic()
        try:
            changed = self.store.settle()
            self._unsettled = False
        except (UnavailableError, duckdb.Error) as error:
            self.trouble = str(error)
            self._settle_at = time.monotonic() + _REST_S
            return
        # What takes long is done less often, so that writing keeps most of the time.
        self._settle_at = time.monotonic() + max(SETTLE_S, 3 * (time.monotonic() - began))
        if changed:
            self._changed()


def _body(body: bytes, is_protobuf: bool) -> tuple[Any, Taken]:
    from llmtrace.analyze.chunks import arrow_schema, arrow_table
    from llmtrace.analyze.flatten import Flattener
    from llmtrace.view.serve import columns, protobuf

    if is_protobuf:
        document: Any = protobuf.document(body)
    else:
        document = _json(body)
    flattener = Flattener(columns.TAKEN, whole=True)
    if document:  # an empty object is an empty request
        flattener.add(document, 1)
    problems = flattener.problems
    if problems and not is_protobuf and not len(flattener) and "resourceSpans" not in document:
        raise protobuf.NotOtlpError(problems[0].reason)
    table = arrow_table(flattener, arrow_schema(flattener.columns))
    return table, Taken(table.num_rows, len(problems), problems[0].reason if problems else "")


def _json(body: bytes) -> Any:
    import orjson

    from llmtrace.view.serve.protobuf import NotOtlpError

    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise NotOtlpError(f"the body is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise NotOtlpError("the body is no OTLP object (resourceSpans)")
    return document


def _part(path: Path) -> tuple[Any, Taken]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path).read()
    return table, Taken(table.num_rows)
