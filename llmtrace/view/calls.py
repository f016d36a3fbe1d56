"""Which spans are calls, and what is told of each: its model, outcome, tokens, first-token time and verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmtrace.analyze import contract
from llmtrace.analyze.otlp import Span
from llmtrace.analyze.schema import FROM_ATTRIBUTES
from llmtrace.emit import names
from llmtrace.view import about, text
from llmtrace.view.tree import Node

_NOT_CALLS = {"execute_tool", "retrieval", "create_agent", "invoke_agent", "invoke_workflow"}
_HOPS = 3
"""How far above an ``llm.call`` the LLM span is looked for that it belongs to."""
_NAMES = {column.name: column.attributes for column in FROM_ATTRIBUTES}
"""By which attributes spans tell what the reports' columns hold, best first."""


def is_call(node: Node) -> bool:
    """A client's LLM call: says so by the GenAI conventions or by its phases. A server's own span is none.

    Of another instrumentation's span and the ``llm.call`` beneath it, which are one call, the latter is.
    """
    span = node.span
    if span.kind == "server" or about.phase(span) is not None or span.name == names.ATTEMPT:
        return False
    if span.name == names.CALL:
        return True
    attributes = span.attributes
    if attributes.get(names.OPERATION) in _NOT_CALLS:
        return False
    if names.OUTCOME in attributes or _has_phases(node):
        return True
    if _is_llm_span(span):
        return not _lower_halves(node)
    return names.OPERATION in attributes


def calls(roots: list[Node]) -> Iterator[Node]:
    """The calls among the trees, not looking into a call for further ones, but into spans that were adopted."""
    stack = list(reversed(roots))
    while stack:
        node = stack.pop()
        adopted = node.span.attributes.get(names.CALL_ADOPTED) is True
        if is_call(node) and (adopted or not any(True for _ in _inner_calls(node))):
            yield node
            if not adopted:
                continue
        stack.extend(reversed(node.children))


def _has_phases(node: Node) -> bool:
    return any(about.phase(child.span) is not None or child.span.name == names.ATTEMPT for child in node.children)


def _is_llm_span(span: Span) -> bool:
    """Whether a span says that it is a client's LLM call, whoever wrote it."""
    operation = about.first_text(span.attributes, *_NAMES["operation"])
    return operation is not None and operation.lower() in contract.LLM_OPERATIONS and span.kind != "server"


def _inner_calls(node: Node) -> Iterator[Node]:
    """An agent's or a workflow's span names a GenAI operation too, but the calls are those inside it."""
    if phases(node):
        return
    stack = list(node.children)
    while stack:
        inner = stack.pop()
        if is_call(inner):
            yield inner
        stack.extend(inner.children)


def _lower_halves(node: Node) -> list[Node]:
    """Each ``llm.call`` that belongs to an LLM span, in the order in which they began."""
    found: list[Node] = []
    level = node.children
    for _ in range(_HOPS):
        found += [child for child in level if child.span.name == names.CALL]
        between = [child for child in level if child.span.name != names.CALL and not _is_llm_span(child.span)]
        level = [below for child in between for below in child.children]
    return sorted(found, key=lambda child: child.span.start_ns)


def _upper_half(node: Node) -> Node | None:
    """The LLM span that an ``llm.call`` belongs to."""
    above = node.parent if node.span.name == names.CALL else None
    for _ in range(_HOPS):
        if above is None or _is_llm_span(above.span):
            return above
        above = above.parent
    return None


def phases(call: Node) -> list[Node]:
    """A call's phases, in order; those of the attempt that answered, where it was retried."""
    direct = [child for child in call.children if about.phase(child.span) is not None]
    if direct:
        return direct
    for attempt in reversed([child for child in call.children if child.span.name == names.ATTEMPT]):
        inside = [child for child in attempt.children if about.phase(child.span) is not None]
        if inside:
            return inside
    return []


def merged_reasons(call: Node) -> str:
    """The reasons for which phases of a call are merged, as words with commas; empty where none is."""
    told = [contract.reasons(phase.span.attributes.get(names.MERGED_BECAUSE)) for phase in phases(call)]
    return ", ".join(dict.fromkeys(word for words in told for word in words))


def duration(call: Node) -> float:
    """What the call took, in seconds: an adopted span, which is another instrumentation's, may be longer or shorter."""
    told = about.number(call.span.attributes.get(names.CALL_DURATION))
    return told if told is not None and told >= 0 else call.span.duration


def _began(call: Node) -> int:
    told = call.span.attributes.get(names.CALL_START)
    return told if isinstance(told, int) else call.span.start_ns


# What is told of a call


@dataclass(frozen=True, slots=True)
class CallFacts:
    """A call in brief; ``None`` is what its spans do not tell."""

    model: str | None
    provider: str | None
    server: str | None
    outcome: str | None
    error: str | None
    duration: float
    ttft: float | None
    ttft_is_chunk: bool
    """The first-token time is really the first chunk's: no phase says when the first token came."""
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    decode_rate: float | None
    """Tokens per second after the first."""
    diagnosis: str | None
    """Each cause with its evidence, as a sentence's parts."""
    merged: str | None
    """Why some of its phases are one span."""
    graded: str | None
    """What the blind estimate said of the phases that an engine told."""
    attempts: int


