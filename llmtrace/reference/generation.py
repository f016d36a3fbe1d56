"""One request in progress: what is asked, how far it is, and what was going on meanwhile."""

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
    adapter: str | None = None
    """Name of the adapter to generate with; None: the base model."""
    grammar: Grammar | None = None
    """What each answer is held to."""
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
    """Computed before, and lost when the request was preempted."""

    @property
    def length(self) -> int:
        """ns; 0 until the clock has resolved the marks."""
        return 0 if self.start.at is None or self.end.at is None else self.end.at - self.start.at


class Generation:
    """The state of one request. The runner's thread changes it; `cancelled` may be set from any thread."""

    def __init__(self, request: Request, timings: Timings, loaded: LoadedModel) -> None:
        self.request = request
        self.timings = timings
        self.done = False
        """All tokens have been read, or it failed, or it left."""
        self.cancelled = False
        """Nobody wants the rest: the runner does no more work for it."""
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
        """Its work has begun, since the start or since it was preempted."""
        self.works: list[tuple[Work, bool]] = []
        """What the model did since its work began, and whether for this request."""
        self.furthest = 0
        """Most tokens whose keys and values were ever in its place."""
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
        """How many these are."""
        return len(self.request.prompt) + max(0, self.launched - 1)

    @property
    def prefilling(self) -> bool:
        """Prompt tokens (or, after a preemption, any earlier ones) are still to be computed."""
        return not self.done and (self.place is None or self.place.tokens < self.wanted)

    @property
    def decoding(self) -> bool:
        """The next step can compute a token for it."""
        return (
            not self.done
            and not self.cancelled
            and self.place is not None
            and self.place.tokens >= self.wanted
            and self.launched < self.request.max_tokens
        )

    # What the runner tells it

    def begin(self, mark: Mark) -> bool:
        """Its work begins here: the queue ends (True), or a preemption."""
        self.began = True
        if self._begin is not None:
            self._resumed.append(mark)
            return False
        self._begin = mark
        self.timings.scheduled = mark.host
        return True

    def swapped(self, mark: Mark) -> None:
        """Before its prompt was begun, another adapter had to be put in; that is done here."""
        self._swapped = mark
        self.timings.swap_done = mark.host

    def cached(self, tokens: int, mark: Mark) -> None:
        """So many tokens of the prompt came from the prefix cache, and have been copied by now."""
        self._cached = mark
        self.timings.cached_tokens = tokens
        self.timings.cache_done = mark.host if tokens else self.timings.swap_done or self.timings.scheduled

    def lost_its_place(self, mark: Mark) -> None:
        """Preempted: what was computed is gone. Where nothing was yet, it is as if it had never been let in."""
        if self.began:
            self._preempted.append(mark)
            self.timings.preempted.append(mark.host)
        self.place = None
        self.began = False

    def launch(self, token: Any) -> None:
        """This token, `[1]` or `[1, 1]` on the device, is its next."""
        self.token = token
        self.launched += 1

    def read(self, token: int, mark: Mark, batch: int) -> Piece:
        """The host has this token, which had been chosen at `mark` in a forward for `batch` requests."""
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
        """One more answer from the same prompt."""
        self.choice += 1
        self._open_choice()

    def _constrain(self, token: int) -> bool:
        """Move the grammar on; whether the answer is complete by it."""
        constraint = self.constraint
        if constraint is None or token in self._loaded.stop_ids:
            return constraint is not None
        before = constraint.mask_ns
        constraint.push(token)
        self.timings.mask_ns += constraint.mask_ns - before
        return constraint.ended

    def _piece(self, token: int, ended: bool) -> Piece:
        if token in self._loaded.stop_ids and (ended or not self.request.ignore_eos):
            text, met = self._stop.push(self._text.flush())
            return Piece(self.choice, token, text if met else text + self._stop.flush(), "stop")
        text, met = self._stop.push(self._text.push(token))
        if met:
            return Piece(self.choice, token, text, "stop")
        if ended or len(self.output) >= self.request.max_tokens:
            rest, met = self._stop.push(self._text.flush())
            text += rest if met else rest + self._stop.flush()
            return Piece(self.choice, token, text, "stop" if met or ended else "length")
        return Piece(self.choice, token, text)

    # The end

    def settle(self, clock: DeviceClock) -> None:
        """Read the clock: from here on `timings` holds the truth. Waits for the device, once."""
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
        """Every moment as the device had it, and the shares of other requests."""
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
