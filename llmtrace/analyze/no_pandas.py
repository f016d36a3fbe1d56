"""Keeps pandas out of a process of our own.

pyarrow imports it to ask whether a list is one of its columns, DuckDB to ask the same of a parameter: that takes half
a second. Both do without it where it is not installed.
"""

from __future__ import annotations

import sys
from typing import Any


class _Absent:
    """Finds no pandas, wherever it lies."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def keep_out() -> None:
    """From now on ``import pandas`` fails in this process. Never for a process in which a user's code runs."""
    sys.meta_path.insert(0, _Absent())
