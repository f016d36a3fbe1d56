"""Runs the demo: starts the server, learns the route, plays the scenarios, shows and writes the results."""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.rule import Rule

import llmtrace
from llmtrace import interpreter
from llmtrace import scratch as scratch_files
from llmtrace.analyze import otlp
from llmtrace.calls import tracer
from llmtrace.demo.ledger import Entry, Ledger
from llmtrace.demo.scenarios import ADAPTER, LEARN, SCENARIOS, Scenario, Stage, learn
from llmtrace.demo.stories import Stories, Story
from llmtrace.emit.otlp_json import OtlpJsonFileExporter
from llmtrace.errors import LlmtraceError
from llmtrace.observe.host import host_name
from llmtrace.phases.model import QUEUE
from llmtrace.view import calls as calls_of
from llmtrace.view import html, terminal, tree
from llmtrace.whole_file import write_text

if TYPE_CHECKING:
    from llmtrace.reference.process import ServerProcess

_SLOTS = 2
_CACHE_BYTES = 8 * 2**20
"""Room for about 2,000 tokens of prefixes, so that somebody else's document pushes ours out."""


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


def run(
    out: Path,
    device: str = "auto",
    console: Console | None = None,
    port: int = 0,
    calls: int = LEARN,
    everything: bool = False,
) -> None:
    """Play the demo and write ``traces.otlp.jsonl``, ``truth.json`` and ``trace.html`` into ``out``.

    ``everything``: play the scenarios that are no part of the stories too, and print every call's waterfall.
    Spans also go to ``OTEL_EXPORTER_OTLP_ENDPOINT`` where that is set, metrics with ``OTEL_METRICS_EXPORTER=otlp``.

    Raises:
        LlmtraceError: an extra is missing, the port is taken, the device is not there.
    """
    console = console or Console()
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    traces = out / "traces.otlp.jsonl"
    traces.unlink(missing_ok=True)
    sampler, ledger = _Shown(), Ledger()
    provider = _provider(traces, sampler)
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    chosen = [
        scenario
        for scenario in SCENARIOS
        if (everything or not scenario.more) and (scenario.needs is None or interpreter.finds(scenario.needs))
    ]
    try:
        with progress, tempfile.TemporaryDirectory(prefix="llmtrace-demo-", dir=scratch_files.folder()) as scratch:
            _play(Path(scratch), device, port, provider, sampler, ledger, progress, calls, chosen)
    finally:
        provider.shutdown()
    _show(console, out, traces, ledger, everything)
    console.print(f"Done in {time.monotonic() - began:.0f} s. Written to {out}: {', '.join(sorted(os.listdir(out)))}")
    console.print(f"Open {out / 'trace.html'} in a browser, or: llmtrace show {traces}")
    if not everything:
        console.print("Every call's waterfall, and retries, errors and slow readers: llmtrace demo --all")


