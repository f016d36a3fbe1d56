"""What else runs on the machine while something is measured: where that is much, the figures are not to be trusted.

The load average tells of before; during a run Linux counts how busy all processors were, of which this process had
its part. Elsewhere only the load average is known, and on Windows neither.
"""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic
from typing import Any, Final

_MOST_LOAD: Final = 0.5
"""Processes for each core that were ready to run before: half as many make every other row wait."""
_MOST_SHARE: Final = 0.1
"""The share of the cores' time that others had: a tenth is more than what the rows are compared for."""
_SHORTEST_S: Final = 0.5
"""A tick of the kernel's is a hundredth of a second: of a shorter run no share is known."""
_BUSY: Final = (0, 1, 2, 5, 6, 7)
"""user, nice, system, irq, softirq and steal in the kernel's line of all processors; a guest's time is in user."""


class OtherLoad:
    """What others do from now on."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        """``stat``: where the kernel counts."""
        self._stat = stat
        self._cores = os.cpu_count() or 1
        self._load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._before, self._own, self._at = busy_seconds(stat), _own_seconds(), monotonic()

    def into(self, results: dict[str, Any]) -> None:
        """Write what was seen until now into a run's ``results``, with a ``warning`` where it was too much."""
        share = None
        after, took = busy_seconds(self._stat), monotonic() - self._at
        if self._before is not None and after is not None and took >= _SHORTEST_S:
            others = after - self._before - (_own_seconds() - self._own)
            share = min(1.0, max(0.0, others / (took * self._cores)))
        results["machine"] = {
            "cores": self._cores,
            "load_before": None if self._load is None else round(self._load, 2),
            "others_busy_share": None if share is None else round(share, 4),
        }
        results.pop("warning", None)
        if (told := warning(self._load, share, self._cores)) is not None:
            results["warning"] = told


def warning(load: float | None, share: float | None, cores: int) -> str | None:
    """Why figures are not to be trusted; None where they are. ``share``: of the cores' time, what others had."""
    seen: list[str] = []
    if load is not None and load > _MOST_LOAD * cores:
        seen.append(f"the load average before was {load:.1f} on {cores} cores")
    if share is not None and share > _MOST_SHARE:
        seen.append(f"other programs had {share:.0%} of the processors' time meanwhile")
    return f"the machine was not idle, so do not trust these figures: {', and '.join(seen)}" if seen else None


def busy_seconds(stat: Path) -> float | None:
    """How long all processors together have worked since the start; None where the kernel does not tell."""
    try:
        name, *ticks = stat.read_text().partition("\n")[0].split()
        counted = [int(each) for each in ticks]
        return sum(counted[at] for at in _BUSY) / os.sysconf("SC_CLK_TCK") if name == "cpu" else None
    except (OSError, ValueError, IndexError):
        return None


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
