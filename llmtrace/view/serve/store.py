"""The store: DuckDB in one file (or in memory), bounded, the oldest traces going first.

One thread writes (``writer``); any may read. Once ``keep`` or ``add`` has returned, its data is on the disk.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import duckdb

from llmtrace import scratch
from llmtrace.errors import LlmtraceError
from llmtrace.tasks import prices
from llmtrace.version import install_hint
from llmtrace.view.serve import columns, derive, upgrade

MEMORY: Final = "768MB"
"""The memory that DuckDB may use."""
THREADS: Final = 2
FULL: Final = 0.55
"""Share of the room at which the oldest traces are dropped, down to ``KEPT`` of it. A checkpoint writes what it keeps
anew before it gives the old blocks back: both have to fit."""
KEPT: Final = 0.42
ROW_GROUP = 8192
"""Rows that are stored together. DuckDB gives a group's room back once all its rows are gone: the fewer, the sooner."""
_LEAST_BYTES: Final = 32 << 20
_PRICES: Final = 200
"""The most models whose prices are kept."""


class StoreError(LlmtraceError):
    """The store cannot be opened."""


class UnavailableError(LlmtraceError):
    """Nothing can be written or read just now: a full disk, or the store is being opened again."""


@dataclass(frozen=True, slots=True)
class Counts:
    """The numbers of spans, traces and calls in the store, and their first and last time, in µs since the epoch."""

    spans: int = 0
    traces: int = 0
    calls: int = 0
    since_us: int | None = None
    until_us: int | None = None


