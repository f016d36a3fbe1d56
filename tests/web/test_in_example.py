"""The example page: a prompt answered by the page's own model and by a real server, and both in the viewer.

``LLMTRACE_PICTURE=docs/images/browser.png`` takes the picture of the docs on the way.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from examples.browser.serve import Site
from llmtrace.reference.tiny import TINY_NAME, build_tiny
from tests.view.serve.running import viewer as viewing
from tests.web import test_in_transformers
from tests.web.conftest import INSTALLED

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = test_in_transformers.pytestmark
CELLS = "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"


def test_a_prompt_goes_where_it_is_answered_sooner(open_page: Callable[..., Page], tmp_path: Path) -> None:
    from playwright.sync_api import expect

    from tests.web.export import SMALL

    build_tiny(tmp_path / TINY_NAME, spec=SMALL)
    page_server = Site(0, "", INSTALLED)  # the viewer is told its origin, and the model's server the viewer's address
    origin = f"http://127.0.0.1:{page_server.server_port}"
    command = [sys.executable, "-m", "llmtrace", "serve", "--port", "0", "--model", str(tmp_path / TINY_NAME)]
    with viewing("--memory", "--allow-origin", origin) as viewer:
        environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": viewer.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as model:
            try:
                assert model.stderr is not None
                page_server.server_url = next(
                    address[0] for line in model.stderr if (address := re.search(r"http://127\.0\.0\.1:\d+", line))
                )
                threading.Thread(target=page_server.serve_forever, daemon=True).start()
                page = open_page(f"{origin}/?viewer={viewer.url}")
                for to in ("page", "server", "page", "sooner"):
                    would_take = {row[0]: float(row[-1]) for row in page.locator("#routes tr").evaluate_all(CELLS)}
                    page.locator("#to").select_option(to)
                    page.get_by_role("button", name="Send").click()
                    expect(page.locator("#chosen")).to_contain_text("answered by the", timeout=90_000)
                    answered = page.locator("#chosen").inner_text().removeprefix("answered by the ")
                    assert answered == (min(would_take, key=would_take.__getitem__) if to == "sooner" else to)
                assert min(would_take.values()) > 0, "both were measured by then"
                viewer.until(lambda status: status["calls"] >= 4)
                calls = viewer.get("/api/calls")["calls"]
                assert [call["service"] for call in calls] == ["browser-example"] * 4
                trace = next(call["trace_id"] for call in calls if call["provider"] == "openai")
                for _ in viewer.patiently():
                    joined = viewer.get(f"/api/traces/{trace}")
                    if len(joined["services"]) == 2:
                        break
                assert sorted(joined["services"]) == ["browser-example", "llmtrace-reference"]
                if picture := os.environ.get("LLMTRACE_PICTURE"):
                    page.goto(f"{viewer.url}/#/trace/{trace}")
                    page.get_by_role("treeitem").nth(7).wait_for()
                    page.screenshot(path=picture, clip={"x": 0, "y": 0, "width": 1440, "height": 630})
                    page.goto("about:blank")
            finally:
                model.terminate()
                page_server.shutdown()
                page_server.server_close()
