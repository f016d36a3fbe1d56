"""Finds the spans that are calls, and their facts: model, outcome, tokens, time to first token and verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmtrace.analyze import contract, plausible
from llmtrace.analyze.engine_spans import ENGINE_SPAN
from llmtrace.analyze.otlp import Span
from llmtrace.analyze.schema import FROM_ATTRIBUTES
from llmtrace.emit import names
from llmtrace.view import about, text
from llmtrace.view.tree import Node, walk

_NOT_CALLS = {"execute_tool", "retrieval", "create_agent", "invoke_agent", "invoke_workflow"}
_HOPS = 3
"""The most levels above an ``llm.call`` at which the LLM span that it belongs to is looked for."""
_AGAIN = {"retry": "retry of a failed call", "fallback": "fallback of a failed call"}
"""For each kind of link to an earlier call, what this call is."""
_NAMES = {column.name: column.attributes for column in FROM_ATTRIBUTES}
"""For each column of the reports, the attributes that fill it, best first."""


def is_call(node: Node) -> bool:
    """Whether a span is a client's LLM call, by the GenAI conventions or by its phases. A server's own span is not.

    Where another instrumentation's span and the ``llm.call`` beneath it are one call, ``llm.call`` is the one.
    """
    span = node.span
    if ENGINE_SPAN in span.attributes:
        return not _is_beneath_a_call(node)
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


def _is_beneath_a_call(node: Node) -> bool:
    """Whether an engine's own span was made for a call above it, or is part of another engine's."""
    above = node.parent
    while above is not None:
        if ENGINE_SPAN in above.span.attributes or is_call(above):
            return True
        above = above.parent
    return False


def calls(roots: list[Node]) -> Iterator[Node]:
    """The calls in the trees. Calls are not looked for inside a call, except inside an adopted span."""
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
    """Whether a span has phases or attempts beneath it. An engine's stages have names of their own, and make none."""
    own = (child.span for child in node.children if child.span.name.startswith(names.SPAN_PREFIX))
    return any(about.phase(span) is not None or span.name == names.ATTEMPT for span in own)


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
    lower_halves: list[Node] = []
    level = node.children
    for _ in range(_HOPS):
        lower_halves += [child for child in level if child.span.name == names.CALL]
        between = [child for child in level if child.span.name != names.CALL and not _is_llm_span(child.span)]
        level = [below for child in between for below in child.children]
    return sorted(lower_halves, key=lambda child: child.span.start_ns)


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
    if ENGINE_SPAN in call.span.attributes:
        stages = [node for node, _ in walk(call.children) if about.phase(node.span) is not None]
        return sorted(stages, key=lambda stage: stage.span.start_ns)
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
    """The call's duration in seconds; an adopted span, another instrumentation's, may be longer or shorter."""
    call_duration = about.number(call.span.attributes.get(names.CALL_DURATION))
    return call_duration if call_duration is not None and call_duration >= 0 else call.span.duration


def _began(call: Node) -> int:
    call_start = call.span.attributes.get(names.CALL_START)
    return call_start if isinstance(call_start, int) else call.span.start_ns


# The facts of a call


@dataclass(frozen=True, slots=True)
class CallFacts:
    """A call in brief; ``None`` is what its spans do not tell."""

    model: str | None
    provider: str | None
    server: str | None
    upstream: str | None
    """Who answered behind a gateway."""
    outcome: str | None
    error: str | None
    duration: float
    ttft: float | None
    ttft_is_chunk: bool
    """Whether ``ttft`` is really the time to the first chunk: no phase says when the first token came."""
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    decode_rate: float | None
    """Tokens per second after the first."""
    diagnosis: str | None
    """Each cause with its evidence, separated by semicolons."""
    merged: str | None
    """Why some of its phases are one span."""
    graded: str | None
    """What the blind estimate said of the phases that an engine told."""
    lost: str | None
    """What more might have come from the prompt cache, and why it did not."""
    attempts: int
    again: str | None
    """What it repeats: an answer that did not pass its check, or a call that failed."""


