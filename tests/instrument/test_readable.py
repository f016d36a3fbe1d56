"""A call's span can be read: few attributes, and no events but a diagnosis's evidence."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support import replay as play
from tests.support.apis import Sync
from tests.support.replay import Replay
from tests.support.spans import Spans, attributes

pytestmark = pytest.mark.usefixtures("traced")

MOST = 25
OPTIONS = ("gen_ai.request.", "openai.request.", "gen_ai.output.type")
ALWAYS = {"gen_ai.request.model", "gen_ai.request.stream"}
TOLD = play.USAGE | {"completion_tokens_details": {"reasoning_tokens": 2}}


def beyond_options(found: dict[str, object]) -> list[str]:
    """Names of attributes, those left out that say which options the program set in its request."""
    return [name for name in found if name in ALWAYS or not name.startswith(OPTIONS)]


@pytest.mark.parametrize("way", ["whole", "streamed", "server_timings", "left", "retried", "refused"])
def test_few_attributes(way: str, make_api: Callable[..., Sync], replay: Replay, spans: Spans) -> None:
    """By every way a call goes, from a provider that tells all it can."""
    api = make_api("sync", max_retries=2)
    told = {"openai-processing-ms": "12"}
    metrics = {"metrics": play.VLLM_METRICS} if way == "server_timings" else None
    if way == "retried":
        replay.play(play.too_many(1), play.too_many(1))
    if way == "refused":
        replay.play(play.server_error(400))
        with pytest.raises(Exception, match="400"):
            api.create()
    elif way == "whole":
        replay.play(play.openai_body(usage=TOLD))
        api.create()
    else:
        replay.play(play.openai_stream(usage=TOLD, ttft=0.03, itl=0.004, headers=told, last=metrics))
        stream = api.stream(max_tokens=50) if way == "left" else api.stream()
        if way == "left":
            api.take(stream, 2)
            api.close(stream)
        else:
            api.drain(stream)
    (parent,) = spans.parents()
    assert len(beyond_options(attributes(parent))) < MOST, beyond_options(attributes(parent))
    assert {event.name for event in parent.events} <= {"llmtrace.diagnosis"}
    assert all(not span.events for span in spans.finished() if span is not parent)
    assert all(len(attributes(span)) < MOST for span in spans.finished() if span is not parent)
