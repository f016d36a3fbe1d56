"""What gateways say of a call's way: who answered, their own time and attempts, their cache, the price.

A gateway stands between client and engine: the LiteLLM proxy, OpenRouter, a CDN. Each is one entry of the fields that
it tells, most of them response headers; ``engines.py`` is the same for engines. docs/gateways.md has them as a table,
which a test holds against this module.

A gateway is claimed by a mark of its own: a header or field that nobody else sends. What no page or source of a gateway
confirms is not read. Left out on purpose: Bifrost's upstream latency (all its waits for upstreams, and so not its own
time; a stream's headers come before most of it) and LiteLLM's response duration (the same).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from llmtrace.fixed import fixed
from llmtrace.observe.answer import Hop, ToldAttempt
from llmtrace.observe.internal_errors import note
from llmtrace.providers.safe import get, items

_LONGEST_MS: Final = 1e9
_MOST_ATTEMPTS: Final = 100
"""More than that is no count of attempts."""
_DEAREST: Final = 1e6
"""USD. No call costs a million."""


@fixed(kw_only=True)
class _Gateway:
    """One gateway's response headers, in lower case. Of several names for one thing, the first that is there counts."""

    name: str
    marks: tuple[str, ...] = ()
    """Headers that only this gateway sends: any of them claims it."""
    upstream: tuple[str, ...] = ()
    """Who answered: a provider's name, or a URL, of which only the host is kept."""
    deployment: tuple[str, ...] = ()
    region: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    both: tuple[str, ...] = ()
    """Upstream and model in one: ``openai/gpt-4o``."""
    spent: tuple[str, ...] = ()
    """The gateway's own time, ms."""
    spent_cached: tuple[str, ...] = ()
    """The same of an answer from its cache, ms."""
    retries: tuple[str, ...] = ()
    """Attempts beyond the first."""
    attempts: tuple[str, ...] = ()
    """All attempts, the one that answered too."""
    fallbacks: tuple[str, ...] = ()
    """How many others were asked before the one that answered."""
    cache: tuple[str, ...] = ()
    """Whether the answer came from the gateway's cache: one of ``hits``."""
    hits: tuple[str, ...] = ()
    """The values that say so, in lower case; empty: any value does."""
    cost: tuple[str, ...] = ()
    """USD."""

    def headers(self) -> set[str]:
        """Every header that is read."""
        groups = (
            self.marks, self.upstream, self.deployment, self.region, self.model, self.both, self.spent,
            self.spent_cached, self.retries, self.attempts, self.fallbacks, self.cache, self.cost,
        )  # fmt: skip
        return {name for group in groups for name in group}


# docs.litellm.ai "Response Headers"; litellm 1.110 proxy/common_request_processing.py. A header whose value is unknown
# is left out. `overhead` is the total less the provider's time. The upstream's own headers come with `llm_provider-` in
# front. The cache key is there where the answer came from the cache. The cost is that of the answer, which a stream's
# headers come before: then it is not believed.
_LITELLM = _Gateway(
    name="litellm",
    marks=("x-litellm-call-id", "x-litellm-version", "x-litellm-model-id", "x-litellm-model-api-base"),
    upstream=("x-litellm-model-api-base",),
    deployment=("x-litellm-model-id",),
    region=("x-litellm-model-region", "llm_provider-x-ms-region", "llm_provider-x-groq-region"),
    model=("x-litellm-model-name",),
    spent=("x-litellm-overhead-duration-ms",),
    retries=("x-litellm-attempted-retries",),
    fallbacks=("x-litellm-attempted-fallbacks",),
    cache=("x-litellm-cache-key",),
    cost=("x-litellm-response-cost",),
)

