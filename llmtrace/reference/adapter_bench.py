"""What `llmtrace bench adapters` measures: how adapters conflict, and how far together they move the answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtrace.reference._errors import RunnerError
from llmtrace.reference.adapter_shifts import PROMPTS, Shift, measure_shifts, read_prompts, tokenised
from llmtrace.reference.adapters import Adapters
from llmtrace.reference.compositions import STACKED, composed
from llmtrace.reference.model import build_or_load

__all__ = ["Asked", "measure", "named_folders"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps of it are done, and how many there are."""


@dataclass(frozen=True)
class Asked:
    """What to compose, and what to ask it."""

    folders: dict[str, Path]
    """The adapters' folders, by name."""
    weights: Sequence[float] | None = None
    method: str = STACKED
    density: float | None = None
    model: Path | None = None
    """The base model's folder; None: the one that the adapters name, else the tiny model."""
    device: str = "auto"
    prompts: Path | None = None
    tokens: int = 32
    """The most tokens per answer."""
    threads: int | None = None
    """torch's threads on the CPU; None: as they are set."""


def named_folders(items: Sequence[str]) -> dict[str, Path]:
    """The adapters' folders by name: each `PATH`, `NAME=PATH`, or a name in the hub's local cache.

    Raises `RunnerError`.
    """
    folders: dict[str, Path] = {}
    for item in items:
        path, name = Path(item).expanduser(), ""
        if not path.exists() and "=" in item:
            name, _, rest = item.partition("=")
            path = Path(rest).expanduser()
        if not path.is_dir():
            path = _cached(item) or path
        if not (path / "adapter_config.json").is_file():
            what = "there is no such folder" if not path.exists() else "it has no adapter_config.json"
            raise RunnerError(f"no adapter at {path}: {what} (give the folder that PEFT saved)")
        name = name or path.resolve().name
        if name in folders:
            raise RunnerError(f"two adapters are called {name}: name them, as in first={folders[name]} second={path}")
        folders[name] = path
    if len(folders) < 2:
        raise RunnerError("one adapter has nobody to conflict with: give two or more")
    return folders


def _cached(name: str) -> Path | None:
    """The folder of an adapter that was downloaded from the hub before; nothing is downloaded now."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = try_to_load_from_cache(name, "adapter_config.json")
    except HFValidationError:
        return None
    return Path(file).parent if isinstance(file, str) else None


def _base(folders: dict[str, Path]) -> Path | None:
    """The base model that the adapters name; None where they name none. Raises `RunnerError` where it is not here."""
    for name, path in folders.items():
        try:
            config: Any = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
            base: Any = config.get("base_model_name_or_path")
        except (OSError, ValueError, AttributeError) as error:
            raise RunnerError(f"{name}: cannot read {path / 'adapter_config.json'}: {error}") from error
        if isinstance(base, str) and base:
            if not Path(base).is_dir():
                raise RunnerError(f"{name} was made for {base}, which is no folder here: give its folder with --model")
            return Path(base)
    return None


def measure(asked: Asked, tell: Progress) -> dict[str, Any]:
    """Measure everything; the result is JSON. Raises `RunnerError`."""
    import torch

    composition = composed(list(asked.folders), asked.weights, asked.method, asked.density)
    lines = list(PROMPTS) if asked.prompts is None else read_prompts(asked.prompts)
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    tell("loading the model", 0, 1)
    loaded = build_or_load(asked.model or _base(asked.folders), device=asked.device)
    tell("loading the adapters", 0, 1)
    adapters = Adapters(loaded, asked.folders)
    adapters.get(composition.text)  # says what cannot be before anything is computed
    ids = tokenised(loaded, lines, asked.tokens)
    tell("comparing the adapters", 0, 1)
    pairs = adapters.conflicts(composition)
    steps = len(ids) * (1 + len(composition.names))
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        tell("asking each alone and all together", done, steps)

    tell("asking each alone and all together", 0, steps)
    shifts = measure_shifts(adapters, composition, ids, asked.tokens, step)
    return {
        "schema": 1,
        "model": loaded.name,
        "device": loaded.device,
        "dtype": loaded.dtype,
        "torch": torch.__version__,
        "composition": {
            "name": composition.text,
            "method": composition.method,
            "density": composition.density,
            "adapters": [
                {"name": name, "weight": weight, "rank": adapters.get(name).rank, "path": str(asked.folders[name])}
                for name, weight in composition.parts
            ],
        },
        "conflicts": [{**pair.as_json(), "matrices": pair.matrices_as_json()} for pair in pairs],
        "prompts": {
            "file": None if asked.prompts is None else str(asked.prompts),
            "count": len(ids),
            "tokens": sum(map(len, ids)),
        },
        "shifts": [shift.as_json() for shift in shifts],
        "says": [*(pair.says() for pair in pairs), _moved(composition.text, shifts)],
    }


def _moved(name: str, shifts: Sequence[Shift]) -> str:
    """In one sentence, what is left of each adapter."""
    parts = [
        f"{_kept(shift.top1)} of {shift.adapter or 'the base'} (the same token at {shift.top1:.0%} of its answers' "
        f"tokens, KL {shift.kl:.2g} nats)"
        for shift in sorted(shifts, key=lambda shift: shift.adapter is None)
    ]
    return f"{name} keeps {', '.join(parts[:-1])} and {parts[-1]}."


def _kept(top1: float) -> str:
    return next(word for least, word in _WORDS if top1 >= least)


_WORDS = ((0.95, "nearly all"), (0.7, "most"), (0.4, "about half"), (0.1, "little"), (0.0, "next to nothing"))
