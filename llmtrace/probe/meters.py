"""Reads engines' own counters from their pages of metrics."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from urllib.parse import urlsplit, urlunsplit

from llmtrace.errors import LlmtraceError
from llmtrace.observe.address import address_of, apart
from llmtrace.probe.clients import shown
from llmtrace.probe.engines import ENGINES, Engine, Reading

_TIMEOUT_S = 5.0
_MOST_BYTES = 16 << 20
_SAMPLE = re.compile(r"^([A-Za-z_:][\w:]*)(\{.*\})?\s+(\S+)", re.M)
Samples = dict[str, list[tuple[str, float]]]
"""Labels and value of each sample, by its name."""


@dataclass
class Meter:
    """The pages of metrics of the engines that answer, all of one kind."""

    urls: Sequence[str]
    key: str | None = None
    """Sent along, where a page is at the client's own address."""
    own: str = ""
    """The client's own address."""
    engine: Engine | None = None

    def read(self) -> Reading:
        """The counters now, of all pages together.

        Raises:
            LlmtraceError: one cannot be read, or has no counter of an engine that is known.
        """
        pages = [self._page(url) for url in self.urls]
        if self.engine is None:
            self.engine = next((each for each in ENGINES if each.tokens in pages[0]), None)
        engine = self.engine
        for url, page in zip(self.urls, pages, strict=True):
            if engine is None or engine.tokens not in page:
                known = engine.tokens if engine is not None else ", ".join(each.name for each in ENGINES)
                raise LlmtraceError(f"{shown(url)} has no counter of tokens that is known ({known})")
        assert engine is not None

        def total(name: str, label: str = "") -> float | None:
            samples = [sample for page in pages for sample in page.get(name, ())]
            return sum(value for labels, value in samples if label in labels) if samples else None

        return Reading(
            moment=time.monotonic(),
            tokens=total(engine.tokens) or 0.0,
            running=sum(total(name) or 0.0 for name in engine.running),
            finished=total(engine.finished),
            aborted=total(engine.aborted, engine.aborted_label),
        )

    def _page(self, url: str) -> Samples:
        if urlsplit(url).scheme not in ("http", "https"):
            raise LlmtraceError(f"{shown(url)} is no page of metrics: name one such as http://127.0.0.1:8000/metrics")
        plain, credentials = apart(url)
        if not credentials and self.key and same_place(url, self.own):
            credentials = f"Bearer {self.key}"
        request = urllib.request.Request(plain)
        if credentials:  # and whoever the page sends one on to gets none
            request.add_unredirected_header("Authorization", credentials)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
                text = response.read(_MOST_BYTES).decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            raise LlmtraceError(f"{shown(url)} answers {error.code}") from None
        except (OSError, ValueError, HTTPException) as error:
            raise LlmtraceError(f"{shown(url)} cannot be read ({getattr(error, 'reason', None) or error})") from None
        samples: Samples = {}
        for name, labels, value in _SAMPLE.findall(text):
            try:
                samples.setdefault(name, []).append((labels, float(value)))
            except ValueError:
                continue
        return samples


def beside(base_url: str) -> str:
    """Where an engine that serves ``base_url`` has its metrics."""
    return urlunsplit(urlsplit(base_url)._replace(path="/metrics", query="", fragment=""))


def each_once(urls: Sequence[str]) -> list[str]:
    """``urls`` without those that name a page again: its counters would be added to themselves."""
    pages: dict[tuple[object, ...], str] = {}
    for url in urls:
        plain = apart(url)[0]
        host, port = address_of(plain)
        host = "127.0.0.1" if host in ("localhost", "::1") else host
        parts = urlsplit(plain)
        pages.setdefault((parts.scheme, host, port, parts.path.rstrip("/"), parts.query), url)
    return list(pages.values())


def same_place(one: str, other: str) -> bool:
    """Whether two URLs are of one host and port."""
    a, b = apart(one)[0], apart(other)[0]
    return (urlsplit(a).scheme, address_of(a)) == (urlsplit(b).scheme, address_of(b))
