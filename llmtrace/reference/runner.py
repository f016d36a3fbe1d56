"""The loop: prefill and decode for all running requests, one iteration at a time, with a mark at every boundary.

`Runner.step()` is one iteration: one forward for the next token of everyone who has a prompt behind them, then chunks
of prompts up to a budget of tokens. The scheduler decides who runs (`admit`, `leave`); tokens and failures are passed
on as they come. Requests by themselves, without a scheduler:

    runner = Runner(build_or_load(), prefix_cache=PrefixCache())
    for piece in runner.generate(Request(prompt=[1, 2, 3], max_tokens=8)):
        print(piece.text)

By hand, for measurements at a given batch size and context length (call it under `torch.inference_mode()`):

    runner = Runner(loaded, max_running=8)
    places = [runner.slots.take(context + steps) for _ in range(8)]      # room for keys and values
    for place in places:
        logits = runner.forward.prefill(place, ids)                      # ids [1, tokens] -> logits [1, vocabulary]
    tokens = [logits.argmax(-1)] * 8                                     # one [1] or [1, 1] tensor per sequence
    for _ in range(steps):
        logits = runner.forward.decode(places, tokens)                   # -> [8, vocabulary], in one forward
        tokens = list(logits.argmax(-1).split(1))                        # stays on the device: nothing waits
    runner.slots.rewind(place, context)                                  # forget what came after, to measure again
    runner.slots.give_back(place)

`runner.clock.mark()` before, between and after, then `runner.clock.resolve()` once, gives each step's `Mark.at` (ns,
monotonic) on any device. `runner.forward.batched` says whether decode is one forward for all.

On CUDA the host runs `ahead` steps before the device: it reads a token from a copy that the device made meanwhile, so
that nothing in the loop drains the stream; an end of sequence is noticed so many steps late. On the CPU a step is done
when it returns.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmtrace.observe.clock import now
from llmtrace.reference._errors import OutOfMemory, RunnerError
from llmtrace.reference.adapters import Adapters
from llmtrace.reference.clock import DeviceClock, Mark, make_clock
from llmtrace.reference.forward import Forward, make_forward
from llmtrace.reference.generation import Generation, Piece, Request, Work
from llmtrace.reference.kv import Place, Slots, can_reuse
from llmtrace.reference.model import LoadedModel
from llmtrace.reference.prefix_cache import PrefixCache
from llmtrace.reference.sampling import Sampling
from llmtrace.reference.timings import Timings

__all__ = [
    "DEFAULT_BUDGET",
    "DEFAULT_CHUNK",
    "DEFAULT_RUNNING",
    "Generation",
    "Piece",
    "Request",
    "Runner",
    "Tell",
]

_log = logging.getLogger("llmtrace.reference")

DEFAULT_RUNNING = 8
"""The most requests that run at once."""
DEFAULT_CHUNK = 512
"""Prompt tokens per forward."""
DEFAULT_BUDGET = 1024
"""Tokens per step, of all requests."""
DEFAULT_CACHE_BYTES = 2 * 1024**3
_LEAST_CHUNK = 16
"""The smallest chunk in tokens: if there is no memory for so few, the request fails."""

Tell = Callable[[Generation, "Piece | Exception"], None]
"""Called with each token of a generation, or with the error it failed with; it is `done` with the last call."""


@dataclass(slots=True)
class _Sent:
    """Tokens on their way from the device to the host."""

    tokens: Any
    """Numbers, or a tensor in the host's memory that holds them once `arrived` has happened."""
    arrived: Any
    owners: list[tuple[Generation, int]]
    """For each token, its generation and its choice."""
    mark: Mark
    batch: int


