"""LoRA adapters over one base model: loaded by name, one in use at a time, put in and taken out between forwards.

What is in use may also be a composition of several (`compositions.py`): it then counts as one adapter.

An adapter is either added beside the weights at every forward (swapping is cheap, each forward costs more), or merged
into them (swapping costs a pass over the adapted weights, forwards cost what the base's do). Merged weights are put
back from a copy rather than subtracted again: however often adapters are swapped, the base answers bit for bit alike.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from llmtrace.reference._errors import RunnerError
from llmtrace.reference.compositions import (
    STACKED,
    Composition,
    CompositionError,
    check_parts,
    parse_composition,
    rank_of,
)
from llmtrace.reference.conflicts import Factors, Pair, compare_all
from llmtrace.reference.model import LoadedModel, first_line
from llmtrace.version import install_hint

__all__ = ["Adapter", "Adapters", "UnknownAdapter", "parse_adapters"]


_MOST_COMPOSED = 8
"""The most compositions that are kept ready; the one that was not used for longest is made anew when it is wanted."""
_MOST_COUNTED = 64
"""The most adapters and compositions that are counted by name: each is a series of its own to whoever collects them."""
_MOST_NUMBERED = 1024
"""The most compositions whose blocks in the prefix cache are known again."""


@dataclass(frozen=True)
class Adapter:
    """One adapter that the server can use, or several as one."""

    name: str
    """The model id that clients ask for."""
    rank: int
    """The rank of its matrices; where layers differ, the one in its configuration."""
    merged: bool
    """Whether it is merged into the weights while in use, not added beside them."""
    composition: Composition | None = None
    """What it is made of, where it is several adapters."""


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
        self._configs: dict[str, Any] = {}
        self._keys: dict[str, str] = {}  # what PEFT calls them: their own names may hold a dot, which it cannot take
        self._factors: dict[str, dict[str, Factors]] = {}
        self._composed: OrderedDict[str, Composition] = OrderedDict()  # those that are ready, the latest used last
        self._weighted: list[tuple[Any, str, float]] = []  # layers whose scale is changed: [(layer, key, its own)]
        self._numbers: dict[str, int] = {}
        self._count = 0
        self.dropped: list[str] = []
        """Compositions that are not ready any more; the runner forgets what it knows of them."""
        self.requests: dict[str, int] = {}
        """How many requests there were for each adapter and composition; beyond the first so many, for `other` ones."""
        self.load_seconds: dict[str, float] = {}
        """How long each took to load, by name."""
        for name, path in paths.items():
            if name == loaded.name:
                raise RunnerError(f"--adapter {name}: the model itself has this name; choose another")
            config = _config(peft, name, Path(path))
            if merge and (getattr(config, "use_dora", False) or getattr(config, "lora_bias", False)):
                raise RunnerError(f"--adapter {name}: DoRA and biases cannot be merged; start without --merge-adapters")
            begun = perf_counter()
            self._keys[name] = key = f"a{1 + len(self._keys)}"
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for an old name
                    if self._model is None:
                        self._model = peft.get_peft_model(
                            loaded.model, config, adapter_name=key, autocast_adapter_dtype=False
                        )
                    result = self._model.load_adapter(path, adapter_name=key, autocast_adapter_dtype=False)
            except Exception as error:
                raise RunnerError(f"cannot load the adapter at {path}: {first_line(error)}") from error
            _require_same_base(path, result, loaded.name)
            self.load_seconds[name] = perf_counter() - begun
            self._known[name] = Adapter(name, int(config.r), merge)
            self._configs[name] = config
            self._factors[name] = _factors(self._model, key)
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
        """The adapter of that name, or the composition. Raises `RunnerError` where there is none, or it cannot be.

        Changes nothing: any thread may ask.
        """
        if name in self._known:
            return self._known[name]
        try:
            composition = parse_composition(name, self._known)
        except KeyError as error:
            raise self._unknown(error.args[0]) from None
        if composition is None:
            raise self._unknown(name)
        check_parts(composition, [self._configs[part] for part in composition.names])
        ranks = [self._known[part].rank for part in composition.names]
        return Adapter(composition.text, rank_of(composition, ranks), self._merge, composition)

    def count(self, name: str) -> None:
        """Count a request for this adapter or composition."""
        if name not in self.requests and len(self.requests) >= _MOST_COUNTED:
            name = "other"
        self.requests[name] = self.requests.get(name, 0) + 1

    def _unknown(self, name: str) -> RunnerError:
        return UnknownAdapter(f"no adapter {name!r}: this runner has {', '.join(self._known) or 'none'}")

    def number(self, name: str) -> int:
        """A number of that adapter or composition, from 1, that no other has. Raises `RunnerError` as `get` does."""
        if name in self._known:
            return 1 + self.names.index(name)
        name = self.get(name).name
        if name not in self._numbers:
            if len(self._numbers) >= _MOST_NUMBERED:
                self._numbers.clear()
            self._count += 1
            self._numbers[name] = len(self._known) + self._count
        return self._numbers[name]

    def is_active(self, name: str | None) -> bool:
        """Whether the next forward would use this adapter (None: the base model alone)."""
        return name == self.active and not self._unsure

    def activate(self, name: str | None) -> None:
        """Use this adapter or composition from the next forward on (None: the base model alone).

        A composition that PEFT makes one adapter of is made when it is first used. Raises `CompositionError` where it
        cannot be.
        """
        if self.is_active(name):
            return
        self._unsure = True  # until all layers have followed
        self._restore()
        base = self._model.base_model
        if name is None:
            base.disable_adapter_layers()
        else:
            composition = self.get(name).composition
            keys = [self._keys[name]] if composition is None else self._ready(composition)
            base.enable_adapter_layers()
            base.set_adapter(keys)
            if self._merge:
                self._model.merge_adapter(keys)
        self.active, self._unsure = name, False

    def conflicts(self, composition: Composition) -> list[Pair]:
        """How each two adapters of a composition get in each other's way. Any thread may ask."""
        return compare_all([(name, weight, self._factors[name]) for name, weight in composition.parts])

    def _ready(self, composition: Composition) -> list[str]:
        """What PEFT calls the adapters to be set for a composition."""
        text = composition.text
        keys = [self._keys[name] for name in composition.names]
        if text in self._composed:
            self._composed.move_to_end(text)
        else:
            while len(self._composed) >= _MOST_COMPOSED:
                self._drop(next(iter(self._composed)))
            if composition.method != STACKED:
                key = f"c{self.number(text)}"
                self._make(composition, keys, key)
                self._keys[text] = key
            self._composed[text] = composition
        if composition.method != STACKED:
            return [self._keys[text]]
        for layer in self._layers() if any(weight != 1 for weight in composition.weights) else ():
            for key, weight in zip(keys, composition.weights, strict=True):
                if key in layer.scaling:  # PEFT's own set_scale has not always known of RSLoRA
                    self._weighted.append((layer, key, layer.scaling[key]))
                    layer.scaling[key] *= weight
        return keys

    def _make(self, composition: Composition, keys: Sequence[str], key: str) -> None:
        """Let PEFT make one adapter of several. What it draws at random, it draws alike each time."""
        import torch

        device = self.loaded.device
        options: dict[str, Any] = {} if composition.density is None else {"density": composition.density}
        if composition.method.endswith("svd"):
            options["svd_full_matrices"] = False
        try:
            # In an inference mode the new matrices could not be written to later.
            with (
                torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []),
                torch.inference_mode(mode=False),
                torch.no_grad(),
            ):
                torch.manual_seed(0)
                self._model.base_model.add_weighted_adapter(
                    list(keys), list(composition.weights), key, combination_type=composition.method, **options
                )
                self._model.eval()
        except Exception as error:
            if key in self._model.peft_config:
                self._model.base_model.delete_adapter(key)
            raise CompositionError(f"PEFT cannot make {composition.text}: {first_line(error)}") from error

    def _drop(self, text: str) -> None:
        if self._composed.pop(text).method != STACKED:
            self._model.base_model.delete_adapter(self._keys.pop(text))
        self.dropped.append(text)

    def _layers(self) -> list[Any]:
        return [module for module in self._model.modules() if isinstance(getattr(module, "scaling", None), dict)]

    def _restore(self) -> None:
        for layer, key, scale in self._weighted:
            layer.scaling[key] = scale
        self._weighted.clear()
        for layer, weight in self._kept:
            if layer.merged_adapters:
                layer.get_base_layer().weight.data.copy_(weight)
                layer.merged_adapters.clear()


