"""Takes the pictures of a demo that the README and the guides show: ``make pictures``.

    python docs/images/take.py [FOLDER]      FOLDER: what `llmtrace demo` wrote; without it a demo is run

Needs playwright and a Chromium on the PATH. It overwrites demo-*.png and table-*.png beside this file.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
CALLS = ("Long prompt", "Same prefix again", "Burst of 5 (5)")
TABLE = "Measured by the server"
WIDTH, SCALE, MARGIN = 1128, 1.5, 16
"""Of the page in CSS pixels, device pixels per one of them, and CSS pixels around what is shown."""
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]

SHOW_ONLY = """([kind, titles]) => {
    const chosen = [...document.querySelectorAll(kind)].filter((each) => {
        const heading = each.querySelector('h2, h3');
        return heading && titles.some((title) => heading.textContent.trim().startsWith(title));
    });
    const kept = new Set(chosen);
    for (const each of chosen)
        for (let above = each.parentElement; above; above = above.parentElement) kept.add(above);
    for (const each of document.body.querySelectorAll('*'))
        if (!kept.has(each) && !chosen.some((one) => one.contains(each))) each.style.display = 'none';
    return chosen.map((each) => each.querySelector('h2, h3').textContent.trim());
}"""


def take(page: Page, address: str, kind: str, titles: tuple[str, ...], picture: Path) -> None:
    """Photograph the elements of this kind whose headings begin so, and nothing else of the page."""
    page.goto(address)
    shown: list[str] = page.evaluate(SHOW_ONLY, [kind, list(titles)])
    if len(shown) != len(titles):
        sys.exit(f"the page has {shown} of {list(titles)}: has a scenario of the demo got another name?")
    boxes: list[Any] = [box for each in page.locator(f"{kind}:visible").all() if (box := each.bounding_box())]
    top = min(box["y"] for box in boxes)
    bottom = max(box["y"] + box["height"] for box in boxes)
    clip = {"x": 0, "y": max(0, top - MARGIN), "width": WIDTH, "height": bottom - top + 2 * MARGIN}
    page.screenshot(path=picture, clip=clip, full_page=True)
    print(f"{picture}: {', '.join(shown)}")


def main() -> None:
    """Both pictures in both colour schemes."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("no Chromium on the PATH")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)
        if len(sys.argv) < 2:
            subprocess.run([str(Path(sys.executable).parent / "llmtrace"), "demo", "--out", scratch], check=True)
        address = (folder / "trace.html").resolve().as_uri()
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        for scheme in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": WIDTH, "height": 1000}, device_scale_factor=SCALE, color_scheme=scheme
            )
            take(page, address, "article", CALLS, HERE / f"demo-{scheme}.png")
            take(page, address, "section", (TABLE,), HERE / f"table-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    main()
