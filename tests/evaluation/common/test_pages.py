"""Sections of pages, and the note that their figures are of another commit's code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.common import freshness, provenance
from tests.evaluation.common.pages import NoSection, read_section, write_section
from tests.evaluation.common.places import DOCS, ROOT

FIGURES = [ROOT / "README.md"]
FIGURES += [DOCS / f"{name}.md" for name in ("accuracy", "benchmarks", "diagnosis", "bench")]
FIGURES += [DOCS / f"{name}.md" for name in ("reports", "suites", "supported-versions", "view")]


def test_a_section_is_written_in_the_place_of_the_last_one(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- one:begin -->\nold\n<!-- one:end -->\nafter\n")
    write_section(page, "one", ["new", "", "er", ""])
    write_section(page, "one", ["new", "", "er", ""])
    assert page.read_text() == "before\n<!-- one:begin -->\nnew\n\ner\n<!-- one:end -->\nafter\n"
    assert read_section(page, "one") == "new\n\ner"


def test_a_page_without_the_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- one:begin -->\nold\n")
    with pytest.raises(NoSection):
        write_section(page, "one", ["new"])
    assert page.read_text() == "<!-- one:begin -->\nold\n"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with the one folder that figures called \"reference\" depend on."""
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "server.py").write_text("SLOTS = 2\n")
    return tmp_path


def page_of(package: Path, commit: str = "abc1234") -> str:
    digest = freshness.code_hash("reference", package)
    return f"# Page\n\n<!-- figures: reference commit={commit} code={digest} -->\n-\n\n| what | figure |\n"


def test_figures_of_the_code_as_it_is_only_say_their_commit(package: Path) -> None:
    assert "*Measured at commit `abc1234`.*\n" in freshness.renewed(page_of(package), package)


def test_figures_say_by_themselves_that_the_code_has_changed(package: Path) -> None:
    page = freshness.renewed(page_of(package), package)
    (package / "reference" / "server.py").write_text("SLOTS = 3\n")
    changed = freshness.renewed(page, package)
    assert "*Measured at commit `abc1234`; the code has changed since.*\n" in changed
    assert freshness.renewed(changed, package) == changed, "said once, whatever changes after that"
    (package / "reference" / "server.py").write_text("SLOTS = 2\n")
    assert freshness.renewed(changed, package) == page


@pytest.mark.parametrize("change", ["added", "renamed", "removed"])
def test_files_that_come_or_go_are_changes(package: Path, change: str) -> None:
    before = freshness.code_hash("reference", package)
    server = package / "reference" / "server.py"
    if change == "added":
        (package / "reference" / "clock.py").write_text("")
    elif change == "renamed":
        server.rename(package / "reference" / "serving.py")
    else:
        server.unlink()
    assert freshness.code_hash("reference", package) != before


def test_what_figures_do_not_depend_on_is_no_change(package: Path) -> None:
    before = freshness.code_hash("reference", package)
    (package / "view").mkdir()
    (package / "view" / "page.py").write_text("x = 1\n")
    (package / "reference" / "server.py").write_bytes(b"SLOTS = 2\r\n")
    assert freshness.code_hash("reference", package) == before


def test_figures_copied_by_hand_are_declared_as_taken_now(package: Path) -> None:
    page = freshness.renewed(page_of(package, "fffffff"), package)
    (package / "reference" / "server.py").write_text("SLOTS = 3\n")
    declared = freshness.measured(page, package)
    assert freshness.renewed(declared, package) == declared
    assert "changed since" not in declared


@pytest.mark.parametrize(
    ("commit", "words"),
    [
        ("abc1234", "*Measured at commit `abc1234`.*"),
        ("abc1234" + provenance.CHANGED, "*Measured at commit `abc1234`, with changes on top of it.*"),
        (provenance.UNKNOWN, "*Measured at a commit that is not recorded.*"),
    ],
)
def test_what_readers_see(commit: str, words: str) -> None:
    assert freshness.note(commit, changed=False) == words


@pytest.mark.parametrize("page", FIGURES, ids=lambda page: page.stem)
def test_every_page_of_figures_says_on_which_code_they_were_taken(page: Path) -> None:
    """``make figures`` renews a note that is not true any more."""
    text = page.read_text(encoding="utf-8")
    assert freshness.stamps(text)
    assert freshness.renewed(text) == text


def test_code_that_figures_depend_on_is_there() -> None:
    for folders in freshness.CODE.values():
        for folder in folders:
            assert list((ROOT / "llmtrace" / folder).rglob("*.py")), folder
