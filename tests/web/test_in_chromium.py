"""Spans that a page sends from a real Chromium: any async iterator."""

from __future__ import annotations

from tests.support.spans import attributes, seconds
from tests.web.conftest import Traced

WORDS = """
  async function* words(before, between, count) {
    await pause(before);
    for (let at = 0; at < count; at++) { if (at) await pause(between); yield { text: "word " }; }
  }
"""


def test_any_async_iterator(traced: Traced) -> None:
    given = traced.run(
        WORDS
        + """
        const request = { provider: "my.engine", model: "tiny", url: "http://127.0.0.1:8000/v1" };
        const all = [];
        for await (const chunk of llm.stream(request, words(60, 20, 5))) all.push(chunk.text);
        return all;
        """
    )
    assert given == ["word "] * 5
    span = traced.received.one("completed")
    assert traced.received.tree(span) == ["chat tiny", ["llm.queue_prefill"], ["llm.decode"]]
    phases = traced.received.phases(span)
    assert seconds(phases["queue_prefill"]) >= 0.059
    assert seconds(phases["decode"]) >= 0.079
    assert attributes(span)["llmtrace.stream.chunks"] == 5
    (call,) = traced.viewer.until(lambda status: status["calls"] >= 1) and traced.viewer.get("/api/calls")["calls"]
    assert [phase["name"] for phase in call["phases"]] == ["queue_prefill", "decode"]
    assert call["service"] == "page"
