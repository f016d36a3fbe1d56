"""The same traffic over real sockets: each simulated call played by the replay server, read by the real client."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import openai

import llmtrace
from llmtrace.diagnosis import verdict as causes
from tests.evaluation.diagnosis.traffic import Faults, Made, Traffic, both, draw_habits, single
from tests.support import replay as play
from tests.support.replay import Replay
from tests.support.spans import Spans, attributes

SCALE = 0.2
"""Simulated seconds become so many real ones."""
CALM = 36
INJECTED = 6
WIRED = (causes.QUEUEING, causes.SLOW_CONSUMER, causes.MODEL_SWAP, causes.RETRY_STORM, causes.REPETITION_LOOP)


@dataclass
class Wired:
    """One episode over sockets."""

    truth: str
    calls: int
    named: Counter[str]


def over_sockets(draw: random.Random) -> list[Wired]:
    """A calm stretch and then calls with one fault each, for every cause in ``WIRED`` and for none."""
    return [_episode(cause, draw) for cause in ("", *WIRED)]


def _episode(cause: str, draw: random.Random) -> Wired:
    habits = draw_habits(draw, told=False)
    habits.output, habits.hold = 24, 0.0
    faults = single(cause, draw, habits) if cause else Faults()
    if cause == causes.QUEUEING:
        faults = both(faults, Faults(queue=max(faults.queue, 2.0)))  # on a busy machine small ones drown
    traffic, spans = Traffic(habits, draw), Spans()
    llmtrace.instrument("openai", tracer_provider=spans.provider)
    try:
        with Replay() as server, openai.OpenAI(base_url=server.base_url, api_key="unused", max_retries=4) as client:
            for number in range(CALM + INJECTED):
                now = Faults() if number < CALM else faults
                _play(server, traffic.call(now), now, client)
    finally:
        llmtrace.uninstrument()
    named = Counter[str]()
    for span in spans.parents()[CALM:]:
        named.update(attributes(span).get("llmtrace.diagnosis", ()))
    return Wired(cause or "nothing", INJECTED, named)


def _play(server: Replay, made: Made, faults: Faults, client: Any) -> None:
    facts = made.facts
    for _ in range(faults.retries):
        server.play(play.Script(status=429, headers={**play.JSON_HEADERS, "retry-after-ms": "5"}, parts=[(0.0, b"{}")]))
    server.play(_script(made))
    with client.chat.completions.create(
        model=facts.asked, messages=[{"role": "user", "content": "hello"}], stream=True, max_tokens=4096
    ) as stream:
        for _ in stream:
            if faults.hold:
                time.sleep(max(0.004, faults.hold * SCALE))


def _script(made: Made) -> play.Script:
    facts, said = made.facts, {"model": made.facts.answered, "system_fingerprint": made.facts.fingerprint}
    usage = play.USAGE | {
        "prompt_tokens": facts.input_tokens,
        "completion_tokens": len(made.pieces),
        "prompt_tokens_details": {"cached_tokens": facts.cached_tokens},
    }
    gaps = [gap / 1e9 * SCALE for gap in made.gaps]
    delays = [(facts.wait or facts.silence) * SCALE, *gaps, *[0.0005] * len(made.pieces)]
    parts: list[tuple[float, bytes]] = [
        (delay, play.event(play.chunk({"content": piece}, **said)))
        for delay, piece in zip(delays, made.pieces, strict=False)
    ]
    end = "length" if facts.repetition else "stop"
    parts += [
        (0.0, event) for event in play.sse(play.chunk({}, finish=end, **said), play.chunk(None, usage=usage, **said))
    ]
    return play.Script(headers=play.SSE_HEADERS, parts=parts)
