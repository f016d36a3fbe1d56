"""The same causes for real: the reference server with a model that computes and vLLM, real clients, faults that really
happen.

Each session goes through a relay of its own, so that it is a route of its own to the client, which learns from calm
calls first. The server's own timings are not read: the client is as blind as with a provider that tells none.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import openai

import llmtrace
from llmtrace.calls import tracer
from llmtrace.calls.result import Result
from llmtrace.calls.verdict import Diagnoser
from llmtrace.diagnosis.symptoms import Symptoms
from llmtrace.diagnosis.verdict import Verdict
from tests.evaluation.diagnosis.injections import Caller, Inject, Site, Target, renamed
from tests.evaluation.diagnosis.notebook import Notebook, Played, Seen
from tests.evaluation.diagnosis.plan import BETWEEN, SECOND, Session
from tests.evaluation.diagnosis.relay import Way, relay
from tests.evaluation.diagnosis.servers import Servers
from tests.support.spans import Spans

_FAILED_CALL: tuple[type[Exception], ...] = (openai.OpenAIError, OSError)


class TimeUp(Exception):
    """The time limit of the run."""


@dataclass
class Run:
    """What is to be played, and how far it has come."""

    plan: list[Session]
    notebook: Notebook
    until: float | None = None
    """Monotonic s; None: no limit."""
    failures: list[str] = field(default_factory=list[str])
    """Sessions that broke off, and why."""
    cut: str | None = None
    """Why the run ended early."""
    tell: Callable[[str, int], None] = lambda words, calls: None
    """Told what happened, and of how many of the plan's calls that disposes."""

    @property
    def calls(self) -> int:
        """That are still to be made."""
        return sum(session.calls(self.notebook.done(session.number)) for session in self.plan)

    @property
    def unplayed(self) -> int:
        """Episodes of the plan that were not played."""
        return sum(len(session.episodes) for session in self.plan) - len(self.notebook.episodes)

    def one_call(self) -> None:
        """A call has been made.

        Raises:
            TimeUp: and it was the last one.
        """
        self.tell("", 1)
        if self.until is not None and time.monotonic() > self.until:
            raise TimeUp


def reality(run: Run, seed: int) -> None:
    """Play what the notebook has not got yet. A session that fails is noted, and the rest goes on."""
    try:
        with Servers() as servers:
            for session in run.plan:
                done = run.notebook.done(session.number)
                if done == len(session.episodes):
                    continue
                try:
                    here, target = servers.site(session.server, random.Random(f"{seed} {session.number} {done}"))
                    _play(run, session, done, here, target)
                except (*_FAILED_CALL, AssertionError, RuntimeError) as error:
                    why = f"{session.where}: {type(error).__name__}: {str(error)[:200]}"
                    run.failures.append(why)
                    played = run.notebook.done(session.number)
                    run.tell(f"failed: {why}\n{servers.last_words(session.server)}", session.calls(played))
    except TimeUp:
        run.cut = "the time was up"
    except KeyboardInterrupt:
        run.cut = "it was interrupted"


@contextmanager
def _listening() -> Generator[list[tuple[Symptoms, list[Verdict]]], None, None]:
    """What the diagnosis saw and said of each call, as they end."""
    seen: list[Symptoms] = []
    heard: list[tuple[Symptoms, list[Verdict]]] = []
    judge = Diagnoser.judge

    def watched(diagnoser: Diagnoser, key: Any, symptoms: Symptoms, *no_core: Any) -> list[Verdict]:
        before = replace(symptoms)  # judging changes some of it
        seen.append(before)
        verdicts = judge(diagnoser, key, symptoms, *no_core)
        before.no_core = symptoms.no_core
        return verdicts

    def listen(ended: Result) -> None:
        heard.append((seen.pop(), list(ended.verdicts)))

    tracer.listeners.append(listen)
    try:
        with patch.object(Diagnoser, "judge", watched):
            yield heard
    finally:
        tracer.listeners.remove(listen)


def _play(run: Run, session: Session, done: int, here: Site, target: Target) -> None:
    """The session's episodes from the one with this number on."""
    way = Way(target.address, whole=session.whole, delay=session.far)
    if session.server == SECOND:
        way.asks, way.says = [renamed(here.model, target.model)], [renamed(target.model, here.model)]
    llmtrace.instrument("openai", tracer_provider=Spans().provider, server_timings=False)
    try:
        with (
            _listening() as heard,
            relay(way) as port,
            openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="unused", max_retries=4) as client,
        ):
            caller = Caller(here, client, target, whole=session.whole)
            calm = session.warm + here.draw.randint(-4, 4)
            for number, episode in enumerate(session.episodes[done:], done):
                for _ in range(calm):
                    caller.call()
                    run.one_call()
                before = len(heard)
                inject = Inject(here, way, caller, episode.size, statistics.median(caller.taken[-BETWEEN:]))
                plain = replace(way)
                for _ in range(episode.calls):
                    getattr(inject, episode.cause)()
                    run.one_call()
                inject.over()
                way.__dict__.update(plain.__dict__)
                calls = [Seen(at >= before, *call) for at, call in enumerate(heard)]
                heard.clear()
                played = Played(session.number, number, episode.cause, episode.size, session.where, calls)
                run.notebook.add(played)
                run.tell(_words(played), 0)
                calm = BETWEEN
    finally:
        llmtrace.uninstrument()


def _words(played: Played) -> str:
    trial = played.trial()
    size = f" {played.size:g} times" if played.size else ""
    verdict = "right" if trial.right else f"WRONG: {dict(trial.named)} of {trial.calls}"
    false = f"; in calm calls {dict(trial.false_alarms)}" if trial.false_alarms else ""
    return f"{played.where}: {played.cause}{size}: {verdict}{false}"
