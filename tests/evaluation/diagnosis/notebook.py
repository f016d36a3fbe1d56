"""The episodes on real servers as JSON lines, written as each one ends: nothing played is lost, and a run can go on.

Each call is kept as the diagnosis saw it, so that a wrong verdict can be looked at, and judged again by changed
detectors, without a server.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmtrace.calls.verdict import Diagnoser
from llmtrace.diagnosis.repetition import Repetition
from llmtrace.diagnosis.symptoms import Symptoms
from llmtrace.diagnosis.verdict import Verdict
from tests.evaluation.diagnosis.plain import happened
from tests.evaluation.diagnosis.plan import NOTHING
from tests.evaluation.diagnosis.trials import Trial


@dataclass
class Seen:
    """One call: whether something was wrong with it, what the diagnosis saw of it, and what it said."""

    faulty: bool
    symptoms: Symptoms
    verdicts: list[Verdict]


@dataclass
class Played:
    """One episode, with the calm calls in front of it."""

    session: int
    episode: int
    cause: str
    size: float
    where: str
    calls: list[Seen]

    def trial(self) -> Trial:
        """What was named. Where nothing was wrong all calls are calm ones; what is plain to see of those is no false
        alarm."""
        truth = () if self.cause == NOTHING else (self.cause,)
        trial = Trial(truth, where=self.where, size=self.size)
        for call in self.calls:
            faulty = call.faulty and bool(truth)
            counted = call.verdicts
            if not faulty:
                counted = [verdict for verdict in call.verdicts if not happened(verdict, call.symptoms)]
                trial.plain += len(call.verdicts) - len(counted)
            trial.note([(verdict.cause, verdict.confidence) for verdict in counted], faulty)
        return trial


@dataclass
class Notebook:
    """A file of one run."""

    path: Path
    settings: dict[str, Any]
    """What the run's plan is made from."""
    episodes: list[Played] = field(default_factory=list[Played])

    @classmethod
    def begin(cls, path: Path, settings: dict[str, Any]) -> Notebook:
        """An empty file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings) + "\n", encoding="utf-8")
        return cls(path, settings)

    @classmethod
    def read(cls, path: Path) -> Notebook:
        """What was played. A last line that was cut short is left out, and cut off."""
        packed = path.suffix == ".gz"
        text = gzip.decompress(path.read_bytes()).decode() if packed else path.read_text(encoding="utf-8")
        lines = text.splitlines(keepends=True)
        if not packed and lines and not lines[-1].endswith("\n"):
            lines.pop()
            path.write_text("".join(lines), encoding="utf-8")
        rows = [json.loads(line) for line in lines]
        return cls(path, rows[0], [_played(row) for row in rows[1:]])

    def add(self, played: Played) -> None:
        """Write one more episode."""
        self.episodes.append(played)
        calls = [[call.faulty, _changed(call.symptoms), [_changed(v) for v in call.verdicts]] for call in played.calls]
        row = {**vars(played), "calls": calls}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def done(self, session: int) -> int:
        """How many of a session's episodes have been played: the first ones."""
        return sum(played.session == session for played in self.episodes)


def judged_again(played: list[Played]) -> list[Played]:
    """The same calls with what today's detectors say of them; the estimates in them are those of the run."""
    diagnoser = Diagnoser()
    for episode in played:
        for call in episode.calls:
            call.verdicts = diagnoser.judge(episode.session, call.symptoms)
    return played


def _changed(facts: Symptoms | Verdict) -> dict[str, Any]:
    """The fields that are not as they are by default."""
    kind = type(facts)
    plain = asdict(kind(0, 0) if kind is Symptoms else Verdict("", 0.0, "", 0.0))
    return {name: value for name, value in asdict(facts).items() if value != plain[name]}


def _played(row: Mapping[str, Any]) -> Played:
    calls = [Seen(faulty, _symptoms(seen), [_verdict(each) for each in said]) for faulty, seen, said in row["calls"]]
    fields: dict[str, Any] = {**row, "calls": calls}
    return Played(**fields)


def _symptoms(row: dict[str, Any]) -> Symptoms:
    if row.get("repetition"):
        row["repetition"] = Repetition(**row["repetition"])
    fields: dict[str, Any] = {"begin": 0, "end": 0, **row}
    return Symptoms(**fields)


def _verdict(row: dict[str, Any]) -> Verdict:
    fields: dict[str, Any] = {"cause": "", "score": 0.0, "quantity": "", "observed": 0.0, **row}
    return Verdict(**fields)
