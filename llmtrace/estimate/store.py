"""What the baselines learned, in a file: short-lived processes share it, several at once lose nothing of it.

The file holds each route's last calls as numbers (tokens and seconds, nothing of what was said). A process that saves
takes the lock beside the file, reads what is there, adds the calls that it has seen since it last saved, and puts the
whole in the file's place in one step.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from llmtrace.observe import internal_errors

_log = logging.getLogger("llmtrace")
VERSION = 2
_PLAIN = 9
"""Numbers in a row of version 1, which knew streams and their first tokens only."""
_OLD_S = 7 * 86400.0
"""Routes not used for so long are left out: their hardware may be another by now."""
_LOCK_TRIES = 200
_LOCK_WAIT_S = 0.01

Key = tuple[str | int | None, ...]


@dataclass(slots=True, eq=False, repr=False)
class Saved:
    """One route in the file."""

    used: float
    """Epoch s."""
    rows: list[list[float]] = field(default_factory=list[list[float]])
    """The route's last calls, oldest first."""
    limit: int | None = None
    """Calls that the engine runs at once, 0: none shows any more; None: not told."""
    survival: list[float] = field(default_factory=list[float])
    """How often cached prefixes were there and were looked for, by idle time; empty: not told."""
    block: int = 0
    """The step in which cached tokens are counted, 0: not known."""
    calm: list[list[float]] = field(default_factory=list[list[float]])
    """Earlier calls that did not wait, beside the last ones: the curve and its spread rest on them too."""
    graded: list[float] = field(default_factory=list[float])
    """How far off the estimate was where the engine told its queue, in sides of its interval."""


def load(path: Path, columns: int, counts: int) -> dict[Key, Saved]:
    """The routes in the file: none if there is no file, or it is not one of ours, or of another version.

    ``columns``: numbers in a row; rows of another length, or with what is no number in them, are left out.
    ``counts``: numbers of a route's survival, likewise.
    """
    try:
        whole: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        internal_errors.note_surroundings("reading the baselines' file", error)
        return {}
    except ValueError as error:
        internal_errors.note("reading the baselines' file", error)
        return {}
    if not isinstance(whole, dict) or not isinstance(whole.get("routes"), list):
        return {}
    version = whole.get("version")
    if version not in (1, VERSION):
        _log.warning(
            "The baselines' file %s is of version %s, and this llmtrace reads 1 and %d: it begins without it.",
            path, version, VERSION,
        )  # fmt: skip
        return {}
    routes: dict[Key, Saved] = {}
    oldest = time.time() - _OLD_S
    for entry in whole["routes"]:
        route, used, rows = (entry.get(name) if isinstance(entry, dict) else None for name in ("route", "used", "rows"))
        if not isinstance(route, list) or not isinstance(rows, list) or not isinstance(used, (int, float)):
            continue
        if used < oldest or not all(isinstance(part, (str, int, type(None))) for part in route):
            continue
        if version == 1:
            rows = [_upgraded(row, columns) for row in rows if _numbers(row, _PLAIN)]
        saved = routes[tuple(route)] = Saved(float(used), [row for row in rows if _numbers(row, columns)])
        limit, survival, block = (entry.get(name) for name in ("limit", "survival", "block"))
        saved.limit = limit if isinstance(limit, int) and 0 <= limit < 1 << 20 else None
        saved.survival = [max(0.0, float(cell)) for cell in survival] if _numbers(survival, counts) else []
        saved.block = block if isinstance(block, int) and 0 <= block < 1 << 20 else 0
        calm, graded = entry.get("calm"), entry.get("graded")
        if isinstance(calm, list):
            saved.calm = [row for row in calm if _numbers(row, columns)]
        if isinstance(graded, list) and _numbers(graded, len(graded)):
            saved.graded = [abs(float(cell)) for cell in graded]
    return routes


def _upgraded(row: list[float], columns: int) -> list[float]:
    """A row of version 1 as one of today: a stream whose class, moments and answer are not known."""
    return [*row[:4], 0.0, *row[5:], -1.0, -1.0, -1.0, *((0.0,) * (columns - _PLAIN - 3))]


def _numbers(row: Any, columns: int) -> TypeGuard[list[float]]:
    return (
        isinstance(row, list)
        and len(row) == columns
        and all(isinstance(cell, (int, float)) and math.isfinite(cell) for cell in row)
    )


def add(path: Path, news: Mapping[Key, Saved], columns: int, counts: int, window: int, most_routes: int) -> bool:
    """Add calls to the file. False where it could not be locked or written: the calls are still the caller's to save.

    ``news``: what each route has gained; ``window``: calls kept of each route; ``most_routes``: routes kept, the last
    used ones. Of counts the gains are told, so that processes at once lose nothing; a limit is the last one told.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path) as mine:
            if not mine:
                return False
            known = load(path, columns, counts)
            for route, gained in news.items():
                entry = known.setdefault(route, Saved(0.0))
                entry.used = time.time()
                entry.rows = [*entry.rows, *gained.rows][-window:]
                entry.limit = entry.limit if gained.limit is None else gained.limit
                if gained.survival:
                    before = entry.survival or [0.0] * counts
                    entry.survival = [max(0.0, a + b) for a, b in zip(before, gained.survival, strict=True)]
                entry.block = math.gcd(entry.block, gained.block)
                entry.calm = gained.calm or entry.calm
                entry.graded = gained.graded or entry.graded
            latest = sorted(known.items(), key=lambda item: item[1].used)[-most_routes:]
            routes = [{"route": list(route)} | asdict(entry) for route, entry in latest]
            _replace(path, json.dumps({"version": VERSION, "routes": routes}))
    except OSError as error:
        internal_errors.note_surroundings("saving the baselines", error)
        return False
    return True


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".new")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


@contextmanager
def _locked(path: Path) -> Generator[bool]:
    """Hold the lock file beside ``path``; gives False where another process has held it for two seconds."""
    with open(path.with_name(path.name + ".lock"), "a+b") as file:
        for _ in range(_LOCK_TRIES):
            if _take(file.fileno()):
                break
            time.sleep(_LOCK_WAIT_S)
        else:
            yield False
            return
        try:
            yield True
        finally:
            _give(file.fileno())


try:
    import fcntl

    def _take(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _give(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)

except ImportError:  # Windows
    import msvcrt

    locking: Any = getattr(msvcrt, "locking", None)

    def _take(handle: int) -> bool:
        os.lseek(handle, 0, os.SEEK_SET)
        try:
            locking(handle, getattr(msvcrt, "LK_NBLCK", 2), 1)
        except OSError:
            return False
        return True

    def _give(handle: int) -> None:
        os.lseek(handle, 0, os.SEEK_SET)
        locking(handle, getattr(msvcrt, "LK_UNLCK", 0), 1)