class Store:
    """Spans, traces and calls.

    Args:
        path: the file; None keeps everything in memory.
        max_bytes: the most bytes of file and log, or of memory.

    Raises:
        StoreError: the store is in use, damaged, of a newer version, or cannot be written.
    """

    def __init__(self, path: Path | None, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max(max_bytes, _LEAST_BYTES)
        self.counts = Counts()
        self.version = 0
        """A number that changes whenever an answer may change."""
        self.dropped = 0
        """Spans dropped to make room, since the store was made."""
        self.warnings: list[str] = []
        self._gate = threading.Condition()
        self._readers = 0
        self._closed = False
        self._prices: dict[tuple[str, str], prices.Price | None] = {}
        self._calls_sql: dict[tuple[bool, bool], str] = {}
        self._sound = True
        self._last_id = 0
        self._connection = self._open()
        self._behind = True

    # Opening

    def _open(self) -> Any:
        name = ":memory:" if self.path is None else str(self.path)
        limit = MEMORY if self.path is not None else f"{self.max_bytes + (256 << 20)}B"
        try:
            if self.path is not None:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            connection = duckdb.connect(
                ":memory:",
                config={
                    "memory_limit": limit,
                    "threads": THREADS,
                    "preserve_insertion_order": False,
                    "autoinstall_known_extensions": False,
                    "autoload_known_extensions": False,
                    "max_temp_directory_size": "1GB",
                    "temp_directory": scratch.folder(),
                    "checkpoint_threshold": f"{min(16 << 20, self.max_bytes // 8)}B",
                },
            )
        except (duckdb.Error, OSError, RuntimeError) as error:
            raise StoreError(_why_not(name, error)) from error
        try:
            quoted = name.replace("'", "''")
            connection.execute(f"ATTACH '{quoted}' AS store (ROW_GROUP_SIZE {ROW_GROUP})")
            connection.execute("USE store")
            self._prepare(connection)
        except duckdb.Error as error:
            connection.close()
            raise StoreError(_why_not(name, error)) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: Any) -> None:
        connection.execute("CREATE TABLE IF NOT EXISTS state (version INTEGER, dropped BIGINT)")
        row = connection.execute("SELECT version, dropped FROM state").fetchone()
        if row is None:
            connection.execute("BEGIN")
            connection.execute("INSERT INTO state VALUES (?, 0)", [columns.VERSION])
            for table, types in (
                ("inbox", columns.INBOX_TYPES),
                ("spans", columns.TYPES),
                ("calls", columns.CALL_TYPES),
                ("traces", columns.TRACE_TYPES),
            ):
                connection.execute(columns.create(table, types))
            connection.execute("COMMIT")
            row = (columns.VERSION, 0)
        if row[0] > columns.VERSION:
            raise StoreError(
                f"{self.path} was written by a newer llmtrace: {install_hint('view', upgrade=True)}, or name another "
                "file with --store"
            )
        steps = upgrade.from_1, upgrade.from_2, upgrade.from_3, upgrade.from_4, upgrade.from_5
        for version, step in enumerate(steps, 1):
            if row[0] <= version:
                step(connection)
        self.dropped = row[1]
        ((last,),) = connection.execute("SELECT coalesce(max(id), 0) FROM inbox").fetchall()
        self._last_id = max(self._last_id, last)
        connection.execute("CREATE TEMP TABLE fresh (trace_id UUID, low BIGINT, high BIGINT)")
        self._count(connection)

    def close(self) -> None:
        """Write the log into the file and close it. Safe to call twice."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
            self._gate.wait_for(lambda: self._readers == 0, 2)
        if self.path is not None:
            with contextlib.suppress(duckdb.Error):
                self._connection.execute("CHECKPOINT")
        with contextlib.suppress(duckdb.Error):
            self._connection.close()

    def _reopen(self) -> None:
        """A new connection after an error that DuckDB does not go on from. Raises UnavailableError."""
        with self._gate:
            self._gate.wait_for(lambda: self._readers == 0, 5)
            with contextlib.suppress(duckdb.Error):
                self._connection.close()
            try:
                self._connection = self._open()
            except StoreError as error:
                raise UnavailableError(str(error)) from error
            self._sound, self._behind = True, True

    # Reading

    @contextlib.contextmanager
    def reading(self) -> Generator[Any, None, None]:
        """A connection for one thread's queries. Raises UnavailableError."""
        with self._gate:
            if self._closed or not self._sound:
                raise UnavailableError("the store is shutting down" if self._closed else "the store is being mended")
            cursor = self._connection.cursor()
            self._readers += 1
        try:
            cursor.execute("USE store")
            yield cursor
        except (duckdb.FatalException, duckdb.ConnectionException) as error:
            raise UnavailableError(f"the store cannot be read just now: {_line(error)}") from error
        finally:
            cursor.close()
            with self._gate:
                self._readers -= 1
                self._gate.notify_all()

    # Writing: one thread's affair

    def keep(self, bodies: Sequence[tuple[bytes, bool]]) -> int:
        """Put bodies (and whether each is protobuf) into the inbox, on the disk; returns the id of the last one.

        Raises:
            UnavailableError: they could not be written; none of them is kept.
        """
        if not self._sound:
            self._reopen()
        connection = self._connection
        try:
            connection.execute("BEGIN")
            for number, (body, protobuf) in enumerate(bodies, self._last_id + 1):
                connection.execute("INSERT INTO inbox VALUES (?, ?, ?)", [number, protobuf, body])
            self._last_id += len(bodies)
            self._commit(connection)
        except duckdb.Error as error:
            self._undo(error)
        return self._last_id

    def kept(self) -> list[tuple[bytes, bool]]:
        """The bodies in the inbox, the oldest first: those acknowledged before a sudden end of the process."""
        return self._connection.execute("SELECT body, protobuf FROM inbox ORDER BY id").fetchall()

    @property
    def last_id(self) -> int:
        """The last id given in the inbox."""
        return self._last_id

    def add(self, batch: Any, through: int = 0) -> int:
        """Add an arrow table with the columns of ``columns.TYPES``, ids as hex text; returns the number of new spans.

        Spans that the store has already are left out. The inbox is emptied up to the id ``through``: these are its
        spans.

        Raises:
            UnavailableError: it could not be written. Nothing of the batch is in the store; try again later.
            duckdb.Error: the batch itself cannot be written.
        """
        if not self._sound:
            self._reopen()
        connection = self._connection
        try:
            batch = self._new_of(connection, batch)
            connection.execute("BEGIN")
            if batch.num_rows:
                connection.register("batch", batch)
                try:
                    connection.execute(_APPEND)
                    connection.execute(_FRESH)
                finally:
                    connection.unregister("batch")
            if through:
                connection.execute("DELETE FROM inbox WHERE id <= ?", [through])
            self._commit(connection)
        except duckdb.Error as error:
            self._undo(error)
        return batch.num_rows

    @staticmethod
    def _new_of(connection: Any, batch: Any) -> Any:
        """The spans of a batch that are neither in the store nor twice in the batch."""
        traces, spans = batch["trace_id"], batch["span_id"]
        times = batch["start_ns"].to_numpy()
        if not len(times):
            return batch
        connection.register("named", batch.select(["trace_id", "span_id"]))
        try:
            there = connection.execute(_THERE, [int(times.min()), int(times.max())]).fetchall()
        finally:
            connection.unregister("named")
        known_spans: set[tuple[str, str]] = set(there)
        keep: list[bool] = []
        for key in zip(traces.to_pylist(), spans.to_pylist(), strict=True):
            keep.append(key not in known_spans)
            known_spans.add(key)
        return batch if all(keep) else batch.filter(keep)

    def _commit(self, connection: Any) -> None:
        connection.execute("COMMIT")

    def _undo(self, error: duckdb.Error) -> NoReturn:
        """Roll back, and raise ``error`` itself or, where trying again may help, UnavailableError."""
        fatal = isinstance(error, (duckdb.FatalException, duckdb.ConnectionException, duckdb.InternalException))
        try:
            self._connection.execute("ROLLBACK")
        except duckdb.TransactionException:
            pass  # it was rolled back, or never begun
        except duckdb.Error:
            fatal = True
        if fatal:
            self._sound = False
        if fatal or isinstance(error, (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.TransactionException)):
            raise UnavailableError(f"the store cannot be written: {_line(error)}") from error
        raise error

    def settle(self) -> bool:
        """Make calls and traces of new spans, and room where there is too little; returns whether anything changed.

        Raises:
            UnavailableError: it could not be written; what was not settled is settled next time.
        """
        if not self._sound:
            self._reopen()
        connection = self._connection
        try:
            if self._behind:
                connection.execute(_FRESH_AFTER_OPENING)
                self._behind = False
            changed = self._derive(connection)
            if self._bytes_used(connection) > FULL * self.max_bytes:
                self._make_room(connection)
                changed = True
            if changed:
                self._count(connection)
        except duckdb.Error as error:
            self._behind = True
            self._undo(error)
        return changed

    def _derive(self, connection: Any) -> bool:
        connection.execute(_IDS)
        low, high, traces = connection.execute("SELECT min(low), max(high), count(*) FROM ids").fetchone()
        if not traces:
            return False
        connection.execute(_TOUCHED, [low, high])
        appended = self._sql_for_calls(connection)  # before the transaction, which only a fault of the engine's undoes
        connection.execute("BEGIN")
        connection.execute("DELETE FROM calls WHERE trace_id IN (SELECT trace_id FROM ids)")
        connection.execute("DELETE FROM traces WHERE trace_id IN (SELECT trace_id FROM ids)")
        connection.execute(appended)
        connection.execute(
            "INSERT INTO traces SELECT trace_id, min(start_ns), max(end_ns), count(*) FROM touched GROUP BY trace_id"
        )
        connection.execute("DELETE FROM fresh")
        self._commit(connection)
        connection.execute("DROP TABLE touched")
        return True

    def _sql_for_calls(self, connection: Any) -> str:
        model_pairs = connection.execute(derive.ASKED_SQL).fetchall()
        # Names that never repeat must not make the statement grow for ever.
        unknown = [pair for pair in model_pairs if pair not in self._prices][: _PRICES - len(self._prices)]
        if unknown:
            self._prices.update({(provider, model): price for provider, model, price in prices.priced(unknown)})
            self._calls_sql.clear()
        ((halves, engines),) = connection.execute(derive.PAIRED_SQL).fetchall()
        kind = (halves > 0, engines > 0)
        if kind not in self._calls_sql:
            priced = [(*pair, price) for pair, price in self._prices.items()]
            self._calls_sql[kind] = derive.calls_sql(priced, *kind)
        return self._calls_sql[kind]

    def _count(self, connection: Any) -> None:
        spans, since, until, traces = connection.execute(
            "SELECT coalesce(sum(spans), 0)::BIGINT, min(start_ns) // 1000, max(end_ns) // 1000, count(*) FROM traces"
        ).fetchone()
        ((calls,),) = connection.execute("SELECT count(*) FROM calls").fetchall()
        self.counts = Counts(spans, traces, calls, since, until)
        self.version += 1

    # Room

    def bytes(self) -> int:
        """The size in bytes of the file and its log, or of the memory where there is no file."""
        if self.path is None:
            with self.reading() as cursor:
                return self._bytes_used(cursor)
        size = 0
        for path in (self.path, self.path.with_name(self.path.name + ".wal")):
            with contextlib.suppress(OSError):
                size += os.stat(path).st_size
        return size

    def _bytes_used(self, connection: Any) -> int:
        if self.path is None:
            ((used,),) = connection.execute("SELECT sum(memory_usage_bytes)::BIGINT FROM duckdb_memory()").fetchall()
            return used
        ((used,),) = connection.execute(
            "SELECT block_size * used_blocks FROM pragma_database_size() WHERE database_name = 'store'"
        ).fetchall()
        log = self.path.with_name(self.path.name + ".wal")
        return used + (log.stat().st_size if log.exists() else 0)

    def _make_room(self, connection: Any) -> None:
        """Drop the oldest traces."""
        connection.execute("CHECKPOINT")
        used = self._bytes_used(connection)
        if used <= FULL * self.max_bytes:
            return
        share = 1 - KEPT * self.max_bytes / used
        row = connection.execute(_CUT, [share]).fetchone()
        if row is None:
            return
        connection.execute("CREATE OR REPLACE TEMP TABLE ids AS SELECT * FROM traces WHERE start_ns <= ?", [row[0]])
        low, high = connection.execute("SELECT min(start_ns), max(end_ns) FROM ids").fetchone()
        connection.execute("BEGIN")
        ((deleted,),) = connection.execute(
            "DELETE FROM spans WHERE start_ns BETWEEN ? AND ? AND trace_id IN (SELECT trace_id FROM ids)", [low, high]
        ).fetchall()
        connection.execute("DELETE FROM calls WHERE trace_id IN (SELECT trace_id FROM ids)")
        connection.execute("DELETE FROM traces WHERE trace_id IN (SELECT trace_id FROM ids)")
        connection.execute("UPDATE state SET dropped = dropped + ?", [deleted])
        self._commit(connection)
        self.dropped += deleted
        connection.execute("CHECKPOINT")


