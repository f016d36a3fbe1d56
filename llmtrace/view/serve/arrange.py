"""The spans of a trace in the order of a waterfall, depth first, for traces of any size and in any state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Arranged:
    """The place of each span in the waterfall. Positions are indexes into the arrays that were given."""

    order: list[int]
    depth: list[int]
    """The depth of each position; 0 at the top."""
    descendants: list[int]
    """The number of spans below each position; they follow it in the order."""
    orphan: list[bool]
    """For each position, whether its parent is missing."""


def arrange(span_ids: Any, parent_ids: Any, has_parent: Any, starts: Any, ends: Any) -> Arranged:
    """``view.tree``'s order over numpy arrays: siblings by start, the longer one first, marks without length before it.

    Rings of parents are cut open at their earliest span.
    """
    count = len(span_ids)
    lengths = ends - starts
    rank = np.lexsort((span_ids, np.where(lengths > 0, -lengths, np.iinfo(np.int64).min), starts)).tolist()
    position_of = {span: at for at, span in enumerate(span_ids.tolist())}
    parents = [
        position_of.get(parent, -1) if has_one else None
        for parent, has_one in zip(parent_ids.tolist(), has_parent.tolist(), strict=True)
    ]
    children: list[list[int]] = [[] for _ in range(count)]
    roots: list[int] = []
    for at in rank:
        parent = parents[at]
        if parent is None or parent < 0:
            roots.append(at)
        else:
            children[parent].append(at)
    placed = bytearray(count)
    order: list[int] = []
    depth = [0] * count

    def walk(root: int) -> None:
        stack = [root]
        while stack:
            at = stack.pop()
            if placed[at]:
                continue
            placed[at] = 1
            order.append(at)
            for child in reversed(children[at]):
                if not placed[child]:
                    depth[child] = depth[at] + 1
                    stack.append(child)

    for root in roots:
        walk(root)
    if len(order) < count:
        position = {at: number for number, at in enumerate(rank)}
        for start in rank:
            if not placed[start]:
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
    """The ring of parents that ``start`` leads into."""
    position_on_path: dict[int, int] = {}
    path: list[int] = []
    at = start
    while at not in position_on_path:
        position_on_path[at] = len(path)
        path.append(at)
        above = parents[at]
        assert above is not None  # a span that leads to no ring has been walked
        at = above
    return path[position_on_path[at] :]