def facts(call: Node) -> CallFacts:
    """The facts that a call's spans hold. Durations in seconds."""
    span = call.span
    attributes, usage = _attributes_of(call)
    inside = phases(call)
    decode = next((child for child in inside if about.phase(child.span) == "decode"), None)
    ttft = about.number(attributes.get(names.TTFT))
    if ttft is None and decode is not None:
        ttft = (decode.span.start_ns - _began(call)) / 1e9
    is_chunk = False
    if ttft is None or ttft < 0:
        ttft = about.number(attributes.get(names.TIME_TO_FIRST_CHUNK))
        is_chunk = ttft is not None
    output = _count(usage, "output_tokens")
    rate = None
    if decode is not None and decode.span.duration > 0:
        handled = about.tokens(decode.span) or output
        rate = (handled - 1) / decode.span.duration if handled and handled > 1 else None
    because = [about.merged_because(child.span) for child in inside]
    graded = [(about.label(child.span), about.blind(child.span.attributes)) for child in inside]
    return CallFacts(
        model=_text(attributes, "response_model") or _text(attributes, "request_model"),
        provider=_text(attributes, "provider"),
        server=_server(attributes),
        upstream=contract.upstream(_text(attributes, "fingerprint")),
        outcome=_text(attributes, "outcome") or ("error" if span.status.code == "error" else None),
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
        lost=about.lost(attributes),
        attempts=sum(1 for child in call.children if child.span.name == names.ATTEMPT),
        again=_again(span),
    )


def _attributes_of(call: Node) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The attributes of a call, and those to read its usage from; the upper half's are included where there is one.

    Of several ``llm.call`` beneath one span, the last one has its usage.
    """
    own = call.span.everything
    upper = _upper_half(call)
    if upper is None:
        return own, own
    both = {**upper.span.everything, **own}
    is_ours = names.OUTCOME in upper.span.attributes
    return both, both if not is_ours and _lower_halves(upper)[-1] is call else own


def _again(span: Span) -> str | None:
    repairs = plausible.whole(span.attributes.get(names.REPAIRS))
    if repairs:
        return "repair of an answer" if repairs == 1 else f"repair no. {repairs} of an answer"
    kinds = {link.attributes.get(names.LINK_KIND) for link in span.links}
    return next((words for kind, words in _AGAIN.items() if kind in kinds), None)


def _diagnosis(call: Node) -> str | None:
    attributes = call.span.everything
    verdict = attributes.get(names.DIAGNOSIS) or attributes.get(names.CAUSE)
    causes = (
        [verdict]
        if isinstance(verdict, str)
        else [str(cause) for cause in verdict]
        if isinstance(verdict, (list, tuple))
        else []
    )
    evidence = {event.get(names.CAUSE): event for event in _verdicts(call)}
    return "; ".join(_in_words(cause, evidence.get(cause, {})) for cause in causes if cause) or None


def _verdicts(call: Node) -> Iterator[Mapping[str, Any]]:
    """The verdicts' events: on the call's span in version 1 of the contract, on the guilty phase's since."""
    attempts = [child for child in call.children if child.span.name == names.ATTEMPT]
    inside = [child for node in (call, *attempts) for child in node.children if about.phase(child.span) is not None]
    for node in (*inside, *attempts, call):
        for event in node.span.events:
            if event.name == names.DIAGNOSIS:
                yield event.attributes


def _in_words(cause: str, evidence: Mapping[str, Any]) -> str:
    """``queueing: 1.43 s more than usual, beside 4 calls of the application's own (97 % sure)``."""
    words = why(evidence)
    return f"{cause}: {words}" if words and not words.startswith("(") else f"{cause} {words}".rstrip()


def why(evidence: Mapping[str, Any]) -> str:
    """A verdict's evidence, the attributes of its event, in words; empty where it has none."""
    parts: list[str] = []
    observed, expected = evidence.get(names.OBSERVED), evidence.get(names.EXPECTED)
    if isinstance(observed, str) and isinstance(expected, str):
        parts.append(f"{observed} instead of {expected}")
    excess = about.number(evidence.get(names.EXCESS))
    if excess:
        parts.append(f"{text.seconds(excess)} more than usual")
    rate = about.number(evidence.get(names.RATE))
    if rate:
        parts.append(f"{text.seconds(rate)} per token")
    reason = evidence.get(names.REASON)
    if isinstance(reason, str) and reason:
        parts.append(reason)
    sentence = ", ".join(parts)
    sure = about.number(evidence.get(names.CONFIDENCE))
    return sentence if sure is None else f"{sentence} ({sure:.0%} sure)".lstrip()


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
