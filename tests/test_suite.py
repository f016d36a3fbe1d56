"""The suite itself: what passes passes at once, not at the second try."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import LONGEST, TOGETHER

ROOT = Path(__file__).parent.parent
FILES = ["Makefile", "pyproject.toml", "noxfile.py", ".ci/run"]
SECOND_CHANCE = re.compile(r"reruns?\b|rerunfailures|flaky", re.IGNORECASE)


@pytest.mark.parametrize("name", FILES)
def test_nothing_runs_a_failed_test_again(name: str) -> None:
    assert SECOND_CHANCE.findall((ROOT / name).read_text()) == []


@pytest.mark.parametrize("name", LONGEST)
def test_what_goes_first_is_there(name: str) -> None:
    assert (ROOT / "tests" / name).is_file()


@pytest.mark.parametrize("name", TOGETHER)
def test_what_goes_to_one_worker_is_there(name: str) -> None:
    assert (ROOT / "tests" / name).exists()


def test_collecting_imports_no_torch() -> None:
    """It takes seconds, in each worker: the files that need it say so by ``tests.support.late``."""
    heavy = re.compile(r"^(import|from) (torch|transformers)\b|^from llmtrace.reference.(engine|blocks) ", re.MULTILINE)
    files = [file for file in (ROOT / "tests").rglob("*.py") if "e2e" not in file.parts]
    assert [str(file) for file in files if heavy.search(file.read_text())] == []
