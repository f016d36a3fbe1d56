"""LoRA adapters over one base model: loaded by name, one in use at a time, put in and taken out between forwards.

An adapter is either added beside the weights at every forward (swapping is cheap, each forward costs more), or merged
into them (swapping costs a pass over the adapted weights, forwards cost what the base's do). Merged weights are put
back from a copy rather than subtracted again: however often adapters are swapped, the base answers bit for bit alike.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from llmtrace.reference._errors import RunnerError
from llmtrace.reference.model import LoadedModel, first_line
from llmtrace.version import install_hint

__all__ = ["Adapter", "Adapters", "parse_adapters"]


@dataclass(frozen=True)
class Adapter:
    """One adapter that the server can use."""

    name: str
    """The model id that clients ask for."""
    rank: int
    """The rank of its matrices; where layers differ, the one in its configuration."""
    merged: bool
    """Whether it is merged into the weights while in use, not added beside them."""


def parse_adapters(arguments: Iterable[str]) -> dict[str, Path]:
    """The folders by name, from arguments `NAME=PATH` of the command line. Raises `RunnerError`."""
    folders: dict[str, Path] = {}
    for item in arguments:
        name, equals, path = item.partition("=")
        if not (name and equals and path):
            raise RunnerError(f"--adapter {item}: give it as NAME=PATH, the folder of a PEFT adapter")
        if name in folders:
            raise RunnerError(f"--adapter {name} was given twice: each adapter needs a name of its own")
        folders[name] = Path(path).expanduser()
    return folders


class Adapters:
    """The adapters of one model. Not thread-safe: the thread that owns the model owns them."""

    def __init__(
        self, loaded: LoadedModel, paths: Mapping[str, str | os.PathLike[str]], *, merge: bool = False
    ) -> None:
        """Load all adapters into the model, none in use. Raises `RunnerError` for one that cannot be loaded."""
        try:
            import peft
        except ImportError as error:
            missing = (error.name or "peft").partition(".")[0]
            raise RunnerError(f"adapters need {missing}, which is not installed: {install_hint('adapters')}") from error
        self.loaded = loaded
        """The model that they belong to."""
        self.active: str | None = None
        self._unsure = False
        self._merge = merge
        self._model: Any = None
        self._known: dict[str, Adapter] = {}
        self.load_seconds: dict[str, float] = {}
        """How long each took to load, by name."""
        for name, path in paths.items():
            if name == loaded.name:
                raise RunnerError(f"--adapter {name}: the model itself has this name; choose another")
            config = _config(peft, name, Path(path))
            if merge and (getattr(config, "use_dora", False) or getattr(config, "lora_bias", False)):
                raise RunnerError(f"--adapter {name}: DoRA and biases cannot be merged; start without --merge-adapters")
            begun = perf_counter()
            try:
                if self._model is None:
                    self._model = peft.PeftModel.from_pretrained(
                        loaded.model, path, adapter_name=name, autocast_adapter_dtype=False
                    )
                else:
                    self._model.load_adapter(path, adapter_name=name, autocast_adapter_dtype=False)
            except Exception as error:
                raise RunnerError(f"cannot load the adapter at {path}: {first_line(error)}") from error
            self.load_seconds[name] = perf_counter() - begun
            self._known[name] = Adapter(name, int(config.r), merge)
        # Weights as they were: [(layer, copy)]; the layer's own tensor is what a captured step reads.
        self._kept: list[tuple[Any, Any]] = []
        if merge and self._model is not None:
            for layer in self._model.modules():
                if hasattr(layer, "merged_adapters") and hasattr(layer, "get_base_layer"):
                    weight = layer.get_base_layer().weight
                    if not weight.is_floating_point():
                        raise RunnerError(
                            "adapters cannot be merged into quantized weights: start without --merge-adapters"
                        )
                    self._kept.append((layer, weight.detach().clone()))
        if self._model is not None:
            self._model.eval()
            self._model.base_model.disable_adapter_layers()

    @property
    def names(self) -> list[str]:
        return list(self._known)

    @property
    def merge(self) -> bool:
        return self._merge

    def get(self, name: str) -> Adapter:
        """The adapter of that name. Raises `RunnerError` where there is none."""
        if name not in self._known:
            raise RunnerError(f"no adapter {name!r}: this runner has {', '.join(self._known) or 'none'}")
        return self._known[name]

    def number(self, name: str) -> int:
        """The number of that adapter, from 1. Raises `RunnerError` where there is none."""
        self.get(name)
        return 1 + self.names.index(name)

    def is_active(self, name: str | None) -> bool:
        """Whether the next forward would use this adapter (None: the base model alone)."""
        return name == self.active and not self._unsure

    def activate(self, name: str | None) -> None:
        """Use this adapter from the next forward on (None: the base model alone)."""
        if self.is_active(name):
            return
        self._unsure = True  # until all layers have followed
        self._restore()
        if name is None:
            self._model.base_model.disable_adapter_layers()
        else:
            self._model.base_model.enable_adapter_layers()
            self._model.set_adapter(name)
            if self._merge:
                self._model.merge_adapter([name])
        self.active, self._unsure = name, False

    def _restore(self) -> None:
        for layer, weight in self._kept:
            if layer.merged_adapters:
                layer.get_base_layer().weight.data.copy_(weight)
                layer.merged_adapters.clear()


def _config(peft: Any, name: str, path: Path) -> Any:
    """The adapter's configuration, if it is one that can be swapped."""
    if not (path / "adapter_config.json").is_file():
        raise RunnerError(
            f"--adapter {name}: no adapter at {path}: it has no adapter_config.json (give a local folder)"
        )
    try:
        config = peft.PeftConfig.from_pretrained(str(path))
    except Exception as error:
        raise RunnerError(
            f"--adapter {name}: cannot read {path / 'adapter_config.json'}: {first_line(error)}"
        ) from error
    kind = getattr(config.peft_type, "value", config.peft_type)
    if kind != "LORA":
        raise RunnerError(f"--adapter {name}: it is {kind}; only LORA adapters can be served")
    return config
