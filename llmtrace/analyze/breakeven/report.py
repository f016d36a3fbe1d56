"""`llmtrace breakeven` as a report: the machine beside the route that answered, by latency, cost, format and router."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from llmtrace.analyze.book import Book
from llmtrace.analyze.breakeven import choices, workload
from llmtrace.analyze.breakeven.choices import Choice, Prices, Routed, Targets, quantile
from llmtrace.analyze.breakeven.machine import Machine
from llmtrace.analyze.breakeven.workload import MONTH_DAYS, Workload
from llmtrace.analyze.report import Column, Lines, Report, Section, cell
from llmtrace.errors import LlmtraceError
from llmtrace.wording import plural

_RANKS: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_ROUTED: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_POINTS: Final = 60
HOSTED: Final = "hosted"
_EQUAL: Final = 1.02
"""A router's latency up to which it counts as no worse than the route's."""


def make(
    book: Book,
    machines: Sequence[Machine],
    about: str,
    *,
    targets: Targets,
    prices: Prices,
    weights: str = "",
    route: str = "",
    usd_in: float | None = None,
    usd_out: float | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Build the report.

    Args:
        book: the recorded calls.
        machines: one for each weight format.
        about: the model and the device that were measured.
        targets: what calls are to meet.
        prices: what the machine costs.
        weights: the format to lay beside the route; by default the best of those that meet the targets.
        route: only calls of routes with this in their names.
        usd_in: USD of a million input tokens, where the price list does not know them; with ``usd_out``.
        usd_out: the same of output tokens.
        notes: further sentences below the tables.

    Raises:
        LlmtraceError: calls that cannot be replayed, or a format that was not measured.
    """
    calls = workload.read(book, route, usd_in, usd_out)
    options = [Choice(machine, calls, targets, prices) for machine in machines]
    chosen, sentence = _choose(options, weights)
    hosted = _Hosted(calls, targets)
    report = Report("breakeven", f"{about} beside {', '.join(calls.routes[:3])}", [])
    report.sections = [
        _latency(hosted, chosen),
        _costs(hosted, options),
        _formats(options),
        _router(hosted, chosen, report),
    ]
    report.headline = _headline(hosted, chosen)
    report.notes = [sentence, *report.notes, *_notes(chosen, prices), *notes, *calls.notes]
    report.stats = (book.stats,)
    return report


class _Hosted:
    """What the route that answered took and cost."""

    def __init__(self, calls: Workload, targets: Targets) -> None:
        self.calls = calls
        self.ttft = [value for value in calls.ttft if value is not None]
        self.total = calls.total
        self.per_call = sum(calls.cost) / len(calls.cost)
        self.month = self.per_call * calls.per_day * MONTH_DAYS
        judged = zip(calls.ttft, calls.total, calls.requests, strict=True)
        self.met = sum(targets.met(ttft, total, asked.output) for ttft, total, asked in judged) / len(calls.total)


def _choose(options: Sequence[Choice], weights: str) -> tuple[Choice, str]:
    """The format to look at, and a sentence on which meets the targets at which loss."""
    by_name = {option.machine.format: option for option in options}
    if weights and weights not in by_name:
        raise LlmtraceError(f"the bench has no format {weights!r} with figures; it has {', '.join(by_name)}")
    targets = options[0].targets
    if not targets:
        chosen = by_name.get(weights) or options[0]
        return chosen, "no target is set: --slo-ttft 0.5, say, tells which weight format meets it at which loss"
    meeting = [option for option in options if option.met >= targets.share]
    failing = [option for option in options if option.met < targets.share]
    wanted = f"{targets.words()} for {targets.share * 100:.6g} % of calls"
    if not meeting:
        nearest = max(options, key=lambda option: option.met)
        sentence = f"{wanted}: met by no format on one machine; {_missed(nearest)} comes nearest"
        return by_name.get(weights) or nearest, sentence
    meeting.sort(key=lambda option: (_loss(option.machine), -option.met))
    sentence = f"{wanted}: met by " + ", ".join(_met(option) for option in meeting)
    if failing:
        sentence += "; not by " + ", ".join(_missed(option) for option in failing)
    return by_name.get(weights) or meeting[0], sentence


def _missed(option: Choice) -> str:
    """A format with which one machine does not meet the targets, and how many would."""
    count = option.machines(option.workload.per_day)
    more = "not even with a machine for each call" if count is None else f"{plural(count, 'machine')} would"
    return f"{option.machine.format} ({option.met:.1%}; {more})"


def _met(option: Choice) -> str:
    """A format that meets the targets, and what it loses."""
    machine = option.machine
    if machine.kl is None:
        loss = "loss not measured"
    elif machine.against == machine.format or not machine.kl:
        loss = "no loss"
    else:
        loss = f"the same token as {machine.against} at {machine.top1 or 0:.1%}, KL {machine.kl:.2g} nats"
    return f"{machine.format} ({option.met:.1%}; {loss})"


