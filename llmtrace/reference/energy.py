"""Counters of energy: Intel's and AMD's RAPL through Linux's powercap, and NVIDIA's NVML.

Each counts all that the chip does, for whomever: what else runs on the machine is in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtrace.version import install_hint

__all__ = ["POWERCAP", "Counter", "NoCounter", "Spent", "energy_counter", "measure_energy"]

POWERCAP = Path("/sys/class/powercap")
_LEAST = 2.0
"""Seconds of work per measurement: RAPL's counters move once in a millisecond, NVML's once in some twenty."""


class NoCounter(Exception):
    """There is no counter to be read; the message says why."""


class Counter:
    """A counter that only grows."""

    def __init__(self, name: str, read: Callable[[], float]) -> None:
        self.name = name
        """What it counts."""
        self._read = read

    def joules(self) -> float:
        """Joules since some moment."""
        return self._read()


def energy_counter(device: str) -> Counter:
    """The counter of a device of torch. Raises `NoCounter`."""
    if device.startswith("cuda"):
        return _nvml(device)
    if device != "cpu":
        raise NoCounter(f"no counter is known for {device}")
    return _rapl(POWERCAP)


@dataclass(frozen=True)
class Spent:
    """What some work took, done over and over."""

    joules: float
    seconds: float
    runs: int
    tokens: int
    """Tokens of all runs."""


def measure_energy(counter: Counter, work: Callable[[], int]) -> Spent:
    """Run `work`, which returns how many tokens it made, over and over for some seconds."""
    tokens = runs = 0
    before, began = counter.joules(), time.perf_counter()
    while True:
        tokens += work()
        runs += 1
        if (seconds := time.perf_counter() - began) >= _LEAST:
            return Spent(counter.joules() - before, seconds, runs, tokens)


def _rapl(folder: Path) -> Counter:
    zones = [_Zone(zone) for zone in sorted(folder.glob("*-rapl:*")) if zone.name.count(":") == 1]
    if not zones:
        raise NoCounter(f"{folder} has no RAPL zone (a virtual machine, or a kernel without it)")
    for zone in zones:
        try:
            zone.joules()
        except PermissionError as error:
            raise NoCounter(f"only root may read {zone.file}") from error
        except (OSError, ValueError) as error:
            raise NoCounter(f"{zone.file} cannot be read: {error}") from error
    return Counter("the CPU's packages, by RAPL", lambda: sum(zone.joules() for zone in zones))


class _Zone:
    """One package. Its counter begins anew at the end of its range."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "energy_uj"
        try:
            self._range = int((folder / "max_energy_range_uj").read_text())
        except (OSError, ValueError):
            self._range = 0
        self._last = self._turns = 0

    def joules(self) -> float:
        now = int(self.file.read_text())
        self._turns += now < self._last
        self._last = now
        return (now + self._turns * self._range) / 1e6


def _nvml(device: str) -> Counter:
    try:
        import pynvml  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise NoCounter(f"nvidia-ml-py is not installed: {install_hint('energy')}") from error
    import torch

    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(torch.device(device)).uuid
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError as error:
        raise NoCounter(f"NVML cannot read it: {error}") from error
    return Counter("the GPU's board, by NVML", lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3)
