"""The same causes for real: the reference server with a model that computes, real clients, faults that really happen.

Each episode goes through a relay of its own, so that it is a route of its own to the client, which learns from calm
calls first. The server's own timings are not read: the client is as blind as with a provider that tells none.
"""

from __future__ import annotations

import json
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

import llmtrace
from llmtrace.diagnosis import verdict as causes
from llmtrace.diagnosis.verdict import CAUSES
from llmtrace.reference.process import ServerProcess
from llmtrace.reference.tiny import TinySpec, build_tiny
from tests.evaluation.diagnosis.relay import Way, relay
from tests.evaluation.diagnosis.traffic import WORDS
from tests.evaluation.diagnosis.trials import Trial
from tests.support.spans import Spans, attributes

CALM = 40
INJECTED = 6
SLOTS = 2
_SHARED, _OWN = 800, (60, 240)
"""Tokens that an episode's prompts share, and their own, least and most."""
_ANSWER = 28
_LONG = 2400
_OTHER = "llmtrace-else"
"""The other model's name, as long as the first one's, so that a relay can put one in the other's place."""


@dataclass
class Site:
    """Two servers, the second with another model, and a small prefix cache."""

    first: ServerProcess
    second: ServerProcess
    model: str
    draw: random.Random
    words_per_token: float = 0.25

    def text(self, tokens: int) -> str:
        """Random words of about so many tokens, never twice the same."""
        return " ".join(self.draw.choice(WORDS) for _ in range(max(1, round(tokens * self.words_per_token))))


@contextmanager
def site(draw: random.Random) -> Iterator[Site]:
    """Start the servers; the second one's model is built first, which takes some seconds."""
    with tempfile.TemporaryDirectory(prefix="llmtrace-reality-") as folder:
        other = Path(folder, _OTHER)
        build_tiny(other, spec=TinySpec(layers=8, frozen_layers=7, seed=1))
        small = [
            "--prefix-cache-bytes",
            str(4000 * 8192),
        ]  # 4,000 tokens: layers x heads x 64 x 4 bytes, keys and values
        with (
            ServerProcess(max_running=SLOTS, faults=True) as first,
            ServerProcess(other, max_running=SLOTS, faults=True, arguments=small) as second,
        ):
            model = str(json.loads(first.get("/v1/models"))["data"][0]["id"])
            here = Site(first, second, model, draw)
            text = here.text(2000)
            with openai.OpenAI(base_url=first.base_url, api_key="unused") as client:
                asked = client.completions.create(model=model, prompt=text, max_tokens=1)
            assert asked.usage is not None
            here.words_per_token = len(text.split()) / asked.usage.prompt_tokens
            yield here


def reality(
    draw: random.Random, rounds: int, tell: Callable[[Trial], None] = lambda done: None, only: tuple[str, ...] = CAUSES
) -> list[Trial]:
    """``rounds`` episodes of each cause, in an order drawn anew."""
    found: list[Trial] = []
    with site(draw) as here:
        order = [cause for cause in only for _ in range(rounds)]
        draw.shuffle(order)
        for cause in order:
            found.append(_episode(here, cause))
            tell(found[-1])
    return found


def _episode(here: Site, cause: str) -> Trial:
    server = here.second if cause == causes.COLD_KV_CACHE else here.first
    way, spans = Way(_address(server)), Spans()
    if server is here.second:
        way.asks, way.says = [_renamed(here.model, _OTHER)], [_renamed(_OTHER, here.model)]
    calm_calls = here.draw.randint(CALM - 4, CALM + 4)
    llmtrace.instrument("openai", tracer_provider=spans.provider, server_timings=False)
    try:
        with (
            relay(way) as port,
            openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="unused", max_retries=4) as client,
        ):
            caller = _Caller(here, client, server)
            for _ in range(calm_calls):
                caller.call()
            inject = _Inject(here, way, caller)
            for _ in range(INJECTED):
                getattr(inject, cause)()
            inject.over()
    finally:
        llmtrace.uninstrument()
    return _read(cause, calm_calls, spans)


def _read(cause: str, calm_calls: int, spans: Spans) -> Trial:
    trial = Trial((cause,))
    for number, span in enumerate(spans.parents()):
        said = attributes(span)
        found = zip(said.get("llmtrace.diagnosis", ()), said.get("llmtrace.diagnosis.confidence", ()), strict=True)
        trial.note(found, number >= calm_calls)
    return trial


def _address(server: ServerProcess) -> tuple[str, int]:
    host, _, port = server.root_url.rpartition("/")[2].partition(":")
    return host, int(port)


def _renamed(old: str, new: str) -> tuple[bytes, bytes]:
    assert len(old) == len(new), (old, new)
    return f'"{old}"'.encode(), f'"{new}"'.encode()


