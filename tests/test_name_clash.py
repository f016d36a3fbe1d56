"""The other package called ``llmtrace``, installed before or after this one, and what ``llmtrace doctor`` says then."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import llmtrace
from llmtrace import name_clash
from llmtrace.version import DISTRIBUTION

ROOT = Path(__file__).parent.parent
PACKAGE = Path(llmtrace.__file__).parent
THEIR_SCRIPT = "from llmtrace.cli.cli import cli; cli()"
"""What the command of the other package, 0.1.4, does."""
OUR_SCRIPT = "from llmtrace.cli import main; main()"


def metadata(folder: Path, name: str, version: str, **files: str) -> None:
    """What pip leaves of a package that it has installed into ``folder``."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for file, content in files.items():
        (info / file.replace("_json", ".json")).write_text(content)


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """A folder into which both packages were installed, ours last: its files are all ours, and some more."""
    (tmp_path / "llmtrace").mkdir()
    for file in PACKAGE.iterdir():
        if file.name != "__pycache__":
            (tmp_path / "llmtrace" / file.name).symlink_to(file)
    (tmp_path / "llmtrace" / "cli").mkdir()
    (tmp_path / "llmtrace" / "cli" / "cli.py").write_text("raise AssertionError('the module cli.py comes before it')")
    metadata(tmp_path, "llmtrace", "0.1.4")
    metadata(tmp_path, DISTRIBUTION, "0.1.0", direct_url_json=json.dumps({"url": "file:///src/here", "dir_info": {}}))
    return tmp_path


def overwrite(folder: Path) -> None:
    """Install the other package last."""
    (folder / "llmtrace" / "__init__.py").unlink()
    (folder / "llmtrace" / "__init__.py").write_text("def init(): ...\n")


def run(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LLMTRACE_"))}
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv[0] = 'llmtrace'; {script}", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**kept, "COLUMNS": "80", "NO_COLOR": "1", "PYTHONUTF8": "1", "PYTHONPATH": str(folder)},
        timeout=400,
        check=False,
    )


MEND = f'pip uninstall -y llmtrace && pip install --force-reinstall --no-deps "{DISTRIBUTION} @ file:///src/here"'


def test_the_other_package_beside_ours_is_told_with_what_mends_it(both: Path) -> None:
    result = run(both, OUR_SCRIPT, "doctor", "--all")
    assert result.returncode == 0, result.stderr
    assert re.search(rf"! llmtrace +0\.1\.4, another package, is installed beside {DISTRIBUTION}", result.stdout)
    assert re.search(rf"✓ {DISTRIBUTION} +0\.1\.0", result.stdout)
    assert MEND in result.stdout


def test_the_other_package_over_ours_is_told_though_the_command_is_its_own(both: Path) -> None:
    overwrite(both)
    result = run(both, THEIR_SCRIPT, "doctor")
    assert result.returncode == 1, result.stderr
    assert re.search(r"✗ llmtrace +import llmtrace gives llmtrace 0\.1\.4, which is not this one", result.stdout)
    assert MEND in result.stdout
    assert "Tracing is not possible here" in result.stdout


@pytest.mark.parametrize("script", [THEIR_SCRIPT, OUR_SCRIPT])
def test_any_other_command_says_only_that(both: Path, script: str) -> None:
    overwrite(both)
    result = run(both, script, "demo")
    assert result.returncode == 1
    assert result.stderr == f"llmtrace: another package called llmtrace has overwritten this one: {MEND}\n"


@pytest.mark.parametrize(
    ("noted", "expected"),
    [
        ({}, DISTRIBUTION),
        ({"url": "file:///src/here", "dir_info": {"editable": True}}, '--editable "file:///src/here"'),
        ({"url": "https://host/x.whl", "archive_info": {}}, f'"{DISTRIBUTION} @ https://host/x.whl"'),
        (
            {"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            f'"{DISTRIBUTION} @ git+https://host/x.git@abc"',
        ),
        ({"url": "https://user:SECRET@host/x.whl", "archive_info": {}}, DISTRIBUTION),
        ("not an object", DISTRIBUTION),
    ],
)
def test_ours_is_installed_again_from_where_it_came(
    noted: Any, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = "{" if isinstance(noted, str) else json.dumps(noted)
    metadata(tmp_path, DISTRIBUTION, "9.9", direct_url_json=note)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert name_clash.mend().endswith(f"--no-deps {expected}")


# ---- What pages, hints and files tell people to install --------------------------------------------------------------


def files() -> list[Path]:
    """The checkout's own text files."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:  # no checkout: an unpacked archive
        names = [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in str(path)]
    else:
        names = [ROOT / name for name in listed.stdout.splitlines()]
    return [path for path in names if path.is_file() and path.suffix not in (".png", ".svg", ".safetensors")]


OLD_NAME = re.compile(
    r"""\b(?:pip3?|pipx|uv|poetry|conda)\b[^\n]*?\b(?:install|add|tool|run)\b[^\n#]*?[ "'=]llmtrace(?![\w./-])"""
)
OLD_EXTRA = re.compile(r"""(?<![\w.-])llmtrace\[[a-z{]""")


def test_no_file_tells_to_install_somebody_elses_package() -> None:
    wrong: list[str] = []
    for path in files():
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), 1):
            if OLD_EXTRA.search(line) or (OLD_NAME.search(line) and not warned(line)):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert wrong == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("pip install llmtrace", True),
        ("pip install 'llmtrace' openai", True),
        ('python -m pip install --upgrade "llmtrace==0.1.0"', True),
        ("uv add llmtrace", True),
        ("pip install llmtrace-phases", False),
        ("pip install ./llmtrace", False),
        ("pip install -q duckdb  # for llmtrace view", False),
    ],
)
def test_what_counts_as_such_a_line(line: str, wrong: bool) -> None:
    assert (OLD_NAME.search(line) is not None) is wrong


def warned(line: str) -> bool:
    """Whether a line names the other package in order to warn of it, or to be rid of it."""
    return "somebody else's" in line or "uninstall" in line
