"""What the tests of every engine share: calls with known prompts, and what their spans must say."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from llmtrace.emit.otlp_json import OtlpJsonFileExporter
from tests.support.apis import Sync
from tests.support.spans import Spans, attributes, seconds

MODEL = "tiny"
SENTENCE = "The prompt is read once, in parallel, before the first word. "
LENGTH = 96
"""Tokens that an answer has: enough that even a client starved of CPU time does not find them all in one burst."""
SAME = 2e-6
"""Seconds by which a phase may differ from the number that it was made of: each end is moved by less than 1 us."""
PHASES = ["network", "unattributed", "queue", "prefill", "decode"]
"""Of a call whose engine reports its timings, but for a cache hit."""
MERGED = ["network", "unattributed", "queue_prefill", "decode"]
"""Of a stream whose engine reports none."""
USAGE = {"include_usage": True}


def prompt(sentences: int = 6) -> str:
    """A prompt that no cache has seen: its first words are new each time."""
    return f"{uuid.uuid4().hex} {SENTENCE * sentences}"


def asked(text: str, **changes: Any) -> dict[str, Any]:
    """Arguments of a call whose answer is greedy and of a set length, with no early end."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": LENGTH,
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    } | changes


def stream(api: Sync, text: str, **changes: Any) -> list[Any]:
    """One streamed call, read to its end as fast as it comes."""
    return api.drain(api.create(**asked(text, stream=True, stream_options=USAGE) | changes))


def answer(api: Sync, text: str, **changes: Any) -> Any:
    """One call that is not streamed."""
    return api.create(**asked(text, **changes))


def field_of(bodies: Sequence[Any], name: str) -> dict[str, Any]:
    """The last value of a field that the client library leaves unmodelled, over chunks or one body."""
    found = [told for body in bodies if (told := (body.model_extra or {}).get(name))]
    assert found, f"no {name!r} in {len(bodies)} bodies; the last one: {bodies[-1]!r}"
    return found[-1]


def usage_of(bodies: Sequence[Any]) -> Any:
    """The usage of the last body that has one."""
    return next(body.usage for body in reversed(bodies) if body.usage is not None)


def source(span: ReadableSpan) -> str:
    """How a phase's length is known."""
    return attributes(span)["llmtrace.phase.source"]


def tokens(span: ReadableSpan) -> int | None:
    """What a phase handled."""
    return attributes(span).get("llmtrace.phase.tokens")


def assert_phase(span: ReadableSpan, duration: float, *, of: str = "server") -> None:
    """``span`` lasts as long as its source said."""
    assert source(span) == of, (span.name, attributes(span))
    assert seconds(span) == pytest.approx(duration, abs=SAME), (span.name, attributes(span))


def assert_decode_seen(span: ReadableSpan, duration: float) -> None:
    """A streamed decode: as long as the client saw it last, with the engine's own number beside it."""
    assert source(span) == "client"
    assert attributes(span)["llmtrace.phase.server_duration"] == pytest.approx(duration, abs=SAME)


def assert_blind(spans: Spans, parent: ReadableSpan) -> None:
    """Nothing of what the engine said of its phases is in the call's spans."""
    phases = spans.phases(parent)
    assert "queue_prefill" in phases, list(phases)
    assert not {"queue", "prefill", "kv_cache_hit"} & set(phases)
    assert all(source(phase) == "client" for phase in phases.values())
    assert not any("server_duration" in name for phase in phases.values() for name in attributes(phase))


def at_once(count: int, call: Any) -> list[Any]:
    """``call(i)`` from ``count`` threads at the same time."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))


def output_folder() -> Path | None:
    """Where a run leaves what a person should look at: the folder LLMTRACE_E2E_OUT, if that is set."""
    out = os.environ.get("LLMTRACE_E2E_OUT")
    if not out:
        return None
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def keep(spans: Spans, name: str) -> None:
    """Leave the spans as OTLP/JSON lines where a person asked for them; ``llmtrace show`` prints them."""
    out = output_folder()
    if out is None:
        return
    file = out / f"{name}.otlp.jsonl"
    file.unlink(missing_ok=True)
    exporter = OtlpJsonFileExporter(file)
    exporter.export(spans.finished())
    exporter.shutdown()


def learned_split(api: Sync, spans: Spans, told: Any, calls: int = 60) -> list[tuple[float, float, float]]:
    """Calls of very different lengths, one after the other, seen blind: (time to first token, prefill that the engine
    measured, prefill that the client estimated) in seconds for each call after the client knew the route."""
    found: list[tuple[float, float, float]] = []
    for number in range(calls):
        spans.clear()
        said = told(stream(api, prompt(2 + 7 * number % 60), max_tokens=4))
        phases = spans.phases(spans.one("completed"))
        assert all(source(phase) in ("client", "estimate") for phase in phases.values())
        if "prefill" in phases:
            assert source(phases["prefill"]) == source(phases["queue"]) == "estimate"
            wait = sum(seconds(phase) for name, phase in phases.items() if name != "decode")
            found.append((wait, said["prefill"], seconds(phases["prefill"])))
    return found


def report_split(name: str, found: list[tuple[float, float, float]]) -> float:
    """The median error of the estimated prefill as a share of TTFT; kept for a person to read."""
    errors = sorted(abs(guess - truth) / wait for wait, truth, guess in found)
    middle, high = errors[len(errors) // 2], errors[len(errors) * 9 // 10]
    if (folder := output_folder()) is not None:
        line = f"{name}: {len(found)} calls, prefill error / TTFT: median {middle:.1%}, 90th percentile {high:.1%}\n"
        (folder / f"{name}-learned.txt").write_text(line)
    return middle
