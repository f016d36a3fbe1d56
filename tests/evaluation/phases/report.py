"""Writes docs/accuracy.md and its plots from what was measured; nothing in it is set by hand."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.evaluation.common import freshness, provenance
from tests.evaluation.common.places import DOCS
from tests.evaluation.common.tables import Table
from tests.evaluation.phases import bars, plots, scoring, tables
from tests.evaluation.phases.bars import HITS as LEAST_HITS
from tests.evaluation.phases.bars import SOURCES, Line
from tests.evaluation.phases.cells import TRAFFIC, WARM_UP, WARM_UP_WHOLE, Cell
from tests.evaluation.phases.engines import DEFINITIONS
from tests.evaluation.phases.judged import Judged, judge
from tests.evaluation.phases.measured import PREFILL, QUEUE, Measured
from tests.evaluation.phases.methods import ALL_PREFILL, ENVELOPE, LEAST_SQUARES, LLMTRACE

_INTRO = """# Accuracy

How right are the phases that llmtrace infers where the provider reports none? The engines here know the truth, and
their timings are taken out of the answers that the client sees. `make accuracy` writes this page.
"""

_REHEARSAL = "**A rehearsal (`--quick`): too few calls of too few cells to say anything.**\n"

_SIMULATION = "simulation"
_IN_CLOUDS = ("alone", "share30")
"""Kinds of traffic whose calls are plotted one by one."""
CELLS, HITS, SERVER_TIMES, HITS_PLOT = "cells.csv", "hits.csv", "server-times.csv", "hits.svg"
CELLS_PAGE = "cells.md"
"""Files beside the page."""
SENSITIVITY = DOCS / "accuracy" / "sensitivity.json"

_READING = f"""## How to read it

