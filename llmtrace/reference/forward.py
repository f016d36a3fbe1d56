"""One forward of the model: a chunk of one prompt, or one token of each of several sequences.

`BatchedForward` runs all sequences' next tokens through the model at once, over an arena of keys and values; on CUDA
the step is a captured graph. `SeparateForward` runs them one after another, for architectures that the first cannot
run. Both answer with logits and never wait for the device.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Generator, Sequence
from typing import Any, Protocol

from llmtrace.reference.kv import ArenaSlots, OwnSlots, Place, can_batch, can_reuse, shape_of
from llmtrace.reference.model import LoadedModel

__all__ = ["BatchedForward", "Forward", "SeparateForward", "make_forward"]

_log = logging.getLogger("llmtrace.reference")
_NAME = "llmtrace_arena"


class Forward(Protocol):
    """The model over its slots."""

    slots: Any
    variant: str | None
    """The name of an adapter that is computed beside the weights, not merged: it needs a graph of its own."""

    @property
    def batched(self) -> bool:
        """Whether `decode` is one forward for all of its sequences."""
        ...

    def prefill(self, place: Place, ids: Any) -> Any:
        """Logits `[1, vocabulary]` after these tokens, `[1, tokens]` on the device; their keys and values are kept."""
        ...

    def decode(self, places: Sequence[Place], tokens: Sequence[Any]) -> Any:
        """Logits `[places, vocabulary]` after one token each; `tokens` are `[1]` or `[1, 1]` on the device.

        Each place has room for it.
        """
        ...


class _Model:
    """Calls the model by the names of arguments that its forward knows."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.model = loaded.model
        self._cache = "past_key_values" if "past_key_values" in loaded.takes else "cache"
        self._options: dict[str, Any] = {"use_cache": True}
        if "logits_to_keep" in loaded.takes:
            self._options["logits_to_keep"] = 1

    def logits(self, ids: Any, cache: Any, positions: Any = None) -> Any:
        """The logits of the last token of each row, `[rows, vocabulary]`."""
        more = {} if positions is None else {"position_ids": positions}
        out = self.model(input_ids=ids, **{self._cache: cache}, **self._options, **more)
        return out.logits[:, -1]


class SeparateForward:
    """Each sequence by itself, as any causal LM of `transformers` can be run."""

    batched = False

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = _Model(loaded)
        self.variant: str | None = None
        self.slots = OwnSlots(loaded.model.config, plain=can_reuse(loaded.model.config))

    def prefill(self, place: Place, ids: Any) -> Any:
        logits = self._model.logits(ids, place.cache)
        place.tokens += int(ids.shape[1])
        return logits

    def decode(self, places: Sequence[Place], tokens: Sequence[Any]) -> Any:
        import torch

        rows = [self.prefill(place, token.view(1, 1)) for place, token in zip(places, tokens, strict=True)]
        return rows[0] if len(rows) == 1 else torch.cat(rows)


class _Plan:
    """How the layers of one forward store and read keys and values. Layers reach it through `_current`."""

    def __init__(self, arena: ArenaSlots) -> None:
        self._keys, self._values = arena.keys, arena.values
        self._heads = arena.shape.heads

    def write(self, layer: int, keys: Any, values: Any) -> None:
        raise NotImplementedError

    def attend(self, layer: int, query: Any, keys: Any, values: Any, scale: float | None) -> Any:
        """Attention's output, `[rows, query heads, tokens, width]`."""
        raise NotImplementedError


class _Chunk(_Plan):
    """Tokens [offset, offset + length) of one sequence, each of which sees all up to itself."""

    def __init__(self, arena: ArenaSlots, place: Place, length: int) -> None:
        super().__init__(arena)
        self._new = slice(place.start + place.tokens, place.start + place.tokens + length)
        self._all = slice(place.start, place.start + place.tokens + length)
        self._mask: Any = _causal(place.tokens, length, arena.shape) if place.tokens else None

    def write(self, layer: int, keys: Any, values: Any) -> None:
        self._keys[layer, :, self._new] = keys[0]
        self._values[layer, :, self._new] = values[0]

    def attend(self, layer: int, query: Any, keys: Any, values: Any, scale: float | None) -> Any:
        import torch

        if self._mask is not None:
            keys, values = self._keys[layer, :, self._all][None], self._values[layer, :, self._all][None]
        if query.shape[1] != self._heads:
            repeat = query.shape[1] // self._heads
            keys, values = keys.repeat_interleave(repeat, 1), values.repeat_interleave(repeat, 1)
        return torch.nn.functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=self._mask, is_causal=self._mask is None and query.shape[2] > 1, scale=scale
        )


