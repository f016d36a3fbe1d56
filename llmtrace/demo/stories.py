"""The demo's stories as people read them: one line and one bar each on a shared axis, and why the call was slow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from llmtrace.view import about, calls, palette, text
from llmtrace.view.tree import Node

_LETTERS = {
    "network": "n",
    "gateway": "g",
    "unattributed": "u",
    "model_load": "m",
    "queue": "Q",
    "kv_cache_hit": "C",
    "prefill": "P",
    "decode": "d",
    "merged": "M",
    "attempt": "a",
    "other": "o",
}
"""What a bar is drawn with where there is no colour."""
_NARROWEST = 20
"""The narrowest bar."""


@dataclass(frozen=True, slots=True)
class Story:
    """One call, and what it shows."""

    title: str
    call: Node

    @property
    def seconds(self) -> float:
        return calls.duration(self.call)

    def parts(self) -> list[tuple[str, float]]:
        """Its phases in order: each one's family and seconds."""
        return [(about.family(node.span), node.span.duration) for node in calls.phases(self.call)]

    def why(self) -> str:
        """The verdict in words; without one, what the engine says of the cache."""
        facts = calls.facts(self.call)
        if facts.diagnosis:
            return text.clean(facts.diagnosis)
        cached = {about.family(node.span): node.span for node in calls.phases(self.call)}.get("kv_cache_hit")
        tokens = None if cached is None else about.tokens(cached)
        return (
            "no cause named: this route's calls scatter as far"
            if not tokens
            else f"{text.count(tokens)} prompt tokens came from the cache"
        )


@dataclass(frozen=True, slots=True)
class Stories:
    """All of them, drawn as wide as the console."""

    stories: Sequence[Story]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        coloured = console.color_system is not None and not console.no_color
        longest = max((story.seconds for story in self.stories), default=0.0) or 1.0
        names = max((len(story.title) for story in self.stories), default=0)
        times = [text.seconds(story.seconds) for story in self.stories]
        room = max(_NARROWEST, options.max_width - names - max(map(len, times), default=0) - 4)
        present = {family for story in self.stories for family, _ in story.parts()}
        yield _legend(present, coloured, options.max_width)
        for story, time in zip(self.stories, times, strict=True):
            line = Text(f"{story.title:<{names}}  ", style="bold")
            used = 0
            for family, part in cells(story.parts(), room * story.seconds / longest):
                mark = "█" if coloured else _LETTERS[family]
                line.append(mark * part, Style(color=palette.TERMINAL[family]) if coloured else Style(bold=False))
                used += part
            line.append(" " * (room - used + 2) + time, Style(bold=False))
            yield line
            for words in Text(story.why(), style="dim").wrap(console, max(_NARROWEST, options.max_width - 2)):
                words.rstrip()
                yield Text("  ").append_text(words)


def _legend(present: AbstractSet[str], coloured: bool, width: int) -> Text:
    legend, used = Text(), 0
    for name in (name for name in palette.FAMILIES if name in present):
        entry = f"{'█' if coloured else _LETTERS[name]} {palette.LABELS[name]}"
        fits = used + 3 + len(entry) <= width
        legend.append("" if not used else "   " if fits else "\n")
        used = used + 3 + len(entry) if used and fits else len(entry)
        legend.append(entry[0], Style(color=palette.TERMINAL[name]) if coloured else Style(bold=True))
        legend.append(entry[1:], style="dim")
    return legend


def cells(parts: Sequence[tuple[str, float]], room: float) -> Iterator[tuple[str, int]]:
    """The whole columns that each part gets of ``room`` columns, so that their edges lie where the times are."""
    whole = sum(seconds for _, seconds in parts)
    if whole <= 0:
        return
    begin = 0.0
    for family, seconds in parts:
        end = begin + seconds
        columns = round(room * end / whole) - round(room * begin / whole)
        if columns:
            yield family, columns
        begin = end
