"""The one engine behind every client: begins a call, takes what comes back, ends it and emits.

Nothing in here may reach the application: each entry point catches what we get wrong and lets the call go on.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from opentelemetry import context as otel
from opentelemetry import metrics as metrics_api
from opentelemetry import trace as trace_api
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Tracer

from llmtrace.calls.byte_taps import Body, tap
from llmtrace.calls.current import being_made
from llmtrace.calls.report import Reporter
from llmtrace.calls.result import CallState, Endpoint
from llmtrace.calls.retry_links import Earlier, scope
from llmtrace.calls.verdict import LAST_CHUNKS
from llmtrace.config import Settings, seconds_per_prefill_token
from llmtrace.diagnosis.judge import Diagnoser
from llmtrace.emit import names
from llmtrace.emit.metrics import Meters, is_idle, meters_on
from llmtrace.estimate.baselines import Baselines
from llmtrace.estimate.hits import RouteHits
from llmtrace.estimate.prefixes import CACHE_IF_ASKED, Prefixes
from llmtrace.observe import call as calls
from llmtrace.observe import internal_errors
from llmtrace.observe.call import Call, Ends
from llmtrace.observe.chunk_timing import LAST
from llmtrace.observe.clock import now, to_epoch
from llmtrace.observe.stream import cause_of
from llmtrace.providers.anchors import before_prefill
from llmtrace.providers.declare import Operation, Provider, Request
from llmtrace.providers.prompt import asks_for_caching, prompt_texts
from llmtrace.tasks import units
from llmtrace.version import VERSION

_OPENINFERENCE = "openinference.span.kind"
_OPENINGS = 64
"""Models per client whose span names and first attributes are kept ready."""


class Engine:
    """Settings, providers and the instruments, shared by all patched clients."""

    def __init__(
        self,
        settings: Settings,
        tracer_provider: trace_api.TracerProvider | None = None,
        meter_provider: metrics_api.MeterProvider | None = None,
    ) -> None:
        self.settings = settings
        self.baselines = Baselines(
            settings.min_calls,
            settings.min_spread,
            path=settings.baseline_path or None,
            least_per_token=seconds_per_prefill_token(settings.baseline_prior),
        )
        self.diagnoser = Diagnoser()
        self.prefixes = Prefixes()
        self.hits = RouteHits()
        self.earlier = Earlier()
        self._tracer_provider = tracer_provider
        if tracer_provider is not None:
            units.provider = tracer_provider  # a task's spans go where its calls' go
        self._meter_provider = meter_provider
        self._tracer: tuple[Any, trace_api.Tracer] | None = None
        self._meters: tuple[Any, Meters] | None = None
        self._endpoints: WeakKeyDictionary[Any, Endpoint] = WeakKeyDictionary()
        self._reporter = Reporter(self)

    # --- providers of OpenTelemetry, found anew only when they change ---------------------------------------------
    @property
    def tracer_provider(self) -> trace_api.TracerProvider:
        """The provider given, else the global one as it is now."""
        return self._tracer_provider or trace_api.get_tracer_provider()

    def tracer(self) -> trace_api.Tracer:
        """The tracer of that provider."""
        provider = self.tracer_provider
        if self._tracer is None or self._tracer[0] is not provider:
            self._tracer = (provider, provider.get_tracer("llmtrace", VERSION))
        return self._tracer[1]

    def meters(self) -> Meters | None:
        """The instruments, or None while no MeterProvider is set up."""
        if not self.settings.metrics:
            return None
        provider = self._meter_provider or metrics_api.get_meter_provider()
        if self._meters is None or self._meters[0] is not provider:
            if is_idle(provider):
                return None
            self._meters = (provider, meters_on(provider, VERSION, self.settings.semconv))
        return self._meters[1]

    def flush(self) -> None:
        """Save what was learned."""
        self.baselines.save()

    # --- a call's life --------------------------------------------------------------------------------------------
    def begin(
        self,
        provider: Provider,
        operation: Operation,
        client: Any,
        body: Any,
        url: Any = None,
        covers: bool = False,
    ) -> Call | Span | None:
        """Start a call, its span and its clock. ``url``: where it goes, if not to the client's base URL; ``covers``:
        another instrumentation lies beneath, which may open its span before the request is sent.

        Returns the call; its bare span where neither traces nor metrics want to know more; None where the call is
        not to be traced at all.
        """
        try:
            if not isinstance(body, dict):
                return None
            request = operation.read_request(body)
            endpoint = self._endpoint(provider, client, url, request.provider)
            started = now()
            tracer = self.tracer()
            above = trace_api.get_current_span()
            span = self._existing(above, operation, request)
            later = span is None and (covers or provider.own_spans) and self.settings.parent != "own"
            owns = span is None and not later and self.settings.parent != "existing"
            route = (endpoint.provider, endpoint.host, endpoint.port, request.model, operation.path or operation.name)
            links = None
            if owns or later:
                links = self.earlier.links(above, operation.name, request.params, route, started / 1e9)
            if owns:
                kind = SpanKind.INTERNAL if provider.in_process else SpanKind.CLIENT
                span = _start(tracer, kind, operation, request, endpoint, started, links)
                if not span.is_recording() and _dropped(above):
                    span, owns = above, False  # as in ``_find_span``
            recording = later or (span is not None and span.is_recording())
            if not recording and self.meters() is None:
                return span
            several = request.choices > 1
            closing = 4 + 2 * min(request.choices, 128) if several else 4
            recent = max(closing, LAST_CHUNKS if self.settings.diagnosis and operation.chunk_text else LAST)
            call = Call(self._end, operation.classify_chunk, streaming=request.streaming, recent=recent)
            call.start = started
            state = CallState(
                operation, request, endpoint, span or above, tracer, owns, recording, units.baggage_attributes()
            )
            call.state = state
            state.closing = recent if several else closing
            if several and operation.ends is not None:
                call.recent = Ends(recent, operation.ends)
            state.scope, state.route = scope(above), route
            if later:
                state.find_span = partial(self._find_span, above, links)
            self._set_out(call, state)
            if recording and self.settings.capture_content != "no_content":
                call.kept = []
            return call
        except Exception as error:
            internal_errors.note("beginning a call", error)
            return None

    def returned(self, call: Call | Span, result: Any) -> None:
        """The client handed ``result`` to the application: the end of the call, unless a stream goes on."""
        if not isinstance(call, Call):
            return
        try:
            call.returned = now()
            # Not kept from here on: an open call must not be what keeps a response alive that the application drops.
            response = call.attempts[-1].take_response() if call.attempts else None
            if call.running is not None or not call.is_open:
                return
            still_open = response is not None and not response.is_closed and not response.is_stream_consumed
            if still_open and tap(response, call):
                return
            if getattr(result, "http_response", None) is None or response is None:
                call.answer = result
            else:
                call.body = Body()
                call.body.keep(call.returned, response.content)
        except Exception as error:
            internal_errors.note("reading a response", error)
        call.finish(calls.COMPLETED, call.returned)

    def failed(self, call: Call | Span, error: BaseException) -> None:
        """The client raised: the end of the call."""
        if not isinstance(call, Call):
            return
        try:
            call.finish(cause_of(error), error=error)
        except Exception as ours:
            internal_errors.note("ending a call", ours)

    def _end(self, call: Call) -> None:
        try:
            self._reporter.report(call)
        except Exception as error:
            internal_errors.note("ending a call", error)
            if call.state.in_flight is not None:
                self.baselines.drop(call.state.route, call.state.in_flight)
        finally:
            call.release()

    def _set_out(self, call: Call, state: CallState) -> None:
        """Let the calls of the same route know of this one."""
        where, request = state.endpoint, state.request
        operation = state.operation
        explicit = where.provider in CACHE_IF_ASKED and asks_for_caching(request.params)
        prompt = self.prefixes.look(state.route, prompt_texts(request.params), call.start / 1e9, explicit)
        state.prompt = prompt
        before = before_prefill(where.provider, operation)
        state.in_flight = self.baselines.begin(state.route, call, call.start, prompt.size, before)

    # --- particulars ----------------------------------------------------------------------------------------------
    def _existing(self, span: Span, operation: Operation, request: Request) -> Span | None:
        """The current ``span``, if another instrumentation opened it for this very call and it is to be used."""
        if self.settings.parent == "own" or not span.is_recording():
            return None
        attributes: Any = getattr(span, "attributes", None)
        if not attributes:
            return None
        theirs = (
            attributes.get(names.OPERATION) == operation.name
            or attributes.get(_OPENINFERENCE) == "LLM"
            or attributes.get("llm.request.type") == operation.name
        )
        model = attributes.get(names.REQUEST_MODEL)
        return span if theirs and (model is None or model == request.model) else None

    def _find_span(self, above: Span, links: list[Link] | None, call: Call) -> None:
        """The span of a call that may have got one by now, from its client or from another instrumentation beneath:
        that, if it has, else one of ours.

        ``above`` was the current span when the call began. Asked at each attempt: a client may open one for each, and
        let go of those before.
        """
        state = call.state
        if state.owns_span:
            return
        theirs = trace_api.get_current_span()
        attributes: Any = getattr(theirs, "attributes", None)
        tells = attributes and (names.OPERATION in attributes or attributes.get(_OPENINFERENCE) == "LLM")
        if theirs is not above and tells and self._exported_with_ours(theirs):
            state.span = theirs
            state.recording = theirs.is_recording()
        elif state.span is not above:
            return  # what an earlier attempt was sent under
        elif self.settings.parent == "existing":
            state.recording = False
        else:
            operation, request, where = state.operation, state.request, state.endpoint
            context = trace_api.set_span_in_context(above)
            state.span = _start(state.tracer, SpanKind.CLIENT, operation, request, where, call.start, links, context)
            state.owns_span = True
            state.recording = state.span.is_recording()
            if not state.recording and _dropped(above):
                return  # which tells as much to what is sent beneath, and would be there without us
            if being_made() is not None:
                otel.attach(trace_api.set_span_in_context(state.span))  # until ``Making`` puts back what was there

    def _exported_with_ours(self, span: Any) -> bool:
        """Whether ``span`` goes where ours do: not into a pipeline of the client's own, to its maker."""
        theirs = getattr(span, "_span_processor", None)
        ours = getattr(self.tracer_provider, "_active_span_processor", None)
        return theirs is ours or self.settings.parent == "existing"

    def _endpoint(self, provider: Provider, client: Any, url: Any, asked: str | None) -> Endpoint:
        url = url or provider.base_url(client)
        key: Any = self if client is None else client  # a call of a module's function has no client object
        known = self._endpoints.get(key)
        if known is not None and (known.url is url or known.url == url) and asked in (None, known.provider):
            return known
        where = urlsplit(url) if isinstance(url, str) else url
        host = (getattr(where, "host", None) or getattr(where, "hostname", None)) or None
        port = getattr(where, "port", None)
        if port is None and host is not None:
            port = 80 if getattr(where, "scheme", "") == "http" else 443
        found = Endpoint(url, asked or provider.provider_name(client, host), host, port)
        self._endpoints[key] = found
        return found


def _dropped(span: Span) -> bool:
    """Whether ``span`` is one that a sampler dropped."""
    context = span.get_span_context()
    return context.is_valid and not context.trace_flags.sampled


def _start(
    tracer: Tracer,
    kind: SpanKind,
    operation: Operation,
    request: Request,
    endpoint: Endpoint,
    started: int,
    links: list[Link] | None,
    context: Context | None = None,
) -> Span:
    """The parent span, with the attributes that samplers decide by."""
    opening = endpoint.openings.get((operation.name, request.model))
    if opening is None:
        opening = _opening(operation, request, endpoint)
        if len(endpoint.openings) < _OPENINGS:
            endpoint.openings[operation.name, request.model] = opening
    title, attributes = opening
    return tracer.start_span(title, context, kind, attributes, links, to_epoch(started))


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
    return title, attributes
