"""Begin: where a call goes, which span is its own, and what is kept with it until it ends."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry import context as otel
from opentelemetry import trace as trace_api
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, Tracer

from llmtrace.calls import adoption
from llmtrace.calls.reading import of_params, read_request
from llmtrace.calls.repairs import REPAIR, Question
from llmtrace.calls.retry_links import marks, scope
from llmtrace.calls.services import Services
from llmtrace.calls.state import CallState, Endpoint
from llmtrace.calls.verdict import LAST_CHUNKS
from llmtrace.emit import names
from llmtrace.emit.values import safe_attributes, text
from llmtrace.estimate.prefixes import CACHE_IF_ASKED
from llmtrace.observe import internal_errors
from llmtrace.observe.address import address_of
from llmtrace.observe.call import Call, ChoiceEnds, start_time
from llmtrace.observe.chunk_timing import LAST
from llmtrace.observe.run_queue import RunQueue
from llmtrace.providers.anchors import before_prefill
from llmtrace.providers.declare import Operation, Provider, Request, Stainless
from llmtrace.providers.prompt import asks_for_caching, prompt_texts
from llmtrace.providers.variants import media, variant
from llmtrace.tasks import units

_CLOSING = 4
"""Chunks at a stream's end in which an answer's end, usage and timings stand; two more for each further choice."""
_MOST_CHOICES = 128
_OPENINGS = 64
"""Models per client whose span names and first attributes are kept ready."""
Asked = tuple[dict[str, Any], Hashable, Sequence[str], Question]
"""The attributes of the task and step that a call is made in, its scope, the texts of its prompt, what it asks."""


class Beginning:
    """Begins calls. Remembers where each client object's calls go."""

    def __init__(self, services: Services, ended: Callable[[Call], None]) -> None:
        """``ended`` is called with each call once, when it has ended."""
        self._services = services
        self._ended = ended
        self._endpoints: WeakKeyDictionary[Any, Endpoint] = WeakKeyDictionary()

    def begin(
        self,
        provider: Provider,
        operation: Operation,
        client: Any,
        body: Any,
        url: Any,
        covers: bool,
        headers: Mapping[str, Any] | None,
    ) -> Call | Span | None:
        """Begin a call: its span, its times, its state.

        ``url``: where it goes, if not to the client's base URL; ``covers``: another instrumentation lies beneath, which
        may open its span before the request is sent; ``headers``: those that the caller gave the request.

        Returns the call; its bare span where neither traces nor metrics want to know more; None where it is not to be
        traced at all.
        """
        services, settings = self._services, self._services.settings
        request = read_request(operation, body)
        endpoint = self._endpoint(provider, client, url, request.provider)
        start, offset = start_time()
        tracer = services.telemetry.tracer()
        context = otel.get_current()  # asked once: each further look would ask for it anew, the SDK's three too
        current = trace_api.get_current_span(context)
        above = current if request.served is None else adoption.served_by(current, request.served)
        place = adoption.place(above, operation, request, tracer, headers, settings.parent)
        adopted = place.adopted
        around = _around(above, place)
        later = place is adoption.OWN and (covers or provider.own_spans) and settings.parent != "own"
        owns = adopted is None and not later and (settings.parent != "existing" or place.spoken_for)
        links = None
        if (owns or later or adopted is not None) and services.retry_links:
            route = _route(endpoint, operation, request)
            links = services.retry_links.links(around, operation.name, request, route, start / 1e9)
        asked: Asked | None = None
        if services.repairs.any:  # else there is nothing to repair, and a call that nobody records is cheap
            asked = self._asked(around, operation, request, start)
            question = asked[-1]
            if adopted is None:
                links = question.links(links)
            else:
                question.link_from(adopted)
        if adopted is not None:  # it has been started already
            for link in links or ():
                adopted.add_link(link.context, link.attributes)
            adopted.set_attributes(marks(links) or {})
        span = adopted
        if owns:
            beneath = place.above or (None if above is current else above)
            if beneath is not None:
                context = trace_api.set_span_in_context(beneath, context)
            if place.spoken_for:
                span = adoption.start_beneath(tracer, start + offset, links, context)
            else:
                kind = SpanKind.INTERNAL if provider.in_process else SpanKind.CLIENT
                span = _start(tracer, kind, operation, request, endpoint, start + offset, links, context)
            if not span.is_recording() and adoption.was_dropped(place.above or above):
                span, owns = place.above or above, False  # as in ``_find_span``
        recording = later or (span is not None and span.is_recording())
        if not recording and services.telemetry.meters() is None:
            return span
        try:
            carried, where, texts, question = asked or self._asked(around, operation, request, start)
            state = CallState(operation, request, endpoint, span or above, tracer, owns, recording, carried)
            state.scope, state.question = where, question
            state.over_http = _over_http(provider, client)
            state.adopted, state.spoken_for = adopted is not None, place.spoken_for
            if later:
                state.find_span = partial(self._find_span, above, links)
            return self._open(state, start, offset, texts)
        except BaseException:
            if owns and span is not None:
                span.end()  # what was started is not left open, whatever failed after it
            raise

    def _asked(self, around: Span, operation: Operation, request: Request, start: int) -> Asked:
        carried, where = units.baggage_attributes(), scope(around)
        declared = carried.get(names.STEP_KIND) == REPAIR
        texts = of_params(request, prompt_texts)
        question = of_params(request, self._services.repairs.asked, where, operation.name, texts, start / 1e9, declared)
        return carried, where, texts, question

    def _open(self, state: CallState, start: int, offset: int, texts: Sequence[str]) -> Call:
        """The recorder of the call, with what its way through the client and its end will need."""
        settings, operation, request = self._services.settings, state.operation, state.request
        several = request.choices > 1
        closing = _CLOSING + 2 * min(request.choices, _MOST_CHOICES) if several else _CLOSING
        recent = max(closing, LAST_CHUNKS if settings.diagnosis and operation.chunk_text else LAST)
        state.closing = recent if several else closing
        state.route = route = _route(state.endpoint, operation, request)
        explicit = state.endpoint.provider in CACHE_IF_ASKED and of_params(request, asks_for_caching)
        prompt = self._services.prefixes.look(route, texts, start / 1e9, explicit, route[:_WHOSE])
        state.media, prompt.aside = of_params(request, media, prompt.known > 0)
        state.prompt = prompt
        call = Call(
            self._ended,
            operation.classify_chunk,
            streaming=request.streaming,
            recent=recent,
            start=start,
            offset=offset,
        )
        call.state = state
        if several and operation.ends is not None:
            call.recent = ChoiceEnds(recent, operation.ends)
        if state.recording and settings.capture_content != "no_content":
            call.kept = []
        before = before_prefill(state.endpoint.provider, operation)
        state.in_flight = self._services.baselines.begin(route, start, prompt.text_size, before)
        call.on_first_token = state.in_flight.first_token_came
        if settings.diagnosis:
            state.run_queue = RunQueue()
        return call

    def _find_span(self, above: Span, links: Sequence[Link] | None, call: Call) -> None:
        """The span of a call that may have got one by now, from its client or from another instrumentation beneath:
        that, if it has, else one of ours.

        ``above`` was the current span when the call began. Asked at each attempt: a client may open one for each, and
        let go of those before.
        """
        state: CallState = call.state
        if state.owns_span:
            return
        theirs = trace_api.get_current_span()
        if adoption.opened_beneath(theirs, above, state.tracer, self._services.settings.parent):
            state.span, state.adopted = theirs, True
            state.recording = theirs.is_recording()
        elif state.span is not above:
            return  # what an earlier attempt was sent under
        elif self._services.settings.parent == "existing":
            state.recording = False
        else:
            where, request = state.endpoint, state.request
            started, context = call.to_epoch(call.start), trace_api.set_span_in_context(above)
            state.span = _start(state.tracer, SpanKind.CLIENT, state.operation, request, where, started, links, context)
            state.owns_span = True
            state.recording = state.span.is_recording()
            if not state.recording and adoption.was_dropped(above):
                return  # which tells as much to what is sent beneath, and would be there without us
            adoption.make_current(state.span)

    def _endpoint(self, provider: Provider, client: Any, url: Any, asked: str | None) -> Endpoint:
        url = url or provider.base_url(client)
        key: Any = self if client is None else client  # a call of a module's function has no client object
        known = self._endpoints.get(key)
        if known is not None and (known.url is url or known.url == url) and asked in (None, known.provider):
            return known
        host, port = address_of(url)
        endpoint = Endpoint(url, asked or provider.provider_name(client, host), host, port)
        self._endpoints[key] = endpoint
        return endpoint


