"""Verdict: what the diagnosis looks at, from an ended call, and what it finds, as attributes and events."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import islice
from typing import Any

from llmtrace.calls.model_sent import model_sent
from llmtrace.calls.state import CallState
from llmtrace.diagnosis.gathered import behind_headers
from llmtrace.diagnosis.judge import judge
from llmtrace.diagnosis.models import DEPLOYMENTS
from llmtrace.diagnosis.repetition import Repetition, repetition
from llmtrace.diagnosis.route import Route
from llmtrace.diagnosis.symptoms import Symptoms, symptoms_of
from llmtrace.diagnosis.verdict import Verdict
from llmtrace.emit import names
from llmtrace.estimate.routes import ROUTES, RouteTable
from llmtrace.observe import call as calls
from llmtrace.observe import internal_errors
from llmtrace.observe.answer import Answer
from llmtrace.observe.call import Call, open_count
from llmtrace.phases.model import Estimate
from llmtrace.phases.observation import Observation

LAST_CHUNKS = 64
"""Chunks of a stream kept until its end: in them a repetition is looked for."""
_FEW_CHUNKS = 48


class Diagnoser:
    """The routes' histories by key. Safe to call from several threads."""

    def __init__(self, routes: int = ROUTES) -> None:
        self._routes = RouteTable(Route, routes)

    def __len__(self) -> int:
        return len(self._routes)

    def judge(
        self, key: Hashable, symptoms: Symptoms, no_core: Callable[[], float | None] | None = None
    ) -> list[Verdict]:
        """The verdicts on a call of route ``key``, most certain first; then the call is part of its history.

        ``no_core``: asked for how long its thread waited for a core, s, where something would be named for its times.
        """
        with self._routes.lock:
            route, own = self._routes.route(key), None
            if symptoms.upstream is not None:
                own = self._routes.route((key, symptoms.upstream))
            return judge(route, symptoms, own, no_core)


def diagnose(
    diagnoser: Diagnoser,
    call: Call,
    state: CallState,
    answer: Answer,
    seen: Observation,
    expected: int | None,
    estimate: Estimate | None,
) -> list[Verdict]:
    """The verdicts on an ended call. ``expected``: prompt tokens that should have come from the cache; ``estimate``: of
    its phases, where one was made."""
    try:
        symptoms = symptoms_of(seen, call.chunk_timing.gaps, estimate)
        symptoms.expected_cached = expected
        symptoms.cache_miss, symptoms.cache_missed = answer.cache_miss, answer.cache_missed_tokens
        symptoms.asked, symptoms.answered, symptoms.fingerprint = state.request.model, answer.model, answer.fingerprint
        if state.endpoint.provider in DEPLOYMENTS:
            symptoms.asked = None
        elif state.operation.reroutes and call.attempts:  # a router's name for it is the application's own
            symptoms.asked = model_sent(call.attempts[0]) or symptoms.asked
        if answer.hop is not None:
            symptoms.upstream = answer.hop.who
            if answer.hop.chooses:
                symptoms.answered = None  # the choice's changes are told as the upstream's
        symptoms.others_open = open_count()
        symptoms.repetition = _repetition(call, state, answer)
        _attempts(call, symptoms)
        if symptoms.ready_together:
            symptoms.behind_headers = behind_headers(seen, call.chunk_timing.gaps)
            if call.attempts:
                symptoms.segments, symptoms.unread = call.attempts[-1].segments(), call.attempts[-1].unread
        return diagnoser.judge(state.route, symptoms, None if state.run_queue is None else state.run_queue.waited)
    except Exception as error:
        internal_errors.note("diagnosing a call", error)
        return []


def _attempts(call: Call, symptoms: Symptoms) -> None:
    attempts = call.attempts
    if not attempts:
        return
    last = attempts[-1]
    symptoms.rtt = last.rtt_now
    if last.connect_start is not None and last.connect_end is not None:
        symptoms.setup = ((last.tls_end or last.connect_end) - last.connect_start) / 1e9
    if len(attempts) > 1:
        symptoms.attempts = len(attempts)
        symptoms.retrying = (last.start - attempts[0].start) / 1e9
        symptoms.refusals = " ".join(_refusal(attempt) for attempt in islice(attempts, 8) if attempt is not last)


def _refusal(attempt: Any) -> str:
    return str(attempt.status) if attempt.status is not None else type(attempt.error).__name__


def _repetition(call: Call, state: CallState, answer: Answer) -> Repetition | None:
    """Looked for only where a stream ran into its limit or was cut short: loops do not stop by themselves."""
    chunk_text = state.operation.chunk_text
    if chunk_text is None or len(call.recent) < _FEW_CHUNKS:
        return None
    if call.outcome == calls.COMPLETED and "length" not in answer.finish_reasons:
        return None
    return repetition([chunk_text(chunk)[0] for chunk in call.recent])


def attributes_of(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What the call's span says of them."""
    return {
        names.DIAGNOSIS: [verdict.cause for verdict in verdicts],
        names.CAUSE: verdicts[0].cause,
        names.CONFIDENCE: [verdict.confidence for verdict in verdicts],
    }


def evidence_of(verdict: Verdict) -> dict[str, Any]:
    """What the event of one verdict says."""
    evidence = {
        names.CAUSE: verdict.cause,
        names.CONFIDENCE: verdict.confidence,
        names.QUANTITY: verdict.quantity,
        names.OBSERVED: verdict.observed,
        names.EXPECTED: verdict.expected,
        names.EXCESS: verdict.excess,
        names.RATE: verdict.per_token,
        names.REASON: verdict.reason,
        names.HISTORY: verdict.history,
    }
    return {name: value for name, value in evidence.items() if value is not None}
