"""How fast a model runs on this device, against what the device can do: `llmtrace bench`.

Two ceilings are measured first: bytes per second of a large copy (read and write counted), and floating-point
operations per second of a large matrix product in the weights' type. Then

- MFU = (2 P t + 2 L d t^2) / (time x matrix rate): P parameters in matrix products (the input embeddings are only
  looked up), t prompt tokens, L layers, d the width of all heads together; the second term is causal attention, half of
  the 4 L d t^2 of PaLM (Chowdhery et al. 2022, appendix B);
- MBU = (bytes of weights + bytes of keys and values) / (time per step x copy bandwidth): what one decode step must
  read at least, as Databricks' "LLM Inference Performance Engineering" defines it.

Weights are random: their values don't change how long a product takes.
"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmtrace.reference._errors import RunnerError, missing_extra
from llmtrace.reference.clock import make_clock
from llmtrace.reference.model import pick_device, require_model

__all__ = ["FORMATS", "SHAPES", "Bench", "estimate_bytes"]

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"kind": "llama", "size": (256, 704, 4, 4, 2, 640), "tied": False},
    "qwen2-0.5b": {"kind": "qwen2", "size": (896, 4864, 24, 14, 2, 151936), "tied": True},
    "qwen2-1.5b": {"kind": "qwen2", "size": (1536, 8960, 28, 12, 2, 151936), "tied": True},
    "llama-8b": {"kind": "llama", "size": (4096, 14336, 32, 32, 8, 128256), "tied": False},
}
"""By name: hidden, intermediate, layers, heads, key-value heads, vocabulary, as the published configs have them."""
FORMATS = ("fp32", "bf16", "fp16", "int8", "int4")
_BASE = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "bfloat16", "int4": "bfloat16"}
_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "int4": 0.5}
_REPEATS = 3

Told = Callable[[str], None]


def estimate_bytes(shape: str, weights: str) -> int:
    """Bytes of a named shape's parameters in a weight format (in int8 and int4 the embeddings stay bf16)."""
    hidden, inner, layers, heads, kv_heads, vocabulary = SHAPES[shape]["size"]
    width = hidden // heads * kv_heads
    body = layers * (2 * hidden * hidden + 2 * hidden * width + 3 * hidden * inner)
    tables = vocabulary * hidden * (1 if SHAPES[shape]["tied"] else 2)
    return round(body * _BYTES[weights] + tables * max(2.0, _BYTES[weights]))


