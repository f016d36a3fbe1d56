"""Fingerprints of the model and the tokenizer that a local call ran on: short hashes of what defines them.

A model's fingerprint covers its config, its parameters' names, shapes and types (and with them the quantization), the
headers of its weight files where these are on this machine, its revision on the hub, and the adapters in use. The
weights' values are not read: that would take longer than most calls.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

_VOLATILE = {"transformers_version", "torch_dtype", "dtype", "use_cache"}
_HEADER_MOST = 64 << 20
_SAMPLED_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter (LoRA and its kin) that a call ran with."""

    name: str
    rank: int | None
    merged: bool
    """Whether its weights are added into the base's, so that it costs nothing per token."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A model's fingerprint, number type, quantization and active adapters at one moment."""

    fingerprint: str
    dtype: str | None
    quantization: str | None
    adapters: tuple[Adapter, ...] = ()


@dataclass(slots=True)
class _Known:
    """What is remembered of one model object, as long as its ``token`` (type, adapters, quantizer) stays the same."""

    token: tuple[Any, ...]
    digest: str
    dtype: str | None
    quantization: str | None
    layer: Any
    """A layer that adapters were put into: it knows which of them are active now."""


_models: WeakKeyDictionary[Any, _Known] = WeakKeyDictionary()
_tokenizers: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def model_name(model: Any) -> str:
    """The name that a model was loaded by: a hub name as it is, the last part of a folder, else the class's name."""
    name_or_path = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
    return shown_name(name_or_path) if name_or_path else type(model).__name__


def shown_name(name_or_path: str) -> str:
    """What a model is called that is loaded by ``name_or_path``: a hub name as it is, the last part of a folder."""
    path = Path(name_or_path)
    return path.name if path.is_absolute() or name_or_path.startswith((".", "~")) or path.is_dir() else name_or_path


def identify(model: Any) -> Identity:
    """The model's identity. The costly part is worked out once per model object, and anew when its type,
    quantization or set of adapters changes."""
    token = (str(getattr(model, "dtype", None)), _adapter_names(model), id(getattr(model, "hf_quantizer", None)))
    known = _models.get(model)
    if known is None or known.token != token:
        known = _models[model] = _read_model(model, token)
    adapters = _adapters(model, known.layer)
    digest = known.digest
    if adapters:
        digest = _hash([digest, [[adapter.name, adapter.rank] for adapter in adapters]])
    return Identity(digest, known.dtype, known.quantization, adapters)


def identify_engine(config: Any) -> Identity:
    """The model that vLLM serves, by its engine's ``ModelConfig``: its config, type, quantization and revision."""
    shape = {
        name: value
        for name, value in config.hf_config.to_dict().items()
        if not name.startswith("_") and name not in _VOLATILE
    }
    dtype = str(config.dtype).removeprefix("torch.")
    quantization = getattr(config, "quantization", None)
    digest = _hash([shape, dtype, quantization, getattr(config, "revision", None)], *_headers(config.hf_config))
    return Identity(digest, dtype, quantization)


def identify_tokenizer(tokenizer: Any) -> str:
    """A hash of the tokenizer's class, size, special tokens, chat template and 64 tokens spread over its vocabulary."""
    remembered = _tokenizers.get(tokenizer)
    if remembered is not None:
        return remembered
    size = len(tokenizer)
    sampled_ids = sorted({index * size // _SAMPLED_TOKENS for index in range(_SAMPLED_TOKENS)}) if size else []
    special = {name: str(value) for name, value in dict(tokenizer.special_tokens_map).items()}
    template = getattr(tokenizer, "chat_template", None)
    sample = tokenizer.convert_ids_to_tokens(sampled_ids)
    fingerprint = _hash([type(tokenizer).__name__, size, special, template, sample])
    _tokenizers[tokenizer] = fingerprint
    return fingerprint


def _read_model(model: Any, token: tuple[Any, ...]) -> _Known:
    config = getattr(model, "config", None)
    settings: Mapping[str, Any] = config.to_dict() if config is not None else {}
    shape = {name: value for name, value in settings.items() if not name.startswith("_") and name not in _VOLATILE}
    kinds: set[str] = set()
    tensors: list[Any] = []
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if "lora_" in name:
            continue  # the adapters are hashed by themselves: another set may be active in the next call
        kinds.add(type(getattr(tensor, "data", tensor)).__name__)
        tensors.append([name.replace(".base_layer.", "."), list(tensor.shape), str(tensor.dtype)])
    quantization = _quantization(settings, kinds)
    digest = _hash(
        [type(model).__name__, shape, tensors, quantization, getattr(config, "_commit_hash", None)],
        *_headers(config),
    )
    layer = next((module for module in model.modules() if _is_adapted(module)), None)
    dtype = getattr(model, "dtype", None)
    return _Known(token, digest, None if dtype is None else str(dtype).removeprefix("torch."), quantization, layer)


def _quantization(config: Mapping[str, Any], kinds: set[str]) -> str | None:
    """The quantization that the config names, else the class of weights that are not plain tensors (torchao's)."""
    quantization = config.get("quantization_config")
    if quantization is not None:
        settings = quantization if isinstance(quantization, Mapping) else getattr(quantization, "__dict__", {})
        method = str(getattr(settings.get("quant_method"), "value", settings.get("quant_method")) or "quantized")
        bits = 4 if settings.get("load_in_4bit") else 8 if settings.get("load_in_8bit") else settings.get("bits")
        return f"{method}-{bits}bit" if isinstance(bits, int) else method
    special = sorted(kinds - {"Tensor", "Parameter"})
    return ",".join(special) or None


def _headers(config: Any) -> Iterator[bytes]:
    """Size and header of each safetensors file that the model was loaded from: names, shapes, types, offsets."""
    folder = _folder(config)
    if folder is None:
        return
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if 0 < length <= _HEADER_MOST:
                yield f"{file.name}:{file.stat().st_size}:".encode() + opened.read(length)


def _folder(config: Any) -> Path | None:
    """The local folder with the weights: the one named, or the hub's cache of this revision; None if neither exists."""
    name = str(getattr(config, "_name_or_path", "") or "")
    if not name:
        return None
    if (path := Path(name).expanduser()).is_dir():
        return path
    commit = getattr(config, "_commit_hash", None)
    cache = getattr(sys.modules.get("huggingface_hub.constants"), "HF_HUB_CACHE", None)
    if not commit or not cache:
        return None
    cached = Path(cache) / ("models--" + name.replace("/", "--")) / "snapshots" / str(commit)
    return cached if cached.is_dir() else None


def _adapter_names(model: Any) -> tuple[str, ...]:
    configs = getattr(model, "peft_config", None)
    return tuple(sorted(configs)) if isinstance(configs, dict) else ()


def _is_adapted(module: Any) -> bool:
    return hasattr(module, "lora_A") and hasattr(module, "active_adapters")


def _adapters(model: Any, layer: Any) -> tuple[Adapter, ...]:
    """The adapters that a forward pass goes through now, as PEFT's layer lists them."""
    if layer is None:
        return ()
    merged = set(getattr(layer, "merged_adapters", ()))
    active = [] if getattr(layer, "disable_adapters", False) else list(layer.active_adapters)
    ranks: Mapping[str, int] = getattr(layer, "r", {})
    names = [*active, *(name for name in sorted(merged) if name not in active)]
    return tuple(Adapter(name, ranks.get(name), name in merged) for name in names if name in ranks)


def _hash(facts: Any, *more: bytes) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for part in more:
        digest.update(part)
    return digest.hexdigest()[:16]
