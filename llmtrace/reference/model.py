"""The model that is served: any Hugging Face causal LM from a path, or the tiny one of our own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from llmtrace.emit import names
from llmtrace.observe.clock import now
from llmtrace.observe.loading import Loading
from llmtrace.reference._errors import RunnerError, missing_extra
from llmtrace.reference.tiny import TINY_NAME, Progress, build_tiny, quiet, tiny_path

__all__ = ["LoadedModel", "build_or_load", "first_line", "pick_device", "require_model"]

_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device, with everything that a runner needs to know about it."""

    model: Any
    """A `transformers` causal LM in eval mode."""
    tokenizer: Any
    name: str
    """The model id that clients ask for."""
    device: str
    """`cpu`, `cuda` (or `cuda:1`), `mps`."""
    dtype: str
    """`float32`, `bfloat16`, ..."""
    context: int
    """Most tokens in one sequence, prompt and output together."""
    vocabulary: int
    """Token ids lie in [0, vocabulary)."""
    stop_ids: frozenset[int]
    """End-of-sequence token ids."""
    fingerprint: str
    """A short hash of config, weights, dtype and device: the `system_fingerprint` of the responses."""
    load_seconds: float = 0.0
    """Seconds that reading it took."""
    loading: Loading | None = None
    """The same as it went, until whoever serves it says that it is ready."""

    @property
    def about(self) -> dict[str, str]:
        """What it is and where it runs, as attributes of a resource."""
        import platform

        hardware = f"{self.device} ({platform.machine()})"
        if self.device.startswith("cuda"):
            import torch

            hardware = torch.cuda.get_device_name(self.device)
        about = {names.DEVICE_NAME: hardware, names.MODEL_FORMAT: self.dtype}
        return {**about, names.MODEL_FINGERPRINT: self.fingerprint} if self.fingerprint else about

    @property
    def has_chat_template(self) -> bool:
        return bool(getattr(self.tokenizer, "chat_template", None))


def pick_device(device: str = "auto") -> str:
    """The torch device to run on; `auto` takes CUDA, then MPS, then the CPU."""
    kind = device.partition(":")[0]
    if kind not in ("auto", "cpu", "cuda", "mps"):
        raise RunnerError(f"unknown device {device!r}: use auto, cpu, cuda or mps")
    try:
        import torch
    except ImportError as error:
        raise missing_extra(error) from error
    has_mps = torch.backends.mps.is_available()
    if kind == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        why = "this torch has no CUDA build" if torch.backends.cuda.is_built() is False else "torch finds no usable GPU"
        raise RunnerError(f"device cuda was asked for, but {why}: use --device cpu or install a CUDA build of torch")
    if kind == "mps" and not has_mps:
        raise RunnerError("device mps was asked for, but torch finds none: use --device cpu")
    return device


def build_or_load(
    model: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    name: str | None = None,
) -> LoadedModel:
    """Load the model at a path; without a path load the tiny one, building it first where the cache has none.

    `progress(done, total)` is told of each step of the fit, and is not called when nothing is built. `name` is the id
    that clients ask for (default: the folder's name). Raises `RunnerError`.
    """
    target = pick_device(device)
    if dtype not in ("auto", *_DTYPES):
        raise RunnerError(f"unknown dtype {dtype!r}: use auto, {', '.join(_DTYPES)}")
    if model is not None:
        path = require_model(model)
        return _load(path, name or path.resolve().name, target, dtype)
    path = tiny_path(cache_dir)
    if path.is_dir():
        # An unreadable build in the cache (a full disk, an older transformers) is no reason to fail: build it anew.
        with contextlib.suppress(RunnerError):
            return _load(path, name or TINY_NAME, target, dtype)
        shutil.rmtree(path, ignore_errors=True)
    build_tiny(path, progress=progress)
    return _load(path, name or TINY_NAME, target, dtype)


