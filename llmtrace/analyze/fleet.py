"""Which version of a model answers where: what ``report fleet`` asks the engine that holds the spans.

Rows stay on the engine; what comes back is one row a version, slot of time, or instance of a list. Instances are
counted whole where they are few; else an even sample of them, by a hash of their names, tells shares and differences,
each instance with all its calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import ibis

from llmtrace.analyze.book import Book
from llmtrace.analyze.contract import FAILED
from llmtrace.analyze.expressions import count_of, first, share_of, when
from llmtrace.analyze.quality import Quality, common
from llmtrace.errors import LlmtraceError
from llmtrace.wording import plural

NOT_TOLD: Final = "not told"
SOURCES: Final = {"weights": "weights", "app": "app_version", "model": "response_model"}
"""What a version may be one of, and the column that tells it, best first."""
WORDS: Final = {"weights": "weights", "app": "the application", "model": "the model that answered"}
SAMPLED: Final = 200_000
"""The most instances that are looked at one by one, about."""
_VERSIONS: Final = 200
"""The most versions, those with the most calls."""
_RANKS: Final = 4096
HOUR_NS: Final = 3_600_000_000_000
DAY_NS: Final = 24 * HOUR_NS
_SLOTS: Final = 180
"""The most slots of time."""
_APART_DAYS: Final = 180
_STRAYS: Final = 0.01
"""The most of the calls that are taken for strays, where so many days lie between them and all others."""


class Fleet:
    """The calls of a fleet, by version, instance and time."""

    def __init__(self, book: Book, version_of: str = "", newest: str = "", quality: str | None = None) -> None:
        """Raises LlmtraceError where the spans tell no version, or only one."""
        self._book = book
        calls = self._dated(book.single_calls)
        counts = {name: calls[column].count() for name, column in SOURCES.items()}
        ((self.calls, begun, ended, self.named, instances, *told),) = book.rows(
            calls.agg(
                n=calls.count(),
                begun=calls.began_ns.min(),
                ended=calls.began_ns.max(),
                named=calls.instance.count(),
                instances=calls.instance.approx_nunique(),
                **counts,
            )
        )
        self.begun, self.ended = int(begun), int(ended)
        told_by = dict(zip(SOURCES, told, strict=True))
        self.version_of = version_of or next((name for name, count in told_by.items() if count), "")
        if not told_by.get(self.version_of):
            missing = f" of {WORDS[self.version_of]}" if self.version_of else ""
            raise LlmtraceError(
                f"no call tells a version{missing}: set llmtrace.model.fingerprint or service.version on the resource "
                "(llmtrace.configure(model_fingerprint=..., service_version=...))"
            )
        self.untold = self.calls - told_by[self.version_of]
        self.stride = max(1, round(instances / SAMPLED))
        """Of so many instances one is looked at."""
        self.slot = DAY_NS if self.ended - self.begun > 3 * DAY_NS else HOUR_NS
        while (self.ended - self.begun) / self.slot > _SLOTS:
            self.slot *= 7 if self.slot == DAY_NS else 2
        self.quality = common([book], quality)
        self._named_calls = self._narrow(calls, self.quality)
        self._order(newest)

    def _dated(self, calls: Any) -> Any:
        """The calls without the few that wrong clocks date far from all others; they are counted in ``strays``."""
        days = self._book.rows(calls.group_by(day=calls.began_ns // DAY_NS).agg(n=calls.count()))
        first_day, last_day, self.strays = _together(sorted((int(day), int(count)) for day, count in days))
        if not self.strays:
            return calls
        return calls.filter((calls.began_ns >= first_day * DAY_NS) & (calls.began_ns < (last_day + 1) * DAY_NS))

    def _narrow(self, calls: Any, quality: Quality) -> Any:
        """The few columns that are looked at, with a name for each version and instance."""
        rate = (calls.duration - calls.ttft) / (calls.output_tokens - 1)
        # Reasoning may be older than the first token that was shown, and a call's own span does not say whether it is.
        all_shown = calls.reasoning_tokens.fill_null(0) == 0
        return calls.select(
            began="began_ns",
            version=first(calls[SOURCES[self.version_of]], NOT_TOLD),
            weights="weights",
            app="app_version",
            device=first(calls.device, NOT_TOLD),
            form="model_format",
            instance=first(calls.instance, calls.service, NOT_TOLD),
            asked="request_model",
            answered="response_model",
            ttft=when(calls.ttft > 0, calls.ttft),
            tpot=when(all_shown & (calls.output_tokens > 1) & (rate > 0), rate),
            output=when(calls.output_tokens > 0, calls.output_tokens),
            failed=calls.outcome.isin(FAILED),
            cut=calls.finish.startswith("length") | calls.finish.startswith("max_tokens"),
            score=quality.of(calls),
            slot=((calls.began_ns - self.begun) // self.slot).cast("int64"),
        )

    def _order(self, newest: str) -> None:
        """Put the versions in the order in which they appeared; ``newest``, where it is named, behind all others."""
        calls = self._named_calls
        by_version = calls.group_by("version").agg(n=calls.count(), since=calls.began.min(), until=calls.began.max())
        rows = self._book.rows(by_version.order_by(ibis.desc("n")).limit(_VERSIONS))
        rows = sorted((row for row in rows if row[0] != NOT_TOLD), key=lambda row: (row[0] == newest, row[2]))
        self.versions = [str(row[0]) for row in rows]
        self.since = [int(row[2]) for row in rows]
        self.until = [int(row[3]) for row in rows]
        if len(rows) < 2:
            raise LlmtraceError(
                f"a single version of {WORDS[self.version_of]} ({self.versions[0]}) in all of "
                f"{plural(self.calls, 'call')}: "
                "this report compares several (--version-of weights, app or model looks at another one)"
            )
        if newest and newest not in self.versions:
            raise LlmtraceError(f"no version {newest!r} among {', '.join(self.versions[-12:])}")
        self.newest = len(rows) - 1
        self.first = self.since.index(min(self.since))
        """The version that the traces begin with."""

    @cached_property
    def ranked(self) -> Any:
        """The calls of known versions, each with its version's place in their order."""
        calls = self._named_calls
        place = calls.version.cases(*((name, number) for number, name in enumerate(self.versions)), else_=None)
        return calls.mutate(rank=place.cast("int64")).filter(lambda table: table.rank.notnull())

    def answers(self) -> list[tuple[Any, ...]]:
        """A row a version, of the sample: rank, failed, cut, output p50 and p95, TTFT p50 and p95, TPOT p50, score."""
        calls = self._sample
        return self._book.rows(
            calls.group_by("rank")
            .agg(
                failed=share_of(calls.failed),
                cut=share_of(first(calls.cut, False)),
                output50=calls.output.quantile(0.5),
                output95=calls.output.quantile(0.95),
                ttft50=calls.ttft.quantile(0.5),
                ttft95=calls.ttft.quantile(0.95),
                tpot50=calls.tpot.quantile(0.5),
                score=calls.score.mean(),
            )
            .order_by("rank")
        )

    def lengths(self) -> list[tuple[int, int, int]]:
        """Rank, power of two, and how many answers have so many tokens."""
        calls = self.ranked.filter(self.ranked.output.notnull())
        power = calls.output.cast("float64").log2().floor().cast("int64")
        return self._book.rows(calls.group_by("rank", power=power).agg(n=calls.count()))

    def by_slot(self) -> list[tuple[int, int, int]]:
        """Slot, rank, calls."""
        return self._book.rows(self.ranked.group_by("slot", "rank").agg(n=self.ranked.count()))

    @cached_property
    def latest(self) -> Any:
        """All instances with their last version, device, and first and last call; held."""
        calls = self.ranked
        whole = calls.group_by("instance").agg(
            rank=_last_rank(calls),
            until=calls.began.max(),
            n=calls.count(),
            device=calls.device.max(),
            form=calls.form.max(),
        )
        return self._book.hold(whole)

    def now(self, active_ns: int) -> list[tuple[int, str, int]]:
        """Rank, device, and how many instances were last seen so, of those with a call in the last ``active_ns``."""
        table = self.latest
        table = table.filter(table.until >= self.ended - active_ns)
        return self._book.rows(table.group_by("rank", "device").agg(n=table.count()))

    def stragglers(self, active_ns: int, top: int) -> list[tuple[Any, ...]]:
        """Instance, rank, device, format, last call, calls of those that are longest behind, of the active ones."""
        table = self.latest
        table = table.filter((table["rank"] < self.newest) & (table.until >= self.ended - active_ns))
        return self._book.rows(
            table.order_by("rank", ibis.desc("until"), "instance")
            .select("instance", "rank", "device", "form", "until", "n")
            .limit(top)
        )

    @cached_property
    def _sample(self) -> Any:
        calls = self.ranked
        return calls if self.stride == 1 else calls.filter(calls.instance.hash() % self.stride == 0)

    def active(self) -> list[tuple[int, int, int]]:
        """Slot, rank, and how many of the sample's instances ended the slot with it."""
        calls = self._sample
        last = calls.group_by("slot", "instance").agg(rank=_last_rank(calls))
        return self._book.rows(last.group_by("slot", "rank").agg(n=last.count()))

    @cached_property
    def _each(self) -> Any:
        """The means of each of the sample's instances with each version; held."""
        calls = self._sample
        return self._book.hold(
            calls.group_by("instance", "rank").agg(
                device=calls.device.max(),
                until=calls.began.max(),
                ttft=calls.ttft.ln().mean(),
                tpot=calls.tpot.ln().mean(),
                output=calls.output.cast("float64").ln().mean(),
                cut=share_of(first(calls.cut, False)),
                failed=share_of(calls.failed),
                score=calls.score.mean(),
            )
        )

    def paired(self) -> list[tuple[Any, ...]]:
        """Rank before, rank after; then for each of ``FIGURES`` the instances, mean and variance of after less before.

        Of instances that ran both, and none between them.
        """
        each = self._each
        turn = ibis.window(group_by=each.instance, order_by=each["rank"])
        steps = each.mutate(
            number=ibis.row_number().over(turn),
            before=each["rank"].lag().over(turn),
            **{f"d_{name}": each[name] - each[name].lag().over(turn) for name in FIGURES},
        )
        steps = steps.filter(steps.number > 0)
        columns = {
            f"{name}_{what}": getattr(steps[f"d_{name}"], what)()
            for name in FIGURES
            for what in ("count", "mean", "var")
        }
        return self._book.rows(steps.group_by("before", "rank").agg(**columns))

    def by_device(self) -> list[tuple[Any, ...]]:
        """Rank, device; then for each of ``FIGURES`` the instances, mean and variance."""
        each = self._each
        columns = {
            f"{name}_{what}": getattr(each[name], what)() for name in FIGURES for what in ("count", "mean", "var")
        }
        return self._book.rows(each.group_by("rank", "device").agg(**columns))

    def moves(self) -> list[tuple[int, int, int]]:
        """Rank before, rank after, and how many of the sample's instances went so, by when they last ran each."""
        each = self._each
        turn = ibis.window(group_by=each.instance, order_by=[each.until, each["rank"]])
        steps = each.mutate(number=ibis.row_number().over(turn), before=each["rank"].lag().over(turn))
        steps = steps.filter(steps.number > 0)
        return self._book.rows(steps.group_by("before", "rank").agg(n=steps.count()))

    def mismatches(self, top: int) -> list[tuple[Any, ...]]:
        """Asked, answered, version, calls, first, last, of answers by a model whose name does not begin as asked."""
        calls = self._named_calls
        other = calls.filter(calls.asked.notnull() & calls.answered.notnull() & ~calls.answered.startswith(calls.asked))
        rows = other.group_by("asked", "answered", "version").agg(
            n=other.count(), since=other.began.min(), until=other.began.max()
        )
        return self._book.rows(rows.order_by(ibis.desc("n"), "asked", "answered", "version").limit(top))

    def mismatched(self) -> int:
        """How many calls were answered by another model than asked."""
        calls = self._named_calls
        other = first(~calls.answered.startswith(calls.asked), False)
        ((count,),) = self._book.rows(calls.agg(n=count_of(other)))
        return int(count or 0)

    def together(self) -> list[tuple[Any, ...]]:
        """Rank, weights, app, format, device and calls of each combination."""
        calls = self.ranked
        rows = calls.group_by("rank", "weights", "app", "form", "device").agg(n=calls.count())
        return self._book.rows(rows.order_by("rank", ibis.desc("n")).limit(400))


def _last_rank(calls: Any) -> Any:
    """The version of the last of a group's calls, with its moment in one number: engines need not sort the calls."""
    return ((calls.began // 1_000_000) * _RANKS + calls["rank"]).max() % _RANKS


def _together(days: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """The first and the last of the days (day, calls) that belong together, and how many calls lie outside of them."""
    whole = sum(count for _, count in days)
    stretches: list[list[tuple[int, int]]] = []
    for day, count in days:
        if not stretches or day - stretches[-1][-1][0] > _APART_DAYS:
            stretches.append([])
        stretches[-1].append((day, count))
    kept = [days for days in stretches if sum(count for _, count in days) >= _STRAYS * whole] or stretches
    start, end = kept[0][0][0], kept[-1][-1][0]
    return start, end, sum(count for day, count in days if not start <= day <= end)


FIGURES: Final = ("ttft", "tpot", "output", "cut", "failed", "score")
"""What versions are compared by; the first three as logarithms."""
LOGARITHMS: Final = frozenset(FIGURES[:3])
