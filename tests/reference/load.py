"""A load on the reference server by many streams at once, and whether what both sides say fits together.

    python -m tests.reference.load --seconds 120 --streams 64

Each stream is one client that asks again and again, with prompts of all lengths, some with a common beginning, some
left in the middle. Checked of every request: it ends, and once; its phases add up to its life; the first and the last
token were seen by the client after they were made by the server, and no later than the way takes; the server's life of
the request lies within the client's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx

from llmtrace.observe.clock import epoch_offset, now
from llmtrace.reference import ServerProcess

_WORDS = ("river", "stone", "window", "garden", "letter", "market", "bridge", "winter", "signal", "copper", "forest")


@dataclass
class Seen:
    """One request as the client had it. Moments are s since the epoch, by the monotonic clock."""

    name: str
    sent: float
    headers: float = 0.0
    first: float = 0.0
    last: float = 0.0
    tokens: int = 0
    left: bool = False
    refused: int = 0
    failed: str = ""
    truth: dict[str, Any] = field(default_factory=dict[str, Any])


def moment() -> float:
    return (now() + epoch_offset()) / 1e9


class Load:
    def __init__(self, server: ServerProcess, streams: int, seconds: float, seed: int = 0) -> None:
        self._server = server
        self._streams = streams
        self._until = time.monotonic() + seconds
        self._draw = random.Random(seed)
        self.requests: list[Seen] = []
        self.refused = 0
        self.model = json.loads(server.get("/v1/models"))["data"][0]["id"]

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self._server.root_url, timeout=300, limits=limits) as client:
            await asyncio.gather(*(self._stream(client) for _ in range(self._streams)))

    async def _stream(self, client: httpx.AsyncClient) -> None:
        asked = 0
        while time.monotonic() < self._until or asked < 2:
            await self._ask(client)
            asked += 1

    def _prompt(self) -> str:
        length = round(2 ** self._draw.uniform(2, 8))
        words = [self._draw.choice(_WORDS) for _ in range(length)]
        shared = "a document that many ask about " * 20 if self._draw.random() < 0.3 else ""
        return shared + " ".join(words)

    async def _ask(self, client: httpx.AsyncClient) -> None:
        seen = Seen(name=f"load-{uuid.uuid4().hex[:12]}", sent=moment())
        leaves = self._draw.random() < 0.1
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": self._prompt()}],
            "max_tokens": self._draw.choice((4, 16, 32, 48)),
            "stream": True,
            "ignore_eos": True,
        }
        try:
            async with client.stream(
                "POST", "/v1/chat/completions", json=body, headers={"x-request-id": seen.name}
            ) as answer:
                seen.headers = moment()
                if answer.status_code == 429:
                    self.refused += 1
                    await asyncio.sleep(min(1.0, int(answer.headers["retry-after-ms"]) / 1e3))
                    return
                if answer.status_code != 200:
                    seen.failed = (await answer.aread()).decode()[:200]
                self.requests.append(seen)
                async for line in answer.aiter_lines():
                    at = moment()
                    if line == "data: [DONE]":
                        break
                    if not line.startswith("data: "):
                        continue
                    if line.startswith('data: {"error"'):
                        seen.failed = line
                    elif '"content":"' in line and '"role"' not in line:
                        seen.first = seen.first or at
                        seen.last = at
                        seen.tokens += 1
                        if leaves and seen.tokens == 3:
                            seen.left = True
                            return
        except httpx.HTTPError as error:
            seen.failed = f"{type(error).__name__}: {error}"


def fetch_truth(server: ServerProcess, requests: list[Seen]) -> None:
    """The server's own records, asked for in time: it remembers some hundreds."""
    told = {record["request_id"]: record for record in json.loads(server.get("/debug/requests"))["requests"]}
    for seen in requests:
        seen.truth = told.get(seen.name) or seen.truth