class _Caller:
    """The traced application: one call after the other, each with the same beginning and an end of its own."""

    def __init__(self, here: Site, client: openai.OpenAI, server: ServerProcess) -> None:
        self.here, self.client, self.server = here, client, server
        self._shared = here.text(_SHARED)

    def call(
        self,
        *,
        own: int | None = None,
        hold: float = 0.0,
        headers: dict[str, str] | None = None,
        answer: int = _ANSWER,
        pattern: str | None = None,
        at_first: Callable[[], None] | None = None,
    ) -> None:
        """One streamed call. ``own``: tokens of its own; ``pattern``: what the answer has to be like; ``at_first`` is
        called when its first token is there."""
        draw = self.here.draw
        time.sleep(draw.uniform(0.01, 0.06))
        tokens = own if own is not None else draw.randint(*_OWN)
        stream: Any = self.client.chat.completions.create(
            model=self.here.model,
            messages=[{"role": "user", "content": f"{self._shared}\n{self.here.text(tokens)}"}],
            max_tokens=answer,
            temperature=1.0,
            seed=draw.getrandbits(31),
            stream=True,
            stream_options={"include_usage": True},
            extra_headers=headers,
            extra_body={"guided_regex": pattern} if pattern else None,
        )
        with stream:
            for chunk in stream:
                if at_first is not None and chunk.choices and chunk.choices[0].delta.content:
                    at_first()
                    at_first = None
                if hold:
                    time.sleep(hold)


class _Inject:
    """One method per cause: a call with it."""

    def __init__(self, here: Site, way: Way, caller: _Caller) -> None:
        self.here, self.way, self.caller = here, way, caller
        draw = here.draw
        self._delay = draw.uniform(0.25, 0.6)
        self._long = draw.randint(int(0.8 * _LONG), _LONG)
        self._hold = draw.uniform(0.03, 0.08)
        self._refusals = draw.choice((2, 2, 3))
        self._bursts = draw.choice((-1, 8, 12))
        self._neighbours = _Neighbours(caller.server, here.model if caller.server is here.first else _OTHER)

    def over(self) -> None:
        """Wait for the neighbours."""
        self._neighbours.join()

    def prefill_surge(self) -> None:
        self.caller.call(own=self._long)

    def cold_kv_cache(self) -> None:
        for _ in range(2):  # other tenants' documents take the cache's room
            self._neighbours.ask(self.here.text(_LONG), 1).join()
        self.caller.call()

    def queueing(self) -> None:
        for _ in range(SLOTS):
            self._neighbours.begin(self.here.text(30), 90)
        self.caller.call()
        self._neighbours.join()

    def noisy_neighbor(self) -> None:
        text = self.here.text(self._long)
        self.caller.call(at_first=lambda: self._neighbours.ask(text, 1))
        self._neighbours.join()

    def network(self) -> None:
        self.way.delay = self._delay
        self.caller.call()

    def route_change(self) -> None:
        self._elsewhere(told=False)

    def model_swap(self) -> None:
        self._elsewhere(told=True)

    def _elsewhere(self, *, told: bool) -> None:
        self.way.upstream = _address(self.here.second)
        self.way.asks = [_renamed(self.here.model, _OTHER)]
        self.way.says = [] if told else [_renamed(_OTHER, self.here.model)]
        self.caller.call()

    def slow_consumer(self) -> None:
        self.caller.call(hold=self._hold)

    def retry_storm(self) -> None:
        key = str(self.here.draw.random())
        fault = f"429;times={self._refusals};retry-after=0.05"
        self.caller.call(headers={"x-llmtrace-fault": fault, "x-llmtrace-fault-key": key})

    def repetition_loop(self) -> None:
        phrase = " ".join(self.here.draw.sample(WORDS, 5))
        self.caller.call(answer=160, pattern=f"({phrase}, ){{40}}")  # a grammar that the model cannot leave

    def buffered_stream(self) -> None:
        self.way.bursts = self._bursts
        self.caller.call()


class _Neighbours:
    """Other tenants of the server: plain requests, not traced, each in a thread of its own."""

    def __init__(self, server: ServerProcess, model: str) -> None:
        self._url, self._model = f"{server.base_url}/chat/completions", model
        self._running: list[threading.Thread] = []

    def ask(self, text: str, answer: int) -> threading.Thread:
        """Send one request; does not wait."""
        thread = threading.Thread(target=self._send, args=(text, answer, threading.Event()), daemon=True)
        self._running.append(thread)
        thread.start()
        return thread

    def begin(self, text: str, answer: int) -> None:
        """Send one request and wait until its answer has begun."""
        begun = threading.Event()
        thread = threading.Thread(target=self._send, args=(text, answer, begun), daemon=True)
        self._running.append(thread)
        thread.start()
        begun.wait(30)

    def join(self) -> None:
        """Wait for all of them."""
        while self._running:
            self._running.pop().join(60)

    def _send(self, text: str, answer: int, begun: threading.Event) -> None:
        import urllib.request

        body = {
            "model": self._model, "messages": [{"role": "user", "content": text}], "max_tokens": answer,
            "temperature": 1.0, "stream": True,
        }  # fmt: skip
        request = urllib.request.Request(self._url, json.dumps(body).encode(), {"content-type": "application/json"})
        with suppress(OSError), urllib.request.urlopen(request, timeout=60) as response:
            for line in response:
                if b'"content"' in line:
                    begun.set()
        begun.set()
