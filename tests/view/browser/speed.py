"""How long the page stands still over a large store: the main thread's long tasks, and the wait for each answer.

usage: python -m tests.view.browser.speed URL      (a viewer that holds the spans, such as a million of them)

Each interaction is done as a person would, then its longest task (a stretch in which the page takes no input; the
browser reports those over 50 ms) and the time until what was asked for is seen are printed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.view.browser.conftest import QUIET, find_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Page

WATCH = """
window.tasks = [];
new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map((task) => task.duration)))
  .observe({ type: "longtask", buffered: true });
"""
BAR_MS = 300.0


def rows(page: Page) -> None:
    page.locator(".grid:not([aria-busy]) .rows .call").first.wait_for()


def steps(url: str) -> list[tuple[str, Callable[[Page], object]]]:
    """What a person does, in order, each with what it waits for."""

    def scroll(page: Page) -> None:
        page.mouse.move(700, 500)
        for _ in range(60):
            page.mouse.wheel(0, 1500)
            page.wait_for_timeout(30)

    def search(page: Page) -> None:
        page.keyboard.press("/")
        page.keyboard.type("claude")
        page.wait_for_url("**q=claude**")
        rows(page)

    def facet(page: Page) -> None:
        page.get_by_role("button", name="Model").click()
        page.get_by_role("checkbox").first.wait_for()

    def choose(page: Page) -> None:
        page.get_by_role("checkbox").first.check()
        page.keyboard.press("Escape")
        rows(page)

    def clear(page: Page) -> None:
        page.get_by_role("button", name="Clear filters").click()
        rows(page)

    def order(name: str) -> Callable[[Page], None]:
        def sort(page: Page) -> None:
            page.get_by_label("Order").select_option(name)
            page.wait_for_timeout(50)
            rows(page)

        return sort

    def percentiles(page: Page) -> None:
        page.get_by_role("link", name="Percentiles").click()
        page.locator("figure svg rect.fill").first.wait_for()

    def calls(page: Page) -> None:
        page.get_by_role("link", name="Calls", exact=True).click()
        rows(page)

    def trace(page: Page) -> None:
        page.locator(".rows .call a").first.click()
        page.get_by_role("treeitem").first.wait_for()

    def compare(page: Page) -> None:
        page.go_back()
        rows(page)
        page.locator(".rows .choose").nth(0).click()
        page.locator(".rows .choose").nth(3).click()
        page.keyboard.press("c")
        page.locator(".by-phase").wait_for()

    return [
        ("open the list", lambda page: (page.goto(url), rows(page))),
        ("scroll 1,500 calls", scroll),
        ("search", search),
        ("open a facet", facet),
        ("choose a value", choose),
        ("clear the filters", clear),
        *((f"order by {name}", order(name)) for name in ("slowest", "ttft", "tokens", "newest")),
        ("percentiles", percentiles),
        ("back to the calls", calls),
        ("open a trace", trace),
        ("compare two", compare),
    ]


def main() -> None:
    """Measure and print; exits with 1 where a task is longer than 300 ms."""
    from playwright.sync_api import sync_playwright

    chromium = find_chromium()
    if len(sys.argv) != 2 or chromium is None:
        sys.exit(__doc__)
    worst = 0.0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=list(QUIET))
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(60_000)
        page.add_init_script(WATCH)
        for name, act in steps(sys.argv[1]):
            page.evaluate("window.tasks = []")
            began = time.perf_counter()
            act(page)
            took = time.perf_counter() - began
            page.wait_for_timeout(700)
            longest = max(page.evaluate("window.tasks"), default=0.0)
            worst = max(worst, longest)
            print(
                f"{name:22} {took:6.2f} s   longest task {f'{longest:.0f} ms' if longest else 'under 50 ms'}",
                flush=True,
            )
        browser.close()
    print(f"longest of all: {worst:.0f} ms (bar: {BAR_MS:.0f} ms)")
    sys.exit(worst > BAR_MS)


if __name__ == "__main__":
    main()
