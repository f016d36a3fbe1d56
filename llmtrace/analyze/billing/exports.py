"""Reads exports: JSON as a list, as pages or line by line, and CSV; what cannot be read costs itself only."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmtrace.analyze.billing.forms import take
from llmtrace.analyze.billing.records import Exports, Unreadable
from llmtrace.errors import LlmtraceError

_MOST_BYTES = 1 << 30
_ROWS = re.compile(r'\s*\{[^{}\[\]]*"data"\s*:\s*\[')
"""A page of rows: what stands before the first of them."""
_NEXT = re.compile(r"\n|(?<=\}),\s*(?=\{)")
"""Where the next row may begin, after one that cannot be read."""
_COLUMNS = {"completion_tokens", "tokens_completion", "output_tokens", "usage_output_tokens", "start_time"}
"""One of them every CSV has."""
_BETWEEN = re.compile(r"[\s,\[\]]*")


def read_file(path: Path, into: Exports) -> None:
    """Read one export.

    Raises:
        LlmtraceError: it cannot be read at all, or nothing in it is of an export that is known.
    """
    try:
        raw = path.read_bytes()[: _MOST_BYTES + 1]
        if raw[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(raw)) as packed:
                raw = packed.read(_MOST_BYTES + 1)
    except IsADirectoryError:
        raise LlmtraceError(f"{path} is a folder: name the files of it") from None
    except (OSError, EOFError, zlib.error) as error:
        raise LlmtraceError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if len(raw) > _MOST_BYTES:
        raise LlmtraceError(f"{path} is larger than a GiB: export less at once")
    coding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    read_text(raw.decode(coding, "replace"), str(path), into)


def read_text(text: str, name: str, into: Exports) -> None:
    """Read an export's text; ``name``: where it is from.

    Raises:
        LlmtraceError: nothing in it is of an export that is known.
    """
    if not text.strip():
        raise LlmtraceError(f"{name} is empty")
    before = len(into.records) + len(into.buckets)
    rows = _json(text) if text.lstrip()[:1] in ("{", "[") else _csv(text, name)
    seen, problems = 0, len(into.problems)
    for line, row in rows:
        seen += 1
        place = f"{name}:{line}"
        try:
            if isinstance(row, Unreadable):
                raise row
            take(row, place, into)
        except Unreadable as why:
            into.problems.append((place, str(why)))
    if seen and len(into.problems) - problems == seen and before == len(into.records) + len(into.buckets):
        raise LlmtraceError("nothing can be read of {}: {}".format(*into.problems[problems]))


def _csv(text: str, name: str) -> Iterator[tuple[int, Any]]:
    """Each row with the line on which it ends."""
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header: list[str] = []
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, Unreadable(str(error))
            continue
        if not any(cells):
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            if not _COLUMNS.intersection(header):
                if _COLUMNS.intersection(";".join(header).split(";")):
                    raise LlmtraceError(f"{name} has semicolons between its cells: save it with commas or tabs")
                yield reader.line_num, Unreadable("its header is none of an export that is known")
        elif len(cells) != len(header):
            yield reader.line_num, Unreadable(f"it has {len(cells)} cells, the header {len(header)}")
        else:
            yield reader.line_num, dict(zip(header, cells, strict=True))


def _json(text: str) -> Iterator[tuple[int, Any]]:
    """Each row with the line on which it begins: the members of lists and pages, or whole lines."""
    decoder = json.JSONDecoder()
    at, line, counted = 0, 1, 0
    while True:
        page = _ROWS.match(text, at)
        between = _BETWEEN.match(text, at if page is None else page.end())
        at = at if between is None else between.end()
        if at >= len(text):
            return
        line, counted = line + text.count("\n", counted, at), at
        if text[at] == "{":
            try:
                row, at = decoder.raw_decode(text, at)
                yield line, row
                continue
            except ValueError as error:
                yield line, Unreadable(f"it is no JSON ({error})"[:120])
            except RecursionError:
                yield line, Unreadable("it is nested too deep")
        elif text[at] not in '"}':  # those are the rest of a broken row, or what a page has behind its rows
            yield line, Unreadable("it is no JSON object")
        following = _NEXT.search(text, at + 1)
        if following is None:
            return
        at = following.end()