@dataclass
class Report:
    """What came of a load."""

    requests: int = 0
    completed: int = 0
    left: int = 0
    refused: int = 0
    lost: list[str] = field(default_factory=list[str])
    failed: list[str] = field(default_factory=list[str])
    does_not_add_up: list[str] = field(default_factory=list[str])
    before_it_was_made: list[str] = field(default_factory=list[str])
    outside: list[str] = field(default_factory=list[str])
    first_late: list[float] = field(default_factory=list[float])
    last_late: list[float] = field(default_factory=list[float])
    took: list[float] = field(default_factory=list[float])
    """s, of the completed ones, from the client's sending to its last token."""
    after_cancel: list[int] = field(default_factory=list[int])
    tokens: int = 0
    queue: list[float] = field(default_factory=list[float])
    batch: list[float] = field(default_factory=list[float])

    @property
    def sound(self) -> bool:
        return not (self.lost or self.failed or self.does_not_add_up or self.before_it_was_made or self.outside)

    def lines(self, seconds: float) -> list[str]:
        late = [(name, sorted(values)) for name, values in (("first", self.first_late), ("last", self.last_late))]
        return [
            f"requests {self.requests}: completed {self.completed}, left by the client {self.left}; "
            f"refused with 429 {self.refused}",
            f"lost {len(self.lost)}, failed {len(self.failed)}, phases that do not add up {len(self.does_not_add_up)}, "
            f"seen before made {len(self.before_it_was_made)}, outside the client's call {len(self.outside)}",
            *(
                f"{name} token, seen by the client after the server had made it (ms): "
                f"p50 {1e3 * at(values, 0.5):.2f}, p90 {1e3 * at(values, 0.9):.2f}, "
                f"p99 {1e3 * at(values, 0.99):.2f}, max {1e3 * at(values, 1):.2f}"
                for name, values in late
            ),
            f"tokens {self.tokens} ({self.tokens / seconds:.0f}/s), mean batch {mean(self.batch):.1f}; "
            f"queue p50 {at(sorted(self.queue), 0.5):.3f} s, max {max(self.queue, default=0):.3f} s",
            f"tokens made after a client had left: at most {max(self.after_cancel, default=0)} per request",
            *(f"! {each}" for each in (self.lost + self.failed + self.does_not_add_up)[:5]),
            *(f"! {each}" for each in (self.before_it_was_made + self.outside)[:5]),
        ]


def at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def judge(load: Load, slack: float = 0.0005) -> Report:
    """Hold both sides' accounts against each other. `slack`, s: the two processes' anchors of the wall clock."""
    report = Report(requests=len(load.requests), refused=load.refused)
    for seen in load.requests:
        truth = seen.truth
        if seen.failed:
            report.failed.append(f"{seen.name}: {seen.failed}")
            continue
        if not truth:
            report.lost.append(f"{seen.name}: the server has no record of it")
            continue
        total = sum(truth["phases_s"].values())
        if abs(total - truth["total_s"]) > 1e-8:
            report.does_not_add_up.append(f"{seen.name}: {total} of {truth['total_s']}")
        report.tokens += truth["output_tokens"]
        report.queue.append(truth["phases_s"]["queue"])
        report.batch += truth["batch_sizes"]
        arrived, made = truth["arrived_unix_s"], truth["token_times_s"]
        if seen.left:
            report.left += 1
            if truth["outcome"] not in ("cancelled", "completed"):
                report.failed.append(f"{seen.name}: left, and it ended as {truth['outcome']}")
            if (cancelled := truth["cancelled_s"]) is not None:
                report.after_cancel.append(sum(each > cancelled for each in made))
        elif truth["outcome"] != "completed" or not seen.tokens:
            report.lost.append(f"{seen.name}: {truth['outcome']} after {seen.tokens} tokens")
            continue
        else:
            report.completed += 1
            report.last_late.append(seen.last - arrived - made[-1])
            report.took.append(seen.last - seen.sent)
            if arrived + truth["total_s"] > seen.last + slack:
                report.outside.append(f"{seen.name}: ended {arrived + truth['total_s'] - seen.last:.6f} s too late")
        if seen.first:
            report.first_late.append(seen.first - arrived - made[0])
        if min([*report.first_late[-1:], *report.last_late[-1:]], default=0.0) < -slack:
            report.before_it_was_made.append(f"{seen.name}: {report.first_late[-1]:.6f} s")
        if arrived < seen.sent - slack:
            report.outside.append(f"{seen.name}: arrived {seen.sent - arrived:.6f} s before it was sent")
    return report


async def play(server: ServerProcess, streams: int, seconds: float) -> Report:
    """Put the load on the server, and judge it."""
    load = Load(server, streams, seconds)

    async def keep_up() -> None:
        while True:
            await asyncio.sleep(0.5)
            open_ones = [seen for seen in load.requests if not seen.truth]
            await asyncio.to_thread(fetch_truth, server, open_ones)

    reader = asyncio.create_task(keep_up())
    try:
        await load.run()
        until = time.monotonic() + 60
        while any(not seen.truth for seen in load.requests) and time.monotonic() < until:
            await asyncio.sleep(0.1)  # those that were left end a moment later
    finally:
        reader.cancel()
    return judge(load)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64, help="clients at once")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--max-running", type=int, default=16)
    asked = parser.parse_args()
    with ServerProcess(max_running=asked.max_running, max_queue=asked.streams, faults=False) as server:
        report = asyncio.run(play(server, asked.streams, asked.seconds))
        print("\n".join(report.lines(asked.seconds)))
        print(
            f"preemptions {server.metric('num_preemptions_total'):.0f}, steps {server.metric('iterations_total'):.0f}"
        )
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(main())
