"""The page's files: those of ``assets/``, and two generated from Python's own tables, so that nothing stands twice."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from llmtrace.analyze.contract import OVERHEAD
from llmtrace.phases.model import PHASES
from llmtrace.view import palette

_MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is served."""

    body: bytes
    media_type: str


@lru_cache(maxsize=64)
def asset(name: str) -> Asset | None:
    """The page's file of that name, ``None`` if it has none. ``name`` is a plain file name, without folders."""
    file_name = re.fullmatch(r"[a-z][a-z0-9-]*\.(html|css|js|svg)", name)
    if file_name is None:
        return None
    body = _made(name)
    if body is None:
        path = files("llmtrace.view.serve").joinpath("assets").joinpath(name)
        if not path.is_file():
            return None
        body = path.read_bytes()
    return Asset(body, _MEDIA_TYPES[file_name[1]])


def _made(name: str) -> bytes | None:
    if name == "palette.css":
        return palette.css().encode()
    if name == "words.js":
        return _words().encode()
    return None


def _words() -> str:
    """A JavaScript module with the names, order and looks of phases, outcomes, and the meaning of each source."""
    parts = {
        "PHASES": PHASES,
        "LABELS": palette.LABELS,
        "CLASSES": palette.PHASE_CLASSES,
        "SOURCES": palette.SOURCES,
        "TONES": palette.TONES,
        "OTHER_TONE": palette.OTHER_TONE,
        "OVERHEAD": OVERHEAD,
    }
    return "".join(f"export const {name} = {json.dumps(value)};\n" for name, value in parts.items())
