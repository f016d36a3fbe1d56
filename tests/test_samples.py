"""The samples of output in README and docs are what the commands print: ``make samples`` makes them anew."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import samples

SAMPLES = [sample for sample in samples.on_pages() if sample[1] not in samples.SLOW]


@pytest.mark.parametrize(("page", "command", "shown"), SAMPLES, ids=[command for _, command, _ in SAMPLES])
def test_samples_are_current(page: Path, command: str, shown: str) -> None:
    printed = samples.made(command, by_fork=not command.startswith(("llmtrace compare", "llmtrace whatif")))
    if "doctor" in command:  # it tells of this machine
        printed, shown = samples.shape(printed), samples.shape(shown)
    assert printed == shown, f"{page.name}: make samples ARGS={command!r}"


def test_no_page_shows_output_that_nobody_made() -> None:
    """A command after a prompt stands only in a sample."""
    for page in samples.pages():
        outside = re.sub(r"<!-- output: .*?<!-- end -->", "", page.read_text(encoding="utf-8"), flags=re.S)
        assert not re.search(r"^\$ llmtrace", outside, re.M), page


def test_a_sample_that_is_out_of_date_is_seen() -> None:
    assert samples.shape("$ a\nopenai 3.54.0,\nfine") == samples.shape("$ a\nopenai 3.57.0, fine")
    assert samples.shape("openai 3.54.0: fine") != samples.shape("anthropic 3.54.0: fine")
