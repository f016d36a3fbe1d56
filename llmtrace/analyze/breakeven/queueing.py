"""Requests through a machine that batches continuously: who waits, whose chunk delays whom.

The rules are those of the reference server: first come, first served into ``slots``; in each step every request that
decodes gets a token, and what is left of the step's budget goes to prompts in the order in which they came, at most a
chunk of each. Steps in which nobody joins or leaves are taken together. Who finds the machine without work waits until
it has woken up, the longer the longer it had none.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

from llmtrace.analyze.breakeven.machine import Machine


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when it is sent (s), its prompt and output in tokens, and how much of the prompt is in the cache."""

    at: float
    prompt: int
    output: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of it, s from the sending."""

    ttft: float
    total: float
    queue: float
    """s in the queue, of these."""


@dataclass(frozen=True, slots=True)
class Played:
    """All requests' answers, in their order, and how long the machine computed."""

    answers: list[Answered]
    busy: float
    span: float
    """s from the first request to the last answer."""

    @property
    def utilisation(self) -> float:
        return self.busy / self.span if self.span > 0 else 0.0


class _Running:
    __slots__ = ("begun", "context", "first", "number", "output", "prompt")

    def __init__(self, number: int, asked: Asked, begun: float, block: int) -> None:
        cached = min(asked.cached, asked.prompt - 1) // block * block
        self.number = number
        self.prompt = asked.prompt - cached
        """Prompt tokens that are still to be computed."""
        self.context = cached
        self.output = max(1, asked.output)
        """Tokens that are still to come."""
        self.begun = begun
        self.first = 0.0


def play(machine: Machine, requests: Sequence[Asked]) -> Played:
    """The answers of ``requests``, which are in the order of their times."""
    answers: list[Answered | None] = [None] * len(requests)
    waiting = [(asked.at + machine.request, number) for number, asked in enumerate(requests)]
    heapq.heapify(waiting)
    running: list[_Running] = []
    time = busy = 0.0
    while waiting or running:
        waking = 0.0
        if not running and waiting[0][0] > time:
            waking = machine.wake * min(1.0, (waiting[0][0] - time) / machine.pause)
            time = waiting[0][0]
        while waiting and len(running) < machine.slots and waiting[0][0] <= time:
            _, number = heapq.heappop(waiting)
            running.append(_Running(number, requests[number], time, machine.block))
        time += waking
        prefilling = [one for one in running if one.prompt]
        if prefilling:
            spent, ended = _mixed(machine, running, prefilling, time)
        else:
            joins = waiting[0][0] - time if waiting and len(running) < machine.slots else None
            spent, ended = _decoding(machine, running, joins)
        time += spent
        busy += spent
        for one in ended:
            asked = requests[one.number]
            arrived = asked.at + machine.request
            answers[one.number] = Answered(one.first - asked.at, time - asked.at, max(0.0, one.begun - arrived))
            running.remove(one)
    begin = requests[0].at if requests else 0.0
    return Played([answer for answer in answers if answer is not None], busy, time - begin)


def _mixed(
    machine: Machine, running: Sequence[_Running], prefilling: Sequence[_Running], time: float
) -> tuple[float, list[_Running]]:
    """One step with chunks of prompts: its time, and who has ended with it."""
    decoding = [one for one in running if not one.prompt]
    context = sum(one.context for one in decoding)
    budget = machine.budget - len(decoding)
    prompt = 0
    attention = 0.0
    rows = len(decoding)
    chosen: list[_Running] = []
    for one in prefilling:
        part = min(machine.chunk, one.prompt, budget)
        if part <= 0:
            break
        budget -= part
        prompt += part
        attention += part * (one.context + part / 2)
        one.prompt -= part
        one.context += part
        rows += 1
        if not one.prompt:
            chosen.append(one)
    spent = machine.compute(len(decoding), context, prompt, attention) + machine.overhead(rows)
    for one in decoding:
        one.context += 1
        one.output -= 1
    for one in chosen:
        one.first = time + spent
        one.output -= 1
    return spent, [one for one in (*decoding, *chosen) if not one.output]


def _decoding(machine: Machine, running: Sequence[_Running], joins: float | None) -> tuple[float, list[_Running]]:
    """Steps in which all decode, until one ends or, after ``joins`` s, another may join."""
    rows = len(running)
    steps = min(one.output for one in running)
    context = sum(one.context for one in running)
    first = machine.compute(rows, context, 0, 0) + machine.overhead(rows)
    grows = machine.per_context * rows
    if joins is not None:
        steps = min(steps, _steps_in(joins, first, grows))
    spent = steps * first + grows * steps * (steps - 1) / 2
    for one in running:
        one.context += steps
        one.output -= steps
    return spent, [one for one in running if not one.output]


def _steps_in(seconds: float, first: float, grows: float) -> int:
    """How many steps it takes until ``seconds`` are over; each takes ``grows`` longer than the one before."""
    if seconds <= 0 or first <= 0:
        return 1
    if grows <= 0:
        return max(1, ceil(seconds / first))
    half = first - grows / 2
    return max(1, ceil((sqrt(half * half + 2 * grows * seconds) - half) / grows))
