"""transformers' continuous batching, one step at a time: the only module that touches it.

`transformers.generation.continuous_batching` owns the paged keys and values, the choice of who advances in a step, the
forward and its CUDA graphs. Here a step of it is cut into three calls, so that a clock can be read between them:

    parts = engine.prepare(whose)    # who advances, by how many tokens
    end = engine.compute(mark)       # the forward, and the tokens' choice; `mark` is called when it has been launched
    for request_id, token in engine.update(): ...

What of transformers this relies on stands in `hooks.py`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import weakref
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import AttentionInterface, ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
from transformers.generation.continuous_batching import cb_logits_processors, continuous_api, requests, scheduler

from llmtrace.reference import paged_attention
from llmtrace.reference._errors import RunnerError
from llmtrace.reference.blocks import Blocks
from llmtrace.reference.sampling import Row, draw, packed

if TYPE_CHECKING:
    from llmtrace.reference.grammar import Constraint
    from llmtrace.reference.model import LoadedModel
    from llmtrace.reference.prefix_cache import PrefixCache

__all__ = ["Engine", "Part", "Wanted"]

_log = logging.getLogger("llmtrace.reference")


@dataclass(frozen=True, slots=True)
class Part:
    """What one request does in a step."""

    request_id: str
    before: int
    """Its tokens that had keys and values before the step."""
    tokens: int
    """Its tokens that get keys and values in the step."""
    chooses: bool
    """Whether the step chooses its next token; not so for a chunk of a prompt before the last one."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a request's next token is to be chosen."""

    row: Row
    constraint: Constraint | None = None


_Processors: Any = cb_logits_processors.ContinuousBatchingLogitsProcessorList
_Fifo: Any = scheduler.FIFOScheduler
_Router: Any = continuous_api.OutputRouter


class _Chooser(_Processors):
    """Scores each row by its own request's parameters; the engine, which is greedy, takes the largest score."""

    def __init__(self, rows: int, vocabulary: int, device: str) -> None:
        super().__init__(LogitsProcessorList())
        self.tensors_required = 5
        self.wanted: Callable[[str], Wanted] | None = None
        self._vocabulary = vocabulary
        self._sampled = self._nucleus = True
        # A captured step does the same whoever is in it; elsewhere what no row asks for is left out.
        self._captured = device.startswith("cuda")
        self._banned: Any = None
        if self._captured:
            import torch

            self._banned = torch.zeros((rows, vocabulary), dtype=torch.bool, device=device)
        self.do_processing = self._captured

    def fill_defaults(self, int32_tensor: Any) -> None:
        int32_tensor.zero_()  # temperature 0

    def prepare_tensor_args(self, requests_in_batch: Sequence[Any], arg_storage: Any) -> Any:
        asked = [
            self.wanted(future.state.request_id) if self.wanted else Wanted(Row(0.0, 1.0, 0, 0))
            for future in requests_in_batch
            if future.has_new_token and not future.state.request_id.startswith("__warmup_")
        ]
        sampled = any(wanted.row.temperature > 0 for wanted in asked)
        held = any(wanted.constraint is not None for wanted in asked)
        if not self._captured:
            self.do_processing = sampled or held
            self._sampled, self._nucleus = sampled, any(wanted.row.top_p < 1 for wanted in asked)
        if asked and self.do_processing:
            arg_storage[:5, : len(asked)] = packed([wanted.row for wanted in asked]).to(arg_storage.device)
            self._ban(asked, held)
        return arg_storage

    def _ban(self, asked: Sequence[Wanted], held: bool) -> None:
        import torch

        if not self._captured:
            self._banned = None
        if not held:
            if self._captured:
                self._banned.zero_()
            return
        none = torch.zeros(self._vocabulary, dtype=torch.bool)
        rows = torch.stack([none if each.constraint is None else each.constraint.banned for each in asked])
        if self._captured:
            self._banned[: len(asked)].copy_(rows)
            self._banned[len(asked) :].zero_()
        else:
            self._banned = rows

    def __call__(self, input_ids: Any, scores: Any, logits_processor_args: Any) -> Any:
        banned = self._banned
        if banned is not None:
            rows = min(scores.shape[0], banned.shape[0])  # behind these, rows that choose nothing
            scores[:rows] = scores[:rows].masked_fill(banned[:rows], float("-inf"))
        if self._captured or self._sampled:
            return draw(scores, logits_processor_args, nucleus=self._nucleus)
        return scores


