"""Open a page in headless Chromium, wait for a text on it, photograph it, print what it says.

usage: screenshot.py URL TEXT OUT.png      (needs playwright, which lives beside Phoenix, and a Chromium on the PATH)
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile

from playwright.sync_api import TimeoutError, sync_playwright

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def main() -> None:
    """Photograph the page named on the command line."""
    url, text, out = sys.argv[1:]
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium on the PATH")
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, headless=True, args=QUIET, viewport={"width": 1500, "height": 900}
        )
        page = browser.new_page()
        page.goto(url, wait_until="domcontentloaded", timeout=60_000)
        page.get_by_text(text).first.wait_for(timeout=60_000)
        with contextlib.suppress(TimeoutError):  # MLflow's page goes on asking
            page.wait_for_load_state("networkidle", timeout=10_000)
        page.wait_for_timeout(2000)  # the panels slide in
        page.screenshot(path=out)
        print(page.inner_text("body"))
        browser.close()


if __name__ == "__main__":
    main()
