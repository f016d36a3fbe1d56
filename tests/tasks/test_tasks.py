"""Tasks and steps: spans, baggage, budgets, and what crosses threads, tasks and processes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.trace import StatusCode

import llmtrace
from llmtrace.tasks import units
from tests.conftest import Tracing
from tests.support import replay as play
from tests.support.apis import Sync
from tests.support.replay import Replay, openai_stream
from tests.support.spans import Metrics, Spans, seconds


@pytest.fixture(autouse=True)
def here(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(units, "_providers", [spans.provider])
    yield
    assert not baggage.get_all()
    assert trace.get_current_span() is trace.INVALID_SPAN


def named(spans: Spans, name: str) -> Any:
    (found,) = [span for span in spans.finished() if span.name == name]
    return found


def test_a_resolved_task_and_its_steps(spans: Spans) -> None:
    with llmtrace.task("resolve ticket", id="t-1", budget=0.5) as task:
        with llmtrace.step("top five", kind="rerank", cost_usd=0.002):
            pass
        with llmtrace.step("lookup", kind="tool") as step:
            step.cost(0.1)
        task.resolved()
    whole, rerank, tool = (
        named(spans, "task resolve ticket"),
        named(spans, "rerank top five"),
        named(spans, "tool lookup"),
    )
    assert dict(whole.attributes) == {
        "llmtrace.task.name": "resolve ticket",
        "llmtrace.task.id": "t-1",
        "llmtrace.task.budget": 0.5,
        "llmtrace.task.resolved": True,
        "llmtrace.task.spent": pytest.approx(0.102),
    }
    assert dict(rerank.attributes) == {
        "llmtrace.step.kind": "rerank", "llmtrace.cost.usd": 0.002, "llmtrace.task.id": "t-1",
    }  # fmt: skip
    assert tool.attributes["gen_ai.operation.name"] == "execute_tool"
    assert tool.attributes["gen_ai.tool.name"] == "lookup"
    assert rerank.parent.span_id == tool.parent.span_id == whole.context.span_id
    assert not task.over_budget


def test_a_task_that_fails_says_so_and_raises(spans: Spans) -> None:
    with pytest.raises(ValueError, match="secret"), llmtrace.task("fails") as task:
        task.resolved()
        raise ValueError("secret")
    span = named(spans, "task fails")
    assert span.attributes["llmtrace.task.resolved"] is False
    assert span.attributes["error.type"] == "ValueError"
    assert span.status.status_code is StatusCode.ERROR
    assert "secret" not in str(span.to_json())


def test_nothing_said_is_nothing_written(spans: Spans) -> None:
    with llmtrace.task("quiet"):
        pass
    assert "llmtrace.task.resolved" not in named(spans, "task quiet").attributes


def test_calls_in_a_task_are_marked_and_counted(
    traced: Any, api: Sync, replay: Replay, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay.play(openai_stream(usage=play.USAGE))
    with llmtrace.task("answer", id="t-2", budget=1e-9) as task, llmtrace.step("check", kind="guardrail"):
        api.drain(api.stream(model="gpt-4o-mini"))
    call = spans.one("completed")
    assert call.attributes["llmtrace.task.id"] == "t-2"
    assert call.attributes["llmtrace.step.kind"] == "guardrail"
    assert call.parent.span_id == named(spans, "guardrail check").context.span_id
    # The stream's answer names the replay's model; whoever knows its price has counted it.
    from llmtrace.tasks import prices

    known = prices.price("openai", call.attributes["gen_ai.response.model"])
    assert (task.spent > 0) is (known is not None)
    assert task.over_budget is (task.spent > 1e-9)


def test_calls_outside_are_not_marked(traced: Any, api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream(usage=play.USAGE))
    api.drain(api.stream())
    assert "llmtrace.task.id" not in spans.one("completed").attributes


def test_threads(spans: Spans) -> None:
    def work() -> None:
        with llmtrace.step("inside", kind="retrieval"):
            pass

    with llmtrace.task("threads") as task, ThreadPoolExecutor(2) as pool:
        pool.submit(task.run, work).result()
        pool.submit(work).result()
    whole = named(spans, "task threads")
    carried, loose = [span for span in spans.finished() if span.name == "retrieval inside"]
    assert carried.parent.span_id == whole.context.span_id
    assert carried.attributes["llmtrace.task.id"] == task.id
    assert loose.parent is None


def test_asyncio_tasks_keep_apart(spans: Spans) -> None:
    async def one(name: str) -> None:
        async with llmtrace.task(name, id=name):
            await asyncio.sleep(0)
            async with llmtrace.step("look", kind="retrieval"):
                await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(one("a"), one("b"))

    asyncio.run(both())
    for span in spans.finished():
        if span.name == "retrieval look":
            whole = named(spans, f"task {span.attributes['llmtrace.task.id']}")
            assert span.parent.span_id == whole.context.span_id


CHILD = """
import json, sys, llmtrace
from opentelemetry import baggage
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from llmtrace.tasks import units
memory = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(memory))
units.use_provider(provider)
carried = json.loads(sys.argv[1])
if carried:
    with llmtrace.resume(carried):
        with llmtrace.step("far", kind="tool"):
            pass
