"""Answers as no provider documents them, played to every client: with llmtrace the application sees the same results
and exceptions as without, one span tells of each call, and no number on it is one that the body does not say.

``LLMTRACE_MUTANTS=7:500`` plays 500 others of seed 7 to each client.
"""

from __future__ import annotations

import gc
import json
import os
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from llmtrace.observe import internal_errors
from tests.conftest import Tracing
from tests.support import by_funnel, by_library, by_method, mutants, said
from tests.support.by_funnel import Stainless
from tests.support.by_method import Driver
from tests.support.mutants import Mutant
from tests.support.replay import Replay, json_answer
from tests.support.rich import DRIVERS, rich
from tests.support.spans import Spans, attributes

SEED, _, NUMBER = os.environ.get("LLMTRACE_MUTANTS", "1:2").partition(":")
WAYS = ("", "", "with_raw_response", "with_streaming_response")

CASES = [pytest.param(driver, kind, id=f"{driver.__name__}-{kind}") for driver in DRIVERS for kind in driver.kinds]


EVENTS = (
    (by_method.BedrockInvoke, mutants.read_chunk),
    (by_method.Bedrock, mutants.read_aws),
    (by_library.Ollama, mutants.read_line),
)


def reader_of(driver: Driver) -> Callable[[Sequence[Any]], said.Said]:
    for kind, reader in (
        (by_funnel.Responses, said.responses),
        (by_funnel.Anthropic, said.messages),
        (by_method.Google, said.google),
        (by_method.Cohere, said.cohere),
        (by_library.Ollama, said.ollama),
        (by_method.Bedrock, said.bedrock),
    ):
        if isinstance(driver, kind):
            return reader
    return said.completions


def made(driver: Driver, rng: random.Random) -> list[tuple[bool, str, Mutant]]:
    """Whether it is streamed, the way to ask, and what comes back."""
    whole, events = rich(driver)
    read = next((read for kind, read in EVENTS if isinstance(driver, kind)), mutants.read_sse)
    found: list[tuple[bool, str, Mutant]] = []
    for body, parts in ((whole, events), (json.loads(driver.whole().parts[0][1]), driver.events())):
        stream = [read(part) for part in parts]
        for _ in range(int(NUMBER)):
            ways = [rng.choice(WAYS) if isinstance(driver, Stainless) else "" for _ in range(2)]
            found.append((False, ways[0], mutants.whole(json_answer(body), rng)))
            found.append((True, ways[1], mutants.stream(driver.script([]), stream, rng)))
    return found


def see(driver: Driver, streaming: bool, way: str) -> dict[str, Any]:
    """What the application sees."""
    seen = _see(driver, streaming, way)
    if streaming and isinstance(driver, by_library.LiteLLM):
        # A stream of its that fails stays open in a cycle, bare too. Where the collector comes by itself, httpcore may
        # hold the pool's lock, which closing that stream takes: the client then waits for itself.
        gc.collect()
    return seen


def _see(driver: Driver, streaming: bool, way: str) -> dict[str, Any]:
    seen: dict[str, Any] = {"items": []}
    try:
        if way == "with_streaming_response":
            return driver.run(aread_bytes if driver.loop else read_bytes, driver, streaming)
        answer = driver.run(driver.ask, streaming, way) if way else driver.run(driver.ask, streaming)
        if way:
            seen |= {"headers": dict(answer.headers), "status": answer.status_code, "kind": type(answer).__qualname__}
            answer = driver.run(answer.parse)
        seen |= {"answer": type(answer).__qualname__, "request": getattr(answer, "_request_id", None)}
        if not streaming:
            seen["items"].append(look(driver, answer))
            return seen
        iterator = driver.iterate(answer)
        iterator = iterator.__aiter__() if driver.loop else iter(iterator)
        while True:
            try:
                seen["items"].append(look(driver, driver.pull(iterator)))
            except (StopIteration, StopAsyncIteration):
                return seen
    except Exception as error:
        chain = (error, error.__cause__, error.__context__)
        seen["error"] = [(type(each).__qualname__, str(each), getattr(each, "body", None)) for each in chain]
    return seen


def look(driver: Driver, item: Any) -> tuple[str, str]:
    try:
        return type(item).__qualname__, repr(driver.plain(item))
    except Exception as error:  # an object that cannot be written out
        return type(item).__qualname__, repr(error)


def read_bytes(driver: Driver, streaming: bool) -> dict[str, Any]:
    with driver.ask(streaming, "with_streaming_response") as response:
        return {"headers": dict(response.headers), "bytes": b"".join(response.iter_bytes())}


async def aread_bytes(driver: Driver, streaming: bool) -> dict[str, Any]:
    async with driver.ask(streaming, "with_streaming_response") as response:
        return {"headers": dict(response.headers), "bytes": b"".join([piece async for piece in response.iter_bytes()])}


def same(seen: Any) -> str:
    """Without addresses of objects."""
    return re.sub(r"0x[0-9a-f]{6,}", "0x", repr(seen))


@pytest.mark.parametrize(("driver", "kind"), CASES)
def test_mutants(driver: type[Driver], kind: str, replay: Replay, spans: Spans, tracing: Tracing) -> None:
    opened = driver(kind, replay.url)
    cases = made(opened, random.Random(f"{SEED} {driver.__name__} {kind}"))
    wrong: list[str] = []
    try:
        bare = [played(opened, replay, *case) for case in cases]
        tracing.on(opened.name)
        before = +internal_errors.counts
        agreed = sum(check(opened, replay, spans, case, seen, wrong) for case, seen in zip(cases, bare, strict=True))
    finally:
        opened.shut()
    assert not wrong, "\n".join(wrong)
    assert internal_errors.counts == before
    assert agreed > len(cases) / 2, "most say as much as before"


def played(driver: Driver, replay: Replay, streaming: bool, way: str, mutant: Mutant) -> dict[str, Any]:
    replay.serve(mutant.script)
    return see(driver, streaming, way)


def check(
    driver: Driver, replay: Replay, spans: Spans, case: tuple[bool, str, Mutant], bare: dict[str, Any], wrong: list[str]
) -> bool:
    """Whether the span says all that the body of a whole answer does; what should not be goes to ``wrong``."""
    streaming, way, mutant = case
    spans.clear()
    seen = played(driver, replay, *case)
    if not spans.parents():  # a stream that was let go of
        driver.settle()
        spans.flush()
    what = f"{'stream' if streaming else 'whole'} {way} {mutant.name}:"
    if same(seen) != same(bare):
        wrong.append(f"{what}\n  {same(bare)}\n  {same(seen)}")
    attrs = attributes(spans.one())
    read = reader_of(driver)
    differ = said.disagreements(attrs, read(mutant.said))
    # A client takes some things for counts that are none; and a byte order mark hides the line it stands in.
    seen_by_it = said.taken(mutant.said[1:] if mutant.name == "bom" else mutant.said)
    otherwise = said.disagreements(attrs, read(seen_by_it))
    made_up = {name: pair for name, pair in differ.items() if name in otherwise and pair[0] not in (None, [])}
    wanted = differ if mutant.name in mutants.SAME else made_up
    whole = attrs["llmtrace.call.outcome"] == "completed"
    if wanted and whole:
        wrong.append(f"{what} {wanted}")
    return not differ or not whole
