"""The demo's scenarios, written like an application: plain use of the ``openai`` client."""

from __future__ import annotations

import json
import math
import random
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.chat import ChatCompletionChunk

_WORDS = (
    "river stone window garden letter market bridge winter signal copper forest engine paper harbour candle mirror",
    "thunder meadow ladder violin compass velvet orchard anchor lantern pebble saddle ribbon feather cellar orbit",
)
_VOCABULARY = [word for line in _WORDS for word in line.split()]
BURST = 5
LEARN = 54
"""The number of calls of different length before the stories, from which the client learns the route. With the bursts'
they are enough for the diagnosis to forgive one that the machine held up by chance."""
USUAL = 80
"""Tokens of the usual prompt there; most are within a tenth of it, so that a long one is news."""
_SHORTEST, _LONGEST = 20, 500
_ENOUGH = 17
"""Output tokens of a call from which a route's pace is learned."""
ADAPTER = "demo-adapter"
"""The name of the adapter on the demo's server, where adapters can be served."""


@dataclass(slots=True)
class Stage:
    """The client, the server and the random source that a scenario works with."""

    client: OpenAI
    model: str
    words_per_token: float
    draw: random.Random

    def text(self, tokens: int) -> str:
        """Random words of about ``tokens`` tokens, never twice the same."""
        return " ".join(self.draw.choice(_VOCABULARY) for _ in range(max(1, round(tokens * self.words_per_token))))

    @contextmanager
    def chat(
        self,
        prompt: str,
        *,
        max_tokens: int = 24,
        model: str | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Generator[Iterator[ChatCompletionChunk]]:
        """Start one streamed chat completion."""
        with self.client.with_options(**options).chat.completions.create(
            model=model or self.model,
            messages=[{"role": "user", "content": prompt}],
            max_tokens=max_tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers=headers,
        ) as stream:
            yield stream

    def ask(self, prompt: str, **options: Any) -> None:
        """Make one streamed chat completion and read it to its end."""
        with self.chat(prompt, **options) as stream:
            for _ in stream:
                pass


@dataclass(frozen=True, slots=True)
class Scenario:
    """One situation of LLM calls in real life."""

    name: str
    title: str
    play: Callable[[Stage], None]
    short: str = ""
    """What the table calls it, where that is not the title."""
    needs: str | None = None
    """A package without which the scenario is left out."""
    more: bool = False
    """Played only where everything is asked for."""
    elsewhere: bool = False
    """Played after another server has taken the address over."""


def learn(stage: Stage, calls: int, progress: Callable[[], None]) -> None:
    """Make the calls that teach a client the route: prompts of different length, then what the stories hold.

    Half of the prompts are of the usual length. The others spread from a quarter of it to six times, without which
    nobody could tell what a prompt's tokens cost. Then a beginning comes back, and there are bursts: a client that has
    never met a cache hit or a queue cannot know what they look like.
    """
    for step in stage.draw.sample(range(calls), calls):
        stage.ask(stage.text(_length(step / max(1, calls - 1))), max_tokens=_ENOUGH)
        progress()
    beginning = stage.text(3 * USUAL)
    for _ in range(3):
        stage.ask(f"{beginning}\n{stage.text(12)}", max_tokens=2)
    for _ in range(2):
        _at_once(stage)


def _length(share: float) -> int:
    if share < 0.25:
        return round(_SHORTEST * math.exp(share / 0.25 * math.log(0.9 * USUAL / _SHORTEST)))
    if share > 0.75:
        return round(1.1 * USUAL * math.exp((share - 0.75) / 0.25 * math.log(_LONGEST / USUAL / 1.1)))
    return round(USUAL * (0.9 + 0.4 * (share - 0.25)))


def _long(stage: Stage) -> None:
    stage.ask(_shared(stage) + "\nFirst question: " + stage.text(12))


def _cached(stage: Stage) -> None:
    stage.ask(_shared(stage) + "\nSecond question: " + stage.text(12))


def _shared(stage: Stage) -> str:
    # The same text in both scenarios of one run: a system prompt, a document, a conversation so far.
    random_state = stage.draw.getstate()
    stage.draw.seed("shared prefix")
    text = stage.text(1300)
    stage.draw.setstate(random_state)
    return text


def _burst(stage: Stage) -> None:
    _at_once(stage)


def _at_once(stage: Stage) -> None:
    prompts = [stage.text(USUAL) for _ in range(BURST)]
    with ThreadPoolExecutor(BURST) as pool:
        list(pool.map(stage.ask, prompts))


def _noisy_neighbour(stage: Stage) -> None:
    with ThreadPoolExecutor(1) as pool, stage.chat(stage.text(USUAL), max_tokens=20) as stream:
        other: Future[None] | None = None
        for number, _ in enumerate(stream):
            if number == 3:
                # Somebody else's document: each chunk of it is computed between two tokens of this answer.
                other = pool.submit(_somebody_else, stage, stage.text(2600))
        if other is not None:
            other.result()


def _somebody_else(stage: Stage, prompt: str, tokens: int = 2) -> None:
    """A call by another program: plain HTTP, which no instrumentation of this one sees."""
    body = {"model": stage.model, "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens}
    request = urllib.request.Request(
        f"{str(stage.client.base_url).rstrip('/')}/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        response.read()


def _cold_cache(stage: Stage) -> None:
    # The neighbour's document has pushed the shared text out of the server's cache.
    stage.ask(_shared(stage) + "\nThird question: " + stage.text(12))


def _route_change(stage: Stage) -> None:
    for _ in range(3):
        stage.ask(stage.text(USUAL), max_tokens=_ENOUGH)


def _adapter_swap(stage: Stage) -> None:
    # Two tenants on one server, one of them with weights of its own: each call finds the other's in place.
    for model in (ADAPTER, stage.model) * 2:
        stage.ask(stage.text(80), model=model)


def _slow_reader(stage: Stage) -> None:
    with stage.chat(stage.text(80)) as stream:
        for _ in stream:
            time.sleep(0.03)  # the application does something with each chunk


def _cancelled(stage: Stage) -> None:
    with stage.chat(stage.text(80), max_tokens=120) as stream:
        for number, _ in enumerate(stream):
            if number == 8:
                break  # the user has seen enough; leaving the block closes the stream


def _retry(stage: Stage) -> None:
    fault = {"x-llmtrace-fault": "429;times=2", "x-llmtrace-fault-key": f"demo-{stage.draw.random()}"}
    stage.ask(stage.text(80), headers=fault, max_retries=3)


def _error(stage: Stage) -> None:
    with suppress(Exception):  # as the application would handle it
        stage.ask(stage.text(80), headers={"x-llmtrace-fault": "error-after=8"})


SCENARIOS = (
    Scenario("long_prompt", "Long prompt", _long),
    Scenario("cache_hit", "Same prefix again", _cached, "same prefix"),
    Scenario("burst", f"Burst of {BURST}", _burst, "burst"),
    Scenario("noisy_neighbour", "Noisy neighbour", _noisy_neighbour, "neighbour"),
    Scenario("cold_cache", "Cold cache", _cold_cache),
    Scenario("adapter_swap", "Adapter and base in turn", _adapter_swap, "adapter", needs="peft", more=True),
    Scenario("slow_reader", "Slow reader", _slow_reader, more=True),
    Scenario("cancelled", "Cancelled stream", _cancelled, "cancelled", more=True),
    Scenario("retry", "Two 429s, then an answer", _retry, "retry", more=True),
    Scenario("error_mid_stream", "Error mid-stream", _error, "error", more=True),
    Scenario("route_change", "Silent route change", _route_change, "new route", elsewhere=True),
)
