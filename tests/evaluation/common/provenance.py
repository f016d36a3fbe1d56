"""Where, when and on which code a figure was taken."""

from __future__ import annotations

import os
import platform
import secrets
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.evaluation.common.places import ROOT

CHANGED = "+"
"""Behind a commit's name: the package had changes that were not committed."""
UNKNOWN = "unknown"


def cpu_model() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit() -> str:
    """The short name of the commit that is checked out, with a ``+`` where the package differs from it."""
    name = _git("rev-parse", "--short=7", "HEAD")
    if not name:
        return UNKNOWN
    return name + (CHANGED if _git("status", "--porcelain", "--", "llmtrace") else "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def load_average() -> float | None:
    """How busy the machine is: processes that ran or waited for a core over the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def make_command(target: str, arguments: list[str] | None = None) -> str:
    """The make target with this process's arguments, as it is typed."""
    given = sys.argv[1:] if arguments is None else arguments
    return f"make {target}" + (f' ARGS="{shlex.join(given)}"' if given else "")


def new_seed(asked: int | None = None) -> int:
    """The seed that was asked for, else one drawn anew."""
    return secrets.randbelow(1_000_000) if asked is None else asked


def machine(command: str, started: float, load: float | None) -> dict[str, Any]:
    """Everything to know of a run that began at ``started`` (epoch s) on a machine with this load average."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(started)),
        "seconds": round(time.time() - started),
        "load_average_at_start": load,
        "command": command,
        "commit": commit(),
    }


def sentence(where: dict[str, Any], seed: int | None = None) -> str:
    """What ``machine`` found, in words."""
    with_seed = "" if seed is None else f", seed {seed}"
    return (
        f"Taken on {where['date']} with `{where['command']}` ({where['seconds']} s{with_seed}): {where['cpu']}, "
        f"{where['cores']} cores, Python {where['python']}; load average at the start "
        f"{where['load_average_at_start']}."
    )
