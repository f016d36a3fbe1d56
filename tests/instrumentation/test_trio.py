"""Deadlines and cancellations of trio: a deadline is a timeout, as it is with asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
import pytest

from tests.support import replay as play
from tests.support.spans import attributes

if TYPE_CHECKING:
    from tests.support.replay import Replay
    from tests.support.spans import Spans

trio = pytest.importorskip("trio", minversion="0.31", reason="older ones do not say what a cancellation came from")
pytestmark = pytest.mark.usefixtures("traced")
EXPECTED = {"move_on_after": "timed_out", "fail_after": "timed_out", "cancel": "cancelled"}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("how", EXPECTED)
def test_what_ends_a_call(how: str, streaming: bool, replay: Replay, spans: Spans) -> None:
    replay.serve(play.hang_mid_stream(itl=0.002) if streaming else play.accept_and_hang())

    async def ask(client: openai.AsyncOpenAI) -> None:
        asked: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "stream": streaming}
        answer = await client.chat.completions.create(**asked)
        async for _ in answer:
            pass

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=replay.base_url, api_key="k", max_retries=0) as client:
            if how == "cancel":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask, client)
                    await trio.sleep(0.3)
                    nursery.cancel_scope.cancel()
            else:
                with getattr(trio, how)(0.3):
                    await ask(client)

    if how == "fail_after":
        with pytest.raises(trio.TooSlowError):
            trio.run(main)
    else:
        trio.run(main)
    span = spans.one(EXPECTED[how])
    if streaming:
        assert attributes(span)["llmtrace.cancellation.cause"] == ("task_cancelled" if how == "cancel" else "deadline")
