"""The keys and values of the running sequences, and how to copy a prefix into and out of them.

Two ways to hold them, with one face (`Slots`): in one arena of fixed size, of which each sequence has a stretch
(`ArenaSlots`, for plain full attention), or each in a `transformers` cache of its own (`OwnSlots`, for everything
else: sliding windows, recurrent layers). The only place that touches `transformers`' cache classes.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["ArenaSlots", "OwnSlots", "Place", "Saved", "Shape", "Slots", "can_batch", "can_reuse", "shape_of"]

_PLAIN = "full_attention"
_WINDOWED = ("sliding_attention", "chunked_attention")
_RECURRENT = ("mamba", "ssm_cfg", "rwkv", "recurrent", "hybrid")


@dataclass(frozen=True)
class Saved:
    """Keys and values of consecutive tokens, all layers: `[layers, heads, tokens, width]` each."""

    keys: Any
    values: Any

    @property
    def tokens(self) -> int:
        return int(self.keys.shape[2])

    @property
    def nbytes(self) -> int:
        return sum(int(tensor.numel()) * int(tensor.element_size()) for tensor in (self.keys, self.values))

    def cut(self, start: int, end: int) -> Saved:
        """A copy of the tokens [start, end), in memory of its own."""
        return Saved(self.keys[:, :, start:end].clone(), self.values[:, :, start:end].clone())


@dataclass(frozen=True)
class Shape:
    """The shape of one token's keys and values."""

    layers: int
    heads: int
    key_width: int
    value_width: int
    dtype: Any
    device: str

    @property
    def nbytes(self) -> int:
        """Bytes per token, over all layers."""
        return self.layers * self.heads * (self.key_width + self.value_width) * int(self.dtype.itemsize)


@dataclass(eq=False)
class Place:
    """The place of one sequence's keys and values."""

    tokens: int = 0
    """The number of tokens in it."""
    start: int = 0
    size: int = 0
    """In an arena, the place is the stretch [start, start + size)."""
    cache: Any = None
    """The `transformers` cache of this sequence, where each has one of its own."""


class Slots(Protocol):
    """Room for the keys and values of several sequences."""

    @property
    def capacity(self) -> int | None:
        """The number of tokens that fit in all; None where only the device's memory is the limit."""
        ...

    @property
    def used(self) -> int:
        """The number of tokens that are taken, filled or not."""
        ...

    def take(self, tokens: int) -> Place | None:
        """A place for `tokens` tokens; None if there is no room now."""
        ...

    def grow(self, place: Place, tokens: int) -> bool:
        """Make the place hold at least so many tokens; False if there is no room now, and nothing has changed."""
        ...

    def give_back(self, place: Place) -> None: ...

    def rewind(self, place: Place, tokens: int) -> None:
        """Drop all tokens after the first `tokens`."""
        ...

    def load(self, place: Place, prefix: Sequence[Saved]) -> None:
        """Copy the prefix into the empty place."""
        ...

    def save(self, place: Place, end: int) -> Saved | None:
        """The first `end` tokens, which may still be those of the place: cut out what is to last.

        None where the layers differ in shape, so that nothing can be reused.
        """
        ...


