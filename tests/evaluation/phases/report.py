"""Writes docs/accuracy.md and its plots from what was measured; nothing in it is set by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.evaluation.common import bars as limits
from tests.evaluation.common import freshness, provenance
from tests.evaluation.common.bars import Bar
from tests.evaluation.common.tables import Table
from tests.evaluation.phases import figures, plots, tables
from tests.evaluation.phases.bars import CLAIMS, HIGH, HITS, MODERATE, ROUTE_BYTES, UPDATE_US
from tests.evaluation.phases.engines import DEFINITIONS
from tests.evaluation.phases.measured import Measured
from tests.evaluation.phases.methods import LLMTRACE
from tests.evaluation.phases.tables import Run

_INTRO = """# Accuracy

How right are the phases that llmtrace infers where the provider reports none? Each engine here knows the truth of every
call. The client is the real `openai` client over real sockets, told to ignore what the engine reports
(`server_timings=False`); afterwards its word is laid beside the engine's. This page is written by the run:

    make accuracy

Calls arrive open-loop: at their moment, whatever became of those before. Prompts are log-uniform between 32 and about
1,900 tokens; every second one shares its beginning with earlier ones. A load is a share of what the server completed
per second for callers without pause. The first 30 calls on a route are warm-up: they are made, but not in the figures.
Client and server share one machine.

The simpler methods see all calls of a run at once, which flatters them; llmtrace has only those before.
*All prefill*: the time to first token (TTFT) less network. *By headers*: queue until the headers less a round trip,
prefill from there. *Least squares*: prefill is the curve 1, u, u² over uncached tokens u, queue what lies above.
*Envelope*: the same curve through the 10 % quantile.
"""

_READING = """## How to read it

- **Mean |error| over mean TTFT** is the figure that the bars are set on: most true queues are 0, and a median would
  flatter.
- **Queued calls** are those whose true queue is over 10 % of their TTFT.
- **Not split**: calls for which llmtrace said `queue_prefill`. *Rightly*: the share of those where the envelope's split
  would have been off by more than 15 % of the TTFT.
- **Unexplained rest**: what the engine's queue and prefill leave of the TTFT: the way there and back, HTTP, tokenising
  and, where the queue leaves it out, waiting for the step that was running.
- **Queue** is compared as each engine defines it, see below. What llmtrace shows as `llm.queue` holds the wait for the
  step that was running; what lies between a request's arrival and the scheduler (HTTP, tokenising) is in
  `llm.unattributed`. Both stand on the spans as attributes, and are counted here where the engine counts them: of
  the latter half, since the engine does not see the way back, and the client cannot tell the two apart.
- **Network** has a truth only where the engine tells when a request reached it, on this machine's clock.
- **Coverage**: most true queues are 0, and an interval that ends there holds them all; with free slots the interval of
  queue therefore covers nearly every call, however narrow it is.
- **Queue said where none was**: calls without a true queue to which one of over 10 % of the TTFT was ascribed.
"""


def page(facts: dict[str, Any], calls: Sequence[Measured], plots_at: str = "accuracy") -> tuple[str, dict[str, str]]:
    """The page's text, and its plots by file name."""
    runs = [run for run in (Run(each, calls) for each in facts["runs"]) if run.warm]
    found = [bar for run in runs for bar in run.bars()] + audit_bars(facts["audit"]) + cost_bars(facts)
    pictures = draw(runs, facts["audit"])
    where = facts["machine"]
    lines = [
        _INTRO,
        *freshness.stamp("phases", where["commit"], where["code"]),
        f"{provenance.sentence(where, facts['seed'])} A new seed is drawn for each run; "
        '`ARGS="--seed N"` repeats one.\n',
        *(f"Not run: {part}: {why}.\n" for part, why in facts["not_run"].items()),
    ]
    if found:
        known = [bar for bar in found if bar.met is not None]
        lines += [
            "## In short\n",
            f"{sum(1 for bar in known if bar.met)} of {len(known)} bars met.\n",
            limits.table(found).grid(),
        ]
    lines += _missed(runs, found, facts["audit"])
    lines += [f"![{name.removesuffix('.svg')}]({plots_at}/{name})\n" for name in pictures]
    lines.append(_READING)
    if runs:
        lines.append("What each engine's numbers mean:\n")
        for key in dict.fromkeys(run.facts["engine"] for run in runs):
            title = next(run.facts["title"] for run in runs if run.facts["engine"] == key)
            lines.append(f"- **{title}**: {DEFINITIONS[key]}")
        lines.append("")
    for run in runs:
        lines += _run(run)
    refused = [row for run in runs for row in run.without_evidence()]
    if refused:
        lines += [
            "## Where no split is possible\n",
            "Prompts of one length: fixed cost and cost per token cannot be told apart, and nothing may be split. "
            "A queue that never empties: a part of it looks like fixed cost; a split has to be called a lower bound. "
            "Each on a route that starts without history, after its first 30 calls.\n",
            Table("", ["what", "calls", "not split", "lower bound", "queue: mean error / mean TTFT"], refused).grid(),
        ]
    if facts["audit"]:
        lines += _audit(facts["audit"])
    if facts.get("cost"):
        lines += _cost(facts["cost"])
    return "\n".join(lines), pictures


