"""The files that pages are made from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

from llmtrace.view import palette


def read(name: str) -> str:
    """The text of a file of this package."""
    return files("llmtrace.view").joinpath(name).read_text(encoding="utf-8")


def fill(name: str, parts: Mapping[str, str]) -> str:
    """A page with each ``[[part]]`` in its place."""
    return re.sub(r"\[\[([a-z-]+)\]\]", lambda match: parts[match.group(1)], read(name))


def head(title: str, script_hash: str = "") -> str:
    """The beginning of every page, up to its own rules: it may load nothing, and run one script at most.

    ``title`` is escaped already; ``script_hash`` is that script's hash, as a content security policy spells it.
    """
    script = f" script-src '{script_hash}';" if script_hash else ""
    return fill("head.html", {"title": title, "script": script, "palette": palette.css()})