def _text(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def can_reuse(config: Any) -> bool:
    """Whether this architecture's cache is keys and values per token, so that a prefix of it can be copied.

    Not so for recurrent and linear-attention layers, whose state has no token axis; those run without prefix reuse.
    """
    text = _text(config)
    kinds = getattr(text, "layer_types", None) or ()
    if any(kind not in (_PLAIN, *_WINDOWED) for kind in kinds):
        return False
    return not any(word in str(getattr(text, "model_type", "")) for word in _RECURRENT)


def can_batch(config: Any) -> bool:
    """Whether every layer is full attention over all tokens: what the batched decode is written for."""
    text = _text(config)
    kinds = getattr(text, "layer_types", None)
    plain = all(kind == _PLAIN for kind in kinds) if kinds else getattr(text, "sliding_window", None) is None
    return plain and can_reuse(config)


def shape_of(cache: Any) -> Shape | None:
    """The shape of one token, from a `transformers` cache that holds some; None where layers differ."""
    pairs = _layers(cache)
    if not pairs or any(key is None or value is None or key.dim() != 4 for key, value in pairs):
        return None
    if len({(key.shape[1], key.shape[3], value.shape[1], value.shape[3], key.dtype) for key, value in pairs}) != 1:
        return None
    key, value = pairs[0]
    if key.shape[1] != value.shape[1]:
        return None
    return Shape(len(pairs), int(key.shape[1]), int(key.shape[3]), int(value.shape[3]), key.dtype, str(key.device))


def _layers(cache: Any) -> list[tuple[Any, Any]]:
    layers = getattr(cache, "layers", None)
    if layers is not None:
        return [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in layers]
    return list(zip(cache.key_cache, cache.value_cache, strict=True))  # transformers < 4.54


@dataclass
class ArenaSlots:
    """One block of memory per layer, `[heads, capacity + 1, width]`; the token beyond the end is for scrap.

    A sequence has a stretch of it, in multiples of `bucket` tokens: it begins with what its prompt needs and grows as
    it goes. Where its neighbour is in the way, the stretch moves, which is a copy.
    """

    shape: Shape
    capacity: int
    bucket: int
    keys: Any = field(init=False)
    values: Any = field(init=False)
    _taken: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]], init=False)

    def __post_init__(self) -> None:
        import torch

        shape, device = self.shape, self.shape.device
        # On the CPU, untouched memory is not even allocated; elsewhere it must not hold NaN.
        make: Any = torch.empty if device == "cpu" else torch.zeros
        room = (shape.layers, shape.heads, self.capacity + 1)
        self.keys = make((*room, shape.key_width), dtype=shape.dtype, device=device)
        self.values = make((*room, shape.value_width), dtype=shape.dtype, device=device)

    @property
    def used(self) -> int:
        return sum(size for _, size in self._taken)

    def take(self, tokens: int) -> Place | None:
        size = self._rounded(tokens)
        start = self._gap(size)
        if start is None:
            return None
        insort(self._taken, (start, size))
        return Place(start=start, size=size)

    def grow(self, place: Place, tokens: int) -> bool:
        if tokens <= place.size:
            return True
        size = self._rounded(tokens)
        self._taken.remove((place.start, place.size))
        start = place.start if self._free(place.start, size) else self._gap(size)
        if start is None:
            insort(self._taken, (place.start, place.size))
            return False
        insort(self._taken, (start, size))
        if start != place.start:
            for store in (self.keys, self.values):
                moved = store[:, :, place.start : place.start + place.tokens].clone()  # the two may overlap
                store[:, :, start : start + place.tokens] = moved
        place.start, place.size = start, size
        return True

    def give_back(self, place: Place) -> None:
        if place.size:
            self._taken.remove((place.start, place.size))
            place.tokens = place.size = 0

    def rewind(self, place: Place, tokens: int) -> None:
        place.tokens = min(place.tokens, tokens)

    def load(self, place: Place, prefix: Sequence[Saved]) -> None:
        for saved in prefix:
            start = place.start + place.tokens
            self.keys[:, :, start : start + saved.tokens] = saved.keys
            self.values[:, :, start : start + saved.tokens] = saved.values
            place.tokens += saved.tokens

    def save(self, place: Place, end: int) -> Saved | None:
        if place.tokens < end:
            return None
        stretch = slice(place.start, place.start + end)
        return Saved(self.keys[:, :, stretch], self.values[:, :, stretch])

    def _rounded(self, tokens: int) -> int:
        return min(self.capacity, -(-tokens // self.bucket) * self.bucket) if tokens <= self.capacity else tokens

    def _gap(self, size: int) -> int | None:
        """The first stretch of this size that is free."""
        at = 0
        for start, length in self._taken:
            if start - at >= size:
                return at
            at = start + length
        return at if self.capacity - at >= size else None

    def _free(self, start: int, size: int) -> bool:
        end = start + size
        return end <= self.capacity and all(end <= other or other + length <= start for other, length in self._taken)


class OwnSlots:
    """A `transformers` cache per sequence."""

    capacity = None

    def __init__(self, config: Any, *, plain: bool) -> None:
        self._config = config
        self._plain = plain  # every layer keeps all tokens (windows are the mask's), so that a prefix can be copied
        self._places: list[Place] = []

    @property
    def used(self) -> int:
        return sum(place.tokens for place in self._places)

    def take(self, tokens: int) -> Place:
        place = Place(cache=self._fresh())
        self._places.append(place)
        return place

    def grow(self, place: Place, tokens: int) -> bool:
        return True

    def give_back(self, place: Place) -> None:
        if place in self._places:
            self._places.remove(place)
        place.cache = None
        place.tokens = 0

    def rewind(self, place: Place, tokens: int) -> None:
        if tokens < place.tokens:
            prefix = self.save(place, tokens) if tokens and self._plain else None
            place.cache, place.tokens = self._fresh(), 0
            if prefix is not None:
                self.load(place, [prefix])

    def load(self, place: Place, prefix: Sequence[Saved]) -> None:
        import torch

        # One concatenation is the one copy: the result is this sequence's own memory, and layers are views of it.
        keys = torch.cat([part.keys for part in prefix], dim=2)
        values = torch.cat([part.values for part in prefix], dim=2)
        for layer in range(int(keys.shape[0])):
            place.cache.update(keys[layer].unsqueeze(0), values[layer].unsqueeze(0), layer)
        place.tokens += int(keys.shape[2])

    def save(self, place: Place, end: int) -> Saved | None:
        import torch

        if shape_of(place.cache) is None or place.tokens < end:
            return None
        pairs = _layers(place.cache)
        return Saved(
            torch.stack([key[0, :, :end] for key, _ in pairs]), torch.stack([value[0, :, :end] for _, value in pairs])
        )

    def _fresh(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache() if self._plain else DynamicCache(config=self._config)