def _missed(runs: Sequence[Run], found: Sequence[Bar], audit: Sequence[dict[str, Any]]) -> list[str]:
    """For each missed bar what the run knows of the reason."""
    lines: list[str] = []
    for bar in found:
        if bar.met is not False:
            continue
        run = next((run for run in runs if bar.what.startswith(run.title)), None)
        row = next((row for row in audit if row["condition"].startswith("whole") and row["provider"] in bar.what), None)
        reason = "" if run is None else _reason(run, bar)
        if bar.what.startswith("cost"):
            reason = "measured on the machine above; python's own pace and what else runs there are in it"
        if row is not None:
            reason = (
                f"the best threshold on the fastest of three calls, chosen with hindsight, reaches {row['best']:.3f}; "
                f"90 % interval of the figure {row['low']:.2f} to {row['high']:.2f}"
            )
        lines.append(f"- **{bar.what}**: {bar.cells()[1]}, bar {bar.cells()[2]}. {reason[:1].upper()}{reason[1:]}.")
    return ["## Where a bar is missed\n", *lines, ""] if lines else []


def _reason(run: Run, bar: Bar) -> str:
    """What to know of a figure that misses its bar."""
    pairs = run.pairs(LLMTRACE)
    if "decode" in bar.what:
        error = figures.errors(pairs, "decode")
        late = "-" if error is None else f"median {tables.ms(error.median)} ms, p90 {tables.ms(error.p90)} ms"
        return (
            f"a token takes this engine {tables.ms(run.per_token())} ms; from the first token to the last, engine and "
            f"client differ by {late}. The client's decode is between two arrivals: an engine that shares its cores "
            "with its server hands a token over when the step under way lets it, which may be another request's "
            "prefill, and where a token takes no longer than reading it, the reading shows"
        )
    if "covers" in bar.what:
        phase = "queue" if "queue" in bar.what else "prefill"
        inside = figures.coverage(pairs, phase)
        width = "-" if inside is None else tables.share(inside.width)
        return f"the interval is {width} of the TTFT wide, so it is too {'narrow' if bar.value < 0.9 else 'wide'}"
    if bar.unit == "x":
        return (
            "that method is this good here: "
            + ", ".join(
                f"{method} {tables.share(error.mean_share)}"
                for method in run.methods
                if (error := figures.errors(run.pairs(method), "queue")) is not None
            )
            + " (mean error of queue / mean TTFT)"
        )
    phase = "prefill" if "prefill" in bar.what else "queue"
    error = figures.errors(pairs, phase)
    bias = "-" if error is None else tables.ms(error.bias)
    return (
        f"over all loads its bias is {bias} ms; {tables.share(figures.rest(run.warm)[1])} of the TTFT is in neither "
        "the engine's queue nor its prefill, and the client cannot see where that lies"
    )


