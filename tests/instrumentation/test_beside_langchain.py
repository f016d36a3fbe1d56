"""Beside other instrumentations of LangChain, whichever was on first: ``make matrix ARGS="-s beside"``.

Each case is a process of its own, for not all of them can be switched off. They are no dependency of the tests: where
one is not installed, its cases skip.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.instrumentation.test_beside import installed
from tests.support.replay import USAGE, Replay, Request, Script, json_answer, openai_body, openai_stream

OTHERS = {
    "traceloop-langchain": ("opentelemetry.instrumentation.langchain", "LangchainInstrumentor"),
    "openinference-langchain": ("openinference.instrumentation.langchain", "LangChainInstrumentor"),
}
MODEL = "gpt-4o-mini"

APPLICATION = """
import asyncio, importlib, json, os, pickle, sys
os.environ |= {"TRACELOOP_TELEMETRY": "false", "LANGSMITH_TRACING": "false"}
import llmtrace
from tests.support.spans import Metrics, Spans

module, name, first, parent, url = sys.argv[1:]
spans, metrics = Spans(), Metrics()
theirs = getattr(importlib.import_module(module), name)()
on = [
    lambda: theirs.instrument(tracer_provider=spans.provider, skip_dep_check=True),
    lambda: llmtrace.instrument(
        "openai", tracer_provider=spans.provider, meter_provider=metrics.provider, parent=parent
    ),
]
for each in on if first == "theirs" else reversed(on):
    each()

import openai
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

common = {"base_url": url, "api_key": "key", "max_retries": 0}
llm = ChatOpenAI(model="gpt-4o-mini", stream_usage=True, **common)
text = OpenAI(model="gpt-4o-mini", **common)
chain = RunnableLambda(lambda text: text) | llm
fan = RunnableParallel(a=llm, b=llm)
embeddings = OpenAIEmbeddings(model="embed", check_embedding_ctx_length=False, **common)
ASK = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "direct"}]}
TWO = [[HumanMessage("one")], [HumanMessage("two")]]


class Seen(BaseCallbackHandler):
    def __init__(self):
        self.runs = []

    def on_chat_model_start(self, serialized, messages, *, run_id, **kwargs):
        self.runs.append(run_id)


async def read(stream):
    return [piece async for piece in stream]


async def then_direct(first):
    await first
    async with openai.AsyncOpenAI(base_url=url, api_key="key") as client:
        await client.chat.completions.create(**ASK)


def direct():
    with openai.OpenAI(base_url=url, api_key="key") as client:
        client.chat.completions.create(**ASK)


def invoke_then_direct():
    llm.invoke("hello")
    direct()


def left_open_then_direct():
    stream = llm.stream("hello")
    next(stream)
    direct()
    list(stream)


def retrieve_then_invoke():
    return (RunnableLambda(lambda text: (embeddings.embed_query(text), text)[1]) | llm).invoke("hello")


def with_a_handler():
    seen, mine = Seen(), []
    mine.append(seen)
    llm.invoke("hello", config={"callbacks": mine})
    assert mine == [seen]
    assert len(seen.runs) == 1


def from_one_callback_manager():
    seen = Seen()
    manager = CallbackManager([seen])
    before = [type(handler).__name__ for handler in manager.handlers]
    llm.invoke("hello", config={"callbacks": manager})
    assert [type(handler).__name__ for handler in manager.handlers] == before
    assert "llmtrace" not in str([type(handler).__module__ for handler in manager.handlers])


SCENARIOS = {
    "invoke": (lambda: llm.invoke("hello"), 1, 0),
    "stream": (lambda: list(llm.stream("hello")), 1, 0),
    "batch": (lambda: llm.batch(["one", "two", "three"]), 3, 0),
    "generate": (lambda: llm.generate(TWO), 2, 0),
    "ainvoke": (lambda: llm.ainvoke("hello"), 1, 0),
    "astream": (lambda: read(llm.astream("hello")), 1, 0),
    "abatch": (lambda: llm.abatch(["one", "two", "three"]), 3, 0),
    "agenerate": (lambda: llm.agenerate(TWO), 2, 0),
    "chain.invoke": (lambda: chain.invoke("hello"), 1, 0),
    "chain.stream": (lambda: list(chain.stream("hello")), 1, 0),
    "chain.batch": (lambda: chain.batch(["one", "two"]), 2, 0),
    "chain.ainvoke": (lambda: chain.ainvoke("hello"), 1, 0),
    "chain.astream": (lambda: read(chain.astream("hello")), 1, 0),
    "parallel": (lambda: fan.invoke("hello"), 2, 0),
    "aparallel": (lambda: fan.ainvoke("hello"), 2, 0),
    "text": (lambda: text.invoke("hello"), 1, 0),
    "atext": (lambda: text.ainvoke("hello"), 1, 0),
    "texts": (lambda: text.generate(["one", "two"]), 1, 0),
    "atexts": (lambda: text.agenerate(["one", "two"]), 1, 0),
    "handler": (with_a_handler, 1, 0),
    "manager": (from_one_callback_manager, 1, 0),
    "retrieval": (retrieve_then_invoke, 1, 1),
    "invoke, direct": (invoke_then_direct, 1, 1),
    "open stream, direct": (left_open_then_direct, 1, 1),
    "ainvoke, direct": (lambda: then_direct(llm.ainvoke("hello")), 1, 1),
    "astream, direct": (lambda: then_direct(read(llm.astream("hello"))), 1, 1),
    "chain.ainvoke, direct": (lambda: then_direct(chain.ainvoke("hello")), 1, 1),
}
USED = ("gen_ai.usage.input_tokens", "llm.token_count.prompt")

