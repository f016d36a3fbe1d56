"""One request in progress: its parameters, its state, and the ledger of the work that was done meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmtrace.observe.clock import now
from llmtrace.reference.clock import DeviceClock, Mark, launch_bound_ratio
from llmtrace.reference.detokenize import Detokenizer, StopFinder
from llmtrace.reference.grammar import Constraint, Grammar
from llmtrace.reference.model import LoadedModel
from llmtrace.reference.sampling import Row, Sampling, new_seed
from llmtrace.reference.timings import Chunk, Timings

__all__ = ["Generation", "Own", "Piece", "Request", "Work"]


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
    """The number of answers (OpenAI's `n`), one after the other."""
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
    """One step of the engine, or one swap of adapters, between two marks."""

    kind: str
    """`prefill`: only prompts; `decode`: only next tokens; `mixed`: both; `swap`: another adapter put in."""
    start: Mark
    end: Mark
    launched: Mark | None = None
    """When the host had laid the step out, and the device began to compute."""
    tokens: int = 0
    """Tokens of all requests."""
    prompt_tokens: int = 0
    """Those of them that are prompts'."""
    requests: int = 0
    """How many requests had a part in it."""

    @property
    def length(self) -> int:
        """The duration in ns; 0 until the clock has resolved the marks."""
        return 0 if self.start.at is None or self.end.at is None else self.end.at - self.start.at


@dataclass(frozen=True, slots=True)
class Own:
    """The part of one request in one piece of work."""

    tokens: int = 0
    prompt: bool = False
    """Whether they are its prompt's (or, after a preemption, any earlier ones)."""
    again: bool = False
    """Whether they had been computed before, and were lost when the request was preempted."""


class Generation:
    """The state of one request. The runner's thread changes it; `cancelled` may be set from any thread."""

    def __init__(self, request: Request, timings: Timings, loaded: LoadedModel) -> None:
        self.request = request
        self.timings = timings
        self.done = False
        """Whether the generation is over: all tokens have been read, or it failed, or it left the runner."""
        self.cancelled = False
        """Whether it was cancelled: the runner does no more work for it."""
        self.request_id = ""
        """The engine's name for this choice."""
        self.output: list[int] = []
        """Tokens of this choice."""
        self.choice = 0
        self.began = False
        """Whether its work has begun."""
        self.away = False
        """Whether it was preempted, and waits for room."""
        self.catching_up = True
        """Whether earlier tokens are to be computed before the next one can be: a prompt, or what was lost."""
        self.alone = False
        """Whether a step that it was in has failed, so that it is to be tried by itself."""
        self.works: list[tuple[Work, Own | None]] = []
        """Every piece of work since its own began, and its part in it (None: it had none)."""
        self.furthest = 0
        """The most tokens of this choice that ever had keys and values."""
        self.matched: Mark | None = None
        """When its prefix was found in the cache."""
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
        self.output = []
        self.furthest = 0
        self.catching_up = True
        self._seed = new_seed(self.request.sampling, self.choice)
        self._text = Detokenizer(self._loaded.tokenizer)
        self._stop = StopFinder(self.request.stops)
        self.constraint: Constraint | None = None
        if self.request.grammar is not None:
            self.constraint = self.request.grammar.begin()
            self.timings.mask_ns += self.constraint.mask_ns

    @property
    def row(self) -> Row:
        """How its next token is drawn."""
        sampling = self.request.sampling
        return Row(sampling.temperature, sampling.top_p, self._seed, len(self.output))

    # What the runner tells it

    def begin(self, mark: Mark) -> None:
        """End its queue at `mark`: its work begins."""
        self.began = True
        self._begin = mark
        self.timings.scheduled = mark.host

    def swapped(self, mark: Mark) -> None:
        """Note that its adapter, which had to be put in before its prompt, is in use at `mark`."""
        self._swapped = mark
        self.timings.swap_done = mark.host

    def cached(self, tokens: int) -> None:
        """Note that `tokens` of the prompt came from the prefix cache."""
        self._cached = self.matched if tokens else None
        self.timings.cached_tokens = tokens
        found = self.matched.host if tokens and self.matched is not None else None
        self.timings.cache_done = found or self.timings.swap_done or self.timings.scheduled

    def lost_its_place(self, mark: Mark) -> None:
        """Note a preemption: it waits for room."""
        self.away = self.catching_up = True
        self._preempted.append(mark)
        self.timings.preempted.append(mark.host)

    def resumed(self, mark: Mark) -> None:
        """Note that it goes on."""
        self.away = False
        self._resumed.append(mark)

    def read(self, token: int, mark: Mark, batch: int) -> Piece:
        """Add a token that was chosen at `mark`, in a step of `batch` requests."""
        self.catching_up = False
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
        cached = self._cached or self._swapped or begin
        timings.cache_done = max(cached.at or cached.host, timings.swap_done or timings.scheduled)
        timings.host["cache_done"] = cached.host
        timings.tokens = [max(mark.at or mark.host, timings.cache_done) for mark in self._tokens]
        if self._tokens:
            timings.host["first_token"] = self._tokens[0].host
        timings.preempted = [mark.at or mark.host for mark in self._preempted]
        timings.resumed = [mark.at or mark.host for mark in self._resumed]
        for work, own in self.works:
            start, end = work.start.at or 0, work.end.at or 0
            if own is not None and work.kind == "swap":
                timings.swaps.append((start, end))
            elif own is not None and own.prompt:
                timings.chunks.append(Chunk(start, end, own.tokens, own.again))
            if timings.first_token is None or start < timings.first_token:
                timings.prefill_others += _others(work, own, prefill=True)
            else:
                timings.decode_others += _others(work, own, prefill=False)
            if own is not None and work.tokens:
                timings.cost += round(work.length * own.tokens / work.tokens)
        if timings.timed_by == "cuda":
            timings.launch_bound = launch_bound_ratio(
                [work.end for work, own in self.works if own is not None and work.kind == "decode"]
            )


def _others(work: Work, own: Own | None, *, prefill: bool) -> int:
    """The ns of this work that went into others, as the request sees it that has this part in it.

    All of what it has no part in. Of a step that it shares: while its own prompt is computed, the share of all others'
    tokens; while it decodes, that of others' prompts, since next tokens of others ride along at hardly any cost.
    """
    if own is None:
        return work.length
    if not work.tokens:
        return 0
    others = work.tokens - own.tokens if prefill else work.prompt_tokens - (own.tokens if own.prompt else 0)
    return round(work.length * others / work.tokens)
