"""The demo's scenarios, written like an application: plain use of the ``openai`` client."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event
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
    needs: str | None = None
    """A package without which the scenario is left out."""


def _cold_short(stage: Stage) -> None:
    stage.ask(stage.text(40))


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
    prompts = [stage.text(250) for _ in range(BURST)]
    with ThreadPoolExecutor(BURST) as pool:
        list(pool.map(stage.ask, prompts))


def _noisy_neighbour(stage: Stage) -> None:
    started = Event()

    def answer() -> None:
        with stage.chat(stage.text(30), max_tokens=40) as stream:
            for number, _ in enumerate(stream):
                if number == 10:
                    started.set()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(answer)
        started.wait(timeout=30)
        # Somebody else's document: each of its chunks is computed between two tokens of the running answer.
        stage.ask(stage.text(2600), max_tokens=60)
        running.result()


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
    Scenario("cold_short", "Cold, short prompt", _cold_short),
    Scenario("long_prompt", "Long prompt", _long),
    Scenario("cache_hit", "Same prefix again: a cache hit", _cached),
    Scenario("burst", f"Burst of {BURST}: a queue", _burst),
    Scenario("noisy_neighbour", "Noisy neighbour: a long prompt lands in a running answer", _noisy_neighbour),
    Scenario("adapter_swap", "Adapter and base in turn: a swap each", _adapter_swap, needs="peft"),
    Scenario("slow_reader", "Slow reader", _slow_reader),
    Scenario("cancelled", "Cancelled stream", _cancelled),
    Scenario("retry", "Two 429s, then an answer", _retry),
    Scenario("error_mid_stream", "Error mid-stream", _error),
)
