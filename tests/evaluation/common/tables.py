"""A table of text, for the terminal and for Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@dataclass
class Table:
    """A title, a head and rows of text. The first column is aligned to the left, the others to the right."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self, level: int = 3) -> str:
        """The table under a heading of this level."""
        return f"{'#' * level} {self.title}\n\n{self.grid()}"

    def grid(self, text: bool = False) -> str:
        """The table alone, in Markdown. ``text``: its cells are words, and all aligned to the left."""
        lines = [self.head, ["---"] + ["---" if text else "---:"] * (len(self.head) - 1), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

    def csv(self) -> str:
        """The table as CSV, head first."""
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([self.head, *self.rows])
        return out.getvalue()

    def show(self, console: Console) -> None:
        """Print it."""
        from rich.table import Table as RichTable

        out = RichTable(title=self.title, title_justify="left", title_style="bold")
        for number, name in enumerate(self.head):
            out.add_column(name, justify="right" if number else "left", overflow="fold")
        for row in self.rows:
            out.add_row(*(cell.replace("**", "").replace("<br>", "\n") for cell in row))
        console.print(out)
