"""The list of calls: what it shows, filters kept in the address, order, scrolling, the keyboard, live tail."""

from __future__ import annotations

import re
import time
from typing import Any

from playwright.sync_api import Page, expect

from tests.view.browser import corpus
from tests.view.browser.conftest import Open
from tests.view.serve.running import Viewer

LIVE_TRACE = "eeeeeeeeeeeeeeeeeeeeeeeeeeee{:04x}"


def rows(page: Page):
    return page.get_by_role("grid", name="Calls").locator(".rows .call")


def total(page: Page):
    return page.locator("h1 small")


def test_every_kind_of_call_is_there_with_its_phases_and_how_they_are_known(viewer: Viewer, open_page: Open) -> None:
    page = open_page(f"{viewer.url}/#/calls?q=smol-135m&order=slowest")
    expect(total(page)).to_have_text(" 8")
    cold = rows(page).first
    expect(cold).to_contain_text("1.83 s")
    expect(cold).to_contain_text("1,042 → 48")
    expect(cold.locator(".bar")).to_have_attribute(
        "aria-label",
        re.compile(r"network .*client, plus or minus.*queue .*server; prefill 1.18\ss, device; decode .*client"),
    )
    estimated = rows(page).nth(1)
    expect(estimated.locator(".seg.estimate")).to_have_count(2)
    expect(estimated.locator(".whisker").first).to_be_attached()
    expect(rows(page).filter(has_text="cancelled")).to_have_count(1)
    expect(rows(page).filter(has_text="3 attempts")).to_have_count(1)
    expect(page.locator(".seg.stripe.blind")).to_have_count(1)


def test_hovering_a_bar_tells_its_numbers(viewer: Viewer, open_page: Open) -> None:
    page = open_page(f"{viewer.url}/#/calls?q=smol-135m&order=slowest")
    rows(page).nth(1).locator(".bar").hover()
    tip = page.get_by_role("tooltip")
    expect(tip).to_contain_text("estimate")
    expect(tip).to_contain_text("843 ms")
    expect(tip).to_contain_text("92.0 ms")
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()


def test_filters_are_kept_in_the_address(viewer: Viewer, open_page: Open) -> None:
    page = open_page(viewer.url)
    everything = viewer.get("/api/calls?limit=1")["total"]
    expect(total(page)).to_have_text(f" {everything}")
    page.get_by_role("button", name="Service").click()
    page.get_by_role("checkbox", name="shop").check()
    expect(total(page)).to_have_text(" 2")
    expect(page).to_have_url(re.compile("service=shop"))
    page.get_by_role("checkbox", name="demo").check()
    expect(total(page)).to_have_text(" 10")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Cause", exact=True).click()
    page.get_by_role("checkbox", name="queueing").check()
    expect(total(page)).to_have_text(" 1")
    page.reload()
    expect(total(page)).to_have_text(" 1")
    expect(page.get_by_role("button", name="Service (2)")).to_be_visible()
    page.get_by_role("button", name="Remove the filter cause: queueing").click()
    expect(total(page)).to_have_text(" 10")
    page.go_back()
    expect(total(page)).to_have_text(" 1")
    page.get_by_role("button", name="Clear filters").click()
    expect(total(page)).to_have_text(f" {everything}")


def test_text_time_and_slowness_filter(viewer: Viewer, open_page: Open) -> None:
    page = open_page(viewer.url)
    page.keyboard.press("/")
    page.keyboard.type("gpt-4.1")
    expect(total(page)).to_have_text(" 1")
    expect(rows(page)).to_have_count(1)
    page.get_by_role("searchbox").fill("")
    page.get_by_role("button", name="Time").click()
    page.get_by_label("Slower than, seconds").fill("1.5")
    page.get_by_label("Slower than, seconds").press("Enter")
    expect(total(page)).to_have_text(" 2")
    page.get_by_label("Last hour").check()
    expect(page.get_by_role("heading", name="No call fits these filters")).to_be_visible()


def test_it_is_ordered_by_its_headings(viewer: Viewer, open_page: Open) -> None:
    page = open_page(viewer.url)
    page.get_by_role("button", name="Total").click()
    expect(rows(page).first).to_contain_text("1.83 s")
    expect(page).to_have_url(re.compile("order=slowest"))
    expect(page.get_by_role("columnheader", name="Total")).to_have_attribute("aria-sort", "descending")
    page.get_by_label("Order").select_option("tokens")
    expect(rows(page).first).to_contain_text("1,042")


def test_all_calls_are_reached_by_scrolling_and_few_are_elements(viewer: Viewer, open_page: Open) -> None:
    page = open_page(viewer.url)
    everything = viewer.get("/api/calls?limit=1")["total"]
    expect(rows(page).first).to_be_visible()
    for _ in range(60):
        page.mouse.wheel(0, 6000)
        page.wait_for_timeout(60)
        if page.evaluate("Number(document.querySelector('.rows .call:last-child')?.dataset.index)") == everything - 1:
            break
    expect(rows(page).last).to_contain_text("9 Oct 2025")
    assert page.evaluate("Number(document.querySelector('.rows .call:last-child').dataset.index)") == everything - 1
    assert rows(page).count() < 60


