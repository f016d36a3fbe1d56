"""What ``web/README.md`` promises of the package: small, nothing to build, no dependency."""

from __future__ import annotations

import json
import re
from pathlib import Path

WEB = Path(__file__).parents[2] / "web"
SOURCES = sorted((WEB / "src").iterdir())
NO_CODE = re.compile(r"\s*(//|/?\*|$)")


def test_it_is_as_small_as_it_says() -> None:
    lines = [line for file in SOURCES for line in file.read_text().splitlines()]
    code = sum(not NO_CODE.match(line) for line in lines)
    assert code < 400
    told = re.search(r"(\d+) lines of code in all\s+\((\d+) with comments", (WEB / "README.md").read_text())
    assert told is not None
    assert (int(told[1]), int(told[2])) == (code, len(lines))
    assert max(map(len, lines)) <= 120


def test_it_runs_as_it_lies_there() -> None:
    package = json.loads((WEB / "package.json").read_text())
    assert not {"dependencies", "peerDependencies", "scripts"} & set(package)
    assert all((WEB / file).is_file() for file in package["exports"].values())
    imported = [name for file in SOURCES for name in re.findall(r'\bfrom "(.+?)"|\bimport\("(.+?)"', file.read_text())]
    assert {Path(name[0] or name[1]).name for name in imported} <= {file.name for file in SOURCES}
    assert all((name[0] or name[1]).startswith("./") for name in imported)
