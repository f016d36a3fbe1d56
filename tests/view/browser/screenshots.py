"""Pictures of the page for README and docs, from a run of the demo: ``make pictures``.

usage: python -m tests.view.browser.screenshots [FOLDER]      (what the demo wrote; without it the demo is run first)
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.view.browser.conftest import QUIET, find_chromium, loaded
from tests.view.serve.running import Viewer
from tests.view.serve.running import viewer as viewing

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

IMAGES = Path(__file__).parents[3] / "docs" / "images"
LARGEST = 300 * 1024


def calls(viewer: Viewer, **query: str) -> list[dict[str, Any]]:
    return viewer.get("/api/calls", **query)["calls"]


def name(call: dict[str, Any]) -> str:
    return f"{call['trace_id']}:{call['span_id']}"


def most(found: list[dict[str, Any]], phase: str) -> dict[str, Any]:
    """The call that spent the largest share in a phase."""

    def share(call: dict[str, Any]) -> float:
        spent = sum(part["duration_s"] for part in call["phases"] if part["name"] == phase)
        return spent / max(call["duration_s"], 1e-9)

    return max(found, key=share)


def save(page: Page, title: str, **options: Any) -> None:
    """The picture with at most 256 colours, which the page hardly has."""
    from PIL import Image

    path = IMAGES / f"view-{title}.png"
    page.mouse.move(0, 0)
    page.wait_for_timeout(400)
    page.screenshot(path=path, **options)
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path.relative_to(IMAGES.parents[1])}: {size / 1024:.0f} KiB")
    assert size < LARGEST, f"{path} is too large for a page that people load"


def opened(browser: Browser, url: str, theme: str, width: int, height: int, **options: Any) -> Page:
    page = browser.new_context(
        color_scheme=theme,  # pyright: ignore[reportArgumentType]
        viewport={"width": width, "height": height},
        reduced_motion="reduce",
        **{"device_scale_factor": 2, **options},
    ).new_page()
    page.goto(url)
    page.get_by_role("heading", level=1).wait_for()
    page.locator(".skeleton").wait_for(state="detached")
    page.wait_for_timeout(600)
    return page


def take(browser: Browser, viewer: Viewer) -> None:
    """Every picture."""
    found = calls(viewer, limit="500")
    queued, computed = most(found, "queue"), most(found, "prefill")
    for theme in ("light", "dark"):
        save(opened(browser, f"{viewer.url}/#/calls?order=slowest", theme, 1280, 760), f"list-{theme}")
    retried = max(found, key=lambda call: call["attempts"])
    trace = f"#/trace/{retried['trace_id']}?span={retried['span_id']}"
    page = opened(browser, f"{viewer.url}/{trace}", "dark", 1280, 760)
    page.get_by_role("treeitem").filter(has_text="prefill").first.click()
    save(page, "trace-dark")
    page = opened(browser, f"{viewer.url}/#/compare?a={name(computed)}&b={name(queued)}", "light", 1280, 860)
    save(page, "compare")
    save(opened(browser, f"{viewer.url}/#/percentiles", "light", 1280, 1180), "percentiles")
    phone = {"is_mobile": True, "has_touch": True, "device_scale_factor": 2}
    save(opened(browser, f"{viewer.url}/#/calls", "light", 390, 844, **phone), "phone")


def main() -> None:
    """Run the demo, or take the folder that is named, and photograph the page over it."""
    from playwright.sync_api import sync_playwright

    chromium = find_chromium()
    if chromium is None:
        sys.exit("no Chromium on the PATH: apt-get install chromium, or set LLMTRACE_CHROMIUM")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else scratch)
        if len(sys.argv) < 2:
            subprocess.run([sys.executable, "-m", "llmtrace.cli", "demo", "--all", "--out", scratch], check=True)
        with viewing(folder / "traces.otlp.jsonl") as viewer, sync_playwright() as playwright:
            viewer.until(loaded)
            browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=list(QUIET))
            take(browser, viewer)
            browser.close()


if __name__ == "__main__":
    main()
