"""Both versions of the span contract on one page, and calls that another instrumentation tells of too."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.support.recorder import Recorder, demo_calls
from tests.support.shared_calls import shared_calls
from tests.view.browser.conftest import Open
from tests.view.serve.running import Viewer
from tests.view.serve.running import viewer as viewing

TRACE = 0x4BF92F3577B34DA600000000 << 32
OLD, NEW, CANCELLED, ADOPTED, PAIR = 2, 102, 105, 201, 202


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    folder = tmp_path_factory.mktemp("versions")
    demo_calls(Recorder(1)).save(folder / "1.jsonl")
    demo_calls(Recorder(2, traces=100)).save(folder / "2.jsonl")
    shared_calls(Recorder(2, traces=200)).save(folder / "3.jsonl")
    with viewing(str(folder)) as started:
        started.until(lambda status: status["spans"] == 39 + 46 + 29)
        yield started


def trace(number: int) -> str:
    return f"{TRACE | number:032x}"


def item(page: Page, name: str):
    return page.get_by_role("treeitem", name=re.compile(name))


def test_an_adopted_span_says_what_the_call_took_and_leads_to_the_guilty_phase(both: Viewer, open_page: Open) -> None:
    page = open_page(f"{both.url}/#/trace/{trace(ADOPTED)}")
    queue = item(page, "^queue")
    expect(queue).to_have_attribute("aria-label", re.compile(r"estimate −40\.0/\+130\sms verdict queueing"))  # noqa: RUF001
    item(page, "^ChatCompletion").click()
    pane = page.get_by_role("complementary", name="Details of the span")
    expect(pane).to_contain_text("The call itself took 1.66\u00a0s; this span is another instrumentation's.")
    expect(pane).to_contain_text("830\u00a0ms more than usual, beside 4 calls of the application's own, 90% sure")
    pane.get_by_role("button", name="in queue").click()
    expect(queue).to_have_attribute("aria-selected", "true")
    expect(pane).to_contain_text("840\u00a0ms −40.0/+130\u00a0ms")  # noqa: RUF001


def test_a_call_in_two_spans(both: Viewer, open_page: Open) -> None:
    page = open_page(f"{both.url}/#/trace/{trace(PAIR)}")
    expect(page.get_by_role("treeitem")).to_have_count(7)
    call = item(page, "^call ")
    expect(call.locator(".seg.piece")).to_have_count(5)
    call.click()
    pane = page.get_by_role("complementary", name="Details of the span")
    expect(pane.get_by_role("heading", name="Verdict")).to_be_visible()
    expect(pane).to_contain_text("830\u00a0ms more than usual")


def test_why_it_was_not_told_apart(both: Viewer, open_page: Open) -> None:
    page = open_page(f"{both.url}/#/trace/{trace(CANCELLED)}")
    item(page, r"^queue \+ prefill").click()
    told = "12 of 30 calls on this route; 18 more, or a saved baseline, would help (few_calls)"
    expect(page.get_by_role("complementary")).to_contain_text(f"Not told apart: {told}")
    page = open_page(f"{both.url}/#/calls?q={trace(CANCELLED)}")
    page.locator(".rows .call .bar").hover()
    expect(page.get_by_role("tooltip")).to_contain_text(told)


def test_what_versions_count_differently_is_one_row(both: Viewer, open_page: Open) -> None:
    calls = {call["trace_id"]: call for call in both.get("/api/calls", limit=100)["calls"]}
    a, b = (f"{trace(number)}:{calls[trace(number)]['span_id']}" for number in (OLD, NEW))
    page = open_page(f"{both.url}/#/compare?a={a}&b={b}")
    expect(page.get_by_role("row", name=re.compile("^network \\+ unattributed"))).to_contain_text("0\u00a0s")
    expect(page.get_by_text("are one figure here")).to_be_visible()
    page = open_page(f"{both.url}/#/percentiles")
    expect(page.get_by_role("row", name=re.compile("^network \\+ unattributed"))).to_have_count(1)
    expect(page.get_by_text("are one figure here")).to_be_visible()
    expect(page.locator(".chart-key").get_by_text("network + unattributed")).to_be_visible()


def test_new_phases_have_colours_of_their_own(both: Viewer, open_page: Open) -> None:
    page = open_page(f"{both.url}/#/calls")
    legend = page.get_by_role("list", name="Phases")
    colours = {
        name: legend.locator("li").filter(has_text=re.compile(f"^{name}$")).locator(".dot")
        .evaluate("(dot) => getComputedStyle(dot).backgroundColor")
        for name in ("network", "gateway", "unattributed", "queue", "cache hit", "prefill", "decode")
    }  # fmt: skip
    assert len(set(colours.values())) == len(colours), colours
