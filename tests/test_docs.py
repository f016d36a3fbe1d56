"""The pages are true: their links lead somewhere, their names are the code's, their code compiles."""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import fields
from pathlib import Path

import pytest

from llmtrace import config
from llmtrace.emit import names
from llmtrace.observe import call
from llmtrace.phases import model
from llmtrace.providers import CLIENTS, Client
from llmtrace.version import VERSION

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = sorted(str(path.relative_to(ROOT)) for path in PAGES)
REFERENCE = [ROOT / "docs" / name for name in ("span-reference.md", "attributes.md", "metrics.md")]
"""The pages that together describe every span, attribute, metric and log event."""
SETTINGS = ROOT / "docs" / "settings.md"
CALLS = ROOT / "docs" / "calls.md"

_FENCE = re.compile(r"^(`{3,}|~{3,}) *(\w*)[^\n]*\n(.*?)^\1 *$", re.M | re.S)
_LINK = re.compile(r"\]\(<?([^)\s>]+)>?\)|(?:src|srcset|href)=\"([^\"\s]+)")


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(path: Path) -> str:
    return _FENCE.sub("", text(path))


def anchors(path: Path) -> set[str]:
    """Ids of a page's headings, as the usual renderers make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *#*$", prose(path), re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return found


def links(path: Path) -> list[str]:
    return [first or second for first, second in _LINK.findall(re.sub(r"`[^`\n]*`", "", prose(path)))]


@pytest.mark.parametrize("name", NAMES)
def test_relative_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    broken: list[str] = []
    for link in links(page):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("name", NAMES)
def test_python_blocks_compile(name: str) -> None:
    for _, language, block in _FENCE.findall(text(ROOT / name)):
        if language in ("python", "py"):
            compile(textwrap.dedent(block), name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_compile_and_are_linked(path: Path) -> None:
    compile(text(path), path.name, "exec")
    assert f"examples/{path.name}" in text(ROOT / "docs" / "index.md")


def constants() -> dict[str, str]:
    return {name: value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}


def in_code(*paths: Path) -> set[str]:
    """What pages set in backticks."""
    return {code for path in paths for code in re.findall(r"`([^`\n]+)`", prose(path))}


@pytest.mark.parametrize("constant", sorted(set(constants()) - {"SPAN_PREFIX"}))
def test_every_name_is_described(constant: str) -> None:
    assert constants()[constant] in in_code(*REFERENCE)


def test_every_described_name_of_ours_is_written() -> None:
    known = set(constants().values()) | {"llmtrace.reference"}
    described = {name for name in in_code(*REFERENCE) if re.fullmatch(r"llmtrace(\.[a-z0-9_]+)+", name)}
    assert described - known == set()


def test_every_convention_name_that_a_provider_writes_is_described() -> None:
    written: set[str] = set()
    for path in (ROOT / "llmtrace" / "providers").glob("*.py"):
        for node in ast.walk(ast.parse(text(path))):
            value = node.value if isinstance(node, ast.Constant) else None
            if isinstance(value, str) and re.fullmatch(r"gen_ai(\.[a-z_]+)+|openai\.re(quest|sponse)\.[a-z_]+", value):
                written.add(value)
    assert written
    assert written - in_code(*REFERENCE) == set()


def test_phases_sources_and_outcomes_are_described() -> None:
    outcomes = (
        call.COMPLETED,
        call.CLOSED_EARLY,
        call.ABANDONED,
        call.CANCELLED,
        call.TIMED_OUT,
        call.ERROR,
        call.NEVER_CONSUMED,
    )
    said = in_code(*REFERENCE)
    assert {*model.PHASES, *model.SOURCES, *outcomes} <= said
    assert {names.SPAN_PREFIX + phase for phase in model.PHASES} <= said
    assert set(outcomes) <= in_code(CALLS)
    assert f"Schema version {model.SCHEMA_VERSION}." in text(REFERENCE[0])


def test_buckets_are_the_ones_described() -> None:
    page = " ".join(" ".join(map(text, REFERENCE)).split())
    for buckets in (names.SECONDS_BUCKETS, names.TOKEN_BUCKETS):
        assert ", ".join(str(bound) for bound in buckets) in page


def rows() -> dict[str, list[str]]:
    """The settings table: argument -> cells."""
    table = text(SETTINGS).partition("## Settings")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:2] == "| "]
    return {row[0].strip("`"): row for row in cells}


@pytest.mark.parametrize("name", config.known_settings)
def test_every_setting_is_described(name: str) -> None:
    row = rows()[name]
    (default,) = [field.default for field in fields(config.Settings) if field.name == name]
    variable = config.environment_names.get(name)
    assert row[1] == (f"`{variable}`" if variable else "argument only")
    assert row[2] == f"`{default}`"
    assert row[3]


def test_every_described_setting_is_one() -> None:
    assert set(rows()) - {"argument", "---"} <= set(config.known_settings)


def test_the_changelog_knows_this_version() -> None:
    assert f"## {VERSION}" in text(ROOT / "CHANGELOG.md")


def test_pages_speak_of_no_machine() -> None:
    for page in PAGES:
        assert not re.search(r"/(?:work|root|home|Users)/|https?://(?:pypi|files\.pythonhosted)", text(page)), page


def test_pages_are_whole() -> None:
    """No merge was left half done, and what a run writes has its place once, with a begin and an end."""
    for page in PAGES:
        assert not re.search(r"^(<<<<<<<|=======|>>>>>>>)( |$)", text(page), re.M), page
        places = re.findall(r"<!-- ([\w-]+):(begin|end) -->", text(page))
        assert places == [(name, end) for name, _ in places[::2] for end in ("begin", "end")], page


def minimum(versions: str) -> list[int]:
    """``>= 1.40`` as ``[1, 40, 0]``, whatever stands around the numbers."""
    parts = [int(part) for part in re.findall(r"\d+", versions)[:3]]
    return [*parts, *[0] * (3 - len(parts))]


@pytest.mark.parametrize("client", CLIENTS, ids=[client.name for client in CLIENTS])
def test_supported_versions_are_one_and_the_oldest_was_run(client: Client) -> None:
    (extra,) = re.findall(rf"^{client.name} = (\[.*\])$", text(ROOT / "pyproject.toml"), re.M)
    assert client.distribution + client.versions.replace(" ", "") in ast.literal_eval(extra)
    name = {"aiobotocore": "bedrock"}.get(client.name, client.name)
    told = client.versions.removeprefix(">= ")
    assert re.search(rf"\b{re.escape(told)}\b (or|on|and)", text(ROOT / "docs" / "providers" / f"{name}.md"))
    if client.name in ("vllm", "llama-cpp-python"):
        return  # the page says why
    (oldest,) = re.findall(rf"^\| {client.name} \| ([^|]*) \|", text(ROOT / "docs" / "supported-versions.md"), re.M)
    assert " passed" in oldest
    assert "failed" not in oldest
    assert minimum(re.split("[,:]", oldest)[0].removeprefix(client.distribution)) == minimum(client.versions)
