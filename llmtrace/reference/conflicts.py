"""How LoRA adapters get in each other's way, read off their factors before anything is computed with them.

An adapter changes a weight matrix by a delta, `scale * B @ A`. Of two adapters' deltas, each with its weight:

- the cosine, exactly, from products of the factors as small as the ranks: 1 where they are the same but for their
  size, -1 where each takes back what the other does, 0 where they have nothing in common;
- how far they write to the same outputs and read the same inputs: the principal angles between the deltas' column
  spaces and between their row spaces; the overlap is the mean squared cosine of the angles (1: one space lies in the
  other), beside what random spaces of these sizes have;
- in how many weights the two have different signs, what share of all change lies there, and how much of it cancels
  (1 - sum|x + y| / sum(|x| + |y|)). These need the deltas' values: all of them up to `EXACT` per matrix, else a block
  of rows and columns drawn at random, so that no large delta is ever held.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["EXACT", "Conflict", "Factors", "Group", "Matrix", "Pair", "compare", "compare_all"]

EXACT = 1 << 18
"""The most values of one matrix's delta that are all looked at."""
_LEAST = 1e-7
"""Singular values below this share of the largest one count as none."""
_GROUPS = 8
"""The most groups of layers."""


@dataclass(frozen=True)
class Factors:
    """One adapter's change of one weight matrix: `scale * b @ a`."""

    a: Any
    """`[rank, inputs]`"""
    b: Any
    """`[outputs, rank]`"""
    scale: float


@dataclass(frozen=True)
class Matrix:
    """Two adapters' deltas of one matrix. Sums over it can be added up with those of others."""

    module: str
    product: float
    """The sum of the products of the two deltas' values."""
    squares: tuple[float, float]
    """The sum of the squares of each one's values."""
    ranks: tuple[int, int]
    outputs: Sequence[float]
    """The principal angles between their column spaces, in degrees, the smallest first."""
    inputs: Sequence[float]
    """The principal angles between their row spaces."""
    chance: tuple[float, float]
    """The overlap of random spaces of these ranks, of outputs and of inputs."""
    compared: float
    """Values that are 0 in neither."""
    differing: float
    """Those of them that differ in sign."""
    change: float
    """The sum of both deltas' magnitudes."""
    differing_change: float
    """The part of that sum where signs differ."""
    cancelled: float
    """The part of that sum that is lost when the two are added."""
    exact: bool
    """Whether the last five are of all values, not of a sample."""


@dataclass(frozen=True)
class Group:
    """Two adapters' deltas in some matrices, taken together."""

    name: str
    matrices: int
    cosine: float
    signs: float
    """The share of weights that the two change in different directions."""
    signs_by_change: float
    """The share of all change that lies in these weights."""
    cancelled: float
    """The share of all change that is lost when the two are added."""
    outputs: float
    """The overlap of the outputs that they write to: 1 where one's lie within the other's."""
    inputs: float
    """The overlap of the inputs that they read."""
    chance: tuple[float, float]
    """Both overlaps, of random adapters of these ranks."""
    angles: tuple[float, float]
    """The smallest principal angle between their outputs, and between their inputs, degrees."""
    exact: bool

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "matrices": self.matrices,
            "cosine": self.cosine,
            "signs_differ": self.signs,
            "signs_differ_by_change": self.signs_by_change,
            "cancelled": self.cancelled,
            "overlap_outputs": self.outputs,
            "overlap_inputs": self.inputs,
            "overlap_by_chance": {"outputs": self.chance[0], "inputs": self.chance[1]},
            "smallest_angle_degrees": {"outputs": self.angles[0], "inputs": self.angles[1]},
            "exact": self.exact,
        }


