"""The result of a call: what was seen of it, its phases, its verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmtrace.calls.state import CallState
from llmtrace.diagnosis.verdict import Verdict
from llmtrace.estimate.hits import NOTHING_TOLD, Told
from llmtrace.estimate.losses import Loss
from llmtrace.observe.answer import Answer
from llmtrace.observe.call import Call
from llmtrace.phases.model import Estimate, Phase
from llmtrace.phases.observation import Observation
from llmtrace.phases.pace import Pace

if TYPE_CHECKING:
    from llmtrace.phases.objectives import Judgement


@dataclass(slots=True, eq=False, repr=False)
class Result:
    """A call that has ended: what was seen of it, and all that its spans and metrics report."""

    call: Call
    state: CallState
    answer: Answer
    seen: Observation
    phases: list[Phase]
    complaint: str | None
    """Why server timings that were there were not used."""
    failure: str | None
    """``error.type``, None where the call did not fail."""
    estimate: Estimate | None
    expected_cached: int | None = None
    """Prompt tokens that should have come from the provider's cache, by this client's own history; None where that
    cannot be said."""
    lost: Loss | None = None
    """Prompt tokens that might have come from the cache and did not, and why."""
    hit: Told = NOTHING_TOLD
    """Whether the prompt's beginning came from the cache, by timing alone; where that is not told, but can be."""
    verdicts: Sequence[Verdict] = ()
    """The causes that the diagnosis found, most certain first."""
    judgement: Judgement | None = None
    """Whether it met its objectives; None where it has none."""
    asked: bool = True
    """Somebody was asked. False where the client answered by itself: from its cache, from what a test gave it."""
    pace: Pace | None = None
    """What its chunks say of its tokens; only where spans are recorded."""
