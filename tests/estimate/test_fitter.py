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
