"""The measured calls as tables of text, and the plots' numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tests.evaluation.common.bars import Bar
from tests.evaluation.common.quantiles import quantile
from tests.evaluation.common.tables import Table
from tests.evaluation.phases import figures
from tests.evaluation.phases.bars import of_engine
from tests.evaluation.phases.figures import PHASES, Pairs
from tests.evaluation.phases.measured import PLACE, Claim, Measured
from tests.evaluation.phases.methods import LLMTRACE, split_all

SPECIAL = ("one length", "standing queue")
"""Cells on routes of their own, that cannot be split."""


class Run:
    """One engine with one number of slots: its calls, and every method's claims for them."""

    def __init__(self, facts: dict[str, Any], calls: Sequence[Measured]) -> None:
        self.facts = facts
        self.title = f"{facts['title']}, {facts['slots']}"
        self.has_queue: bool = facts["has_queue"]
        prefix = f"{facts['engine']}{PLACE}{facts['slots']}{PLACE}"
        mine = [call for call in calls if call.cell.startswith(prefix)]
        self.special = {name: [call for call in mine if call.cell == prefix + name and call.warm] for name in SPECIAL}
        self.calls = sorted((c for c in mine if c.cell[len(prefix) :] not in SPECIAL), key=lambda c: c.began)
        self.warm = [call for call in self.calls if call.warm]
        self._claims = split_all(self.calls, facts["admitted"]) if len(self.calls) >= 10 else {}
        self.cells = sorted(dict.fromkeys(call.cell[len(prefix) :] for call in self.warm), key=_order)
        self._prefix = prefix

    def pairs(self, method: str, cell: str | None = None) -> Pairs:
        """Warm calls with ``method``'s claims, of one cell or of all."""
        claims: Sequence[Claim] = self._claims.get(method, [])
        wanted = None if cell is None else self._prefix + cell
        return [
            (call, claim)
            for call, claim in zip(self.calls, claims, strict=False)
            if call.warm and (wanted is None or call.cell == wanted)
        ]

    def per_token(self) -> float:
        """Median true seconds of a token after the first."""
        return quantile(
            (call.truth.decode / (call.output - 1) for call in self.warm if call.truth.decode and call.output > 1), 0.5
        )

    @property
    def methods(self) -> list[str]:
        """llmtrace first."""
        return list(self._claims)

    def bars(self) -> list[Bar]:
        """The figures beside their limits."""
        by_load: dict[float, dict[str, Pairs]] = {}
        for cell in self.cells:
            methods = by_load.setdefault(load_of(cell), {})
            for method in self.methods:
                methods[method] = [*methods.get(method, []), *self.pairs(method, cell)]
        return of_engine(self.title, by_load, has_queue=self.has_queue) if by_load else []

    # --- tables ---------------------------------------------------------------------------------------------------
    def errors(self) -> Table:
        """llmtrace's errors, a row per load and phase."""
        head = ["load", "phase", "calls", "truth, mean", "bias", "error, median", "p90", "of TTFT, median", "p90"]
        head += ["mean error / mean TTFT"]
        rows: list[list[str]] = []
        for cell in [*self.cells, None]:
            for phase in PHASES:
                found = figures.errors(self.pairs(LLMTRACE, cell), phase)
                if found is None:
                    continue
                rows.append(
                    [
                        cell or "all",
                        phase,
                        str(found.calls),
                        *(ms(value) for value in (found.truth, found.bias, found.median, found.p90)),
                        *(share(value) for value in (found.median_share, found.p90_share, found.mean_share)),
                    ]
                )
        return Table("Errors of llmtrace, blind (times in ms)", head, rows)

    def against(self) -> Table:
        """Every method on the same calls: queue / prefill."""
        head = ["load", "calls", "TTFT, median", *self.methods]
        rows: list[list[str]] = []
        for cell in [*self.cells, None]:
            pairs = self.pairs(LLMTRACE, cell)
            row = [cell or "all", str(len(pairs)), ms(quantile((call.first for call, _ in pairs), 0.5))]
            for method in self.methods:
                both = [figures.errors(self.pairs(method, cell), phase) for phase in ("queue", "prefill")]
                row.append(" / ".join(share(found.mean_share) if found else "-" for found in both))
            rows.append(row)
        return Table("Mean |error| over mean TTFT of each method, queue / prefill", head, rows)

    def more(self) -> Table:
        """Queued calls, false queues, intervals, refusals, and the rest that nobody reports."""
        head = ["load", "queued calls", "median relative error", "queue said where none was", "queue interval covers"]
        head += ["width / TTFT", "prefill interval covers", "width / TTFT", "not split", "rightly", "unexplained rest"]
        rows: list[list[str]] = []
        for cell in [*self.cells, None]:
            pairs, plain = self.pairs(LLMTRACE, cell), [claim for _, claim in self.pairs("envelope", cell)]
            queued, relative = figures.queued(pairs)
            calm, false = figures.false_queue(pairs)
            row = [cell or "all", str(queued), share(relative) if queued else "-", share(false) if calm else "-"]
            for phase in ("queue", "prefill"):
                inside = figures.coverage(pairs, phase)
                row += ["-", "-"] if inside is None else [share(inside.inside), share(inside.width)]
            refused = figures.refusals(pairs, plain)
            row += [share(refused.share), share(refused.right)]
            row.append(share(figures.rest([call for call, _ in pairs])[1]))
            rows.append(row)
        return Table("Queued calls, intervals, calls not split", head, rows)

    def without_evidence(self) -> list[list[str]]:
        """Rows: what was tried, calls, share not split, share of those split given as a lower bound."""
        rows: list[list[str]] = []
        for name, calls in self.special.items():
            if calls:
                pairs = [(call, call.claim) for call in calls]
                found = figures.refusals(pairs, [call.claim for call in calls])
                error = figures.errors(pairs, "queue")
                rows.append(
                    [
                        f"{self.title}: {name}",
                        str(len(calls)),
                        share(found.share),
                        share(found.bounds),
                        share(error.mean_share) if error else "-",
                    ]
                )
        return rows

    def waits(self) -> list[tuple[float, float]]:
        """(true, claimed) queue of each call that was split."""
        return [
            (call.truth.queue, claim.queue)
            for call, claim in self.pairs(LLMTRACE)
            if call.truth.queue is not None and claim.queue is not None
        ]


