"""The model that answers under the demo's name once another server has taken the address over: twelve times as deep."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from llmtrace.errors import LlmtraceError
from llmtrace.reference.tiny import TinySpec, build_tiny, cache_root

_LAYERS = 48


def folder() -> Path:
    """Where the model lies, in the folder of built models."""
    return cache_root() / f"llmtrace-demo-{_LAYERS}-layers"


def build() -> None:
    """Write the model. It is not fitted to any text: only its pace is looked at."""
    try:
        build_tiny(folder(), spec=TinySpec(layers=_LAYERS, frozen_layers=_LAYERS - 1, steps=1))
    except LlmtraceError as error:
        sys.exit(f"llmtrace: {error}")


def start_building() -> subprocess.Popen[bytes] | None:
    """Build it beside this process, which then need not import torch; None where it is there already."""
    if folder().is_dir():
        return None
    # In a session of its own: Ctrl-C is this process's affair, which ends the other one.
    return subprocess.Popen([sys.executable, "-c", f"from {__name__} import build; build()"], start_new_session=True)
