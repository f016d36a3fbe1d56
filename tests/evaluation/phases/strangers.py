"""A process of its own without llmtrace: the clients that the traced one knows nothing of.

It is told by one line of JSON what to send, says "ready", and sends until its standard input is closed.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat

from tests.evaluation.common.places import ROOT
from tests.evaluation.phases.arrivals import Prompts
from tests.evaluation.phases.drive import Driver

_READY = "ready"


@contextmanager
def sending(
    base_url: str, model: str, traffic: str, rate: float, words_per_token: float, seed: int, longest: int
) -> Iterator[None]:
    """Strangers at ``rate`` calls/s for as long as the block lasts; none at 0."""
    if rate <= 0:
        yield
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.evaluation.phases.strangers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps([base_url, model, traffic, rate, words_per_token, seed, longest]) + "\n")
        process.stdin.flush()
        if process.stdout.readline().strip() != _READY:
            raise RuntimeError("the strangers' process did not start")
        yield
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


async def send(
    base_url: str, model: str, traffic: str, rate: float, words_per_token: float, seed: int, longest: int
) -> None:
    """Send until standard input ends."""
    draw = random.Random(seed)
    prompts = Prompts(draw, words_per_token, longest=longest)
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    async with Driver(base_url, model) as driver:
        print(_READY, flush=True)
        gaps = (draw.expovariate(rate) for _ in repeat(None))
        sender = asyncio.ensure_future(driver.endless(gaps, prompts.of(traffic)))
        await asyncio.wait([sender, ended], return_when=asyncio.FIRST_COMPLETED)
        sender.cancel()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


if __name__ == "__main__":
    if "llmtrace" in sys.modules:
        sys.exit("the strangers are not to be traced")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started it, and closes the input
    asyncio.run(send(*json.loads(sys.stdin.readline())))
