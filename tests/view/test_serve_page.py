"""The viewer's page as files: what it names is there, it needs no looser policy, its colours can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmtrace.phases.model import PHASES, SOURCES
from llmtrace.view import about, palette
from llmtrace.view.serve import page

ASSETS = Path(page.__file__).parent / "assets"
SCRIPTS = sorted(ASSETS.glob("*.js"))


def text(name: str) -> str:
    found = page.asset(name)
    assert found is not None, name
    return found.body.decode()


def test_the_index_names_only_what_is_there() -> None:
    index = text("index.html")
    named = re.findall(r'(?:src|href)="/assets/([^"]+)"', index)
    assert {"app.js", "theme.js", "page.css", "palette.css"} <= set(named)
    for name in named:
        assert page.asset(name) is not None, name


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_modules_import_only_what_is_there_and_write_no_markup(path: Path) -> None:
    script = path.read_text(encoding="utf-8")
    for name in re.findall(r'from "(?:\./|/assets/)([^"]+)"', script):
        imported = text(name)
        wanted = re.search(rf'import \{{([^}}]+)\}} from "[./a-z]*{re.escape(name)}"', script)
        for each in wanted[1].split(",") if wanted else ():
            assert re.search(rf"export (?:async )?(?:const|class|function|\{{[^}}]*)\s*\b{each.strip()}\b", imported), (
                each
            )
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script)


def test_nothing_needs_inline_code_or_another_host() -> None:
    index = text("index.html")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", index)
    for path in ASSETS.iterdir():
        for url in re.findall(r"https?://[^\s\"'`)]+", path.read_text(encoding="utf-8")):
            assert url.startswith("http://www.w3.org/")


@pytest.mark.parametrize("name", ["../page.py", "page.py", "", ".", "App.js", "x.js", "a/b.css", "app.js/"])
def test_other_names_are_no_assets(name: str) -> None:
    assert page.asset(name) is None


def test_words_are_the_packages_own() -> None:
    words = text("words.js")
    for each in (*PHASES, *SOURCES, *about.LABELS.values()):
        assert f'"{each}"' in words
    assert page.asset("words.js") == page.Asset(words.encode(), "text/javascript; charset=utf-8")


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_read(theme: str) -> None:
    """WCAG 2.2 AA: 4.5 for text. Bars have their names and the legend beside them; 1.9 keeps them from fading away."""
    rules = re.search(rf"\{{[^{{}}]*color-scheme: {theme};[^}}]*", palette.css())
    assert rules is not None
    colours = dict(re.findall(r"--([a-z_-]+): (#[0-9a-f]{6})", rules[0]))
    for words, ground in (
        *((words, ground) for words in ("ink", "soft") for ground in ("page", "card", "sunk")),
        *(("faint", ground) for ground in ("page", "card")),
        *((tone, f"{tone}-bg") for tone in ("good", "warn", "bad")),
        *((tone, "card") for tone in ("good", "warn", "bad")),
    ):
        assert contrast(colours[words], colours[ground]) >= 4.5, (words, ground)
    for phase in ("network", "queue", "kv_cache_hit", "prefill", "decode", "merged"):
        assert contrast(colours[phase], colours["card"]) >= 1.9, phase
    assert contrast(colours["focus"], colours["page"]) >= 3
