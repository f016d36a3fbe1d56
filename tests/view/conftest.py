"""Spans of known times, made by the real SDK and written by our own exporter."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.recorder import Recorder, demo_calls


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def demo_file(tmp_path: Path) -> Path:
    return demo_calls(Recorder()).save(tmp_path / "traces.otlp.jsonl")
