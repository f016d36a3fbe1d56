"""A process that gets no core is late by itself: nobody else is blamed for that time."""

from __future__ import annotations

import os
import random
import sys
import threading
from dataclasses import replace
from hashlib import pbkdf2_hmac

import pytest

from llmtrace.calls.verdict import Diagnoser
from llmtrace.diagnosis.verdict import NETWORK, NOISY_NEIGHBOR, QUEUEING
from llmtrace.observe.run_queue import RunQueue
from tests.evaluation.diagnosis.traffic import Faults, Made, Traffic, draw_habits

CALLS = 70


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    draw = random.Random(11)
    habits = draw_habits(draw, told=False)
    habits.starved, habits.fingerprints, habits.upstreams, habits.early_headers = False, ("one",), (), True
    return Traffic(habits, draw)


@pytest.fixture(scope="module")
def calm(traffic: Traffic) -> list[Made]:
    return [traffic.call(Faults()) for _ in range(CALLS)]


class Kernel:
    def __init__(self, waited: float | None) -> None:
        self.waited, self.asked = waited, 0

    def __call__(self) -> float | None:
        self.asked += 1
        return self.waited


@pytest.mark.parametrize(
    ("faults", "cause"),
    [(Faults(noisy=1.0), NOISY_NEIGHBOR), (Faults(network=0.5), NETWORK), (Faults(queue=2.0), QUEUEING)],
)
def test_what_the_process_itself_waited_is_blamed_on_nobody(
    traffic: Traffic, calm: list[Made], faults: Faults, cause: str
) -> None:
    late = [traffic.call(faults).facts for _ in range(4)]
    named: dict[float | None, int] = {}
    for waited in (None, 0.001, 60.0):
        diagnoser, kernel = Diagnoser(), Kernel(waited)
        for made in calm:
            diagnoser.judge("route", replace(made.facts, no_core=None), kernel)
        before = kernel.asked
        verdicts = [each for one in late for each in diagnoser.judge("route", replace(one, no_core=None), kernel)]
        named[waited] = sum(each.cause == cause for each in verdicts)
        assert before <= 1, "it is looked up only where something would be named"
        assert kernel.asked > before
    assert named[None] == named[0.001] >= 2
    assert named[60.0] == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel counts it on Linux")
def test_a_thread_that_shares_its_core_has_waited_for_it() -> None:
    cores, stop = os.sched_getaffinity(0), threading.Event()
    core = {min(cores)}
    started = threading.Event()
    waited: float | None = None

    def busy() -> None:
        os.sched_setaffinity(0, core)  # of this thread alone
        started.set()
        while not stop.is_set():
            pbkdf2_hmac("sha256", b"x", b"y", 5_000)  # lets other threads run

    rival = threading.Thread(target=busy)
    os.sched_setaffinity(0, core)
    try:
        rival.start()
        started.wait()
        own = RunQueue()
        for _ in range(200):
            pbkdf2_hmac("sha256", b"x", b"y", 5_000)
            waited = own.waited()
            if waited is None or waited > 0.005:
                break
    finally:
        stop.set()
        rival.join()
        os.sched_setaffinity(0, cores)
    if waited is None:
        pytest.skip("this kernel does not count it")
    assert waited > 0.005
    elsewhere: list[float | None] = []
    other = threading.Thread(target=lambda: elsewhere.append(own.waited()))
    other.start()
    other.join()
    assert elsewhere == [None], "another thread's wait is not this one's"


def test_where_a_look_is_forbidden_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the event loop of an application that has its blocking calls reported."""

    def forbidden(file: int, size: int) -> bytes:
        raise RuntimeError("a blocking call on the event loop")

    with monkeypatch.context() as patched:
        patched.setattr("llmtrace.observe.run_queue.os.read", forbidden)
        told: list[float | None] = []
        thread = threading.Thread(target=lambda: told.append(RunQueue().waited()))
        thread.start()
        thread.join()
    assert told == [None]
