"""Cuts a trace file into stretches, and converts one stretch into a Parquet file, which is a worker's task."""

from __future__ import annotations

import gc
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from llmtrace.analyze import half_pairs, otlp, plausible, plausible_columns
from llmtrace.analyze.flatten import Flattener
from llmtrace.analyze.schema import Column, Kind, with_extra
from llmtrace.analyze.sparse import Sparse

STRETCH = 24 << 20
"""Bytes of an uncompressed file that one task reads."""
BATCH = 4096
"""Spans held as Python objects before they become columns: as many as the processor's caches hold."""
GROUP = 25_000
"""Spans that are written together."""
LONG = 8 << 10
"""Bytes. A line that is shorter has few spans, for which a step for each column takes longer than one for each span."""
PROBLEMS_KEPT = 100
_EACH_ITS_OWN = ("trace_id", "span_id", "parent_id", "start_ns", "end_ns", "response_id")
_BLOCK = 1 << 20
_TYPES: dict[Kind, Any] = {"text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes [start, end) of a file of lines; a compressed file, and one that is no file of lines, is one stretch."""

    path: str
    start: int
    end: int
    lines: bool = True


@dataclass(slots=True)
class Outcome:
    """The counts and problems of one converted stretch."""

    spans: int
    lines: int
    problems: list[otlp.Problem]
    """The first ``PROBLEMS_KEPT``; their lines count from the stretch's first."""
    problem_count: int
    odd: int = 0
    """Values that cannot be, and count as not known."""


def cut(path: Path) -> list[Stretch]:
    """The stretches of one file.

    Raises:
        TraceFileError: it cannot be opened or is compressed in a way that is not read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(4)
            if head == b"\x28\xb5\x2f\xfd":
                raise otlp.TraceFileError(path, "zstd-compressed; decompress it first (zstd -d)")
            if head[:2] == b"\x1f\x8b":
                return [Stretch(str(path), 0, size)]
            file.seek(0)
            if not _is_lines(file):
                return [Stretch(str(path), 0, size, lines=False)]
            starts = [0]
            while starts[-1] + STRETCH < size:
                file.seek(starts[-1] + STRETCH)
                file.readline()
                starts.append(file.tell())
    except OSError as error:
        raise otlp.TraceFileError(path, error.strerror or str(error)) from error
    ends = [*starts[1:], size]
    return [Stretch(str(path), start, end) for start, end in zip(starts, ends, strict=True) if end > start]


def _is_lines(file: BinaryIO) -> bool:
    """Whether one of the first lines that are not empty is a whole JSON value; broken lines may stand before it."""
    looked = 0
    for line in file:
        text = line.strip()
        if not text:
            continue
        try:
            if isinstance(half_pairs.loads(text), (dict, list)):
                return True
        except orjson.JSONDecodeError:
            pass
        looked += 1
        if looked >= 20 or text in (b"{", b"[", b"[{"):
            return False
    return True


def convert(
    stretch: Stretch, target: Path, extra: tuple[str, ...] = (), tell: Callable[[int], None] = lambda done: None
) -> Outcome:
    """Write the stretch's spans to ``target``; ``tell`` is called with the bytes read since it was called last."""
    columns = with_extra(extra)
    flattener = Flattener(columns)
    schema = arrow_schema(columns)
    spans = lines = problems = 0
    first_problems: list[otlp.Problem] = []
    dictionaries: Any = _repeating(columns)
    waiting: list[pa.Table] = []
    collecting = gc.isenabled()
    gc.disable()  # millions of small objects, none of them in a cycle
    try:
        with pq.ParquetWriter(target, schema, compression="lz4", use_dictionary=dictionaries) as writer:
            for number, document, reason, done in documents(stretch, flattener.add_line):
                lines = max(lines, number)
                if reason:
                    flattener.problems.append(otlp.Problem(number, reason))
                elif document is not None:
                    flattener.add(document, number)
                problems += len(flattener.problems)
                first_problems.extend(flattener.problems[: PROBLEMS_KEPT - len(first_problems)])
                flattener.problems.clear()
                if done:
                    tell(done)
                if len(flattener) >= BATCH:
                    waiting.append(arrow_table(flattener, schema))
                    if sum(table.num_rows for table in waiting) >= GROUP:
                        spans += _write(waiting, writer)
            waiting.append(arrow_table(flattener, schema))
            spans += _write(waiting, writer)
    finally:
        if collecting:
            gc.enable()
    return Outcome(spans, lines, first_problems, problems, flattener.odd)


def _write(tables: list[pa.Table], writer: pq.ParquetWriter) -> int:
    """Write the tables as one; returns the number of their rows. The list is empty afterwards."""
    table = pa.concat_tables(tables)
    tables.clear()
    writer.write_table(table)
    return table.num_rows


def _repeating(columns: Sequence[Column]) -> list[str]:
    """The columns whose values come again and again, so that a dictionary pays."""
    return [column.name for column in columns if column.name not in _EACH_ITS_OWN]


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """The Arrow schema of a table with ``columns``."""
    return pa.schema([(column.name, _TYPES[column.kind]) for column in columns])


def arrow_table(flattener: Flattener, schema: pa.Schema) -> pa.Table:
    """The rows that the flattener holds, as a table; the flattener is empty afterwards. What cannot be is null in it,
    and counted by the flattener.
    """
    count = len(flattener)
    fixed, sparse, texts = flattener.take()
    each = iter(schema)
    arrays = [_array(values, next(each).type) for values in fixed]
    for column in sparse:
        spread, odd = _spread(column, count, next(each))
        flattener.odd += odd
        arrays.append(spread)
    arrays += [_array(values, next(each).type) for values in texts]
    columns: dict[str, Any] = dict(zip(schema.names, arrays, strict=True))
    flattener.odd += plausible_columns.known_columns(columns)
    return pa.Table.from_arrays(list(columns.values()), schema=schema)


def _spread(column: Sparse, count: int, field: pa.Field) -> tuple[pa.Array, int]:
    """A column of ``count`` values, the rows without a value null; and how many values cannot be."""
    if not column.rows:
        return pa.nulls(count, field.type), 0
    places = np.full(count, -1, dtype=np.int64)
    places[column.rows] = np.arange(len(column.rows))
    given = [plausible.whole(value) for value in column.values] if field.name in plausible.WHOLE else column.values
    values, odd = _array(given, field.type), 0
    if not field.name.endswith("_ns"):  # moments are that large
        values, odd = plausible_columns.known_values(values, field.name in plausible.COUNTS)
    return values.take(pa.array(places, mask=places < 0)), odd


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError):
        # Somebody wrote a number as text, text where a number belongs, or text that is no Unicode.
        return pa.array([_coerced(value, kind) for value in values], kind)


