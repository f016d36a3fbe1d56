"""The timings that OpenAI-compatible engines report, with their fields, units and intervals, turned into one shape.

Each engine is one entry of formulas over its own field names. Number parsing, unit conversion, sums and differences are
done once, for all of them. The intervals are the trap: one engine's "time to first token" starts at arrival, another's
when the request was scheduled, and one's "total" leaves the queue out. Every entry names its fields, unit and
intervals; UNVERIFIED stands where no source confirms them. docs/providers/openai-compatible.md says how to switch them
on.

A field that is missing or no number (text, NaN, infinite, negative, more than 1e6 s) is None, without prejudice to the
others. Whether a number fits the call that it came with is the timeline's to judge, not ours.

Left out on purpose: Ollama's OpenAI endpoint (its own API has them), Together, DeepSeek, Mistral, xAI (no timings in
them), the LiteLLM proxy's totals (the proxy's, not the engine's), Bedrock (a provider of its own).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from llmtrace.observe.answer import ServerTimings
from llmtrace.observe.internal_errors import note
from llmtrace.providers import gateways

_LONGEST: Final = 1e6
"""Seconds. No call takes eleven days: more than that is a wrong unit or a timestamp (llama.cpp once sent 5.7e9 ms)."""
_MOST_TOKENS: Final = 1e9
_INFINITY: Final = float("inf")
_LATEST: Final = 1e11
"""The largest number taken for a point in time, in seconds since any epoch."""

# ---- reading one value -----------------------------------------------------------------------------------------------


def _is_mapping(value: Any) -> bool:
    return type(value) is dict or isinstance(value, Mapping)  # the second alone takes five times as long


def _getter(source: Any) -> Callable[[str], Any]:
    """A function that reads a mapping's key or an object's attribute (a pydantic model's extras too); else None."""
    if _is_mapping(source):
        return source.get
    return lambda key: getattr(source, key, None)


def _step(source: Any, key: str | int) -> Any:
    if isinstance(key, int):
        return source[key] if isinstance(source, list) and len(source) > key else None
    return _getter(source)(key)


def _number(value: Any) -> float | None:
    """``value`` as a float that is finite and not negative: numbers and numeric text, but no bool."""
    if type(value) is not float:
        if isinstance(value, str):
            if len(value) > 40 or "_" in value:  # float() takes "1_0" for 10
                return None
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        try:
            value = float(value)
        except (ValueError, OverflowError):
            return None
    return value if 0.0 <= value < _INFINITY else None


class _Term(NamedTuple):
    key: str
    sign: int
    optional: bool
    clock: bool


_Formula = tuple[tuple[_Term, ...], ...]


def _formula(text: str) -> _Formula:
    """Compile ``"a - b? | c"``: the first alternative whose terms are all there and whose result is a duration.

    ``key?`` counts as nothing where it is absent; ``key@`` is a point in time rather than a duration.
    """
    return tuple(
        tuple(
            _Term(key.rstrip("?@"), -1 if sign == "-" else 1, key.endswith("?"), key.endswith("@"))
            for sign, key in re.findall(r"(?:(?<= )([+-]) )?(\S+)", alternative)
        )
        for alternative in text.split(" | ")
        if alternative
    )


def _evaluate(formula: _Formula, get: Callable[[str], Any], per: float) -> float | None:
    longest = _LONGEST * per
    for terms in formula:
        total = 0.0
        for key, sign, optional, clock in terms:
            value = get(key)
            if value is None:
                if optional:
                    continue
                break
            number = _number(value)
            # A clock that was never set reads 0 (SGLang): no point in time.
            if number is None or (not 0.0 < number < _LATEST if clock else number > longest):
                break
            total += sign * number
        else:
            if 0.0 <= total <= longest:
                return total / per
    return None


# ---- the engines -----------------------------------------------------------------------------------------------------

_S: Final = 1.0
_MS: Final = 1e3
_NS: Final = 1e9


@dataclass(frozen=True, eq=False, repr=False)
class _Engine:
    """One engine's fields: a formula for each of ServerTimings' durations, over fields of which ``per`` make 1 s."""

    name: str
    per: float
    queue: str = ""
    kv_cache_hit: str = ""
    prefill: str = ""
    decode: str = ""
    ttft: str = ""
    total: str = ""
    cached_tokens: str = ""
    mark: tuple[str, str] | None = None
    """Field and value that tell this engine from others that use the same key."""
    own: tuple[str, ...] = ()
    """Fields that only this engine sends: without any of them, its other fields are somebody else's."""
    on_device: tuple[str, str] | None = None
    """Field and value that say that the accelerator's own clock was read."""
    formulas: tuple[tuple[str, _Formula], ...] = field(init=False)

    def __post_init__(self) -> None:
        names = ("queue", "kv_cache_hit", "prefill", "decode", "ttft", "total")
        compiled = tuple((name, _formula(text)) for name in names if (text := getattr(self, name)))
        object.__setattr__(self, "formulas", compiled)

    def reads(self) -> set[str]:
        """Every field that the formulas read."""
        keys = {term.key for _, formula in self.formulas for terms in formula for term in terms}
        return keys | {self.cached_tokens} if self.cached_tokens else keys

    def read(self, source: Any) -> ServerTimings | None:
        """The durations in ``source``, in seconds; None where it has none."""
        if source is None:
            return None
        get = _getter(source)
        if self.mark and get(self.mark[0]) != self.mark[1]:
            return None
        if self.own and all(get(key) is None for key in self.own):
            return None
        durations: dict[str, Any] = {}
        for name, formula in self.formulas:
            duration = _evaluate(formula, get, self.per)
            if duration is not None:
                durations[name] = duration
        if not durations:
            return None
        timings = ServerTimings(self.name, **durations)
        if self.cached_tokens:
            cached = _number(get(self.cached_tokens))
            if cached is not None and cached <= _MOST_TOKENS and cached.is_integer():
                timings.cached_tokens = int(cached)
        if self.on_device and get(self.on_device[0]) == self.on_device[1]:
            timings.device = True
        return timings


# groq SDK types/completion_usage.py. `usage` of a body (of a stream: only with include_usage) and `x_groq.usage` of a
# stream's last chunk, without opting in. Float s. `queue_time` waiting, `prompt_time` prefill, `completion_time`
# decode; `total_time` is prompt + completion WITHOUT the queue, hence the sum here. Every body recorded in 2024 and
# 2025 has a completion_time of exactly its token count over a whole number (1200, 750, 550, ...): a rate, it seems, not
# a clock. Bodies of 2026 do not.
_GROQ = _Engine(
    "groq",
    _S,
    queue="queue_time",
    prefill="prompt_time",
    decode="completion_time",
    total="queue_time + total_time",
    own=("prompt_time", "completion_time"),
)

# cerebras_cloud_sdk types/chat/chat_completion.py. `time_info` beside `usage`. Float s. `total_time` is wider than the
# sum of the three (0.0222 against 0.0068 in the documented sample): server time that no phase owns. In a stream on the
# last chunk: UNVERIFIED.
_CEREBRAS = _Engine(
    "cerebras",
    _S,
    queue="queue_time",
    prefill="prompt_time",
    decode="completion_time",
    total="total_time",
)

# docs.fireworks.ai, fireworks-ai SDK (`dict[str, str]`). `perf_metrics` of the body or of the chunk with finish_reason
# (request: perf_metrics_in_response), else headers `fireworks-` + key, of which a stream has only the first token's.
# Text holding float s (said of two keys; the other durations' unit: UNVERIFIED, their SDK reads them alike).
# `server-time-to-first-token` and `server-processing-time` start at arrival; the `-duration` keys exist on dedicated
# deployments only. Waiting for and being in the tokenizer are before the scheduler took the prompt: queue. The
# generation queue lies between prefill and decode; on which side of the first token is UNVERIFIED, so decode is first
# token to end by the two times that are defined, and `generation-duration` alone only where those are missing.
_FIREWORKS = _Engine(
    "fireworks",
    _S,
    queue="prefill-queue-duration + tokenizer-queue-duration? + tokenizer-duration?",
    prefill="prefill-duration",
    decode="server-processing-time - server-time-to-first-token | generation-duration",
    ttft="server-time-to-first-token",
    total="server-processing-time",
    cached_tokens="cached-prompt-tokens",
)

# vLLM docs/features/per_request_metrics.md. `metrics` of the body or of the stream's last (usage) chunk. Float ms.
# `time_to_first_token_ms` runs from SCHEDULED to the first token: it is the prefill, without the queue;
# `generation_time_ms` first to last token. (vLLM's span attribute of nearly the same name starts at arrival.)
_VLLM = _Engine(
    "vllm",
    _MS,
    queue="queue_time_ms",
    kv_cache_hit="kv_cache_hit_time_ms",
    prefill="time_to_first_token_ms - kv_cache_hit_time_ms?",
    decode="generation_time_ms",
)

# Our own server (llmtrace.reference): vLLM's shape, and the time of copying the cached prefix, which lies INSIDE
# time_to_first_token_ms, under a key of its own.
_REFERENCE = replace(
    _VLLM, name="llmtrace-reference", mark=("engine", "llmtrace-reference"), on_device=("timed_by", "cuda")
)

# llama.cpp tools/server (result_timings). `timings` of the body or the last chunk. Float ms. No queue: waiting for a
# slot is not told. `prompt_n` leaves the cached tokens (`cache_n`) out.
_LLAMA_CPP = _Engine("llama.cpp", _MS, prefill="prompt_ms", decode="predicted_ms", cached_tokens="cache_n")

# ollama-python _types.py, ollama server/routes.go. Top level of a whole answer or of a stream's last line. Whole ns.
# `total_duration` starts when the handler takes the request up, `load_duration` with it: waiting for the scheduler and
# loading the model. Waiting for a free slot, templating and tokenising come after that and are in no field; they are
# what the total has over the others. So the queue is that difference: everything before the prompt is evaluated, and a
# few ms of writing the answer out. Nothing is told of the cache.
_OLLAMA = _Engine(
    "ollama",
    _NS,
    queue="total_duration - prompt_eval_duration - eval_duration | load_duration",
    prefill="prompt_eval_duration",
    decode="eval_duration",
    total="total_duration",
)

# sambanova SDK types/chat/chat_completion_stream_response.py. In `usage` (a stream's last chunk; whether that needs
# include_usage: UNVERIFIED). Float s. Neither queue nor prefill apart; `start_time` and `end_time` are the server's
# wall clock. oMLX has a `time_to_first_token` in its usage as well, and no `total_latency`.
_SAMBANOVA = _Engine(
    "sambanova",
    _S,
    own=("total_latency",),
    decode="total_latency - time_to_first_token",
    ttft="time_to_first_token",
    total="total_latency",
)

# Dynamo lib/llm/src/protocols/common/timing.rs. `nvext.timing` (request: nvext.extra_fields; on which chunk:
# UNVERIFIED, presumably the last). Float ms, what is unknown is absent. The wait starts when the frontend received the
# request, so it holds tokenising and routing; `prefill_time_ms` ends with the first token; ttft and total start at the
# receipt. `kv_hit_rate` counts blocks, not tokens, and is not read.
_DYNAMO = _Engine(
    "dynamo",
    _MS,
    queue="prefill_wait_time_ms | ttft_ms - prefill_time_ms",
    prefill="prefill_time_ms | ttft_ms - prefill_wait_time_ms",
    decode="total_time_ms - ttft_ms | total_time_ms - prefill_wait_time_ms - prefill_time_ms",
    ttft="ttft_ms",
    total="total_time_ms",
)

# TensorRT-LLM tensorrt_llm/serve (merged to main: UNVERIFIED). `Server-Timing` response header, or the same text under
# that key in a stream's trailing `trtllm.perf_metrics` event (after [DONE]). ms. All start at arrival: ttft INCLUDES
# the queue. Disaggregated: disagg_queue ends at the dispatch to the context server, whose own queue comes after; which
# first token gen_ttft means is UNVERIFIED, so no decode there.
_TENSORRT_LLM = _Engine(
    "tensorrt-llm",
    _MS,
    queue="server_queue | disagg_queue + ctx_queue",
    prefill="server_ttft - server_queue | ctx_ttft - ctx_queue",
    decode="server_e2e - server_ttft",
    ttft="server_ttft | disagg_ttft",
    total="server_e2e",
)

# TGI router/src/server.rs. Response headers of /generate (of chat completions, and of streams: UNVERIFIED). Whole ms.
# Validation (tokenising) runs from receipt to queued. `x-inference-time` is prefill and decode in one, so neither is
# known. `x-compute-time` is not read: the same total, but in s here and in ms in the LoRAX fork.
_TGI = _Engine("tgi", _MS, queue="x-queue-time + x-validation-time?", total="x-total-time")
_TGI_SIGNATURE: Final = ("x-queue-time", "x-inference-time", "x-total-time")

# sglang managers/tokenizer_manager.py. `meta_info` of a choice (return_meta_info, not streamed). Float s, and unix s
# for `*_ts`, `forward_entry_time`, `prefill_finished_time`. The queue is the scheduler's; first_token_latency and
# e2e_latency start at receipt. Without --enable-metrics only e2e_latency is there.
_SGLANG = _Engine(
    "sglang",
    _S,
    queue="queue_time",
    prefill="prefill_finished_time@ - forward_entry_time@",
    decode="request_finished_ts@ - prefill_finished_time@ | e2e_latency - first_token_latency",
    ttft="first_token_latency",
    total="e2e_latency",
    cached_tokens="cached_tokens",
)

# openrouter SDK components/openroutermetadata.py. Whole ms from handing the request to the provider behind it until
# that one's body ended (how to opt in: UNVERIFIED). No phase, only that total.
_OPENROUTER = _Engine("openrouter", _MS, total="generation_time")

# botocore's bedrock-runtime service model (latencyMs of Converse, "latency of the call") and the metrics in the last
# chunk of an InvokeModel stream, or the header of a whole answer. Whole ms. The first byte's latency is queue and
# prefill in one. Where the server's clock starts is not said; the network is not in it.
_BEDROCK = _Engine(
    "bedrock",
    _MS,
    decode="invocationLatency - firstByteLatency",
    ttft="firstByteLatency",
    total="invocationLatency | latencyMs | x-amzn-bedrock-invocation-latency",
)


# ---- where they are found --------------------------------------------------------------------------------------------

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


class _Place(NamedTuple):
    path: tuple[str | int, ...]
    engine: _Engine
    parse: Callable[[Any], Any] | None = None


_NOTHING: Final[Mapping[str, Any]] = {}
_IN_FIELDS: Final = (
    _Place(("metrics",), _REFERENCE),
    _Place(("metrics",), _VLLM),
    _Place(("x_groq", "usage"), _GROQ),
    _Place(("time_info",), _CEREBRAS),
    _Place(("perf_metrics",), _FIREWORKS),
    _Place(("timings",), _LLAMA_CPP),
    _Place(("nvext", "timing"), _DYNAMO),
    _Place(("meta_info",), _SGLANG),
    _Place(("meta_info", 0), _SGLANG),
    _Place(("choices", 0, "meta_info"), _SGLANG),
    _Place(("Server-Timing",), _TENSORRT_LLM, _server_timing),
)
_IN_USAGE: Final = (_GROQ, _SAMBANOVA)
_GATEWAY: Final = "openrouter_metadata"
"""Read last: the engine behind the gateway knows more of itself."""

_FIELDS: Final = frozenset(place.path[0] for place in _IN_FIELDS)
_USAGE: Final = frozenset[str]().union(*(engine.reads() for engine in _IN_USAGE))
_FIREWORKS_PREFIX: Final = "fireworks-"
_FIREWORKS_HEADERS: Final = frozenset(_FIREWORKS_PREFIX + key for key in _FIREWORKS.reads())
_TIMING_HEADERS: Final = frozenset({"server-timing"}) | _TGI.reads() | set(_TGI_SIGNATURE) | _FIREWORKS_HEADERS

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
        body_fields = fields if fields and _is_mapping(fields) else _NOTHING
        if not _FIELDS.isdisjoint(body_fields) and (timings := _read_fields(body_fields)):
            return timings
        if usage and _is_mapping(usage) and not _USAGE.isdisjoint(usage) and (timings := _read_usage(usage)):
            return timings
        if headers and (timings := _read_headers(pick_headers(headers))):
            return timings
        return _OPENROUTER.read(body_fields[_GATEWAY]) if _GATEWAY in body_fields else None
    except Exception as error:  # somebody's mapping or model that raises when it is read
        note("reading server timings", error)
        return None


def read_ollama(body: Mapping[str, Any]) -> ServerTimings | None:
    """The timings in the last object of an Ollama answer, in seconds, or None. Never raises."""
    try:
        timings = _OLLAMA.read(body)
        load = None if timings is None else _number(body.get("load_duration"))
        if timings is not None and load is not None and load <= _LONGEST * _NS:
            timings.model_load = load / _NS
        return timings
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
        if source and (timings := _BEDROCK.read(source)) is not None:
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
            milliseconds = _number(picked.get(name))
            if milliseconds is not None and milliseconds <= _LONGEST * _MS:
                return milliseconds / _MS
        server_timing = picked.get("server-timing")
        front_end = re.search(_FRONT_END, server_timing) if isinstance(server_timing, str) else None
        milliseconds = _number(front_end[1]) if front_end else None
        if milliseconds is not None and milliseconds <= _LONGEST * _MS:
            return milliseconds / _MS
    except Exception as error:
        note("reading the processing time", error)
    return None


def _read_fields(fields: Mapping[str, Any]) -> ServerTimings | None:
    for path, engine, parse in _IN_FIELDS:
        if path[0] in fields:
            source: Any = fields
            for key in path:
                source = _step(source, key)
            timings = engine.read(parse(source) if parse else source)
            if timings is not None:
                return timings
    return None


def _read_usage(usage: Mapping[str, Any]) -> ServerTimings | None:
    for engine in _IN_USAGE:
        timings = engine.read(usage)
        if timings is not None:
            return timings
    return None


def _read_headers(headers: Mapping[str, str]) -> ServerTimings | None:
    if _TIMING_HEADERS.isdisjoint(headers):
        return None
    timings = None
    if "server-timing" in headers:
        timings = _TENSORRT_LLM.read(_server_timing(headers["server-timing"]))
    # All three, for others use one of these names for something else: Together's x-inference-time is their own total.
    if timings is None and all(name in headers for name in _TGI_SIGNATURE):
        timings = _TGI.read(headers)
    if timings is None and not _FIREWORKS_HEADERS.isdisjoint(headers):
        names = _FIREWORKS_HEADERS.intersection(headers)
        timings = _FIREWORKS.read({name.removeprefix(_FIREWORKS_PREFIX): headers[name] for name in names})
    return timings
