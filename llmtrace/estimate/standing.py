"""How the routes of a saved baseline stand: whether their next calls can be split, or what is missing."""

from __future__ import annotations

from pathlib import Path

from llmtrace.estimate import store
from llmtrace.estimate.baselines import Baselines
from llmtrace.estimate.prefixes import COUNTS
from llmtrace.estimate.route import Route
from llmtrace.estimate.rows import COLUMNS
from llmtrace.phases.merged import NOT_FITTED, few_calls, narrow_spread
from llmtrace.phases.model import Unknown


def standing(path: Path, min_calls: int, min_spread: float) -> list[tuple[store.Key, Unknown | None]]:
    """Each route in the file, by its key, and why its calls stay merged; None where they are split.

    ``min_calls``, ``min_spread``: the settings. Takes a few ms for each route: they are fitted here.
    """
    baselines = Baselines(min_calls, min_spread, background=False, path=path)
    known = [(key, baselines.route(key)) for key in store.load(path, COLUMNS, COUNTS)]
    return [(key, missing(route, min_calls, min_spread)) for key, route in known if route is not None]


def missing(route: Route, min_calls: int, min_spread: float) -> Unknown | None:
    """What a route lacks for its calls to be split; None: nothing."""
    if route.points < min_calls:
        return few_calls(route.points, min_calls)
    if route.curve is not None:
        return None
    return narrow_spread(route.spread, min_spread) if route.spread < min_spread else NOT_FITTED
