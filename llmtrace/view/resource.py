"""The files that pages are made from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files


def read(name: str) -> str:
    """A file of this package."""
    return files("llmtrace.view").joinpath(name).read_text(encoding="utf-8")


def fill(name: str, parts: Mapping[str, str]) -> str:
    """A page with each ``[[part]]`` in its place."""
    return re.sub(r"\[\[([a-z-]+)\]\]", lambda match: parts[match.group(1)], read(name))