def test_the_way_back_from_a_trace_leads_to_the_same_place(viewer: Viewer, open_page: Open) -> None:
    page = open_page(viewer.url)
    expect(rows(page).first).to_be_visible()
    page.mouse.move(700, 500)
    for _ in range(20):
        page.mouse.wheel(0, 500)
        page.wait_for_timeout(40)
    place = page.evaluate("scrollY")
    assert place > 5000
    row = rows(page).nth(rows(page).count() // 2)
    told, link = (row.inner_text(), row.bounding_box()), row.locator("a").get_attribute("href")
    row.locator("a").click()
    expect(page.get_by_role("tree")).to_be_visible()
    page.go_back()
    expect(rows(page).first).to_be_visible()
    page.wait_for_timeout(500)
    again = rows(page).filter(has=page.locator(f"a[href='{link}']"))
    assert abs(page.evaluate("scrollY") - place) < 3
    assert (again.inner_text(), again.bounding_box()) == told


def test_the_keyboard_alone_walks_the_list_and_chooses_two(viewer: Viewer, open_page: Open) -> None:
    page = open_page(f"{viewer.url}/#/calls?q=smol-135m&order=slowest")
    expect(rows(page)).to_have_count(8)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.rows .call')"):
            break
    expect(rows(page).nth(0)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(rows(page).nth(1)).to_be_focused()
    page.keyboard.press("End")
    expect(rows(page).nth(7)).to_be_focused()
    page.keyboard.press("Home")
    page.keyboard.press("x")
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.get_by_role("region", name="Chosen for comparison")).to_contain_text("1.83 s")
    expect(rows(page).nth(1)).to_be_focused()
    page.keyboard.press("c")
    expect(page.get_by_role("heading", level=1)).to_contain_text("B took")
    page.go_back()
    expect(rows(page)).to_have_count(8)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_role("tree")).to_be_visible()


def test_shortcuts_are_listed_and_can_be_switched_off(viewer: Viewer, open_page: Open) -> None:
    page = open_page(viewer.url)
    expect(rows(page).first).to_be_visible()
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard shortcuts")
    expect(dialog).to_be_visible()
    dialog.get_by_role("checkbox").uncheck()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.keyboard.press("2")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Calls")
    page.get_by_role("button", name="Keyboard shortcuts").click()
    dialog.get_by_role("checkbox").check()
    dialog.get_by_role("button", name="Close").click()
    page.keyboard.press("2")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Percentiles")
    page.keyboard.press("1")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Calls")


def live_call(number: int) -> dict[str, Any]:
    now_ms = (time.time_ns() - corpus.START) / corpus.MS
    return corpus.request(corpus.call(LIVE_TRACE.format(number), 0x10 * number, now_ms - 400, model=f"live-{number}"))


def test_new_calls_come_by_themselves(own_viewer: Viewer, open_page: Open) -> None:
    page = open_page(own_viewer.url)
    expect(page.get_by_role("heading", name="No traces yet")).to_be_visible()
    own_viewer.send(live_call(1))
    expect(rows(page)).to_have_count(1)
    own_viewer.send(live_call(2))
    expect(rows(page)).to_have_count(2)
    expect(rows(page).first).to_contain_text("live-2")
    expect(total(page)).to_have_text(" 2")


def test_live_tail_can_be_held(own_viewer: Viewer, open_page: Open) -> None:
    own_viewer.send(live_call(1))
    page = open_page(own_viewer.url)
    expect(rows(page)).to_have_count(1)
    live = page.get_by_role("button", name="Live")
    expect(live).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("l")
    expect(live).to_have_attribute("aria-pressed", "false")
    expect(page).to_have_url(re.compile("live=0"))
    own_viewer.send(live_call(2))
    expect(page.locator("#foot")).to_contain_text("10 spans")  # the page knows of it
    page.wait_for_timeout(1200)
    expect(rows(page)).to_have_count(1)
    live.click()
    expect(rows(page)).to_have_count(2)


def test_new_calls_do_not_move_what_is_read(own_viewer: Viewer, open_page: Open) -> None:
    for each in corpus.many(60):
        own_viewer.send(each)
    page = open_page(own_viewer.url)
    expect(rows(page).first).to_be_visible()
    page.mouse.move(700, 500)
    page.mouse.wheel(0, 900)
    page.wait_for_timeout(300)
    place = "[...document.querySelectorAll('.rows .call')].find((row) => row.getBoundingClientRect().top > 300)"
    read = page.evaluate(f"{{ const row = {place}; [row.querySelector('a').hash, row.getBoundingClientRect().top] }}")
    for number in range(1, 4):
        own_viewer.send(live_call(number))
    expect(page.get_by_role("button", name=re.compile("[123] new call"))).to_be_visible()
    expect(total(page)).to_have_text(" 63")
    page.wait_for_timeout(200)
    now = page.evaluate(f"{{ const row = {place}; [row.querySelector('a').hash, row.getBoundingClientRect().top] }}")
    assert now[0] == read[0]
    assert abs(now[1] - read[1]) < 1.5
    page.get_by_role("button", name=re.compile("new call")).click()
    expect(rows(page).filter(has_text="live-3")).to_be_visible()
