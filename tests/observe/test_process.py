"""Locks, threads and forks: what a child, a destructor and a signal handler find."""

from __future__ import annotations

import os
import threading
import time

import pytest

from llmtrace.observe.process import Lock, Worker, after_fork

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def in_child(code: object) -> int:
    """Run ``code()`` in a forked child; its exit status: 0 if it returned True, in two minutes at most."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if code() else 1)  # type: ignore[operator]
        finally:
            os._exit(2)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return -9


@needs_fork
def test_a_lock_that_another_thread_holds_is_free_in_the_child() -> None:
    lock, held, over = Lock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            over.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)

    def use() -> bool:
        with lock:
            return True

    assert in_child(use) == 0
    over.set()
    thread.join()


@needs_fork
def test_a_thread_that_forks_while_it_holds_a_lock() -> None:
    lock = Lock()
    with lock:
        status = in_child(lambda: _again(lock))
    assert status == 0
    assert _again(lock)


def _again(lock: Lock) -> bool:
    with lock, lock:  # and twice by the same thread
        return True


@needs_fork
def test_a_worker_works_in_the_child_too() -> None:
    handled: list[int] = []
    worker = Worker("test", handled.append)
    worker.start()
    worker.put(1)
    worker.settle(60)
    assert handled == [1]

    def use() -> bool:
        worker.put(2)
        worker.settle(60)
        if handled != [1, 2]:
            return False
        worker.start()
        worker.put(3)
        worker.settle(60)
        return handled == [1, 2, 3]

    assert in_child(use) == 0


@needs_fork
def test_a_fork_waits_for_what_a_worker_has_in_hand() -> None:
    theirs, begun = threading.Lock(), threading.Event()

    def handle(item: int) -> None:
        with theirs:
            begun.set()
            time.sleep(0.1)

    worker = Worker("test that forks", handle)
    worker.start()
    worker.put(1)
    assert begun.wait(60)
    assert in_child(lambda: theirs.acquire(timeout=5)) == 0
    worker.put(2)
    worker.settle(60)  # the parent's goes on
    assert not theirs.locked()


def named(name: str) -> bool:
    return name in [thread.name for thread in threading.enumerate()]


@needs_fork
def test_a_workers_thread_ends_before_a_fork_and_starts_again_when_it_is_wanted() -> None:
    handled: list[int] = []
    worker = Worker("test of a thread", handled.append)
    worker.start()
    assert named("test of a thread")
    assert in_child(lambda: True) == 0
    assert not named("test of a thread")
    worker.start()
    worker.put(1)
    worker.settle(60)
    assert handled == [1]


@needs_fork
def test_a_fork_neither_waits_for_a_workers_rest_nor_loses_what_waits() -> None:
    handled: list[int] = []
    worker = Worker("test of a rest", handled.append, rest=300.0)
    worker.start()
    worker.put(1)
    assert in_child(lambda: handled == [] and len(worker) == 0) == 0
    assert named("test of a rest"), "it goes on with what waits"
    worker.settle(60)
    assert handled == [1]


@needs_fork
def test_an_action_after_the_fork_lives_as_long_as_its_object() -> None:
    class Owner:
        def __init__(self) -> None:
            self.told = 0
            after_fork(self.forked)

        def forked(self) -> None:
            self.told += 1

    owners = [Owner()]
    assert in_child(lambda: owners[0].told == 1) == 0
    assert owners[0].told == 0
    owners.clear()
    assert in_child(lambda: True) == 0


def test_a_worker_survives_what_it_handles(caplog: pytest.LogCaptureFixture) -> None:
    handled: list[int] = []

    def handle(item: int) -> None:
        if item == 1:
            raise RuntimeError("no")
        handled.append(item)

    worker = Worker("test that fails", handle)
    worker.start()
    worker.put(1)
    worker.put(2)
    worker.settle(60)
    assert handled == [2]


def test_a_worker_that_rests_handles_together_what_came_meanwhile() -> None:
    handled: list[int] = []
    worker = Worker("test that rests", handled.append, rest=30.0)
    worker.start()
    for item in range(3):
        worker.put(item)
    assert (len(worker), handled) == (3, [])
    worker.settle(60)  # does not wait for the thread's rest
    assert (len(worker), handled) == (0, [0, 1, 2])


def test_settling_waits_for_the_item_under_way() -> None:
    begun, let_go, handled = threading.Event(), threading.Event(), list[int]()

    def handle(item: int) -> None:
        begun.set()
        let_go.wait(60)
        handled.append(item)

    worker = Worker("test of one under way", handle)
    worker.start()
    worker.put(1)
    assert begun.wait(60)
    threading.Timer(0.05, let_go.set).start()
    worker.settle(60)
    assert handled == [1]
