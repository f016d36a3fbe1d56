"""Two calls compared, and percentiles."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from llmtrace.view.palette import LABELS
from tests.view.browser import corpus
from tests.view.browser.conftest import Open
from tests.view.serve.running import Viewer


def test_two_calls_side_by_side(viewer: Viewer, open_page: Open) -> None:
    slow, other = (viewer.get("/api/calls?q=smol-135m&order=slowest&limit=8")["calls"][at] for at in (0, 2))
    a, b = (f"{call['trace_id']}:{call['span_id']}" for call in (other, slow))
    page = open_page(f"{viewer.url}/#/compare?a={a}&b={b}")
    by = slow["duration_s"] - other["duration_s"]
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(r"^B took \d+ ms longer".replace(" ", r"\s")))
    assert by > 0
    bars = page.locator(".scale-row .bar")
    expect(bars).to_have_count(2)
    widths = [bar.locator(".whole").evaluate("(piece) => piece.getBoundingClientRect().width") for bar in bars.all()]
    assert abs(widths[0] / widths[1] - other["duration_s"] / slow["duration_s"]) < 0.01  # one scale
    prefill = page.get_by_role("row", name=re.compile("^prefill"))
    expect(prefill).to_contain_text("device")
    expect(page.get_by_role("row", name=re.compile("^total"))).to_contain_text("+")
    page.get_by_role("button", name="Swap A and B").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("less")
    expect(page.get_by_role("row", name=re.compile("^total"))).to_contain_text("\N{MINUS SIGN}")


def test_attributes_that_differ(viewer: Viewer, open_page: Open) -> None:
    page = open_page(f"{viewer.url}/#/compare?a={corpus.TASK}:0000000000000100&b={corpus.TASK}:0000000000000200")
    differ = page.get_by_role("region", name="Attributes that differ")
    expect(differ).to_contain_text("gen_ai.request.model")
    expect(differ.get_by_role("row", name=re.compile("llmtrace.diagnosis "))).to_contain_text("absent")
    expect(page.locator(".side-card").first).to_contain_text("queueing")


def test_comparing_needs_two(viewer: Viewer, open_page: Open) -> None:
    page = open_page(f"{viewer.url}/#/compare?a={corpus.TASK}:0000000000000100")
    expect(page.get_by_role("heading", name="Choose two calls")).to_be_visible()
    page = open_page(f"{viewer.url}/#/compare?a=00ff:01&b=00ff:02", allowed="40")
    expect(page.get_by_role("alert").filter(has=page.get_by_role("heading"))).to_be_visible()


def test_percentiles_are_the_servers(viewer: Viewer, open_page: Open) -> None:
    told = viewer.get("/api/percentiles?q=smol-135m")
    page = open_page(f"{viewer.url}/#/percentiles?q=smol-135m")
    expect(page.get_by_role("heading", level=1)).to_contain_text("of 8 calls")
    names = {LABELS[phase["name"]] for phase in told["phases"]}
    assert {"cache hit", "queue + prefill", "not told apart"} <= names
    table = page.get_by_role("region", name="Percentiles by phase")
    assert set(table.locator("tbody th").all_inner_texts()) == names
    prefill = next(phase for phase in told["phases"] if phase["name"] == "prefill")
    expect(table.get_by_role("row", name=re.compile("^prefill"))).to_contain_text(str(prefill["count"]))


def test_charts_can_be_read_by_keys_and_as_a_table(viewer: Viewer, open_page: Open) -> None:
    page = open_page(f"{viewer.url}/#/percentiles")
    chart = page.locator("figure").filter(has_text="Phases, each one's median")
    plot = chart.get_by_role("img")
    plot.focus()
    page.keyboard.press("ArrowRight")
    expect(chart.locator(".readout")).to_contain_text(re.compile("9 Oct 2025, .*network .*, 8 calls"))
    page.keyboard.press("End")
    chart.get_by_text("As a table").click()
    assert chart.locator("tbody tr").count() > 2
    page.keyboard.press("Home")
    plot.focus()
    page.keyboard.press("Home")
    chart.get_by_role("link", name="its calls").click()
    expect(page.locator(".rows .call")).to_have_count(8)


def test_filters_go_along_from_calls_to_percentiles(viewer: Viewer, open_page: Open) -> None:
    page = open_page(f"{viewer.url}/#/calls?service=shop")
    expect(page.locator("h1 small")).to_have_text(" 2")
    page.get_by_role("link", name="Percentiles").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("of 2 calls")
