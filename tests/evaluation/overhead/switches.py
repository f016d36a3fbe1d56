"""Turns each subject's instrumentation on, content capture off. Runs in the worker, in the subject's environment."""

from __future__ import annotations

import os
import sys
from typing import Any

import openai

from tests.evaluation.overhead.sinks import Sinks
from tests.evaluation.overhead.subjects import Subject

PATCHABLE = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")


def llmtrace(sinks: Sinks) -> None:
    import llmtrace as sdk

    sdk.instrument("openai", tracer_provider=sinks.tracer_provider, meter_provider=sinks.meter_provider)


def otel_genai(sinks: Sinks) -> None:
    from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument(tracer_provider=sinks.tracer_provider, meter_provider=sinks.meter_provider)


def openinference(sinks: Sinks) -> None:
    from openinference.instrumentation import TraceConfig
    from openinference.instrumentation.openai import OpenAIInstrumentor

    config = TraceConfig(hide_inputs=True, hide_outputs=True)
    OpenAIInstrumentor().instrument(tracer_provider=sinks.tracer_provider, config=config)


def traceloop(sinks: Sinks) -> None:
    os.environ["TRACELOOP_TRACE_CONTENT"] = "false"
    from opentelemetry.instrumentation.openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument(tracer_provider=sinks.tracer_provider, meter_provider=sinks.meter_provider)


def langfuse(sinks: Sinks) -> None:
    """Langfuse adds a batching processor of its own to the provider; it captures content unless a mask removes it."""
    from langfuse import Langfuse

    Langfuse(
        public_key="pk-lf-bench",
        secret_key="sk-lf-bench",
        base_url="http://127.0.0.1:9",
        tracer_provider=sinks.tracer_provider,
        span_exporter=sinks.dropper,
        mask=lambda *, data, **_: None,
    )
    import langfuse.openai  # noqa: F401  (importing it patches the client)


SWITCHES = {switch.__name__: switch for switch in (llmtrace, otel_genai, openinference, traceloop, langfuse)}


class Switch:
    """A subject's instrumentation, on, and then off and on again by putting the client's own attributes back.

    On and off in one process is what makes small differences visible: two processes with the same work differ by some
    per cent just by where their memory lies.
    """

    def __init__(self, subject: Subject) -> None:
        _ = openai.OpenAI(api_key="sk-bench").chat.completions, openai.AsyncOpenAI(api_key="sk-bench").chat.completions
        self.sinks = Sinks(
            sampled=subject.sampled, with_metrics=subject.metrics, own_processor=subject.switch == "langfuse"
        )
        self.patched: list[tuple[Any, str, Any, Any]] = []
        if subject.switch:
            before = _attributes()
            SWITCHES[subject.switch](self.sinks)
            after = _attributes()
            owners = {owner for owner, _ in before}
            for (owner, name), new in after.items():
                own = before.get((owner, name), ABSENT)
                if owner in owners and callable(new) and own is not new and (own is not ABSENT or name[:2] != "__"):
                    self.patched.append((owner, name, own, new))
            if not self.patched:
                raise RuntimeError(f"{subject.title} patched nothing")

    def flip(self, on: bool) -> None:
        """Put the patches in, or the client's own attributes."""
        for owner, name, own, new in self.patched:
            value = new if on else own
            if value is not ABSENT:
                setattr(owner, name, value)
            elif name in vars(owner):
                delattr(owner, name)


ABSENT = object()
"""In the place of a client's own method where a class only inherits it."""


def _attributes() -> dict[tuple[Any, str], Any]:
    """Every attribute of every class of the client and its HTTP library: instrumentations replace some of them."""
    modules = [m for name, m in list(sys.modules.items()) if m and name.partition(".")[0] in PATCHABLE]
    classes = {c for m in modules for c in vars(m).values() if isinstance(c, type) and _root(c) in PATCHABLE}
    return {(c, name): value for c in classes for name, value in vars(c).items()}


def _root(kind: type) -> str:
    return kind.__module__.partition(".")[0]
