"""Can everybody use it: axe's rules on every page in both themes, a phone, the keyboard's focus, less motion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.view.browser import corpus
from tests.view.browser.conftest import Open
from tests.view.serve.running import Viewer

AXE = Path(__file__).parents[3] / ".venvs" / "browser" / "node_modules" / "axe-core" / "axe.min.js"
COMPARED = f"#/compare?a={corpus.TASK}:0000000000000100&b={corpus.TASK}:0000000000000200"
PAGES = {
    "calls": "#/calls?q=smol-135m",
    "chosen": f"#/calls?q=smol-135m&service=demo&a={corpus.TASK}:0000000000000100",
    "nothing": "#/calls?q=nothing-like-this",
    "trace": f"#/trace/{corpus.TASK}?span=0000000000000100",
    "odd trace": f"#/trace/{corpus.ODD}",
    "compare": COMPARED,
    "percentiles": "#/percentiles",
}


def settled(page: Page) -> None:
    expect(page.get_by_role("heading").first).to_be_visible()
    expect(page.locator(".skeleton")).to_have_count(0)
    page.wait_for_timeout(200)


def violations(page: Page) -> list[str]:
    """What axe finds, each with the first place where it is."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found: dict[str, Any] = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:200]} {each['nodes'][0]['failureSummary'][:300]}"
        for each in found["violations"]
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(viewer: Viewer, open_page: Open, name: str, theme: str) -> None:
    if not AXE.exists():
        pytest.skip("needs axe-core, which make browser installs from npm")
    page = open_page(f"{viewer.url}/{PAGES[name]}", color_scheme=theme, reduced_motion="reduce")
    settled(page)
    assert violations(page) == []


def test_axe_finds_nothing_in_what_opens(viewer: Viewer, own_viewer: Viewer, open_page: Open) -> None:
    if not AXE.exists():
        pytest.skip("needs axe-core, which make browser installs from npm")
    page = open_page(own_viewer.url, reduced_motion="reduce")
    settled(page)
    assert violations(page) == []
    page = open_page(viewer.url, reduced_motion="reduce")
    settled(page)
    page.get_by_role("button", name="Time", exact=True).click()
    assert violations(page) == []
    page.get_by_role("button", name="Service").click()
    expect(page.get_by_role("checkbox", name="shop")).to_be_visible()
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Keyboard shortcuts").click()
    assert violations(page) == []


def test_the_theme_follows_the_system_until_it_is_chosen(viewer: Viewer, open_page: Open) -> None:
    page = open_page(viewer.url, color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    settled(page)
    dark = page.evaluate(background)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(background)
    assert dark != light
    page.get_by_role("button", name="Switch to dark colours").click()
    assert page.evaluate(background) == dark
    page.reload()
    assert page.evaluate(background) == dark
    expect(page.get_by_role("button", name="Switch to light colours")).to_be_visible()


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_shows_it_without_sideways_scrolling(viewer: Viewer, open_page: Open, name: str) -> None:
    page = open_page(
        f"{viewer.url}/{PAGES[name]}", width=390, height=844, has_touch=True, is_mobile=True, device_scale_factor=2
    )
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    small = page.evaluate(
        "[...document.querySelectorAll('main button, main .button, header button, header nav a, select')]"
        ".filter((one) => one.offsetParent && !one.matches('[tabindex=\"-1\"], .id, .link'))"
        ".filter((one) => one.getBoundingClientRect().height < 24).map((one) => one.outerHTML.slice(0, 90))"
    )
    assert small == []  # WCAG 2.2: 24 by 24 pixels at least


def test_a_phone_reads_a_trace_and_filters(viewer: Viewer, open_page: Open) -> None:
    page = open_page(viewer.url, width=390, height=844, has_touch=True, is_mobile=True)
    page.get_by_role("button", name="Filters").tap()
    page.get_by_role("button", name="Service").tap()
    page.get_by_role("checkbox", name="shop").tap()
    expect(page.locator("h1 small")).to_have_text(" 2")
    page.get_by_role("button", name="Filters (1)").tap()
    page.locator(".rows .call").first.tap(position={"x": 200, "y": 20})
    expect(page.get_by_role("tree")).to_be_visible()
    page.get_by_role("treeitem").filter(has_text="retrieve").tap()
    pane = page.get_by_role("complementary")
    expect(pane).to_be_in_viewport()
    expect(pane).to_contain_text("retrieval")
    pane.get_by_role("button", name="Close").tap()
    expect(pane).to_be_hidden()


@pytest.mark.parametrize("name", ["calls", "trace", "compare", "percentiles"])
def test_whatever_tab_reaches_shows_that_it_has_the_focus(viewer: Viewer, open_page: Open, name: str) -> None:
    page = open_page(f"{viewer.url}/{PAGES[name]}")
    settled(page)
    seen: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        told = page.evaluate(
            "(() => { const one = document.activeElement; if (one === document.body) return null;"
            " const style = getComputedStyle(one);"
            " return [one.outerHTML.slice(0, 60), style.outlineStyle, parseFloat(style.outlineWidth)]; })()"
        )
        if told is None:
            break
        assert told[1] != "none", told
        assert told[2] >= 1, told
        seen.append(told[0])
    assert len(seen) > 5


def test_less_motion_where_it_is_asked_for(viewer: Viewer, open_page: Open) -> None:
    page = open_page(viewer.url, reduced_motion="reduce")
    settled(page)
    moving = "document.getAnimations().filter((one) => one.playState === 'running').length"
    assert page.evaluate(moving) == 0


def test_nothing_is_asked_of_elsewhere(viewer: Viewer, open_page: Open) -> None:
    page = open_page("about:blank")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for path in PAGES.values():
        page.goto(f"{viewer.url}/{path}")
        settled(page)
    assert asked
    assert [url for url in asked if not url.startswith(f"{viewer.url}/")] == []
    policy = page.request.get(viewer.url).headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
