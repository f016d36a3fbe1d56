"""Spans that a page sends from a real Chromium: any async iterator."""

from __future__ import annotations

from typing import Any

from tests.support.spans import attributes, seconds
from tests.web.conftest import Files, Traced

WORDS = """
  async function* words(before, between, count) {
    await pause(before);
    for (let at = 0; at < count; at++) { if (at) await pause(between); yield { text: "word " }; }
  }
"""


def arrived(traced: Traced, span: Any) -> list[Any]:
    """The viewer's calls of this span's trace, once there are any: other tests send to the same viewer."""
    for _ in traced.viewer.patiently():
        if calls := traced.viewer.get("/api/calls", q=f"{span.context.trace_id:032x}")["calls"]:
            return calls
    raise AssertionError("no call came")


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
    (call,) = arrived(traced, span)
    assert [phase["name"] for phase in call["phases"]] == ["queue_prefill", "decode"]
    assert call["service"] == "page"


def test_numbers_that_json_does_not_have_cost_themselves_at_most(traced: Traced) -> None:
    """A BigInt in one call, which JSON.stringify refuses, had lost all the spans that were sent together."""
    traced.run(
        WORDS
        + """
        const request = { provider: "my.engine", model: "odd", maxTokens: Infinity, url: "http://127.0.0.1/v1" };
        for await (const chunk of llm.stream(request, words(1, 1, 2), () => ({ input: 12n, output: 1e300 }))) ;
        """
    )
    marks = attributes(traced.received.one("completed"))
    assert marks["gen_ai.usage.input_tokens"] == 12
    assert "gen_ai.request.max_tokens" not in marks


def test_a_call_that_loads_its_model_first_says_so(traced: Traced) -> None:
    traced.run(
        WORDS
        + """
        const request = { provider: "my.engine", model: "tiny", url: "http://127.0.0.1:8000/v1" };
        const source = async (call) => {
          await call.loading(async (progress) => {
            progress("download"); await pause(60); progress("compile"); await pause(60);
          });
          return words(10, 5, 3);
        };
        for await (const chunk of llm.stream(request, source)) ;
        """
    )
    span = traced.received.one("completed")
    parts = [["llm.model_load.download"], ["llm.model_load.compile"]]
    names = traced.received.tree(span)[1:]
    assert ["llm.model_load", *parts] in names
    assert [name for name, *_ in names if name != "llm.unattributed"] == [
        "llm.model_load",
        "llm.queue_prefill",
        "llm.decode",
    ]
    assert attributes(span)["llmtrace.diagnosis.cause"] == "cold_model"
    (event,) = traced.received.phases(span)["model_load"].events
    assert event.attributes["llmtrace.diagnosis.excess"] >= 0.119


def test_every_end(traced: Traced) -> None:
    ends = traced.run(
        WORDS
        + """
        const request = { provider: "my.engine", model: "tiny", url: "http://127.0.0.1:8000/v1" };
        async function* broken(name, after) {
          yield* words(1, 1, after); throw new DOMException("PROMPT-SENTINEL", name);
        }
        for await (const chunk of llm.stream(request, words(1, 1, 3))) break;
        const seen = [];
        for (const [name, after] of [["AbortError", 2], ["TimeoutError", 0], ["DataError", 2], ["DataError", 0]])
          try { for await (const chunk of llm.stream(request, broken(name, after))) ; }
          catch (error) { seen.push(error.name); }
        return seen;
        """
    )
    assert ends == ["AbortError", "TimeoutError", "DataError", "DataError"], "the page's own errors pass"
    traced.received.check_all()
    outcomes = [attributes(span)["llmtrace.call.outcome"] for span in traced.received.parents()]
    assert outcomes == ["closed_early", "cancelled", "timed_out", "error", "error"]


def test_nobody_there_is_told_once_and_breaks_nothing(traced: Traced) -> None:
    told = traced.page.evaluate(
        "async () => {"
        + WORDS
        + """
        const told = []; console.warn = (text) => told.push(text);
        const away = new LlmTrace({ endpoint: location.origin + "/nowhere", delay: 1 });
        for (let round = 0; round < 2; round++) {
          const read = () => { throw new Error(); };
          for await (const chunk of away.stream({ provider: "p", model: "m" }, words(1, 1, 2), read)) ;
          await away.flush();
        }
        return [told.length, away.exporter.dropped];
        }"""
    )
    assert told == [1, 6]


def test_half_a_character_costs_no_span(traced: Traced) -> None:
    """A model's name that was cut inside an emoji: JSON may hold its half, and strict receivers refuse the body."""
    traced.run(
        WORDS
        + r"""
        const request = { provider: "my.engine", model: "a\ud83d b\u{1f600}", url: "http://127.0.0.1:8000/v1" };
        for await (const chunk of llm.stream(request, words(1, 1, 2))) ;
        """
    )
    span = traced.received.one("completed")
    assert attributes(span)["gen_ai.request.model"] == "a\ufffd b\U0001f600"
    (call,) = arrived(traced, span)
    assert call["model"] == "a\ufffd b\U0001f600"


def test_the_trace_goes_on_to_the_pages_own_server_and_to_no_other(traced: Traced) -> None:
    Files.seen.clear()
    traced.run(
        WORDS
        + """
        const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        const joined = new LlmTrace({ endpoint: given, parent, delay: 1 });
        const elsewhere = location.href.replace("127.0.0.1", "localhost");
        const source = async (call) => {
          await call.fetch("/index.html?own");
          await call.fetch(new Request("/index.html?request", { headers: { "X-Kept": "1" } }));
          await call.fetch(elsewhere + "?other", { mode: "no-cors" });
          return words(1, 1, 2);
        };
        for await (const chunk of joined.stream({ provider: "p", model: "m", url: location.href }, source)) ;
        await joined.flush();
        """,
        traced.viewer.url,
    )
    call = traced.received.one("completed")
    sent = dict(Files.seen)
    here = f"00-{call.context.trace_id:032x}-{call.context.span_id:016x}-01"
    assert sent == {"/index.html?own": here, "/index.html?request": here, "/?other": None}
    assert here.startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert f"{call.parent.span_id:016x}" == "b7ad6b7169203331"
