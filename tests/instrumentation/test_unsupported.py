"""A client in a version that is not supported: its program runs on without a word; ``llmtrace doctor`` tells it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmtrace.providers import CLIENTS

ROOT = Path(__file__).parents[2]
OLD = "0.0.1"
IMPORTED = f"import importlib\nfor name in {[client.package for client in CLIENTS]!r}: importlib.import_module(name)"


@pytest.fixture
def outdated(tmp_path: Path) -> Path:
    """A folder with every client as pip would have left it, in a version that is older than any that is supported.

    The packages are empty: what is looked at is the version, before anything of theirs is touched.
    """
    for client in CLIENTS:
        package = tmp_path.joinpath(*client.package.split("."))
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        info = tmp_path / f"{client.distribution.replace('-', '_')}-{OLD}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {client.distribution}\nVersion: {OLD}\n")
    return tmp_path


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LLMTRACE_"))}
    told = {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "PYTHONUTF8": "1", "OTEL_TRACES_EXPORTER": "none"}
    told |= {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none", "COLUMNS": "80", "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=kept | told, timeout=120, check=False)


def test_nothing_is_written_to_a_programs_stderr(outdated: Path) -> None:
    code = f"import llmtrace; llmtrace.instrument()\n{IMPORTED}"
    result = run(outdated, sys.executable, "-c", code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_nor_under_the_launcher(outdated: Path) -> None:
    launcher = Path(sys.executable).parent / "opentelemetry-instrument"
    if not launcher.exists():
        pytest.skip("opentelemetry-instrument is not installed")
    result = run(outdated, str(launcher), sys.executable, "-c", IMPORTED)
    assert result.returncode == 0
    assert "llmtrace" not in result.stderr


def test_the_log_has_it_for_those_who_look(outdated: Path) -> None:
    code = f"import logging, llmtrace; logging.basicConfig(level='DEBUG'); llmtrace.instrument()\n{IMPORTED}"
    result = run(outdated, sys.executable, "-c", code)
    for client in CLIENTS:
        assert f"DEBUG:llmtrace:{client.name} is not traced: " in result.stderr


def test_doctor_tells_each(outdated: Path) -> None:
    result = run(outdated, sys.executable, "-m", "llmtrace.cli", "doctor")
    told = " ".join(result.stdout.split())
    for client in CLIENTS:
        supported = client.versions.replace(" ", "")
        assert f"{client.name} {client.distribution} {OLD} is not supported (needs {supported})" in told
        assert f'pip install "{client.distribution}{supported}"' in told