_HEX = "coalesce(try_cast('0x' || {0} AS UBIGINT), hash({0}))"
_IN_BATCH = {
    "trace_id": "trace_id::UUID",
    "span_id": _HEX.format("span_id"),
    "parent_id": f"CASE WHEN parent_id IS NOT NULL THEN {_HEX.format('parent_id')} END",
    "end_ns": "greatest(start_ns, end_ns)",
}
_APPEND = f"""INSERT INTO spans ({", ".join(columns.TYPES)})
SELECT {", ".join(_IN_BATCH.get(name, name) for name in columns.TYPES)} FROM batch"""
_THERE = f"""SELECT n.trace_id, n.span_id FROM named n JOIN spans s
  ON s.trace_id = n.trace_id::UUID AND s.span_id = {_HEX.format("n.span_id")} WHERE s.start_ns BETWEEN ? AND ?"""
_FRESH = "INSERT INTO fresh SELECT trace_id::UUID, min(start_ns), max(start_ns) FROM batch GROUP BY 1"
_FRESH_AFTER_OPENING = """INSERT INTO fresh SELECT s.trace_id, s.low, s.high FROM
  (SELECT trace_id, min(start_ns) AS low, max(start_ns) AS high, count(*) AS spans FROM spans GROUP BY trace_id) s
  LEFT JOIN traces t USING (trace_id) WHERE t.spans IS DISTINCT FROM s.spans"""