class _Turns(_Fifo):
    """The engine's first come, first served, among those whose turn it is, a chunk of each prompt at a time."""

    def reset(self) -> None:
        super().reset()
        self.whose: Collection[str] = ()
        self.chunk: int | None = None
        self.limits: dict[str, int] = {}
        """The most tokens of a step for a request by itself, where the device had no memory for more."""

    def schedule_batch(self, token_budget: int, cache_budget: int) -> Any:
        batch = self._scheduled(token_budget, cache_budget)
        # Where our own attention reads the cache, the engine need not: no token is to be read, as far as it knows.
        return (*batch[:3], 0) if self.cache.write_only else batch

    def _scheduled(self, token_budget: int, cache_budget: int) -> Any:
        batch = super().schedule_batch(token_budget, cache_budget)
        # The engine raises where nothing fits and nobody can give way. It is no error here: those who wait for room
        # may wait for requests whose turn it is not.
        if batch[0] is None and self._may_wait() and self.cache.evict_cached_blocks():
            batch = super().schedule_batch(token_budget, cache_budget)
        return ([], *batch[1:]) if batch[0] is None and self._may_wait() else batch

    def _may_wait(self) -> bool:
        return bool(self.active_requests) and not self.starved_requests

    def _process_candidates(self, candidates: Sequence[Any], *more: Any) -> Any:
        return super()._process_candidates([each for each in candidates if each.request_id in self.whose], *more)

    def _schedule_request(self, state: Any, request_tokens: Any, token_budget: int, *more: Any) -> None:
        limits = (limit for limit in (self.chunk, self.limits.get(state.request_id)) if limit is not None)
        super()._schedule_request(state, request_tokens, min((token_budget, *limits)), *more)


class _Silent(_Router):
    """Tokens are read off the requests themselves: nothing is to be queued up."""

    def deliver(self, output: Any) -> None:
        pass

    def deliver_batch(self, outputs: Any) -> None:
        pass


