"""A tab that another one lies in front of, for real: a Chromium driven without Playwright, which has none hidden."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.support.spans import attributes, seconds
from tests.support.waiting import wait_for
from tests.view.browser.conftest import QUIET, find_chromium
from tests.view.serve.running import Viewer
from tests.web.received import Received


class Chromium:
    """A browser with one tab, over its debugging socket."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._sent = 0
        (self.tab,) = (
            each["targetId"] for each in self.ask("Target.getTargets")["targetInfos"] if each["type"] == "page"
        )
        self._session = self.ask("Target.attachToTarget", targetId=self.tab, flatten=True)["sessionId"]

    def ask(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """What a method of the protocol answers."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        self._socket.send(json.dumps(message if session is None else {**message, "sessionId": session}))
        while (answer := json.loads(self._socket.recv(20))).get("id") != self._sent:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def run(self, script: str) -> Any:
        """The value of an async function's body in the tab."""
        expression = f"(async () => {{ {script} }})()"
        options = {"awaitPromise": True, "returnByValue": True}
        answer = self.ask("Runtime.evaluate", self._session, expression=expression, **options)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def becomes(self, state: str) -> None:
        wait_for(lambda: self.run("return document.visibilityState") == state)


@pytest.fixture
def chromium(site: tuple[str, Path], tmp_path: Path) -> Iterator[Chromium]:
    path = find_chromium()
    if path is None:
        pytest.skip("needs a Chromium: apt-get install chromium, or LLMTRACE_CHROMIUM=/path/to/it")
    options = ("--headless=new", "--no-sandbox", "--no-first-run", "--remote-debugging-port=0", *QUIET)
    process = subprocess.Popen(
        [path, *options, f"--user-data-dir={tmp_path}", site[0]], stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        told = tmp_path / "DevToolsActivePort"
        wait_for(lambda: told.exists() and "/" in told.read_text())
        port, place = told.read_text().split("\n")[:2]
        with connect(f"ws://127.0.0.1:{port}{place}", max_size=None) as socket:
            driven = Chromium(socket)
            wait_for(lambda: driven.run("return location.origin + document.readyState") == f"{site[0]}complete")
            yield driven
    finally:
        process.terminate()
        process.wait(20)


def test_another_tab_in_front_of_it_counts_as_hidden(chromium: Chromium, receiver: Viewer) -> None:
    chromium.run(
        f"""
        const {{ LlmTrace }} = await import("/web/src/index.js");
        globalThis.llm = new LlmTrace({{ endpoint: "{receiver.url}", service: "page" }});
        globalThis.sent = [];
        const own = fetch;
        globalThis.fetch = (url, options) => (sent.push(options.body), own(url, options));
        globalThis.chunks = 0;
        async function* words() {{
          for (let at = 0; at < 4; at++) {{
            if (at) await new Promise((go) => (globalThis.next = go));
            yield {{ text: "word " }};
          }}
        }}
        globalThis.over = (async () => {{
          const request = {{ provider: "my.engine", model: "tiny", url: location.href }};
          for await (const chunk of llm.stream(request, words())) chunks++;
        }})();
        """
    )

    def go_on(chunks: int) -> None:
        wait_for(lambda: chromium.run("return chunks") == chunks)
        chromium.run("next()")

    go_on(1)
    chromium.ask("Target.createTarget", url="about:blank")
    chromium.becomes("hidden")
    go_on(2)
    chromium.ask("Target.activateTarget", targetId=chromium.tab)
    chromium.becomes("visible")
    go_on(3)
    received = Received()
    for body in chromium.run("await over; await llm.flush(); return sent"):
        received.take(body)
    call = received.one("completed")
    assert [event.name for event in call.events] == ["llmtrace.page.hidden", "llmtrace.page.visible"]
    hidden, seen = (event.timestamp for event in call.events)
    assert attributes(call)["llmtrace.page.hidden_duration"] == pytest.approx((seen - hidden) / 1e9, abs=3e-4)
    assert 0 < attributes(call)["llmtrace.page.hidden_duration"] < seconds(call)