def _loss(machine: Machine) -> float:
    return machine.kl if machine.kl is not None else float("inf")


def _latency(hosted: _Hosted, chosen: Choice) -> Section:
    """Percentiles of both, with the distribution of the time to the first token as a chart."""
    answers = chosen.played.answers
    ttft, total, queue = ([getattr(each, name) for each in answers] for name in ("ttft", "total", "queue"))
    rows = [
        [
            f"p{rank * 100:g}",
            quantile(hosted.ttft, rank) if hosted.ttft else None,
            quantile(ttft, rank),
            quantile(queue, rank),
            quantile(hosted.total, rank),
            quantile(total, rank),
        ]
        for rank in _RANKS
    ]
    own = chosen.machine.format
    lines = [(f"{own}: first token", _spread(ttft)), (f"{own}: whole call", _spread(total))]
    lines = [(f"{HOSTED}: first token", _spread(hosted.ttft)), (f"{HOSTED}: whole call", _spread(hosted.total)), *lines]
    return Section(
        "Latency",
        [
            Column("calls"), Column(f"TTFT {HOSTED}", "s"), Column(f"TTFT {own}", "s"), Column(f"queue {own}", "s"),
            Column(f"whole call {HOSTED}", "s"), Column(f"whole call {own}", "s"),
        ],
        rows,
        f"{HOSTED}: as recorded. {own}: the same calls, sent at the same moments, by the model of the measured machine "
        f"({chosen.machine.slots} at once). queue: within TTFT.",
        Lines("Share of calls that took at most so long", "time", "s", "share", [line for line in lines if line[1]]),
    )  # fmt: skip


def _spread(values: Sequence[float]) -> list[tuple[float, float]]:
    """The distribution: values with the share at or below each; its last hundredth is left out of the picture."""
    if not values:
        return []
    ordered = sorted(values)
    return [(quantile(ordered, at / _POINTS * 0.99), at / _POINTS * 0.99) for at in range(_POINTS + 1)]


def _costs(hosted: _Hosted, options: Sequence[Choice]) -> Section:
    """Cost by call and month, and from how many calls a day each format is the cheaper one."""
    calls = hosted.calls
    tokens = sum(calls.tokens)
    rows: list[list[Any]] = [[HOSTED, hosted.per_call, hosted.month, None, None, None, None, None]]
    marks = [("recorded", calls.per_day)]
    for option in options:
        even = option.breaks_even(hosted.per_call)
        kwh = None if option.joules is None else option.joules / choices.JOULES_PER_KWH * calls.per_day * MONTH_DAYS
        count = option.machines(calls.per_day)
        rows.append(
            [
                option.machine.format, option.per_call, option.month(calls.per_day), count, option.capacity or None,
                even, None if even is None else even * tokens, kwh,
            ]
        )  # fmt: skip
        if even:
            marks.append((f"{option.machine.format} breaks even", even))
    return Section(
        "Cost",
        [
            Column("who"), Column("a call", "usd"), Column("a month", "usd"), Column("machines", "count"),
            Column("one bears, calls a day", "count"), Column("breaks even, calls a day", "count"),
            Column("breaks even, tokens a day", "count"), Column("kWh a month", "number"),
        ],
        rows,
        "At the recorded pace, all day long. one bears: within the targets, or computing "
        f"{choices.FULL:.0%} of its time where none is set, with calls like these. breaks even: from so many calls a "
        "day on one machine costs less than the route; empty: never, or only beyond what one bears. tokens: input and "
        "output.",
        _cost_lines(hosted, options, marks),
    )  # fmt: skip


def _cost_lines(hosted: _Hosted, options: Sequence[Choice], marks: Sequence[tuple[str, float]]) -> Lines:
    places = [at for _, at in marks]
    begin, end = min(places) / 10, max(places) * 10
    across = [begin * (end / begin) ** (number / (_POINTS * 2)) for number in range(_POINTS * 2 + 1)]
    lines = [(HOSTED, [(calls, hosted.per_call * calls * MONTH_DAYS) for calls in across])]
    for option in options:
        points = [(calls, month) for calls in across if (month := option.month(calls)) is not None]
        lines.append((option.machine.format, points))
    return Lines("USD a month by calls a day", "calls a day", "count", "usd", lines, logarithmic=True, marks=marks)