_IDS = """CREATE OR REPLACE TEMP TABLE ids AS
SELECT trace_id, least(min(f.low), min(t.start_ns)) AS low, greatest(max(f.high), max(t.end_ns)) AS high
FROM fresh f LEFT JOIN traces t USING (trace_id) GROUP BY trace_id"""
_TOUCHED = f"""CREATE OR REPLACE TEMP TABLE touched AS SELECT {", ".join(column.name for column in columns.TAKEN)}
FROM spans WHERE start_ns BETWEEN ? AND ? AND trace_id IN (SELECT trace_id FROM ids)"""
_CUT = """SELECT start_ns FROM (
  SELECT start_ns, sum(spans) OVER (ORDER BY start_ns) AS before, sum(spans) OVER () AS whole FROM traces)
WHERE before >= whole * ? ORDER BY start_ns LIMIT 1"""


def default_path() -> Path:
    """The default place of the store: the user's data folder."""
    if os.name == "nt" and (home := os.environ.get("LOCALAPPDATA")):
        return Path(home) / "llmtrace" / "view.duckdb"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "llmtrace" / "view.duckdb"


def _why_not(name: str, error: Exception) -> str:
    text = _line(error)
    lower = text.lower()
    if "lock" in lower and ("conflicting" in lower or "could not set" in lower or "being used" in lower):
        return f"the store {name} is in use by another llmtrace view: stop that one, or name another file with --store"
    if "newer version" in lower or "version number" in lower or "storage version" in lower:
        return (
            f"the store {name} was written by another DuckDB than this one reads: pip install --upgrade duckdb, "
            f"or name another file with --store ({text})"
        )
    if isinstance(error, OSError) or "permission" in lower or "cannot open" in lower or "is a directory" in lower:
        return f"cannot open the store {name}: {text}; name another file with --store, or use --memory"
    return (
        f"the store {name} is no store of llmtrace, or is damaged: move it away (with its .wal, if there is one), "
        f"or name another file with --store ({text})"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
