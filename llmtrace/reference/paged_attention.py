"""Attention over the engine's flat batch on the CPU: each sequence by itself.

The engine lays all sequences of a step end to end and masks what is not each one's own: right for kernels that skip
masked blocks, but on the CPU everything masked is computed too. It is given to the engine as `transformers` wants
attention functions (`AttentionInterface`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Sequence
from typing import Any

__all__ = ["NAME", "attend", "can_run", "lay_out", "standard", "used"]

NAME = "llmtrace_paged"

_step = threading.local()


def can_run(config: Any) -> bool:
    """Whether every layer is plain attention over all tokens: what `attend` is written for."""
    kinds = getattr(config, "layer_types", None)
    plain = all(kind == "full_attention" for kind in kinds) if kinds else not getattr(config, "sliding_window", None)
    return plain and getattr(config, "attn_logit_softcapping", None) is None


def lay_out(sequences: Sequence[tuple[int, int]]) -> None:
    """Say how the next forward's sequences lie: for each its new tokens, and its tokens in all."""
    spans: list[tuple[int, int, int, int]] = []
    query = key = 0
    for new, whole in sequences:
        spans.append((query, query + new, key, key + whole))
        query, key = query + new, key + whole
    _step.spans = spans


def attend(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **more: Any
) -> tuple[Any, None]:
    """Attention's output `[1, tokens, heads, width]`; queries of all sequences, and keys and values, lie end to end."""
    import torch

    for unknown in ("softcap", "s_aux"):
        if more.get(unknown) is not None:
            raise NotImplementedError(f"attention with {unknown}")
    attention = torch.nn.functional.scaled_dot_product_attention
    heads, groups = query.shape[1], query.shape[1] // key.shape[1]
    out: list[Any] = []
    for first, last, begin, end in _step.spans:
        rows, keys, values = query[:, :, first:last], key[:, :, begin:end], value[:, :, begin:end]
        new = last - first
        if new == 1:
            # The query heads that share a key head are the rows of one small matrix: keys are read once, not repeated.
            packed = rows.reshape(1, heads // groups, groups, -1)
            out.append(attention(packed, keys, values, scale=scaling).view(1, heads, 1, -1))
            continue
        if groups > 1:
            keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
        mask: Any = None
        if (before := end - begin - new) > 0:
            mask = torch.zeros((new, before + new), dtype=query.dtype)
            mask[:, before:].fill_(float("-inf")).triu_(1)
        out.append(attention(rows, keys, values, attn_mask=mask, is_causal=mask is None, scale=scaling))
    if (padding := query.shape[2] - _step.spans[-1][1]) > 0:
        out.append(query.new_zeros((1, heads, padding, value.shape[3])))
    return (out[0] if len(out) == 1 else torch.cat(out, 2)).transpose(1, 2), None


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
