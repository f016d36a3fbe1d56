"""A traced application, other tenants of its server, and what goes wrong between them: one method for each cause.

Large ones really happen: prompts of 2,000 tokens; strangers' documents that evict the cache (vLLM's is emptied);
strangers who hold all slots, or whose documents are computed between the tokens of a running answer; a relay that
delays, hands on chunks in bursts, or leads to another server, under the other model's name or under the same; an
application that holds each chunk; refused attempts; a grammar that the model cannot leave. Small ones are made by the
relay: the usual wait 1.15 to 1.5 times as long, on the way or behind the headers, or pauses between chunks 1.3 to 2
times as long.
"""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from math import inf
from typing import Any

import openai

from tests.evaluation.diagnosis.relay import Way
from tests.evaluation.diagnosis.traffic import WORDS

SLOTS = 2
_SHARED, OWN = 800, (60, 240)
"""Tokens that a route's prompts share, and their own, least and most."""
OWN_WHOLE = (60, 700)
"""Whole answers show what a prompt costs only where prompts differ."""
_ANSWER, _ANSWERS_WHOLE = 24, (6, 12, 20, 30)
"""Output tokens. A stream's pace is judged from 16 on."""
_LONG = 2400
_HOLDS_SLOTS = 1500
"""Output tokens that a stranger asks for who holds a slot; he goes before that."""
_LOOPS = 80
"""Output tokens of an answer that repeats itself: somewhat more than are looked at."""
_PATIENCE_S = 60.0
"""For a stranger's request."""
OTHER = "llmtrace-else"
"""The other model's name, as long as the first one's, so that a relay can put one in the other's place."""


@dataclass
class Target:
    """A server."""

    url: str
    """Base address without a path."""
    model: str
    reference: bool = True
    """It is our own: it knows ``guided_regex``, faults and seeds. (On the CPU vLLM's engine dies of a seed in a prompt
    that it computes in parts: "CPU Generator does not use offset".)"""
    words_per_token: float = 0.0
    """Of its tokenizer, as measured; 0: not yet."""

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.rpartition("/")[2].partition(":")
        return host, int(port)


@dataclass
class Site:
    """The servers by name, and what a route's application asks for."""

    servers: dict[str, Target]
    model: str
    draw: random.Random

    def text(self, tokens: int, target: Target) -> str:
        """Random words of about so many of ``target``'s tokens, never twice the same."""
        return " ".join(self.draw.choice(WORDS) for _ in range(max(1, round(tokens * target.words_per_token))))


def renamed(old: str, new: str) -> tuple[bytes, bytes]:
    """What puts one name in another's place, of as many bytes."""
    assert len(old) == len(new), (old, new)
    return f'"{old}"'.encode(), f'"{new}"'.encode()


class Caller:
    """The traced application: one call after the other, each with the same beginning and an end of its own."""

    def __init__(self, here: Site, client: openai.OpenAI, server: Target, *, whole: bool) -> None:
        self.here, self.client, self.server, self.whole = here, client, server, whole
        self._shared = here.text(_SHARED, server)
        self.taken: list[float] = []
        """Of each call, s until its first token; of a whole answer, until its end."""

    def call(
        self,
        *,
        own: int | None = None,
        hold: float = 0.0,
        headers: dict[str, str] | None = None,
        answer: int | None = None,
        pattern: str | None = None,
        at_first: Callable[[], object] | None = None,
    ) -> None:
        """One call. ``own``: tokens of its own; ``pattern``: what the answer has to be like; ``at_first`` is
        called when its first token is there."""
        draw = self.here.draw
        time.sleep(draw.uniform(0.01, 0.06))
        tokens = own if own is not None else draw.randint(*(OWN_WHOLE if self.whole else OWN))
        asked: dict[str, Any] = {
            "model": self.here.model,
            "messages": [{"role": "user", "content": f"{self._shared}\n{self.here.text(tokens, self.server)}"}],
            "max_tokens": answer or (draw.choice(_ANSWERS_WHOLE) if self.whole else _ANSWER),
            "temperature": 1.0,
            "extra_headers": headers,
            "extra_body": {"guided_regex": pattern} if pattern else {"ignore_eos": True},
        }
        if self.server.reference:
            asked["seed"] = draw.getrandbits(31)
        create: Any = self.client.chat.completions.create
        began = time.monotonic()
        if self.whole:
            create(**asked)
            self.taken.append(time.monotonic() - began)
            return
        first = None
        with create(**asked, stream=True, stream_options={"include_usage": True}) as stream:
            for chunk in stream:
                if first is None and chunk.choices and chunk.choices[0].delta.content:
                    first = time.monotonic()
                    if at_first is not None:
                        at_first()
                if hold:
                    time.sleep(hold)
        self.taken.append((first or time.monotonic()) - began)


