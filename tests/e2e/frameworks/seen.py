"""What a run's spans say, held against what the provider answered."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.frameworks.provider import CACHED, Answer

OURS = "llmtrace"
_USAGE = ("gen_ai.usage.input_tokens", "llm.token_count.prompt", "gen_ai.usage.prompt_tokens")
"""The names under which the instrumentations tell how many tokens went in."""


@dataclass(frozen=True)
class Span:
    """One span of a file."""

    name: str
    scope: str
    id: str
    trace: str
    parent: str
    attributes: Mapping[str, Any]

    @property
    def is_ours(self) -> bool:
        """Whether llmtrace made it."""
        return self.scope == OURS

    @property
    def is_call(self) -> bool:
        """Whether it is the span of a call of ours, or one that a call of ours adopted."""
        return "llmtrace.call.outcome" in self.attributes

    @property
    def told_tokens(self) -> int | None:
        """How many tokens it says went in."""
        return next((self.attributes[name] for name in _USAGE if name in self.attributes), None)


def read(file: Path) -> list[Span]:
    """The spans of an OTLP/JSON file; none where there is no file."""
    spans: list[Span] = []
    for line in file.read_text().splitlines() if file.exists() else ():
        for resource in json.loads(line)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    attributes = {pair["key"]: _value(pair["value"]) for pair in span.get("attributes", ())}
                    ids = span["spanId"], span["traceId"], span.get("parentSpanId", "")
                    spans.append(Span(span["name"], scope.get("scope", {}).get("name", ""), *ids, attributes))
    return spans


def _value(value: Mapping[str, Any]) -> Any:
    kind, content = next(iter(value.items()), ("", None))
    if kind == "intValue":
        return int(content)
    if kind == "arrayValue":
        return [_value(each) for each in content.get("values", ())]
    return content


def faults(spans: Sequence[Span], answers: Sequence[Answer], hops: int) -> list[str]:
    """What is wrong: an answer without its spans or with more of them, wrong counts, a call that nobody answered."""
    calls = [span for span in spans if span.is_call]
    wrong: list[str] = []
    for answer in answers:
        own = [span for span in calls if span.attributes.get("gen_ai.response.id") == answer.id]
        if len(own) != hops:
            wrong.append(f"{answer.id} has {len(own)} spans: {[span.name for span in own]}")
        # A gateway asks for the usage by itself, and hands it on only to a client that asks too.
        if hops == 2 and answer.case == "streamed":
            own_tellers = [span for span in own if span.told_tokens is not None]
            wrong += [] if own_tellers else [f"{answer.id}: no tokens"]
        else:
            own_tellers = own
        for span in own_tellers:
            wrong += [f"{answer.id}: {fault}" for fault in _wrong_in(span, answer)]
        for span in own:
            if not any(below.parent == span.id and below.name.startswith("llm.") for below in spans):
                wrong.append(f"{answer.id}: no phases")
        if hops == 2 and len(own) == 2 and not any(_beneath(own[0], own[1], spans) for own in (own, own[::-1])):
            wrong.append(f"{answer.id}: the gateway's call is not beneath the client's")
    if len(calls) != hops * len(answers):
        wrong.append(f"{len(calls)} calls for {len(answers)} answers")
    return wrong


def _beneath(span: Span, above: Span, spans: Sequence[Span]) -> bool:
    by_id = {each.id: each for each in spans}
    at: Span | None = span
    while at is not None and at.id != above.id:
        at = by_id.get(at.parent)
    return at is not None


def _wrong_in(span: Span, answer: Answer) -> list[str]:
    wrong: list[str] = []
    if (outcome := span.attributes["llmtrace.call.outcome"]) != "completed":
        wrong.append(f"outcome {outcome}")
    expected: dict[str, Any] = {
        "gen_ai.usage.input_tokens": answer.input_tokens,
        "gen_ai.usage.output_tokens": answer.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": CACHED,
    }
    if span.name != "llm.call" and span.is_ours:
        for name, value in expected.items():
            if span.attributes.get(name) != (value if answer.told_usage else None):
                wrong.append(f"{name} is {span.attributes.get(name)}, not {value if answer.told_usage else 'left out'}")
    return wrong


@dataclass(frozen=True)
class Beside:
    """What another instrumentation's spans are, beside llmtrace's."""

    calls: int
    adopted: int
    """Calls whose span is the other's."""
    beneath: int
    """Calls of ours that say nothing twice (``llm.call``), beneath the other's span."""
    silent: int
    """Answers that told their tokens, which no span does."""
    doubled: int
    """Answers whose tokens more spans of model calls tell than there are calls."""


def beside(spans: Sequence[Span], answers: Sequence[Answer], hops: int) -> Beside:
    """Who has what, where another instrumentation was on too."""
    calls = [span for span in spans if span.is_call]
    # No two answers of a run have the same count.
    tellers = Counter(tokens for span in spans if _is_model_call(span) for tokens in {span.told_tokens} - {None})
    told = [answer.input_tokens for answer in answers if answer.told_usage]
    return Beside(
        calls=len(calls),
        adopted=sum(not call.is_ours for call in calls),
        beneath=sum(call.name == "llm.call" for call in calls),
        silent=sum(not tellers[tokens] for tokens in told),
        doubled=sum(tellers[tokens] > hops for tokens in told),
    )


def _is_model_call(span: Span) -> bool:
    kind = span.attributes.get("openinference.span.kind", "LLM")
    return kind == "LLM" and span.attributes.get("gen_ai.operation.name") not in ("invoke_agent", "create_agent")
