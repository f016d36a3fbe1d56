"""The one thread that writes.

Waiting bodies are committed together, as they are, and acknowledged; twice a second, spans and calls are made of them.
Parts of files are committed at once.
"""

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

from llmtrace.view.serve.store import Store, UnavailableError

PENDING_BYTES: Final = 64 << 20
"""The most bytes of bodies that may wait; a sender of more is told to come again."""
GROUP_SPANS: Final = 20_000
"""The number of spans after which calls are made before it is time."""
HELD_SPANS: Final = 100_000
"""The most spans that may wait for a store that cannot be written."""
SETTLE_S: Final = 0.5
"""Seconds between two times of making spans and calls of the bodies."""
_LONGEST_REST_S: Final = 3.0
"""The most seconds between them, however long they take."""
_REST_S: Final = 2.0
"""Seconds before the next try after a failed one."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The result of a body: how many spans were taken and rejected."""

    spans: int
    rejected: int = 0
    reason: str = ""
    """The reason of the first rejected span."""


@dataclass(slots=True)
class _Work:
    size: int
    body: bytes = b""
    protobuf: bool = False
    part: Path | None = None
    """A Parquet file in place of a body."""
    done: Future[Taken] = field(default_factory=Future[Taken])
    taken: Taken = Taken(0)

    def fail(self, error: Exception) -> None:
        """Report ``error`` to the sender."""
        self.done.set_exception(error)


class Writer:
    """Accepts bodies from any thread; each gets a future that is done once the store keeps the body."""

    def __init__(self, store: Store, changed: Callable[[], None] = lambda: None) -> None:
        self.store = store
        self.rejected: Counter[str] = Counter()
        """The number of rejected spans and bodies, by reason."""
        self.trouble = ""
        """Why nothing can be written just now."""
        self._changed = changed
        self._waiting: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._pending = 0
        self._lock = threading.Lock()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="llmtrace-view-writer", daemon=True)
        self._held = Held()
        self._unsettled = True
        self._settle_at = 0.0
        self.catching_up = False
        """Whether bodies from before a sudden end are not among the spans yet."""

    def start(self) -> None:
        """Start the thread; it begins with the bodies that were acknowledged before a sudden end of the process."""
        for body, protobuf in self.store.kept():
            self._held.read(body, protobuf)
            self.catching_up = True
        self._held.through = self.store.last_id
        self._thread.start()

    def body(self, body: bytes, protobuf: bool) -> Future[Taken]:
        """Write an unpacked OTLP body; returns its future.

        The future raises UnavailableError where the body cannot be written, ``protobuf.NotOtlpError`` where it is not
        OTLP. Raises UnavailableError at once where too much is waiting, or the writer was stopped.
        """
        return self._put(_Work(len(body), body, protobuf))

    def part(self, path: Path) -> Future[Taken]:
        """Store a Parquet file with the store's columns, as ``reading`` writes it; returns a future like a body's."""
        return self._put(_Work(0, part=path))

    def stop(self) -> None:
        """Write what is waiting, make calls of it, and end the thread."""
        with self._lock:
            if self._ending:
                return
            self._ending = True
            self._waiting.put(None)
        self._thread.join()

    def reject(self, reason: str, count: int) -> None:
        """Count rejected spans or bodies."""
        self.rejected[reason if reason in self.rejected or len(self.rejected) < 50 else "other reasons"] += count

    def _put(self, work: _Work) -> Future[Taken]:
        with self._lock:
            if self._ending:
                raise UnavailableError("shutting down")
            if self._pending and self._pending + work.size > PENDING_BYTES:
                raise UnavailableError("more is coming than can be written: try again")
            self._pending += work.size
            self._waiting.put(work)
        return work.done

    # The thread

    def _run(self) -> None:
        held, ended = self._held, False
        while not ended:
            bodies, parts, ended = self._next_group(held)
            if bodies:
                self._keep(held, bodies)
            for work in parts:
                self._add_part(work)
            if bodies or parts:
                self._unsettled = True
                with self._lock:
                    self._pending -= sum(work.size for work in (*bodies, *parts))
            if self._unsettled and (ended or len(held) >= GROUP_SPANS or time.monotonic() >= self._settle_at):
                self._settle(held)

    def _next_group(self, held: Held) -> tuple[list[_Work], list[_Work], bool]:
        """The waiting bodies, read into ``held``, and the waiting parts."""
        bodies: list[_Work] = []
        parts: list[_Work] = []
        while len(held) < GROUP_SPANS or not bodies:
            try:
                work = self._waiting.get(block=not (bodies or parts), timeout=self._patience())
            except queue.Empty:
                break
            if work is None:
                return bodies, parts, True
            if work.part is not None:
                parts.append(work)
                continue
            bodies.append(work)
            if len(held) > HELD_SPANS:
                work.fail(UnavailableError(self.trouble or "more is coming than can be written: try again"))
                continue
            try:
                work.taken = held.read(work.body, work.protobuf)
            except Exception as error:  # whatever is wrong with one body is told to its sender
                work.fail(error)
        return bodies, parts, False

    def _patience(self) -> float | None:
        return max(0.0, self._settle_at - time.monotonic()) if self._unsettled else None

    def _keep(self, held: Held, works: list[_Work]) -> None:
        """Commit the bodies, then acknowledge each."""
        good = [work for work in works if not work.done.done()]
        full = [work for work in good if work.taken.spans]
        try:
            if full:
                held.through = self.store.keep([(work.body, work.protobuf) for work in full])
        except Exception as error:
            held.forget(sum(work.taken.spans for work in full))
            if isinstance(error, UnavailableError):
                self.trouble = str(error)
            for work in good:
                work.fail(error if isinstance(error, UnavailableError) else UnavailableError(f"not stored: {error}"))
            return
        if full:
            self.trouble = ""
        for work in good:
            if work.taken.rejected:
                self.reject(work.taken.reason, work.taken.rejected)
            work.done.set_result(work.taken)

    def _add_part(self, work: _Work) -> None:
        import pyarrow.parquet as pq

        try:
            table: Any = pq.ParquetFile(work.part).read()
            self.store.add(table)
        except Exception as error:
            self.trouble = str(error)
            work.fail(error)
            return
        self.trouble = ""
        work.done.set_result(Taken(table.num_rows))

    def _settle(self, held: Held) -> None:
        began = time.monotonic()
        try:
            if held.through or len(held):
                self._store_held(held)
            changed = self.store.settle()
            self._unsettled = self.catching_up = False
        except Exception as error:  # the thread must live on
            self.trouble = str(error)
            self._settle_at = time.monotonic() + _REST_S
            return
        self._settle_at = time.monotonic() + rest(time.monotonic() - began)
        if changed:
            self._changed()

    def _store_held(self, held: Held) -> None:
        """Make spans of the acknowledged bodies. One that cannot be stored must not keep the others out."""
        table = held.table()
        try:
            self.store.add(table, held.through)
        except UnavailableError:
            raise
        except duckdb.Error:
            for at in range(table.num_rows):
                try:
                    self.store.add(table.slice(at, 1))
                except UnavailableError:
                    raise
                except duckdb.Error as error:
                    self.reject(f"cannot be stored: {' '.join(str(error).split())[:200]}", 1)
            self.store.add(table.slice(0, 0), held.through)
        held.clear()


