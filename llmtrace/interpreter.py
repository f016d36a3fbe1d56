"""This interpreter: which modules it finds, and how another process of ours finds the same ones."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec


def finds(module: str) -> bool:
    """Whether ``module`` is installed. It is not imported, only the packages around it are."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # of a package around it; of another finder, or of a module without a spec
        return False


def environ() -> dict[str, str]:
    """The environment for a process of ours: it imports from where this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