def audit(rows: Sequence[dict[str, Any]]) -> list[Table]:
    """Hits told from timing, and the provider's own time predicted."""
    head = ["provider", "condition", "caches", "AUC, one call", "accuracy, one call", "accuracy, three calls"]
    head += [
        "best threshold",
        "90 % interval",
        "verdicts given",
        "claimed, one call",
        "claimed, three calls",
        "fresh claimed",
    ]
    hits = [
        [
            row["provider"],
            row["condition"],
            "yes" if row["caching"] else "no",
            f"{row['auc']:.3f}",
            f"{row['single']:.3f}",
            f"{row['filtered']:.3f}",
            f"{row['best']:.3f}",
            f"{row['low']:.2f} to {row['high']:.2f}",
            *(share(row[key]) for key in ("told", "claimed", "claimed_filtered", "false_claims")),
        ]
        for row in sorted(rows, key=lambda row: (not row["caching"], row["provider"], -row["auc"]))
    ]
    told = [row for row in rows if row["server"]]
    server = [
        [
            row["provider"],
            row["condition"],
            ms(row["server"]["truth"]),
            ms(row["server"]["median"]),
            ms(row["server"]["p90"]),
            *(share(row["server"][key]) for key in ("history", "client's time", "least squares", "coverage")),
        ]
        for row in sorted(told, key=lambda row: (row["provider"], row["condition"]))
    ]
    return [
        Table("Cache hits told from timing", head, hits),
        Table(
            "The provider's own time, from the client's and earlier calls (ms; mean error over mean truth)",
            [
                "provider",
                "condition",
                "truth, mean",
                "error, median",
                "p90",
                "history",
                "client's time",
                "least squares",
                "interval covers",
            ],
            server,
        ),
    ]


def load_of(cell: str) -> float:
    """The load at the end of a cell's name."""
    return float(cell.rsplit(" ", 1)[-1])


def _order(cell: str) -> tuple[str, float]:
    return cell.rsplit(" ", 1)[0], load_of(cell)


def ms(seconds: float) -> str:
    """Milliseconds."""
    return f"{seconds * 1e3:.1f}" if math.isfinite(seconds) else "-"


def share(value: float) -> str:
    """Per cent."""
    return f"{value * 100:.1f} %" if math.isfinite(value) else "-"
