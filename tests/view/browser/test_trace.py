"""One trace as a waterfall: the whole tree, closing and opening, details, oddities, a hundred thousand spans."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect

from tests.view.browser import corpus
from tests.view.browser.conftest import Open, loaded
from tests.view.serve.running import Viewer
from tests.view.serve.running import viewer as viewing


def spans(page: Page):
    return page.get_by_role("treeitem")


def test_the_whole_tree_is_there(viewer: Viewer, open_page: Open) -> None:
    page = open_page(f"{viewer.url}/#/trace/{corpus.TASK}")
    expect(spans(page)).to_have_count(14)
    levels = [(item.get_attribute("aria-level"), item.locator(".said").inner_text()) for item in spans(page).all()]
    assert levels[:4] == [
        ("1", "POST /answer"),
        ("2", "retrieve"),
        ("3", "SELECT documents"),
        ("2", "chat llama-3.1-8b"),
    ]
    assert ("3", "llm_request") in levels
    expect(page.get_by_text("model-server, shop")).to_be_visible()
    queue = page.get_by_role("treeitem", name=re.compile(r"^queue shop 40.0\sms estimate ±15.0\sms"))
    expect(queue).to_have_count(2)
    expect(queue.first.locator(".seg.estimate")).to_have_count(1)
    link = page.get_by_role("link", name="Open in Jaeger")
    expect(link).to_have_attribute("href", f"http://localhost:16686/trace/{corpus.TASK}")


def test_what_is_under_a_span_closes_and_opens_by_keys(viewer: Viewer, open_page: Open) -> None:
    page = open_page(f"{viewer.url}/#/trace/{corpus.TASK}")
    expect(spans(page)).to_have_count(14)
    spans(page).nth(0).focus()
    page.keyboard.press("ArrowDown")
    expect(spans(page).nth(1)).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(spans(page)).to_have_count(13)
    expect(spans(page).nth(1)).to_have_attribute("aria-expanded", "false")
    expect(spans(page).nth(1)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(spans(page)).to_have_count(14)
    page.keyboard.press("ArrowRight")
    expect(spans(page).nth(2)).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(spans(page).nth(1)).to_be_focused()
    page.get_by_role("button", name="Close calls").click()
    expect(spans(page)).to_have_count(5)
    page.get_by_role("button", name="Open all").click()
    expect(spans(page)).to_have_count(14)
    spans(page).nth(0).locator(".twist").click()
    expect(spans(page)).to_have_count(1)


def test_details_hold_all_that_a_span_says(viewer: Viewer, open_page: Open) -> None:
    page = open_page(f"{viewer.url}/#/trace/{corpus.TASK}")
    spans(page).filter(has_text="chat llama-3.1-8b").focus()
    page.keyboard.press("Enter")
    pane = page.get_by_role("complementary", name="Details of the span")
    expect(pane).to_be_focused()
    for told in ("gen_ai.request.model", "llmtrace.diagnosis", "Event llmtrace.diagnosis at 400 ms", "Links"):
        expect(pane).to_contain_text(told.replace("400 ms", "400\u00a0ms"))
    pane.get_by_text("Resource", exact=True).click()
    expect(pane).to_contain_text("deployment.environment.name")
    expect(page).to_have_url(re.compile("span=0000000000000100"))
    expect(pane.get_by_role("link", name="Open in Jaeger")).to_have_attribute(
        "href", re.compile("uiFind=0000000000000100")
    )
    pane.get_by_role("link", name=re.compile("span 0000000000000500")).click()
    expect(page.get_by_role("treeitem", name=re.compile("^<img src=x"))).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Escape")
    expect(pane).to_be_hidden()


def test_an_address_with_a_span_opens_at_it(viewer: Viewer, open_page: Open) -> None:
    page = open_page(f"{viewer.url}/#/trace/{corpus.TASK}?span=0000000000000203")
    expect(page.get_by_role("treeitem", selected=True)).to_have_attribute("aria-label", re.compile("^prefill"))
    page = open_page(f"{viewer.url}/#/trace/{corpus.TASK}?span=00000000000000ff", allowed="404")
    expect(page.get_by_text("is not in this trace")).to_be_visible()
    expect(spans(page)).to_have_count(14)


def test_the_border_between_names_and_bars_moves_and_is_remembered(viewer: Viewer, open_page: Open) -> None:
    page = open_page(f"{viewer.url}/#/trace/{corpus.TASK}")
    for path, width in ((f"#/trace/{corpus.TASK}", ".span .name"), ("#/calls", ".rows .call .what")):
        page.goto(f"{viewer.url}/{path}")
        border = page.get_by_role("separator", name="Width of the names")
        expect(page.locator(width).first).to_be_visible()

        def names(width: str = width) -> float:
            return page.locator(width).first.evaluate("(name) => name.getBoundingClientRect().width")

        usual = names()
        box = border.bounding_box()
        assert box is not None
        middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.move(*middle)
        page.mouse.down()
        page.mouse.move(middle[0] + 120, middle[1], steps=4)
        page.mouse.up()
        assert abs(names() - usual - 120) < 12
        dragged = names()
        page.reload()
        expect(page.locator(width).first).to_be_visible()
        assert abs(names() - dragged) < 2
        border.focus()
        page.keyboard.press("ArrowLeft")
        assert names() < dragged - 5
        expect(border).to_be_focused()
        page.keyboard.press("Enter")
        assert abs(names() - usual) < 2


def test_zoom_shows_one_span_over_the_whole_width(viewer: Viewer, open_page: Open) -> None:
    page = open_page(f"{viewer.url}/#/trace/{corpus.TASK}")
    spans(page).filter(has_text="retrieve").focus()
    page.keyboard.press("z")
    wide = spans(page).filter(has_text="retrieve").locator(".track")
    expect(page.get_by_role("button", name="Whole trace")).to_be_visible()
    shares = wide.evaluate(
        "(track) => track.firstChild.getBoundingClientRect().width / track.getBoundingClientRect().width"
    )
    assert shares > 0.98
    expect(spans(page).filter(has_text="gpt-4.1-mini").locator(".beyond")).to_have_text("→")
    page.get_by_role("button", name="Whole trace").click()
    expect(page.locator(".beyond")).to_have_count(0)


def test_markup_and_direction_marks_are_only_text(viewer: Viewer, open_page: Open) -> None:
    page = open_page(f"{viewer.url}/#/trace/{corpus.ODD}?span=0000000000000500")
    pane = page.get_by_role("complementary")
    expect(pane).to_contain_text(corpus.MARKUP)
    expect(pane).to_contain_text("rightto left\ufffd[31m")
    assert page.locator("main img, main script, main b:text-is('service')").count() == 0
    page.goto(f"{viewer.url}/#/calls?q=img%20src")
    expect(page.locator(".rows .call")).to_have_count(1)
    page.goto(f"{viewer.url}/#/percentiles?q=img%20src")
    expect(page.get_by_role("heading", level=1)).to_contain_text("1 call")
    assert page.title() != "owned"
    assert page.locator("main img, main script").count() == 0


def test_orphans_errors_and_long_names(viewer: Viewer, open_page: Open) -> None:
    page = open_page(f"{viewer.url}/#/trace/{corpus.ODD}")
    expect(page.get_by_text("1 span whose parent is not here")).to_be_visible()
    expect(page.get_by_role("treeitem", name=re.compile("lost child no parent"))).to_have_attribute("aria-level", "1")
    expect(page.get_by_role("treeitem", name=re.compile(", error"))).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory):
    file = tmp_path_factory.mktemp("huge") / "huge.otlp.jsonl"
    with file.open("w") as out:
        out.writelines(f"{json.dumps(each)}\n" for each in corpus.huge(100_001))
    with viewing(str(file)) as started:
        started.until(loaded)
        yield started


def test_a_hundred_thousand_spans(huge: Viewer, open_page: Open) -> None:
    page = open_page(f"{huge.url}/#/trace/{corpus.HUGE}")
    expect(page.get_by_text("100,001 spans")).to_be_visible()
    assert spans(page).count() < 80
    spans(page).nth(0).focus()
    page.keyboard.press("End")
    expect(page.get_by_role("treeitem", name=re.compile("^decode"))).not_to_have_count(0)
    expect(page.locator('[data-index="100000"]')).to_have_attribute("aria-label", re.compile("^decode"))
    assert spans(page).count() < 80
    page.mouse.wheel(0, -1_500_000)  # to the middle
    expect(page.locator(".span:not(.waiting)").first).to_be_visible()
    page.keyboard.press("Home")
    expect(spans(page).first).to_have_attribute("aria-label", re.compile("^a long night"))
    page.keyboard.press("ArrowLeft")
    expect(spans(page)).to_have_count(1)
    expect(spans(page).first).to_contain_text("+100,000")
