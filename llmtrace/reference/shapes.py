"""Models to measure: published shapes by name with random weights, or a folder, in several weight formats.

Random weights take as long as trained ones: their values don't change how long a product takes.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from llmtrace import interpreter
from llmtrace.reference._errors import RunnerError
from llmtrace.reference.model import LoadedModel, require_model
from llmtrace.reference.tiny import quiet
from llmtrace.version import install_hint

__all__ = ["FORMATS", "SHAPES", "check_name", "estimate_bytes", "make_model", "unpacked"]

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"kind": "llama", "size": (256, 704, 4, 4, 2, 640), "tied": False},
    "tiny-qwen2": {"kind": "qwen2", "size": (256, 704, 4, 4, 2, 640), "tied": True},
    "qwen2-0.5b": {"kind": "qwen2", "size": (896, 4864, 24, 14, 2, 151936), "tied": True},
    "qwen2-1.5b": {"kind": "qwen2", "size": (1536, 8960, 28, 12, 2, 151936), "tied": True},
    "llama-8b": {"kind": "llama", "size": (4096, 14336, 32, 32, 8, 128256), "tied": False},
}
"""The shapes by name: hidden, intermediate, layers, heads, key-value heads, vocabulary, as published."""
FORMATS = ("fp32", "bf16", "fp16", "int8", "int4")
BASE = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "bfloat16", "int4": "bfloat16"}
"""The torch type in which a format computes."""
_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "int4": 0.5}
_CONTEXT = 32768
_GROUP = 32
"""Weights that share a scale in int4."""


class _NoText:
    """Stands for a tokenizer where tokens are only counted."""

    def decode(self, ids: Any, **options: Any) -> str:
        return ""


def estimate_bytes(shape: str, weights: str) -> int:
    """Bytes of a named shape's parameters in a weight format (in int8 and int4 the embeddings stay bf16)."""
    hidden, inner, layers, heads, kv_heads, vocabulary = SHAPES[shape]["size"]
    width = hidden // heads * kv_heads
    body = layers * (2 * hidden * hidden + 2 * hidden * width + 3 * hidden * inner)
    tables = vocabulary * hidden * (1 if SHAPES[shape]["tied"] else 2)
    return round(body * _BYTES[weights] + tables * max(2.0, _BYTES[weights]))


def check_name(model: str) -> None:
    """Raise `RunnerError` unless `model` is a name of `SHAPES` or the folder of a model. Imports no torch."""
    if model not in SHAPES:
        if not Path(model).exists():
            raise RunnerError(f"unknown shape {model!r}: use {', '.join(SHAPES)}, or a model folder")
        require_model(model)


def make_model(model: str, weights: str, device: str) -> LoadedModel:
    """The model in a weight format on a device, without a tokenizer and without stop tokens.

    Raises `MemoryError` where a named shape does not fit (it says what would), and what torch or torchao raise for a
    format that they cannot do here.
    """
    with _hushed(), quiet():
        return _make(model, weights, device)


def _make(model: str, weights: str, device: str) -> LoadedModel:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    if weights in ("int8", "int4"):
        _need_torchao()
    dtype = getattr(torch, BASE[weights])
    if model not in SHAPES:
        built_model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, local_files_only=True)
    else:
        _fits(model, weights, device)
        shape = SHAPES[model]
        hidden, inner, layers, heads, kv_heads, vocabulary = shape["size"]
        make: Any = Qwen2Config if shape["kind"] == "qwen2" else LlamaConfig
        config = make(
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            vocab_size=vocabulary,
            max_position_embeddings=_CONTEXT,
            tie_word_embeddings=shape["tied"],
        )
        with torch.device(device):
            built_model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    built_model = built_model.to(device).eval()
    built_model.generation_config.eos_token_id = None  # what is measured goes on to its last token
    if weights in ("int8", "int4"):
        from torchao.quantization import quantize_  # pyright: ignore[reportMissingImports]

        quantize_(built_model, _quantization(weights, device))
    return LoadedModel(
        model=built_model,
        tokenizer=_NoText(),
        name=model,
        device=device,
        dtype=BASE[weights],
        context=int(getattr(built_model.config, "max_position_embeddings", None) or _CONTEXT),
        vocabulary=int(built_model.config.vocab_size),
        stop_ids=frozenset(),
        fingerprint="",
    )


def _quantization(weights: str, device: str) -> Any:
    """torchao's way of a format. Its kernels for packed 4-bit weights are CUDA's; elsewhere each is held in a byte."""
    import torch
    from torchao import quantization  # pyright: ignore[reportMissingImports]
    from torchao.quantization import granularity  # pyright: ignore[reportMissingImports]

    if weights == "int8":
        return quantization.Int8WeightOnlyConfig()
    if unpacked(weights, device) is None:
        # Torch's own kernel; the default layout needs another package.
        return quantization.Int4WeightOnlyConfig(group_size=_GROUP, int4_packing_format="tile_packed_to_4d")
    four_bits = torch.int4  # pyright: ignore[reportAttributeAccessIssue]
    return quantization.IntxWeightOnlyConfig(weight_dtype=four_bits, granularity=granularity.PerGroup(_GROUP))


def unpacked(weights: str, device: str) -> str | None:
    """What is to be known of a format whose numbers are only held, not computed with; None for all others."""
    if weights != "int4" or device.startswith("cuda"):
        return None
    return (
        f"no kernel for packed 4-bit weights on {device}: each is held in a byte and made bf16 at every step, so the "
        "answers are int4's, the memory and the speed are not"
    )


@contextlib.contextmanager
def _hushed() -> Generator[None, None, None]:
    """Silence torchao's messages on kernels that it cannot use here, and torch's on importing it."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _need_torchao() -> None:
    if not interpreter.finds("torchao"):
        raise ImportError(f"torchao is not installed: {install_hint('quantized')}")


def _fits(model: str, weights: str, device: str) -> None:
    """Raise `MemoryError` where the weights alone do not fit; the message says what would."""
    import torch

    if device.startswith("cuda"):
        free = int(torch.cuda.mem_get_info(device)[0])
    elif hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        return
    built = "bf16" if weights in ("int8", "int4") else weights  # they are quantized after they were made
    if (needed := estimate_bytes(model, built)) > free * 0.9:
        fit = [name for name in SHAPES if estimate_bytes(name, built) <= free * 0.9]
        raise MemoryError(
            f"{model} in {weights} needs {needed / 2**30:.1f} GiB while it is built and {free / 2**30:.1f} "
            f"are free; what would fit: {', '.join(fit) or 'no named shape'}"
        )
