"""How the next token is chosen: the parameters of a request, and the draw on the device for all rows of a step.

A draw is Gumbel's: noise is added to each token's logit, and the largest sum wins, which is a draw from the softmax.
The noise is a hash of the request's seed, the number of the token and the token's id; so an answer depends on its seed
alone, not on who shares the step, nor on whether it lost its place and came back.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Row", "Sampling", "draw", "new_seed"]

_GOLDEN = -7046029254386353131  # 2^64 / the golden ratio, as a signed number
_FIRST, _SECOND = -4658895280553007687, -7723592293110705685  # splitmix64's factors


@dataclass(frozen=True)
class Sampling:
    """The sampling parameters of a request. Temperature 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    """Same seed, same prompt, same output, on one device and dtype. None: another output each time."""


_LEAST = 1e-5
"""A temperature below it is greedy, and a top_p below it leaves the likeliest token: smaller numbers, as float32, are 0
or divide a logit to infinity, and then chance no longer decides."""


@dataclass(frozen=True, slots=True)
class Row:
    """The parameters of one row of a step."""

    temperature: float
    top_p: float
    seed: int
    """Any 64 bits."""
    number: int
    """The number of the token in its answer, from 0."""


def new_seed(sampling: Sampling, choice: int) -> int:
    """The seed of one choice: the request's, shifted so that n choices differ, or a random one."""
    return secrets.randbits(63) if sampling.seed is None else (sampling.seed + choice) % 2**64


def packed(rows: Sequence[Row]) -> Any:
    """The rows as int32 `[5, rows]` (the bits of temperature and top_p, two halves of the seed, the number)."""
    import torch

    floats = torch.tensor(
        [
            [0.0 if row.temperature < _LEAST else row.temperature for row in rows],
            [max(_LEAST, row.top_p) for row in rows],
        ],
        dtype=torch.float32,
    )
    wholes = torch.tensor(
        [
            [_signed(row.seed & 0xFFFFFFFF) for row in rows],
            [_signed(row.seed >> 32 & 0xFFFFFFFF) for row in rows],
            [row.number for row in rows],
        ],
        dtype=torch.int32,
    )
    return torch.cat([floats.view(torch.int32), wholes])


def draw(logits: Any, numbers: Any, *, nucleus: bool = True) -> Any:
    """Scores of which the largest is the draw, `[rows, vocabulary]`; of a row of temperature 0 its logits themselves.

    `numbers` is what `packed` makes. `nucleus=False` leaves top_p out, where all are 1. Nothing here looks at a value
    from the host, so that it can be captured in a graph.
    """
    import torch

    rows = logits.shape[0]
    temperatures = numbers[0, :rows].view(torch.float32)[:, None]
    sampled = temperatures > 0
    scores = logits / torch.where(sampled, temperatures, torch.ones_like(temperatures))
    if nucleus:
        chances, places = torch.softmax(scores, dim=-1).sort(dim=-1, descending=True)
        # Keep the likeliest tokens whose sum first reaches top_p: those with less than top_p before them.
        beyond = chances.cumsum(dim=-1) - chances >= numbers[1, :rows].view(torch.float32)[:, None]
        scores = scores.masked_fill(torch.empty_like(beyond).scatter_(-1, places, beyond), float("-inf"))
    scores = scores - (-_uniform(numbers[2:5, :rows], logits.shape[1]).log()).log()
    return torch.where(sampled, scores, logits)


def _uniform(numbers: Any, vocabulary: int) -> Any:
    """Numbers in (0, 1), float32 `[rows, vocabulary]`, from seeds and token numbers, int32 `[3, rows]`."""
    import torch

    low, high, number = numbers.long()
    key = _mixed(_mixed((high << 32) ^ (low & 0xFFFFFFFF)) + number * _GOLDEN)
    bits = _mixed(key[:, None] + torch.arange(vocabulary, device=numbers.device)[None] * _GOLDEN)
    # 23 bits and a half are what a float32 holds: with more the largest would round to 1, whose noise is infinite.
    return (((bits >> 41) & 0x7FFFFF).float() + 0.5) / 2**23


def _mixed(numbers: Any) -> Any:
    """splitmix64's finish: every bit of the result depends on every bit of the number. int64, which wraps."""
    numbers = (numbers ^ ((numbers >> 30) & (2**34 - 1))) * _FIRST
    numbers = (numbers ^ ((numbers >> 27) & (2**37 - 1))) * _SECOND
    return numbers ^ ((numbers >> 31) & (2**33 - 1))


def _signed(bits: int) -> int:
    """32 bits as a signed number."""
    return bits - 2**32 if bits >= 2**31 else bits
