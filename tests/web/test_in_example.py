"""The example page: a prompt answered by the page's own model and by a real server, and both in the viewer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from examples.browser.serve import serve
from llmtrace.reference.tiny import build_tiny
from tests.view.serve.running import viewer as viewing
from tests.web.conftest import INSTALLED
from tests.web.test_in_transformers import pytestmark  # noqa: F401 - it needs the same

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_a_prompt_goes_where_it_is_answered_sooner(open_page: Callable[..., Page], tmp_path: Path) -> None:
    from playwright.sync_api import expect

    from tests.web.export import SMALL

    build_tiny(tmp_path / "llmtrace-tiny", spec=SMALL)
    page_server = serve(0, "http://127.0.0.1:0", INSTALLED)
    origin = f"http://127.0.0.1:{page_server.server_port}"
    with viewing("--memory", "--allow-origin", origin) as viewer:
        environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": viewer.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        command = [sys.executable, "-m", "llmtrace", "serve", "--port", "0", "--model", str(tmp_path / "llmtrace-tiny")]
        model = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            assert model.stderr is not None
            url = next(found[0] for line in model.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
            page_server.RequestHandlerClass.keywords["server_url"] = url  # type: ignore[attr-defined]
            threading.Thread(target=page_server.serve_forever, daemon=True).start()
            page = open_page(f"{origin}/?viewer={viewer.url}")
            for first, to in enumerate(["page", "server", "page", "sooner"]):
                page.locator("#to").select_option(to)
                page.get_by_role("button", name="Send").click()
                expect(page.locator("#chosen")).to_contain_text("answered by the", timeout=90_000)
                if first < 2:
                    expect(page.locator("#routes")).to_contain_text(f"{to}1")
            sooner = page.locator("#chosen").inner_text().removeprefix("answered by the ")
            would_take = {row[0]: float(row[-1]) for row in page.locator("#routes tr").evaluate_all(ROWS)}
            assert sorted(would_take) == ["page", "server"]
            assert sooner in would_take
            viewer.until(lambda status: status["calls"] >= 4)
            calls = viewer.get("/api/calls")["calls"]
            assert sorted(call["service"] for call in calls) == ["browser-example"] * 4
            on_server = next(call for call in calls if call["provider"] == "openai")
            for _ in viewer.patiently():
                joined = viewer.get(f"/api/traces/{on_server['trace_id']}")
                if len(joined["services"]) == 2:
                    break
            assert sorted(joined["services"]) == ["browser-example", "llmtrace-reference"]
        finally:
            model.terminate()
            model.wait(30)
            page_server.shutdown()
            page_server.server_close()


ROWS = "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