else:
    with llmtrace.step("far", kind="tool"):
        pass
(span,) = memory.get_finished_spans()
print(json.dumps([f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}", dict(span.attributes)]))
"""


@pytest.mark.parametrize("way", ["resume", "environment"])
def test_another_process_goes_on(spans: Spans, way: str) -> None:
    with llmtrace.task("far away", id="t 9, and =more") as task:
        carried = task.carrier()
        assert carried == llmtrace.carrier()
        environ = {name.upper(): value for name, value in carried.items()} if way == "environment" else {}
        given = json.dumps(carried if way == "resume" else {})
        told = subprocess.run(
            [sys.executable, "-c", CHILD, given],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
    trace_id, parent, marked = json.loads(told.stdout)
    whole = named(spans, "task far away")
    assert trace_id == f"{whole.context.trace_id:032x}"
    assert parent == f"{whole.context.span_id:016x}"
    assert marked["llmtrace.task.id"] == "t 9, and =more"


@pytest.mark.parametrize("carried", [None, "text", {}, {7: "x"}, {"traceparent": None}, {"traceparent": "00-zz"}])
def test_a_message_without_a_carrier_leaves_what_is_current(spans: Spans, carried: Any) -> None:
    with llmtrace.task("here"), llmtrace.resume(carried), llmtrace.step("near"):
        pass
    near, whole = named(spans, "near"), named(spans, "task here")
    assert near.parent is not None
    assert near.parent.span_id == whole.context.span_id


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: llmtrace.task(""), "needs a name"),
        (lambda: llmtrace.task("x", budget=-1), "budget is -1"),
        (lambda: llmtrace.task("x", budget=True), "budget is True"),
        (lambda: llmtrace.step("x", kind="rerankk"), "Did you mean rerank"),
        (lambda: llmtrace.step("x", cost_usd=float("nan")), "cost_usd is nan"),
        (lambda: llmtrace.step("x", cost_usd=10**400), "cost_usd is 1000"),
        *(
            (partial(llmtrace.task("x").add_cost, usd), "usd is ")
            for usd in (-1, float("inf"), float("nan"), "1", None)
        ),
    ],
)
def test_mistakes_are_told(wrong: Any, told: str) -> None:
    with pytest.raises(llmtrace.LlmtraceError, match=told):
        wrong()


def test_a_sum_of_costs_stays_a_number(spans: Spans) -> None:
    with llmtrace.task("dear") as task:
        task.add_cost(1e308)
        with pytest.raises(llmtrace.LlmtraceError, match=r"usd is 1e\+308, .* sum with it is inf; it takes an amount"):
            task.add_cost(1e308)
        with llmtrace.step("as dear", cost_usd=1e308):
            pass
        assert task.spent == 1e308
    assert (named(spans, "as dear").attributes or {})["llmtrace.cost.usd"] == 1e308


def test_a_broken_provider_is_not_the_applications_affair(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def get_tracer(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("no")

    monkeypatch.setattr(units, "_providers", [Broken()])
    with llmtrace.task("goes on") as task, llmtrace.step("too"):
        task.resolved()


def test_how_long_a_tool_takes_is_measured(tracing: Tracing, metrics: Metrics, spans: Spans) -> None:
    """By the conventions' metric, where a client is traced with metrics; of no other kind of step."""
    with llmtrace.step("lookup", kind="tool"):
        pass
    tracing.on("openai")
    with llmtrace.step("lookup", kind="tool"), llmtrace.step("top five", kind="rerank"):
        pass
    with pytest.raises(KeyError), llmtrace.step("lookup", kind="tool"):
        raise KeyError
    answered, failed = sorted(metrics.points("gen_ai.execute_tool.duration"), key=lambda point: len(point.attributes))
    common = {"gen_ai.tool.name": "lookup"}
    assert (dict(answered.attributes), answered.count) == (common, 1)
    assert (dict(failed.attributes), failed.count) == (common | {"error.type": "KeyError"}, 1)
    first, second, third = (span for span in spans.finished() if span.name == "tool lookup")
    assert [answered.sum, failed.sum] == pytest.approx([seconds(second), seconds(third)], abs=0.05)
    assert seconds(first) >= 0
    tracing.off()
    tracing.on("openai", metrics=False)
    with llmtrace.step("lookup", kind="tool"):
        pass
    assert sum(point.count for point in metrics.points("gen_ai.execute_tool.duration")) == 2


def test_a_warning_of_the_application_is_shown_once(tracing: Tracing, spans: Spans) -> None:
    """The SDK, asked for a tracer, makes Python forget which were shown: only the first task asks."""
    tracing.on()
    with llmtrace.task("first"):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        shown: list[Any] = []
        warnings.showwarning = lambda *told, **_: shown.append(told)
        for _ in range(3):
            with llmtrace.task("x"), llmtrace.step("y"):
                warnings.warn("it is old", DeprecationWarning, stacklevel=1)
    assert len(shown) == 1
    assert len(spans.finished()) == 7