def _causal(before: int, length: int, shape: Any) -> Any:
    """The mask of a chunk that has tokens before it."""
    import torch

    if shape.device.startswith("cuda"):
        from torch.nn.attention.bias import causal_lower_right

        return causal_lower_right(length, before + length)  # a form that flash attention takes
    mask = torch.zeros((length, before + length), dtype=shape.dtype, device=shape.device)
    mask[:, before:].fill_(float("-inf")).triu_(1)
    return mask


class _Ragged(_Plan):
    """One token of each sequence; each attends to exactly its own stretch. For devices without launch costs."""

    def __init__(self, arena: ArenaSlots, places: Sequence[Place]) -> None:
        import torch

        super().__init__(arena)
        self._at = torch.tensor([place.start + place.tokens for place in places], device=arena.shape.device)
        self._stretches = [slice(place.start, place.start + place.tokens + 1) for place in places]

    def write(self, layer: int, keys: Any, values: Any) -> None:
        self._keys[layer].index_copy_(1, self._at, keys[:, :, 0].transpose(0, 1))
        self._values[layer].index_copy_(1, self._at, values[:, :, 0].transpose(0, 1))

    def attend(self, layer: int, query: Any, keys: Any, values: Any, scale: float | None) -> Any:
        import torch

        attention = torch.nn.functional.scaled_dot_product_attention
        rows, all_heads, _, width = query.shape
        # The query heads that share a key head are the rows of one small matrix: keys are read once, not repeated.
        packed = query.reshape(rows, self._heads, -1, width)
        layer_keys, layer_values = self._keys[layer], self._values[layer]
        out = [
            attention(packed[row : row + 1], layer_keys[None, :, stretch], layer_values[None, :, stretch], scale=scale)
            for row, stretch in enumerate(self._stretches)
        ]
        return (out[0] if rows == 1 else torch.cat(out)).view(rows, all_heads, 1, -1)


class _Rectangle(_Plan):
    """One token of each of the first `rows` stretches, of which the first `length` tokens are looked at.

    Shapes depend on nothing but `rows` and `length`, so that the step can be captured. `write_at` and `lengths`,
    `[rows]`, are filled in before each run; a row without a sequence writes to the scrap token.
    """

    def __init__(self, arena: ArenaSlots, rows: int, length: int, write_at: Any, lengths: Any) -> None:
        import torch

        super().__init__(arena)
        self._rows, self._length, self._stride = rows, length, arena.bucket
        self._at, self._lengths = write_at, lengths
        self._places = torch.arange(length, device=arena.shape.device)
        self._mask: Any = None

    def begin(self) -> None:
        self._mask = (self._places[None] < self._lengths[:, None])[:, None, None]

    def write(self, layer: int, keys: Any, values: Any) -> None:
        self._keys[layer].index_copy_(1, self._at, keys[:, :, 0].transpose(0, 1))
        self._values[layer].index_copy_(1, self._at, values[:, :, 0].transpose(0, 1))

    def attend(self, layer: int, query: Any, keys: Any, values: Any, scale: float | None) -> Any:
        import torch

        rows, all_heads, _, width = query.shape
        out = torch.nn.functional.scaled_dot_product_attention(
            query.reshape(rows, self._heads, -1, width),
            self._stretches(self._keys[layer]),
            self._stretches(self._values[layer]),
            attn_mask=self._mask,
            scale=scale,
        )
        return out.view(rows, all_heads, 1, -1)

    def _stretches(self, store: Any) -> Any:
        """`[rows, heads, length, width]`, a view."""
        whole = store[:, : self._rows * self._stride].unflatten(1, (self._rows, self._stride))
        return whole[:, :, : self._length].transpose(0, 1)


_current = threading.local()


def _attend(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **more: Any
) -> tuple[Any, None]:
    """The attention function that the model's layers call, in `transformers`' form."""
    for unknown in ("softcap", "s_aux", "sliding_window"):
        if more.get(unknown) is not None:
            raise NotImplementedError(f"attention with {unknown}")
    plan: _Plan = _current.plan
    return plan.attend(module.layer_idx, query, key, value, scaling).transpose(1, 2), None


