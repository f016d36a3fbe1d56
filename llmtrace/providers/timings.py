"""Where engines report their timings, and which engine's they are: fields of a body, usage, headers.

The engines themselves, with fields, units and intervals, are in ``engines.py``. Whether a number fits the call that it
came with is the timeline's to judge, not ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from llmtrace.observe.answer import ServerTimings
from llmtrace.observe.internal_errors import note
from llmtrace.providers import gateways
from llmtrace.providers.engine_fields import LONGEST, MS, Engine, is_mapping, number, step
from llmtrace.providers.engines import (
    BEDROCK,
    CEREBRAS,
    DYNAMO,
    FASTFLOWLM,
    FIREWORKS,
    GROQ,
    GROQ_BY_USAGE,
    LLAMA_CPP,
    LM_STUDIO,
    LOCALAI,
    MISTRAL_RS,
    MLC,
    NIM,
    OLLAMA,
    OMLX,
    OPENROUTER,
    REFERENCE,
    SAMBANOVA,
    SGLANG,
    TABBYAPI,
    TENSORRT_LLM,
    TGI,
    TGI_SIGNATURE,
    VLLM,
    WEBLLM,
)

_TOKEN: Final = r"[\w!#$%&'*+.^`|~-]+"
_VALUE: Final = r"""[^\s;,"]+|"(?:[^"\\]|\\.)*\""""
# Compiled when they are first used: most programs never see such a header, and importing this is to be quick.
_METRIC: Final = rf"(?:^|,)\s*({_TOKEN})((?:\s*;\s*{_TOKEN}(?:\s*=\s*(?:{_VALUE}))?)*)"
_PARAMETER: Final = rf";\s*({_TOKEN})(?:\s*=\s*({_VALUE}))?"


def _server_timing(header: Any) -> dict[str, str] | None:
    """``Server-Timing`` (w3c.github.io/server-timing), ``name;dur=1.5;desc="..."``, to its durations by name."""
    if not isinstance(header, str) or "_" not in header or len(header) > 100_000:
        return None  # no underscore: a proxy's entries (gfet4t7, cfL4), none of ours
    durations: dict[str, str] = {}
    for name, parameters in re.findall(_METRIC, header):
        for parameter, value in re.findall(_PARAMETER, parameters):
            if parameter.lower() == "dur":
                durations.setdefault(name, value.strip('"'))
                break
    return durations


def _flat_stats(stats: Any) -> Any:
    """NIM's statistics with those of the response's tokens beside the others."""
    if not is_mapping(stats) or not is_mapping(stats.get("response_tokens")):
        return stats
    return {**stats["response_tokens"], **stats}


class _Place(NamedTuple):
    path: tuple[str | int, ...]
    engine: Engine
    parse: Callable[[Any], Any] | None = None


_NOTHING: Final[Mapping[str, Any]] = {}
_IN_FIELDS: Final = (
    _Place(("metrics",), REFERENCE),
    _Place(("metrics",), VLLM),
    _Place(("x_groq", "usage"), GROQ),
    _Place(("time_info",), CEREBRAS),
    _Place(("perf_metrics",), FIREWORKS),
    _Place(("timings",), LLAMA_CPP),
    _Place(("nvext", "timing"), DYNAMO),
    _Place(("meta_info",), SGLANG),
    _Place(("meta_info", 0), SGLANG),
    _Place(("choices", 0, "meta_info"), SGLANG),
    _Place(("stats",), NIM, _flat_stats),
    _Place(("stats",), LM_STUDIO),
    _Place(("Server-Timing",), TENSORRT_LLM, _server_timing),
)
_IN_USAGE: Final = (TABBYAPI, GROQ_BY_USAGE, SAMBANOVA, OMLX, LOCALAI, MISTRAL_RS, FASTFLOWLM)
_IN_EXTRA: Final = (MLC, WEBLLM)
_EXTRA: Final = "extra"
_GROQS_OWN: Final = "x_groq"
_GATEWAY: Final = "openrouter_metadata"
"""Read last: the engine behind the gateway knows more of itself."""

_FIELDS: Final = frozenset(place.path[0] for place in _IN_FIELDS)
_USAGE: Final = frozenset({_EXTRA}).union(*(engine.reads() | engine.marks() for engine in _IN_USAGE))
_FIREWORKS_PREFIX: Final = "fireworks-"
_FIREWORKS_HEADERS: Final = frozenset(_FIREWORKS_PREFIX + key for key in FIREWORKS.reads())
_TIMING_HEADERS: Final = frozenset({"server-timing"}) | TGI.reads() | set(TGI_SIGNATURE) | _FIREWORKS_HEADERS

_ROUTE_HEADERS: Final = (
    "x-groq-region",
    "x-ms-region",
    "x-ms-served-model",
    "azureml-model-session",
    "fireworks-backend-host",
    "fireworks-deployment",
    "x-inference-version",
    "openai-version",
    "x-openai-proxy-wasm",
)
_EDGE: Final = "cf-ray"
_COLO: Final = r"-([A-Z]{3})$"
_PROCESSING_HEADERS: Final = ("openai-processing-ms", "x-envoy-upstream-service-time")
_FRONT_END: Final = r"\bgfet4t7\s*;\s*dur=(\d+(?:\.\d+)?)"
"""Google's front end in ``Server-Timing``: from its receiving the request to the first byte of the answer, in ms."""

_WANTED: Final = _TIMING_HEADERS | {*_ROUTE_HEADERS, _EDGE, *_PROCESSING_HEADERS} | gateways.HEADERS
_WANTED_RAW: Final = {name.encode(): name for name in _WANTED}


def read_timings(
    fields: Mapping[str, Any], usage: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> ServerTimings | None:
    """The timings that the engine reported, in seconds, or None. Never raises.

    ``fields`` are the top-level fields of the body, or of the stream's last chunks, that the client library leaves
    unmodelled (``x_groq``, ``metrics``, a choice's ``meta_info``, ...); ``usage`` is the usage with its unknown keys;
    ``headers`` are the response's, as the client has them, as a plain dict in lower case, or out of ``pick_headers``.
    """
    try:
        body_fields = fields if fields and is_mapping(fields) else _NOTHING
        counts = usage if usage and is_mapping(usage) else _NOTHING
        if not _FIELDS.isdisjoint(body_fields) and (timings := _read_fields(body_fields)):
            return _of_tabbyapi(timings, counts)
        if not _USAGE.isdisjoint(counts) and (timings := _read_usage(counts, _GROQS_OWN in body_fields)):
            return timings
        if headers and (timings := _read_headers(pick_headers(headers))):
            return timings
        return OPENROUTER.read(body_fields[_GATEWAY]) if _GATEWAY in body_fields else None
    except Exception as error:  # somebody's mapping or model that raises when it is read
        note("reading server timings", error)
        return None


def read_ollama(body: Mapping[str, Any]) -> ServerTimings | None:
    """The timings in the last object of an Ollama answer, in seconds, or None. Never raises."""
    try:
        return OLLAMA.read(body)
    except Exception as error:
        note("reading server timings", error)
        return None


def pick_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The few headers that this module reads, names in lower case: one quick pass that three readers can share.

    A plain dict is returned as it is: its names must be in lower case already. Never raises.
    """
    if type(headers) is dict:
        return headers
    picked: dict[str, str] = {}
    try:
        raw = getattr(headers, "raw", None)
        if isinstance(raw, list):  # httpx.Headers and httpx2.Headers: one look-up there costs as much as this pass
            for key, value in raw:
                name = _WANTED_RAW.get(key.lower())
                if name:
                    text = value.decode("latin-1")
                    picked[name] = f"{picked[name]}, {text}" if name in picked else text
        elif isinstance(headers, Mapping):
            for name, value in headers.items():
                if name.lower() in _WANTED:
                    picked[name.lower()] = value
    except Exception as error:
        note("reading headers", error)
    return picked


def read_bedrock(*sources: Any) -> ServerTimings | None:
    """The timings in the first of ``sources`` (metrics, headers) of Bedrock that has any, in seconds."""
    for source in sources:
        if source and (timings := BEDROCK.read(source)) is not None:
            return timings
    return None


def read_route(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The headers that tell the request's route (region, deployment, host, edge): an allow-list. Never raises.

    Of ``cf-ray``, which is an id of the request, only the edge's airport code is kept, as ``cf-colo``. That is where
    the connection ended, not where the model runs: alone it is no routing change.
    """
    route: dict[str, str] = {}
    try:
        picked = pick_headers(headers)
        for name in _ROUTE_HEADERS:
            value = picked.get(name)
            if isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable():
                route[name] = value
        ray = picked.get(_EDGE)
        colo = re.search(_COLO, ray) if isinstance(ray, str) else None
        if colo:
            route["cf-colo"] = colo[1]
    except Exception as error:
        note("reading the route", error)
    return route


def read_processing_time(headers: Mapping[str, str] | None) -> float | None:
    """Seconds that the provider says it spent until it sent the headers: an upper bound, never a phase. Never raises.

    ``openai-processing-ms`` (what it spans in a stream: UNVERIFIED; it comes with the headers, so no decode is in it),
    else ``x-envoy-upstream-service-time``, the same seen from the proxy in front, a little wider; else what Google's
    front end says in ``Server-Timing``.
    """
    try:
        picked = pick_headers(headers)
        for name in _PROCESSING_HEADERS:
            milliseconds = number(picked.get(name))
            if milliseconds is not None and milliseconds <= LONGEST * MS:
                return milliseconds / MS
        server_timing = picked.get("server-timing")
        front_end = re.search(_FRONT_END, server_timing) if isinstance(server_timing, str) else None
        milliseconds = number(front_end[1]) if front_end else None
        if milliseconds is not None and milliseconds <= LONGEST * MS:
            return milliseconds / MS
    except Exception as error:
        note("reading the processing time", error)
    return None


def _read_fields(fields: Mapping[str, Any]) -> ServerTimings | None:
    for path, engine, parse in _IN_FIELDS:
        if path[0] in fields:
            source: Any = fields
            for key in path:
                source = step(source, key)
            timings = engine.read(parse(source) if parse else source)
            if timings is not None:
                return timings
    return None


def _read_usage(usage: Mapping[str, Any], by_groq: bool) -> ServerTimings | None:
    for engine in (GROQ, *_IN_USAGE) if by_groq else _IN_USAGE:
        timings = engine.read(usage)
        if timings is not None:
            return timings
    extra = usage.get(_EXTRA)
    return next((timings for engine in _IN_EXTRA if (timings := engine.read(extra)) is not None), None)


def _of_tabbyapi(timings: ServerTimings, usage: Mapping[str, Any]) -> ServerTimings:
    """TabbyAPI's usage beside timings of llama.cpp's shape: they are its own, and only the usage tells the queue."""
    if timings.engine == LLAMA_CPP.name and TABBYAPI.claims(usage):
        counted = TABBYAPI.read(usage)
        timings.engine = TABBYAPI.name
        timings.queue = None if counted is None else counted.queue
    return timings


def _read_headers(headers: Mapping[str, str]) -> ServerTimings | None:
    if _TIMING_HEADERS.isdisjoint(headers):
        return None
    timings = None
    if "server-timing" in headers:
        timings = TENSORRT_LLM.read(_server_timing(headers["server-timing"]))
    # All three, for others use one of these names for something else: Together's x-inference-time is their own total.
    if timings is None and all(name in headers for name in TGI_SIGNATURE):
        timings = TGI.read(headers)
    if timings is None and not _FIREWORKS_HEADERS.isdisjoint(headers):
        names = _FIREWORKS_HEADERS.intersection(headers)
        timings = FIREWORKS.read({name.removeprefix(_FIREWORKS_PREFIX): headers[name] for name in names})
    return timings
