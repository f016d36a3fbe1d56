"""What one row of ``make bench`` is asked, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from tests.evaluation.common.bars import Bar
from tests.evaluation.common.tables import Table
from tests.evaluation.overhead.subjects import BARE, CONTROL, ENVS, SUBJECTS, Subject


@dataclass
class Plan:
    """How a row is to be measured."""

    console: Console
    quick: bool
    seed: int
    usable: list[str] = field(default_factory=list[str])
    """The virtual environments that could be made."""
    only: set[str] | None = None
    """Subjects to measure beside the bare client; None: all of them."""
    seconds: float | None = None
    """Measuring time of a row over sockets; None: its own."""
    rounds: int | None = None
    """Rounds of a row that counts them; None: its own."""
    streams: tuple[int, ...] | None = None
    """Concurrent streams of the row that has them; None: its own."""
    so_far: Callable[[Outcome], None] = lambda outcome: None
    """Told by a row that takes long what it knows by now, so that it is not lost where the row is stopped."""

    def subjects(self, *wanted: str) -> list[Subject]:
        """The subjects among ``wanted`` (all where none is named) that can be measured and were asked for."""
        return [
            subject
            for subject in SUBJECTS
            if subject.env in self.usable
            and (not wanted or subject.name in wanted)
            and (self.only is None or subject.name in self.only | {BARE, CONTROL})
        ]


@dataclass
class Outcome:
    """The figures of one row."""

    tables: list[Table]
    bars: list[Bar] = field(default_factory=list[Bar])
    remarks: list[str] = field(default_factory=list[str])
    """Sentences below the tables."""
    figures: dict[str, Any] = field(default_factory=dict[str, Any])
    """Everything measured, for the file of results."""
    left_out: dict[str, str] = field(default_factory=dict[str, str])
    """What could not be measured, and why."""


class NotMeasured(Exception):
    """A row cannot be measured here; the text says what is missing."""


@dataclass(frozen=True)
class Row:
    """One row: its name on the command line, what it tells, and how it is measured."""

    name: str
    what: str
    measure: Callable[[Plan], Outcome]
    envs: tuple[str, ...] = tuple(ENVS)
    """The virtual environments that it needs, if all of its subjects are wanted."""


FEWEST_ROUNDS = 5
"""Rounds below which a figure is no evidence."""