class Bench:
    """One run. `results` is complete JSON at any moment; `done` says whether the run came to its end."""

    def __init__(self, model: str, device: str, tell: Told) -> None:
        """`model` is a name of `SHAPES` or a folder. Raises `RunnerError`."""
        self.device = pick_device(device)
        self._model = model
        self._tell = tell
        if model not in SHAPES:
            if not Path(model).exists():
                raise RunnerError(f"unknown shape {model!r}: use {', '.join(SHAPES)}, or a model folder")
            require_model(model)
        self.results: dict[str, Any] = {
            "schema": 1,
            "model": model,
            "device": self.device,
            "done": False,
            "formats": {},
        }

    def run(self, formats: list[str], prompts: list[int], batches: list[int], contexts: list[int], steps: int) -> None:
        """Measure everything; what a format cannot do here is told in its `reason`, the others go on."""
        try:
            import torch
        except ImportError as error:
            raise missing_extra(error) from error
        self.results["torch"] = torch.__version__
        self.results["threads"] = torch.get_num_threads()
        self._tell("copy bandwidth")
        self.results["copy_bytes_per_second"] = self._copy()
        for weights in formats:
            found: dict[str, Any] = {}
            self.results["formats"][weights] = found
            try:
                with torch.inference_mode():
                    self._format(found, weights, prompts, batches, contexts, steps)
            except (RuntimeError, ImportError, NotImplementedError, AssertionError, MemoryError, ValueError) as error:
                found["reason"] = _reason(error)
        self.results["done"] = True

    def write(self, file: Path) -> None:
        """The results as JSON, put in place whole."""
        part = file.with_suffix(file.suffix + ".part")
        part.write_text(json.dumps(self.results, indent=1) + "\n")
        os.replace(part, file)

    # --- the ceilings -------------------------------------------------------------------------------------------
    def _time(self, work: Callable[[], Any], repeats: int = _REPEATS, *, best: bool = False) -> float:
        """The median (or best) length of `work`, s, on the device's clock; once before, to warm up."""
        work()
        clock = make_clock(self.device)
        clock.start()
        marks = [clock.mark()]
        for _ in range(repeats):
            work()
            marks.append(clock.mark())
        clock.resolve()
        times = [mark.at or 0 for mark in marks]
        lengths = [after - before for before, after in itertools.pairwise(times)]
        return max(1, min(lengths) if best else statistics.median(lengths)) / 1e9

    def _copy(self) -> float:
        import torch

        size = 1 << (30 if self.device.startswith("cuda") else 27)
        source = torch.ones(size, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return 2 * size / self._time(lambda: target.copy_(source), 10, best=True)

    def _matrix(self, dtype: Any) -> float:
        import torch

        size = 8192 if self.device.startswith("cuda") else 512
        left = torch.randn(size, size, device=self.device).to(dtype)
        return 2 * size**3 / self._time(lambda: torch.nn.functional.linear(left, left), 10, best=True)

    # --- one format ---------------------------------------------------------------------------------------------
    def _format(
        self,
        found: dict[str, Any],
        weights: str,
        prompts: list[int],
        batches: list[int],
        contexts: list[int],
        steps: int,
    ) -> None:
        import torch

        self._tell(f"{weights}: building the model")
        dtype = getattr(torch, _BASE[weights])
        found["matrix_flops_per_second"] = rate = self._matrix(dtype)
        model = self._build(dtype, weights)
        config: Any = model.config
        held = sum(_held(tensor) for tensor in {id(p): p for p in model.parameters()}.values())
        found["weight_bytes"] = held
        embedded = model.get_input_embeddings().weight.numel()
        tied = bool(getattr(config, "tie_word_embeddings", False))
        products = sum(p.numel() for p in model.parameters()) - (0 if tied else embedded)
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // heads
        kv_heads = getattr(config, "num_key_value_heads", heads)
        per_token = 2 * config.num_hidden_layers * kv_heads * head * dtype.itemsize
        found["prefill"] = []
        for tokens in prompts:
            self._tell(f"{weights}: prefill of {tokens} tokens")
            ids = torch.randint(0, config.vocab_size, (1, tokens), device=self.device)
            spent = self._time(lambda ids=ids: model(input_ids=ids, use_cache=True, logits_to_keep=1))
            flops = 2 * products * tokens + 2 * config.num_hidden_layers * heads * head * tokens**2
            row = {"tokens": tokens, "seconds": spent, "tokens_per_second": tokens / spent, "mfu": flops / spent / rate}
            found["prefill"].append(row)
        best = min(found["prefill"], key=lambda row: row["seconds"] / row["tokens"], default=None)
        if best is not None:
            found["seconds_per_prefill_token"] = best["seconds"] / best["tokens"]
        read = held if tied else held - _held(model.get_input_embeddings().weight)
        found["decode"] = []
        for batch in batches:
            for context in contexts:
                self._tell(f"{weights}: decode, batch {batch}, context {context}")
                spent = self._decode(model, batch, context, steps)
                least = read + per_token * batch * context
                found["decode"].append(
                    {
                        "batch": batch,
                        "context": context,
                        "seconds_per_step": spent,
                        "tokens_per_second": batch / spent,
                        "mbu": least / spent / self.results["copy_bytes_per_second"],
                    }
                )

    def _decode(self, model: Any, batch: int, context: int, steps: int) -> float:
        """The median length of a step, s."""
        import torch

        ids = torch.randint(0, model.config.vocab_size, (batch, context), device=self.device)
        out: Any = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
        cache = {name: getattr(out, name)}
        token = out.logits[:, -1:].argmax(dim=-1)

        def step() -> None:
            nonlocal token
            token = model(input_ids=token, use_cache=True, **cache).logits[:, -1:].argmax(dim=-1)

        return self._time(step, steps)

    def _build(self, dtype: Any, weights: str) -> Any:
        import torch
        from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

        if self._model not in SHAPES:
            model: Any = AutoModelForCausalLM.from_pretrained(self._model, dtype=dtype, local_files_only=True)
        else:
            self._fits(weights)
            shape = SHAPES[self._model]
            hidden, inner, layers, heads, kv_heads, vocabulary = shape["size"]
            make: Any = Qwen2Config if shape["kind"] == "qwen2" else LlamaConfig
            config = make(
                hidden_size=hidden,
                intermediate_size=inner,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=kv_heads,
                vocab_size=vocabulary,
                max_position_embeddings=32768,
                tie_word_embeddings=shape["tied"],
            )
            with torch.device(self.device):
                model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        model = model.to(self.device).eval()
        if weights in ("int8", "int4"):
            from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

            quantize_(model, Int8WeightOnlyConfig() if weights == "int8" else Int4WeightOnlyConfig())
        return model

    def _fits(self, weights: str) -> None:
        """Say what would fit where the weights alone do not."""
        import torch

        if self.device.startswith("cuda"):
            free = int(torch.cuda.mem_get_info()[0])
        elif hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        else:
            return
        built = "bf16" if weights in ("int8", "int4") else weights  # they are quantized after they were made
        if (needed := estimate_bytes(self._model, built)) > free * 0.9:
            fit = [name for name in SHAPES if estimate_bytes(name, built) <= free * 0.9]
            raise MemoryError(
                f"{self._model} in {weights} needs {needed / 2**30:.1f} GiB while it is built and {free / 2**30:.1f} "
                f"are free; what would fit: {', '.join(fit) or 'no named shape'}"
            )


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _held(tensor: Any) -> int:
    """Bytes of a parameter; of a quantized one (torchao's) those of the tensors that it is made of."""
    names = getattr(tensor, "tensor_data_names", None)
    if names:
        parts = [*names, *getattr(tensor, "optional_tensor_data_names", ())]
        return sum(_held(part) for name in parts if (part := getattr(tensor, name, None)) is not None)
    return int(tensor.numel()) * int(tensor.element_size())
