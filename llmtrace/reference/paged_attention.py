"""Attention over the engine's flat batch on the CPU: each sequence by itself.

The engine lays all sequences of a step end to end and masks what is not each one's own: right for kernels that skip
masked blocks, but on the CPU everything masked is computed too, and all keys and values are gathered token by token
first. Here they are read page by page. It is given to the engine as `transformers` wants
attention functions (`AttentionInterface`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["NAME", "attend", "can_run", "lay_out", "standard", "used"]

NAME = "llmtrace_paged"

_step = threading.local()


def can_run(config: Any) -> bool:
    """Whether every layer is plain attention over all tokens: what `attend` is written for."""
    kinds = getattr(config, "layer_types", None)
    plain = all(kind == "full_attention" for kind in kinds) if kinds else not getattr(config, "sliding_window", None)
    return plain and getattr(config, "attn_logit_softcapping", None) is None


@dataclass(frozen=True, slots=True)
class _Sequence:
    """One sequence of a step: its new tokens lie at [first, last) of the batch, and it has `whole` tokens in all."""

    first: int
    last: int
    whole: int
    page: int | None
    """The number of its only page; None where it has several, which are gathered."""
    gathered: int = 0
    """Where its pages begin among those that are gathered."""

    @property
    def fresh(self) -> bool:
        return self.whole == self.last - self.first


def lay_out(cache: Any, sequences: Sequence[tuple[str, int, int]]) -> None:
    """Say how the next forward's sequences lie: the request, its new tokens, and its tokens in all, for each."""
    import torch

    allocator = next(iter(cache.cache_allocators.values()))
    page, stride = allocator.tokens_per_page, allocator.block_physical_stride // allocator.tokens_per_page
    laid_out: list[_Sequence] = []
    pages: list[int] = []
    at = 0
    for request_id, new, whole in sequences:
        own = [block * stride for block in allocator.block_table[request_id][: -(-whole // page)]]
        laid_out.append(_Sequence(at, at + new, whole, own[0] if len(own) == 1 else None, len(pages)))
        if len(own) > 1 and whole > new:
            pages += own
        at += new
    _step.allocator, _step.sequences = allocator, laid_out
    _step.pages = torch.tensor(pages, dtype=torch.long)


def attend(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **more: Any
) -> tuple[Any, None]:
    """Attention's output `[1, tokens, heads, width]` for the new tokens of all sequences, which lie end to end.

    `key` and `value` are theirs, and are in the cache already; those of the tokens before are read from there.
    """
    import torch

    for unknown in ("softcap", "s_aux"):
        if more.get(unknown) is not None:
            raise NotImplementedError(f"attention with {unknown}")
    attention = torch.nn.functional.scaled_dot_product_attention
    heads, groups = query.shape[1], query.shape[1] // key.shape[1]
    stores = _step.allocator.get_cache_for_block_table(module.layer_idx)
    gathered = [_gather(store, name) for store, name in zip(stores, ("keys", "values"), strict=True)]
    out: list[Any] = []
    for each in _step.sequences:
        rows = query[:, :, each.first : each.last]
        if each.fresh:
            keys, values = key[:, :, each.first : each.last], value[:, :, each.first : each.last]
        else:
            keys, values = (_read(*both, each) for both in zip(stores, gathered, strict=True))
        new = each.last - each.first
        if new == 1:
            # The query heads that share a key head are the rows of one small matrix: keys are read once, not repeated.
            packed = rows.reshape(1, heads // groups, groups, -1)
            out.append(attention(packed, keys, values, scale=scaling).view(1, heads, 1, -1))
            continue
        if groups > 1:
            keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
        mask: Any = None
        if not each.fresh:
            mask = torch.zeros((new, each.whole), dtype=query.dtype)
            mask[:, each.whole - new :].fill_(float("-inf")).triu_(1)
        out.append(attention(rows, keys, values, attn_mask=mask, is_causal=mask is None, scale=scaling))
    if (padding := query.shape[2] - _step.sequences[-1].last) > 0:
        out.append(query.new_zeros((1, heads, padding, value.shape[3])))
    return (out[0] if len(out) == 1 else torch.cat(out, 2)).transpose(1, 2), None


def _gather(store: Any, name: str) -> Any:
    """The pages of all sequences that have several, one behind the other, in memory that is used again and again."""
    import torch

    wanted: Any = _step.pages
    if not len(wanted):
        return None
    kept = getattr(_step, name, None)
    if kept is None or kept.shape[0] < len(wanted) or kept.shape[1:] != store.shape[1:] or kept.dtype != store.dtype:
        kept = store.new_empty((len(wanted), *store.shape[1:]))
        setattr(_step, name, kept)
    return torch.index_select(store, 0, wanted, out=kept[: len(wanted)])


def _read(store: Any, gathered: Any, sequence: _Sequence) -> Any:
    """The keys or the values of a sequence, `[1, heads, tokens, width]`; within one page they are not copied."""
    flat = gathered[sequence.gathered :].flatten(0, 1) if sequence.page is None else store[sequence.page]
    return flat[: sequence.whole].transpose(0, 1)[None]


@contextlib.contextmanager
def used(config: Any) -> Generator[None, None, None]:
    """The model of this configuration attends by `attend` meanwhile."""
    with _set(config, NAME):
        yield


@contextlib.contextmanager
def standard(config: Any) -> Generator[None, None, None]:
    """The model attends as `transformers` does meanwhile: what the engine asks of a model that it is given."""
    with _set(config, "sdpa" if config._attn_implementation == NAME else config._attn_implementation):
        yield


@contextlib.contextmanager
def _set(config: Any, name: str) -> Generator[None, None, None]:
    before, config._attn_implementation = config._attn_implementation, name
    try:
        yield
    finally:
        config._attn_implementation = before
