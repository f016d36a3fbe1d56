"""A process of its own without llmtrace: the clients that the traced one knows nothing of.

It is told by one line of JSON what to send, says "ready", sends until its standard input is closed, and then says how
many calls it sent and how many of them failed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import repeat

from tests.evaluation.common.places import ROOT
from tests.evaluation.phases.arrivals import Prompts
from tests.evaluation.phases.drive import Driver

_READY = "ready"


@dataclass
class Sent:
    """What the strangers did, once the block has ended."""

    ended: Callable[[], bool] = lambda: True
    """Whether their process has."""
    calls: int = 0
    failed: int = 0


@contextmanager
def sending(
    base_url: str, model: str, traffic: str, rate: float, words_per_token: float, seed: int, longest: int
) -> Iterator[Sent]:
    """Strangers at ``rate`` calls/s for as long as the block lasts; none at 0.

    Raises:
        RuntimeError: they did not start, or ended before the block did.
    """
    sent = Sent()
    if rate <= 0:
        yield sent
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.evaluation.phases.strangers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    sent.ended = lambda: process.poll() is not None
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps([base_url, model, traffic, rate, words_per_token, seed, longest]) + "\n")
        process.stdin.flush()
        if process.stdout.readline().strip() != _READY:
            raise RuntimeError("the strangers' process did not start")
        yield sent
        if sent.ended():
            raise RuntimeError(f"the strangers' process ended early ({process.returncode})")
        with suppress(BrokenPipeError):
            process.stdin.close()
        sent.calls, sent.failed = json.loads(process.stdout.readline() or "[0, 0]")
    finally:
        with suppress(BrokenPipeError):
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
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def wait_for_the_end() -> None:
        os.read(sys.stdin.fileno(), 1)
        with suppress(RuntimeError):  # nobody waits any more
            loop.call_soon_threadsafe(ended.set_result, None)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    async with Driver(base_url, model) as driver:
        print(_READY, flush=True)
        gaps = (draw.expovariate(rate) for _ in repeat(None))
        sender = asyncio.ensure_future(driver.endless(gaps, prompts.of(traffic)))
        await asyncio.wait([sender, ended], return_when=asyncio.FIRST_COMPLETED)
        if sender.done():
            sender.result()  # it ends by an error alone
        failed = len(driver.failed)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        print(json.dumps([driver.asked, failed]), flush=True)


if __name__ == "__main__":
    if "llmtrace" in sys.modules:
        sys.exit("the strangers are not to be traced")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started it, and closes the input
    asyncio.run(send(*json.loads(sys.stdin.readline())))
