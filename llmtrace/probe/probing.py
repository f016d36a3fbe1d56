"""Runs the steps one after another, and makes the sheet of whatever they have shown when they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from llmtrace.probe import plan
from llmtrace.probe.answers import Exhausted, Refusal
from llmtrace.probe.clients import shown
from llmtrace.probe.experiments import STEPS
from llmtrace.probe.learned import Learned
from llmtrace.probe.plan import Options, Step
from llmtrace.probe.session import Session
from llmtrace.probe.sheet import Sheet, figures
from llmtrace.probe.tracing import Tracing

INTERRUPTED_BY_HAND = "interrupted"
"""Why it stopped, after Ctrl-C."""
LEARNS = (plan.GREET, plan.CURVE, plan.CACHE, plan.ANSWERS)
"""Steps whose calls go into the baseline: one at a time, so that none of them waits for another."""


def probe(
    session: Session,
    tracing: Tracing,
    steps: Sequence[Step],
    options: Options,
    begins: Callable[[Step], object] = lambda step: None,
) -> tuple[Sheet, Learned]:
    """Ask, and return the sheet. ``begins`` is told of each step.

    A refused step leaves the later ones to be tried; a spent budget and Ctrl-C end it all, and what was learned stays.

    Raises:
        Refusal: the very first call was not answered.
    """
    learned = Learned()
    stopped = ""
    try:
        for step in steps:
            begins(step)
            learned.asked.add(step.name)
            try:
                with tracing.step(step.name, learns=step.name in LEARNS):
                    STEPS[step.name](session, learned, options)
            except Refusal as refusal:
                if session.calls == 0 or step.name == plan.GREET:
                    raise
                learned.ended[step.name] = str(refusal)
                if refusal.status is None:
                    stopped = str(refusal)
                    break
            except Exhausted:
                stopped = learned.ended[step.name] = "the next call might have passed the budget"
                break
    except KeyboardInterrupt:
        stopped = INTERRUPTED_BY_HAND
    learned.round_trips = list(tracing.round_trips)
    sheet = Sheet(
        base_url=shown(session.client.base_url),
        model=session.client.model,
        figures=figures(learned),
        calls=session.calls,
        prompt_tokens=session.prompt_tokens,
        answer_tokens=session.answer_tokens,
        usd=session.purse.spent if session.purse.price is not None else None,
        stopped=stopped,
        when=time.time(),
    )
    return sheet, learned