# docs.getbifrost.ai "Response Headers"; transports/bifrost-http/lib/responseheaders.go. Before the first chunk, in
# streams too. The older names mirror fields that are deprecated. The key is its name in the configuration: of several
# for one provider Bifrost chooses one. The fallback's index counts from 1. The cost is the answer's, as LiteLLM's is.
_BIFROST = _Gateway(
    name="bifrost",
    marks=("x-bifrost-request-id", "x-bifrost-request-type", "x-bifrost-routing-info-provider", "x-bifrost-provider"),
    upstream=("x-bifrost-routing-info-provider", "x-bifrost-provider"),
    deployment=("x-bifrost-routing-info-key",),
    model=("x-bifrost-routing-info-model", "x-bifrost-resolved-model"),
    fallbacks=("x-bifrost-fallback-index",),
    cost=("x-bifrost-cost-usd",),
)

# ngrok.com/docs/ai-gateway "Response headers" (2026-09): the count of upstream attempts, the model that answered.
_NGROK = _Gateway(
    name="ngrok",
    marks=("ngrok-aig-request-id", "ngrok-aig-attempts"),
    model=("ngrok-aig-model",),
    attempts=("ngrok-aig-attempts",),
)

# portkey.ai/docs "Response Schema"; its open gateway sends the provider too. The first request is not counted among the
# attempts: 3 means four; -1 means that they were used up or not wanted. The option's index is a path into the user's
# config.
_PORTKEY = _Gateway(
    name="portkey",
    marks=("x-portkey-trace-id", "x-portkey-cache-status", "x-portkey-last-used-option-index"),
    upstream=("x-portkey-provider",),
    deployment=("x-portkey-last-used-option-index",),
    retries=("x-portkey-retry-attempt-count",),
    cache=("x-portkey-cache-status",),
    hits=("hit", "semantic hit"),
)

# developers.cloudflare.com/ai-gateway "Caching", "Fallbacks", "Using a dynamic route": step 0 is the primary provider,
# 1 the first fallback; provider and model are those that answered.
_CLOUDFLARE = _Gateway(
    name="cloudflare",
    marks=("cf-aig-log-id", "cf-aig-step", "cf-aig-cache-status", "cf-aig-provider", "cf-aig-model"),
    upstream=("cf-aig-provider",),
    deployment=("cf-aig-step",),
    model=("cf-aig-model",),
    fallbacks=("cf-aig-step",),
    cache=("cf-aig-cache-status",),
    hits=("hit",),
)

# Hugging Face's router, by its recorded answers and huggingface/chat-ui, which shows it: the provider that answered.
# The upstream's own headers come through beside it, a Kong's among them.
_HUGGINGFACE = _Gateway(
    name="huggingface",
    marks=("x-inference-provider",),
    upstream=("x-inference-provider",),
)

# Kong core/handler.lua: whole ms that were spent in Kong before the request went to the upstream (its own retries
# included, developer.konghq.com). A response of Kong's own, one from the cache of its AI Semantic Cache among them, has
# x-kong-response-latency instead. AI Proxy names the model that it chose, with the provider in front: `openai/gpt-4o`.
_KONG = _Gateway(
    name="kong",
    marks=("x-kong-proxy-latency", "x-kong-upstream-latency", "x-kong-response-latency", "x-kong-llm-model"),
    both=("x-kong-llm-model",),
    spent=("x-kong-proxy-latency",),
    spent_cached=("x-kong-response-latency",),
    cache=("x-cache-status",),
    hits=("hit",),
)

GATEWAYS: Final = (_LITELLM, _BIFROST, _NGROK, _PORTKEY, _CLOUDFLARE, _HUGGINGFACE, _KONG)

# CloudFront developer guide, "Server-Timing header": `cdn-downstream-fbl` runs from the request's last byte to the
# answer's first, `cdn-upstream-fbl` is the part of it in which the origin was waited for. Whole ms. What is left is the
# CDN's, its connection to the origin included.
_CLOUDFRONT: Final = "cloudfront"
_CDN: Final = r"\b(cdn-(?:up|down)stream-fbl)\s*(?:;\s*dur)?\s*=\s*(\d+(?:\.\d+)?)"
_CDN_POP: Final = r'\bcdn-pop\s*;\s*desc\s*=\s*"?([\w-]+)'
_SERVER_TIMING: Final = "server-timing"
_HOST: Final = r"[\w.-]+(?: [\w.-]+)*|\[[0-9A-Fa-f:.]+\]"
"""A host, or a provider's name, which may be of several words."""

