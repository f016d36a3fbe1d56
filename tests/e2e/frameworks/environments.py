"""One virtual environment for each framework, beside those of the engines."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.frameworks.table import FRAMEWORKS, Framework
from tests.e2e.servers import ROOT, VENVS


def prepare(framework: Framework) -> Path:
    """The interpreter of the framework's environment, which is made where it is not there yet."""
    name = framework.environment or framework.name
    packages = next(each.packages for each in FRAMEWORKS if each.name == name)
    folder = VENVS / f"framework-{name}"
    python, stamp = folder / "bin" / "python", folder / ".installed"
    wanted = hashlib.sha256("\n".join([str(ROOT), *packages]).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"installing {', '.join(packages)}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet"]
    if uv := shutil.which("uv"):  # as nox does it; ten times as fast
        install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    subprocess.run([*install, "--editable", f"{ROOT}[otlp]", *packages], check=True)
    stamp.write_text(wanted)
    return python


def versions(python: Path, distributions: Sequence[str]) -> dict[str, str]:
    """The installed version of each distribution."""
    script = (
        "import json, sys; from importlib.metadata import version;"
        "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    )
    shown = subprocess.run([str(python), "-c", script, *distributions], check=True, capture_output=True, text=True)
    return json.loads(shown.stdout)
