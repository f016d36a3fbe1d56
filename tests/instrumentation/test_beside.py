"""Beside other instrumentations of the OpenAI client, whichever was on first: ``make matrix ARGS="-s beside"``.

Each case is a process of its own, for not all of them can be switched off. They are no dependency of the tests: where
one is not installed, its cases skip.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.by_method import MODEL
from tests.support.replay import Replay, Request, Script, paced

OTHERS = {
    "traceloop": "opentelemetry.instrumentation.openai",
    "openinference": "openinference.instrumentation.openai",
    "openai-v2": "opentelemetry.instrumentation.openai_v2",
    "genai-openai": "opentelemetry.instrumentation.genai.openai",
}
STREAMED = {"llm.network", "llm.unattributed", "llm.queue_prefill", "llm.decode"}
FEW = ("Hello", " there")
"""So few chunks that they do not look buffered if a busy machine reads them all at once."""

APPLICATION = """
import importlib, json, sys
import llmtrace
from tests.support.by_funnel import OpenAI
from tests.support.spans import Spans

module, first, parent, url = sys.argv[1:]
spans = Spans()
theirs = importlib.import_module(module).OpenAIInstrumentor()
on = [
    lambda: theirs.instrument(tracer_provider=spans.provider, skip_dep_check=True),
    lambda: llmtrace.instrument("openai", tracer_provider=spans.provider, parent=parent),
]
for each in on if first == "theirs" else reversed(on):
    each()
USED = ("gen_ai.usage.input_tokens", "llm.token_count.prompt")
told = []
for kind in OpenAI.kinds:
    opened = OpenAI(kind, url)
    for streaming in (False, True):
        spans.clear()
        with spans.provider.get_tracer("application").start_as_current_span("around"):
            said = opened.drain(opened.stream()) if streaming else opened.call()
        spans.flush()
        seen = [
            {
                "name": span.name,
                "scope": span.instrumentation_scope.name,
                "id": span.context.span_id,
                "parent": span.parent and span.parent.span_id,
                "took": span.end_time - span.start_time,
                "used": any(name in span.attributes for name in USED),
                "attributes": {name: value for name, value in span.attributes.items() if name.startswith("llmtrace.")},
            }
            for span in spans.finished()
        ]
        told.append({"kind": kind, "streaming": streaming, "spans": seen, "said": len(said)})
    opened.shut()
print(json.dumps(told))
"""


def installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("parent", ["auto", "own", "existing"])
@pytest.mark.parametrize("first", ["theirs", "ours"])
@pytest.mark.parametrize("other", OTHERS)
def test_one_parent(replay: Replay, other: str, first: str, parent: str) -> None:
    from tests.support.by_funnel import OpenAI

    if not installed(OTHERS[other]):
        pytest.skip(f"{other} is not installed")
    wire = OpenAI("sync", replay.url)

    def answer(request: Request) -> Script:
        return wire.script(paced(wire.events(FEW), 0.05, 0.01)) if request.json.get("stream") else wire.whole()

    replay.serve(answer)
    command = [sys.executable, "-c", APPLICATION, OTHERS[other], first, parent, replay.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told) == 4
    for case in told:
        check(case, parent)
    wire.shut()


def check(case: dict[str, Any], parent: str) -> None:
    """One span of theirs, one of ours only where that was asked for, the phases beneath."""
    (around,) = [span for span in case["spans"] if span["name"] == "around"]
    ours = [span for span in case["spans"] if span["scope"] == "llmtrace"]
    (theirs,) = [span for span in case["spans"] if span not in ours and span is not around]
    calls = [span for span in ours if span["name"] == f"chat {MODEL}"]
    if parent == "own":
        (top,) = calls
        assert {top["parent"], theirs["parent"]} <= {around["id"], theirs["id"], top["id"]}
    else:
        assert not calls, (case, "a second span for the same call")
        top = theirs
        assert top["parent"] == around["id"]
        standing_in = [span for span in ours if span["name"] == "llm.call"]
        if standing_in:  # theirs ended before the answer was with the application
            (top,) = calls = standing_in
            assert top["parent"] == theirs["id"]
    assert top["attributes"]["llmtrace.call.outcome"] == "completed"
    phases = [span for span in ours if span["parent"] == top["id"]]
    beneath = {span["name"] for span in phases}
    assert beneath, case
    assert all(name.startswith("llm.") for name in beneath)
    if case["streaming"]:
        assert beneath == STREAMED
    assert len(ours) == len(calls) + len(phases) == len(calls) + len(beneath)
    assert [span["used"] for span in case["spans"]].count(True) <= (2 if parent == "own" else 1)
    lasted = sum(span["took"] for span in phases)
    if top is theirs:
        assert top["attributes"]["llmtrace.call.adopted"] is True
        assert top["attributes"]["llmtrace.call.streaming"] is case["streaming"]
        assert lasted == round(top["attributes"]["llmtrace.call.duration"] * 1e9)
    else:
        assert lasted == top["took"]