# ---- what stands in a body, or in a stream's chunks ------------------------------------------------------------------

# openrouter.ai/docs "Router Metadata"; openrouter SDK components/openroutermetadata.py, routerattempt.py, chatusage.py.
# `provider` stands at the top of a body and of each chunk, without asking. `openrouter_metadata` comes with the last
# chunk where the request's header X-OpenRouter-Metadata asks for it. `usage.cost` is what OpenRouter charges, in USD:
# with a key of the caller's own (`is_byok`) nothing, or its fee, and what the provider charges stands beside it.
OPENROUTER: Final = "openrouter"
_METADATA: Final = "openrouter_metadata"
_PROVIDER: Final = "provider"
_ID: Final = "gen-"
"""How OpenRouter's ids begin (``GET /generation?id=gen-...``)."""

# docs.getbifrost.ai "Semantic Caching"; core/schemas/bifrost.go, BifrostResponseExtraFields. In each chunk too.
_BIFROSTS: Final = "extra_fields"
_CACHE: Final = "cache_debug"
_TYPE: Final = "request_type"

# learn.microsoft.com "Monitor model router in Microsoft Foundry" (2026-09): with the header Foundry-Features
# ModelRouterControls=V1Preview. Each entry of the trace is a decision, of which `latency_ms` is the time and `attempts`
# are the models that were tried, in order. The model that answered is the body's `model`.
AZURE_ROUTER: Final = "azure-model-router"
_SELECTION: Final = "model_selection_details"
_DETAILS: Final = "model_router_details"
_TRACE: Final = "routing_trace"

# USD. Bifrost's and Perplexity's are split into parts: core/schemas/chatcompletions.go, BifrostCost.
_COST: Final = "cost"
_TOTAL: Final = "total_cost"
_OWN_KEY: Final = "is_byok"
_DETAILS_OF_COST: Final = "cost_details"
_UPSTREAMS: Final = "upstream_inference_cost"
_TICKS: Final = 1e10
"""xAI's in a USD (docs.x.ai "Cost Tracking")."""

BODY_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    OPENROUTER: (
        _PROVIDER,
        _METADATA,
        f"usage.{_COST}",
        f"usage.{_OWN_KEY}",
        f"usage.{_DETAILS_OF_COST}.{_UPSTREAMS}",
    ),
    _BIFROST.name: (_BIFROSTS, f"{_BIFROSTS}.{_CACHE}", f"usage.{_COST}.{_TOTAL}"),
    AZURE_ROUTER: (f"{_SELECTION}.{_DETAILS}.{_TRACE}",),
}
"""What is read of bodies and chunks, by gateway."""

HEADERS: Final = frozenset[str]().union(*(gateway.headers() for gateway in GATEWAYS))
"""Every response header that is read here, ``Server-Timing`` aside."""


def read_headers(headers: Mapping[str, str] | None, streaming: bool) -> Hop | None:
    """The hop that response headers (names in lower case) tell of, None where they name no gateway. Never raises."""
    if not headers:
        return None
    try:
        for gateway in GATEWAYS:
            if any(mark in headers for mark in gateway.marks):
                return _hop(gateway, headers, streaming)
        timing = headers.get(_SERVER_TIMING)
        return _cdn(timing) if isinstance(timing, str) and "cdn-" in timing and len(timing) < 10_000 else None
    except Exception as error:
        note("reading a gateway's headers", error)
        return None


def read_body(fields: Mapping[str, Any], usage: Any) -> Hop | None:
    """The hop that a body's (or the last chunks') top-level fields tell of, and its usage. Never raises."""
    try:
        cost = _price(usage)
        hop = _openrouter(fields) or _bifrost(fields) or _azure_router(fields)
        if hop is None and cost is not None:
            hop = Hop(None)
        if hop is not None:
            hop.cost = cost
        return hop
    except Exception as error:
        note("reading a gateway's fields", error)
        return None