*Queue* is the wait until the engine takes the prompt up, *prefill* the computation of the prompt, which ends with the
first token, *decode* the rest of the answer. *TTFT* is the time to the first token. A **cell** is one [kind of
traffic](accuracy/cells.md#the-kinds-of-traffic) at one load (a share of what the engine can do at most) against one
engine. The first {WARM_UP} calls ({WARM_UP_WHOLE} whole answers) teach the route and do not count. A bar is what we
want to reach; *(chance)*: so few calls can miss it by chance.

- **Error**: mean |error| over the mean TTFT (of whole answers the mean total). *Of itself*: the median |error| over the
  true length. What was not split counts: `queue_prefill` as half queue and half prefill, `opaque` as a third each.
- *Covers*: how often the 90 % interval held the truth, of the calls that were split. *half/err*: its mean half width
  over the mean |error|.
- *Queue* includes the wait for the running step (of vLLM that is in `llm.unattributed`). *Queue where none is*: what is
  said of calls whose true queue is under 10 % of the TTFT. *Sure and wrong*: outside its interval and off by over 15 %
  of the TTFT.
- *To the error of*: queue and prefill held against simpler methods, which see all calls of the cell at once (but
  *envelope so far*): *all prefill*; *no queue*; *by headers* (queue until they come); *least squares* (a curve over
  uncached tokens, queue what lies above); *envelope* (the same through the 10 % quantile).
"""


def judged_cells(facts: dict[str, Any], calls: Sequence[Measured]) -> list[Judged]:
    """Every cell of a run beside every method's claims: some seconds of work."""
    return judge([Cell(**cell) for cell in facts["cells"]], calls)


def page(facts: dict[str, Any], cells: Sequence[Judged], plots_at: str = "accuracy") -> tuple[str, dict[str, str]]:
    """The page's text, and its plots by file name."""
    lines = all_lines(facts, cells)
    pictures = draw(cells, facts["audit"])
    where = facts["machine"]
    parts = [
        _INTRO,
        *([_REHEARSAL] if facts.get("quick") else []),
        *freshness.stamp("phases", where["commit"], where["code"]),
        f"{provenance.sentence(where, facts['seed'])}\n",
    ]
    if lines:
        known = [line for line in lines if line.met is not None]
        parts += [
            "## In short\n",
            *_typical(cells),
            f"{sum(1 for line in known if line.met)} of {len(known)} bars met, each decided by its worst cell (r: "
            "recorded, s: simulated, l: live), and how many miss it. *: no bar was set; held to the nearest one.\n",
            *([f"**The live cells are an earlier run's** ({facts['kept']}).\n"] if facts.get("kept") else []),
            tables.summary(lines).grid(text=True),
        ]
    parts += _not_run(facts["not_run"])
    if cells:
        parts.append(
            f"The cells of real engines, with plots: [{CELLS_PAGE}]({plots_at}/{CELLS_PAGE}). All {len(cells)}, with "
            f"every method, refusals, decode and the engine's own queue: [{CELLS}]({plots_at}/{CELLS}).\n"
        )
    parts.append(_READING)
    if facts["audit"]:
        parts += _audit(facts["audit"], plots_at)
        parts += [f"![hits]({plots_at}/{HITS_PLOT})\n"] if HITS_PLOT in pictures else []
    if facts.get("cost"):
        parts += _cost(facts["cost"])
    parts += _sensitivity()
    return "\n".join(parts), pictures


def _typical(cells: Sequence[Judged]) -> list[str]:
    """How far off the queue of streams is, and whether its interval holds: the middle cell and the worst one."""
    streamed = [j for j in cells if not j.cell.traffic.startswith("whole") and j.cell.traffic != "onelength"]
    errors = {j.cell.title: error.share for j in streamed if (error := scoring.errors(j.pairs(), QUEUE))}
    held = {j.cell.title: covers.inside for j in streamed if (covers := scoring.coverage(j.pairs(), QUEUE))}
    if not errors or not held:
        return []
    worst, least = max(errors, key=errors.__getitem__), min(held, key=held.__getitem__)
    return [
        f"Streams, in {len(errors)} kinds of traffic ([how to read it](#how-to-read-it)). The median: the queue, which "
        f"is the wait for the engine, is off by {tables.share(statistics.median(errors.values()))} of the time to the "
        f"first token, and its 90 % interval holds the truth in {tables.share(statistics.median(held.values()))} of "
        f"the calls. The worst: {tables.share(errors[worst])} ({worst}), {tables.share(held[least])} ({least}).\n"
    ]


def cells_page(facts: dict[str, Any], cells: Sequence[Judged], plotted: Sequence[str] = ()) -> str:
    """Every cell of a real engine in a row of its own: a page beside the other one. ``plotted``: the plots' files."""
    where = facts["machine"]
    parts = [
        "# Accuracy, cell by cell\n",
        "The cells of real engines ([what the columns mean](../accuracy.md#how-to-read-it)); TTFT in ms; *not split*, "
        f"errors and *covers* in %. The simulated cells are in [{CELLS}]({CELLS}) only.\n",
        *freshness.stamp("phases", where["commit"], where["code"]),
    ]
    for source in SOURCES:
        some = [judged for judged in cells if judged.cell.source == source]
        if some and source != _SIMULATION:
            parts += _section(source, some, facts.get("kept") if source == "live" else None)
            parts += [f"![{name.removesuffix('.svg')}]({name})\n" for name in plotted if name.startswith(f"{source}-")]
    parts += ["## The kinds of traffic\n", *_traffic(cells), "", "## What each engine's numbers mean\n"]
    parts += [f"- {DEFINITIONS[key]}" for key in dict.fromkeys(judged.cell.engine for judged in cells)]
    return "\n".join(parts).rstrip() + "\n"


def _not_run(why: dict[str, str]) -> list[str]:
    """What was left out, by its reason."""
    by_reason: dict[str, list[str]] = {}
    for part, reason in why.items():
        by_reason.setdefault(reason, []).append(part)
    return [f"Not run: {'; '.join(some)}: {reason}.\n" for reason, some in by_reason.items()]


def files(facts: dict[str, Any], cells: Sequence[Judged]) -> dict[str, str]:
    """What lies beside the page for whoever wants all of it, by file name: a table as CSV each."""
    made = (
        {CELLS: tables.joined(tables.errors(cells), tables.more(cells), tables.against(cells)).csv()} if cells else {}
    )
    if facts["audit"]:
        hits, server = tables.audit(facts["audit"])
        made |= {HITS: hits.csv(), SERVER_TIMES: server.csv()}
    return made


def all_lines(facts: dict[str, Any], cells: Sequence[Judged]) -> list[Line]:
    """Every bar of the page."""
    return bars.lines(cells) + bars.of_hits(facts["audit"]) + bars.of_cost(facts["cost"])


def _traffic(cells: Sequence[Judged]) -> list[str]:
    kinds = dict.fromkeys(judged.cell.traffic for judged in cells)
    return [f"- *{kind}*: {words}." for kind, words in TRAFFIC.items() if kind in kinds]


def draw(cells: Sequence[Judged], audit: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The plots, by file name."""
    pictures: dict[str, str] = {}
    groups = dict.fromkeys((judged.cell.source, judged.cell.engine) for judged in cells)
    for source, engine in groups:
        mine = [judged for judged in cells if (judged.cell.source, judged.cell.engine) == (source, engine)]
        if source == _SIMULATION:
            continue  # its tables say it: there are too many cells for a plot
        title, name = f"{source} {engine}", f"{source}-{engine}"
        errors = {
            _label(judged): {
                method: error.share if (error := scoring.errors(judged.pairs(method), QUEUE)) else math.nan
                for method in (LLMTRACE, ALL_PREFILL, LEAST_SQUARES, ENVELOPE)
            }
            for judged in mine
            if scoring.errors(judged.pairs(), QUEUE) is not None
        }
        if errors:
            words = f"{title}: error of queue, mean |error| over mean TTFT (or total)"
            pictures[f"{name}-queue.svg"] = plots.bars(words, errors, {}, top=1.0)
        covers = {
            _label(judged): {
                phase: inside.inside if (inside := scoring.coverage(judged.pairs(), phase)) else math.nan
                for phase in (QUEUE, PREFILL)
            }
            for judged in mine
        }
        if any(math.isfinite(value) for group in covers.values() for value in group.values()):
            words = f"{title}: how often the 90 % interval holds the truth (red: 90 %)"
            pictures[f"{name}-covers.svg"] = plots.bars(words, covers, dict.fromkeys(covers, 0.9), top=1.0)
        clouds = {judged.cell.name: cloud for judged in mine if (cloud := _queues(judged))}
        if clouds:
            words = f"{title}: queue, call by call"
            pictures[f"{name}-calls.svg"] = plots.points(words, "truth, ms", "llmtrace, blind, ms", clouds)
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
        marks = {_short(row["provider"]): LEAST_HITS for row in whole if row["caching"]}
        pictures[HITS_PLOT] = plots.bars("Cache hits told from timing (red: the bar to be met)", shown, marks)
    return pictures


def _queues(judged: Judged) -> list[tuple[float, float]]:
    """(true, claimed) queue of each streamed call that was split, where the client is alone or has a good share."""
    if judged.cell.traffic not in _IN_CLOUDS:
        return []
    return [
        (call.truth.queue, claim.queue)
        for call, claim in judged.pairs()
        if call.truth.queue is not None and claim.queue is not None
    ]


def _label(judged: Judged) -> str:
    return judged.cell.name.replace("vllm_", "").replace(" ", "\n").replace("_", "\n")


def write(folder: Path, facts: dict[str, Any], calls: Sequence[Measured]) -> Path:
    """Write the page and its plots into ``folder``; returns the page's path. The page is whole or not there."""
    cells = judged_cells(facts, calls)
    text, pictures = page(facts, cells)
    at = folder / "accuracy"
    at.mkdir(parents=True, exist_ok=True)
    made = pictures | files(facts, cells)
    if cells:
        made[CELLS_PAGE] = cells_page(facts, cells, [name for name in pictures if name != HITS_PLOT])
    for name, content in made.items():
        (at / name).write_text(content)
    target = folder / "accuracy.md"
    partial = target.with_suffix(".partial")
    partial.write_text(text.rstrip() + "\n")
    partial.replace(target)
    for old in (*at.glob("*.svg"), *at.glob("*.csv"), *at.glob("*.md")):
        if old.name not in made:
            old.unlink()
    return target


def _section(source: str, cells: Sequence[Judged], kept: str | None) -> list[str]:
    """One source's cells. ``kept``: the earlier run that measured them, where it was one."""
    notes = [f"Measured by an earlier run ({kept}).\n"] if kept else []
    by_note: dict[str, list[str]] = {}
    for judged in cells:
        cell = judged.cell
        if cell.note:
            by_note.setdefault(cell.note, []).append(cell.name)
        if cell.failed:
            why = f" (the first: {cell.why})" if cell.why else ""
            notes.append(f"- {cell.engine}, {cell.name}: {cell.failed} calls had no answer or no truth{why}.")
    notes += [f"- {', '.join(names)}: {note}." for note, names in by_note.items() if source != "live"]
    able = {f"{judged.cell.engine} {judged.cell.capacity:.1f} calls/s" for judged in cells if judged.cell.capacity}
    if able:
        notes.append(f"- Capacities measured: {', '.join(sorted(able))}.")
    return [f"## {source.capitalize()}\n", *notes, "", tables.compact(cells).grid()]


def _audit(rows: Sequence[dict[str, Any]], at: str) -> list[str]:
    return [
        "## Cache hits from timing\n",
        "Real requests to hosted APIs (5,000 tokens each, the whole prompt sent 25 times before), judged by one rule, "
        "which was chosen on these recordings. *Accuracy* takes a repeated prompt for a hit and a fresh one for a "
        "miss, and is balanced; *three calls*: three with one prefix together; *fresh claimed*: prompts sent "
        "for the first time that were said to hit.\n",
        tables.hits(rows).grid(),
        f"All conditions: [{HITS}]({at}/{HITS}); the provider's own time predicted from the client's and earlier "
        f"calls: [{SERVER_TIMES}]({at}/{SERVER_TIMES}).\n",
    ]


def _sensitivity() -> list[str]:
    """The constants that move the figures most, from the last run of ``tests.estimate.sensitivity``."""
    if not SENSITIVITY.is_file():
        return []
    told = json.loads(SENSITIVITY.read_text())
    first, *others = told["figures"]
    table = tables.sensitivity(first, others)
    return [
        "## How much the constants matter\n",
        f"Each constant of the estimate halved and doubled or so, over recorded and simulated runs of shared engines "
        f"(`python -m tests.estimate.sensitivity`, seed {told['seed']}, commit `{told['commit']}`; "
        f"{len({one['constant'] for one in others})} of {told['constants']} constants tried, all in "
        f"[{SENSITIVITY.name}](accuracy/{SENSITIVITY.name})). Those that move the error of the queue by over 3 % of "
        "itself or the coverage by over 1 point:\n",
        table.grid(),
    ]


def _cost(cost: dict[str, Any]) -> list[str]:
    rows = [
        [what, *(f"{spent[key]:.1f}" for key in ("median", "mean", "p90"))]
        for what, spent in cost["microseconds"].items()
    ]
    held = "; ".join(f"{what}: {count:,}" for what, count in cost["bytes"].items())
    return [
        "## What it costs\n",
        "Thread time on the caller's thread, with 25 routes in turn, whose memory the processor's caches do not "
        "hold any more; an update is a call's setting out and its end, the split included. What a call teaches is"
        " learned on the thread that fits, and is not in it.\n",
        Table("", ["work, µs", "median", "mean", "p90"], rows).grid(),
        f"Bytes remembered, of the largest of those routes: {held}.\n",
    ]


def _short(provider: str) -> str:
    name, _, model = provider.partition("_")
    return f"{name}\n{'embeddings' if 'embed' in model else 'chat'}"