def audit_bars(rows: Sequence[dict[str, Any]]) -> list[Bar]:
    """Accuracy where the whole prompt was sent often before, for those that cache; claims for those that do not."""
    found: list[Bar] = []
    for row in rows:
        groups = 2 * (row["calls"] // 2 - 40) // 3
        if not row["caching"]:
            found.append(Bar(f"hits, {row['provider']}: claimed", row["claimed"], most=CLAIMS, calls=row["calls"]))
        elif row["condition"].startswith("whole prompt"):
            found.append(
                Bar(f"hits, {row['provider']}: accuracy, three calls", row["filtered"], least=HITS, calls=groups)
            )
    return found


def cost_bars(facts: dict[str, Any]) -> list[Bar]:
    """What an update costs, and a route."""
    cost = facts.get("cost")
    if not cost:
        return []
    update = cost["microseconds"]["update of a call"]["median"]
    return [
        Bar("cost of an update on the caller's thread, median", update, most=UPDATE_US, calls=1_000, unit=" µs"),
        Bar("memory of a route", cost["bytes"]["a route"], most=ROUTE_BYTES, calls=100, unit=" bytes"),
    ]


def draw(runs: Sequence[Run], audit: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The plots, by file name."""
    pictures: dict[str, str] = {}
    for key in dict.fromkeys(run.facts["engine"] for run in runs):
        mine = [run for run in runs if run.facts["engine"] == key]
        if key == "recorded":
            continue
        title = mine[0].facts["title"]
        for phase in ("queue", "prefill"):
            groups, limits = _groups([run for run in mine if run.has_queue or phase == "prefill"], phase)
            if groups:
                words = f"{title}: error of {phase}, mean |error| over mean TTFT (red: the bar to be met)"
                pictures[f"{key}-{phase}.svg"] = plots.bars(words, groups, limits, top=1.0)
        clouds = {run.facts["slots"]: run.waits() for run in mine if run.waits()}
        if clouds:
            words = f"{title}: queue, call by call"
            pictures[f"{key}-calls.svg"] = plots.points(words, "truth, ms", "llmtrace, blind, ms", clouds)
    whole = [row for row in audit if row["condition"].startswith("whole prompt")]
    if whole:
        shown = {
            _short(row["provider"]): {
                "AUC, one call": row["auc"],
                "accuracy, one call": row["single"],
                "accuracy, three calls": row["filtered"],
            }
            for row in sorted(whole, key=lambda row: -row["auc"])
        }
        marks = {_short(row["provider"]): HITS for row in whole if row["caching"]}
        pictures["hits.svg"] = plots.bars("Cache hits told from timing (red: the bar to be met)", shown, marks)
    return pictures


def _groups(runs: Sequence[Run], phase: str) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Each load's errors by method, and its bar."""
    groups: dict[str, dict[str, float]] = {}
    limits: dict[str, float] = {}
    for run in runs:
        for cell in run.cells:
            label = "\n".join((run.facts["slots"], *cell.rsplit(" ", 1)))
            groups[label] = {}
            for method in run.methods:
                error = figures.errors(run.pairs(method, cell), phase)
                groups[label][method] = error.mean_share if error else math.nan
            limits[label] = MODERATE if tables.load_of(cell) <= 0.6 else HIGH
    return groups, limits


def write(folder: Path, facts: dict[str, Any], calls: Sequence[Measured]) -> Path:
    """Write the page and its plots into ``folder``; returns the page's path."""
    text, pictures = page(facts, calls)
    at = folder / "accuracy"
    at.mkdir(parents=True, exist_ok=True)
    for old in at.glob("*.svg"):
        old.unlink()
    for name, drawing in pictures.items():
        (at / name).write_text(drawing)
    target = folder / "accuracy.md"
    target.write_text(text.rstrip() + "\n")
    return target


def _run(run: Run) -> list[str]:
    facts = run.facts
    failed = (
        f" {facts['failed']} calls failed ({facts['why'] or 'no timings in the answer'})." if facts["failed"] else ""
    )
    if facts.get("left_out"):
        failed += f" No time was left for {', '.join(facts['left_out'])}."
    most = f"{facts['capacity']:.2f} calls/s at most" if math.isfinite(facts["capacity"]) else "capacity not measured"
    return [
        f"## {run.title}\n",
        f"{facts['slot_count']} slots, {most}; {len(run.calls)} calls, {len(run.warm)} of them past the "
        f"warm-up. A token after the first takes this engine {tables.ms(run.per_token())} ms (median).{failed}\n",
        *(table.markdown() for table in (run.errors(), run.against(), run.more()) if table.rows),
    ]


def _audit(rows: Sequence[dict[str, Any]]) -> list[str]:
    hits, server = tables.audit(rows)
    return [
        "## Cache hits from timing\n",
        "Real requests to hosted APIs (5,000 tokens, one token asked for, a fresh connection each), in the order of "
        "their sending. Each call is judged before it is learned from. The classifier (`llmtrace/estimate/hits.py`) "
        "learns from unlabelled history: of earlier calls it knows their time and whether this client had sent the "
        "beginning before, never whether the provider had it cached. So *accuracy* takes a repeated prompt for a hit "
        "and a fresh one for a miss; a repeat that the provider did not serve from its cache counts as our error. It "
        "is balanced: the mean over repeated and fresh prompts. *Three calls*: groups with one prefix, judged "
        "together. *Best threshold*: what the best single threshold on the fastest of three would reach, chosen with "
        "hindsight for each row: where that stays below the bar, these times alone are not likely to tell more. "
        "*Caches*: whether the audit that published the timings found the provider to cache. The rule was chosen on "
        "these same recordings, one rule for all of them; a row has about 140 groups, so one group is 0.7 points.\n",
        hits.markdown(),
        server.markdown(),
        "*History*: the client's time less the median difference of the 200 calls before, whose server time is taken "
        "as known; *interval covers*: how often the truth lay between its 5 % and 95 % quantiles. The providers that "
        "are not listed report no time of their own.\n",
    ]


def _cost(cost: dict[str, Any]) -> list[str]:
    rows = [
        [what, *(f"{spent[key]:.1f}" for key in ("median", "mean", "p90"))]
        for what, spent in cost["microseconds"].items()
    ]
    held = "; ".join(f"{what}: {count:,}" for what, count in cost["bytes"].items())
    return [
        "## What it costs\n",
        "Thread time on the caller's thread, 100 routes in turn as at 1,000 calls/s; an update is a call's setting out "
        "and its end, the split included. Fits run on a thread of their own and are not in it.\n",
        Table("", ["work, µs", "median", "mean", "p90"], rows).grid(),
        f"Bytes remembered, of the largest of those routes: {held}.\n",
    ]


def _short(provider: str) -> str:
    name, _, model = provider.partition("_")
    return f"{name}\n{'embeddings' if 'embed' in model else 'chat'}"