class UnknownAdapter(RunnerError):
    """There is no adapter of this name."""


def _require_same_base(path: object, result: Any, name: str) -> None:
    """Raise `RunnerError` where an adapter has weights for what the model lacks, or none for what it should adapt."""
    unexpected, missing = (
        [_PLACE.sub("", key) for key in keys if ".lora_" in key]
        for keys in (result.unexpected_keys, result.missing_keys)
    )
    what = f"weights for {unexpected[0]}, which {name} does not have" if unexpected else ""
    if missing and not unexpected:
        what = f"no weights for {missing[0]}, which it says it adapts"
    if what:
        raise RunnerError(f"the adapter at {path} belongs to another model: it has {what}")


_PLACE = re.compile(r"^base_model\.model\.|\.lora_.*")
"""What PEFT adds to the name of the layer."""


def _factors(model: Any, key: str) -> dict[str, Factors]:
    """The two matrices that an adapter has beside each weight, by the weight's name in the model."""
    factors: dict[str, Factors] = {}
    for name, layer in model.base_model.model.named_modules():
        scaling = getattr(layer, "scaling", None)
        if not isinstance(scaling, dict) or key not in scaling:
            continue
        if key in layer.lora_A:
            a, b = layer.lora_A[key].weight, layer.lora_B[key].weight
        elif key in layer.lora_embedding_A:
            a, b = layer.lora_embedding_A[key], layer.lora_embedding_B[key]
        else:
            continue
        factors[name] = Factors(a.detach().flatten(1), b.detach().flatten(1), float(scaling[key]))
    return factors


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
