"""A process that reads trace files for the viewer: a stretch per line in, Parquet parts and progress per line out.

At most ``AHEAD`` parts lie ready: the parent says "next" for each that it has taken.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from llmtrace.analyze import otlp
from llmtrace.analyze.chunks import Stretch, arrow_schema, arrow_table, documents
from llmtrace.analyze.flatten import Flattener
from llmtrace.view.serve.columns import TAKEN

BATCH: Final = 10_000
"""The number of spans in one part."""
AHEAD: Final = 2


def main() -> None:
    """Work until the input ends."""
    gc.disable()  # many small objects, none of them in a cycle
    ready = 0
    number = 0
    for line in sys.stdin:
        task = json.loads(line)
        try:
            for message in _parts(Stretch(**task["stretch"]), Path(task["folder"]), number):
                if "part" in message:
                    number += 1
                    ready += 1
                print(json.dumps(message), flush=True)
                while ready >= AHEAD:
                    if not sys.stdin.readline():
                        return
                    ready -= 1
            while ready:
                if not sys.stdin.readline():
                    return
                ready -= 1
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
            ready = 0
        else:
            print(json.dumps({"end": True}), flush=True)


def _parts(stretch: Stretch, folder: Path, number: int) -> Iterator[dict[str, Any]]:
    flattener = Flattener(TAKEN, whole=True)
    schema = arrow_schema(flattener.columns)
    done = bad = lines = 0
    first = ""

    def part() -> dict[str, Any]:
        nonlocal number, done, bad
        path = folder / f"part-{number}.parquet"
        number += 1
        table = arrow_table(flattener, schema)
        pq.write_table(table, path, compression="lz4")
        message = {"part": str(path), "spans": table.num_rows, "done": done, "bad": bad, "first": first}
        message["odd"], flattener.odd = flattener.odd, 0
        done = bad = 0
        return message

    for line, document, reason, more in documents(stretch):
        lines = max(lines, line)
        done += more
        if reason:
            flattener.problems.append(otlp.Problem(line, reason))
        elif document is not None:
            flattener.add(document, line)
        if flattener.problems:
            bad += len(flattener.problems)
            first = first or f"line {flattener.problems[0].line} of this stretch: {flattener.problems[0].reason}"
            flattener.problems.clear()
        if len(flattener) >= BATCH:
            yield part()
    yield part()


if __name__ == "__main__":
    main()
