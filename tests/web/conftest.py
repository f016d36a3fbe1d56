"""A page of an origin of its own, beside a viewer that lets it send. Only by ``make browser`` and ``make web``.

``make web`` installs transformers.js and a tiny model for it, too; without these its tests say so and are skipped.
"""

from __future__ import annotations

import functools
import http.server
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.view.browser.conftest import browser, open_page  # noqa: F401  # pyright: ignore[reportUnusedImport]
from tests.view.serve.running import Viewer
from tests.view.serve.running import viewer as viewing
from tests.web.received import Received

if TYPE_CHECKING:
    from playwright.sync_api import Page

if os.environ.get("LLMTRACE_BROWSER") != "1":
    collect_ignore_glob = ["test_in_*.py"]

ROOT = Path(__file__).parents[2]
INSTALLED = Path(os.environ.get("LLMTRACE_WEB", ROOT / ".venvs" / "web"))
"""Where transformers.js (``node_modules``) and its model (``models``) are."""
PLACES = {"web": ROOT, "node_modules": INSTALLED, "models": INSTALLED}


class Files(http.server.SimpleHTTPRequestHandler):
    """The package at ``/web/``, transformers.js and its model, else the test's own folder; quiet about it."""

    seen: list[tuple[str, str | None]] = []
    """Path and ``traceparent`` of what was asked."""

    def translate_path(self, path: str) -> str:
        name = path.split("?", maxsplit=1)[0].lstrip("/")
        place = PLACES.get(name.split("/", maxsplit=1)[0])
        return super().translate_path(path) if place is None else str(place / name)

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("traceparent")))
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The origin of the page, and the folder that it is served from."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").write_text("<!doctype html><title>page</title><link rel='icon' href='data:,'><p>A page")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def receiver(site: tuple[str, Path]) -> Iterator[Viewer]:
    """A viewer to which the page may send."""
    with viewing("--memory", "--allow-origin", site[0]) as started:
        yield started


class Traced:
    """A page with the library loaded as ``llmtrace``, and what it sent."""

    def __init__(self, page: Page, viewer: Viewer) -> None:
        self.page = page
        self.viewer = viewer
        self.received = Received()
        page.on("request", self._sent)
        self.load()

    def load(self) -> None:
        """Load the library into the page."""
        self.page.evaluate(
            """async (endpoint) => {
              const { LlmTrace } = await import("/web/src/index.js");
              globalThis.LlmTrace = LlmTrace;
              globalThis.llm = new LlmTrace({ endpoint, service: "page", delay: 50 });
              globalThis.pause = (ms) => new Promise((done) => setTimeout(done, ms));
            }""",
            self.viewer.url,
        )

    def _sent(self, request: Any) -> None:
        if request.method == "POST" and request.url.endswith("/v1/traces"):
            self.received.take(request.post_data)

    def run(self, script: str, argument: Any = None) -> Any:
        """The value of an async function's body, after what it traced was taken by the viewer."""
        value = self.page.evaluate(f"async (given) => {{ {script} }}", argument)
        problems = self.page.evaluate(
            "async () => { await llm.flush(); return [[...llm.errors], llm.exporter.dropped] }"
        )
        assert problems == [[], 0]
        return value


@pytest.fixture
def traced(receiver: Viewer, site: tuple[str, Path], open_page: Callable[..., Page]) -> Traced:  # noqa: F811
    return Traced(open_page(site[0], allowed="status of 501"), receiver)  # that of a receiver that is none
