"""The spliced iterators: nothing is changed, nothing is pulled ahead, and each call ends once."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from llmtrace.observe import internal_errors
from llmtrace.observe.call import OUTPUT, Call, open_calls
from llmtrace.observe.stream import Guard, asplice, splice


def new_call(ended: list[Call], classify_chunk: Any = lambda chunk: OUTPUT) -> Call:
    call = Call(ended.append, classify_chunk, streaming=True)
    call.returned = call.start
    return call


def test_items_pass_unchanged_and_lazily() -> None:
    pulled: list[int] = []

    def source() -> Iterator[int]:
        for number in range(600):
            pulled.append(number)
            yield number

    ended: list[Call] = []
    call = new_call(ended)
    timed = splice(source(), call, Guard(call, lambda call: None))
    assert pulled == []
    assert next(timed) == 0
    assert pulled == [0]
    assert list(timed) == list(range(1, 600))
    assert [call.outcome for call in ended] == ["completed"]
    assert ended[0].chunk_timing.total == 600
    assert ended[0].end == ended[0].chunk_timing.last_arrival


def test_an_exception_is_the_same_object_and_ends_the_call() -> None:
    boom = ValueError("boom")

    def source() -> Iterator[int]:
        yield 1
        raise boom

    ended: list[Call] = []
    call = new_call(ended)
    with pytest.raises(ValueError) as caught:
        list(splice(source(), call, Guard(call, lambda call: None)))
    assert caught.value is boom
    assert [(call.outcome, call.error) for call in ended] == [("error", boom)]


@pytest.mark.parametrize("pulls", [0, 1, 3])
def test_a_dropped_iterator_calls_its_guard_once(pulls: int) -> None:
    collected: list[Call] = []
    ended: list[Call] = []
    call = new_call(ended)
    timed = splice(iter(range(10)), call, Guard(call, collected.append))
    for _ in range(pulls):
        next(timed)
    del timed
    gc.collect()
    assert collected == [call]
    call.finish("abandoned")
    call.finish("completed")
    assert [call.outcome for call in ended] == ["abandoned"]


def test_a_reader_that_fails_is_ours_to_bear(caplog: pytest.LogCaptureFixture) -> None:
    def broken(chunk: object) -> int:
        raise RuntimeError("ours")

    ended: list[Call] = []
    call = new_call(ended, broken)
    before = internal_errors.counts["reading a chunk"]
    assert list(splice(iter(range(5)), call, Guard(call, lambda call: None))) == [0, 1, 2, 3, 4]
    assert internal_errors.counts["reading a chunk"] == before + 5
    assert [call.outcome for call in ended] == ["completed"]


async def test_asynchronous_items_errors_and_cancellation() -> None:
    read_all = asyncio.Event()

    async def source() -> AsyncIterator[int]:
        for number in range(600):
            yield number
        read_all.set()
        await asyncio.sleep(10)

    ended: list[Call] = []
    call = new_call(ended)
    got: list[int] = []

    async def read() -> None:
        async for number in asplice(source(), call, Guard(call, lambda call: None)):
            got.append(number)

    task = asyncio.create_task(read())
    await read_all.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert got == list(range(600))
    assert [call.outcome for call in ended] == ["cancelled"]
    assert call not in open_calls()
