"""The product's estimate and diagnosis over simulated calls: what ``calls/`` does at a call's end, without a client."""

from __future__ import annotations

from llmtrace.calls.verdict import Diagnoser
from llmtrace.diagnosis.symptoms import take_queue
from llmtrace.diagnosis.verdict import Verdict
from llmtrace.estimate.baselines import Baselines
from llmtrace.estimate.sample import sample_of
from llmtrace.estimate.tokens import Tokens
from llmtrace.phases.model import Estimate
from tests.evaluation.diagnosis.traffic import Made

_ROUTE = "route"


class Judging:
    """One route's calls, one after the other."""

    def __init__(self) -> None:
        self._baselines = Baselines(background=False)
        self._diagnoser = Diagnoser()

    def of(self, made: Made) -> list[Verdict]:
        """The verdicts on the next call."""
        seen, facts, usage = made.seen, made.facts, made.seen.usage
        assert usage is not None
        cached = usage.cached_tokens or 0
        tokens = Tokens((usage.input_tokens or 0) - cached, cached, usage.output_tokens or 0)
        server, seen.server = seen.server, None
        in_flight = self._baselines.begin(_ROUTE, seen.start)
        estimate = self._baselines.end(_ROUTE, in_flight, seen.end, sample_of(seen, None, tokens))
        seen.server = server
        if isinstance(estimate, Estimate) and facts.server_queue is None:
            take_queue(facts, estimate)
        return self._diagnoser.judge(_ROUTE, facts)