def _coerced(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    try:
        if pa.types.is_string(kind):
            return str(value).encode("utf-8", "replace").decode()
        if pa.types.is_boolean(kind):
            return value if isinstance(value, bool) else {"true": True, "false": False}.get(str(value).lower())
        if isinstance(value, bool):
            return None
        if pa.types.is_integer(kind) and isinstance(value, int):
            return value if -(2**63) <= value < 2**63 else None
        number = float(value)
        if pa.types.is_integer(kind):
            return int(number) if abs(number) < 2**63 else None
        return number
    except (TypeError, ValueError, OverflowError):
        return None


Read = tuple[int, Any, str, int]
"""Line within the stretch, the document (None: an empty line, or one that was taken), what is wrong with it, bytes read
since the last."""


def documents(stretch: Stretch, take: Callable[[bytes], bool] = lambda text: False) -> Iterator[Read]:
    """Yields the documents of a stretch, line by line; ``take`` may take a long line of a file of lines unparsed."""
    if not stretch.lines:
        problems: list[otlp.Problem] = []
        for line, document in otlp.documents(Path(stretch.path), problems):
            yield line, document, "", 0
        for problem in problems:
            yield problem.line, None, problem.reason, 0
        yield 0, None, "", stretch.end
        return
    with open(stretch.path, "rb", buffering=_BLOCK) as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(stretch.start)
        source = _unpacked(file) if packed else _plain(file, stretch.end - stretch.start)
        number = 0
        for number, (line, done) in enumerate(source, 1):
            if line is None:
                yield number, None, "the gzip data is cut short or damaged from here on", done
                return
            text = line.strip()
            if number == 1:
                text = text.removeprefix(b"\xef\xbb\xbf")
            if not text or (len(text) >= LONG and take(text)):
                yield number, None, "", done
                continue
            try:
                yield number, half_pairs.loads(text), "", done
            except orjson.JSONDecodeError as error:
                yield number, None, f"not valid JSON: {error.msg} at column {error.colno}", done


def _plain(file: BinaryIO, length: int) -> Iterator[tuple[bytes | None, int]]:
    for line in file:
        yield line, len(line)
        length -= len(line)
        if length <= 0:
            return


def _unpacked(file: BinaryIO) -> Iterator[tuple[bytes | None, int]]:
    """Lines of gzip data, several members too; None as the last one where it is damaged."""
    rest, done = b"", 0
    machine = zlib.decompressobj(31)
    while block := file.read(_BLOCK):
        done += len(block)
        while block:
            try:
                rest += machine.decompress(block)
            except zlib.error:
                yield from ((line, 0) for line in rest.split(b"\n")[:-1])
                yield None, done
                return
            block = machine.unused_data.lstrip(b"\0") if machine.eof else b""
            if machine.eof and block:
                machine = zlib.decompressobj(31)
        *whole, rest = rest.split(b"\n")
        for line in whole:
            yield line, done
            done = 0
    if not machine.eof:
        yield None, done
    elif rest:
        yield rest, done


def cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
