"""The thread that fits, and a fork."""

from __future__ import annotations

import os
import threading

import pytest

from llmtrace.estimate.worker import Fitter


class Fits:
    def __init__(self) -> None:
        self.done: list[object] = []

    def fit(self, key: object) -> None:
        self.done.append(key)


def fitting() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "llmtrace-baseline"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_the_thread_ends_before_a_fork_and_fits_on_after_it() -> None:
    fits = Fits()
    fitter = Fitter(fits.fit)
    fitter.ask("a")
    assert fitter.settle(60)
    before = fitting()
    assert before, "it waits for more"
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert not before & fitting()
    fitter.ask("b")
    assert fitter.settle(60)
    assert fits.done == ["a", "b"]


def test_it_rests_so_long_that_it_works_for_a_fiftieth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With half a second of work to begin with: a program that has just begun learns soon."""
    clock = 100.0
    monkeypatch.setattr("llmtrace.estimate.worker.time.monotonic", lambda: clock)
    fitter = Fitter(Fits().fit)
    rests: list[float] = []
    for _ in range(100):
        clock += 0.02
        rests.append(fitter._rest(0.02))
        clock += rests[-1]
    assert rests[0] == pytest.approx(0.4), "a twentieth of the time at first"
    assert rests[-1] == pytest.approx(1.0, abs=0.03)
    assert 2.0 / (clock - 100.0) == pytest.approx(0.025, abs=0.005)
    clock += 60.0
    assert fitter._rest(0.02) == pytest.approx(0.4), "a minute without work is saved up"
