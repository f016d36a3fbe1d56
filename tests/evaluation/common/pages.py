"""Writing a section of a page between its markers; everything around it stays as people wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class NoSection(Exception):
    """A page has lost the markers of a section."""


def markers(name: str) -> tuple[str, str]:
    """The comments that a section of this name lies between."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def write_section(page: Path, name: str, lines: Sequence[str]) -> None:
    """Put ``lines`` in the place of the section's earlier ones.

    Raises:
        NoSection: the page has no such section.
    """
    before, _, after = _parts(page, name)
    begin, end = markers(name)
    text = "\n".join(lines).strip("\n")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def read_section(page: Path, name: str) -> str:
    """The section's text.

    Raises:
        NoSection: the page has no such section.
    """
    return _parts(page, name)[1].strip("\n")


def _parts(page: Path, name: str) -> tuple[str, str, str]:
    begin, end = markers(name)
    before, opened, rest = page.read_text(encoding="utf-8").partition(begin)
    inside, closed, after = rest.partition(end)
    if not (opened and closed):
        raise NoSection(f"{page} has lost its markers {begin} and {end}")
    return before, inside, after