def rest(took: float) -> float:
    """Seconds until spans are made into calls again, after that took so many.

    What takes long is done less often, so that writing keeps most of the time; but who watches does not wait for long
    because the first time loaded what it needs, or the machine was busy.
    """
    return max(SETTLE_S, min(3 * took, _LONGEST_REST_S))


class Held:
    """Spans that are in the inbox and not yet among the spans, as rows."""

    def __init__(self) -> None:
        from llmtrace.analyze.flatten import Flattener
        from llmtrace.view.serve.columns import TAKEN

        self._flattener = Flattener(TAKEN, whole=True)
        self._table: Any = None
        self.through = 0
        """The last id in the inbox whose spans are here."""

    def __len__(self) -> int:
        return len(self._flattener) + (0 if self._table is None else self._table.num_rows)

    def read(self, body: bytes, is_protobuf: bool) -> Taken:
        """Read the spans of a body. Raises NotOtlpError."""
        from llmtrace.view.serve import protobuf

        document: Any = protobuf.document(body) if is_protobuf else _json(body)
        before = len(self._flattener)
        if document:  # an empty object is an empty request
            self._flattener.add(document, 1)
        problems = list(self._flattener.problems)
        self._flattener.problems.clear()
        spans = len(self._flattener) - before
        if problems and not is_protobuf and not spans and "resourceSpans" not in document:
            raise protobuf.NotOtlpError(problems[0].reason)
        return Taken(spans, len(problems), problems[0].reason if problems else "")

    def forget(self, spans: int) -> None:
        """Drop the last ``spans`` spans, which were not kept."""
        self._flattener.cut(len(self._flattener) - spans)

    def table(self) -> Any:
        """All spans as an arrow table, which stays here until ``clear``."""
        import pyarrow as pa

        from llmtrace.analyze.chunks import arrow_schema, arrow_table

        table = arrow_table(self._flattener, arrow_schema(self._flattener.columns))
        self._table = table if self._table is None else pa.concat_tables([self._table, table])
        return self._table

    def clear(self) -> None:
        """Drop all spans: the store has them now."""
        self._table, self.through = None, 0


def _json(body: bytes) -> Any:
    import orjson

    from llmtrace.analyze import half_pairs
    from llmtrace.view.serve.protobuf import NotOtlpError

    try:
        document = half_pairs.loads(body)
    except orjson.JSONDecodeError as error:
        raise NotOtlpError(f"the body is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise NotOtlpError("the body is no OTLP object (resourceSpans)")
    return document
