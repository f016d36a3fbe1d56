"""What the engine keeps with a call until it ends, and all that is then known of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.trace import Span, Tracer

from llmtrace.diagnosis.verdict import Verdict
from llmtrace.estimate.baselines import InFlight
from llmtrace.estimate.hits import NOTHING_TOLD, Told
from llmtrace.estimate.prefixes import Prompt
from llmtrace.observe.answer import Answer
from llmtrace.observe.call import Call
from llmtrace.phases.model import Estimate, Phase
from llmtrace.phases.observation import Observation
from llmtrace.phases.pace import Pace
from llmtrace.providers.declare import Operation, Request


@dataclass(slots=True, eq=False, repr=False)
class Endpoint:
    """Where a client's calls go, found once per client."""

    url: Any
    provider: str
    """``gen_ai.provider.name``."""
    host: str | None
    port: int | None
    openings: dict[tuple[str, str | None], tuple[str, dict[str, Any]]] = field(
        default_factory=dict[tuple[str, str | None], tuple[str, dict[str, Any]]]
    )
    """Span name and first attributes, by operation and model."""


@dataclass(slots=True, eq=False, repr=False)
class CallState:
    """What the engine keeps with a call until it ends."""

    operation: Operation
    request: Request
    endpoint: Endpoint
    span: Span
    tracer: Tracer
    owns_span: bool
    recording: bool
    marks: dict[str, Any]
    """The task and step that the call is made in, as attributes."""
    find_span: Callable[[Call], None] | None = None
    """Finds or starts its span, as its request is sent: for a client that may open one itself by then."""
    raw: bool = False
    """The application asked for the response itself, and may read its bytes."""
    closing: int = 4
    """How many of a stream's last chunks the answer is read from."""
    route: tuple[Any, ...] = ()
    """What the baselines know this call's route by."""
    in_flight: InFlight | None = None
    """The call as the others of its route see it."""
    scope: Hashable = None
    """Where in the program it was made: see ``earlier.scope``."""
    prompt: Prompt | None = None
    """What the prompt has in common with earlier ones."""
    judge: Callable[[Call, CallState], Result] | None = None
    """Makes what is known of the ended call, where that is not the timeline's work (a model in this process)."""


@dataclass(slots=True, eq=False, repr=False)
class Result:
    """A call that has result: what was seen, what it means, what will be said."""

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
    hit: Told = NOTHING_TOLD
    """Whether the prompt's beginning came from the cache, by timing alone; where that is not told, but can be."""
    verdicts: Sequence[Verdict] = ()
    """The causes that the diagnosis found, most certain first."""
    pace: Pace | None = None
    """What its chunks say of its tokens; only where spans are recorded."""
