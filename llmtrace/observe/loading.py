"""The recorder of a model's load into this process: when it began and ended, and of what parts it was made."""

from __future__ import annotations

from llmtrace.observe.clock import epoch_offset, now


class Loading:
    """One load. All times are monotonic ns."""

    __slots__ = ("_downloaded", "_measured", "_rest", "bytes", "end", "offset", "start")

    def __init__(self, rest: str | None = None) -> None:
        """``rest``: the part that all time is which is not measured apart; None: nobody can tell what it is."""
        self.offset = epoch_offset()
        """Added to its times it gives epoch ns."""
        self.start = now()
        self.end = self.start
        self.bytes = 0
        """Bytes that were downloaded for it."""
        self._rest = rest
        self._downloaded = 0
        self._measured: list[tuple[str, int, int]] = []

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end - self.start) / 1e9

    def downloaded(self, size: int | None) -> None:
        """A file of ``size`` bytes has come."""
        self._downloaded = now()
        self.bytes += size or 0

    def measured(self, part: str, start: int) -> None:
        """A ``part`` of it lasted from ``start`` until now."""
        self._measured.append((part, start, now()))

    def finish(self, last: str | None = None) -> None:
        """It has ended; ``last``: the part that followed where it had ended before."""
        before, self.end = self.end, now()
        if last is not None:
            self._measured.append((last, before, self.end))

    def parts(self) -> list[tuple[str, int, int]]:
        """Name, start and end of each part, without a gap from the load's start to its end; empty where they are not
        told apart. Downloading lasts until the last file had come."""
        if self._rest is None:
            return []
        known = [("download", self.start, self._downloaded)] if self._downloaded else []
        known += [(part, start, end) for part, start, end in self._measured if start >= self._downloaded]
        parts: list[tuple[str, int, int]] = []
        at = self.start
        for part, start, end in [*known, ("", self.end, self.end)]:
            if start > at:
                parts.append((self._rest, at, start))
            if end > start:
                parts.append((part, start, end))
            at = max(at, end)
        return parts