class Inject:
    """One method per cause: a call with it."""

    def __init__(self, here: Site, way: Way, caller: Caller, size: float, usual: float) -> None:
        """``size``: by how many times what takes ``usual`` s is to take longer; 0: as large as the cause makes it."""
        self.here, self.way, self.caller, self.size = here, way, caller, size
        self._extra, self._usual_delay = (size - 1) * usual, way.delay
        draw = here.draw
        self._delay = draw.uniform(0.3, 0.7)
        self._long = draw.randint(int(0.8 * _LONG), _LONG)
        self._hold = draw.uniform(0.03, 0.08)
        self._refusals = draw.choice((2, 2, 3))
        self._bursts = draw.choice((-1, 8, 12))
        self._neighbours = _Neighbours(caller.server)

    def over(self) -> None:
        """Wait for the neighbours."""
        self._neighbours.join()

    def nothing(self) -> None:
        self.caller.call()

    def prefill_surge(self) -> None:
        self.caller.call(own=self._long)

    def cold_kv_cache(self) -> None:
        server = self.caller.server
        if server.reference:  # another tenant's document takes the cache's room
            self._neighbours.ask(self.here.text(_LONG, server), 1)
        else:
            urllib.request.urlopen(f"{server.url}/reset_prefix_cache", data=b"", timeout=30).close()
        self.caller.call()

    def queueing(self) -> None:
        if self.size:
            self.way.wait = self._extra
            self.caller.call()
            return
        for _ in range(SLOTS):
            self._neighbours.begin(self.here.text(30, self.caller.server), _HOLDS_SLOTS)
        self._neighbours.go_at(time.monotonic() + self._delay)
        self.caller.call()
        self._neighbours.join()

    def noisy_neighbor(self) -> None:
        if self.size:
            self.way.stretch = self.size
            self.caller.call()
            return
        # All is ready before the call, or a short answer is over by the time that the document comes.
        send = self._neighbours.ready(self.here.text(self._long, self.caller.server), 1)
        self.caller.call(at_first=send)
        send()
        self._neighbours.join()

    def network(self) -> None:
        self.way.delay = self._usual_delay + (self._extra if self.size else self._delay)
        self.caller.call()

    def route_change(self) -> None:
        self._elsewhere(named=False)

    def model_swap(self) -> None:
        self._elsewhere(named=True)

    def _elsewhere(self, *, named: bool) -> None:
        """Another server than ours answers, with another model: the second one's, to vLLM's clients the first one's."""
        there = self.here.servers["second" if self.caller.server.reference else "first"]
        self.way.upstream = there.address
        self.way.asks = [renamed(self.here.model, there.model)]
        self.way.says = [] if named else [renamed(there.model, self.here.model)]
        self.caller.call()

    def slow_consumer(self) -> None:
        self.caller.call(hold=self._hold)

    def retry_storm(self) -> None:
        key = str(self.here.draw.random())
        fault = f"429;times={self._refusals};retry-after=0.05"
        self.caller.call(headers={"x-llmtrace-fault": fault, "x-llmtrace-fault-key": key})

    def repetition_loop(self) -> None:
        phrase = " ".join(self.here.draw.sample(WORDS, 5))
        self.caller.call(answer=_LOOPS, pattern=f"({phrase}, ){{40}}")  # a grammar that the model cannot leave

    def buffered_stream(self) -> None:
        self.way.bursts = self._bursts
        self.caller.call()


class _Neighbours:
    """Other tenants of the server: plain requests, not traced, each in a thread of its own."""

    def __init__(self, server: Target) -> None:
        self._address, self._model = server.address, server.model
        self._running: list[threading.Thread] = []
        self._until = inf

    def go_at(self, until: float) -> None:
        """Have those who hold slots hang up at this time (monotonic s)."""
        self._until = until

    def ask(self, text: str, answer: int) -> None:
        """Send one request and wait for its answer."""
        self._start(text, answer)[0].set()
        self.join()

    def ready(self, text: str, answer: int) -> Callable[[], None]:
        """Connect, and send one request when what this returns is called; does not wait."""
        return self._start(text, answer)[0].set

    def begin(self, text: str, answer: int) -> None:
        """Send one request and wait until its answer has begun."""
        self._until = inf
        go, begun = self._start(text, answer)
        go.set()
        begun.wait(_PATIENCE_S)

    def join(self) -> None:
        """Wait for all of them."""
        while self._running:
            self._running.pop().join(_PATIENCE_S)

    def _start(self, text: str, answer: int) -> tuple[threading.Event, threading.Event]:
        """A request that waits for the first event and sets the second as its answer begins."""
        body = {
            "model": self._model, "messages": [{"role": "user", "content": text}], "max_tokens": answer,
            "temperature": 1.0, "stream": True, "ignore_eos": True,
        }  # fmt: skip
        go, begun = threading.Event(), threading.Event()
        connection = HTTPConnection(*self._address, timeout=_PATIENCE_S)
        connection.connect()
        thread = threading.Thread(target=self._send, args=(connection, json.dumps(body), go, begun), daemon=True)
        self._running.append(thread)
        thread.start()
        return go, begun

    def _send(self, connection: HTTPConnection, body: str, go: threading.Event, begun: threading.Event) -> None:
        go.wait(_PATIENCE_S)
        with suppress(OSError, HTTPException), closing(connection):
            connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
            for line in connection.getresponse():
                if b'"content"' in line:
                    begun.set()
                if time.monotonic() > self._until:
                    break
        begun.set()
