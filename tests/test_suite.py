"""The suite itself: what passes passes at once, not at the second try."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import LONGEST

ROOT = Path(__file__).parent.parent
FILES = ["Makefile", "pyproject.toml", "noxfile.py", ".ci/run"]
SECOND_CHANCE = re.compile(r"reruns?\b|rerunfailures|flaky", re.IGNORECASE)


@pytest.mark.parametrize("name", FILES)
def test_nothing_runs_a_failed_test_again(name: str) -> None:
    assert SECOND_CHANCE.findall((ROOT / name).read_text()) == []


@pytest.mark.parametrize("name", LONGEST)
def test_what_goes_first_is_there(name: str) -> None:
    assert (ROOT / "tests" / name).is_file()