class Runner:
    """A loaded model, the requests that run on it, and its prefix cache. One thread owns it."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        prefix_cache: PrefixCache | None = None,
        prefill_chunk: int | None = DEFAULT_CHUNK,
        max_running: int = 1,
        token_budget: int = DEFAULT_BUDGET,
        cache_tokens: int | None = None,
        ahead: int = 1,
        timing: bool = True,
        batched: bool = True,
        adapters: Adapters | None = None,
    ) -> None:
        """Raises `RunnerError` where the memory for keys and values is not there.

        `prefill_chunk`: most prompt tokens per forward (None: whole prompts). `token_budget`: tokens per step, decodes
        first, then a chunk of each prompt as far as it goes. `cache_tokens`: room for keys and values of running
        requests (default: all contexts full, up to 2 GiB). `ahead`: steps by which the host runs ahead on CUDA.
        `timing=False` makes no marks, to measure what they cost; `batched=False` runs requests one after another, as
        architectures do that cannot be batched. `adapters`: those of this model that requests may name. Requests with
        different adapters advance in the same step, one forward per adapter.
        """
        self.loaded = loaded
        self.max_running = max(1, max_running)
        self.forward: Forward = make_forward(
            loaded, rows=self.max_running, tokens=cache_tokens, limit=DEFAULT_CACHE_BYTES, batched=batched
        )
        self.slots: Slots = self.forward.slots
        self.prefix_cache = prefix_cache if can_reuse(loaded.model.config) else None
        self.prefill_chunk = prefill_chunk or loaded.context
        self.token_budget = max(1, token_budget)
        self.clock: DeviceClock = make_clock(loaded.device, timing=timing)
        self.running: list[Generation] = []
        """The running requests in the order of arrival; the oldest never loses its place."""
        self.preemptions = 0
        self.adapters = adapters
        self._whole = prefill_chunk is None
        self._ahead = max(0, ahead) if loaded.device.startswith("cuda") else 0
        self._pending: deque[_Sent] = deque()
        self._mark: Mark | None = None
        self._tell: Tell = _ignore

    # Who runs

    def start(self, request: Request, timings: Timings | None = None) -> Generation:
        """A generation that has not done anything yet. Raises `RunnerError` for what cannot be generated."""
        loaded, tokens = self.loaded, len(request.prompt)
        if not tokens:
            raise RunnerError("the prompt has no tokens")
        if tokens + request.max_tokens > loaded.context:
            raise RunnerError(
                f"{tokens} prompt tokens and {request.max_tokens} output tokens do not fit in the context "
                f"of {loaded.context}"
            )
        if self.most_tokens is not None and tokens + request.max_tokens > self.most_tokens:
            raise RunnerError(
                f"{tokens} prompt tokens and {request.max_tokens} output tokens do not fit in the cache for keys and "
                f"values, which has room for {self.most_tokens}: ask for less, or start with more --cache-tokens"
            )
        if min(request.prompt) < 0 or max(request.prompt) >= loaded.vocabulary:
            raise RunnerError(f"token ids must lie in [0, {loaded.vocabulary})")
        timings = timings or Timings(arrived=now())
        if request.adapter is not None:
            if self.adapters is None:
                raise RunnerError(f"no adapter {request.adapter!r}: this runner has none")
            timings.adapter = self.adapters.get(request.adapter)
        if request.grammar is not None:
            timings.grammar, timings.compile_ns = request.grammar.kind, request.grammar.compile_ns
        return Generation(request, timings, loaded)

    @property
    def most_tokens(self) -> int | None:
        """The longest sequence, prompt and output together, that the room for keys and values can hold."""
        return self.slots.capacity

    def admit(self, generation: Generation) -> bool:
        """Let it run from the next step on; returns whether there is a row and room for its prompt now."""
        if len(self.running) >= self.max_running or any(one.place is None for one in self.running):
            return False  # those that were preempted come first
        place = self.slots.take(generation.wanted + 1)
        if place is None:
            return False
        if not self.running:
            self.clock.start()
        generation.place = place
        generation.timings.taken_in = now()
        self.running.append(generation)
        return True

    def leave(self, generation: Generation, *, keep: bool = True) -> None:
        """Settle its times, keep its prefix for others, give its place back. Safe to call twice."""
        if generation not in self.running:
            generation.settle(self.clock)
            generation.done = True
            return
        self.running.remove(generation)
        try:
            generation.settle(self.clock)
            if keep:
                self._keep(generation)
        finally:
            generation.done = True
            if generation.place is not None:
                self.slots.give_back(generation.place)
            generation.place = generation.token = generation.first_logits = None

    def generate(self, request: Request, timings: Timings | None = None) -> Iterator[Piece]:
        """Run one request to its end in this thread."""
        generation = self.start(request, timings)
        pending: list[Piece | Exception] = []
        if not self.admit(generation):
            raise RunnerError("the runner is busy with other requests")
        try:
            while not generation.done or pending:
                while pending:
                    news = pending.pop(0)
                    if isinstance(news, Exception):
                        raise news
                    yield news
                if not generation.done:
                    self.step(lambda _, news: pending.append(news))
        finally:
            self.leave(generation)

    def warm_up(self) -> None:
        """One short run, so that the first request does not pay for lazy initialisation."""
        own_cache, self.prefix_cache = self.prefix_cache, None
        try:
            ids = [index % self.loaded.vocabulary for index in range(1, 33)]
            for _ in self.generate(Request(ids, max_tokens=3, sampling=Sampling(temperature=0), ignore_eos=True)):
                pass
        finally:
            self.prefix_cache = own_cache

    # One iteration

    def step(self, tell: Tell) -> None:
        """Compute a token for each decoding request, then chunks of prompts; pass tokens on once they are read."""
        import torch

        self._tell = tell
        self._mark = None  # one that left between two steps has made a mark
        with torch.inference_mode():
            if any(generation.constraint is not None for generation in self.running):
                self._collect(0)  # what may come next depends on the token before
            self._make_room()
            decoding = [generation for generation in self.running if generation.decoding]
            if decoding:
                self._decode(decoding)
            self._prefill_some(self.token_budget - len(decoding))
            # One that lost its place waits for those whose last tokens are on their way: it is no work to go on with.
            more = any(
                generation.place is not None and (generation.decoding or generation.prefilling)
                for generation in self.running
            )
            self._collect(self._ahead if more else 0)
        self._mark = None
        self._tell = _ignore

    def _make_room(self) -> None:
        """Make room for each request's next token, the oldest first; if there is none, the youngest loses its place."""
        for generation in list(self.running):
            while not (generation.done or generation.cancelled or self._has_room(generation)):
                if generation.place is None:
                    return  # it waits for its place, and all younger ones behind it
                victim = next(candidate for candidate in reversed(self.running) if candidate.place is not None)
                self._preempt(victim)
                if victim is generation:
                    return

    def _has_room(self, generation: Generation) -> bool:
        if generation.place is None:
            generation.place = self.slots.take(generation.wanted + 1)
            return generation.place is not None
        return self.slots.grow(generation.place, max(generation.wanted, generation.place.tokens) + 1)

    def _preempt(self, generation: Generation) -> None:
        """Take its place away; it computes everything again when there is room."""
        self._collect(0)
        if generation.done or generation.place is None:
            return
        place = generation.place
        self.preemptions += generation.began
        generation.lost_its_place(self.clock.mark())
        self.slots.give_back(place)

    # Marks

    def _since(self) -> Mark:
        """The mark where the next piece of work begins: the end of the last one in this step, else now."""
        if self._mark is None:
            self._mark = self.clock.mark()
        return self._mark

    def _worked(self, kind: str, tokens: int, owners: Sequence[Generation], *, again: bool = False) -> Mark:
        """End a piece of work here, and note it with every running request."""
        start, end = self._since(), self.clock.mark()
        self._mark = end
        work = Work(kind, start, end, tokens, again)
        for generation in self.running:
            if generation.began or generation in owners:
                generation.works.append((work, generation in owners))
        return end

    # Adapters

    def _activate(self, adapter: str | None, owners: Sequence[Generation]) -> bool:
        """Make the next forward use this adapter; returns whether another one was in use."""
        adapters = self.adapters
        if adapters is None or adapters.is_active(adapter):
            return False
        self._since()
        adapters.activate(adapter)
        self.forward.variant = None if adapters.merge else adapter
        self._worked("swap", 0, owners)
        return True

    def _by_adapter(self, generations: list[Generation]) -> list[list[Generation]]:
        """Groups with one adapter each: the one in use first, then those of the oldest requests."""
        groups: dict[str | None, list[Generation]] = {}
        for generation in generations:
            groups.setdefault(generation.request.adapter, []).append(generation)
        adapters = self.adapters
        return sorted(
            groups.values(), key=lambda group: not (adapters and adapters.is_active(group[0].request.adapter))
        )

    # Decode

    def _decode(self, decoding: list[Generation]) -> None:
        self._since()
        fresh = [one for one in decoding if one.token is None]  # a further choice: the prompt's own logits again
        going = [one for one in decoding if one.token is not None]
        for generation in fresh:
            try:
                self._choose(generation.first_logits, [generation])
            except Exception as error:
                self._decode_failed(generation, error)
        for group in self._by_adapter(going):
            self._decode_group(group)

    def _decode_group(self, going: list[Generation]) -> None:
        rows = self._logits_of(going)
        if not rows:
            return
        owners = [generation for generation, _ in rows]
        try:
            self._choose(_joined([logits for _, logits in rows]), owners)
        except Exception as error:  # a row that fails by itself has been dealt with: this came over all of them
            for generation in owners:
                self._decode_failed(generation, error)

    def _logits_of(self, going: list[Generation]) -> list[tuple[Generation, Any]]:
        """The next logits `[1, vocabulary]` of each; a request that fails gets its error and is left out.

        A forward that came back has moved its sequences on by a token: no row is computed twice.
        """
        if self.forward.batched and len(going) > 1:
            try:
                self._activate(going[0].request.adapter, going)
                return list(zip(going, self._next_logits(going).split(1), strict=True))
            except Exception:
                pass  # nobody knows whose fault it was: one by one, so that it costs only those who cannot go on
        rows: list[tuple[Generation, Any]] = []
        for generation in going:
            try:
                self._activate(generation.request.adapter, [generation])
                rows.append((generation, self._next_logits([generation])))
            except Exception as error:
                self._decode_failed(generation, error)
        return rows

    def _decode_failed(self, generation: Generation, error: Exception) -> None:
        if _out_of_memory(error):
            self._free_memory()
            tokens = generation.place.tokens if generation.place is not None else 0
            error = OutOfMemory(
                f"{self.loaded.device} ran out of memory at {tokens} tokens of prompt and output, with "
                f"{len(self.running)} requests running: ask for less, or start with fewer --max-running"
            )
        self._fail(generation, error)

    def _next_logits(self, generations: list[Generation]) -> Any:
        return self.forward.decode(
            [generation.place for generation in generations if generation.place],
            [generation.token for generation in generations],
        )

    def _choose(self, logits: Any, owners: list[Generation], kind: str = "decode", tokens: int | None = None) -> None:
        """Choose a token from each row and send all to the host, without waiting for them."""
        tokens_chosen, owners = self._drawn(logits, owners)
        if not owners:
            return
        for owner, token in zip(owners, tokens_chosen.split(1), strict=True):
            owner.launch(token)
        copy, arrived = self._send(tokens_chosen) if self._ahead else (tokens_chosen.tolist(), None)
        mark = self._worked(kind, len(owners) if tokens is None else tokens, owners)
        batch = len(owners) if self.forward.batched else 1
        self._pending.append(_Sent(copy, arrived, [(owner, owner.choice) for owner in owners], mark, batch))
        self._collect(self._ahead)

    def _drawn(self, logits: Any, owners: list[Generation]) -> tuple[Any, list[Generation]]:
        """The drawn tokens and their owners.

        Of several, one that fails gets its error and is left out; a single one raises.
        """
        if all(owner.sampler.greedy and owner.constraint is None for owner in owners):
            return logits.argmax(dim=-1), owners
        drawn_tokens: list[Any] = []
        alive: list[Generation] = []
        for row, owner in enumerate(owners):
            mine = logits[row : row + 1]
            try:
                allowed = mine if owner.constraint is None else owner.constraint.mask(mine)
                drawn_tokens.append(owner.sampler.next(allowed).view(1))
                alive.append(owner)
            except Exception as error:
                if len(owners) == 1:
                    raise
                self._decode_failed(owner, error)
        return _joined(drawn_tokens) if drawn_tokens else None, alive

    @staticmethod
    def _send(tokens: Any) -> tuple[Any, Any]:
        """The copy that the device will make in the host's memory, and the event that tells when it is complete."""
        import torch

        copy = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
        copy.copy_(tokens, non_blocking=True)
        arrived: Any = torch.cuda.Event()
        arrived.record()
        return copy, arrived

    def _collect(self, most: int) -> None:
        """Read the tokens that have come, and wait until those of at most `most` steps are still on their way."""
        while self._pending:
            sent = self._pending[0]
            if sent.arrived is not None and not sent.arrived.query():
                if len(self._pending) <= most:
                    return
                sent.arrived.synchronize()
            self._pending.popleft()
            tokens: list[int] = sent.tokens if sent.arrived is None else sent.tokens.tolist()
            for (generation, choice), token in zip(sent.owners, tokens, strict=True):
                # Else it was chosen while nobody knew yet that the answer had ended.
                if not generation.done and generation.choice == choice:
                    self._read(generation, token, sent.mark, sent.batch)

    def _read(self, generation: Generation, token: int, mark: Mark, batch: int) -> None:
        try:
            piece = generation.read(token, mark, batch)
        except Exception as error:
            self._fail(generation, error)
            return
        if piece.finish is None:
            self._tell(generation, piece)
            return
        if generation.choice == 0 and not generation.done:
            self._keep(generation)
        if generation.done:
            generation.settle(self.clock)  # the last piece goes out with all times known
            self._tell(generation, piece)
            self.leave(generation)
            return
        self._tell(generation, piece)
        if generation.place is not None:
            self.slots.rewind(generation.place, len(generation.request.prompt))
        generation.next_choice()

    def _fail(self, generation: Generation, error: Exception) -> None:
        """End this request with `error`; the others go on."""
        _log.warning("request failed: %s: %s", type(error).__name__, error)
        try:
            self.leave(generation, keep=False)
        except Exception as second:  # a device in an error state
            _log.warning("cannot close a request: %s: %s", type(second).__name__, second)
        self._tell(generation, error)

    # Prefill

    def _prefill_some(self, budget: int) -> None:
        """Compute a chunk of each prompt, first come first served, up to the budget; of whole prompts, one at least."""
        budget_left = max(1, budget)  # however many decode, prompts go on too
        for generation in list(self.running):
            if budget_left <= 0:
                return
            if generation.prefilling and not generation.cancelled and generation.place is not None:
                try:
                    budget_left -= self._prefill(generation, budget_left)
                except Exception as error:
                    self._fail(generation, error)

    def _prefill(self, generation: Generation, budget: int) -> int:
        """Compute its next chunk, and its first token after the last chunk; returns the number of tokens computed."""
        self._since()
        if not generation.began:
            self._begin(generation)
        place = generation.place
        assert place is not None
        ids = generation.known
        self._activate(generation.request.adapter, [generation])  # a neighbour's may have been put in meanwhile
        again = place.tokens < generation.furthest
        most = self.prefill_chunk if self._whole else min(self.prefill_chunk, budget)
        before = place.tokens
        logits = self._chunk(place, ids, most)
        computed = place.tokens - before
        generation.furthest = max(generation.furthest, place.tokens)
        if place.tokens < len(ids) or generation.launched:
            self._worked("prefill", computed, [generation], again=again)
        else:
            if generation.request.choices > 1 and generation.first_logits is None:
                generation.first_logits = logits
            elif generation.first_logits is not None:
                logits = generation.first_logits
            self._choose(logits, [generation], "prefill", computed)
        return computed

    def _chunk(self, place: Place, ids: Sequence[int], most: int) -> Any:
        """The logits after the next chunk; a smaller one where the device has no memory for so many tokens at once."""
        import torch

        while True:
            part = ids[place.tokens : place.tokens + most]
            try:
                return self.forward.prefill(place, torch.tensor([part], device=self.loaded.device))
            except Exception as error:
                if not _out_of_memory(error):
                    raise
                self._free_memory()
                if len(part) <= _LEAST_CHUNK:
                    raise OutOfMemory(
                        f"{self.loaded.device} ran out of memory after {place.tokens} of {len(ids)} prompt tokens, "
                        f"with {len(self.running)} requests running: a prompt of at most {place.tokens} tokens would "
                        f"fit now; or start with fewer --max-running or fewer --cache-tokens"
                    ) from error
                most = len(part) // 2

    def _free_memory(self) -> None:
        """Free memory by dropping what can be computed again."""
        import torch

        if self.prefix_cache is not None:
            self.prefix_cache.clear()
        if self.loaded.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _begin(self, generation: Generation) -> None:
        """End its queue here: look its prefix up and copy it."""
        first = generation.begin(self._since())
        if self._activate(generation.request.adapter, [generation]) and first:
            generation.swapped(self._since())
        place, cache = generation.place, self.prefix_cache
        assert place is not None
        owner = generation.request.adapter
        prefix = cache.lookup(generation.known, counted=first, owner=owner) if cache is not None else []
        if prefix:
            self.slots.load(place, prefix)
            mark = self._worked("cache", place.tokens, [generation])
        else:
            # A lookup that found nothing is no phase of its own: prefill starts where the queue ends.
            mark = self._since()
        if first:
            generation.cached(place.tokens, mark)
        generation.furthest = max(generation.furthest, place.tokens)

    def _keep(self, generation: Generation) -> None:
        """Put what has been computed into the prefix cache; also of a cancelled request."""
        cache, place = self.prefix_cache, generation.place
        if cache is None or place is None or not place.tokens or generation.choice:
            return
        self._since()
        tokens = [*generation.request.prompt, *generation.output][: place.tokens]
        owner = generation.request.adapter
        if cache.store(tokens, lambda end: self.slots.save(place, end), owner=owner) and self.running:
            self._worked("store", len(tokens), [])


def _joined(rows: list[Any]) -> Any:
    """Rows as one tensor."""
    import torch

    return rows[0] if len(rows) == 1 else torch.cat(rows)


def _out_of_memory(error: BaseException) -> bool:
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _ignore(_: Generation, __: Piece | Exception) -> None:
    """Drop a token or an error between two steps, when no one listens."""
