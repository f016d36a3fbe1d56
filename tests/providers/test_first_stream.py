"""The first stream of a process: its client then builds what it parses with."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import by_funnel
from tests.support import replay as play
from tests.support.replay import Replay

SLACK = 5_000_000
"""ns. Two clocks (the span's anchor and ``time.time_ns``), and the ticks in which the kernel tells of arrivals."""

FIRST_STREAM = """
import sys, time, llmtrace
from tests.support.by_funnel import {driver}
from tests.support.spans import Spans, attributes

spans = Spans()
llmtrace.instrument(tracer_provider=spans.provider)
opened = {driver}("sync", sys.argv[1])
stream = opened.stream()
time.sleep(1)
opened.drain(stream)
span = spans.one("completed")
print(span.start_time + attributes(span)["llmtrace.call.ttft"] * 1e9)
"""


@pytest.mark.parametrize("driver", ["OpenAI", "Responses", "Anthropic"])
def test_a_late_reader_of_a_processs_first_stream(replay: Replay, driver: str) -> None:
    """Its first pull takes long, for the client then builds what it parses with: its chunk lay ready all the same."""
    made = getattr(by_funnel, driver)("sync", replay.url)
    replay.serve(made.script(play.paced(made.events(), 0.05, 0.0)))
    command = [sys.executable, "-c", FIRST_STREAM.format(driver=driver), replay.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    (request,) = replay.requests
    assert request.arrived <= float(done.stdout) <= request.flushed[-1] + SLACK
    made.shut()
