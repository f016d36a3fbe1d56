"""Import time of one subject in a fresh process: what it adds once openai and the SDK are loaded.

Run as ``python -m bench.startup SUBJECT`` by the interpreter of the subject's environment.
"""

from __future__ import annotations

import json
import sys
import time

import openai

from bench.sinks import Sinks
from bench.subjects import by_name
from bench.switches import SWITCHES


def main() -> None:
    """Print the CPU time of importing the package and turning it on."""
    # The client loads its resources at first use; that is the application's own cost.
    _ = openai.OpenAI(api_key="sk-bench").chat.completions.create
    _ = openai.AsyncOpenAI(api_key="sk-bench").chat.completions.create
    subject = by_name(sys.argv[1])
    sinks = Sinks(sampled=True, with_metrics=True, own_processor=True)
    start = time.process_time_ns()
    SWITCHES[subject.switch](sinks)
    print(json.dumps({"cpu": time.process_time_ns() - start}))


if __name__ == "__main__":
    main()
