"""The run on real servers: what is planned, and that nothing played is lost."""

from __future__ import annotations

import json
import random
from pathlib import Path

from llmtrace.diagnosis.repetition import Repetition
from llmtrace.diagnosis.symptoms import Symptoms
from llmtrace.diagnosis.verdict import CAUSES, NOISY_NEIGHBOR, QUEUEING, Verdict
from tests.evaluation.diagnosis.notebook import Notebook, Played, Seen, judged_again
from tests.evaluation.diagnosis.plan import NOTHING, VLLM, sessions


def played(session: int, episode: int, cause: str = QUEUEING) -> Played:
    calls = [Seen(False, Symptoms(1, 2, wait=0.2, input_tokens=300, tokens=20), [])]
    verdict = Verdict(QUEUEING, 1.5, "queue", 0.6, 0.1, 0.5, confidence=0.8)
    calls.append(Seen(True, Symptoms(3, 4, wait=0.7, repetition=Repetition(5, 4.0)), [verdict]))
    return Played(session, episode, cause, 1.5, "somewhere", calls)


def test_a_round_is_forty_episodes_of_every_cause() -> None:
    plan = sessions(random.Random(1), 1, vllm=True)
    episodes = [episode for session in plan for episode in session.episodes]
    assert len(episodes) >= 40
    assert {episode.cause for episode in episodes} >= {*CAUSES, NOTHING} - {"model_swap", "route_change"}
    assert sum(0 < episode.size <= 1.5 for episode in episodes) >= 6
    assert any(session.server == VLLM for session in plan)
    assert sessions(random.Random(1), 1, vllm=True) == plan
    assert not any(session.server == VLLM for session in sessions(random.Random(1), 1, vllm=False))


def test_what_was_played_is_read_back_as_it_was(tmp_path: Path) -> None:
    notebook = Notebook.begin(tmp_path / "made" / "episodes.jsonl", {"seed": 3})
    notebook.add(played(0, 0))
    notebook.add(played(0, 1))
    with notebook.path.open("a") as file:
        file.write(json.dumps({"session": 1})[:-4])  # the process was killed in the middle of a line
    again = Notebook.read(notebook.path)
    assert again.settings == {"seed": 3}
    assert [each.trial() for each in again.episodes] == [each.trial() for each in notebook.episodes]
    assert again.episodes[0].calls[1].verdicts == notebook.episodes[0].calls[1].verdicts
    assert again.episodes[0].calls[1].symptoms.repetition == Repetition(5, 4.0)
    assert (again.done(0), again.done(1)) == (2, 0)
    again.add(played(1, 0))
    assert len(Notebook.read(notebook.path).episodes) == 3


def test_a_trial_counts_what_was_named_where_nothing_was_wrong_as_false() -> None:
    wrong, nothing = played(0, 0).trial(), played(0, 1, NOTHING).trial()
    assert (wrong.right, wrong.calls, wrong.calm_calls) == (True, 1, 1)
    assert (nothing.calls, nothing.calm_calls, nothing.false_alarms[QUEUEING]) == (0, 2, 1)


def test_calls_can_be_judged_again() -> None:
    (episode,) = judged_again([played(0, 0)])
    assert episode.calls[1].verdicts[0].cause == "repetition_loop", "today's detectors say this of what was seen"


def test_tokens_that_really_came_slower_are_no_false_alarm() -> None:
    verdict = Verdict(NOISY_NEIGHBOR, 1.1, "time_per_token", 0.012, 0.008, 0.1, confidence=0.6)
    slower, late = Symptoms(1, 2, gap=0.011), Symptoms(3, 4, gap=0.0002)
    trial = Played(0, 0, NOTHING, 0.0, "here", [Seen(False, each, [verdict]) for each in (slower, late)]).trial()
    assert (trial.plain, trial.false_alarms[NOISY_NEIGHBOR]) == (1, 1), "of the second the client read late"
