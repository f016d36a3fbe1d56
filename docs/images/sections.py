"""Takes a picture of sections of a report's page, light and dark, for a guide.

    python docs/images/sections.py fleet.html fleet "How fast they spread" "Against the version before"

Needs playwright, pillow and a Chromium on the PATH. It overwrites NAME-light.png and NAME-dark.png beside this file.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from take import HERE, QUIET, SCALE, WIDTH, take


def main() -> None:
    """Both colour schemes, in at most 256 colours, which a page hardly has."""
    address, name, *titles = sys.argv[1:]
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("no Chromium on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        for scheme in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": WIDTH, "height": 1000}, device_scale_factor=SCALE, color_scheme=scheme
            )
            picture = HERE / f"{name}-{scheme}.png"
            take(page, Path(address).resolve().as_uri(), "section", tuple(titles), picture)
            Image.open(picture).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(picture, optimize=True)
        browser.close()


if __name__ == "__main__":
    main()
