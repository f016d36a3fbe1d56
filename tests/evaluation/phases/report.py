"""Writes docs/accuracy.md and its plots from what was measured; nothing in it is set by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.evaluation.common import freshness, provenance
from tests.evaluation.common.tables import Table
from tests.evaluation.phases import bars, plots, scoring, tables
from tests.evaluation.phases.bars import HITS, SOURCES, Line
from tests.evaluation.phases.cells import TRAFFIC, WARM_UP, WARM_UP_WHOLE, Cell
from tests.evaluation.phases.engines import DEFINITIONS
from tests.evaluation.phases.judged import Judged, judge
from tests.evaluation.phases.measured import PREFILL, QUEUE, Measured
from tests.evaluation.phases.methods import ALL_PREFILL, ENVELOPE, LEAST_SQUARES, LLMTRACE

_INTRO = """# Accuracy

How right are the phases that llmtrace infers where the provider reports none? Each engine here knows the truth of every
call; the client is kept from it, and afterwards its word is laid beside the engine's. This page is written by the run:

    make accuracy
"""

_REHEARSAL = "**A rehearsal (`--quick`): too few calls of too few cells to say anything.**\n"

_IN_CLOUDS = ("alone", "share30")
"""Kinds of traffic whose calls are plotted one by one."""
_NAMED = 3
"""So many cells that miss a bar are named."""

_READING = f"""## How to read it

A **cell** is one kind of traffic at one load against one engine, on a route that starts without history. Its first
{WARM_UP} calls are warm-up ({WARM_UP_WHOLE} of whole answers): they are made and learned from, but not counted. Calls
arrive open-loop, at their moment, whatever became of those before. A load is a share of the calls per second that the
engine completed for callers without pause; the strangers' part of it is sent by another process, without llmtrace.

**A bar is decided by its worst cell**; nothing is pooled. *Within chance*: a coverage that misses its bar by no more
than what so few calls can miss it by (90 % Wilson interval).

**Errors** are mean |error| over the mean time to first token (TTFT), of whole answers over the mean total; *of
itself* is the median over the calls of |error| over the true length.

**A refusal counts.** A merged span says how long its phases took together, and of each of them only that it lies
between nothing and the whole. It counts as equal parts: `queue_prefill` as half queue and half prefill, `opaque` as a
third each of queue, prefill and decode; the error is that minus the truth. *Split only* leaves these calls out.
*Merged span off by*: the span against what its phases truly took together. Intervals are those of the calls that were
split.

**Coverage**: how often the truth lay inside the 90 % interval that stands on the span. *half/err*: its mean half
width over the mean |error| of the same calls. Where most true queues are 0, an interval that ends there holds them
all.

**Queue** is `llm.queue` as it is exported: from the engine's door until the prompt is taken up. The wait for the step
that was running when the call came is in it, and `llmtrace.queue.step_wait` on that span says how much of it that is;
of an engine that is known to leave that wait out (vLLM) it stands in `llm.unattributed` instead, as it does where such
an engine tells its queue itself. *Engine's own queue*: the same by the engine's definition, below: less the step wait
for vLLM, however it was told apart, and with half of `llmtrace.unattributed.admission` (the way in) for the reference
server.

**Queue where none is**: the mean queue ascribed to split calls whose true queue is under 10 % of their TTFT. *Sure
and wrong*: a phase lies outside its interval and is off by over 15 % of the TTFT (or total).

*Unexplained rest*: what the engine's own phases leave of the TTFT (or total): the way there and back, HTTP, tokenising.
*Network, median ms*: the error of all that lies in front of the queue, where the engine tells when a request arrived.

**The simpler methods** see all calls of a cell at once, which flatters them; llmtrace has only those before, and
*envelope so far* too. *All prefill*: the TTFT less network is prefill. *No queue*: queue is 0, prefill the
least-squares curve. *By headers*: queue until the headers less a round trip. *Least squares*: prefill is the curve 1,
u, u² over uncached tokens u (of whole answers with the output tokens beside), queue what lies above. *Envelope*: the
same curve through the 10 % quantile.

**The client is blind**: `server_timings=False`, and the engine's word is taken out of the answer beneath the client,
at its transport. Streams without usage ask for usage there too, so that their truth is known; the client never sees
it.
"""


def page(facts: dict[str, Any], calls: Sequence[Measured], plots_at: str = "accuracy") -> tuple[str, dict[str, str]]:
    """The page's text, and its plots by file name."""
    cells = judge([Cell(**cell) for cell in facts["cells"]], calls)
    lines = all_lines(facts, cells)
    pictures = draw(cells, facts["audit"])
    where = facts["machine"]
    parts = [
        _INTRO,
        *([_REHEARSAL] if facts.get("quick") else []),
        *freshness.stamp("phases", where["commit"], where["code"]),
        f"{provenance.sentence(where, facts['seed'])} A new seed is drawn for each run; "
        '`ARGS="--seed N"` repeats one.\n',
    ]
    if lines:
        known = [line for line in lines if line.met is not None]
        parts += [
            "## In short\n",
            f"{sum(1 for line in known if line.met)} of {len(known)} bars met, each decided by its worst cell. "
            "*: no bar was set; held to the one that is nearest.\n",
            tables.summary(lines).grid(),
        ]
    parts += [f"Not run: {part}: {why}.\n" for part, why in facts["not_run"].items()]
    parts += _missed(lines, cells)
    parts += [f"![{name.removesuffix('.svg')}]({plots_at}/{name})\n" for name in pictures]
    parts.append(_READING)
    if cells:
        parts += ["The kinds of traffic:\n", *_traffic(cells), "", "What each engine's numbers mean:\n"]
        parts += [f"- {DEFINITIONS[key]}" for key in dict.fromkeys(judged.cell.engine for judged in cells)]
        parts.append("")
    for source in SOURCES:
        some = [judged for judged in cells if judged.cell.source == source]
        if some:
            parts += _section(source, some)
    if facts["audit"]:
        parts += _audit(facts["audit"])
    if facts.get("cost"):
        parts += _cost(facts["cost"])
    return "\n".join(parts), pictures


