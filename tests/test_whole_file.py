"""A file is written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmtrace.whole_file import replacing, write_text


def test_who_breaks_off_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_text(page, "old")
    with pytest.raises(KeyboardInterrupt), replacing(page) as place:
        place.write_text("ne")
        raise KeyboardInterrupt
    assert page.read_text() == "old"
    write_text(page, "new")
    assert os.listdir(tmp_path) == ["page.html"]
    assert page.read_text() == "new"


@pytest.mark.skipif(os.name != "posix", reason="links and devices")
def test_a_link_stays_one_and_a_device_is_written_in_place(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    write_text(link, "text")
    assert link.is_symlink()
    assert (tmp_path / "real").read_text() == "text"
    write_text(Path("/dev/null"), "text")
    assert not Path("/dev/null").is_file()


def test_a_folder_that_is_not_there_is_an_error_of_the_file_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "none" / "page", "text")