def _arena_cache() -> Any:
    from transformers import DynamicCache

    class ArenaCache(DynamicCache):
        """The cache that the model is given; the plan decides where keys and values go."""

        def update(self, key_states: Any, value_states: Any, layer_idx: int, *_: Any, **__: Any) -> tuple[Any, Any]:
            _current.plan.write(layer_idx, key_states, value_states)
            return key_states, value_states

    return ArenaCache()


class BatchedForward:
    """All sequences in one arena of `capacity` tokens, the next token of each in one forward."""

    batched = True

    def __init__(self, loaded: LoadedModel, arena: ArenaSlots, rows: int) -> None:
        from transformers import AttentionInterface

        AttentionInterface.register(_NAME, _attend)
        self.slots = arena
        self._model = _Model(loaded)
        self._cache = _arena_cache()
        self._config: Any = loaded.model.config
        self._device = loaded.device
        self._rows = rows
        self.variant: str | None = None
        self._graphs: dict[tuple[int, int, str | None], _Graph] | None = (
            {} if loaded.device.startswith("cuda") else None
        )
        self.last_graph: _Graph | None = None
        """The captured step that ran last; None where steps are not captured."""

    def prefill(self, place: Place, ids: Any) -> Any:
        import torch

        length = int(ids.shape[1])
        positions = torch.arange(place.tokens, place.tokens + length, device=self._device)[None]
        with self._planned(_Chunk(self.slots, place, length)):
            logits = self._model.logits(ids, self._cache, positions)
        place.tokens += length
        return logits

    def decode(self, places: Sequence[Place], tokens: Sequence[Any]) -> Any:
        import torch

        ids = torch.cat([token.view(1, 1) for token in tokens]) if len(tokens) > 1 else tokens[0].view(1, 1)
        if self._graphs is not None:
            logits = self._replay(places, ids)
        else:
            positions = torch.tensor([[place.tokens] for place in places], device=self._device)
            with self._planned(_Ragged(self.slots, places)):
                logits = self._model.logits(ids, self._cache, positions)
        for place in places:
            place.tokens += 1
        return logits

    def run(self, plan: _Plan, ids: Any, positions: Any) -> Any:
        """One forward by this plan."""
        with self._planned(plan):
            return self._model.logits(ids, self._cache, positions)

    def _replay(self, places: Sequence[Place], ids: Any) -> Any:
        """The captured step whose shape is the next larger one: rows in powers of two, length in buckets."""
        assert self._graphs is not None
        rows = [place.start // self.slots.bucket for place in places]
        shape = (
            _bucket(max(rows) + 1, 1, self._rows),
            _bucket(max(place.tokens for place in places) + 1, 256, self.slots.bucket),
        )
        key = (*shape, self.variant)
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._graphs[key] = _Graph(self, *shape)
        self.last_graph = graph
        return graph.step(rows, places, ids)

    @contextlib.contextmanager
    def _planned(self, plan: _Plan) -> Generator[None, None, None]:
        """Replace the layers' attention by ours during one forward; the model is as before afterwards."""
        before = self._config._attn_implementation
        _current.plan = plan
        self._config._attn_implementation = _NAME
        try:
            yield
        finally:
            self._config._attn_implementation = before
            _current.plan = None


def _bucket(length: int, least: int, most: int) -> int:
    size = least
    while size < length:
        size *= 2
    return min(size, most)


class _Graph:
    """One decode step of a fixed shape, captured. CUDA only."""

    def __init__(self, forward: BatchedForward, rows: int, length: int) -> None:
        import torch

        cuda: Any = torch.cuda
        arena = forward.slots
        device = arena.shape.device
        self._scrap = arena.capacity
        self._rows = rows
        self._tokens = torch.zeros((rows, 1), dtype=torch.long, device=device)
        # Positions, where to write, and how much to look at: one copy from pinned memory per step.
        self._numbers = torch.zeros((3, rows), dtype=torch.long, device=device)
        self._plan = _Rectangle(arena, rows, length, self._numbers[1], self._numbers[2])
        self._fill([], [])

        self._forward = forward
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for _ in range(2):  # lazy initialisation must not be captured
                self.eager()
        cuda.current_stream().wait_stream(side)
        self._graph: Any = cuda.CUDAGraph()
        with cuda.graph(self._graph):
            self._logits = self.eager()

    def eager(self) -> Any:
        """The step as it is captured: the last one that was replayed once more, for comparison."""
        self._plan.begin()
        return self._forward.run(self._plan, self._tokens, self._numbers[0][:, None])

    def step(self, rows: Sequence[int], places: Sequence[Place], ids: Any) -> Any:
        import torch

        self._fill(rows, places)
        at = torch.tensor(rows, pin_memory=True).to(self._tokens.device, non_blocking=True)
        self._tokens.index_copy_(0, at, ids)
        self._graph.replay()
        return self._logits.index_select(0, at)

    def _fill(self, rows: Sequence[int], places: Sequence[Place]) -> None:
        import torch

        positions, write_at, lengths = [0] * self._rows, [self._scrap] * self._rows, [1] * self._rows
        for row, place in zip(rows, places, strict=True):
            positions[row], write_at[row], lengths[row] = place.tokens, place.start + place.tokens, place.tokens + 1
        numbers = torch.tensor([positions, write_at, lengths], dtype=torch.long).pin_memory()
        self._numbers.copy_(numbers, non_blocking=True)


def make_forward(
    loaded: LoadedModel, *, rows: int, tokens: int | None = None, limit: int | None = None, batched: bool = True
) -> Forward:
    """The batched forward where the architecture allows it and its logits are right, else the separate one.

    `rows`: most sequences at once. `tokens`: room for keys and values, in tokens (default: enough for all rows to
    fill the context, as far as `limit` bytes allow). Raises `RunnerError` where the memory for it is not there.
    """
    separate = SeparateForward(loaded)
    if not batched:
        return separate
    if not can_batch(loaded.model.config):
        _say_separate(loaded, "its layers are not all full attention")
        return separate
    try:
        return _checked(loaded, separate, rows, tokens, limit)
    except _CannotBatch as error:
        _say_separate(loaded, str(error))
        return separate


class _CannotBatch(Exception):
    pass


def _say_separate(loaded: LoadedModel, why: str) -> None:
    _log.warning("%s runs its requests one after another, not batched: %s", loaded.name, why)


def _checked(
    loaded: LoadedModel, separate: SeparateForward, rows: int, tokens: int | None, limit: int | None
) -> BatchedForward:
    """The batched forward, after its logits have been compared with the model's own. Raises `_CannotBatch`."""
    import torch

    with torch.inference_mode():
        ids = torch.arange(1, 12, device=loaded.device)[None] % loaded.vocabulary
        place = separate.slots.take(11)
        expected = [separate.prefill(place, ids[:, :7])]
        shape = shape_of(place.cache)
        if shape is None:
            raise _CannotBatch("its layers' keys and values differ in shape")
        expected += [separate.prefill(place, ids[:, 7:10]), separate.prefill(place, ids[:, 10:])]
        separate.slots.give_back(place)
        forward = BatchedForward(loaded, make_arena(loaded, shape, rows, tokens, limit), rows)
        try:
            first, second = forward.slots.take(11), forward.slots.take(11)
            assert first is not None
            batched = [forward.prefill(first, ids[:, :7]), forward.prefill(first, ids[:, 7:10])]
            places = [first]
            if second is not None:
                forward.prefill(second, ids[:, :10])
                places.append(second)
            batched += list(forward.decode(places, [ids[0, 10:]] * len(places)).split(1))
            for place_taken in places:
                forward.slots.give_back(place_taken)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:
            raise _CannotBatch(f"{type(error).__name__}: {error}") from error
        slack = 1e-4 if shape.dtype == torch.float32 else 5e-2
        for ours, theirs in zip(batched, [*expected, expected[-1]], strict=False):
            if not float((ours - theirs).float().norm()) <= slack * float(theirs.float().norm()):
                raise _CannotBatch("its logits come out differently in a batch")
    return forward


def make_arena(
    loaded: LoadedModel, shape: Any, rows: int, tokens: int | None = None, limit: int | None = None
) -> ArenaSlots:
    """Memory for the keys and values of `rows` sequences. Raises `RunnerError` where there is none."""
    from llmtrace.reference._errors import RunnerError

    capacity = tokens or rows * loaded.context
    if limit is not None and tokens is None:
        capacity = min(capacity, max(limit // shape.nbytes, 256))
    if loaded.device.startswith("cuda"):
        # A captured step looks at stretches that lie at equal distances: one per row.
        bucket = min(loaded.context, max(1, capacity // rows))
        capacity = bucket * rows
    else:
        bucket = min(256, capacity)
    try:
        return ArenaSlots(shape, capacity, bucket)
    except (RuntimeError, MemoryError) as error:
        raise RunnerError(
            f"no memory for the keys and values of {capacity} tokens ({capacity * shape.nbytes / 2**20:.0f} MiB on "
            f"{loaded.device}): start with fewer --max-running or fewer --cache-tokens"
        ) from error
