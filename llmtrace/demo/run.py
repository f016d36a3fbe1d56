"""Runs the demo: starts the server, learns the route, plays the scenarios, shows and writes the results."""

from __future__ import annotations

import json
import math
import os
import random
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.rule import Rule

import llmtrace
from llmtrace.analyze import otlp
from llmtrace.calls import tracer
from llmtrace.demo.ledger import Ledger
from llmtrace.demo.scenarios import ADAPTER, SCENARIOS, Stage
from llmtrace.emit.otlp_json import OtlpJsonFileExporter
from llmtrace.observe.host import host_name
from llmtrace.view import html, terminal, tree

LEARN = 36
"""The number of calls of different length before the scenarios, from which the client learns the route."""
_SHORTEST, _LONGEST = 32, 1300
_SLOTS = 2


class _Shown(Sampler):
    """Samples calls once ``on`` is set: those that only teach the client the route are not exported."""

    on = False

    def should_sample(
        self,
        parent_context: Any,
        trace_id: int,
        name: str,
        kind: Any = None,
        attributes: Any = None,
        links: Any = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        return SamplingResult(Decision.RECORD_AND_SAMPLE if self.on else Decision.DROP, attributes)

    def get_description(self) -> str:
        return "llmtrace demo"


def run(out: Path, device: str = "auto", console: Console | None = None, port: int = 0, calls: int = LEARN) -> None:
    """Play the demo and write ``traces.otlp.jsonl``, ``truth.json`` and ``trace.html`` into ``out``.

    Spans also go to ``OTEL_EXPORTER_OTLP_ENDPOINT`` where that is set, metrics with ``OTEL_METRICS_EXPORTER=otlp``.

    Raises:
        LlmtraceError: an extra is missing, the port is taken, the device is not there.
    """
    console = console or Console()
    began = time.monotonic()
    from llmtrace.reference.process import ServerProcess

    out.mkdir(parents=True, exist_ok=True)
    traces = out / "traces.otlp.jsonl"
    traces.unlink(missing_ok=True)
    sampler, ledger = _Shown(), Ledger()
    provider = _provider(traces, sampler)
    progress = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console
    )
    try:
        with progress:
            starting = progress.add_task("Building the model and starting its server", total=None)

            def built(done: int, total: int) -> None:
                progress.update(starting, completed=done, total=total)

            with (
                tempfile.TemporaryDirectory(prefix="llmtrace-demo-") as scratch,
                ServerProcess(
                    port=port,
                    device=device,
                    faults=True,
                    max_running=_SLOTS,
                    progress=built,
                    arguments=_adapter(Path(scratch)),
                ) as server,
            ):
                progress.update(starting, completed=1, total=1)
                _play(server.base_url, provider, sampler, ledger, progress, calls)
                for _ in range(20):  # a call that was cut short ends on the server a moment later
                    if ledger.take_truth(json.loads(server.get("/debug/requests"))["requests"]):
                        break
                    time.sleep(0.1)
    finally:
        provider.shutdown()
    _show(console, out, traces, ledger)
    console.print(f"Done in {time.monotonic() - began:.0f} s. Written to {out}: {', '.join(sorted(os.listdir(out)))}")
    console.print(f"Open {out / 'trace.html'} in a browser, or: llmtrace show {traces}")


def _adapter(folder: Path) -> list[str]:
    """The server's arguments for an adapter of the tiny model; none where adapters cannot be served."""
    if find_spec("peft") is None:
        return []
    from llmtrace.reference.tiny_adapter import build_tiny_adapter

    # Merged, as a server does that has one tenant at a time: a swap is a pass over the adapted weights.
    return ["--adapter", f"{ADAPTER}={build_tiny_adapter(folder / ADAPTER)}", "--merge-adapters"]


def _provider(traces: Path, sampler: Sampler) -> TracerProvider:
    provider = TracerProvider(sampler=sampler, resource=_resource())
    provider.add_span_processor(SimpleSpanProcessor(OtlpJsonFileExporter(traces)))
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _meters() -> MeterProvider:
    """Metrics are collected to learn from calls that are not sampled; they go out only where they are asked for."""
    if os.environ.get("OTEL_METRICS_EXPORTER") != "otlp":
        return MeterProvider()
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    return MeterProvider([reader], resource=_resource())


def _resource() -> Resource:
    return Resource.create({"service.name": "llmtrace-demo", **host_name()})


def _play(
    base_url: str, provider: TracerProvider, sampler: _Shown, ledger: Ledger, progress: Progress, learn: int
) -> None:
    from openai import OpenAI

    # Calls that are not sampled still teach the route where metrics are on.
    meters = _meters()
    llmtrace.instrument("openai", tracer_provider=provider, meter_provider=meters)
    tracer.listeners.append(ledger)
    try:
        with OpenAI(base_url=base_url, api_key="none-needed", max_retries=0) as client:
            model = client.models.list().data[0].id
            stage = Stage(client, model, 0.3, random.Random())
            _measure_words(stage)
            task = progress.add_task("Learning the route: calls of different length", total=learn)
            for step in stage.draw.sample(range(learn), learn):
                share = step / max(1, learn - 1)
                stage.ask(stage.text(round(_SHORTEST * math.exp(share * math.log(_LONGEST / _SHORTEST)))), max_tokens=2)
                progress.update(task, advance=1)
            sampler.on = True
            played = [
                candidate
                for candidate in SCENARIOS
                if candidate.needs is None or find_spec(candidate.needs) is not None
            ]
            task = progress.add_task("Playing the scenarios", total=len(played))
            for scenario in played:
                progress.update(task, description=f"Playing: {scenario.title}")
                ledger.scenario = (scenario.name, scenario.title)
                scenario.play(stage)
                progress.update(task, advance=1)
            progress.update(task, description="Played the scenarios")
    finally:
        tracer.listeners.remove(ledger)
        provider.force_flush()
        llmtrace.uninstrument("openai")
        meters.shutdown()


def _measure_words(stage: Stage) -> None:
    """Set the words for each token on the stage, from the server's own count."""
    words = stage.text(400)
    answer = stage.client.chat.completions.create(
        model=stage.model, messages=[{"role": "user", "content": words}], max_tokens=1
    )
    if answer.usage is not None and answer.usage.prompt_tokens:
        stage.words_per_token = len(words.split()) / answer.usage.prompt_tokens


def _show(console: Console, out: Path, traces: Path, ledger: Ledger) -> None:
    spans = otlp.read(traces).spans
    titles = {entry.trace_id: entry.title for entry in ledger.entries}
    built = tree.build(spans)
    for trace in built:
        console.print(Rule(titles.get(trace.trace_id, ""), align="left"))
        console.print(terminal.render_trace(trace))
        console.print()
    console.print(terminal.legend(built))
    console.print()
    table = ledger.table()
    console.print(terminal.render_table(table))
    truth: list[dict[str, Any]] = [entry.as_json() for entry in ledger.entries]
    (out / "truth.json").write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")
    html.write_html(
        spans,
        out / "trace.html",
        "llmtrace demo",
        table,
        lede="A real model behind a real server, called by the real client. Where each call's time went, how it is "
        "known, and how sure that is.",
        titles=titles,
    )
