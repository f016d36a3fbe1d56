"""One request in progress: its parameters, its state, and the work that was done meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmtrace.observe.clock import now
from llmtrace.reference.clock import DeviceClock, Mark, launch_bound_ratio
from llmtrace.reference.detokenize import Detokenizer, StopFinder
from llmtrace.reference.grammar import Constraint, Grammar
from llmtrace.reference.kv import Place
from llmtrace.reference.model import LoadedModel
from llmtrace.reference.sampling import Sampler, Sampling
from llmtrace.reference.timings import Chunk, Timings

__all__ = ["Generation", "Piece", "Request", "Work"]


@dataclass(frozen=True)
class Request:
    """The parameters of one generation."""

    prompt: Sequence[int]
    """Token ids."""
    max_tokens: int = 256
    """Output tokens per choice."""
    sampling: Sampling = field(default_factory=Sampling)
    stops: Sequence[str] = ()
    """Stop strings; the text ends before the first one met."""
    ignore_eos: bool = False
    """Whether to go on to `max_tokens` past the end-of-sequence token."""
    choices: int = 1
    """The number of answers (OpenAI's `n`): one prefill, then one decode after the other."""
    adapter: str | None = None
    """Name of the adapter to generate with; None: the base model."""
    grammar: Grammar | None = None
    """The grammar that each answer must follow."""
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


@dataclass(slots=True, eq=False)
class Work:
    """One piece of the model's work, between two marks."""

    kind: str
    """`cache`: a prefix looked up and copied in; `prefill`: a chunk; `decode`: a token each; `store`: copied out;
    `swap`: another adapter put in."""
    start: Mark
    end: Mark
    tokens: int
    again: bool = False
    """Whether it had been computed before, and was lost when the request was preempted."""

    @property
    def length(self) -> int:
        """The duration in ns; 0 until the clock has resolved the marks."""
        return 0 if self.start.at is None or self.end.at is None else self.end.at - self.start.at


class Generation:
    """The state of one request. The runner's thread changes it; `cancelled` may be set from any thread."""

    def __init__(self, request: Request, timings: Timings, loaded: LoadedModel) -> None:
        self.request = request
        self.timings = timings
        self.done = False
        """Whether the generation is over: all tokens have been read, or it failed, or it left the runner."""
        self.cancelled = False
        """Whether it was cancelled: the runner does no more work for it."""
        self.place: Place | None = None
        """Its keys and values; None while it has none (not begun, preempted, ended)."""
        self.token: Any = None
        """The token chosen last, on the device; None where a choice has none yet."""
        self.first_logits: Any = None
        """With several choices: the logits after the prompt, from which each begins."""
        self.launched = 0
        """Tokens of this choice that have been chosen on the device."""
        self.output: list[int] = []
        """Tokens of this choice that the host has read."""
        self.choice = 0
        self.began = False
        """Whether its work has begun, since the start or since it was preempted."""
        self.works: list[tuple[Work, bool]] = []
        """Every piece of work of the model since its work began, and whether it was for this request."""
        self.furthest = 0
        """The most tokens whose keys and values were ever in its place."""
        timings.prompt_tokens = len(request.prompt)
        self._loaded = loaded
        self._produced = 0
        self._begin: Mark | None = None
        self._swapped: Mark | None = None
        self._cached: Mark | None = None
        self._tokens: list[Mark] = []
        self._preempted: list[Mark] = []
        self._resumed: list[Mark] = []
        self._settled = False
        self._open_choice()

    def _open_choice(self) -> None:
        self.launched = 0
        self.output = []
        self.token = None
        self.sampler = Sampler(self.request.sampling, self._loaded.device, self.choice)
        self._text = Detokenizer(self._loaded.tokenizer)
        self._stop = StopFinder(self.request.stops)
        self.constraint: Constraint | None = None
        if self.request.grammar is not None:
            self.constraint = self.request.grammar.begin()
            self.timings.mask_ns += self.constraint.mask_ns

    # How far it is

    @property
    def known(self) -> list[int]:
        """The tokens whose keys and values must be there before the next one can be computed."""
        return [*self.request.prompt, *self.output[:-1]]

    @property
    def wanted(self) -> int:
        """The number of these tokens."""
        return len(self.request.prompt) + max(0, self.launched - 1)

    @property
    def prefilling(self) -> bool:
        """Whether prompt tokens (or, after a preemption, any earlier ones) are still to be computed."""
        return not self.done and (self.place is None or self.place.tokens < self.wanted)

    @property
    def decoding(self) -> bool:
        """Whether the next step can compute a token for it."""
        return (
            not self.done
            and not self.cancelled
            and self.place is not None
            and self.place.tokens >= self.wanted
            and self.launched < self.request.max_tokens
        )

    # What the runner tells it

    def begin(self, mark: Mark) -> bool:
        """Begin its work at `mark`; returns whether the queue ends here (False: a preemption ends)."""
        self.began = True
        if self._begin is not None:
            self._resumed.append(mark)
            return False
        self._begin = mark
        self.timings.scheduled = mark.host
        return True

    def swapped(self, mark: Mark) -> None:
        """Note that its adapter, which had to be put in before its prompt, is in use at `mark`."""
        self._swapped = mark
        self.timings.swap_done = mark.host

    def cached(self, tokens: int, mark: Mark) -> None:
        """Note that `tokens` of the prompt came from the prefix cache, and were copied by `mark`."""
        self._cached = mark
        self.timings.cached_tokens = tokens
        self.timings.cache_done = mark.host if tokens else self.timings.swap_done or self.timings.scheduled

    def lost_its_place(self, mark: Mark) -> None:
        """Note a preemption: the computed tokens are gone. If there were none, it is as if it had not been admitted."""
        if self.began:
            self._preempted.append(mark)
            self.timings.preempted.append(mark.host)
        self.place = None
        self.began = False

    def launch(self, token: Any) -> None:
        """Set the next token, `[1]` or `[1, 1]` on the device."""
        self.token = token
        self.launched += 1

    def read(self, token: int, mark: Mark, batch: int) -> Piece:
        """Add a token that the host has read; it was chosen at `mark` in a forward for `batch` requests."""
        self._tokens.append(mark)
        self.timings.tokens.append(mark.host)  # until the device's clock has been read
        self.timings.batch.append(batch)
        self._produced += 1
        self.output.append(token)
        if self.request.fault is not None and self._produced > self.request.fault:
            raise RuntimeError(f"crash asked for after {self.request.fault} tokens")
        ended = self._constrain(token)
        piece = self._piece(token, ended)
        if piece.finish is not None and self.choice + 1 >= self.request.choices:
            self.done = True
        return piece

    def next_choice(self) -> None:
        """Begin one more answer to the same prompt."""
        self.choice += 1
        self._open_choice()

    def _constrain(self, token: int) -> bool:
        """Move the grammar on by `token`; returns whether the answer is complete."""
        constraint = self.constraint
        if constraint is None or token in self._loaded.stop_ids:
            return constraint is not None
        before = constraint.mask_ns
        constraint.push(token)
        self.timings.mask_ns += constraint.mask_ns - before
        return constraint.ended

    def _piece(self, token: int, ended: bool) -> Piece:
        if token in self._loaded.stop_ids and (ended or not self.request.ignore_eos):
            text, stopped = self._stop.push(self._text.flush())
            return Piece(self.choice, token, text if stopped else text + self._stop.flush(), "stop")
        text, stopped = self._stop.push(self._text.push(token))
        if stopped:
            return Piece(self.choice, token, text, "stop")
        if ended or len(self.output) >= self.request.max_tokens:
            rest, stopped = self._stop.push(self._text.flush())
            text += rest if stopped else rest + self._stop.flush()
            return Piece(self.choice, token, text, "stop" if stopped or ended else "length")
        return Piece(self.choice, token, text)

    # The end

    def settle(self, clock: DeviceClock) -> None:
        """Read the clock into `timings`, which holds the true times from here on. Waits for the device, once."""
        if self._settled:
            return
        self._settled = True
        clock.resolve()
        timings = self.timings
        timings.timed_by = clock.timed_by
        timings.clock_error = clock.error_ns
        complete = self.done and bool(self._tokens)
        if self._begin is not None:
            self._fill_in(timings)
        timings.finished = timings.tokens[-1] if complete else max(now(), timings.arrived)
        timings.host["finished"] = self._tokens[-1].host if complete else timings.finished
        self.works.clear()

    def _fill_in(self, timings: Timings) -> None:
        """Set every moment to the device's time, and the shares of other requests."""
        begin = self._begin
        assert begin is not None
        timings.scheduled = max(begin.at or begin.host, timings.arrived)
        timings.host["scheduled"] = begin.host
        if self._swapped is not None:
            timings.swap_done = max(self._swapped.at or self._swapped.host, timings.scheduled)
            timings.host["swap_done"] = self._swapped.host
        if self._cached is not None:
            cached = self._cached if timings.cached_tokens else self._swapped or begin
            timings.cache_done = max(cached.at or cached.host, timings.swap_done or timings.scheduled)
            timings.host["cache_done"] = cached.host
        floor = timings.cache_done or timings.scheduled
        timings.tokens = [max(mark.at or mark.host, floor) for mark in self._tokens]
        if self._tokens:
            timings.host["first_token"] = self._tokens[0].host
        timings.preempted = [mark.at or mark.host for mark in self._preempted]
        timings.resumed = [mark.at or mark.host for mark in self._resumed]
        timings.chunks = [
            Chunk(work.start.at or 0, work.end.at or 0, work.tokens, work.again)
            for work, mine in self.works
            if mine and work.kind == "prefill"
        ]
        timings.swaps = [
            (work.start.at or 0, work.end.at or 0) for work, mine in self.works if mine and work.kind == "swap"
        ]
        first = timings.first_token
        for work, mine in self.works:
            if mine or work.start.at is None:
                continue
            if first is None or work.start.at < first:
                timings.prefill_others += work.length
            else:
                timings.decode_others += work.length
        if timings.timed_by == "cuda":
            timings.launch_bound = launch_bound_ratio(
                [work.end for work, mine in self.works if mine and work.kind == "decode"]
            )
