"""Builds trees of spans, one for each trace, whatever the state of the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from llmtrace.analyze.otlp import Span
from llmtrace.view import text


@dataclass(slots=True)
class Node:
    """A span with its children, by start time, and its parent."""

    span: Span
    children: list[Node] = field(default_factory=list["Node"])
    parent: Node | None = field(default=None, repr=False, compare=False)


@dataclass(slots=True)
class Trace:
    """All spans that share a trace id. More than one root where the file holds only a part of the trace."""

    trace_id: str
    roots: list[Node]
    spans: int = 0
    orphans: int = 0
    """Spans whose parent is not in the file: shown as roots."""
    duplicates: int = 0
    """Spans whose id came before: dropped where they say the same again, else kept beside the first."""
    cycles: int = 0
    """Rings of parents that had to be cut open."""

    @property
    def start_ns(self) -> int:
        """When the first span started."""
        return min(node.span.start_ns for node, _ in walk(self.roots))

    @property
    def end_ns(self) -> int:
        """When the last span ended."""
        return max(max(node.span.end_ns, node.span.start_ns) for node, _ in walk(self.roots))


def build(spans: Iterable[Span]) -> list[Trace]:
    """The traces, by start time."""
    by_trace: dict[str, list[Span]] = {}
    for span in spans:
        by_trace.setdefault(span.trace_id, []).append(span)
    traces = [_trace(trace_id, members) for trace_id, members in by_trace.items()]
    return sorted(traces, key=lambda trace: trace.start_ns)


def walk(roots: Iterable[Node]) -> Iterator[tuple[Node, tuple[bool, ...]]]:
    """Yields the nodes depth first, each with a flag for every level below its root: whether the branch is the last."""
    stack: list[tuple[Node, tuple[bool, ...]]] = [(root, ()) for root in reversed(list(roots))]
    while stack:
        node, lasts = stack.pop()
        yield node, lasts
        count = len(node.children)
        stack.extend((node.children[at], (*lasts, at == count - 1)) for at in range(count - 1, -1, -1))


def oddities(trace: Trace) -> Iterator[str]:
    """Sentences on the faults of a trace and on how they are shown."""
    if trace.orphans and len(trace.roots) > 1:
        yield f"{text.plural(trace.orphans, 'span')} whose parent is not in the file, shown at the top level"
    if trace.duplicates:
        yield f"{text.plural(trace.duplicates, 'span id')} occurring more than once"
    if trace.cycles:
        yield f"{text.plural(trace.cycles, 'ring')} of spans that are each other's parents, cut open"


def _order(node: Node) -> tuple[int, int, str]:
    # Of spans that begin together the longer one holds the other, but a span without length comes first: it is a mark.
    length = node.span.end_ns - node.span.start_ns
    return (node.span.start_ns, -length if length else -(1 << 63), node.span.span_id)


def _trace(trace_id: str, spans: list[Span]) -> Trace:
    trace = Trace(trace_id, [])
    first: dict[str, Node] = {}
    nodes: list[Node] = []
    spans_by_id: dict[str, list[Span]] = {}
    for span in spans:
        before = spans_by_id.setdefault(span.span_id, [])
        if before:
            trace.duplicates += 1
            if span in before:
                continue
        before.append(span)
        node = Node(span)
        nodes.append(node)
        first.setdefault(span.span_id, node)
    trace.spans = len(nodes)
    for node in nodes:
        parent_id = node.span.parent_id
        if parent_id is None:
            trace.roots.append(node)
        elif parent_id not in first:
            trace.orphans += 1
            trace.roots.append(node)
        elif first[parent_id] is not node:
            node.parent = first[parent_id]
            first[parent_id].children.append(node)
    _cut_rings(trace, nodes, first)
    for node in nodes:
        node.children.sort(key=_order)
    trace.roots.sort(key=_order)
    return trace


def _cut_rings(trace: Trace, nodes: list[Node], first: dict[str, Node]) -> None:
    """Cut open the rings of parents, which no root reaches: the earliest span of each becomes a root."""
    reached: set[int] = set()
    _reach(trace.roots, reached)
    for start in sorted(nodes, key=_order):
        if id(start) in reached:
            continue
        on_path: dict[int, Node] = {}
        node = start
        while id(node) not in on_path:
            on_path[id(node)] = node
            node = first[node.span.parent_id or ""]
        ring = [node]
        step = first[node.span.parent_id or ""]
        while step is not node:
            ring.append(step)
            step = first[step.span.parent_id or ""]
        root = min(ring, key=_order)
        parent = first[root.span.parent_id or ""]
        parent.children = [child for child in parent.children if child is not root]
        root.parent = None
        trace.cycles += 1
        trace.roots.append(root)
        _reach([root], reached)


def _reach(roots: Iterable[Node], reached: set[int]) -> None:
    stack = list(roots)
    while stack:
        node = stack.pop()
        if id(node) not in reached:
            reached.add(id(node))
            stack.extend(node.children)
