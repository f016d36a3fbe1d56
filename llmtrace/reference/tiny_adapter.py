"""A LoRA adapter for the tiny model, with random weights: it changes the answers, to nothing in particular."""

from __future__ import annotations

import json
from pathlib import Path

from llmtrace.reference._errors import missing_extra
from llmtrace.reference.tiny import TinySpec

__all__ = ["build_tiny_adapter"]


def build_tiny_adapter(path: Path, *, spec: TinySpec | None = None, rank: int = 16, seed: int = 0) -> Path:
    """Write an adapter of this rank into the folder, in PEFT's form; on all matrices of all layers.

    Raises `RunnerError` where the `reference` extra is not installed. Imports no torch.
    """
    try:
        import numpy as np
        from safetensors.numpy import save_file
    except ImportError as error:
        raise missing_extra(error) from error
    spec = spec or TinySpec()
    kv = spec.hidden // spec.heads * spec.kv_heads
    shapes = {
        "self_attn.q_proj": (spec.hidden, spec.hidden),
        "self_attn.k_proj": (spec.hidden, kv),
        "self_attn.v_proj": (spec.hidden, kv),
        "self_attn.o_proj": (spec.hidden, spec.hidden),
        "mlp.gate_proj": (spec.hidden, spec.intermediate),
        "mlp.up_proj": (spec.hidden, spec.intermediate),
        "mlp.down_proj": (spec.intermediate, spec.hidden),
    }
    draw = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    for layer in range(spec.layers):
        for name, (wide, out) in shapes.items():
            where = f"base_model.model.model.layers.{layer}.{name}"
            weights[f"{where}.lora_A.weight"] = draw.normal(0, wide**-0.5, (rank, wide)).astype(np.float32)
            weights[f"{where}.lora_B.weight"] = draw.normal(0, 0.2, (out, rank)).astype(np.float32)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": sorted(name.rpartition(".")[2] for name in shapes),
    }
    path.mkdir(parents=True, exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(weights, path / "adapter_model.safetensors")
    return path
