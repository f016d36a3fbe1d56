"""The keys and values of one sequence, and how to copy a prefix into and out of them.

The only place that touches `transformers`' cache classes. A static cache in length buckets can take this one's place:
the runner needs no more than what is public here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["KVSlots", "Saved", "can_reuse"]


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
        return sum(int(each.numel()) * int(each.element_size()) for each in (self.keys, self.values))

    def cut(self, start: int, end: int) -> Saved:
        """A copy of the tokens [start, end), in memory of its own."""
        return Saved(self.keys[:, :, start:end].clone(), self.values[:, :, start:end].clone())


def can_reuse(config: Any) -> bool:
    """Whether this architecture's cache is keys and values per token, so that a prefix of it can be copied.

    Not so for recurrent and linear-attention layers, whose state has no token axis; those run without prefix reuse.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    kinds = getattr(text, "layer_types", None) or ()
    if any(kind not in ("full_attention", "sliding_attention", "chunked_attention") for kind in kinds):
        return False
    recurrent = ("mamba", "ssm_cfg", "rwkv", "recurrent", "hybrid")
    return not any(word in str(getattr(text, "model_type", "")) for word in recurrent)


class KVSlots:
    """One sequence's cache on the device."""

    def __init__(self, config: Any, *, plain: bool) -> None:
        from transformers import DynamicCache

        # Plain: every layer keeps all tokens (windows are applied by the mask), so that any prefix can be copied out.
        self.cache: Any = DynamicCache() if plain else DynamicCache(config=config)

    @property
    def tokens(self) -> int:
        """Tokens whose keys and values are in it."""
        return int(self.cache.get_seq_length())

    def load(self, prefix: list[Saved]) -> None:
        """Copy the prefix into the empty slots."""
        import torch

        # One concatenation is the one copy: the result is this sequence's own memory, and layers are views of it.
        keys = torch.cat([each.keys for each in prefix], dim=2)
        values = torch.cat([each.values for each in prefix], dim=2)
        for layer in range(int(keys.shape[0])):
            self.cache.update(keys[layer].unsqueeze(0), values[layer].unsqueeze(0), layer)

    def save(self, end: int) -> Saved | None:
        """A copy of the first `end` tokens; None where the layers differ in shape, so that nothing can be reused."""
        import torch

        pairs = self._layers()
        if not pairs or any(key is None or value is None for key, value in pairs):
            return None
        if len({(key.shape, value.shape) for key, value in pairs}) != 1 or pairs[0][0].shape[2] < end:
            return None
        return Saved(
            torch.stack([key[0, :, :end] for key, _ in pairs]),
            torch.stack([value[0, :, :end] for _, value in pairs]),
        )

    def _layers(self) -> list[tuple[Any, Any]]:
        layers = getattr(self.cache, "layers", None)
        if layers is not None:
            return [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in layers]
        return list(zip(self.cache.key_cache, self.cache.value_cache, strict=True))  # transformers < 4.54
