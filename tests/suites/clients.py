"""The clients whose own suites are run, each from its source distribution and in an environment of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".venvs" / "suites"
_NOT_TESTS = {"pyright", "mypy", "ruff", "ty", "nox", "pip-audit"}
"""What a client asks its developers to install and no test needs."""


@dataclass(frozen=True)
class Suite:
    """One client's suite."""

    package: str
    distribution: str
    heavy: tuple[str, ...] = ()
    """Extras that are left out."""
    beside: tuple[str, ...] = ()
    """What its tests import and its list of requirements does not name."""


SUITES = {
    "openai": Suite("openai", "openai"),
    "anthropic": Suite("anthropic", "anthropic"),
    "groq": Suite("groq", "groq"),
    "together": Suite("together", "together", heavy=("tinker",)),
    "cerebras": Suite("cerebras.cloud.sdk", "cerebras_cloud_sdk"),
    "fireworks": Suite("fireworks", "fireworks_ai", heavy=("training", "training-sdk")),
}


@dataclass(frozen=True)
class Ready:
    """A suite that can be run."""

    suite: Suite
    version: str
    source: Path
    python: Path


def prepare(name: str, version: str | None, say: Callable[[str], None]) -> Ready:
    """Fetch and install what the suite needs, unless that was done; ``version``: the newest if it is not given.

    Raises:
        SystemExit: it cannot be fetched or installed; says what pip said.
    """
    suite, home = SUITES[name], HOME / name
    source = _source(home, suite, version)
    if source is None:
        say(f"{name}: fetching the source distribution")
        wanted = suite.distribution + (f"=={version}" if version else "")
        _pip(Path(sys.executable), "download", "--no-deps", "--no-binary", suite.distribution, "-d", str(home), wanted)
        for archive in home.glob("*.tar.gz"):
            with tarfile.open(archive) as packed:
                packed.extractall(home, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
            archive.unlink()
        source = _source(home, suite, version)
        assert source is not None
    found = source.name.removeprefix(f"{suite.distribution}-")
    environment = home / f"env-{found}"
    python, ready = environment / "bin" / "python", environment / ".installed"
    if not ready.exists():
        say(f"{name} {found}: installing it and what its tests need")
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        _pip(python, "install", "--editable", str(ROOT), *_requirements(suite, source, found))
        ready.touch()
    return Ready(suite, found, source, python)


def _source(home: Path, suite: Suite, version: str | None) -> Path | None:
    found = [path for path in home.glob(f"{suite.distribution}-*") if path.is_dir()]
    if version is not None:
        found = [path for path in found if path.name == f"{suite.distribution}-{version}"]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _requirements(suite: Suite, source: Path, version: str) -> list[str]:
    """The client with its extras, and what its developers install to test it."""
    extras = re.findall(r"^Provides-Extra: (\S+)", (source / "PKG-INFO").read_text(), re.MULTILINE)
    chosen = ",".join(extra for extra in extras if extra not in suite.heavy)
    project: dict[str, Any] = tomllib.loads((source / "pyproject.toml").read_text())
    groups, rye = project.get("dependency-groups", {}), project.get("tool", {}).get("rye", {})
    wanted = groups.get("dev") or rye.get("dev-dependencies") or []
    tests = [each for each in wanted if re.split(r"[^\w-]", each)[0] not in _NOT_TESTS]
    return [f"{suite.distribution}[{chosen}]=={version}", *tests, *suite.beside]


def _pip(python: Path, *arguments: str) -> None:
    done = subprocess.run(
        [str(python), "-m", "pip", *arguments, "--quiet"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"pip {' '.join(arguments)} failed:\n{done.stderr.strip()}")
