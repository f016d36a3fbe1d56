"""A process that turns stretches of files into Parquet: a task per line in, progress and an outcome per line out."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from llmtrace.analyze import no_pandas
from llmtrace.analyze.chunks import Stretch, convert


def main() -> None:
    """Work until the input ends."""
    for line in sys.stdin:
        task = json.loads(line)
        try:
            outcome = convert(
                Stretch(**task["stretch"]),
                Path(task["target"]),
                tuple(task["extra"]),
                lambda done: print(json.dumps({"done": done}), flush=True),
            )
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        else:
            print(json.dumps({"outcome": dataclasses.asdict(outcome)}), flush=True)


if __name__ == "__main__":
    no_pandas.keep_out()
    main()