@dataclass(frozen=True)
class Pair:
    """How two adapters of a composition conflict."""

    first: str
    second: str
    whole: Group | None
    """All matrices that both change; None where there are none."""
    groups: Sequence[Group]
    """The same by groups of layers, attention and the rest apart."""
    matrices: Sequence[Matrix]
    only: tuple[int, int]
    """How many matrices only the first changes, and only the second."""
    sizes: tuple[float, float]
    """The norm of each one's whole change."""

    @property
    def is_conflict(self) -> bool:
        """Whether the two clearly pull against each other."""
        return self.whole is not None and self.whole.cosine <= -_CLEAR

    def as_json(self) -> dict[str, Any]:
        """All but the single matrices."""
        return {
            "adapters": [self.first, self.second],
            "norms": list(self.sizes),
            "matrices_of_one_only": list(self.only),
            "whole": None if self.whole is None else self.whole.as_json(),
            "groups": [group.as_json() for group in self.groups],
            "says": self.says(),
        }

    def matrices_as_json(self) -> list[dict[str, Any]]:
        """Every matrix that both change, with all principal angles."""
        return [
            {
                **_group(matrix.module, [matrix]).as_json(),
                "ranks": list(matrix.ranks),
                "angles_degrees": {"outputs": _rounded(matrix.outputs), "inputs": _rounded(matrix.inputs)},
            }
            for matrix in self.matrices
        ]

    def says(self) -> str:
        """In one sentence, what this means for running both."""
        whole = self.whole
        pair = f"{self.first} and {self.second}"
        if whole is None:
            return f"{pair} change different matrices: no weight is touched by both."
        if self.is_conflict:
            return (
                f"{pair} pull against each other (cosine {whole.cosine:.2f}): signs differ in {whole.signs:.0%} of the "
                f"weights, and {whole.cancelled:.0%} of what they change cancels.{self._worst(whole)}"
            )
        if whole.cosine >= _CLEAR:
            products = sum(matrix.product for matrix in self.matrices)
            together = math.sqrt(max(0.0, sum(size**2 for size in self.sizes) + 2 * products))
            further = f"{together / max(self.sizes):.1f} times as far as the larger one alone"
            return (
                f"{pair} pull the same way (cosine {whole.cosine:.2f}, signs differ in {whole.signs:.0%} of the "
                f"weights): together they go {further}.{self._worst(whole)}"
            )
        for value, chance, what in (
            (whole.inputs, whole.chance[1], "read the same inputs"),
            (whole.outputs, whole.chance[0], "write to the same outputs"),
        ):
            if value >= chance + _CLEAR:
                return (
                    f"{pair} neither agree nor disagree (cosine {whole.cosine:.2f}), but {what} (overlap {value:.0%}, "
                    f"by chance {chance:.0%}): where one works, the other is felt too.{self._worst(whole)}"
                )
        return (
            f"{pair} keep out of each other's way (cosine {whole.cosine:.2f}; signs differ in {whole.signs:.0%} of the "
            f"weights, as by chance).{self._worst(whole)}"
        )

    def _worst(self, whole: Group) -> str:
        """The group that pulls apart most, where it does so clearly more than the whole."""
        worst = min(self.groups, key=lambda group: group.cosine, default=None)
        if worst is None or worst.cosine > -_CLEAR or worst.cosine > whole.cosine - _CLEAR:
            return ""
        how = "They do so most" if self.is_conflict else "But they pull against each other"
        return f" {how} in {worst.name} (cosine {worst.cosine:.2f})."


@dataclass(frozen=True)
class Conflict:
    """How the adapters of a composition conflict, pair by pair."""

    pairs: Sequence[Pair]
    check_ns: int = 0
    """What the request waited for it, ns; 0 where it was known."""

    @property
    def worst(self) -> Group | None:
        """The whole of the two that pull apart most; None where no two change the same matrix."""
        wholes = [pair.whole for pair in self.pairs if pair.whole is not None]
        return min(wholes, key=lambda whole: whole.cosine, default=None)

    def as_json(self) -> list[dict[str, Any]]:
        return [pair.as_json() for pair in self.pairs]


_CLEAR = 0.2
"""How far from 0, or from chance, a figure must be to count as clear."""


def compare_all(adapters: Sequence[tuple[str, float, Mapping[str, Factors]]], *, exact: int = EXACT) -> list[Pair]:
    """Every two of these adapters: each one's name, its weight in the composition, and its factors by module."""
    pairs: list[Pair] = []
    for (first, one, ours), (second, other, theirs) in itertools.combinations(adapters, 2):
        matrices = [
            compare(module, ours[module], theirs[module], (one, other), exact=exact, seed=number)
            for number, module in enumerate(ours)
            if module in theirs
        ]
        matrices = [matrix for matrix in matrices if min(matrix.ranks)]
        sizes = tuple(
            math.sqrt(sum(_square(each) for each in factors.values())) * abs(weight)
            for weight, factors in ((one, ours), (other, theirs))
        )
        only = len(ours.keys() - theirs.keys()), len(theirs.keys() - ours.keys())
        whole = _group("all", matrices) if matrices else None
        pairs.append(Pair(first, second, whole, _grouped(matrices), matrices, only, (sizes[0], sizes[1])))
    return pairs


def compare(
    module: str, first: Factors, second: Factors, weights: tuple[float, float], *, exact: int = EXACT, seed: int = 0
) -> Matrix:
    """Two adapters' deltas of one matrix; `seed` draws the sample where the matrix has more than `exact` values."""
    import torch

    with torch.no_grad():
        a1, b1, a2, b2 = (_double(factor) for factor in (first.a, first.b, second.a, second.b))
        s1, s2 = first.scale * weights[0], second.scale * weights[1]
        product = s1 * s2 * float(((b1.T @ b2) * (a1 @ a2.T)).sum())
        left, right = _spaces(a1, b1), _spaces(a2, b2)
        outputs, inputs = (_angles(ours, theirs) for ours, theirs in zip(left, right, strict=True))
        ranks = left[0].shape[1], right[0].shape[1]
        chance = tuple(max(ranks) / max(1, space.shape[0]) for space in left)
        rows, columns, share = _block(b1.shape[0], a1.shape[1], exact, seed)
        x = s1 * (b1[rows] @ a1[:, columns])
        y = s2 * (b2[rows] @ a2[:, columns])
        differ = torch.sign(x) * torch.sign(y) < 0
        change = x.abs() + y.abs()
        total = float(change.sum())
        return Matrix(
            module=module,
            product=product,
            squares=(_square(first) * weights[0] ** 2, _square(second) * weights[1] ** 2),
            ranks=ranks,
            outputs=outputs,
            inputs=inputs,
            chance=(chance[0], chance[1]),
            compared=float(((x != 0) & (y != 0)).sum()) / share,
            differing=float(differ.sum()) / share,
            change=total / share,
            differing_change=float(change[differ].sum()) / share,
            cancelled=max(0.0, total - float((x + y).abs().sum())) / share,
            exact=share == 1,
        )