def facts(call: Node) -> CallFacts:
    """What a call's spans say about it."""
    span = call.span
    told, usage = _told_by(call)
    inside = phases(call)
    decode = next((child for child in inside if about.phase(child.span) == "decode"), None)
    ttft = about.number(told.get(names.TTFT))
    if ttft is None and decode is not None:
        ttft = (decode.span.start_ns - _began(call)) / 1e9
    is_chunk = False
    if ttft is None or ttft < 0:
        ttft = about.number(told.get(names.TIME_TO_FIRST_CHUNK))
        is_chunk = ttft is not None
    output = _count(usage, "output_tokens")
    rate = None
    if decode is not None and decode.span.duration > 0:
        handled = about.tokens(decode.span) or output
        rate = (handled - 1) / decode.span.duration if handled and handled > 1 else None
    because = [about.merged_because(child.span) for child in inside]
    graded = [(about.label(child.span), about.blind(child.span.attributes)) for child in inside]
    return CallFacts(
        model=_text(told, "response_model") or _text(told, "request_model"),
        provider=_text(told, "provider"),
        server=_server(told),
        outcome=_text(told, "outcome") or ("error" if span.status.code == "error" else None),
        error=about.error(span),
        duration=duration(call),
        ttft=ttft,
        ttft_is_chunk=is_chunk,
        input_tokens=_count(usage, "input_tokens"),
        cached_tokens=_count(usage, "cached_tokens"),
        output_tokens=output,
        reasoning_tokens=_count(usage, "reasoning_tokens"),
        decode_rate=rate,
        diagnosis=_diagnosis(call),
        merged="; ".join(filter(None, because)) or None,
        graded="; ".join(f"{phase}: {words}" for phase, words in graded if words) or None,
        attempts=sum(1 for child in call.children if child.span.name == names.ATTEMPT),
    )


def _told_by(call: Node) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What is told of a call, and what is told of its usage: by its own span, and by the other half's where it is one.

    Of several ``llm.call`` beneath one span the last one has its usage.
    """
    own = call.span.everything
    upper = _upper_half(call)
    if upper is None:
        return own, own
    both = {**upper.span.everything, **own}
    is_ours = names.OUTCOME in upper.span.attributes
    return both, both if not is_ours and _lower_halves(upper)[-1] is call else own


def _diagnosis(call: Node) -> str | None:
    attributes = call.span.everything
    told = attributes.get(names.DIAGNOSIS) or attributes.get(names.CAUSE)
    causes = (
        [told] if isinstance(told, str) else [str(cause) for cause in told] if isinstance(told, (list, tuple)) else []
    )
    evidence = {event.get(names.CAUSE): event for event in _verdicts(call)}
    return "; ".join(_why(cause, evidence.get(cause, {})) for cause in causes if cause) or None


def _verdicts(call: Node) -> Iterator[Mapping[str, Any]]:
    """The verdicts' events: on the call's span in version 1 of the contract, on the guilty phase's since."""
    attempts = [child for child in call.children if child.span.name == names.ATTEMPT]
    inside = [child for node in (call, *attempts) for child in node.children if about.phase(child.span) is not None]
    for node in (*inside, *attempts, call):
        for event in node.span.events:
            if event.name == names.DIAGNOSIS:
                yield event.attributes


def _why(cause: str, evidence: Mapping[str, Any]) -> str:
    """``queueing: 1.43 s more than usual, beside 4 calls of the application's own (97 % sure)``."""
    parts: list[str] = []
    came, usual = evidence.get(names.OBSERVED), evidence.get(names.EXPECTED)
    if isinstance(came, str) and isinstance(usual, str):
        parts.append(f"{came} instead of {usual}")
    excess = about.number(evidence.get(names.EXCESS))
    if excess:
        parts.append(f"{text.seconds(excess)} more than usual")
    rate = about.number(evidence.get(names.RATE))
    if rate:
        parts.append(f"{text.seconds(rate)} per token")
    reason = evidence.get(names.REASON)
    if isinstance(reason, str) and reason:
        parts.append(reason)
    said = f"{cause}: {', '.join(parts)}" if parts else cause
    sure = about.number(evidence.get(names.CONFIDENCE))
    return said if sure is None else f"{said} ({sure:.0%} sure)"


def _server(attributes: Mapping[str, Any]) -> str | None:
    address = _text(attributes, "address")
    port = about.whole(attributes.get(names.SERVER_PORT))
    return f"{address}:{port}" if address and port and port not in (80, 443) else address


def _text(attributes: Mapping[str, Any], column: str) -> str | None:
    """The text that a column of the reports would hold."""
    return about.first_text(attributes, *_NAMES[column])


def _count(attributes: Mapping[str, Any], column: str) -> int | None:
    """The count that a column of the reports would hold."""
    return about.first_count(attributes, *_NAMES[column])
