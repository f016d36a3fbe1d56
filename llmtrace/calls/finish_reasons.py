"""Why each choice of an answer ended, by position, as the GenAI conventions want it."""

from __future__ import annotations

from llmtrace.calls.result import Result
from llmtrace.conventions import INFERENCE
from llmtrace.observe import call as calls

_ERROR = "error"
"""The conventions' word for a choice whose end was to come and did not."""
_MOST = 128
"""Choices that are told of one by one: a request may ask for any number."""


def finish_reasons(result: Result) -> tuple[str, ...]:
    """One reason for each choice, in the order of the choices; nothing where no answer had begun."""
    call, state, answer = result.call, result.state, result.answer
    if answer.ended == (0,) and state.request.choices == 1:
        return answer.finish_reasons  # as nearly always
    ended = answer.ended or range(len(answer.finish_reasons))
    if max(ended, default=0) >= max(state.request.choices, len(ended)):
        return answer.finish_reasons  # numbers that are no positions: nobody asked for so many choices
    reasons = dict(zip(ended, answer.finish_reasons, strict=False))
    if state.operation.name not in INFERENCE or max(reasons, default=0) >= _MOST:
        return answer.finish_reasons
    choices = max(reasons, default=-1) + 1
    begun = call.answer is not None or (call.streaming and (call.returned is not None or call.chunk_timing.total > 0))
    if begun and call.outcome != calls.COMPLETED:
        choices = max(choices, min(state.request.choices, _MOST))
    return tuple(reasons.get(choice, _ERROR) for choice in range(choices))