_WHOSE = 4
"""Of a route, the parts that name whose model it is: provider, host, port, model."""


def _around(above: Span, place: adoption.Place) -> Span:
    """The span in which the application makes the call: ``above``, but for one that another instrumentation, or the
    client itself, has begun a trace with for this very call.
    """
    its_own = place.spoken_for or place.adopted is above
    return INVALID_SPAN if its_own and getattr(above, "parent", above) is None else above


def _route(endpoint: Endpoint, operation: Operation, request: Request) -> tuple[Any, ...]:
    """What the baselines know the call's route by."""
    asked = operation.path or operation.name
    return (endpoint.provider, endpoint.host, endpoint.port, request.model, asked, *of_params(request, variant))


def _over_http(provider: Provider, client: Any) -> bool:
    """Whether a call for which no HTTP request was seen asked nobody. Not so for a client that sends with something of
    the application's own make, nor for one that Stainless generated, which never answers by itself.
    """
    if provider.in_process or _by_stainless(provider):
        return False
    try:
        return provider.senders is None or bool(provider.senders(client))
    except Exception as error:
        internal_errors.note("finding a client's HTTP clients", error)
        return False


@lru_cache(64)
def _by_stainless(provider: Provider) -> bool:
    return any(isinstance(hook, Stainless) for hook in provider.hooks)


def _start(
    tracer: Tracer,
    kind: SpanKind,
    operation: Operation,
    request: Request,
    endpoint: Endpoint,
    started: int,
    links: Sequence[Link] | None,
    context: Context | None = None,
) -> Span:
    """The call's own span, with the attributes that samplers decide by. ``started``: epoch ns."""
    opening = endpoint.openings.get((operation.name, request.model))
    if opening is None:
        opening = _opening(operation, request, endpoint)
        if len(endpoint.openings) < _OPENINGS:
            endpoint.openings[operation.name, request.model] = opening
    title, attributes = opening
    if (repeats := marks(links)) is not None:
        attributes = attributes | repeats
    return tracer.start_span(title, context, kind, attributes, links, started)


def _opening(operation: Operation, request: Request, endpoint: Endpoint) -> tuple[str, dict[str, Any]]:
    attributes: dict[str, Any] = {names.OPERATION: operation.name, names.PROVIDER: endpoint.provider}
    title = operation.name
    if request.model is not None:
        attributes[names.REQUEST_MODEL] = request.model
        title = f"{title} {request.model}"
    if endpoint.host is not None:
        attributes[names.SERVER_ADDRESS] = endpoint.host
    if endpoint.port is not None:
        attributes[names.SERVER_PORT] = endpoint.port
    return text(title), dict(safe_attributes(attributes))