def _adapter(folder: Path) -> list[str]:
    """The server's arguments for an adapter of the tiny model; none where adapters cannot be served."""
    if not interpreter.finds("peft"):
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
    scratch: Path,
    device: str,
    port: int,
    provider: TracerProvider,
    sampler: _Shown,
    ledger: Ledger,
    progress: Progress,
    lessons: int,
    chosen: list[Scenario],
) -> None:
    from openai import OpenAI

    from llmtrace.demo import other_model
    from llmtrace.reference.process import ServerProcess

    adapter = _adapter(scratch) if any(scenario.needs for scenario in chosen) else []
    starting = progress.add_task("Building the model and starting its server", total=None)

    def built(done: int, total: int) -> None:
        progress.update(starting, completed=done, total=total)

    def server(at: int, *arguments: str) -> ServerProcess:
        arguments = (*arguments, "--prefix-cache-bytes", str(_CACHE_BYTES))
        return ServerProcess(
            port=at, device=device, faults=True, max_running=_SLOTS, progress=built, arguments=arguments
        )

    # Calls that are not sampled still teach the route where metrics are on.
    meters = _meters()
    llmtrace.instrument("openai", tracer_provider=provider, meter_provider=meters)
    tracer.listeners.append(ledger)
    building = other_model.start_building()
    try:
        with server(port, *adapter) as first:
            if building is not None and building.wait():
                raise LlmtraceError("the model of the demo's second server could not be built")
            progress.update(starting, completed=1, total=1)
            with OpenAI(base_url=first.base_url, api_key="none-needed", max_retries=0) as client:
                stage = Stage(client, client.models.list().data[0].id, 0.3, random.Random())
                _measure_words(stage)
                learning = progress.add_task("Learning the route from calls of different length", total=lessons)
                learn(stage, lessons, lambda: progress.update(learning, advance=1))
                sampler.on = True
                task = progress.add_task("Playing", total=len(chosen))
                _act(stage, [scenario for scenario in chosen if not scenario.elsewhere], ledger, progress, task)
                _take_truth(first, ledger)
                address = first.root_url.rpartition(":")[2]
        progress.update(task, description="Another server takes the address over")
        with server(int(address), "--model", str(other_model.folder()), "--name", stage.model) as second:
            with OpenAI(base_url=second.base_url, api_key="none-needed", max_retries=0) as client:
                stage.client = client
                _act(stage, [scenario for scenario in chosen if scenario.elsewhere], ledger, progress, task)
            _take_truth(second, ledger)
        progress.update(task, description="Played")
    finally:
        if building is not None:
            building.kill()
            building.wait()
        tracer.listeners.remove(ledger)
        provider.force_flush()
        llmtrace.uninstrument("openai")
        meters.shutdown()


def _act(stage: Stage, chosen: list[Scenario], ledger: Ledger, progress: Progress, task: Any) -> None:
    for scenario in chosen:
        progress.update(task, description=f"Playing: {scenario.title}")
        ledger.scenario = scenario
        scenario.play(stage)
        progress.update(task, advance=1)


def _take_truth(server: ServerProcess, ledger: Ledger) -> None:
    for _ in range(20):  # a call that was cut short ends on the server a moment later
        if ledger.take_truth(json.loads(server.get("/debug/requests"))["requests"]):
            return
        time.sleep(0.1)


def _measure_words(stage: Stage) -> None:
    """Set the words for each token on the stage, from the server's own count."""
    words = stage.text(400)
    answer = stage.client.chat.completions.create(
        model=stage.model, messages=[{"role": "user", "content": words}], max_tokens=1
    )
    if answer.usage is not None and answer.usage.prompt_tokens:
        stage.words_per_token = len(words.split()) / answer.usage.prompt_tokens


def _show(console: Console, out: Path, traces: Path, ledger: Ledger, everything: bool) -> None:
    spans = otlp.read(traces).spans
    titles = {entry.trace_id: entry.title for entry in ledger.entries}
    built = tree.build(spans)
    table = ledger.table()
    truth: list[dict[str, Any]] = [entry.as_json() for entry in ledger.entries]
    write_text(out / "truth.json", json.dumps(truth, indent=2) + "\n")
    html.write_html(
        spans,
        out / "trace.html",
        "llmtrace demo",
        table,
        lede="A real model behind a real server, called by the real client. Where each call's time went, how it is "
        "known, and how sure that is.",
        titles=titles,
    )
    if everything:
        for trace in built:
            console.print(Rule(titles.get(trace.trace_id, ""), align="left"))
            console.print(terminal.render_trace(trace))
            console.print()
        console.print(terminal.legend(built))
        console.print()
    roots = {trace.trace_id: call for trace in built for call in calls_of.calls(trace.roots)}
    console.print(
        Stories([Story(entry.title, roots[entry.trace_id]) for entry in _told(ledger) if entry.trace_id in roots])
    )
    console.print()
    console.print(terminal.render_table(table))


def _told(ledger: Ledger) -> list[Entry]:
    """The call that each scenario is about: the first with the most certain cause of all, else its last."""
    chosen: list[Entry] = []
    for scenario in SCENARIOS:
        entries = ledger.of(scenario.name)
        if scenario.more or not entries:
            continue
        entry = max(entries, key=lambda one: (bool(one.causes), one.server.get(QUEUE) or 0.0))
        chosen.append(replace(entry, title=scenario.title))
    return chosen