def all_lines(facts: dict[str, Any], cells: Sequence[Judged]) -> list[Line]:
    """Every bar of the page."""
    return bars.lines(cells) + bars.of_hits(facts["audit"]) + bars.of_cost(facts["cost"])


def _traffic(cells: Sequence[Judged]) -> list[str]:
    kinds = dict.fromkeys(judged.cell.traffic for judged in cells)
    return [f"- *{kind}*: {words}." for kind, words in TRAFFIC.items() if kind in kinds]


def _missed(lines: Sequence[Line], cells: Sequence[Judged]) -> list[str]:
    """For each missed bar by how much, in how many of its cells, and what the run knows of the reason."""
    by_title = {judged.cell.title: judged for judged in cells}
    missed: list[str] = []
    for line in lines:
        worst = line.worst()
        if worst is None or worst.bar.met:
            continue
        known = line.known()
        beyond = [figure for figure in known if not figure.bar.met]
        words = ", ".join(f"{figure.source} {figure.where} {figure.bar.cells()[1]}" for figure in beyond[:_NAMED])
        more = f" and {len(beyond) - _NAMED} more" if len(beyond) > _NAMED else ""
        judged = by_title.get(worst.bar.what)
        reason = "" if judged is None else f" The worst: {_reason(judged, line.what)}."
        missed.append(
            f"- **{line.title}** ({worst.bar.cells()[2]}): missed in {len(beyond)} of {len(known)} cells: "
            f"{words}{more}.{reason}"
        )
    return ["## Where a bar is missed\n", *missed, ""] if missed else []


def _reason(judged: Judged, what: str) -> str:
    """What to know of the cell that misses a bar."""
    pairs = judged.pairs()
    phase = next((phase for phase in (QUEUE, PREFILL, "decode") if phase in what), QUEUE)
    error, inside = scoring.errors(pairs, phase), scoring.coverage(pairs, phase)
    known: list[str] = []
    if error is not None:
        known.append(
            f"{phase} truly {tables.ms(error.truth)} ms of {tables.ms(judged.scale())} ms, "
            f"bias {tables.ms(error.bias)} ms"
        )
    if refused := scoring.refused(pairs):
        known.append(f"{tables.share(refused)} not split")
    if inside is not None:
        known.append(
            f"the interval covers {tables.share(inside.inside)}, "
            f"its half width is {tables.times(inside.ratio)} the error"
        )
    return "; ".join(known)


def draw(cells: Sequence[Judged], audit: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The plots, by file name."""
    pictures: dict[str, str] = {}
    groups = dict.fromkeys((judged.cell.source, judged.cell.engine) for judged in cells)
    for source, engine in groups:
        mine = [judged for judged in cells if (judged.cell.source, judged.cell.engine) == (source, engine)]
        if source == "simulation":
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
        marks = {_short(row["provider"]): HITS for row in whole if row["caching"]}
        pictures["hits.svg"] = plots.bars("Cache hits told from timing (red: the bar to be met)", shown, marks)
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
    text, pictures = page(facts, calls)
    at = folder / "accuracy"
    at.mkdir(parents=True, exist_ok=True)
    for name, drawing in pictures.items():
        (at / name).write_text(drawing)
    target = folder / "accuracy.md"
    partial = target.with_suffix(".partial")
    partial.write_text(text.rstrip() + "\n")
    partial.replace(target)
    for old in at.glob("*.svg"):
        if old.name not in pictures:
            old.unlink()
    return target


def _section(source: str, cells: Sequence[Judged]) -> list[str]:
    """Every table of one source."""
    notes = [f"- {judged.cell.name}: {judged.cell.note}." for judged in cells if judged.cell.note]
    for judged in cells:
        cell = judged.cell
        if cell.failed:
            why = f" (the first: {cell.why})" if cell.why else ""
            notes.append(f"- {cell.engine}, {cell.name}: {cell.failed} calls had no answer or no truth{why}.")
    able = {f"{judged.cell.engine} {judged.cell.capacity:.1f} calls/s" for judged in cells if judged.cell.capacity}
    if able:
        notes.append(f"- Capacities measured: {', '.join(sorted(able))}.")
    some = (tables.errors(cells), tables.against(cells), tables.more(cells))
    return [f"## {source.capitalize()}\n", *notes, "", *(table.markdown() for table in some)]


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
        "Thread time on the caller's thread, with 25 routes in turn; an update is a call's setting out and its end, "
        "the split included. Fits run on a thread of their own and are not in it.\n",
        Table("", ["work, µs", "median", "mean", "p90"], rows).grid(),
        f"Bytes remembered, of the largest of those routes: {held}.\n",
    ]


def _short(provider: str) -> str:
    name, _, model = provider.partition("_")
    return f"{name}\n{'embeddings' if 'embed' in model else 'chat'}"