def _price(usage: Any) -> float | None:
    """What the call cost, in USD, as its usage tells it."""
    cost = get(usage, _COST)
    if cost is not None and not isinstance(cost, (int, float, str)):  # what each part cost, and the whole
        return _dollars(get(cost, _TOTAL)) if get(cost, "currency") in (None, "USD") else None
    charged = _dollars(cost)
    if charged is None:
        ticks = _number(get(usage, "cost_in_usd_ticks"))
        return None if ticks is None else _dollars(ticks / _TICKS)
    if get(usage, _OWN_KEY) is not True:
        return charged
    upstream = _dollars(get(get(usage, _DETAILS_OF_COST), _UPSTREAMS))
    return None if upstream is None else _dollars(charged + upstream)


def joined(body: Hop | None, headers: Hop | None) -> Hop | None:
    """What both tell: the body speaks of the answer itself, so it counts where both say something."""
    if body is None or headers is None:
        return headers if body is None else body
    for name in ("upstream", "deployment", "region", "model", "spent", "cost"):
        if getattr(body, name) is None:
            setattr(body, name, getattr(headers, name))
    if not body.attempts:
        body.attempts = headers.attempts
        body.retries, body.fallbacks = headers.retries, headers.fallbacks
    # Who is nearest to the client is the one that says who it is in its headers.
    body.gateway = headers.gateway or body.gateway
    body.cached = body.cached or headers.cached
    return body


def _hop(gateway: _Gateway, headers: Mapping[str, str], streaming: bool) -> Hop:
    def first(names: tuple[str, ...]) -> str | None:
        return next((value for name in names if isinstance(value := headers.get(name), str) and value), None)

    hop = Hop(gateway.name)
    hop.upstream = _host(first(gateway.upstream))
    hop.deployment, hop.region = _word(first(gateway.deployment)), _word(first(gateway.region))
    hop.model = _word(first(gateway.model))
    if both := first(gateway.both):
        upstream, slash, model = both.partition("/")
        hop.upstream, hop.model = (_word(upstream), _word(model)) if slash else (None, _word(both))
    said = first(gateway.cache)
    hop.cached = said is not None and (not gateway.hits or said.strip().lower() in gateway.hits)
    spent = _number(first((*gateway.spent, *(gateway.spent_cached if hop.cached else ()))))
    if spent is not None and spent <= _LONGEST_MS:
        hop.spent = spent / 1e3
    hop.retries, hop.fallbacks = _count(first(gateway.retries)), _count(first(gateway.fallbacks))
    tried = _count(first(gateway.attempts))
    if tried:
        hop.retries = tried - 1
    hop.attempts = (ToldAttempt(),) * min((hop.retries or 0) + (hop.fallbacks or 0), _MOST_ATTEMPTS)
    if not streaming:
        hop.cost = _dollars(first(gateway.cost))
    return hop


def _cdn(timing: str) -> Hop:
    hop = Hop(_CLOUDFRONT)
    told = {name: float(value) for name, value in re.findall(_CDN, timing)}
    down, up = told.get("cdn-downstream-fbl"), told.get("cdn-upstream-fbl")
    hop.cached = re.search(r"\bcdn-cache-hit\b", timing) is not None
    if down is not None and down <= _LONGEST_MS and (up is not None or hop.cached):
        hop.spent = max(0.0, down - (up or 0.0)) / 1e3
    pop = re.search(_CDN_POP, timing)
    hop.region = pop[1] if pop else None
    return hop


