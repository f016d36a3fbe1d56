"""The suite itself: what passes passes at once, not at the second try."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import FORKING, LONGEST, TOGETHER, collected_with

ROOT = Path(__file__).parent.parent
FILES = ["Makefile", "pyproject.toml", "noxfile.py", ".ci/run"]
SECOND_CHANCE = re.compile(r"reruns?\b|rerunfailures|flaky", re.IGNORECASE)


@pytest.mark.parametrize("name", FILES)
def test_nothing_runs_a_failed_test_again(name: str) -> None:
    assert SECOND_CHANCE.findall((ROOT / name).read_text()) == []


@pytest.mark.parametrize("name", [*FORKING, *LONGEST])
def test_what_goes_first_is_there(name: str) -> None:
    assert (ROOT / "tests" / name).is_file()


@pytest.mark.parametrize("name", [place for places in TOGETHER.values() for place in places])
def test_what_goes_to_one_worker_is_there(name: str) -> None:
    assert (ROOT / "tests" / name).exists()


SLOW_IMPORTS = re.compile(
    r"^(import|from) (torch|transformers|peft|anthropic)\b|^from llmtrace.reference.(engine|blocks) "
    r'|^(\w+ = )?pytest.importorskip\("(torch|transformers|peft)"',
    re.MULTILINE,
)


def test_collecting_imports_nothing_that_takes_seconds() -> None:
    """It would in each worker: the files that need such a module say so by ``tests.support.late``."""
    files = [file for file in (ROOT / "tests").rglob("test_*.py") if "e2e" not in file.parts]
    assert [str(file) for file in files if SLOW_IMPORTS.search(file.read_text())] == []
    assert collected_with == [], "whatever a file calls for its parameters counts too"
