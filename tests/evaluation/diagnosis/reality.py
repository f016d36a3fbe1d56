"""The same causes for real: the reference server with a model that computes, real clients, faults that really happen.

Each episode goes through a relay of its own, so that it is a route of its own to the client, which learns from calm
calls first. The server's own timings are not read: the client is as blind as with a provider that tells none.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import openai

import llmtrace
from llmtrace.diagnosis import verdict as causes
from llmtrace.reference.process import ServerProcess
from llmtrace.reference.tiny import TinySpec, build_tiny
from tests.e2e.servers import vllm_server
from tests.evaluation.diagnosis.injections import OTHER, SLOTS, Caller, Inject, Site, Target, renamed
from tests.evaluation.diagnosis.relay import Way, relay
from tests.evaluation.diagnosis.trials import Trial
from tests.evaluation.phases import engines
from tests.support.spans import Spans, attributes

WARM = 44
"""Calls of a route before its first episode; of whole answers, twice as many."""
BETWEEN = 10
"""Calm calls after each episode."""
LASTS = 8
"""Calls of an episode."""
SMALL = (1.3, 1.5, 2.0)
"""Of the small effects: by how many times the usual time to the first token, or per token, gets longer."""
_STREAMED = (
    causes.PREFILL_SURGE,
    causes.QUEUEING,
    causes.NOISY_NEIGHBOR,
    causes.NETWORK,
    causes.SLOW_CONSUMER,
    causes.RETRY_STORM,
    causes.REPETITION_LOOP,
    causes.BUFFERED_STREAM,
)
_IN_SMALL = (causes.QUEUEING, causes.NETWORK, causes.NOISY_NEIGHBOR)
"""Causes whose effect the relay can make as small as is wanted."""


@dataclass(frozen=True)
class Episode:
    """What is to happen to some calls of a route."""

    cause: str
    size: float = 0.0
    """0: as large as the cause makes it."""


@dataclass(frozen=True)
class Session:
    """One route: calm calls, then its episodes with calm calls in between."""

    server: str
    """first, second or vllm."""
    episodes: tuple[Episode, ...]
    whole: bool = False


def sessions(draw: random.Random, rounds: int, *, vllm: bool) -> list[Session]:
    """``rounds`` routes of streams with each cause that can come and go, small effects among them, the last episode a
    change that stays; one route for the cache, one of whole answers, and one to vLLM if that is there."""
    made: list[Session] = []
    for number in range(rounds):
        episodes = [*map(Episode, _STREAMED), *(Episode(cause, draw.choice(SMALL)) for cause in _IN_SMALL)]
        draw.shuffle(episodes)
        stays = (causes.ROUTE_CHANGE, causes.MODEL_SWAP)[number % 2]
        made.append(Session("first", (*episodes, Episode(stays))))
    made.append(Session("second", (Episode(causes.COLD_KV_CACHE),) * 4))
    whole = [Episode(causes.QUEUEING), Episode(causes.QUEUEING, 1.5), Episode(causes.QUEUEING, 2.0)]
    made.append(Session("first", (*whole, Episode(causes.RETRY_STORM)), whole=True))
    if vllm:
        there = [Episode(cause) for cause in _STREAMED if cause not in (causes.RETRY_STORM, causes.REPETITION_LOOP)]
        there += [Episode(cause, draw.choice(SMALL)) for cause in _IN_SMALL]
        draw.shuffle(there)
        made.append(Session("vllm", tuple(there)))
    draw.shuffle(made)
    return made


@contextmanager
def site(draw: random.Random) -> Iterator[Site]:
    """Start the servers; the second one's model is built first, which takes some seconds."""
    with tempfile.TemporaryDirectory(prefix="llmtrace-reality-") as folder:
        other = Path(folder, OTHER)
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
            servers = {"first": Target(first.root_url, model), "second": Target(second.root_url, OTHER)}
            here = Site(servers, model, draw)
            for target in servers.values():
                _measure(here, target)
            yield here


def _measure(here: Site, target: Target) -> None:
    """How many of these words make one of the server's tokens."""
    text = here.text(1000, target)
    with openai.OpenAI(base_url=f"{target.url}/v1", api_key="unused") as client:
        asked = client.completions.create(model=target.model, prompt=text, max_tokens=1)
    assert asked.usage is not None
    target.words_per_token = len(text.split()) / asked.usage.prompt_tokens


def reality(
    draw: random.Random, rounds: int, tell: Callable[[Trial], None] = lambda done: None
) -> tuple[list[Trial], list[str]]:
    """Every episode, and what could not be played."""
    trials: list[Trial] = []
    missing = engines.missing("vllm")
    with ExitStack() as open_servers:
        here = open_servers.enter_context(site(draw))
        for session in sessions(draw, rounds, vllm=missing is None):
            target = here.servers.get(session.server)
            if target is None:
                folder = open_servers.enter_context(tempfile.TemporaryDirectory(prefix="llmtrace-reality-"))
                engine = open_servers.enter_context(
                    vllm_server(Path(folder), "--max-num-seqs", str(SLOTS), "--max-model-len", "4096")
                )
                target = here.servers[session.server] = Target(engine.url, "tiny", grammar=False)
                _measure(here, target)
            for trial in _played(here, target, session):
                trials.append(trial)
                tell(trial)
    return trials, [f"vLLM: {missing}"] if missing else []


def _played(here: Site, target: Target, session: Session) -> list[Trial]:
    way, spans = Way(target.address, whole=session.whole), Spans()
    if target is here.servers["second"]:
        way.asks, way.says = [renamed(here.model, OTHER)], [renamed(OTHER, here.model)]
    llmtrace.instrument("openai", tracer_provider=spans.provider, server_timings=False)
    ends: list[tuple[Episode, int, int]] = []
    made = 0
    try:
        with (
            relay(way) as port,
            openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="unused", max_retries=4) as client,
        ):
            caller = Caller(here, client, target, whole=session.whole)

            def calm(calls: int) -> int:
                for _ in range(calls):
                    caller.call()
                return calls

            made += calm(WARM * (2 if session.whole else 1) + here.draw.randint(-4, 4))
            for number, episode in enumerate(session.episodes, 1):
                usual = statistics.median(caller.taken[-BETWEEN:])
                plain = replace(way)
                inject = Inject(here, way, caller, episode.size, usual)
                for _ in range(LASTS):
                    getattr(inject, episode.cause)()
                inject.over()
                ends.append((episode, made, made + LASTS))
                made += LASTS
                way.__dict__.update(plain.__dict__)
                if number < len(session.episodes):
                    made += calm(BETWEEN)
    finally:
        llmtrace.uninstrument()
    return _read(ends, session, spans)


def _read(ends: list[tuple[Episode, int, int]], session: Session, spans: Spans) -> list[Trial]:
    """A trial for each episode, with the calm calls in front of it."""
    stated: list[list[tuple[str, float]]] = []
    for span in spans.parents():
        facts = attributes(span)
        names, sure = facts.get("llmtrace.diagnosis", ()), facts.get("llmtrace.diagnosis.confidence", ())
        stated.append(list(zip(names, sure, strict=True)))
    trials: list[Trial] = []
    at = 0
    for episode, begin, end in ends:
        where = f"{session.server}{', whole answers' if session.whole else ''}"
        trial = Trial((episode.cause,), where=where, size=episode.size)
        for number in range(at, end):
            trial.note(stated[number], number >= begin)
        trials.append(trial)
        at = end
    return trials
