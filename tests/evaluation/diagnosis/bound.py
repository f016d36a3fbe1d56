"""What could be named at best of a real run's small effects: by a test that knows what no client can.

It is told which of a call's quantities the cause moves, by how much (the median of the episode's own calls), and, with
hindsight, how that quantity scatters in all of the session's calm calls. By these it adds up likelihood ratios (CUSUM,
the quickest of all such tests), and names a call where the sum is beyond whatever it was in the session's calm calls,
and beyond ln 1000. So what it misses lies within the machine's own noise, whatever the method.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from math import log
from typing import Any

import numpy as np
import numpy.typing as npt

from llmtrace.diagnosis.symptoms import Symptoms
from llmtrace.diagnosis.timings import FEW_TOKENS
from llmtrace.diagnosis.verdict import NETWORK, NOISY_NEIGHBOR, QUEUEING
from tests.evaluation.diagnosis.notebook import Played
from tests.evaluation.diagnosis.plan import NOTHING
from tests.evaluation.diagnosis.theory import FALSE_EVERY

Line = npt.NDArray[np.floating[Any]]
Row = tuple[list[float], float]
"""What a quantity grows with, and the quantity, s."""
_READY_S = 0.001
_WIDTH = 0.5
"""Of a kernel of the calm calls' density, by their scatter."""
_TINY_S = 1e-4
_FEW = 30


def at_best(run: Iterable[Played]) -> dict[tuple[int, int], bool]:
    """Session and number of each episode with a small effect: whether at least half of its calls could be named."""
    sessions: dict[int, list[Played]] = defaultdict(list)
    for played in run:
        sessions[played.session].append(played)
    made: dict[tuple[int, int], bool] = {}
    for session, episodes in sessions.items():
        for cause in (QUEUEING, NETWORK, NOISY_NEIGHBOR):
            small = [played for played in episodes if played.size and played.cause == cause]
            for played in small:
                made[session, played.episode] = _named(episodes, played)
    return made


def _named(episodes: Sequence[Played], played: Played) -> bool:
    cause = played.cause
    calm = [row for each in episodes for row in _rows(each, cause, faulty=False) if row is not None]
    faulty = _rows(played, cause, faulty=True)
    seen = [row for row in faulty if row is not None]
    if len(calm) < _FEW or not seen:
        return False
    usual = _fitted(calm)
    ratio = _ratio(np.array([_left(row, usual) for row in calm]), float(np.median([_left(row, usual) for row in seen])))
    most = log(FALSE_EVERY)
    for each in episodes:
        most = max([most, *_sums(_rows(each, cause, faulty=False), usual, ratio)])
    return 2 * sum(total > most for total in _sums(faulty, usual, ratio)) >= len(faulty)


def _rows(played: Played, cause: str, *, faulty: bool) -> list[Row | None]:
    return [_row(call.symptoms, cause) for call in played.calls if (call.faulty and played.cause != NOTHING) == faulty]


def _row(symptoms: Symptoms, cause: str) -> Row | None:
    """What shows the cause in one call; None where that was not seen of it."""
    if symptoms.whole:
        took = (symptoms.end - symptoms.begin) / 1e9
        return [1.0, float(symptoms.uncached or 0), float(symptoms.tokens)], took
    if cause == NOISY_NEIGHBOR:
        gap, mean = symptoms.gap, symptoms.mean_gap
        if symptoms.decode is None or symptoms.tokens < FEW_TOKENS or gap is None or not mean or gap < _READY_S:
            return None
        return [1.0], symptoms.decode / (symptoms.tokens - 1) * min(1.0, gap / mean)
    if not symptoms.wait or symptoms.headers is None:
        return None
    if cause == NETWORK:
        return [1.0], symptoms.headers
    return [1.0, float(symptoms.uncached or 0)], symptoms.wait - symptoms.headers


def _fitted(rows: Sequence[Row]) -> Line:
    """The line through most of the rows: least absolute errors."""
    drivers, values = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    weights = np.ones(len(rows))
    line: Line = np.zeros(drivers.shape[1])
    for _ in range(30):
        line = np.linalg.lstsq(drivers * weights[:, None], values * weights, rcond=None)[0]
        weights = 1 / np.sqrt(np.abs(values - drivers @ line) + _TINY_S)
    return line


def _left(row: Row, usual: Line) -> float:
    """What the line leaves of one row, s."""
    return row[1] - float(np.dot(row[0], usual))


def _ratio(calm: npt.NDArray[np.float64], effect: float) -> Callable[[float], float]:
    """The logarithm of how much likelier a value is with the ``effect`` than without."""
    scatter = max(_TINY_S, float(np.quantile(np.abs(calm), 0.68)))
    width = _WIDTH * scatter

    def density(value: float) -> float:
        return float(np.mean((1 + ((value - calm) / width) ** 2) ** -1.5) / width) + 1e-6 / scatter

    return lambda value: log(density(value - effect) / density(value)) if effect > 0 else 0.0


def _sums(rows: Sequence[Row | None], usual: Line, ratio: Callable[[float], float]) -> list[float]:
    """The evidence after each call."""
    total, made = 0.0, list[float]()
    for row in rows:
        if row is not None:
            total = max(0.0, total + ratio(_left(row, usual)))
        made.append(total)
    return made