def _formats(options: Sequence[Choice]) -> Section:
    """The weight formats beside each other: what each makes of these calls, and what it loses."""
    rows: list[list[Any]] = []
    for option in options:
        machine, answers = option.machine, option.played.answers
        gaps = [
            (each.total - each.ttft) / (asked.output - 1)
            for each, asked in zip(answers, option.workload.requests, strict=True)
            if asked.output > 1
        ]
        rows.append(
            [
                machine.format,
                quantile([each.ttft for each in answers], 0.5), quantile([each.ttft for each in answers], 0.95),
                quantile(gaps, 0.5) if gaps else None, quantile([each.total for each in answers], 0.95),
                option.met if option.targets else None, option.played.utilisation, machine.top1, machine.kl,
                None if machine.weight_bytes is None else machine.weight_bytes / 1e6,
            ]
        )  # fmt: skip
    return Section(
        "Weight formats",
        [
            Column("format"), Column("TTFT p50", "s"), Column("TTFT p95", "s"), Column("TPOT p50", "s"),
            Column("whole call p95", "s"), Column("within the targets", "share"), Column("busy", "share"),
            Column("same token", "share"), Column("KL, nats", "number"), Column("weights, MB", "number"),
        ],
        rows,
        "One machine, the recorded calls; how many each takes stands above. same token and KL: what the format "
        "loses against the first one, by the bench.",
    )  # fmt: skip


def _router(hosted: _Hosted, chosen: Choice, report: Report) -> Section:
    """Short prompts to the machine, long ones to the route."""
    prompts = [each.prompt for each in hosted.calls.requests]
    lengths = sorted({quantile(prompts, rank) for rank in _ROUTED[:-1]} | {max(prompts)})
    routed = [choices.route(chosen, longest) for longest in lengths]
    everything = Routed(0, 0.0, hosted.ttft, hosted.total, hosted.met, hosted.month)
    rows = [
        [
            "none" if not each.kept else "all" if each.kept == 1 else f"up to {each.longest:,}",
            each.kept,
            quantile(each.ttft, 0.5) if each.ttft else None,
            quantile(each.ttft, 0.95) if each.ttft else None,
            quantile(each.total, 0.95),
            each.met if chosen.targets else None,
            each.month,
        ]
        for each in (everything, *routed)
    ]
    report.notes.append(_gain(everything, routed, chosen))
    return Section(
        "A router by prompt length",
        [
            Column("prompts on the machine, tokens"), Column("of calls", "share"), Column("TTFT p50", "s"),
            Column("TTFT p95", "s"), Column("whole call p95", "s"), Column("within the targets", "share"),
            Column("a month", "usd"),
        ],
        rows,
        f"One machine ({chosen.machine.format}) answers the prompts of at most so many tokens, the route all others as "
        "it did.",
    )  # fmt: skip


def _gain(everything: Routed, routed: Sequence[Routed], chosen: Choice) -> str:
    """Which router is the cheapest that is good enough, in a sentence."""
    if chosen.targets:
        enough = [each for each in routed if each.met >= chosen.targets.share]
        bar = "the targets"
    else:
        limit = quantile(everything.total, 0.95) * _EQUAL
        enough = [each for each in routed if quantile(each.total, 0.95) <= limit]
        bar = "the route's own p95 of the whole call"
    if not enough:
        return f"no router by prompt length keeps {bar}"
    best = min(enough, key=lambda each: each.month)
    saved = everything.month - best.month
    where = "all prompts" if best.kept == 1 else f"prompts of up to {best.longest:,} tokens ({best.kept:.0%} of calls)"
    if saved <= 0:
        return (
            f"a router that keeps {bar} and sends {where} to the machine costs {cell(-saved, 'usd')} a month more than "
            "the route alone"
        )
    return f"a router that sends {where} to the machine keeps {bar} and saves {cell(saved, 'usd')} a month"


def _headline(hosted: _Hosted, chosen: Choice) -> str:
    calls = hosted.calls
    own = chosen.machine.format
    month = chosen.month(calls.per_day)
    text = f"{cell(calls.per_day, 'count')} calls a day: {cell(hosted.month, 'usd')} a month {HOSTED}, "
    if month is None:
        return text + f"and no number of machines with {own} meets the targets"
    count = chosen.machines(calls.per_day)
    text += f"{cell(month, 'usd')} with {own} on {count} machine{'s' if count != 1 else ''}; "
    even = chosen.breaks_even(hosted.per_call)
    if even is None:
        return text + "one machine never breaks even"
    if even == 0:
        return text + "a machine without a price is always cheaper"
    return (
        text + f"it breaks even at {cell(even, 'count')} calls ({cell(even * sum(calls.tokens), 'count')} tokens) a day"
    )


def _notes(chosen: Choice, prices: Prices) -> list[str]:
    notes: list[str] = []
    if not prices.hour:
        notes.append("the machine costs nothing here: --usd-per-hour says what it does")
    if chosen.joules is None:
        notes.append("no energy: the bench found no counter")
    elif not prices.kwh:
        notes.append("energy is told but not priced: --usd-per-kwh prices it")
    if not chosen.machine.served:
        notes.append("the bench was made without a server: what HTTP takes is left out; run llmtrace bench anew")
    if chosen.played.utilisation > 0.95:
        notes.append(
            f"{chosen.machine.format} cannot keep up with these calls on one machine: its queue grows to the end, and "
            "its latencies are those of this stretch only"
        )
    notes.append(
        "tokens are counted as the route's tokenizer counts them; another model's answers are as long as these were"
    )
    return notes
