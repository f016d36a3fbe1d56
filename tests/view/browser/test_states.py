"""Nothing yet, nothing found, loading, errors, and a server that goes and comes back."""

from __future__ import annotations

import re

from playwright.sync_api import Route, expect

from tests.view.browser import corpus
from tests.view.browser.conftest import Open
from tests.view.serve.running import Viewer
from tests.view.serve.running import viewer as viewing


def test_an_empty_viewer_says_what_to_set(own_viewer: Viewer, open_page: Open) -> None:
    page = open_page(own_viewer.url)
    expect(page.get_by_text(f"llmtrace run --otlp {own_viewer.url} -- python app.py")).to_be_visible()
    page.get_by_role("link", name="Percentiles").click()
    expect(page.get_by_text(f"llmtrace run --otlp {own_viewer.url} -- python app.py")).to_be_visible()


def test_spans_without_a_call(own_viewer: Viewer, open_page: Open) -> None:
    own_viewer.send(corpus.request([corpus.span("f" * 32, 7, "GET /health", 0, 3)]))
    page = open_page(own_viewer.url)
    expect(page.get_by_role("heading", name="Spans, but no LLM call among them")).to_be_visible()


def test_loading_shows_until_the_answer_comes(viewer: Viewer, open_page: Open) -> None:
    page = open_page("about:blank")
    waiting: list[Route] = []

    def hold(route: Route) -> None:
        waiting.append(route)

    page.route("**/api/calls?*", hold)
    page.goto(viewer.url)
    expect(page.get_by_role("status", name="Loading calls")).to_be_visible()
    for route in waiting:
        route.continue_()
    page.unroute("**/api/calls?*")
    expect(page.locator(".rows .call").first).to_be_visible()


def test_a_file_that_is_read_shows_how_far(viewer: Viewer, open_page: Open) -> None:
    page = open_page("about:blank")
    told = viewer.get("/api/status") | {
        "spans": 0,
        "calls": 0,
        "loading": {"path": "/data/night.otlp.jsonl", "done_bytes": 3 << 20, "total_bytes": 12 << 20},
    }
    page.route("**/api/status", lambda route: route.fulfill(json=told))
    page.route("**/api/calls?*", lambda route: route.fulfill(json={"calls": [], "next": None, "total": 0}))
    page.goto(viewer.url)
    expect(page.get_by_text("/data/night.otlp.jsonl")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_have_attribute("value", "0.25")
    expect(page.get_by_text("3.00 MiB of 12.0 MiB".replace(" M", "\u00a0M"))).to_be_visible()


def test_an_error_of_the_server_is_told_and_can_be_tried_again(viewer: Viewer, open_page: Open) -> None:
    page = open_page("about:blank", allowed="503")
    page.route("**/api/calls?*", lambda route: route.fulfill(status=503, json={"error": "the disk is full"}))
    page.goto(viewer.url)
    expect(page.get_by_text("the disk is full")).to_be_visible()
    page.unroute("**/api/calls?*")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".rows .call").first).to_be_visible()


def test_an_unknown_trace_and_an_unknown_page(viewer: Viewer, open_page: Open) -> None:
    page = open_page(f"{viewer.url}/#/trace/{'9' * 32}", allowed="404")
    expect(page.get_by_role("heading", name="Not found")).to_be_visible()
    page.goto(f"{viewer.url}/#/nowhere")
    expect(page.get_by_role("heading", name="No such page")).to_be_visible()


def test_the_server_goes_and_comes_back(open_page: Open) -> None:
    with viewing("--memory") as first:
        first.send(corpus.request(corpus.call("1" * 32, 16, 0)))
        page = open_page(first.url, allowed="Failed to load resource")
        expect(page.locator(".rows .call")).to_have_count(1)
        port = int(first.url.rsplit(":", 1)[1])
        first.stop()
    expect(page.get_by_role("alert").filter(has_text="does not answer")).to_be_visible()
    expect(page.locator(".rows .call")).to_have_count(1)  # what was there stays readable
    expect(page.get_by_role("button", name="Ask now")).to_be_visible()
    with viewing("--memory", "--port", str(port)) as second:
        second.send(corpus.request(corpus.call("2" * 32, 16, 0, model="after")))
        expect(page.get_by_text("does not answer")).to_have_count(0)
        expect(page.locator(".rows .call").filter(has_text="after")).to_have_count(1)


def test_names_without_end_do_not_widen_the_page(viewer: Viewer, open_page: Open) -> None:
    for width in (390, 1440):
        for path in (f"#/calls?q={corpus.LONG[:40]}", f"#/trace/{corpus.ODD}", f"#/percentiles?model={corpus.LONG}"):
            page = open_page(f"{viewer.url}/{path}", width=width)
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            page.wait_for_timeout(300)
            fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
            assert page.evaluate(fits), (width, path)
            assert re.search("[0-9]", page.inner_text("main"))
