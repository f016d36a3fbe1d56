"""`llmtrace report`, `compare` and `whatif` as a user types them."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmtrace.cli import build_app
from tests.analyze.writing import Writer

CALM = [("network", 10), ("queue", 20), ("prefill", 100), ("decode", 400)]


@pytest.fixture
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LLMTRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    writer = Writer()
    for number in range(25):
        writer.call(number * 1000, CALM, model="<b>gpt</b>")
    path = writer.save(tmp_path / "traces.jsonl")
    with path.open("a") as file:
        file.write("{broken\n")
    return str(path)


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(build_app(), list(arguments))
    assert result.exit_code == code, result.output
    return result


def test_text(traces: str) -> None:
    told = run("report", "phases", traces).stdout
    assert "Where the time went" in told
    assert "most of the time is decode" in told
    assert "skipped 1 broken part of the input" in told
    assert max(map(len, told.splitlines())) <= 100


def test_json(traces: str) -> None:
    told = json.loads(run("report", "floor", traces, "--format", "json").stdout)
    assert told["report"] == "floor"
    assert told["input"][0]["skipped"] == 1
    assert told["sections"][0]["rows"][0][1] == 25


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.links.extend(value for name, value in attrs if name in ("src", "href"))


def test_page(traces: str, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "page.html"
    assert f"wrote {target}" in " ".join(run("report", "phases", traces, "--html", str(target)).stdout.split())
    text = target.read_text()
    page = Page(text)
    assert "svg" in page.tags
    assert "table" in page.tags
    assert page.links == ["data:,"]
    assert "b" not in page.tags
    assert "&lt;b&gt;gpt&lt;/b&gt;" in text
    assert "[[" not in text


def test_compare_and_whatif(traces: str, tmp_path: Path) -> None:
    told = run("compare", traces, traces, "--html", str(tmp_path / "c.html")).stdout
    assert "wrote" in told
    assert "may be chance" in (tmp_path / "c.html").read_text()
    told = run("whatif", traces, "--phase", "decode", "--factor", "0.5").stdout
    assert "end to end -37.7%" in told


def test_save_and_read_the_table_again(traces: str, tmp_path: Path) -> None:
    table = tmp_path / "spans.parquet"
    first = run("report", "models", traces, "--save", str(table)).stdout
    again = run("report", "models", str(table)).stdout
    assert first.partition("skipped")[0].split() == [*again.split(), "·"] or again.split()[:20] == first.split()[:20]


def test_a_table_that_cannot_be_written_is_told_in_a_line(traces: str, tmp_path: Path) -> None:
    for place in (str(tmp_path), f"{traces}/spans.parquet"):
        result = run("report", "phases", traces, "--save", place, code=1)
        assert f"cannot write {place}" in " ".join(result.stderr.split())


def test_a_table_gets_its_folder_as_a_page_does(traces: str, tmp_path: Path) -> None:
    run("report", "phases", traces, "--save", str(tmp_path / "deep" / "spans.parquet"))
    assert (tmp_path / "deep" / "spans.parquet").exists()


@pytest.mark.parametrize(
    "command", ["report phases --html", "report phases --save", "compare elsewhere --html", "show --html"]
)
def test_what_is_read_is_not_written_over(traces: str, command: str) -> None:
    before = Path(traces).read_bytes()
    *words, option = command.split()
    same = str(Path(traces).parent / ".." / Path(traces).parent.name / "traces.jsonl")
    assert ", which is read: name another file" in run(*words, traces, option, same, code=2).stderr
    assert Path(traces).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("report", "phases", "nowhere.jsonl"), "nowhere.jsonl: no such file or folder"),
        (("whatif", "nowhere.jsonl", "--phase", "decode", "--factor", "0.5"), "no such file"),
    ],
)
def test_mistakes_take_one_line(arguments: tuple[str, ...], told: str) -> None:
    result = run(*arguments, code=1)
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1
