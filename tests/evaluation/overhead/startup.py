"""Start-up of one subject in a fresh process: what it adds once openai and the SDK are loaded.

Run as ``python -m tests.evaluation.overhead.startup SUBJECT`` by the interpreter of the subject's environment.
"""

from __future__ import annotations

import importlib
import json
import sys
import time

import openai

from tests.evaluation.overhead.sinks import Sinks
from tests.evaluation.overhead.subjects import by_name
from tests.evaluation.overhead.switches import SWITCHES


def main() -> None:
    """Print the CPU time, ns, of importing the package and of turning it on."""
    # The client loads its resources at first use; that is the application's own cost.
    _ = openai.OpenAI(api_key="sk-bench").chat.completions.create
    _ = openai.AsyncOpenAI(api_key="sk-bench").chat.completions.create
    subject = by_name(sys.argv[1])
    sinks = Sinks(sampled=True, with_metrics=True, own_processor=True)
    start = time.process_time_ns()
    importlib.import_module(subject.module)
    imported = time.process_time_ns()
    SWITCHES[subject.switch](sinks)
    print(json.dumps({"import": imported - start, "on": time.process_time_ns() - imported}))


if __name__ == "__main__":
    main()
