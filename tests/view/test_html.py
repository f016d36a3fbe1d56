"""The page: complete, harmless, and asking nothing of anyone."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from llmtrace.analyze import otlp
from llmtrace.analyze.otlp import Event, Scope, Span, Status
from llmtrace.errors import LlmtraceError
from llmtrace.view import html, text, tree

VOID = {"meta", "link", "br", "img", "input", "hr"}
NASTY = "<script>alert(1)</script><img src=x onerror=alert(1)> \"'`&[[calls]]"


class Reader(HTMLParser):
    """Tags, attributes and text; fails on tags that do not nest."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.raw:
            self.raw[self.open[-1]].append(data)
        else:
            self.text.append(data)


def parse(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    return reader


@pytest.fixture
def page(demo_file: Path, tmp_path: Path) -> str:
    table = text.Table(
        ["Scenario", "server", "client", "note"],
        [["Cold", "1.2 ms", None, "x"], ["Warm", "0.8 ms", "0.9 ms", None]],
        "Compared",
        "About it.",
        groups=[("Prefill", 2)],
    )
    written = html.write_html(otlp.read(demo_file).spans, tmp_path / "out" / "trace.html", "Eight calls", table)
    return written.read_text(encoding="utf-8")


def test_it_loads_nothing(page: str) -> None:
    reader = parse(page)
    for tag, attributes in reader.tags:
        assert tag not in ("iframe", "object", "embed", "img", "base", "form")
        for name, value in attributes.items():
            if name in ("src", "href", "action", "srcset", "data", "poster", "xlink:href"):
                assert value.startswith(("#", "data:")), (tag, name, value)
    code = "".join(reader.raw["script"] + reader.raw["style"])
    for forbidden in (
        "http:",
        "https:",
        "//cdn",
        "@import",
        "url(",
        "fetch(",
        "XMLHttpRequest",
        "sendBeacon",
        "import(",
    ):
        assert forbidden not in code
    policy = next(a["content"] for t, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    digest = base64.b64encode(hashlib.sha256("".join(reader.raw["script"]).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "[[" not in page


def test_it_says_what_the_calls_say(page: str) -> None:
    words = " ".join("".join(parse(page).text).split())
    for expected in (
        "Where the time went",
        "TTFT 963 ms",
        "1,042 tokens in (1,024 cached)",
        "Diagnosis: prefill_surge",
        "attempt · 429",
        "not told apart",
        "queue + prefill",
        "estimate: fitted from earlier calls",
        "843 ms ±92.0 ms",
        "llmtrace.phase.uncertainty",
        "APIError after 12 tokens",
        "service.name",
        "Compared",
        "About it.",
        "8 calls",
    ):
        assert expected in words, expected


def test_bars_lie_inside_their_axis(page: str) -> None:
    places = re.findall(r"--x:([\d.e+-]+)%;--w:([\d.e+-]+)%", page)
    assert len(places) > 60
    for left, width in places:
        assert 0 <= float(left) <= 100
        assert float(left) + float(width) <= 100.01


def test_rows_can_be_reached_and_told_by_keyboard(page: str) -> None:
    reader = parse(page)
    summaries = sum(1 for tag, _ in reader.tags if tag == "summary")
    assert summaries == sum(1 for tag, _ in reader.tags if tag == "details") > 30
    assert ("html", {"lang": "en"}) in reader.tags
    assert any(attributes.get("href") == "#calls" for _, attributes in reader.tags)
    assert sum(1 for tag, _ in reader.tags if tag == "h1") == 1
    assert all(a.get("scope") for t, a in reader.tags if t == "th" and a)


def test_the_table_stands_on_its_own_on_a_phone(page: str) -> None:
    labels = [a.get("data-label", "over") for t, a in parse(page).tags if t == "td"]
    assert labels == ["over", "server", "client", "note"] * 2


def nasty_span() -> Span:
    return Span(
        "e" * 32, "e" * 16, None, NASTY, "client", 0, 10,
        {"gen_ai.operation.name": NASTY, "gen_ai.request.model": NASTY, NASTY: NASTY, "list": (NASTY,),
         "llmtrace.call.outcome": NASTY, "llmtrace.diagnosis": NASTY, "llmtrace.phase.source": NASTY,
         "server.address": NASTY, "gen_ai.provider.name": NASTY, "error.type": NASTY},
        Status("error", NASTY), (Event(NASTY, 5, {NASTY: NASTY}),), {NASTY: NASTY}, Scope(NASTY, NASTY),
    )  # fmt: skip


def test_nothing_from_a_file_becomes_markup() -> None:
    table = text.Table([NASTY, NASTY], [[NASTY, NASTY]], NASTY, NASTY, [(NASTY, 1)])
    page = html.render(tree.build([nasty_span()]), NASTY, table, lede=NASTY, titles={"e" * 32: NASTY})
    reader = parse(page)
    assert sum(1 for tag, _ in reader.tags if tag == "script") == 1
    assert not any(tag == "img" for tag, _ in reader.tags)
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 20
    assert "".join(reader.text).count("[[calls]]") > 20


def test_files_that_are_not_ours() -> None:
    spans = [
        Span("f" * 32, "1", None, "GET /", "server", 0, 100),
        Span("f" * 32, "2", "1", "", "internal", 100, 100),
        Span("f" * 32, "3", "gone", "orphan", "internal", 50, 40),
    ]
    page = html.render(tree.build(spans), "Foreign")
    words = "".join(parse(page).text)
    assert "GET /" in words
    assert "(no name)" in words
    assert "Where the time went" not in words
    assert "parent is not in the file" in words


def test_no_spans_at_all() -> None:
    assert "0 traces" in html.render([], "Nothing")


def test_a_server_seen_beside_the_client_is_not_counted_twice(recorder: Any, tmp_path: Path) -> None:
    from opentelemetry.trace import SpanKind

    call = recorder.call([("prefill", 100.0, "server", None, 5), ("decode", 100.0, "client", None, 7)])
    server = recorder.span(
        "chat", recorder.clock, 200_000_000, call, SpanKind.SERVER, {"gen_ai.operation.name": "chat"}
    )
    recorder.phases(server, recorder.clock, [("prefill", 99.0, "device", None, 5)])
    page = html.render(tree.build(otlp.read(recorder.save(tmp_path / "t")).spans), "Both")
    assert "200 ms in 1 call, by phase" in page.replace("\N{NO-BREAK SPACE}", " ")


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(LlmtraceError, match="cannot write"):
        html.write_html([], tmp_path, "x")
