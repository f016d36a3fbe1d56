"""A process that gets no core is late by itself: nobody else is blamed for that time."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from hashlib import pbkdf2_hmac
from pathlib import Path

import pytest

from llmtrace.calls.verdict import Diagnoser
from llmtrace.diagnosis.verdict import NETWORK, NOISY_NEIGHBOR, QUEUEING
from llmtrace.observe.run_queue import RunQueue, forget
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

    def forbidden(file: int, size: int, offset: int) -> bytes:
        raise RuntimeError("a blocking call on the event loop")

    with monkeypatch.context() as patched:
        patched.setattr("llmtrace.observe.run_queue.os.pread", forbidden)
        told: list[float | None] = []
        thread = threading.Thread(target=lambda: told.append(RunQueue().waited()))
        thread.start()
        thread.join()
    assert told == [None]


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux counts it")


def looked_at() -> set[int]:
    """The numbers of this process's open files that count a thread's waits."""
    numbers: set[int] = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one that this list was read from
            if os.readlink(f"/proc/self/fd/{number}").endswith("/schedstat"):
                numbers.add(int(number))
    return numbers


def on_a_thread(action: Callable[[], object]) -> None:
    thread = threading.Thread(target=action)
    thread.start()
    thread.join()


@linux
def test_looks_keep_a_few_files_open_and_no_more() -> None:
    RunQueue()
    before = looked_at()
    assert before
    RunQueue()
    assert looked_at() == before, "the next look reads the same file"
    sys.setswitchinterval(1e-6)  # many threads look at once
    together = threading.Barrier(51)

    def at_once() -> None:
        together.wait(60)
        RunQueue()
        together.wait(60)
        together.wait(60)

    threads = [threading.Thread(target=at_once) for _ in range(50)]
    try:
        for thread in threads:
            thread.start()
        together.wait(60)
        together.wait(60)
    finally:
        sys.setswitchinterval(0.005)
    assert len(looked_at()) <= 8, "also while they all live"
    together.wait(60)
    for thread in threads:
        thread.join()
    for _ in range(200):
        on_a_thread(RunQueue)
    assert len(looked_at()) <= 8

    def often() -> None:
        for _ in range(200):
            RunQueue()
        own = f"/task/{threading.get_native_id()}/"
        own_stays.append(any(own in os.readlink(f"/proc/self/fd/{number}") for number in looked_at()))

    own_stays: list[bool] = []
    on_a_thread(often)
    assert own_stays == [True], "threads that have ended make room"


@linux
def test_a_file_that_the_program_closed_is_left_to_whoever_has_its_number_now() -> None:
    seen: list[object] = []

    def look() -> None:
        before = looked_at()
        RunQueue()
        (number,) = looked_at() - before
        os.close(number)
        read, write = os.pipe()
        seen.append(number in (read, write))
        RunQueue().waited()
        os.write(write, b"x")
        seen.append(os.read(read, 1))
        os.close(read)
        os.close(write)

    forget()
    on_a_thread(look)
    assert seen == [True, b"x"]


@linux
def test_a_look_reads_the_threads_own_file_after_the_program_closed_them_all(tmp_path: Path) -> None:
    seen: list[object] = []

    def look() -> None:
        before = looked_at()
        looked = RunQueue()
        while looked.waited() is None:  # a thread that has not been counted yet
            pass
        (number,) = looked_at() - before
        os.close(number)
        other = os.open(another, os.O_RDONLY)
        seen.append(other == number)
        waited = looked.waited()
        seen.append(waited is not None and waited < 1000)
        os.close(other)

    another = tmp_path / "counts"
    for text in ("not numbers", "1 9000000000000000000 1"):
        another.write_text(text)
        forget()
        on_a_thread(look)
    assert seen == [True, True] * 2


@linux
def test_a_look_is_the_threads_own_in_a_namespace_of_process_numbers() -> None:
    """``/proc`` may be that of the namespace above, where this thread's number is another one's."""
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("namespaces cannot be made here")
    program = """
import os
from llmtrace.observe.run_queue import RunQueue
RunQueue()
links = [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")[:-1]]
(read,) = [link for link in links if link.endswith("schedstat")]
own = os.readlink("/proc/thread-self")
assert f"/{own.rpartition('/')[2]}/" in read, (own, read)
"""
    done = subprocess.run([*unshare, sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@linux
def test_a_forked_child_has_none_of_its_parents_files() -> None:
    RunQueue()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, str(len(looked_at())).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"0"
    os.close(read)
    os.close(write)
