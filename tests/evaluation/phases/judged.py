"""The calls of one cell beside every method's claims for them."""

from __future__ import annotations

from collections.abc import Sequence

from tests.evaluation.common.quantiles import mean, quantile
from tests.evaluation.phases.cells import TRAFFIC, Cell
from tests.evaluation.phases.measured import Claim, Measured
from tests.evaluation.phases.methods import LLMTRACE, split_all
from tests.evaluation.phases.scoring import Pairs

_FEWEST = 10


class Judged:
    """One cell: its calls, and what each method says of them."""

    def __init__(self, cell: Cell, calls: Sequence[Measured]) -> None:
        self.cell = cell
        self.calls = sorted((call for call in calls if call.cell == cell.key), key=lambda call: call.began)
        self.warm = [call for call in self.calls if call.warm]
        enough = len(self.calls) >= _FEWEST and bool(self.warm)
        self._claims: dict[str, list[Claim]] = split_all(self.calls, cell.admitted) if enough else {}

    @property
    def methods(self) -> list[str]:
        """llmtrace first."""
        return list(self._claims)

    def pairs(self, method: str = LLMTRACE) -> Pairs:
        """The calls that count, with ``method``'s claims."""
        claims = self._claims.get(method, [])
        return [(call, claim) for call, claim in zip(self.calls, claims, strict=False) if call.warm]

    def scale(self) -> float:
        """Mean time to first token, of whole answers the mean total, s."""
        return mean(call.scale for call in self.warm)

    def per_token(self) -> float:
        """Median true seconds of a token after the first."""
        return quantile(
            (call.truth.decode / (call.output - 1) for call in self.warm if call.truth.decode and call.output > 1), 0.5
        )


def judge(cells: Sequence[Cell], calls: Sequence[Measured]) -> list[Judged]:
    """Every cell that has calls which count, by engine, kind of traffic and load: they ran in a drawn order."""
    engines = list(dict.fromkeys((cell.source, cell.engine, cell.slots) for cell in cells))
    kinds = list(TRAFFIC)

    def place(cell: Cell) -> tuple[int, int, float]:
        return engines.index((cell.source, cell.engine, cell.slots)), kinds.index(cell.traffic), cell.load

    made = (Judged(cell, calls) for cell in sorted(cells, key=place))
    return [judged for judged in made if judged.warm and judged.methods]
