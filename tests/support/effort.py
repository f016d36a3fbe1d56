"""How much the suite draws at random: once for each kind of case by default, more with ``LLMTRACE_EFFORT=3 make test``.

Whatever is drawn comes from fixed seeds or from hypothesis, so that a seed more is another example of the same case.
"""

from __future__ import annotations

import os
from typing import Final

EFFORT: Final = int(os.environ.get("LLMTRACE_EFFORT", "1"))


def seeds(most: int) -> range:
    """The seeds of a simulated case: one, or up to ``most``."""
    return range(min(EFFORT, most))


def examples(number: int) -> int:
    """The number of hypothesis's examples, where ``number`` are enough by default."""
    return number * EFFORT
