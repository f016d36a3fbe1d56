"""Several adapters at once, as a request names them: `support+sql`, `support:0.7+sql:0.3`, `support+sql@ties:0.5`.

Names are joined by `+`, each with a weight behind `:` where it is not 1. Without `@` they are stacked: every one is
added beside the weights, as each is by itself. Behind `@` stands a way of PEFT's `add_weighted_adapter` to make one
adapter of them, and behind its `:` the share of values that it keeps, where it drops some.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from llmtrace.reference._errors import RunnerError

__all__ = ["DENSITY", "STACKED", "Composition", "CompositionError", "check_parts", "methods", "parse_composition"]

STACKED = "stacked"
DENSITY = 0.5
"""The share of values kept, where a way drops some and the composition does not say how many."""
_MOST_PARTS = 8
_MOST_WEIGHT = 100.0
_WAYS = (
    *("svd", "linear", "cat", "ties", "ties_svd", "dare_ties", "dare_linear", "dare_ties_svd", "dare_linear_svd"),
    *("magnitude_prune", "magnitude_prune_svd"),
)
"""The ways of the oldest PEFT that is supported, which does not list them where a program can read it."""
_SPARSE = ("ties", "dare", "magnitude_prune")


class CompositionError(RunnerError):
    """These adapters cannot be composed in this way; the message says why."""


@dataclass(frozen=True)
class Composition:
    """Adapters with their weights, and how they become one."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    method: str = STACKED
    density: float | None = None
    """The share of values that the method keeps; None where it keeps all."""

    @property
    def text(self) -> str:
        """Its name: the same for the same composition, however a request wrote it."""
        parts = [
            name if weight == 1 else f"{name}:{weight:g}" for name, weight in zip(self.names, self.weights, strict=True)
        ]
        way = "" if self.method == STACKED else f"@{self.method}"
        return "+".join(parts) + way + ("" if self.density is None else f":{self.density:g}")

    @property
    def parts(self) -> list[tuple[str, float]]:
        """Each adapter's name and weight."""
        return list(zip(self.names, self.weights, strict=True))


@functools.cache
def methods() -> tuple[str, ...]:
    """The ways to compose: stacked, and what the PEFT that is installed offers."""
    import peft

    ways = get_args(get_type_hints(peft.LoraModel.add_weighted_adapter).get("combination_type"))
    return (STACKED, *(ways or _WAYS))


def parse_composition(text: str, known: Collection[str]) -> Composition | None:
    """The composition of adapters of `known` that `text` names; None where it names none of several.

    Raises `KeyError` with the name of an adapter that is not known, and `CompositionError` for what is wrong with it.
    """
    joined, at, way = text.rpartition("@")
    if not at or "+" not in joined:
        joined, way = text, STACKED
    if "+" not in joined:
        return None
    parts = [_part(part, known) for part in joined.split("+")]
    method, colon, density = way.partition(":")
    return composed(
        [name for name, _ in parts],
        [weight for _, weight in parts],
        method,
        _number(density, f"the share of values that {method} keeps") if colon else None,
    )


def composed(
    names: Sequence[str], weights: Sequence[float] | None = None, method: str = STACKED, density: float | None = None
) -> Composition:
    """A composition of these adapters, weights 1 where none are given. Raises `CompositionError`."""
    weights = [1.0] * len(names) if weights is None else list(weights)
    if not 2 <= len(names) <= _MOST_PARTS:
        raise CompositionError(f"a composition has 2 to {_MOST_PARTS} adapters, and this one has {len(names)}")
    if len(weights) != len(names):
        raise CompositionError(f"{len(names)} adapters need {len(names)} weights, and {len(weights)} were given")
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise CompositionError(f"{twice} is in the composition twice: give it once, with a weight ({twice}:2)")
    for name, weight in zip(names, weights, strict=True):
        if not 0 < abs(weight) <= _MOST_WEIGHT:  # false for what is no number, too
            raise CompositionError(f"{name}: a weight lies from -{_MOST_WEIGHT:g} to {_MOST_WEIGHT:g} and is not 0")
    if method not in methods():
        raise CompositionError(f"there is no way {method!r} to compose adapters: use {', '.join(methods())}")
    if not method.startswith(_SPARSE):
        if density is not None:
            raise CompositionError(f"{method} keeps all values: it has no share to keep")
        return Composition(tuple(names), tuple(weights), method)
    density = DENSITY if density is None else density
    if not 0 < density < 1:
        raise CompositionError(f"{method} keeps a share between 0 and 1 of the values, not {density:g}")
    return Composition(tuple(names), tuple(weights), method, density)


def _part(text: str, known: Collection[str]) -> tuple[str, float]:
    text = text.strip()
    if text in known:
        return text, 1.0
    name, colon, weight = text.rpartition(":")
    if not colon or name not in known:
        raise KeyError(name if colon and _is_number(weight) else text)
    return name, _number(weight, f"the weight of {name}")


def _number(text: str, what: str) -> float:
    if not _is_number(text):
        raise CompositionError(f"{what} must be a number, not {text[:40]!r}")
    return float(text)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


_SAME_RANK = ("linear", "ties", "dare_ties", "dare_linear", "magnitude_prune")


def check_parts(composition: Composition, configs: Sequence[Any]) -> None:
    """Raise `CompositionError` where adapters with these configurations of PEFT cannot be composed in this way."""
    ranks: list[int] = []
    for name, config in zip(composition.names, configs, strict=True):
        for setting, what in _ALONE.items():
            if getattr(config, setting, None):
                raise CompositionError(f"{name} cannot be composed: {what}")
        ranks.append(max((int(config.r), *(int(rank) for rank in (config.rank_pattern or {}).values()))))
    if composition.method == STACKED:
        return
    if composition.method in _SAME_RANK and len(set(ranks)) > 1:
        each = ", ".join(f"{name} has {rank}" for name, rank in zip(composition.names, ranks, strict=True))
        raise CompositionError(
            f"{composition.method} needs adapters of one rank ({each}): use cat or svd, or stack them"
        )
    if len({type(config.target_modules) for config in configs}) > 1:
        raise CompositionError("adapters that name their layers by a pattern and by a list can only be stacked")


_ALONE = {
    "use_dora": "it is DoRA, whose magnitudes belong to one adapter only",
    "lora_bias": "it has biases of its own",
    "modules_to_save": "it has whole modules of its own (modules_to_save)",
    "trainable_token_indices": "it has tokens of its own (trainable_token_indices)",
    "target_parameters": "it adapts parameters that are no layers' weights (target_parameters)",
}
"""Settings of PEFT with which an adapter is more than a product of two matrices beside each weight."""


def rank_of(composition: Composition, ranks: Sequence[int]) -> int:
    """The rank of a composition of adapters of these ranks."""
    return sum(ranks) if composition.method in (STACKED, "cat") else max(ranks)
