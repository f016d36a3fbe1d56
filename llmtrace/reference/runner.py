"""The loop: transformers' engine (`engine.py`), one step at a time, with a mark at every boundary.

`Runner.step()` lets every running request advance: for each adapter in use one step of the engine, which computes the
next token of all who have a prompt behind them and chunks of prompts in one forward. The scheduler decides who runs
(`admit`, `leave`); tokens and failures are passed on as they come. Requests by themselves, without a scheduler:

    runner = Runner(build_or_load(), prefix_cache=PrefixCache())
    for piece in runner.generate(Request(prompt=[1, 2, 3], max_tokens=8)):
        print(piece.text)

The ledger (`Generation.works`) holds each step's marks and how many tokens of which request were in it; all that is
said about a request's time is read from it.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmtrace.observe.clock import now
from llmtrace.reference._errors import OutOfMemory, RunnerError
from llmtrace.reference.adapters import Adapters
from llmtrace.reference.clock import DeviceClock, Mark, make_clock
from llmtrace.reference.generation import Generation, Own, Piece, Request, Work
from llmtrace.reference.model import LoadedModel
from llmtrace.reference.prefix_cache import DEFAULT_BLOCK, CacheCounters, PrefixCache
from llmtrace.reference.sampling import Sampling
from llmtrace.reference.timings import Timings

if TYPE_CHECKING:
    from llmtrace.reference.engine import Part

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
"""Prompt tokens per request and step."""
DEFAULT_BUDGET = 1024
"""Tokens per step, of all requests."""
DEFAULT_CACHE_BYTES = 2 * 1024**3
_LEAST_CHUNK = 16
"""The smallest chunk in tokens: if there is no memory for so few, the request fails."""

Tell = Callable[[Generation, "Piece | Exception"], None]
"""Called with each token of a generation, or with the error it failed with; it is `done` with the last call."""


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
        timing: bool = True,
        adapters: Adapters | None = None,
    ) -> None:
        """Raises `RunnerError` for a model that the engine cannot run, and where memory is short.

        `prefill_chunk`: most prompt tokens of a request per step (None: whole prompts, one at least per step).
        `token_budget`: tokens per step, next tokens first. `cache_tokens`: room for keys and values, of running
        requests and, in what these leave free, of prefixes (default: all contexts full, up to 2 GiB, and as much as
        the prefix cache may hold). `timing=False` makes no marks, to measure what they cost. `adapters`: those of this
        model that requests may name; requests with different adapters advance in the same `step`, one forward each.
        """
        from llmtrace.reference.engine import Engine, Wanted

        self.loaded = loaded
        self.max_running = max(1, max_running)
        self.prefix_cache = prefix_cache
        self.adapters = adapters
        self.running: list[Generation] = []
        """The running requests in the order of arrival."""
        self.preemptions = 0
        self.works: dict[str, float] = {}
        """Seconds of all steps by kind (`prefill`, `decode`, `mixed`, `swap`)."""
        self.busy = 0.0
        """Seconds from each step's launch to its end on the device; gaps between its kernels count."""
        room = cache_tokens or _default_room(loaded, self.max_running, prefix_cache)
        whole = min(loaded.context, room)  # on CUDA without flash attention the engine keeps a mask of budget x room
        with self._device():
            self._engine = Engine(
                loaded,
                max_running=self.max_running,
                chunk=prefill_chunk,
                budget=token_budget if prefill_chunk is not None else max(token_budget, whole),
                cache_tokens=room,
                block=DEFAULT_BLOCK if prefix_cache is None else prefix_cache.block,
                prefix_cache=prefix_cache,
            )
        self.clock = self.new_clock(timing=timing)
        self._by_id: dict[str, Generation] = {}
        # The engine must not hold this runner: its room is given back with the last reference to the runner.
        by_id, matched = self._by_id, weakref.WeakMethod(self._matched)
        self._engine.choose_by(lambda id: Wanted(by_id[id].row, by_id[id].constraint))
        self._engine.cache.matched = lambda id: told(id) if (told := matched()) is not None else None
        self._count = 0
        self._mark: Mark | None = None
        self._unresolved: deque[Work] = deque()
        self._tell: Tell = _ignore

    def new_clock(self, *, timing: bool = True) -> DeviceClock:
        """A clock of the stream that computes; without timing one whose marks hold nothing."""
        return make_clock(self.loaded.device, timing=timing, stream=self._engine.stream)

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
        if tokens + request.max_tokens > self.most_tokens:
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
            self.adapters.count(timings.adapter.name)
            request = replace(request, adapter=timings.adapter.name)  # one composition may be written in many ways
        if request.grammar is not None:
            timings.grammar, timings.compile_ns = request.grammar.kind, request.grammar.compile_ns
        return Generation(request, timings, loaded)

    @property
    def most_tokens(self) -> int:
        """The longest sequence, prompt and output together, that the room for keys and values can hold."""
        return self._engine.capacity

    @property
    def used_tokens(self) -> int:
        """The tokens of that room that running requests hold, in whole blocks."""
        return self._engine.used

    @property
    def captures(self) -> int:
        """CUDA graphs that were captured in the middle of serving, in a step that took longer for it."""
        return self._engine.captures

    @property
    def failed_captures(self) -> int:
        """Captures of graphs that failed; after the first there are none any more."""
        return self._engine.failed_captures

    def admit(self, generation: Generation) -> bool:
        """Let it run from the next step on; returns whether there is a slot for it now.

        Room for its keys and values is the engine's business. Nobody is let in while one waits that was preempted.
        """
        if len(self.running) >= self.max_running or any(one.away for one in self.running):
            return False
        if not self.running:
            self.clock.start()
        generation.timings.taken_in = now()
        self.running.append(generation)
        self._enter(generation)
        return True

    def _enter(self, generation: Generation) -> None:
        """Hand the engine this choice of a request."""
        request = generation.request
        self._count += 1
        generation.request_id = f"r{self._count}"
        self._by_id[generation.request_id] = generation
        self._engine.add(
            generation.request_id,
            request.prompt,
            output=request.max_tokens,
            ends=() if request.ignore_eos else self.loaded.stop_ids,
            owner=0 if request.adapter is None or self.adapters is None else self.adapters.number(request.adapter),
        )

    def leave(self, generation: Generation) -> None:
        """Settle its times and give its room back; its prefix stays for others. Safe to call twice."""
        try:
            generation.settle(self.clock)
        finally:
            generation.done = True
            if generation in self.running:
                self.running.remove(generation)
                self._drop(generation)

    def _drop(self, generation: Generation) -> None:
        self._by_id.pop(generation.request_id, None)
        self._engine.remove(generation.request_id)

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
        """Capture graphs, and one short run, so that the first request does not pay for lazy initialisation."""
        with self._on_device():
            self._engine.warm_up()
        ids = [index % self.loaded.vocabulary for index in range(1, 33)]
        for _ in self.generate(Request(ids, max_tokens=3, sampling=Sampling(temperature=0), ignore_eos=True)):
            pass
        self.works.clear()
        self.busy = 0.0
        if self.prefix_cache is not None:
            self._engine.cache.evict_cached_blocks()
            self.prefix_cache.counters = CacheCounters()

    # One step

    def step(self, tell: Tell) -> None:
        """Let each running request advance: a token for each that decodes, and chunks of prompts."""
        self._tell = tell
        self._mark = None  # the time since the last step is nobody's work
        with self._on_device():
            for group in self._groups():
                # One that may be to blame for a step that failed goes by itself.
                for suspect in [one for one in group if one.alone]:
                    self._advance([suspect])
                self._advance([one for one in group if not one.alone])
        self._mark = None
        self._account()
        self._tell = _ignore

    def _device(self) -> contextlib.AbstractContextManager[Any]:
        """The model's own device is the current one meanwhile: graphs' memory and new events belong to that."""
        import torch

        on_cuda = self.loaded.device.startswith("cuda")
        return torch.cuda.device(self.loaded.device) if on_cuda else contextlib.nullcontext()

    @contextlib.contextmanager
    def _on_device(self) -> Generator[None, None, None]:
        import torch

        with torch.inference_mode(), self._device(), self._engine.on_stream():
            yield

    def _groups(self) -> list[list[Generation]]:
        """The running requests by adapter: those of the one in use first, then those of the oldest request."""
        groups: dict[str | None, list[Generation]] = {}
        for generation in self.running:
            if not generation.cancelled:
                groups.setdefault(generation.request.adapter, []).append(generation)
        adapters = self.adapters
        return sorted(groups.values(), key=lambda one: not (adapters and adapters.is_active(one[0].request.adapter)))

    def _advance(self, group: list[Generation]) -> None:
        """One step of the engine for these requests, who share an adapter."""
        group = [one for one in group if not one.done]
        if not group:
            return
        start = self._since()
        try:
            swap = self._swap(group[0].request.adapter)
        except RunnerError as error:  # a composition that cannot be made
            for one in group:
                self._fail(one, error)
            return
        parts = self._engine.prepare({one.request_id for one in group})
        owners = [self._by_id[part.request_id] for part in parts]
        self._note_preempted(start)
        for part, owner in zip(parts, owners, strict=True):
            if not owner.began:
                self._begin(owner, part, start, swap)
            elif owner.away:
                owner.resumed(start)
        if swap is not None:
            self._note(swap, dict.fromkeys(owners, Own()))
        if not parts:
            return
        launched = self.clock.mark()
        try:
            end = self._engine.compute(self.clock.mark)
            end.known = now()
            tokens = self._engine.update()
        except Exception as error:
            self._engine.take_back(parts)
            self._mark = None
            self._failed(parts, owners, error)
            return
        self._mark = end
        self._note_step(swap.end if swap is not None else start, launched, end, parts, owners)
        for request_id, token in tokens:
            self._read(self._by_id[request_id], token, end, len(parts))

    def _since(self) -> Mark:
        """The mark where the next piece of work begins: the end of the last one in this step, else now."""
        if self._mark is None:
            self._mark = self.clock.mark()
        return self._mark

    def _swap(self, adapter: str | None) -> Work | None:
        """Put this adapter in, where another one is in use: then the work of doing so."""
        adapters = self.adapters
        if adapters is None or adapters.is_active(adapter):
            return None
        start = self._since()
        adapters.activate(adapter)
        while adapters.dropped:
            self._engine.drop_graphs_of(adapters.dropped.pop())
        self._engine.use_graphs_of(None if adapters.merge else adapter)
        self._mark = end = self.clock.mark()
        return Work("swap", start, end)

    def _matched(self, request_id: str) -> None:
        """Note when a prefix was found; the engine calls this while it lays a step out."""
        generation = self._by_id[request_id]
        if generation.matched is None:
            generation.matched = self.clock.mark()

    def _begin(self, owner: Generation, part: Part, start: Mark, swap: Work | None) -> None:
        """End its queue where the step begins that it is first in."""
        owner.begin(start)
        if swap is not None:
            owner.swapped(swap.end)
        owner.cached(part.before)
        if self.prefix_cache is not None:
            self.prefix_cache.counters.queries += len(owner.request.prompt)
            self.prefix_cache.counters.hits += part.before

    def _note_preempted(self, mark: Mark) -> None:
        """Note whom the engine made give way while it laid the step out."""
        for generation in self.running:
            computing = generation.began and not generation.away and generation.furthest
            if computing and self._engine.lost(generation.request_id):
                self.preemptions += 1
                generation.lost_its_place(mark)

    def _note(self, work: Work, owners: dict[Generation, Own]) -> None:
        """Write a piece of work down with every request whose own work has begun."""
        self._unresolved.append(work)
        for generation in self.running:
            if generation.began:
                generation.works.append((work, owners.get(generation)))

    def _note_step(
        self, start: Mark, launched: Mark, end: Mark, parts: Sequence[Part], owners: Sequence[Generation]
    ) -> None:
        own: dict[Generation, Own] = {}
        prompt_tokens = 0
        for part, owner in zip(parts, owners, strict=True):
            own[owner] = Own(part.tokens, owner.catching_up, part.before < owner.furthest)
            prompt_tokens += part.tokens if owner.catching_up else 0
            owner.furthest = max(owner.furthest, part.before + part.tokens)
            owner.alone = False
        tokens = sum(part.tokens for part in parts)
        kind = "decode" if not prompt_tokens else "prefill" if prompt_tokens == tokens else "mixed"
        self._note(Work(kind, start, end, launched, tokens, prompt_tokens, len(parts)), own)

    def _account(self) -> None:
        """Add up the work whose times are known: on a device they are once a request has ended."""
        while self._unresolved and self._unresolved[0].end.at is not None:
            work = self._unresolved.popleft()
            self.works[work.kind] = self.works.get(work.kind, 0.0) + work.length / 1e9
            if work.launched is not None:
                self.busy += ((work.end.at or 0) - (work.launched.at or 0)) / 1e9

    # Tokens and failures

    def _read(self, generation: Generation, token: int, mark: Mark, batch: int) -> None:
        if generation.done:
            return
        try:
            piece = generation.read(token, mark, batch)
        except Exception as error:
            self._fail(generation, error)
            return
        if generation.done:
            generation.settle(self.clock)  # the last piece goes out with all times known
            self._tell(generation, piece)
            self.leave(generation)
            return
        self._tell(generation, piece)
        if piece.finish is not None and not generation.done:
            self._drop(generation)
            try:
                generation.next_choice()
            except Exception as error:  # its grammar begins anew
                self._fail(generation, error)
            else:
                self._enter(generation)

    def _failed(self, parts: Sequence[Part], owners: Sequence[Generation], error: Exception) -> None:
        """A step failed and was taken back: find out whose fault it was, so that it costs only those."""
        if _out_of_memory(error):
            self._free_memory()
        if len(owners) > 1:
            for owner in owners:
                owner.alone = True
            return
        [part], [owner] = parts, owners
        if not _out_of_memory(error):
            self._fail(owner, error)
        elif part.tokens > _LEAST_CHUNK:
            self._engine.limit(part.request_id, part.tokens // 2)
        else:
            self._fail(owner, self._no_memory(owner, part))

    def _no_memory(self, owner: Generation, part: Part) -> OutOfMemory:
        running = f"with {len(self.running)} requests running"
        if owner.catching_up:
            return OutOfMemory(
                f"{self.loaded.device} ran out of memory after {part.before} of {len(owner.request.prompt)} prompt "
                f"tokens, {running}: a prompt of at most {part.before} tokens would fit now; or start with fewer "
                f"--max-running or fewer --cache-tokens"
            )
        return OutOfMemory(
            f"{self.loaded.device} ran out of memory at {part.before} tokens of prompt and output, {running}: ask for "
            f"less, or start with fewer --max-running"
        )

    def _free_memory(self) -> None:
        """Free memory that torch keeps for later."""
        import torch

        if self.loaded.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _fail(self, generation: Generation, error: Exception) -> None:
        """End this request with `error`; the others go on."""
        _log.warning("request failed: %s: %s", type(error).__name__, error)
        try:
            self.leave(generation)
        except Exception as second:  # a device in an error state
            _log.warning("cannot close a request: %s: %s", type(second).__name__, second)
        self._tell(generation, error)


def _default_room(loaded: LoadedModel, rows: int, prefix_cache: PrefixCache | None) -> int:
    """Tokens: all contexts full, up to `DEFAULT_CACHE_BYTES`, and what the prefix cache may hold beside them."""
    config = loaded.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_token = 2 * config.num_hidden_layers * heads * width * loaded.model.dtype.itemsize
    contexts = min(rows * loaded.context, max(1, DEFAULT_CACHE_BYTES // per_token))
    return contexts + (prefix_cache.max_bytes // per_token if prefix_cache is not None else 0)


def _out_of_memory(error: BaseException) -> bool:
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _ignore(_: Generation, __: Piece | Exception) -> None:
    """Drop a token or an error between two steps, when no one listens."""
