"""Selects the traces of a file to look at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from llmtrace.analyze import engine_spans, otlp
from llmtrace.view import text, tree


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen traces of a file, and what was left out."""

    traces: tuple[tree.Trace, ...]
    earlier: int
    """Traces left out by the limit."""
    problems: tuple[otlp.Problem, ...]
    odd: int = 0
    """Values that cannot be, and count as not known."""

    @property
    def spans(self) -> list[otlp.Span]:
        """Every span of the chosen traces."""
        return [node.span for trace in self.traces for node, _ in tree.walk(trace.roots)]

    def notes(self) -> Iterator[str]:
        """Sentences on what was left out."""
        if self.earlier:
            yield f"{text.plural(self.earlier, 'earlier trace')} not shown"
        if self.odd:
            from llmtrace.analyze import plausible

            yield plausible.note(self.odd)
        if self.problems:
            yield f"skipped {text.plural(len(self.problems), 'broken part')} of the file; everything else is shown:"
        for problem in self.problems[:10]:
            yield f"  line {problem.line}: {text.clean(problem.reason)}"
        if len(self.problems) > 10:
            yield f"  and {len(self.problems) - 10} more"


def select(
    path: str | os.PathLike[str], *, trace: str | None = None, limit: int | None = None, strict: bool = False
) -> Selection:
    """Read a file and select its traces: those whose id begins with ``trace``, of these the last ``limit``."""
    file = otlp.read(path, strict=strict)
    traces = tree.build(engine_spans.expanded(file.spans))
    if trace is not None:
        prefix = trace.lower().removeprefix("0x")
        matching = [one for one in traces if one.trace_id.startswith(prefix)]
        if not matching:
            have = text.plural(len(traces), "trace")
            raise otlp.TraceFileError(
                file.path, f"none of its {have} has an id beginning with {text.clean(trace, 40)!r}"
            )
        traces = matching
    earlier = 0 if limit is None else max(0, len(traces) - limit)
    return Selection(tuple(traces[earlier:]), earlier, file.problems, file.odd)
