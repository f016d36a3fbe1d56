"""How many files a process may hold open: a thousand streams are a thousand sockets."""

from __future__ import annotations

import contextlib
import resource


def allow_files(wanted: int) -> None:
    """Let the process open so many files, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