def _openrouter(fields: Mapping[str, Any]) -> Hop | None:
    metadata, upstream = fields.get(_METADATA), _word(fields.get(_PROVIDER))
    if metadata is None:
        if upstream is None:
            return None
        return Hop(OPENROUTER if str(fields.get("id")).startswith(_ID) else None, upstream=upstream)
    hop = Hop(OPENROUTER, upstream=upstream)
    hop.region = _word(get(metadata, "region"))
    failed: list[ToldAttempt] = []
    for each in items(get(metadata, "attempts"))[:_MOST_ATTEMPTS]:
        told = ToldAttempt(_word(get(each, "provider")), _word(get(each, "model")), _status(get(each, "status")))
        if told == ToldAttempt():
            continue
        if told.status is None or told.status >= 400:
            failed.append(told)
        else:
            hop.upstream, hop.model = hop.upstream or told.upstream, told.model
    for each in items(get(get(metadata, "endpoints"), "available"))[:_MOST_ATTEMPTS]:
        if get(each, "selected") is True:
            hop.upstream = hop.upstream or _word(get(each, "provider"))
            hop.model = hop.model or _word(get(each, "model"))
    number = _count(get(metadata, "attempt"))
    if not failed and number and number > 1:
        failed = [ToldAttempt()] * min(number - 1, _MOST_ATTEMPTS)
    hop.attempts = tuple(failed)
    hop.retries = len(failed) if failed or number else None
    return hop


def _bifrost(fields: Mapping[str, Any]) -> Hop | None:
    told = fields.get(_BIFROSTS)
    if get(told, _TYPE) is None and get(told, _CACHE) is None:
        return None
    return Hop(
        _BIFROST.name,
        upstream=_word(get(told, "provider")),
        model=_word(get(told, "resolved_model_used")) or _word(get(told, "model_deployment")),
        cached=get(get(told, _CACHE), "cache_hit") is True,
    )


def _azure_router(fields: Mapping[str, Any]) -> Hop | None:
    details = get(fields.get(_SELECTION), _DETAILS)
    if details is None:
        return None
    hop = Hop(AZURE_ROUTER, model=_word(fields.get("model")), chooses=True)
    trace = items(get(details, _TRACE))[:_MOST_ATTEMPTS]
    spent = [ms for each in trace if (ms := _number(get(each, "latency_ms"))) is not None]
    if spent and sum(spent) <= _LONGEST_MS:
        hop.spent = sum(spent) / 1e3
    failed: list[ToldAttempt] = []
    for each in [attempt for entry in trace for attempt in items(get(entry, "attempts"))][:_MOST_ATTEMPTS]:
        told = ToldAttempt(None, _word(get(each, "model")), _status(get(get(each, "result"), "status")))
        if told.status is None:
            continue
        if told.status >= 400:
            failed.append(told)
        else:
            hop.model = hop.model or told.model
    hop.attempts = tuple(failed)
    hop.fallbacks = len(failed) if trace else None
    return hop


# ---- reading one value -----------------------------------------------------------------------------------------------


def _word(value: Any) -> str | None:
    """``value`` if it is a name: short, printable, without the signs that part a fingerprint's entries."""
    if not isinstance(value, str) or not 0 < len(value) <= 200 or not value.isprintable():
        return None
    return value.replace(";", ",")


def _host(value: str | None) -> str | None:
    """A URL's host and port, with or without a scheme; a name as it is. A path may hold an account's name, and what
    stands before the host or after a question mark a key.
    """
    if value is None:
        return None
    try:
        parts = urlsplit(value if "://" in value else f"//{value}")
        port = parts.port
    except ValueError:
        return None
    if not parts.netloc:
        return None
    if "@" in value.partition(parts.netloc)[2]:  # a password with a slash in it: what looks like the host is the user
        return None
    host = parts.netloc.rpartition("@")[2].removesuffix(":" if port is None else f":{port}")
    if re.fullmatch(_HOST, host) is None:
        return None
    host = host.lower() if "://" in value else host
    return _word(host if port is None else f"{host}:{port}")


def _number(value: Any) -> float | None:
    """``value`` as a float that is finite and not negative: numbers and numeric text, but no bool."""
    if isinstance(value, str):
        if len(value) > 40 or "_" in value:
            return None
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0.0 <= number < float("inf") else None


def _count(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number.is_integer() and number <= _MOST_ATTEMPTS else None


def _status(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 100 <= value < 1000 else None


def _dollars(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and number <= _DEAREST else None
