"""From logits to the next token, on the device that computed them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Sampler", "Sampling"]


@dataclass(frozen=True)
class Sampling:
    """The sampling parameters of a request. Temperature 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    """Same seed, same prompt, same output, on one device and dtype. None: another output each time."""


class Sampler:
    """Draws the tokens of one choice; `choice` shifts the seed, so that n choices differ."""

    def __init__(self, sampling: Sampling, device: str, choice: int = 0) -> None:
        import torch

        self._torch: Any = torch
        self._sampling = sampling
        self._generator: Any = None
        if sampling.temperature > 0 and sampling.seed is not None:
            self._generator = torch.Generator(device=device)
            self._generator.manual_seed((sampling.seed + choice) % 2**63)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken: then rows of several requests can be chosen from at once."""
        return self._sampling.temperature <= 0

    def next(self, logits: Any) -> Any:
        """The next token as a tensor `[1, 1]` on the device, from logits `[1, vocabulary]`."""
        torch = self._torch
        sampling = self._sampling
        if sampling.temperature <= 0:
            return logits.argmax(dim=-1, keepdim=True)
        chances = torch.softmax(logits.float() / sampling.temperature, dim=-1)
        if sampling.top_p >= 1.0:
            return torch.multinomial(chances, 1, generator=self._generator)
        ordered, places = chances.sort(dim=-1, descending=True)
        # Keep the likeliest tokens whose sum first reaches top_p: those with less than top_p before them.
        ordered = ordered.masked_fill(ordered.cumsum(dim=-1) - ordered >= sampling.top_p, 0.0)
        return places.gather(-1, torch.multinomial(ordered, 1, generator=self._generator))
