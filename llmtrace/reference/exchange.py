"""One HTTP exchange: jobs in, a stream or a body out, and a client that may leave at any moment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from llmtrace.reference._errors import OutOfMemory
from llmtrace.reference.conflicts import Conflict
from llmtrace.reference.faults import Fault
from llmtrace.reference.grammar import Grammar
from llmtrace.reference.model import LoadedModel
from llmtrace.reference.protocol import ApiRequest, Shapes, error_body, event, usage
from llmtrace.reference.runner import Piece, Request
from llmtrace.reference.scheduler import Job, Result, Scheduler
from llmtrace.reference.timings import Timings

__all__ = ["Exchange", "Stopping"]


_UNFINISHED = {"error": "error", "cancelled": "abort"}
"""The finish reason of a choice that did not end by itself, by the request's outcome, in vLLM's words."""


class Stopping(Exception):
    """The server was told to end before the answer was complete."""


class _Dropped(Exception):
    """The connection is to be closed in the middle of the response."""


class Exchange:
    """A Starlette response: call it with scope, receive, send.

    `room` is the longest sequence that can be, prompt and output together, in tokens. `adapter` is the one to answer
    with, and `conflict` what is known of it where it is several; `grammar` is what each answer is held to. `ended` is
    called once per job, on the event loop, after the job's last news have been passed on.
    """

    def __init__(
        self,
        api_request: ApiRequest,
        prompts: list[list[int]],
        *,
        arrived: int,
        default_max_tokens: int,
        scheduler: Scheduler,
        loaded: LoadedModel,
        room: int,
        fault: Fault | None,
        adapter: str | None,
        conflict: Conflict | None,
        grammar: Grammar | None,
        ended: Callable[[Job, Result, list[str]], None],
    ) -> None:
        self._api_request = api_request
        self._scheduler = scheduler
        self._fault = fault or Fault()
        self._shapes = Shapes(api_request, loaded)
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[tuple[int, Piece | Result]] = asyncio.Queue()
        self._ended = ended
        self._tokens = 0
        self._texts: list[list[str]] = [[] for _ in range(len(prompts) * api_request.choices)]
        self._reasons: list[str | None] = [None] * len(self._texts)
        self._finished: list[list[str]] = [[] for _ in prompts]
        self._open = len(self._texts)  # choices that have not finished
        self.jobs = [
            Job(
                Request(
                    prompt=ids,
                    max_tokens=api_request.max_tokens or min(default_max_tokens, room - len(ids)),
                    sampling=api_request.sampling,
                    stops=api_request.stops,
                    ignore_eos=api_request.ignore_eos,
                    choices=api_request.choices,
                    adapter=adapter,
                    grammar=grammar,
                    fault=self._fault.crash_after,
                ),
                Timings(arrived=arrived, prompt_tokens=len(ids), conflict=conflict),
                self._teller(number),
            )
            for number, ids in enumerate(prompts)
        ]

    def submit(self) -> None:
        """Join the queue. Raises `QueueFull`."""
        self._scheduler.submit(*self.jobs)

    def cancel(self) -> None:
        """Cancel all jobs: the client does not read the answer any more."""
        for job in self.jobs:
            self._scheduler.cancel(job)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = asyncio.create_task(self._watch(receive))
        try:
            await (self._send_stream(send) if self._api_request.stream else self._send_body(send))
        except (OSError, _Dropped):
            pass  # the client has gone, or the connection is to end here
        finally:
            watch.cancel()
            if self._open and not self._fault.run_on:
                self.cancel()

    # From the scheduler

    def _teller(self, number: int) -> Callable[[Piece | Result], None]:
        def tell(news: Piece | Result) -> None:
            self._loop.call_soon_threadsafe(self._hear, number, news)

        return tell

    def _hear(self, number: int, news: Piece | Result) -> None:
        self._news.put_nowait((number, news))
        if isinstance(news, Piece):
            if news.finish is not None:
                self._finished[number].append(news.finish)  # here, since nobody may read the news any more
        else:
            reasons = self._finished[number]
            if news.outcome != "completed":
                reasons += [_UNFINISHED[news.outcome]] * (self._api_request.choices - len(reasons))
            # After the response has gone out: nothing that is written down may delay it.
            self._loop.call_soon(self._ended, self.jobs[number], news, reasons)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not self._fault.run_on:
            self.cancel()

    # To the client

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """(choice over all prompts, piece) until every choice has finished. Raises what ended a job early."""
        self._check_faults()
        while self._open:
            number, news = await self._news.get()
            if isinstance(news, Result):
                if news.error is not None:
                    raise news.error
                if news.outcome == "cancelled":
                    if self._scheduler.stopping:
                        raise Stopping("the server is stopping: send the request again")
                    raise ConnectionAbortedError("the request was cancelled")
                continue
            index = number * self._api_request.choices + news.choice
            self._tokens += 1
            if news.finish is not None:
                self._open -= 1
                self._reasons[index] = news.finish
            yield index, news
            self._check_faults()

    def _check_faults(self) -> None:
        fault = self._fault
        if fault.drop_after is not None and self._tokens >= fault.drop_after:
            raise _Dropped
        if fault.error_after is not None and self._tokens >= fault.error_after:
            raise RuntimeError(f"error asked for after {fault.error_after} tokens")

    def _metrics(self) -> dict[str, Any] | None:
        """The metrics of the body; as in vLLM, None where one set of numbers cannot describe several answers."""
        return dict(self.jobs[0].timings.metrics()) if len(self._texts) == 1 else None

    async def _send_stream(self, send: Send) -> None:
        await send(_start(200, b"text/event-stream; charset=utf-8", (b"cache-control", b"no-cache")))
        begun_choices: set[int] = set()
        api_request, shapes = self._api_request, self._shapes
        try:
            async for index, piece in self._pieces():
                if index not in begun_choices:
                    begun_choices.add(index)
                    if api_request.chat:
                        await send(_part(shapes.role(index)))
                if piece.text:
                    await send(_part(shapes.text(index, piece.text)))
                if piece.finish is not None:
                    metrics = None if api_request.include_usage else self._metrics()
                    await send(_part(shapes.finish(index, piece.finish, metrics)))
        except (OSError, _Dropped):
            raise
        except Exception as error:
            await send(_part(event(_failure(error))))
            await send(_part(b"", more=False))
            return
        if api_request.include_usage:
            await send(_part(shapes.usage(usage([job.timings for job in self.jobs]), self._metrics())))
        await send(_part(b"data: [DONE]\n\n"))
        await send(_part(b"", more=False))

    async def _send_body(self, send: Send) -> None:
        status = 200
        try:
            async for index, piece in self._pieces():
                self._texts[index].append(piece.text)
            texts = [("".join(text), reason) for text, reason in zip(self._texts, self._reasons, strict=True)]
            body = self._shapes.body(texts, usage([job.timings for job in self.jobs]), self._metrics())
        except _Dropped:
            await send(_start(200, b"application/json"))
            await send(_part(b'{"id":'))
            raise
        except OSError:
            raise
        except Exception as error:
            status, body = 503 if isinstance(error, Stopping) else 500, _failure(error)
        raw = json.dumps(body, ensure_ascii=False).encode()
        await send(_start(status, b"application/json", (b"content-length", str(len(raw)).encode())))
        await send(_part(raw, more=False))


def _failure(error: BaseException) -> dict[str, Any]:
    says = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, OutOfMemory):
        return error_body(says, code="out_of_memory")
    if isinstance(error, Stopping):
        return error_body(says, code="stopping")
    return error_body(f"the request failed: {says}", code="internal_error")


def _start(status: int, content_type: bytes, *more: tuple[bytes, bytes]) -> Message:
    return {
        "type": "http.response.start",
        "status": status,
        "headers": [(b"content-type", content_type), *more],
    }


def _part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}
