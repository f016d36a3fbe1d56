"""WebLLM's streams, played in a real Chromium by an engine of this test's own: its models need a compiled library each
and a GPU, so that the engine itself does not run here. Chunks have the shape of its ``ChatCompletionChunk``."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.spans import attributes, seconds
from tests.web.conftest import Traced

MODEL = "Llama-3.2-1B-Instruct-q4f16_1-MLC"
WORDS = ("", "A", " slow", " reader", "")


def chunks(prompt: int, rate: float) -> list[dict[str, Any]]:
    """A stream of WebLLM: an empty delta first, one for each word, the finish, and the usage where it was asked for."""
    common = {"id": "chatcmpl-1", "model": MODEL, "object": "chat.completion.chunk", "created": 1}
    deltas = [{"delta": {"role": "assistant", "content": word}, "finish_reason": None, "index": 0} for word in WORDS]
    end = {"delta": {}, "finish_reason": "stop", "index": 0}
    extra = {"e2e_latency_s": 0.2, "prefill_tokens_per_s": rate, "decode_tokens_per_s": 50.0}
    usage = {"prompt_tokens": prompt, "completion_tokens": 3, "total_tokens": prompt + 3, "extra": extra}
    return [*({**common, "choices": [choice]} for choice in (*deltas, end)), {**common, "choices": [], "usage": usage}]


ENGINE = """
  const { webllm } = await import("/web/src/webllm.js");
  const model = given.model;
  const engine = { chat: { completions: { create: async (request) => {
    globalThis.asked = request;
    return (async function* () {
      await pause(80);
      for (const chunk of given.chunks) {
        if (chunk.usage && !request.stream_options?.include_usage) continue;
        yield chunk;
        await pause(5);
      }
    })();
  } } } };
  const texts = async (stream) => {
    const all = [];
    for await (const chunk of stream) all.push(chunk.choices[0]?.delta.content ?? null);
    return all;
  };
"""


def test_usage_tells_the_prefill_and_stays_with_us(traced: Traced) -> None:
    given = {"model": MODEL, "chunks": chunks(12, 300.0)}
    seen, asked = traced.run(
        ENGINE
        + """
        const request = { messages: [{ role: "user", content: "PROMPT-SENTINEL" }], max_tokens: 9, temperature: 1 };
        return [await texts(webllm(llm, model, engine)(request)), { ...asked, messages: null }];
        """,
        given,
    )
    assert seen == [*WORDS, None], "the chunk that only has the usage was asked for by us"
    assert asked["stream_options"] == {"include_usage": True}
    call = traced.received.one("completed")
    assert traced.received.tree(call) == [f"chat {MODEL}", ["llm.queue"], ["llm.prefill"], ["llm.decode"]]
    attrs, phases = attributes(call), traced.received.phases(call)
    assert seconds(phases["prefill"]) == pytest.approx(12 / 300.0, abs=2e-6)
    assert attributes(phases["prefill"])["llmtrace.phase.source"] == "server"
    counts = [attrs[f"gen_ai.usage.{name}"] for name in ("input_tokens", "cache_read.input_tokens", "output_tokens")]
    assert counts == [12, 0, 3]
    assert (list(attrs["gen_ai.response.finish_reasons"]), attrs["gen_ai.response.id"]) == (["stop"], "chatcmpl-1")
    assert type(attrs["gen_ai.request.temperature"]) is float


def test_a_later_round_counts_what_was_computed(traced: Traced) -> None:
    seen = traced.run(
        ENGINE
        + """
        const messages = ["user", "assistant", "user"].map((role) => ({ role, content: "a" }));
        return texts(webllm(llm, model, engine)({ messages, stream_options: { include_usage: true } }));
        """,
        {"model": MODEL, "chunks": chunks(5, 100.0)},
    )
    assert len(seen) == len(WORDS) + 2, "who asked for the usage gets it"
    call = traced.received.one("completed")
    attrs = attributes(call)
    assert "gen_ai.usage.input_tokens" not in attrs, "WebLLM does not tell what its cache holds"
    assert attributes(traced.received.phases(call)["prefill"])["llmtrace.phase.tokens"] == 5


def test_a_call_that_waits_for_the_engine_and_a_device_that_is_lost(traced: Traced) -> None:
    parts = traced.run(
        ENGINE
        + """
        const loading = llm.load({ provider: "webllm", model }, async (progress) => {
          for (const text of [
            "Start to fetch params",
            "Fetching param cache[1/2]: 10MB fetched. 50% completed, 1 secs elapsed.",
            "Loading model from cache[1/2]: 10MB loaded. 50% completed, 1 secs elapsed.",
            "Loading GPU shader modules[1/9]: 11% completed, 1 secs elapsed.",
            "Finish loading on WebGPU - swiftshader",
          ]) { progress({ progress: 0.5, timeElapsed: 1, text }); await pause(30); }
          return engine;
        });
        engine.chat.completions.create = async () => {
          await pause(5);
          throw Object.assign(new Error("PROMPT-SENTINEL"), { name: "DeviceLostError" });
        };
        await texts(webllm(llm, model, loading)({ messages: [] })).catch((error) => error.name);
        """,
        {"model": MODEL, "chunks": []},
    )
    assert parts is None
    call = traced.received.one("error")
    attrs = attributes(call)
    assert (attrs["error.type"], attrs["llmtrace.device.lost"]) == ("DeviceLostError", "unknown")
    assert attrs["llmtrace.diagnosis.cause"] == "cold_model"
    (load,) = [span for span in traced.received.finished() if span.name == "llm.model_load" and span.parent is None]
    parts = [part.name.removeprefix("llm.model_load.") for part in traced.received.children(load)]
    assert parts == ["download", "to_device", "compile"]
