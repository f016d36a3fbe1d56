"""The reference runner's tiny model as ONNX, as transformers.js reads it: ``python -m tests.web.export FOLDER``.

Inputs are the new tokens and what is in the KV cache, outputs the logits and the cache with the new tokens in it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from llmtrace.reference.tiny import TINY_NAME, TinySpec, build_tiny

SMALL = TinySpec(hidden=64, intermediate=96, layers=2, heads=2, kv_heads=1, frozen_layers=1, steps=20, context=2048)
"""Small enough for a GPU that is none: SwiftShader takes seconds for a token of the default."""


class _Stepping(torch.nn.Module):
    """One forward pass, its cache taken and given as plain tensors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, *past: Any) -> tuple[Any, ...]:
        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        places = torch.arange(attention_mask.shape[1]).view(1, 1, -1)
        hidden = torch.finfo(torch.float32).min
        mask = torch.where(places <= position_ids.unsqueeze(-1), 0.0, hidden).unsqueeze(1)
        answer = self.model(
            input_ids=input_ids, attention_mask=mask, position_ids=position_ids, past_key_values=cache, use_cache=True
        )
        after = [tensor for layer in answer.past_key_values.layers for tensor in (layer.keys, layer.values)]
        return (answer.logits, *after)


def export(folder: Path) -> None:
    """Write the model into ``folder``: its configuration, its tokenizer and ``onnx/model.onnx``."""
    built = folder.parent / f".{folder.name}.built"
    build_tiny(built, spec=SMALL)
    model: Any = AutoModelForCausalLM.from_pretrained(built, attn_implementation="eager").eval()
    shape = (1, model.config.num_key_value_heads, 3, model.config.head_dim)
    kept = [f"{layer}.{kind}" for layer in range(model.config.num_hidden_layers) for kind in ("key", "value")]
    ids = torch.ones(1, 4, dtype=torch.long)
    example = (ids, torch.ones(1, 7, dtype=torch.long), ids.cumsum(-1) + 2, *(torch.zeros(shape) for _ in kept))
    inputs = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in kept)]
    outputs = ["logits", *(f"present.{name}" for name in kept)]
    axes = {name: {0: "batch", 2 if "." in name else 1: name.replace(".", "_")} for name in (*inputs, *outputs)}
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        torch.onnx.export(
            _Stepping(model),
            example,
            str(folder / "onnx" / "model.onnx"),
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
    for file in (*built.glob("*.json"), *built.glob("*.jinja")):
        shutil.copy(file, folder)
    shutil.rmtree(built)


if __name__ == "__main__":
    export(Path(sys.argv[1]) / TINY_NAME)