def require_model(model: str | os.PathLike[str]) -> Path:
    """The folder of a model, if it looks like one. Imports no torch. Raises `RunnerError`."""
    shown_path = os.fspath(model)
    path = Path(model).expanduser()
    if not path.exists():
        raise RunnerError(f"no model at {shown_path}: there is no such folder (give a local Hugging Face model folder)")
    if not path.is_dir():
        raise RunnerError(f"no model at {shown_path}: it is a file; give the folder that holds config.json")
    if not (path / "config.json").is_file():
        raise RunnerError(f"no model at {shown_path}: the folder has no config.json")
    weights = [*path.glob("*.safetensors"), *path.glob("*.bin"), *path.glob("*.safetensors.index.json")]
    if not weights:
        raise RunnerError(f"no model at {shown_path}: the folder has no weights (*.safetensors or *.bin)")
    return path


def _load(path: Path, name: str, device: str, dtype: str) -> LoadedModel:
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise missing_extra(error) from error
    begun, loading = perf_counter(), Loading(rest="read")
    try:
        with quiet():
            config: Any = AutoConfig.from_pretrained(path, local_files_only=True)
            dtype_name = _dtype(dtype, config, device)
            tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
            weights: Any = AutoModelForCausalLM.from_pretrained(
                path, config=config, torch_dtype=getattr(torch, dtype_name), local_files_only=True
            )
            moved = now()
            weights = weights.to(device).eval()
            if device != "cpu":
                loading.measured("to_device", moved)
    except torch.cuda.OutOfMemoryError as error:
        raise RunnerError(f"the model at {path} does not fit on {device}: use a smaller one or --device cpu") from error
    except Exception as error:
        raise RunnerError(f"cannot load the model at {path}: {first_line(error)}") from error
    text_config: Any = config.get_text_config() if hasattr(config, "get_text_config") else config
    loading.finish()
    return LoadedModel(
        model=weights,
        tokenizer=tokenizer,
        name=name,
        device=device,
        dtype=dtype_name,
        context=int(getattr(text_config, "max_position_embeddings", None) or 2048),
        vocabulary=int(getattr(text_config, "vocab_size", None) or len(tokenizer)),
        stop_ids=_stop_ids(weights, tokenizer),
        fingerprint=_fingerprint(config, weights, dtype_name, device),
        load_seconds=perf_counter() - begun,
        loading=loading,
    )


def _dtype(requested: str, config: Any, device: str) -> str:
    """float32 on the CPU; on a device what the model was saved in."""
    if requested != "auto":
        return requested
    if device == "cpu":
        return "float32"
    saved = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    name = str(saved).removeprefix("torch.")
    return name if name in _DTYPES else "float32"


def _stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    ids: set[int] = set()
    for source in (getattr(model, "generation_config", None), getattr(model, "config", None), tokenizer):
        value = getattr(source, "eos_token_id", None)
        ids.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    return frozenset(int(token_id) for token_id in ids)


_SAMPLES = 64
"""Values of each parameter that go into the fingerprint: as good as all of them to tell two checkpoints apart."""


def _fingerprint(config: Any, model: Any, dtype: str, device: str) -> str:
    import torch

    shape = {key: value for key, value in config.to_dict().items() if not key.startswith("_")}
    shape.pop("transformers_version", None)
    text = json.dumps([shape, dtype, device], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode())
    samples: list[Any] = []
    with torch.inference_mode():
        for name, weights in model.named_parameters():
            digest.update(f"{name} {tuple(weights.shape)}".encode())
            flat = weights.detach().reshape(-1)
            samples.append(flat[:: max(1, flat.numel() // _SAMPLES)][:_SAMPLES].float())
        if samples:
            digest.update(torch.cat(samples).cpu().numpy().tobytes())
    return "fp_" + digest.hexdigest()[:12]


def first_line(error: BaseException) -> str:
    """What an error says, shortened to one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
