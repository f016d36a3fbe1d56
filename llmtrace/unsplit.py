"""What keeps the calls of each route from being told apart: by a file of spans, or by a saved baseline."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

RECENT = 50
"""So many of a route's last calls say how it stands now; those before them may have been its first."""


@dataclass(slots=True)
class RouteState:
    """One route: how many of its calls were told apart, and why the others were not."""

    name: str
    calls: int = 0
    merged: int = 0
    """Calls with a phase that stands for several."""
    lately: int = 0
    """Those among the last ``RECENT``."""
    reasons: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """Of the last ``RECENT`` calls: how many, and why in a sentence with the last one's figures; commonest first."""


def of_traces(path: Path) -> list[RouteState]:
    """The routes in a file of spans (OTLP/JSON), the busiest first.

    Raises:
        TraceFileError: it cannot be read, or holds no spans.
    """
    from llmtrace.view import calls
    from llmtrace.view.selection import select

    routes: dict[str, list[tuple[str, str | None]]] = {}
    for trace in select(path).traces:
        for call in calls.calls(trace.roots):
            if not calls.phases(call):
                continue
            facts = calls.facts(call)
            name = f"{facts.provider or '?'} {facts.model or '?'}" + (f" @ {facts.server}" if facts.server else "")
            kind = calls.merged_reasons(call)
            routes.setdefault(name, []).append((kind, facts.merged if kind else None))
    return sorted((_state(name, made) for name, made in routes.items()), key=lambda state: -state.calls)


def _state(name: str, made: list[tuple[str, str | None]]) -> RouteState:
    """``made``: of each call its reasons as a word (empty: none) and as a sentence, oldest first."""
    recent = made[-RECENT:]
    counts = Counter(kind for kind, _ in recent if kind)
    last = {kind: sentence for kind, sentence in recent if kind}
    return RouteState(
        name,
        len(made),
        sum(1 for kind, _ in made if kind),
        sum(counts.values()),
        [(number, last[kind] or kind) for kind, number in counts.most_common()],
    )


def of_baseline(path: Path, min_calls: int, min_spread: float) -> list[tuple[str, str | None]]:
    """The routes in a saved baseline, by name, and what keeps their calls merged; None: nothing does."""
    from llmtrace.analyze import contract
    from llmtrace.estimate.standing import standing

    found: list[tuple[str, str | None]] = []
    for key, why in standing(path, min_calls, min_spread):
        provider, host, port, model = (*key, None, None, None, None)[:4]
        where = f" @ {host}" + (f":{port}" if port else "") if host else ""
        sentence = None if why is None else contract.because(why.reason, why.detail)
        found.append((f"{provider or '?'} {model or '?'}{where}", sentence))
    return found
