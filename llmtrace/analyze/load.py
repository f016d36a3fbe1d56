"""Reads traces into one table: from files, folders, Jaeger, Tempo, or a table that exists already."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from llmtrace import interpreter
from llmtrace import scratch as scratch_files
from llmtrace.analyze import remote, schema, tables
from llmtrace.analyze.chunks import PROBLEMS_KEPT, Outcome, Stretch, convert, cpus, cut
from llmtrace.analyze.otlp import Problem
from llmtrace.errors import LlmtraceError

SUFFIXES = (".json", ".jsonl", ".ndjson", ".otlp")
"""The name endings of trace files in a folder, each also followed by ``.gz``."""
SMALL = 4 << 20
"""Bytes. Smaller input is read in this process, and its table is not kept."""
CACHE_BYTES = 2 << 30
"""The most bytes of kept tables of files that were read before; the oldest are removed first."""
MEMORY = "1GB"
"""The memory that DuckDB may use; beyond it, DuckDB writes to the disk."""

Tell = Callable[[int, int], None]
"""A function that is called with the bytes read so far and the bytes in all."""


@dataclass(slots=True)
class Stats:
    """Counts of what was read and of its faults. Everything that can be used is used."""

    sources: list[str] = field(default_factory=list[str])
    spans: int = 0
    problems: list[str] = field(default_factory=list[str])
    """``FILE:LINE: reason``, the first ones of each file."""
    problem_count: int = 0
    duplicates: int = 0
    """Spans that were there more than once; one of each is used."""
    orphans: int = 0
    """Spans whose parent is not there."""
    skewed: int = 0
    """Children of another service that begin before or end after their parent by over a millisecond: clocks that
    disagree. Durations are used, which they do not touch."""
    odd: int = 0
    """Values that cannot be, and count as not known."""
    notes: list[str] = field(default_factory=list[str])
    """What was left unread, a sentence each."""
    versions: list[int] = field(default_factory=list[int])
    """The versions of the span contract that the spans have."""


@dataclass(slots=True)
class Traces:
    """The table of spans, the connection to the engine that holds it, and the counts of reading it."""

    table: Any
    """An ibis table with ``llmtrace.analyze.schema.COLUMNS``."""
    connection: Any
    stats: Stats


@contextmanager
def load(
    sources: Sequence[str],
    *,
    extra: tuple[str, ...] = (),
    tell: Tell = lambda done, whole: None,
    cache: bool = True,
    **window: Any,
) -> Generator[Traces, None, None]:
    """Read all ``sources`` into one table.

    Args:
        sources: files, folders, ``http://`` addresses of Jaeger or Tempo, or ibis URLs of a table
            (``duckdb://file.duckdb?table=spans``, ``clickhouse://...?table=spans``, ``spans.parquet``).
        extra: attributes with numbers (a quality score) that become columns too.
        tell: progress.
        cache: keep the tables made of larger files, and use kept ones.
        window: for Jaeger and Tempo: ``service``, ``query``, ``hours``, ``limit``.

    Raises:
        LlmtraceError: a source that does not exist or cannot be read, or none that holds a span.
    """
    with _selects_left_apart():
        yield from _loaded(sources, extra, tell, cache, window)


@contextmanager
def _selects_left_apart() -> Generator[None, None, None]:
    """Have ibis leave the selects of a statement apart, which engines join by themselves: its own joining of them takes
    a third of a small report's time."""
    import ibis

    before = ibis.options.sql.fuse_selects
    ibis.options.sql.fuse_selects = False
    try:
        yield
    finally:
        ibis.options.sql.fuse_selects = before


def _loaded(
    sources: Sequence[str], extra: tuple[str, ...], tell: Tell, cache: bool, window: dict[str, Any]
) -> Generator[Traces, None, None]:
    if len(sources) == 1 and _is_table(sources[0]):
        yield _table(sources[0], extra, window)
        return
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmtrace-", dir=scratch_files.folder())))
        stats = Stats()
        paths = list(_files(sources, scratch, window, stats))
        parts = _parts(paths, scratch, extra, tell, cache, stats)
        if not parts or stats.spans == 0:
            first = f": {stats.problems[0]}" if stats.problems else ""
            asked = any(map(_is_address, sources))
            raise LlmtraceError(f"no spans in {', '.join(sources)}{_looked_back(window) if asked else ''}{first}")
        connection = _duckdb(scratch)
        stack.callback(connection.disconnect)
        table = connection.read_parquet([str(part) for part in parts], table_name="raw_spans")
        yield _settled(connection, table, stats)


# What there is to read


def _files(sources: Iterable[str], scratch: Path, window: dict[str, Any], stats: Stats) -> Iterator[Path]:
    for source in sources:
        stats.sources.append(source)
        if _is_address(source):
            yield remote.fetch(source, scratch, notes=stats.notes, **window)
            continue
        if _is_table(source):
            raise LlmtraceError(f"{source} is a table: name it alone")
        yield from trace_files(source)


def trace_files(source: str) -> Iterator[Path]:
    """A file, or the trace files of a folder. Raises LlmtraceError where there is none."""
    path = Path(source)
    if path.is_dir():
        files = sorted(entry for entry in path.rglob("*") if entry.is_file() and _is_trace_file(entry))
        if not files:
            raise LlmtraceError(f"{path}: no trace files in this folder ({', '.join(SUFFIXES)}, or with .gz)")
        yield from files
    elif path.exists():
        yield path
    else:
        raise LlmtraceError(f"{path}: no such file or folder")


def _is_trace_file(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith(SUFFIXES)


def _parts(
    paths: Sequence[Path], scratch: Path, extra: tuple[str, ...], tell: Tell, cache: bool, stats: Stats
) -> list[Path]:
    """The Parquet files of all paths, made now or kept from before."""
    parts: list[Path] = []
    jobs: list[_Job] = []
    home = cache_folder() if cache else None
    for path in paths:
        kept_table = None if home is None or path.stat().st_size < SMALL else _Kept(path, extra, home)
        if kept_table is not None and (outcomes := kept_table.outcomes()) is not None:
            parts.extend(kept_table.parts())
            _account(stats, path, outcomes)
            continue
        stretches = cut(path)
        folder = Path(tempfile.mkdtemp(dir=scratch))
        jobs.append(_Job(path, kept_table, folder, stretches))
    _run(jobs, extra, tell)
    for job in jobs:
        outcomes = [outcome for outcome in job.outcomes if outcome is not None]
        written = [job.target(number) for number in range(len(job.stretches))]
        if job.kept is not None:
            written = job.kept.keep(written, outcomes)
        parts.extend(written)
        _account(stats, job.path, outcomes)
    return parts


def _account(stats: Stats, path: Path, outcomes: Sequence[Outcome]) -> None:
    before = 0
    for outcome in outcomes:
        stats.spans += outcome.spans
        stats.problem_count += outcome.problem_count
        stats.odd += outcome.odd
        room = PROBLEMS_KEPT - len(stats.problems)
        stats.problems.extend(
            f"{path}:{before + problem.line}: {problem.reason}" for problem in outcome.problems[:room]
        )
        before += outcome.lines


# Reading, by as many processes as there are processors


class _Job:
    """The stretches of one file and their outcomes."""

    def __init__(self, path: Path, kept: _Kept | None, folder: Path, stretches: list[Stretch]) -> None:
        self.path, self.kept, self.folder, self.stretches = path, kept, folder, stretches
        self.outcomes: list[Outcome | None] = [None] * len(stretches)

    def target(self, number: int) -> Path:
        return self.folder / f"part-{number:05}.parquet"


def _run(jobs: Sequence[_Job], extra: tuple[str, ...], tell: Tell) -> None:
    whole = sum(stretch.end - stretch.start for job in jobs for stretch in job.stretches)
    tasks = [(job, number) for job in jobs for number in range(len(job.stretches))]
    lock, done = threading.Lock(), 0

    def progress(more: int) -> None:
        nonlocal done
        with lock:
            done += more
            tell(done, whole)

    processes = min(cpus(), len(tasks))
    if processes <= 1 or whole < SMALL:
        for job, number in tasks:
            job.outcomes[number] = convert(job.stretches[number], job.target(number), extra, progress)
        return
    waiting: queue.SimpleQueue[tuple[_Job, int]] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    failures: list[BaseException] = []
    workers = [_Worker() for _ in range(processes)]
    threads = [
        threading.Thread(target=_feed, args=(worker, waiting, extra, progress, failures), daemon=True)
        for worker in workers
    ]
    try:
        for thread in threads:
            thread.start()
        import_module("ibis.backends.duckdb")  # needed next; meanwhile there is nothing else to do here
        for thread in threads:
            thread.join()
    finally:
        for worker in workers:
            worker.stop()
    if failures:
        raise failures[0]


class _Worker:
    """A process of its own: no thread of this one's is shared, and no module of the caller's is run again."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "llmtrace.analyze.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=interpreter.environ(),
            start_new_session=True,  # Ctrl-C is this process's to answer
        )

    def convert(self, stretch: Stretch, target: Path, extra: tuple[str, ...], tell: Callable[[int], None]) -> Outcome:
        """Run `chunks.convert` in the worker process. Raises LlmtraceError where that failed."""
        task = json.dumps({"stretch": asdict(stretch), "target": str(target), "extra": extra})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(task + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            message = json.loads(line)
            if "done" in message:
                tell(message["done"])
            elif "error" in message:
                raise LlmtraceError(f"cannot read {stretch.path}: {message['error']}")
            else:
                return _outcome(message["outcome"])
        raise LlmtraceError(f"cannot read {stretch.path}: the reading process ended (out of memory?)")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def _feed(
    worker: _Worker,
    waiting: queue.SimpleQueue[tuple[_Job, int]],
    extra: tuple[str, ...],
    progress: Callable[[int], None],
    failures: list[BaseException],
) -> None:
    while not failures:
        try:
            job, number = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            job.outcomes[number] = worker.convert(job.stretches[number], job.target(number), extra, progress)
        except Exception as error:
            failures.append(error)


def _outcome(message: dict[str, Any]) -> Outcome:
    problems = [Problem(**problem) for problem in message["problems"]]
    return Outcome(message["spans"], message["lines"], problems, message["problem_count"], message["odd"])


# Tables kept from before


class _Kept:
    """The table of one file as it was when it was read: another size or time of change is another table."""

    def __init__(self, path: Path, extra: tuple[str, ...], home: Path) -> None:
        state = path.stat()
        columns = [(column.name, column.kind, column.attributes) for column in schema.with_extra(extra)]
        identity = [str(path.resolve()), state.st_size, state.st_mtime_ns, schema.VERSION, columns]
        name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]
        self._home = home
        self._folder = self._home / name

    def outcomes(self) -> list[Outcome] | None:
        """The outcomes of the stretches when the file was read; None where no table is kept."""
        try:
            messages = json.loads((self._folder / "outcomes.json").read_text())
            with suppress(OSError):  # a cache that is read only is still one
                os.utime(self._folder)
            return [_outcome(message) for message in messages]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def parts(self) -> list[Path]:
        return sorted(self._folder.glob("part-*.parquet"))

    def keep(self, parts: list[Path], outcomes: list[Outcome]) -> list[Path]:
        """Move the parts into the cache and return where they are; if that fails they stay where they were."""
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(dir=self._home, prefix="new-"))
            for part in parts:
                shutil.copyfile(part, scratch / part.name)
            (scratch / "outcomes.json").write_text(json.dumps([asdict(outcome) for outcome in outcomes]))
            shutil.rmtree(self._folder, ignore_errors=True)
            scratch.rename(self._folder)
            _make_room(self._home, self._folder)
        except OSError:
            return parts
        return self.parts()


def cache_folder() -> Path | None:
    """The folder of kept tables: ``LLMTRACE_CACHE``, else the user's cache folder; None where there is no user."""
    configured = os.environ.get("LLMTRACE_CACHE", "").strip()
    if configured:
        return Path(configured) / "tables"
    with suppress(RuntimeError):  # nobody's home
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmtrace" / "tables"
    return None


def _make_room(home: Path, newest: Path) -> None:
    folders = sorted((entry for entry in home.iterdir() if entry.is_dir()), key=lambda entry: -entry.stat().st_mtime)
    used = 0
    for folder in folders:
        used += sum(part.stat().st_size for part in folder.iterdir())
        if used > CACHE_BYTES and folder != newest:
            shutil.rmtree(folder, ignore_errors=True)


# The engine


def _duckdb(scratch: Path) -> Any:
    import ibis

    connection: Any = ibis.duckdb.connect(
        temp_directory=str(scratch), threads=cpus(), memory_limit=MEMORY, preserve_insertion_order=False
    )
    return connection


def _settled(connection: Any, table: Any, stats: Stats) -> Traces:
    """Remove duplicate spans from the table and count its faults."""
    # As many hashes as spans: no two spans are the same. Only where there are fewer, the ids themselves are compared.
    ((whole, distinct),) = connection.raw_sql(
        "SELECT count(*), count(DISTINCT hash(trace_id, span_id)) FROM raw_spans"
    ).fetchall()
    if distinct < whole:
        ((distinct,),) = connection.raw_sql("SELECT count(DISTINCT (trace_id, span_id)) FROM raw_spans").fetchall()
    if distinct < whole:
        stats.duplicates = whole - distinct
        table = connection.sql(
            "SELECT * FROM raw_spans QUALIFY row_number() OVER (PARTITION BY trace_id, span_id ORDER BY start_ns) = 1"
        )
    ((stats.orphans, stats.skewed),) = tables.values(tables.faults(table))
    stats.spans = distinct
    stats.versions = _versions(table)
    return Traces(table, connection, stats)


def _versions(table: Any) -> list[int]:
    versions = table.filter(table.schema_version.notnull()).select("schema_version").distinct()
    return sorted(version for (version,) in tables.values(versions))


def _is_address(source: str) -> bool:
    """Whether it is the address of a server that keeps traces."""
    return source.startswith(("http://", "https://"))


def _looked_back(window: Mapping[str, Any]) -> str:
    """How far back was looked, for what says that nothing was found."""
    hours = window.get("hours")
    return f" in the last {hours:g} h (--hours)" if hours else ""


def _is_table(source: str) -> bool:
    if _is_address(source):
        return False
    return "://" in source or source.endswith((".parquet", ".duckdb"))


def _table(source: str, extra: tuple[str, ...], window: Mapping[str, Any]) -> Traces:
    """A table on an engine that holds it already."""
    import ibis
    from ibis.common.exceptions import IbisError

    url, name = _named(source)
    source = re.sub(r"(://[^/?@:]*):[^/?@]*@", r"\1@", source)  # a password is never shown
    try:
        if url.endswith(".parquet"):
            connection: Any = ibis.duckdb.connect(threads=cpus(), memory_limit=MEMORY)
            table = connection.read_parquet(url, table_name="raw_spans")
        else:
            connection = ibis.connect(url)
            table = connection.table(name)
    except (IbisError, ImportError, OSError, ValueError) as error:
        raise LlmtraceError(f"cannot open the table {source}: {error}") from error
    except Exception as error:  # each engine raises its own
        raise LlmtraceError(f"cannot open the table {source}: {type(error).__name__}: {error}") from error
    return settled(source, connection, table, extra, window)


def settled(
    source: str, connection: Any, table: Any, extra: tuple[str, ...] = (), window: Mapping[str, Any] | None = None
) -> Traces:
    """The traces of a table that ``connection`` holds: one of spans, or the Collector's of ClickHouse.

    ``window`` (``hours``, ``service``) is asked of the Collector's table only, which holds all that ever came.

    Raises:
        LlmtraceError: the table lacks columns, or has no spans.
    """
    import ibis

    from llmtrace.analyze import collector_table

    if connection.name == "clickhouse":
        # Where a join finds nothing, nulls, as everywhere else; ClickHouse gives zeros and empty text unless asked.
        connection.con.set_client_setting("join_use_nulls", 1)
    if collector_table.is_collectors(table):
        asked = {name: value for name, value in (window or {}).items() if name in ("hours", "service")}
        table = collector_table.spans(table, schema.with_extra(extra), **asked)
    missing = [column.name for column in schema.with_extra(extra) if column.name not in table.columns]
    kinds: dict[str, Any] = {column.name: _IBIS[column.kind] for column in schema.FROM_ATTRIBUTES}
    table = table.mutate(**{name: ibis.null().cast(kinds[name]) for name in missing if name in schema.SINCE_4})
    if missing := [name for name in missing if name not in schema.SINCE_4]:
        raise LlmtraceError(
            f"the table {source} lacks the columns {', '.join(missing)}; `llmtrace report ... --save FILE.parquet` "
            "writes one that has them"
        )
    ((spans,),) = tables.values(table.aggregate(spans=table.count()))
    if not spans:
        raise LlmtraceError(f"no spans in {source}{_looked_back(window or {})}")
    stats = Stats([source], spans=spans, versions=_versions(table))
    return Traces(table, connection, stats)


_IBIS = {"text": "string", "int": "int64", "float": "float64", "bool": "boolean"}


def _named(source: str) -> tuple[str, str]:
    url, _, query = source.partition("?")
    parameters: list[str] = []
    name = "spans"
    for pair in filter(None, query.split("&")):
        key, _, value = pair.partition("=")
        if key == "table":
            name = value
        else:
            parameters.append(pair)
    if "://" not in url and url.endswith(".duckdb"):
        url = f"duckdb://{url}"
    return (f"{url}?{'&'.join(parameters)}" if parameters else url), name