class Engine:
    """The engine over one model. One thread owns it; call it under `torch.inference_mode()`."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        max_running: int,
        chunk: int | None,
        budget: int,
        cache_tokens: int,
        block: int,
        prefix_cache: PrefixCache | None,
    ) -> None:
        """`chunk`: prompt tokens per request and step. `budget`: tokens per step. `cache_tokens`: room for keys and
        values, rounded up to whole blocks of `block` tokens. Raises `RunnerError` for a model that it cannot run.
        """
        self._model: Any = loaded.model
        self._config: Any = self._model.config.get_text_config()
        self._own_attention = loaded.device == "cpu" and paged_attention.can_run(self._config)
        if self._own_attention:
            AttentionInterface.register(paged_attention.NAME, paged_attention.attend)
        self._chooser = _Chooser(max_running, loaded.vocabulary, loaded.device)
        settings = ContinuousBatchingConfig(
            page_size=block,
            num_blocks=max(1, -(-cache_tokens // block)),
            max_batch_tokens=max(budget, max_running + 1),
            max_requests_per_batch=max_running,
            allow_block_sharing=prefix_cache is not None,
            use_async_batching=False,  # an answer's end, its grammar and its times are known step by step
            auto_switch_to_flash=loaded.dtype != "float32",  # flash attention has no kernels for it
            seed=0,
        )
        try:
            with _random_state_kept(loaded.device), self._attention():
                self._processor: Any = self._build(settings, prefix_cache)
        except (ValueError, TypeError, AttributeError) as error:
            raise RunnerError(f"transformers cannot batch {loaded.name} continuously: {error}") from error
        except MemoryError as error:
            raise RunnerError(
                f"there is no memory for the keys and values of {cache_tokens} tokens: start with less --cache-tokens"
            ) from error
        self.cache: Any = self._processor.cache
        self._scheduler: Any = self._processor.scheduler
        self._ios: Any = self._processor.inputs_and_outputs
        self._scheduler.chunk = chunk
        self.captures = 0
        """Graphs that were captured in the middle of serving, since their shape had not come up before."""
        self.failed_captures = 0
        """Captures that failed; after the first there are no more graphs."""
        self._watch_captures()
        self._graphs: dict[str | None, Any] = {None: self._ios.graphs}
        if self.stream is not None:
            # The weights, the adapters and the empty room were queued on another stream than the one that computes.
            self._device_module().synchronize(self._model.device)

    def _build(self, settings: Any, prefix_cache: PrefixCache | None) -> Any:
        # The manager settles what depends on the device: kind of attention, graphs, memory. Its thread is not started.
        greedy = GenerationConfig(do_sample=False, eos_token_id=-1)
        with paged_attention.standard(self._config):
            manager = self._model.init_continuous_batching(greedy, settings)
        resolved, helper = manager.continuous_batching_config, manager.distributed_helper
        cache = Blocks(
            config=self._config,
            continuous_batching_config=resolved,
            device=self._model.device,
            distributed_helper=helper,
            dtype=self._model.dtype,
            model_supports_logits_to_keep=self._model._supports_logits_to_keep(),
        )
        cache.keep(prefix_cache, int(self._config.vocab_size))
        cache.write_only = self._own_attention
        resolved.max_requests_per_batch = min(resolved.max_requests_per_batch, cache.max_batch_tokens)
        return continuous_api.ContinuousBatchProcessor(
            cache=cache,
            config=self._config,
            generation_config=greedy,
            continuous_batching_config=resolved,
            logit_processor=self._chooser,
            input_queue=None,
            cancel_queue=None,
            output_router=_Silent(),
            background_thread_status=manager.background_thread_status,
            model_device=self._model.device,
            model_dtype=self._model.dtype,
            scheduler=_Turns(cache, resolved.safety_margin, resolved.max_requests_per_batch),
            distributed_helper=helper,
        )

    # Requests

    @property
    def stream(self) -> Any:
        """The device's stream that computes; None on the CPU."""
        return self._ios.compute_stream

    def _device_module(self) -> Any:
        import torch

        return torch.get_device_module(self._model.device)

    @contextlib.contextmanager
    def on_stream(self) -> Generator[None, None, None]:
        """What is queued meanwhile goes to the stream that computes.

        The engine lays a step out on whatever stream is current, and its own does not wait for that one: nor would it
        for an adapter that is merged there. On one stream everything happens in its order.
        """
        if self.stream is None:
            yield
            return
        with self._device_module().stream(self.stream):
            yield

    def choose_by(self, wanted: Callable[[str], Wanted]) -> None:
        """Ask `wanted` for each request's way to choose, by its id, before each step."""
        self._chooser.wanted = wanted

    def add(self, request_id: str, tokens: Sequence[int], *, output: int, ends: Collection[int], owner: int) -> None:
        """Let a request wait for its first step. `owner`: whose keys and values these are (0: the base model's)."""
        self.cache.owners[request_id] = owner
        state = requests.RequestState(
            request_id=request_id, initial_tokens=list(tokens), max_new_tokens=output, eos_token_id=list(ends)
        )
        self._scheduler.add_waiting_request(state)

    def remove(self, request_id: str) -> None:
        """Take a request out, whether it waits, runs or has ended. Its complete blocks stay for others."""
        self._scheduler.set_request_cancellation(request_id)
        for state in self._scheduler.clear_cancelled_requests():
            self._processor.offloading_manager.free_request_cpu_cache(state)
        # Whoever gave way waits until a request has finished. The engine does not count one that was cancelled, and
        # where that was the last one, they would wait for ever.
        self._scheduler.block_new_requests = False
        self._scheduler.limits.pop(request_id, None)
        self.cache.owners.pop(request_id, None)
        self.cache.tidy()

    def limit(self, request_id: str, tokens: int) -> None:
        """Give the request at most so many tokens in a step."""
        self._scheduler.limits[request_id] = tokens

    def lost(self, request_id: str) -> bool:
        """Whether it waits: it has not begun, or had to give its room to others."""
        return request_id in self._scheduler.waiting_requests

    # One step

    def prepare(self, whose: Collection[str]) -> list[Part]:
        """Choose who of these advances, make room, and lay out the step; nobody where no one can."""
        self._scheduler.whose = whose
        self.cache.tidy()
        if not self._processor.prepare_next_batch():
            return []
        return [
            Part(
                future.state.request_id,
                future.state.position_offset - future.query_length,
                future.query_length,
                bool(future.has_new_token),
            )
            for future in self._ios.requests_in_batch
        ]

    def compute(self, mark: Callable[[], Any]) -> Any:
        """Run the step, and return what `mark` returned once it had been launched. Waits for the tokens."""
        with self._attention():
            runner = self._processor.model_runner
            inputs = self._ios.get_model_kwargs(use_padding=runner.pad_inputs)
            if self._own_attention:
                states = [(each.state, each.query_length) for each in self._ios.requests_in_batch]
                paged_attention.lay_out(
                    self.cache, [(state.request_id, new, state.position_offset) for state, new in states]
                )
            runner.compute_batch(self._model, inputs)
            end = mark()
            self._ios.retrieve_device_outputs()
        return end

    def update(self) -> list[tuple[str, int]]:
        """The tokens that the step chose, by request."""
        choosing = [future.state for future in self._ios.requests_in_batch if future.has_new_token]
        self._processor.update_batch()
        return [(state.request_id, int(state.generated_tokens[-1])) for state in choosing]

    def take_back(self, parts: Sequence[Part]) -> None:
        """Undo a step that failed: these requests are where they were before it, and advance as if it had not been."""
        if self.stream is not None:
            with contextlib.suppress(RuntimeError):  # a device in an error state says so again in the next step
                self.stream.synchronize()  # what of the step was launched still reads its layout
        states = {future.state.request_id: future.state for future in self._ios.requests_in_batch}
        for part in parts:
            state = states[part.request_id]
            state.position_offset = part.before
            state.tokens_to_process = []
            state.remaining_prefill_tokens = (state.initial_tokens + state.generated_tokens)[part.before :]
            state.status = requests.RequestStatus.PREFILLING

    # What the device holds

    @property
    def capacity(self) -> int:
        """The tokens whose keys and values there is room for."""
        return int(self.cache.num_blocks) * self.cache.page

    @property
    def used(self) -> int:
        """The tokens of room that running requests hold, in whole blocks."""
        return round((1.0 - self.cache.compute_free_capacity()) * self.capacity) - self.cache.idle_tokens

    def use_graphs_of(self, variant: str | None) -> None:
        """Capture and replay graphs of this adapter only: a graph knows the kernels, and not whose they were."""
        if variant not in self._graphs:
            self._graphs[variant] = type(self._ios.graphs)()
        self._ios.graphs = self._graphs[variant]

    def drop_graphs_of(self, variant: str) -> None:
        """Forget the graphs of an adapter whose tensors are gone."""
        self._graphs.pop(variant, None)

    def warm_up(self) -> None:
        """Capture the graphs of the usual shapes."""
        with self._attention():
            self._processor.warmup(self._model)
        self.captures = 0

    def _watch_captures(self) -> None:
        """Count captures, and have one that fails cost nothing but the graphs.

        The engine computes a step before it captures it, so its tokens are there. But CUDA may leave the allocator
        believing that the capture goes on, and then every later one fails: there are none.
        """
        # What the runner holds must not hold it, nor this: the room for keys and values is given back with the last
        # reference, not when the collector comes by.
        model_runner = self._processor.model_runner
        watching: Any = weakref.proxy(self)
        runner: Any = weakref.proxy(model_runner)
        capture = vars(model_runner).get("_capture_graph") or functools.partial(
            type(model_runner)._capture_graph, runner
        )

        def watched(forward: Callable[..., None], *arguments: Any) -> None:
            computed = False

            def work(*inputs: Any) -> None:
                nonlocal computed
                forward(*inputs)
                computed = True

            watching.captures += 1
            try:
                capture(work, *arguments)
            except RuntimeError as error:
                if not computed:
                    raise
                watching.failed_captures += 1
                runner.use_cuda_graph_varlen = runner.use_cuda_graph_decode = False
                _log.warning("a CUDA graph could not be captured, so there are none from here on: %s", error)

        model_runner._capture_graph = watched

    @contextlib.contextmanager
    def _attention(self) -> Generator[None, None, None]:
        """The model's layers call our attention meanwhile, where it is used; afterwards the model is as before."""
        if not self._own_attention:
            yield
            return
        with paged_attention.used(self._config):
            yield


@contextlib.contextmanager
def _random_state_kept(device: str) -> Generator[None, None, None]:
    """The engine seeds torch when it is made; others' random numbers are none of its business."""
    import torch

    with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
        yield
