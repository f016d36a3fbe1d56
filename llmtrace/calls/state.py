"""What is kept with a call until it ends, beside what was seen of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import Span, Tracer

from llmtrace.calls.repairs import Question
from llmtrace.estimate.baselines import InFlight
from llmtrace.estimate.prefixes import Prompt
from llmtrace.observe.call import Call
from llmtrace.observe.run_queue import RunQueue
from llmtrace.providers.declare import Operation, Request

if TYPE_CHECKING:
    from llmtrace.calls.model_loads import Loaded
    from llmtrace.calls.result import Result


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
    """What is kept with a call until it ends."""

    operation: Operation
    request: Request
    endpoint: Endpoint
    span: Span
    """The call's own span; one of another instrumentation's where that was adopted."""
    tracer: Tracer
    owns_span: bool
    recording: bool
    baggage_attributes: dict[str, Any]
    """The task and step that the call is made in."""
    adopted: bool = False
    """``span`` is another instrumentation's."""
    spoken_for: bool = False
    """``span`` is an ``llm.call`` of ours beneath another instrumentation's span for the same call."""
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
    """Where in the program it was made: see ``retry_links.scope``."""
    question: Question | None = None
    """What it asks, and whether it repairs an answer by that."""
    prompt: Prompt | None = None
    """What the prompt has in common with earlier ones."""
    over_http: bool = False
    """Whoever is asked is asked by HTTP requests that are seen."""
    media: int = 0
    """Images, recordings and files in the prompt, as far as they have to be computed."""
    run_queue: RunQueue | None = None
    """What its thread waits for a core, where that is looked at."""
    loaded: Loaded | None = None
    """The load of its model, if it is the first call of that."""
    judge: Callable[[Call, CallState], Result] | None = None
    """Makes the result of the ended call, where that is not the timeline's work (a model in this process)."""

    @property
    def is_genai_span(self) -> bool:
        """``span`` is ours, and the one that the conventions know the call by."""
        return self.owns_span and not self.spoken_for
