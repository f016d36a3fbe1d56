"""The spans of a trace in the order of a waterfall, depth first, for traces of any size and in any state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Arranged:
    """Where each span goes. Positions are those of the arrays that were given."""

    order: list[int]
    depth: list[int]
    """Of each position; 0 for what stands at the top."""
    descendants: list[int]
    """Of each position: spans below it. They follow it in the order."""
    orphan: list[bool]
    """Whether its parent is named and not here."""


def arrange(span_ids: Any, parent_ids: Any, has_parent: Any, starts: Any, ends: Any) -> Arranged:
    """``view.tree``'s order over numpy arrays: siblings by start, the longer one first, marks without length before it.

    Rings of parents are cut open at their earliest span.
    """
    count = len(span_ids)
    lengths = ends - starts
    rank = np.lexsort((span_ids, np.where(lengths > 0, -lengths, np.iinfo(np.int64).min), starts)).tolist()
    place = {span: at for at, span in enumerate(span_ids.tolist())}
    parents = [
        place.get(parent, -1) if known else None
        for parent, known in zip(parent_ids.tolist(), has_parent.tolist(), strict=True)
    ]
    children: list[list[int]] = [[] for _ in range(count)]
    roots: list[int] = []
    for at in rank:
        parent = parents[at]
        if parent is None or parent < 0:
            roots.append(at)
        else:
            children[parent].append(at)
    seen = bytearray(count)
    order: list[int] = []
    depth = [0] * count

    def walk(root: int) -> None:
        stack = [root]
        while stack:
            at = stack.pop()
            if seen[at]:
                continue
            seen[at] = 1
            order.append(at)
            for child in reversed(children[at]):
                if not seen[child]:
                    depth[child] = depth[at] + 1
                    stack.append(child)

    for root in roots:
        walk(root)
    if len(order) < count:
        position = {at: number for number, at in enumerate(rank)}
        for start in rank:
            if not seen[start]:
                root = min(_ring(start, parents), key=position.__getitem__)
                depth[root] = 0
                walk(root)
    below = [0] * count
    for at in reversed(order):
        parent = parents[at]
        if depth[at] and parent is not None:
            below[parent] += below[at] + 1
    return Arranged(order, depth, below, [parent == -1 for parent in parents])


def _ring(start: int, parents: list[int | None]) -> list[int]:
    """The ring that ``start`` hangs on."""
    met: dict[int, int] = {}
    path: list[int] = []
    at = start
    while at not in met:
        met[at] = len(path)
        path.append(at)
        above = parents[at]
        assert above is not None  # what hangs on no ring has been walked
        at = above
    return path[met[at] :]
