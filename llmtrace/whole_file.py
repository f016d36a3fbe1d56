"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path, None, None]:
    """Where to write what becomes ``path`` when the block ends well: Ctrl-C or a full disk leaves the old file.

    It lies beside ``path``. What is no plain file (``/dev/stdout``), and a file in a folder that takes no new ones, is
    written in place.
    """
    target = Path(os.path.realpath(path))
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    if (target.exists() and not target.is_file()) or not os.access(target.parent, os.W_OK):
        yield path
        return
    try:
        yield beside
        os.replace(beside, target)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def write_text(path: Path, text: str, *, errors: str | None = None) -> None:
    """Write ``text`` as UTF-8, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as place:
        place.write_text(text, encoding="utf-8", errors=errors)
