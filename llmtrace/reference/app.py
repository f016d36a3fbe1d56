"""The HTTP application: OpenAI's paths, health, metrics, and the last requests' true times."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import math
import os
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmtrace.observe.clock import epoch_offset, now
from llmtrace.reference import prometheus, spans
from llmtrace.reference._errors import RunnerError
from llmtrace.reference.adapters import Adapter, Adapters, UnknownAdapter
from llmtrace.reference.compositions import CompositionError
from llmtrace.reference.conflict_notes import ConflictNotes
from llmtrace.reference.exchange import Exchange
from llmtrace.reference.faults import Fault, FaultBook
from llmtrace.reference.grammar import BrokenGrammar, Grammar, Grammars
from llmtrace.reference.guard import Guard
from llmtrace.reference.model import LoadedModel
from llmtrace.reference.prefix_cache import DEFAULT_BLOCK, DEFAULT_BYTES, PrefixCache
from llmtrace.reference.protocol import (
    DEFAULT_MAX_TOKENS,
    ApiRequest,
    BadRequest,
    error_body,
    longest_token,
    parse,
    prompts,
)
from llmtrace.reference.runner import DEFAULT_BUDGET, DEFAULT_CHUNK, DEFAULT_RUNNING, Runner
from llmtrace.reference.scheduler import Job, QueueClosed, QueueFull, Result, Scheduler

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from llmtrace.observe.loading import Loading

__all__ = ["create_app"]

_MOST_BODY = 32 * 1024 * 1024
_MOST_READ = 8 * _MOST_BODY
"""The bytes of a body that is too large that are still read, and dropped, before it is answered."""
_TOKENISE_IN_THREAD = 32 * 1024
"""The size of a body in bytes from which tokenising runs on a thread, off the event loop."""
_REMEMBERED = 512
"""The number of last requests whose times can be read back."""


def create_app(
    loaded: LoadedModel,
    *,
    max_running: int = DEFAULT_RUNNING,
    max_queue: int = 64,
    faults: bool = False,
    run_on: bool = False,
    prefix_cache: bool = True,
    prefix_cache_bytes: int = DEFAULT_BYTES,
    prefix_cache_ttl: float | None = None,
    block_size: int = DEFAULT_BLOCK,
    prefill_chunk: int | None = DEFAULT_CHUNK,
    token_budget: int = DEFAULT_BUDGET,
    cache_tokens: int | None = None,
    chunk_spans: bool = False,
    adapters: Mapping[str, str | os.PathLike[str]] | None = None,
    merge_adapters: bool = False,
    default_max_tokens: int = DEFAULT_MAX_TOKENS,
    tracer_provider: TracerProvider | None = None,
    warm_up: bool = True,
    loading: Loading | None = None,
    names: Collection[str] | None = None,
    loopback: bool = True,
    grace: float = 0.0,
) -> Starlette:
    """The server as an ASGI application. Its scheduler runs from the application's startup to its shutdown.

    `max_running`, `prefill_chunk`, `token_budget` and `cache_tokens` (tokens) are the `Runner`'s; `prefix_cache_bytes`,
    `prefix_cache_ttl` (s) and `block_size` (tokens) the `PrefixCache`'s. `chunk_spans` makes each chunk of a prompt a
    span under its prefill. `adapters`: folders of PEFT adapters by the name that requests ask for; with
    `merge_adapters` the one in use is merged into the weights. Raises `RunnerError` where the memory for keys and
    values is not there, or an adapter cannot be loaded.

    `run_on` is a fault of the server itself, for `llmtrace probe cancel`: answers whose clients have gone are made to
    their ends.

    `names`: host names that the server goes by beside its addresses, and `loopback` whether only this machine can reach
    it; requests to other names and from pages are refused (None: no such check). `grace`: s that running requests have
    at the shutdown before they are ended.

    `loading`: the load of this model, which goes on until the application is ready: making room and warming up are its
    last part. It becomes a span.

    Server spans go to `tracer_provider` if one is given, else to the OTLP endpoint of the environment, else nowhere.
    The application's `state.scheduler` is the `Scheduler`.
    """
    cache = None
    if prefix_cache:
        cache = PrefixCache(block=block_size, max_bytes=prefix_cache_bytes, ttl=prefix_cache_ttl)
    runner = Runner(
        loaded,
        prefix_cache=cache,
        prefill_chunk=prefill_chunk,
        max_running=max_running,
        token_budget=token_budget,
        cache_tokens=cache_tokens,
        adapters=Adapters(loaded, adapters, merge=merge_adapters) if adapters else None,
    )
    scheduler = Scheduler(runner, max_queue=max_queue)
    writer = (
        spans.from_environment(loaded.about)
        if tracer_provider is None
        else spans.ServerSpans(tracer_provider, fingerprint=loaded.fingerprint)
    )
    if writer is not None:
        writer.chunks = chunk_spans
    service = _Service(loaded, scheduler, writer, FaultBook() if faults else None, default_max_tokens, run_on)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None, None]:
        if warm_up:
            runner.warm_up()
            service.warm_up()
        if loading is not None and writer is not None:
            loading.finish("warm_up")
            writer.emit_load(loading, loaded.name)
        scheduler.start()
        try:
            yield
        finally:
            await asyncio.to_thread(scheduler.stop, grace=grace)
            if writer is not None:
                await asyncio.to_thread(writer.shutdown)

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", service.chat, methods=["POST"]),
            Route("/v1/completions", service.complete, methods=["POST"]),
            Route("/v1/models", service.models),
            Route("/v1/models/{name:path}", service.model),
            Route("/health", service.health),
            Route("/metrics", service.metrics),
            Route("/debug/requests", service.requests),
            Route("/debug/requests/{name:path}", service.request),
        ],
        exception_handlers={
            BadRequest: _bad_request,
            HTTPException: _http_error,
            Exception: _crash,
        },
        lifespan=lifespan,
    )
    if names is not None:
        app.add_middleware(Guard, loopback=loopback, names=names)
    app.add_middleware(_RequestId)
    app.state.scheduler = scheduler
    return app


class _Service:
    def __init__(
        self,
        loaded: LoadedModel,
        scheduler: Scheduler,
        writer: spans.ServerSpans | None,
        faults: FaultBook | None,
        default_max_tokens: int,
        run_on: bool = False,
    ) -> None:
        self._loaded = loaded
        self._usual = Fault(run_on=True) if run_on else None
        # The scheduler's thread decodes while this one encodes: each with a tokenizer of its own.
        self._encoding = replace(loaded, tokenizer=copy.deepcopy(loaded.tokenizer))
        self._scheduler = scheduler
        self._models = [loaded.name, *(scheduler.runner.adapters.names if scheduler.runner.adapters else ())]
        adapters = scheduler.runner.adapters
        self._conflicts = ConflictNotes(adapters) if adapters is not None else None
        self._grammars = Grammars(self._encoding)
        self._writer = writer
        self._faults = faults
        self._default_max_tokens = default_max_tokens
        self._room = min(loaded.context, scheduler.runner.most_tokens)
        self._per_token = longest_token(self._encoding.tokenizer)
        self._started = int(time.time())
        self._last: deque[dict[str, Any]] = deque(maxlen=_REMEMBERED)
        self._encode_lock = asyncio.Lock()

    def warm_up(self) -> None:
        """Compile the chat template, so that the first request does not wait for it."""
        if self._loaded.has_chat_template:
            with contextlib.suppress(BadRequest):
                prompts(
                    ApiRequest(chat=True, model="", messages=[{"role": "user", "content": "hello"}]), self._encoding
                )

    async def chat(self, request: Request) -> Any:
        return await self._answer(request, chat=True)

    async def complete(self, request: Request) -> Any:
        return await self._answer(request, chat=False)

    async def _answer(self, request: Request, *, chat: bool) -> Any:
        try:
            raw = await _body(request)
        except ClientDisconnect:
            return Response(status_code=499)
        arrived = now()
        fault = self._usual
        if self._faults is not None:
            header = request.headers.get("x-llmtrace-fault")
            fault = self._faults.due(header, request.headers.get("x-llmtrace-fault-key")) or fault
            if fault is not None and fault.status is not None:
                return _refusal(fault)
        api_request = parse(raw, chat=chat)
        adapter = self._adapter(api_request.model)
        if len(raw) > _TOKENISE_IN_THREAD:
            async with self._encode_lock:
                ids = await asyncio.to_thread(prompts, api_request, self._encoding, self._room, self._per_token)
        else:
            ids = prompts(api_request, self._encoding, self._room, self._per_token)
        grammar = await self._compile(api_request)
        conflict = None if self._conflicts is None else await self._conflicts.of(adapter)
        headers = {key.lower(): value for key, value in request.headers.items()}
        request_id: str = request.scope["llmtrace.request_id"]

        def ended(job: Job, news: Result, reasons: list[str]) -> None:
            self._ended(job, news, reasons, headers, request_id, api_request)

        exchange = Exchange(
            api_request,
            ids,
            arrived=arrived,
            default_max_tokens=self._default_max_tokens,
            scheduler=self._scheduler,
            loaded=self._loaded,
            room=self._room,
            fault=fault,
            adapter=None if adapter is None else adapter.name,
            conflict=conflict,
            grammar=grammar,
            ended=ended,
        )
        try:
            exchange.submit()
        except QueueFull as full:
            return _too_many(f"the server is full: {full}; try again later", full.retry_after)
        except QueueClosed as closed:
            return JSONResponse(error_body(str(closed), code=closed.code), status_code=503)
        return exchange

    def _adapter(self, name: str) -> Adapter | None:
        """The adapter, or the composition of several, that goes by this name of a model. Raises `BadRequest`."""
        adapters = self._scheduler.runner.adapters
        if name == self._loaded.name:
            return None
        try:
            if adapters is None:
                raise UnknownAdapter(name)
            return adapters.get(name)
        except CompositionError as error:
            raise BadRequest(f"model: {error}", param="model", code="invalid_composition") from error
        except UnknownAdapter as error:
            raise BadRequest(
                f"The model `{name[:200]}` does not exist; this server has "
                f"{', '.join(f'`{id}`' for id in self._models)}"
                + (f" ({error})" if "+" in name and adapters is not None else ""),
                status=404,
                param="model",
                code="model_not_found",
            ) from error

    async def _compile(self, api_request: ApiRequest) -> Grammar | None:
        """The grammar that the request asks for, compiled beside the event loop. Raises `BadRequest`."""
        if api_request.grammar is None:
            return None
        kind, source = api_request.grammar
        param = "response_format" if kind.startswith("json") else f"guided_{kind}"
        try:
            return await asyncio.to_thread(self._grammars.compile, kind, source)
        except BrokenGrammar as error:
            raise BadRequest(f"{param} cannot be compiled: {error}", param=param, code="invalid_grammar") from error
        except RunnerError as error:
            raise BadRequest(str(error), param=param, code="not_supported") from error

    def _ended(
        self,
        job: Job,
        news: Result,
        reasons: list[str],
        headers: dict[str, str],
        request_id: str,
        api_request: ApiRequest,
    ) -> None:
        """Record an ended job: its spans and times. Runs on the event loop after the answer has gone out."""
        timings = job.timings
        parts = headers.get("traceparent", "").split("-")

        def since(moment: int | None) -> float | None:
            return None if moment is None else (moment - timings.arrived) / 1e9

        self._last.append(
            {
                "request_id": request_id,
                "trace_id": parts[1] if len(parts) == 4 else None,
                "span_id": parts[2] if len(parts) == 4 else None,
                "outcome": news.outcome,
                "finish_reasons": reasons,
                "arrived_unix_s": (timings.arrived + epoch_offset()) / 1e9,
                "phases_s": timings.seconds(),
                "total_s": (timings.finished - timings.arrived) / 1e9 if timings.finished is not None else None,
                "phases_host_s": {phase.name: phase.host / 1e9 for phase in timings.phases()},
                "others_s": {phase.name: phase.others / 1e9 for phase in timings.phases()},
                "taken_in_s": since(timings.taken_in),
                "scheduled_s": since(timings.scheduled),
                "chunks": [
                    {"start_s": since(chunk.start), "end_s": since(chunk.end), "tokens": chunk.tokens}
                    | ({"again": True} if chunk.again else {})
                    for chunk in timings.chunks
                ],
                "token_times_s": [since(moment) for moment in timings.tokens],
                "batch_sizes": list(timings.batch),
                "preempted_s": [since(moment) for moment in timings.preempted],
                "resumed_s": [since(moment) for moment in timings.resumed],
                "cost_s": timings.cost / 1e9,
                "cancelled_s": since(timings.cancelled),
                "adapter": timings.adapter.name if timings.adapter is not None else None,
                "adapter_swaps": [{"start_s": since(start), "end_s": since(end)} for start, end in timings.swaps],
                "grammar_compile_s": timings.compile_ns / 1e9,
                "grammar_mask_s": timings.mask_ns / 1e9,
                "launch_bound_ratio": timings.launch_bound,
                "prompt_tokens": timings.prompt_tokens,
                "cached_tokens": timings.cached_tokens,
                "output_tokens": timings.output_tokens,
                "timed_by": timings.timed_by,
                "clock_error_s": timings.clock_error / 1e9,
            }
        )
        if self._writer is not None:
            self._writer.emit(
                timings,
                carrier=headers,
                request_id=request_id,
                model=api_request.model,
                outcome=news.outcome,
                operation="chat" if api_request.chat else "text_completion",
                finish_reasons=reasons,
                error=news.error,
            )

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card(name) for name in self._models]})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        adapter = self._adapter(name)
        card = self._card(name)
        if self._conflicts is not None and (conflict := await self._conflicts.of(adapter)) is not None:
            card["conflicts"] = conflict.as_json()
        return JSONResponse(card)

    def _card(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "llmtrace",
            "max_model_len": self._room,
            "parent": None if name == self._loaded.name else self._loaded.name,
        }

    async def health(self, _: Request) -> Response:
        scheduler = self._scheduler
        status = "ok"
        if scheduler.stopping:
            status = "stopping"
        elif scheduler.broken is not None:
            status = f"the device has failed: restart the server ({scheduler.broken})"
        elif not scheduler.alive:
            status = "the model's thread has died: restart the server"
        body = {
            "status": status,
            "model": self._loaded.name,
            "device": self._loaded.device,
            "dtype": self._loaded.dtype,
            "running": self._scheduler.running,
            "waiting": self._scheduler.waiting,
        }
        return JSONResponse(body, status_code=200 if status == "ok" else 503)

    async def metrics(self, _: Request) -> Response:
        text = prometheus.render(self._scheduler)
        adapters = self._scheduler.runner.adapters
        if adapters is not None and self._conflicts is not None:
            text += prometheus.render_adapters(adapters, self._conflicts.known)
        return PlainTextResponse(text, media_type=prometheus.CONTENT_TYPE)

    async def requests(self, _: Request) -> Response:
        return JSONResponse({"requests": list(self._last)})

    async def request(self, request: Request) -> Response:
        name = request.path_params["name"]
        for record in reversed(self._last):
            if record["request_id"] == name:
                return JSONResponse(record)
        raise BadRequest(f"no request {name} among the last {_REMEMBERED} that ended", status=404, code="not_found")


async def _body(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size <= _MOST_BODY:
            parts.append(part)
        elif size > _MOST_READ:
            break
        else:
            parts.clear()  # read on: who is still sending would see a reset instead of the answer
    if size > _MOST_BODY:
        raise BadRequest(f"the body is larger than {_MOST_BODY} bytes", status=413)
    return b"".join(parts)


def _refusal(fault: Fault) -> Response:
    assert fault.status is not None
    if fault.status == 429:
        return _too_many("rate limit reached, as the request asked for", fault.retry_after)
    kind = "server_error" if fault.status >= 500 else "invalid_request_error"
    body = error_body(f"status {fault.status}, as the request asked for", kind=kind)
    return JSONResponse(body, status_code=fault.status, headers=_retry_after(fault.retry_after))


def _too_many(message: str, retry_after: float) -> Response:
    body = error_body(message, kind="rate_limit_error", code="rate_limit_exceeded")
    return JSONResponse(body, status_code=429, headers=_retry_after(retry_after))


def _retry_after(seconds: float) -> dict[str, str]:
    """The headers of a wait: whole seconds for HTTP, and milliseconds for clients that read them."""
    return {"retry-after": str(math.ceil(seconds)), "retry-after-ms": str(round(seconds * 1000))}


async def _bad_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequest)
    return JSONResponse(error.body, status_code=error.status)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        message = f"Invalid URL ({request.method} {request.url.path})"
    elif error.status_code == 405:
        message = f"Not allowed to {request.method} on {request.url.path}"
    else:
        message = error.detail
    body = error_body(message, kind="invalid_request_error", code="unknown_url" if error.status_code == 404 else None)
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _crash(_: Request, error: Exception) -> Response:
    return JSONResponse(error_body(f"internal error: {type(error).__name__}"), status_code=500)


class _RequestId:
    """Gives every answer an `x-request-id`: the client's own, else a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client_id = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        raw: bytes = client_id[:256] or b"req_" + uuid.uuid4().hex.encode()
        scope["llmtrace.request_id"] = raw.decode("latin-1")

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", raw)]}
            await send(message)

        await self._app(scope, receive, tagged)
