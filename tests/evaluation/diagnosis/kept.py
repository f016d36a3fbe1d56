"""Real calls that were kept, judged by today's detectors: confidence is fitted to them, too, and graded on them.

Runs on a machine of two cores that computed the models, too, and ran the relay and the client; during two of them
other work had its cores as well. What was injected is known; what else happened on that machine is not.
So a verdict is right where its cause was injected, and one whose cause was not, but is plain to see (``happened``), is
neither right nor wrong. Nor is one by which today's evidence was not kept: of TCP segments where chunks lay ready
together, or of the process's own wait for a core.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from llmtrace.diagnosis.symptoms import Symptoms
from llmtrace.diagnosis.verdict import BUFFERED_STREAM, LATENESS, NOISY_NEIGHBOR, SURE, Verdict
from tests.evaluation.diagnosis.notebook import Notebook, Played, judged_again
from tests.evaluation.diagnosis.plain import happened
from tests.evaluation.diagnosis.plan import NOTHING
from tests.evaluation.diagnosis.population import Constants, Lately, Population, fit, graded

FOLDER = Path(__file__).parent / "kept"
VERDICTS = FOLDER / "verdicts.txt"
"""What is named of each of these calls: a change of the detectors shows here, and one that should only be faster is the
same. ``python -m tests.evaluation.diagnosis.kept`` writes it anew."""


def runs() -> dict[str, list[Played]]:
    """Each kept run's episodes, by its name, with what is named today."""
    return {
        path.name.partition(".")[0]: judged_again(Notebook.read(path).episodes)
        for path in sorted(FOLDER.glob("*.jsonl.gz"))
    }


def judged(played: Iterable[Sequence[Played]]) -> Population:
    """The verdicts of some runs, but those that are neither right nor wrong."""
    made = Population([])
    for run in played:
        lately: dict[int, Lately] = defaultdict(Lately)
        for episode in run:
            for call in episode.calls:
                truth = {episode.cause} if call.faulty and episode.cause != NOTHING else set[str]()
                made.faulty += bool(truth)
                made.calm += not truth
                rows = lately[episode.session].rows(call.verdicts, truth, not truth)
                made.rows += [
                    row
                    for row, verdict in zip(rows, call.verdicts, strict=True)
                    if _counts(verdict, call.symptoms, truth)
                ]
    made.weigh()
    return made


def _counts(verdict: Verdict, symptoms: Symptoms, truth: set[str]) -> bool:
    if verdict.cause == BUFFERED_STREAM:
        return symptoms.segments is not None
    if verdict.cause in truth:
        return True
    if verdict.cause == NOISY_NEIGHBOR and symptoms.ready_together and symptoms.no_core is None:
        return False
    return not happened(verdict, symptoms)


def fitted(simulated: Population, real: Population) -> Constants:
    """The constants of confidence: simulated and real calls have the same weight, however many there are."""
    share = (simulated.calm + simulated.faulty) / max(1, real.calm + real.faulty)
    constants = fit(simulated.rows + [replace(row, weight=share * row.weight) for row in real.rows])
    return {**constants, LATENESS: SURE[LATENESS]}  # of which nothing can be learned where all that is late has waited


def held_out(simulated: Population) -> dict[str, Population]:
    """Each kept run's verdicts, with the confidence that they would have had by constants that were fitted to simulated
    calls and to the other runs."""
    played = runs()
    made: dict[str, Population] = {}
    for name, mine in played.items():
        others = judged(run for other, run in played.items() if other != name)
        made[name] = graded(judged([mine]), fitted(simulated, others))
    return made


def named() -> list[str]:
    """What is named of the kept calls, a line for each verdict: run, session, episode and call, and the evidence."""
    return [
        f"{name} {episode.session}.{episode.episode}.{number} {verdict.cause} {verdict.quantity} {verdict.score:.2f}"
        for name, played in runs().items()
        for episode in played
        for number, call in enumerate(episode.calls)
        for verdict in call.verdicts
    ]


if __name__ == "__main__":
    VERDICTS.write_text("\n".join(named()) + "\n", encoding="utf-8")
