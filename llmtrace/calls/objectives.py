"""Objectives: a call's targets from the settings, its figures from its result, and its route's floors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llmtrace.calls.result import Result
from llmtrace.calls.state import Endpoint
from llmtrace.config import Settings
from llmtrace.emit import names
from llmtrace.estimate.floors import Floors
from llmtrace.estimate.routes import RouteTable
from llmtrace.observe import call as calls
from llmtrace.observe import internal_errors
from llmtrace.phases.model import (
    DECODE,
    GATEWAY,
    KV_CACHE_HIT,
    NETWORK,
    OPAQUE,
    PREFILL,
    QUEUE_PREFILL,
    UNATTRIBUTED,
)
from llmtrace.phases.objectives import APPLICATION, Figures, Judgement, Part, Targets, judge, target_of

_OVERHEAD: Final = (NETWORK, GATEWAY, UNATTRIBUTED)
_FILLING: Final = (PREFILL, QUEUE_PREFILL)


class Objectives:
    """The objectives that the settings name, and the floors of each route."""

    def __init__(self, settings: Settings) -> None:
        self._patterns = settings.slo_ttft, settings.slo_itl, settings.slo_total
        self._floors = RouteTable(Floors)

    def targets(self, endpoint: Endpoint, model: str | None) -> Targets:
        """The targets of a call."""
        route = _route(endpoint, model)
        ttft, itl, total = (target_of(patterns, model, route) for patterns in self._patterns)
        return Targets(ttft, itl, total)

    def headers(self, endpoint: Endpoint, model: Any) -> dict[str, str]:
        """A call's targets in whole ms, for llm-d's scheduler (its guide "Predicted Latency-Based Routing")."""
        targets = self.targets(endpoint, model if isinstance(model, str) else None)
        named = (("x-slo-ttft-ms", targets.ttft), ("x-slo-tpot-ms", targets.itl))
        return {name: str(max(1, round(seconds * 1e3))) for name, seconds in named if seconds is not None}

    def judge(self, result: Result) -> Judgement | None:
        """Whether the ended call met its objectives; None where it has none. Its route learns from it."""
        try:
            state = result.state
            targets = self.targets(state.endpoint, state.request.model)
            if not any(targets) or not result.asked:
                return None
            figures = _figures(result)
            with self._floors.lock:
                floors = self._floors.route(state.route)
                judgement = judge(figures, targets, _parts(result, floors, figures.steps), floors.known)
                if result.call.outcome == calls.COMPLETED:
                    _learn(floors, result, figures.steps)
            return judgement
        except Exception as error:
            internal_errors.note("judging objectives", error)
            return None


def _route(endpoint: Endpoint, model: str | None) -> str:
    """The route's name, as reports write it."""
    route, port = f"{endpoint.provider} {model or '?'}", endpoint.port
    if endpoint.host is None:
        return route
    return f"{route} @ {endpoint.host}" if port in (None, 80, 443) else f"{route} @ {endpoint.host}:{port}"


def attributes_of(judgement: Judgement) -> dict[str, Any]:
    """What the call's span says of its objectives."""
    attributes: dict[str, Any] = {
        name: target
        for name, target in zip((names.SLO_TTFT, names.SLO_ITL, names.SLO_TOTAL), judgement.targets, strict=True)
        if target is not None
    }
    if judgement.met is not None:
        attributes[names.SLO_MET] = judgement.met
    if (worst := judgement.worst) is not None:
        attributes[names.SLO_MISSED] = [miss.objective for miss in judgement.misses]
        attributes[names.SLO_EXCESS], attributes[names.SLO_BLAME] = worst.excess, worst.blame
    return attributes


def _figures(result: Result) -> Figures:
    call, seen = result.call, result.seen
    decodes = [phase for phase in result.phases if phase.name == DECODE]
    tokens = decodes[0].tokens if decodes else result.answer.usage.output_tokens
    steps = max(0, (tokens or 0) - 1)
    decode = sum(phase.duration for phase in decodes)
    return Figures(
        ttft=None if seen.first_token is None or not call.streaming else (seen.first_token - call.start) / 1e9,
        itl=decode / steps if steps and decode else None,
        total=((call.end or call.start) - call.start) / 1e9,
        steps=steps,
        streaming=call.streaming,
        failed=result.failure is not None,
        ended=call.outcome == calls.COMPLETED,
    )


def _application(result: Result) -> float:
    """How long the application held the stream, s."""
    return result.call.chunk_timing.consumer_wait / 1e9


def _parts(result: Result, floors: Floors, steps: int) -> list[Part]:
    uncached = result.seen.uncached_tokens or 0
    parts: list[Part] = []
    for phase in result.phases:
        name, seconds = phase.name, phase.duration
        if name == DECODE:
            held = min(seconds, _application(result))
            parts.append(Part(APPLICATION, held, 0.0, False))
            parts.append(Part(DECODE, seconds - held, floors.decode(steps), False))
            continue
        floor = floors.overhead(name) if name in _OVERHEAD else 0.0
        if name in _FILLING:
            floor = floors.prefill(uncached)
        elif name == KV_CACHE_HIT:  # what a hit takes cannot be had for less
            floor = seconds
        parts.append(Part(name, seconds, floor, name != OPAQUE))
    return parts


def _learn(floors: Floors, result: Result, steps: int) -> None:
    lengths: Mapping[str, float] = _lengths(result)
    if OPAQUE in lengths or result.answer.usage.output_tokens is None:
        return
    floors.learn(
        {name: lengths.get(name, 0.0) for name in _OVERHEAD},
        lengths.get(PREFILL, 0.0) + lengths.get(QUEUE_PREFILL, 0.0),
        result.seen.uncached_tokens or 0,
        max(0.0, lengths.get(DECODE, 0.0) - _application(result)),
        steps,
    )


def _lengths(result: Result) -> dict[str, float]:
    lengths: dict[str, float] = {}
    for phase in result.phases:
        lengths[phase.name] = lengths.get(phase.name, 0.0) + phase.duration
    return lengths
