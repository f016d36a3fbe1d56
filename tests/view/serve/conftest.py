"""A store of a few calls and a viewer over it that tests only ask, and a viewer that anything may be sent to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.analyze.writing import Writer
from tests.view.serve.running import Viewer, viewer


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    """40 calls, one a second, with phases; every fourth by another model, failed and queued."""
    writer = Writer()
    for number in range(40):
        odd = number % 4 == 3
        writer.call(
            number * 1000.0,
            [("network", 10.0), ("queue", 500.0 if odd else 5.0), ("prefill", 50.0 + number), ("decode", 100.0)],
            trace=number + 1,
            model="gpt-4o" if odd else "gpt-4o-mini",
            outcome="error" if odd else "completed",
            marks={
                "llmtrace.call.ttft": 0.065 + number / 1000 + (0.495 if odd else 0.0),
                **(
                    {"llmtrace.diagnosis": ["queueing", "network"], "llmtrace.diagnosis.confidence": [0.9, 0.4]}
                    if odd
                    else {}
                ),
            },
        )
    store = tmp_path_factory.mktemp("store") / "s.duckdb"
    with viewer("--store", store) as made:
        made.store = store
        made.send(writer.document())
        made.until(lambda status: status["spans"] == 200)
        yield made


ALLOWED = "http://app.example:8080"
"""Pages of this origin may send spans to ``taking``."""


@pytest.fixture(scope="session")
def taking() -> Iterator[Viewer]:
    """For traces that a test finds again by their ids."""
    with viewer("--memory", "--allow-origin", ALLOWED.replace("app", "App") + "/") as made:
        yield made
