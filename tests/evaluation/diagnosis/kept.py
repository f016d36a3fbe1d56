"""Real calls that were kept, judged by today's detectors: confidence is fitted to them, too, and graded on them.

Three runs on a machine of two cores that computed the models, too, and ran the relay and the client: ``episodes``,
and two while other work had its cores as well. What was injected is known; what else happened on that machine is not.
So a verdict is right where its cause was injected, and one whose cause was not, but is plain to see (``happened``), is
neither right nor wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from llmtrace.diagnosis.route import PACE_SHARE
from llmtrace.diagnosis.symptoms import Symptoms
from llmtrace.diagnosis.verdict import BUFFERED_STREAM, COLD_KV_CACHE, NOISY_NEIGHBOR, Verdict
from tests.evaluation.diagnosis.notebook import Notebook, Played, judged_again
from tests.evaluation.diagnosis.plan import NOTHING
from tests.evaluation.diagnosis.population import Lately, Population

FOLDER = Path(__file__).parent / "kept"


def runs() -> dict[str, list[Played]]:
    """Each kept run's episodes, by its name, with what is named today."""
    return {
        path.name.partition(".")[0]: judged_again(Notebook.read(path).episodes)
        for path in sorted(FOLDER.glob("*.jsonl.gz"))
    }


def happened(verdict: Verdict, symptoms: Symptoms) -> bool:
    """Whether what ``verdict`` says is plain to see, though nobody injected it.

    The server itself counts the tokens that it did not find in its cache. And where the median gap between chunks is as
    much longer, the tokens were made slower, by an engine that did not get its cores: a client that reads late finds
    chunks that lie ready, which have no gap.
    """
    if verdict.cause == COLD_KV_CACHE:
        return symptoms.cached_tokens is not None
    if verdict.cause != NOISY_NEIGHBOR or symptoms.gap is None or not isinstance(verdict.expected, float):
        return False
    return symptoms.gap >= (1 + PACE_SHARE) * verdict.expected


def judged(played: Sequence[Played]) -> Population:
    """One run's verdicts, but those that are neither right nor wrong, and those on buffered streams where the call was
    kept without its TCP segments, by which they are told today."""
    made = Population([])
    lately: dict[int, Lately] = defaultdict(Lately)
    for episode in played:
        for call in episode.calls:
            truth = {episode.cause} if call.faulty and episode.cause != NOTHING else set[str]()
            made.faulty += bool(truth)
            made.calm += not truth
            rows = lately[episode.session].rows(call.verdicts, truth, not truth)
            made.rows += [
                row
                for row, verdict in zip(rows, call.verdicts, strict=True)
                if (row.right or not happened(verdict, call.symptoms))
                and (row.key != BUFFERED_STREAM or call.symptoms.segments is not None)
            ]
    made.weigh()
    return made


def pooled(*populations: Population) -> Population:
    """Several as one, each with as much weight as the first, however many calls it has."""
    first = populations[0].calm + populations[0].faulty
    made = Population([])
    for each in populations:
        made.calm += each.calm
        made.faulty += each.faulty
        for row in each.rows:
            row.weight *= first / (each.calm + each.faulty)
            made.rows.append(row)
    return made