def _double(tensor: Any) -> Any:
    import torch

    return tensor.detach().to("cpu", torch.float64)


def _square(factors: Factors) -> float:
    """The sum of the squares of a delta's values."""
    a, b = _double(factors.a), _double(factors.b)
    return max(0.0, factors.scale**2 * float(((b.T @ b) * (a @ a.T)).sum()))


def _spaces(a: Any, b: Any) -> tuple[Any, Any]:
    """Bases of the column space and of the row space of `b @ a`, as columns."""
    import torch

    qb, rb = torch.linalg.qr(b)
    qa, ra = torch.linalg.qr(a.T)
    u, values, vh = torch.linalg.svd(rb @ ra.T)
    kept = int((values > _LEAST * values.max()).sum()) if values.numel() and float(values.max()) > 0 else 0
    return qb @ u[:, :kept], qa @ vh[:kept].T


def _angles(ours: Any, theirs: Any) -> list[float]:
    """The principal angles between two spaces, in degrees, the smallest first."""
    import torch

    if not min(ours.shape[1], theirs.shape[1]):
        return []
    cosines = torch.linalg.svdvals(ours.T @ theirs).clamp(0.0, 1.0)
    return torch.rad2deg(torch.acos(cosines)).tolist()


def _block(rows: int, columns: int, exact: int, seed: int) -> tuple[Any, Any, float]:
    """The rows and columns to look at, and the share of all values that they are."""
    import torch

    if rows * columns <= exact:
        return slice(None), slice(None), 1.0
    generator = torch.Generator().manual_seed(seed)
    side = math.isqrt(exact)
    height = min(rows, max(side, exact // columns))
    width = min(columns, exact // height)
    chosen = [torch.randperm(size, generator=generator)[:some] for size, some in ((rows, height), (columns, width))]
    return chosen[0], chosen[1], height * width / (rows * columns)


def _group(name: str, matrices: Sequence[Matrix]) -> Group:
    least = sum(min(matrix.ranks) for matrix in matrices)
    first, second = (sum(matrix.squares[each] for matrix in matrices) for each in (0, 1))
    lengths = math.sqrt(first * second)
    change = sum(matrix.change for matrix in matrices)

    def overlap(angles: Iterable[Sequence[float]]) -> float:
        return sum(math.cos(math.radians(angle)) ** 2 for each in angles for angle in each) / least if least else 0.0

    def chance(at: int) -> float:
        return sum(matrix.chance[at] * min(matrix.ranks) for matrix in matrices) / least if least else 0.0

    return Group(
        name=name,
        matrices=len(matrices),
        cosine=_share(sum(matrix.product for matrix in matrices), lengths),
        signs=_share(sum(matrix.differing for matrix in matrices), sum(matrix.compared for matrix in matrices)),
        signs_by_change=_share(sum(matrix.differing_change for matrix in matrices), change),
        cancelled=_share(sum(matrix.cancelled for matrix in matrices), change),
        outputs=overlap(matrix.outputs for matrix in matrices),
        inputs=overlap(matrix.inputs for matrix in matrices),
        chance=(min(1.0, chance(0)), min(1.0, chance(1))),
        angles=(
            min((angle for matrix in matrices for angle in matrix.outputs), default=90.0),
            min((angle for matrix in matrices for angle in matrix.inputs), default=90.0),
        ),
        exact=all(matrix.exact for matrix in matrices),
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _rounded(angles: Sequence[float]) -> list[float]:
    return [round(angle, 2) for angle in angles]


_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|layer)\.(\d+)\.(.*)")
_ATTENTION = re.compile(r"attn|attention")


def _grouped(matrices: Sequence[Matrix]) -> list[Group]:
    """The matrices by layer, several layers together where there are many; attention apart from the rest."""
    places = [_LAYER.search(matrix.module) for matrix in matrices]
    layers = 1 + max((int(place[1]) for place in places if place), default=-1)
    each = max(1, -(-layers // _GROUPS))
    groups: dict[tuple[int, int, str], list[Matrix]] = {}
    for matrix, place in zip(matrices, places, strict=True):
        if place is None:
            key = (layers, 2, "outside the layers")
        else:
            low = int(place[1]) // each * each
            high = min(layers, low + each) - 1
            span = f"layer {low}" if low == high else f"layers {low}-{high}"
            kind = 0 if _ATTENTION.search(place[2]) else 1
            key = (low, kind, f"{span}, {('attention', 'mlp')[kind]}")
        groups.setdefault(key, []).append(matrix)
    return [_group(name, members) for (_, _, name), members in sorted(groups.items(), key=lambda item: item[0][:2])]
