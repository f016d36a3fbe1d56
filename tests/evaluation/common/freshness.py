"""A page of figures says on which commit they were taken, and whether the code has changed since.

Above the figures stands a comment that names the code they depend on, the commit and a hash of that code as it was
then; the line below the comment is the note that readers see. ``make figures`` writes the notes anew, ``make check``
fails where one is not true any more. Figures that were copied by hand get a new comment by
``make figures ARGS="--measured docs/view.md"``.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.evaluation.common import provenance
from tests.evaluation.common.places import DOCS, PACKAGE, ROOT

TRACING = ("observe", "phases", "estimate", "diagnosis", "providers", "emit", "tasks", "calls", "instrumentation")
CODE: dict[str, tuple[str, ...]] = {
    "tracing": TRACING,
    "phases": ("observe", "phases", "estimate", "providers", "calls", "instrumentation", "reference"),
    "diagnosis": ("observe", "phases", "estimate", "diagnosis", "providers", "calls", "instrumentation", "reference"),
    "ends": ("observe", "calls", "instrumentation"),
    "probe": ("probe", "reference"),
    "reference": ("reference",),
    "viewer": ("view", "analyze"),
    "reports": ("analyze",),
    "breakeven": ("analyze/breakeven", "reference"),
    "everything": (*TRACING, "reference", "analyze"),
}
"""What figures can depend on: folders of the package by the name that a page's comment has for them."""

_STAMP = re.compile(r"^(<!-- figures: (\w+) commit=(\S+) code=(\S+) -->)\n([^\n]*)$", re.MULTILINE)
_HASH_DIGITS = 12


def code_hash(code: str, package: Path = PACKAGE) -> str:
    """A hash of the source files in the folders that ``code`` names, the same on every system.

    Raises:
        KeyError: there is no such name in ``CODE``.
    """
    digest = hashlib.sha256()
    for folder in sorted(CODE[code]):
        for path in sorted((package / folder).rglob("*.py"), key=lambda path: path.relative_to(package).as_posix()):
            digest.update(path.relative_to(package).as_posix().encode() + b"\0")
            digest.update(path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()[:_HASH_DIGITS]


def stamp(code: str, commit: str | None = None, digest: str | None = None) -> list[str]:
    """The comment and the note above figures that were taken just now, or on that commit with that hash."""
    commit, now = commit or provenance.commit(), code_hash(code)
    digest = digest or now
    return [_comment(code, commit, digest), note(commit, changed=digest != now), ""]


def note(commit: str, *, changed: bool) -> str:
    """What readers see."""
    name = commit.removesuffix(provenance.CHANGED)
    with_changes = ", with changes on top of it" if commit != name else ""
    at = "at a commit that is not recorded" if name == provenance.UNKNOWN else f"at commit `{name}`{with_changes}"
    return f"*Measured {at}; the code has changed since.*" if changed else f"*Measured {at}.*"


def _comment(code: str, commit: str, digest: str) -> str:
    return f"<!-- figures: {code} commit={commit} code={digest} -->"


def renewed(text: str, package: Path = PACKAGE) -> str:
    """A page's text with every note as it should be.

    Raises:
        KeyError: a comment names code that is not in ``CODE``.
    """

    def written(found: re.Match[str]) -> str:
        comment, code, commit, digest, _ = found.groups()
        return f"{comment}\n{note(commit, changed=digest != code_hash(code, package))}"

    return _STAMP.sub(written, text)


def measured(text: str, package: Path = PACKAGE) -> str:
    """A page's text with its figures declared as taken just now."""
    commit = provenance.commit()

    def written(found: re.Match[str]) -> str:
        return f"{_comment(found[2], commit, code_hash(found[2], package))}\n{note(commit, changed=False)}"

    return _STAMP.sub(written, text)


def stamps(text: str) -> list[str]:
    """The names of the code that the figures on a page depend on."""
    return [found[2] for found in _STAMP.finditer(text)]


def pages() -> Iterator[Path]:
    """Every page that could hold figures."""
    yield from sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


def outdated() -> list[Path]:
    """The pages with a note that is not true any more."""
    return [page for page in pages() if renewed(text := page.read_text(encoding="utf-8")) != text]


def main() -> int:
    """Renew the notes, or check them."""
    parser = argparse.ArgumentParser(prog="make figures", description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a note is not true any more")
    parser.add_argument("--measured", type=Path, metavar="PAGE", help="this page's figures were taken just now")
    asked = parser.parse_args()
    if asked.check:
        wrong = outdated()
        for page in wrong:
            print(f"{page.relative_to(ROOT)}: a note under its figures is not true any more; `make figures` renews it")
        return int(bool(wrong))
    for page in [asked.measured.resolve()] if asked.measured else pages():
        before = page.read_text(encoding="utf-8")
        after = measured(before) if asked.measured else renewed(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"{page.relative_to(ROOT)}: renewed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
