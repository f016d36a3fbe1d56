"""Real calls on the test's own clock, and the metrics that become of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Tracing
from tests.examples.traffic import Traffic
from tests.support.apis import Sync
from tests.support.clock import Clock
from tests.support.replay import Replay
from tests.support.spans import Spans


@pytest.fixture
def traffic(
    replay: Replay,
    spans: Spans,
    tracing: Tracing,
    make_api: Callable[..., Sync],
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Traffic]:
    """Plays calls of every kind that the dashboards speak of."""
    made = Traffic(replay, spans, tracing, make_api, clock, monkeypatch)
    yield made
    made.shut()
