"""Requests of an agent, made by the real SDK: what other tracers write (by either convention), and ours."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from opentelemetry.trace import Span, SpanKind

from tests.support.recorder import MS, Recorder, usage


@dataclass
class Kind:
    """What the requests are like, in ms."""

    rerank: float = 300
    """How long the reranker takes."""
    repairs: float = 0.0
    """How often the answer has to be asked for again."""
    search_fails: float = 0.0
    """How often the search fails and is made again."""
    score: float = 0.8


@dataclass
class Truth:
    """What is so in one request."""

    whole: float
    """Its duration, s."""
    waited: dict[str, float] = field(default_factory=dict[str, float])
    """Seconds waited for, by component."""
    guard: float = 0.0
    """Seconds of the guardrail, beside which the retrieval and then the reranker run."""
    retrieval: float = 0.0
    rerank: float = 0.0
    repaired: bool = False
    failed: bool = False
    """Whether the search failed and was made again; such tasks are unresolved here."""

    @property
    def usd(self) -> dict[str, float]:
        """USD by component: gpt-4o-mini's 0.15 and 0.60 for a million tokens, the embeddings' 0.02, and the tool's."""
        call = 1000 * 0.15e-6 + 100 * 0.6e-6
        return {
            "model/planner": call, "model/write answer": call, "repair/write answer": call * self.repaired,
            "retrieval/VectorStoreRetriever": 500 * 0.02e-6, "tool/search": 0.005 * (1 + self.failed),
        }  # fmt: skip


def request(recorder: Recorder, kind: Kind, random_: random.Random, number: int) -> Truth:
    """One request: a guardrail beside a retrieval with its reranker, a planner with a search, an answer."""
    start = recorder.clock

    def about(ms: float) -> int:
        return round(ms * MS * random_.uniform(0.9, 1.1))

    fails, repairs = random_.random() < kind.search_fails, random_.random() < kind.repairs
    guard, embed, query, rank = about(400), about(40), about(60), about(kind.rerank)
    prepared = max(guard, embed + query + rank)
    plan, search, answer = about(500), about(700), about(900)
    searching = search * (2 if fails else 1)
    whole = 10 * MS + prepared + plan + searching + answer * (2 if repairs else 1) + 10 * MS
    marks = {"llmtrace.task.id": f"t{number}"}
    root = recorder.span("POST /answer", start, whole, kind=SpanKind.SERVER, attributes={"http.request.method": "POST"})
    resolved = not fails
    task = recorder.span(
        "task answer", start + 5 * MS, whole - 10 * MS, root,
        attributes={**marks, "llmtrace.task.name": "answer", "llmtrace.task.resolved": resolved},
        events=[("gen_ai.evaluation.result", {
            "gen_ai.evaluation.name": "relevance", "gen_ai.evaluation.score.value": kind.score + random_.gauss(0, 0.01),
        })],
    )  # fmt: skip
    at = start + 10 * MS
    recorder.span("guardrail pii", at, guard, task, attributes={**marks, "llmtrace.step.kind": "guardrail"})
    retriever = recorder.span(
        "VectorStoreRetriever", at, embed + query, task, attributes={"openinference.span.kind": "RETRIEVER"}
    )
    embedding = {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "text-embedding-3-small",
        **usage(500, None, 0),
    }
    recorder.span("embeddings text-embedding-3-small", at, embed, retriever, SpanKind.CLIENT, embedding)
    recorder.span("query docs", at + embed, query, retriever, SpanKind.CLIENT, {"db.system.name": "postgresql"})
    recorder.span("cross encoder", at + embed + query, rank, task, attributes={"openinference.span.kind": "RERANKER"})
    at += prepared
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "planner"}
    planner = recorder.span("invoke_agent planner", at, plan + searching, task, attributes=agent)
    _call(recorder, at, plan, planner, marks)
    at += plan
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search", "tool.price": 0.005}
    for failed in [True, False] if fails else [False]:
        sent = recorder.span(
            "execute_tool search", at, search, planner, attributes=tool, error="down" if failed else None
        )
        recorder.span(
            "GET", at, search, sent, SpanKind.CLIENT, {"http.request.method": "GET", "server.address": "find"}
        )
        at += search
    writer = recorder.span("write answer", at, answer * (2 if repairs else 1), task)
    _call(recorder, at, answer, writer, marks)
    if repairs:
        _call(recorder, at + answer, answer, writer, {**marks, "llmtrace.call.repairs": 1})
    recorder.clock = start + whole + 100 * MS
    prepared_by = {"retrieval/VectorStoreRetriever": embed + query, "rerank": rank}
    if guard >= embed + query + rank:
        prepared_by = {"guardrail/pii": guard}
    waited = {
        "model/planner": plan, "tool/search": searching, "model/write answer": answer, "POST /answer": 10 * MS,
        "task answer": 10 * MS, "repair/write answer": answer * repairs, **prepared_by,
    }  # fmt: skip
    return Truth(
        whole / 1e9, {name: length / 1e9 for name, length in waited.items() if length}, guard / 1e9,
        (embed + query) / 1e9, rank / 1e9, repairs, fails,
    )  # fmt: skip


def _call(recorder: Recorder, start: int, length: int, parent: Span, marks: Mapping[str, object]) -> None:
    recorder.clock = start
    queue, decode = 20.0, round(length / MS * 0.7, 3)
    model = {"gen_ai.request.model": "gpt-4o-mini", "gen_ai.response.model": "gpt-4o-mini-2024-07-18"}
    recorder.call(
        [
            ("queue", queue, "client", None, None),
            ("prefill", length / MS - queue - decode, "client", None, 1000),
            ("decode", decode, "client", None, 100),
        ],
        name="chat gpt-4o-mini", parent=parent, attributes={**model, **usage(1000, 0, 100), **marks},
    )  # fmt: skip


def requests(count: int, seed: int = 1, kind: Kind | None = None) -> tuple[Recorder, list[Truth]]:
    """So many requests, one after the other."""
    recorder, random_ = Recorder(), random.Random(seed)
    return recorder, [request(recorder, kind or Kind(), random_, number) for number in range(count)]


def before_and_after(folder: Path) -> list[tuple[Path, list[Truth]]]:
    """The files ``before.otlp.jsonl`` and ``after.otlp.jsonl``: a reranker five times as fast, which gains nothing.

    The guardrail beside it is waited for instead; and answers have to be repaired, searches fail.
    """
    made: list[tuple[Path, list[Truth]]] = []
    after = Kind(rerank=60, repairs=0.5, search_fails=0.3, score=0.7)
    for name, seed, kind in (("before", 1, Kind()), ("after", 2, after)):
        recorder, truths = requests(40, seed, kind)
        made.append((recorder.save(folder / f"{name}.otlp.jsonl"), truths))
    return made
