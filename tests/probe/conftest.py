"""A server, and no settings of a client but the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmtrace.probe.maths import intervals
from tests.support.replay import Replay


@pytest.fixture
def server() -> Iterator[Replay]:
    with Replay() as running:
        yield running


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals from few resamples, for tests that do not look at them."""
    monkeypatch.setattr(intervals, "RESAMPLES", 10)
