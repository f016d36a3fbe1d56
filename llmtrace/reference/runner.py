"""Prefill and decode, one step at a time, with a mark at every boundary.

A `Generation` is one request on the device. Each `step()` does one piece of work: first the cache lookup and copy
together with the first chunk of the prompt, then the further chunks, then one token per step. Whoever owns the model
decides which generation steps next; that is all that the scheduler needs.

On CUDA the host runs one step ahead: it queues step k + 1, then reads token k from a copy that the device made
meanwhile, so that nothing in the loop drains the stream. On the CPU a step is done when it returns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmtrace.observe.clock import now
from llmtrace.reference._errors import RunnerError
from llmtrace.reference.clock import DeviceClock, make_clock
from llmtrace.reference.detokenize import Detokenizer, StopFinder
from llmtrace.reference.kv import KVSlots, can_reuse
from llmtrace.reference.model import LoadedModel
from llmtrace.reference.prefix_cache import PrefixCache
from llmtrace.reference.sampling import Sampler, Sampling
from llmtrace.reference.timings import Timings

__all__ = ["Generation", "Piece", "Request", "Runner"]


@dataclass(frozen=True)
class Request:
    """What to generate."""

    prompt: Sequence[int]
    """Token ids."""
    max_tokens: int = 256
    """Output tokens per choice."""
    sampling: Sampling = field(default_factory=Sampling)
    stops: Sequence[str] = ()
    """Stop strings; the text ends before the first one met."""
    ignore_eos: bool = False
    """Go on to `max_tokens` whatever the model says."""
    choices: int = 1
    """How often to answer (OpenAI's `n`): one prefill, then one decode after the other."""
    fault: int | None = None
    """Raise after so many tokens: the crash that tests ask for."""


@dataclass(frozen=True)
class Piece:
    """One output token and the text that it completes (empty while text is held back)."""

    choice: int
    token: int
    text: str
    finish: str | None = None
    """`stop` or `length`, on the last piece of its choice."""


class Runner:
    """A loaded model and its prefix cache. One thread owns it."""

    def __init__(
        self, loaded: LoadedModel, *, prefix_cache: PrefixCache | None = None, prefill_chunk: int | None = 512
    ) -> None:
        self.loaded = loaded
        self.reusable = can_reuse(loaded.model.config)
        self.prefix_cache = prefix_cache if self.reusable else None
        self.prefill_chunk = prefill_chunk or loaded.context
        """Most prompt tokens per step; between two chunks others get their turn and a cancelled request stops."""

    def start(self, request: Request, timings: Timings | None = None) -> Generation:
        """A generation that has not done anything yet. Raises `RunnerError` for what cannot be generated."""
        loaded = self.loaded
        if not request.prompt:
            raise RunnerError("the prompt has no tokens")
        if len(request.prompt) + request.max_tokens > loaded.context:
            raise RunnerError(
                f"{len(request.prompt)} prompt tokens and {request.max_tokens} output tokens do not fit in the context "
                f"of {loaded.context}"
            )
        if min(request.prompt) < 0 or max(request.prompt) >= loaded.vocabulary:
            raise RunnerError(f"token ids must lie in [0, {loaded.vocabulary})")
        return Generation(self, request, timings or Timings(arrived=now()), make_clock(loaded.device))

    def generate(self, request: Request, timings: Timings | None = None) -> Iterator[Piece]:
        """Run one request to its end in this thread."""
        generation = self.start(request, timings)
        try:
            while not generation.done:
                yield from generation.step()
        finally:
            generation.close()

    def warm_up(self) -> None:
        """One short run, so that the first request does not pay for lazy initialisation."""
        kept, self.prefix_cache = self.prefix_cache, None
        try:
            ids = [index % self.loaded.vocabulary for index in range(1, 33)]
            for _ in self.generate(Request(ids, max_tokens=3, sampling=Sampling(temperature=0), ignore_eos=True)):
                pass
        finally:
            self.prefix_cache = kept


class Generation:
    """One request in progress: its slots on the device, its marks, its text."""

    def __init__(self, runner: Runner, request: Request, timings: Timings, clock: DeviceClock) -> None:
        self.request = request
        self.timings = timings
        self.done = False
        timings.prompt_tokens = len(request.prompt)
        timings.timed_by = clock.timed_by
        self._runner = runner
        self._loaded = runner.loaded
        self._clock = clock
        self._slots: KVSlots | None = None
        self._prompt: Any = None
        self._computed = 0  # prompt tokens whose keys and values are in the slots
        self._first_logits: Any = None
        self._prompt_kv: Any = None  # for n > 1: the prompt's slots, to start the further choices from
        self._stored = list(request.prompt)  # the tokens of the slots, for the prefix cache
        self._token: Any = None  # the last token chosen, on the device
        self._marks = 0  # made so far
        self._mark_of: list[int] = []  # for each token that was read, its mark
        self._lag = 1 if runner.loaded.device.startswith("cuda") else 0
        self._pending: deque[tuple[Any, Any, int]] = deque()
        self._settled = self._closed = False
        self._produced = 0
        self._open_choice(0)

    def _open_choice(self, index: int) -> None:
        self._choice = index
        self._launched = 0
        self._read = 0
        self._sampler = Sampler(self.request.sampling, self._loaded.device, index)
        self._text = Detokenizer(self._loaded.tokenizer)
        self._stop = StopFinder(self.request.stops)

    def step(self) -> list[Piece]:
        """Do one piece of work; the tokens that can be read after it (none while the prompt is being computed)."""
        import torch

        if self.done:
            return []
        with torch.inference_mode():
            if self._slots is None:
                self._begin()
            if self._computed < len(self.request.prompt):
                if not self._prefill_chunk():
                    return []
            elif self._launched < self.request.max_tokens:
                self._launch(self._decode_logits())
            return self._collect()

    # The work

    def _mark(self) -> int:
        self._clock.mark()
        self._marks += 1
        return self._marks - 1

    def _begin(self) -> None:
        """The queue ends here: look the prefix up and copy it."""
        import torch

        self._mark()
        self.timings.scheduled = now()
        self._slots = KVSlots(self._loaded.model.config, plain=self._runner.reusable)
        prompt = self.request.prompt
        cache = self._runner.prefix_cache
        found = cache.lookup(prompt) if cache is not None else []
        if found:
            self._slots.load(found)
            self._computed = sum(saved.tokens for saved in found)
            self.timings.cached_tokens = self._computed
        self._mark()
        # A lookup that found nothing is no phase of its own: prefill starts where the queue ends.
        self.timings.cache_done = now() if found else self.timings.scheduled
        self._prompt = torch.tensor([list(prompt)], device=self._loaded.device)

    def _prefill_chunk(self) -> bool:
        """Compute the next chunk of the prompt; True when it was the last, and the first token is on its way."""
        end = min(self._computed + self._runner.prefill_chunk, len(self.request.prompt))
        logits = self._forward(self._prompt[:, self._computed : end])
        self._computed = end
        if end < len(self.request.prompt):
            return False
        self._prompt = None
        if self.request.choices > 1:
            assert self._slots is not None
            self._first_logits = logits
            self._prompt_kv = self._slots.save(end)
        self._launch(logits)
        return True

    def _decode_logits(self) -> Any:
        if self._token is None:  # a further choice: the prompt's own logits again
            return self._first_logits
        return self._forward(self._token)

    def _forward(self, ids: Any) -> Any:
        """Logits `[1, vocabulary]` of the last of these tokens, whose keys and values go into the slots."""
        assert self._slots is not None
        extra = {"logits_to_keep": 1} if "logits_to_keep" in self._loaded.takes else {}
        out = self._loaded.model(input_ids=ids, past_key_values=self._slots.cache, use_cache=True, **extra)
        return out.logits[:, -1]

    def _launch(self, logits: Any) -> None:
        """Choose a token and send it to the host, without waiting for it."""
        token = self._sampler.next(logits)
        mark = self._mark()
        self._token = token
        self._launched += 1
        copy, arrived = self._send(token) if self._lag else (token, None)
        self._pending.append((copy, arrived, mark))

    def _send(self, token: Any) -> tuple[Any, Any]:
        """A copy that the device will make in the host's memory, and the event that says when it is there."""
        import torch

        copy = torch.empty((1, 1), dtype=token.dtype, pin_memory=True)
        copy.copy_(token, non_blocking=True)
        arrived: Any = torch.cuda.Event()
        arrived.record()
        return copy, arrived

    def _collect(self) -> list[Piece]:
        """The tokens that the host may read now: all but the last `lag`, and all of them at the end of a choice."""
        lag = self._lag if self._launched < self.request.max_tokens else 0
        pieces: list[Piece] = []
        while len(self._pending) > lag:
            copy, arrived, mark = self._pending.popleft()
            if arrived is not None:
                arrived.synchronize()
            token = int(copy)
            self._mark_of.append(mark)
            self.timings.tokens.append(now())  # until the device's clock has been read
            self._produced += 1
            if self.request.fault is not None and self._produced > self.request.fault:
                raise RuntimeError(f"crash asked for after {self.request.fault} tokens")
            piece = self._piece(token)
            pieces.append(piece)
            if piece.finish is not None:
                self._end_choice()
                break
        return pieces

    def _piece(self, token: int) -> Piece:
        self._read += 1
        if self._choice == 0:
            self._stored.append(token)
        if token in self._loaded.stop_ids and not self.request.ignore_eos:
            text, met = self._stop.push(self._text.flush())
            return Piece(self._choice, token, text if met else text + self._stop.flush(), "stop")
        text, met = self._stop.push(self._text.push(token))
        if met:
            return Piece(self._choice, token, text, "stop")
        if self._read >= self.request.max_tokens:
            rest, met = self._stop.push(self._text.flush())
            text += rest if met else rest + self._stop.flush()
            return Piece(self._choice, token, text, "stop" if met else "length")
        return Piece(self._choice, token, text)

    def _end_choice(self) -> None:
        self._pending.clear()
        if self._choice + 1 >= self.request.choices:
            self.done = True
            return
        if self._choice == 0:
            self._keep()
        self._slots = KVSlots(self._loaded.model.config, plain=self._runner.reusable)
        if self._prompt_kv is not None:
            self._slots.load([self._prompt_kv])
        else:
            self._computed = 0  # nothing to copy from: compute the prompt again
            self._restart_prompt()
        self._token = None
        self._open_choice(self._choice + 1)

    def _restart_prompt(self) -> None:
        import torch

        self._prompt = torch.tensor([list(self.request.prompt)], device=self._loaded.device)

    # The end

    def settle(self) -> None:
        """Read the clock: from here on `timings` holds the truth. Waits for the device, once."""
        if self._settled:
            return
        self._settled = True
        marks = self._clock.resolve() if self._slots is not None else []
        timings = self.timings
        timings.clock_error = self._clock.error_ns
        if len(marks) >= 2:
            timings.scheduled = max(marks[0], timings.arrived)
            timings.cache_done = max(marks[1], timings.scheduled) if timings.cached_tokens else timings.scheduled
            timings.tokens = [max(marks[mark], timings.cache_done) for mark in self._mark_of]
        timings.finished = timings.tokens[-1] if self.done and timings.tokens else now()

    def close(self) -> None:
        """Settle, keep the prefix, give the slots back. Safe to call twice, and after any failure."""
        if self._closed:
            return
        self._closed = True
        try:
            self.settle()
            if self._choice == 0:
                self._keep()
        finally:
            self.done = True
            self._slots = self._prompt = self._token = self._first_logits = self._prompt_kv = None
            self._pending.clear()

    def _keep(self) -> None:
        """Put what has been computed into the prefix cache; also of a cancelled request."""
        cache = self._runner.prefix_cache
        if cache is not None and self._slots is not None and self._computed:
            cache.store(self._stored[: self._slots.tokens], self._slots)
