"""The real page of the real server in a real browser: only run where it is asked for, by ``make browser``.

LLMTRACE_BROWSER=1 turns these tests on. They need playwright (``pip install "llmtrace-phases[browser]"``) and a
Chromium, which is looked for on the PATH and in LLMTRACE_CHROMIUM; without either they say so and are skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.view.browser import corpus
from tests.view.serve.running import Viewer
from tests.view.serve.running import viewer as viewing

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

if os.environ.get("LLMTRACE_BROWSER") != "1":
    collect_ignore_glob = ["test_*.py"]

QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


def loaded(status: dict[str, Any]) -> bool:
    """The files that the viewer was given are read."""
    return status["loading"] is None and status["spans"] > 0


def find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("LLMTRACE_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    api.expect.set_options(timeout=20_000)  # on a busy machine the viewer takes seconds until a span is a call
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("needs a Chromium: apt-get install chromium, or LLMTRACE_CHROMIUM=/path/to/it")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, headless=True, args=list(QUIET))
        yield started
        started.close()


@pytest.fixture(scope="session")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    """A viewer over every kind of call. Tests that send spans use ``own_viewer``."""
    file = corpus.everything(tmp_path_factory.mktemp("corpus") / "traces.otlp.jsonl")
    with viewing(str(file), "--jaeger", "http://localhost:16686") as started:
        started.until(loaded)
        yield started


@pytest.fixture
def own_viewer() -> Iterator[Viewer]:
    """An empty viewer."""
    with viewing("--memory") as started:
        yield started


Open = Callable[..., "Page"]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens an address; whatever the console or the page complains about fails the test.

    ``allowed`` is what it may complain about: the answers that a test provokes.
    """
    complaints: list[str] = []
    contexts: list[Any] = []

    def opened(url: str, *, width: int = 1440, height: int = 900, allowed: str | None = None, **context: Any) -> Page:
        made = browser.new_context(viewport={"width": width, "height": height}, **context)
        contexts.append(made)
        page = made.new_page()

        def complain(text: str) -> None:
            if allowed is None or allowed not in text:
                complaints.append(text)

        page.on("console", lambda message: complain(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complain(str(error)))
        page.set_default_timeout(20_000)
        page.goto(url)
        return page

    yield opened
    for made in contexts:
        made.close()
    assert complaints == []