pickle.loads(pickle.dumps(CallbackManager.on_chat_model_start))
shown, loop = [], asyncio.new_event_loop()
for title, (go, runs, others) in SCENARIOS.items():
    spans.clear()
    with spans.provider.get_tracer("application").start_as_current_span("around"):
        made = go()
        if asyncio.iscoroutine(made):
            loop.run_until_complete(made)
    spans.flush()
    seen = [
        {
            "name": span.name,
            "ours": span.instrumentation_scope.name == "llmtrace",
            "kind": span.kind.name,
            "id": span.context.span_id,
            "parent": span.parent and span.parent.span_id,
            "used": any(name in span.attributes for name in USED),
            "took": span.end_time - span.start_time,
            "attributes": {name: value for name, value in span.attributes.items() if name.startswith("llmtrace.")},
        }
        for span in spans.finished()
    ]
    shown.append({"case": title, "runs": runs, "others": others, "spans": seen})
points = [each for kind in ("inference", "embeddings") for each in metrics.points(f"gen_ai.client.{kind}.duration")]
print(json.dumps({"cases": shown, "calls": sum(point.count for point in points)}))
llmtrace.uninstrument()
assert type(CallbackManager.on_chat_model_start).__name__ == "function"
"""


def answer(request: Request) -> Script:
    if request.path.endswith("/embeddings"):
        vector = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
        usage = {"prompt_tokens": 3, "total_tokens": 3}
        return json_answer({"object": "list", "model": "embed", "data": [vector], "usage": usage})
    if request.path.endswith("/chat/completions"):
        return openai_stream(usage=USAGE) if request.json.get("stream") else openai_body()
    choice = {"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "stop"}
    body = {"id": "c", "object": "text_completion", "created": 1, "model": MODEL, "choices": [choice], "usage": USAGE}
    return json_answer(body)


@pytest.mark.parametrize("parent", ["auto", "own", "existing"])
@pytest.mark.parametrize("first", ["theirs", "ours"])
@pytest.mark.parametrize("other", OTHERS)
def test_beneath_the_span_of_its_run(replay: Replay, other: str, first: str, parent: str) -> None:
    module, name = OTHERS[other]
    if not installed(module) or not installed("langchain_openai"):
        pytest.skip(f"{other} is not installed")
    replay.serve(answer)
    command = [sys.executable, "-c", APPLICATION, module, name, first, parent, replay.base_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout.splitlines()[-1])
    for case in shown["cases"]:
        check(case, parent)
    assert shown["calls"] == sum(case["runs"] + case["others"] for case in shown["cases"]), (
        "metrics, whatever the spans"
    )
    assert "swallowed" not in done.stderr, done.stderr


def check(case: dict[str, Any], parent: str) -> None:
    """One span with usage for each call of a model: theirs in a run, with the phases beneath; else ours."""
    spans = case["spans"]
    calls = [span for span in spans if span["ours"] and span["kind"] == "CLIENT"]
    theirs = [span for span in spans if not span["ours"] and span["used"]]
    assert len(theirs) == case["runs"], (case["case"], spans)
    if parent == "own":
        assert len(calls) == case["runs"] + case["others"]
        assert {run["id"] for run in theirs} <= {call["parent"] for call in calls}, case["case"]
        return
    assert len(calls) == (0 if parent == "existing" else case["others"]), (case["case"], calls)
    for run in theirs:
        phases = [span for span in spans if span["parent"] == run["id"] and "llmtrace.phase" in span["attributes"]]
        assert phases, (case["case"], "no phases beneath", run)
        assert len({span["name"] for span in phases}) == len(phases), "of one call"
        kept = run["attributes"]
        assert kept["llmtrace.call.adopted"] is True
        assert kept["llmtrace.call.outcome"] == "completed"
        assert sum(span["took"] for span in phases) == round(kept["llmtrace.call.duration"] * 1e9)
    ours = [span for span in spans if span["ours"]]
    assert not [span for span in ours if span["used"] and span not in calls]
