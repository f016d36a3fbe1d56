"""transformers.js in a real Chromium, on WASM and, where the browser has it, WebGPU: a tiny model exported for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from llmtrace.reference.tiny import TINY_NAME
from tests.support.spans import assert_contiguous, attributes, seconds
from tests.view.browser.conftest import QUIET, find_chromium
from tests.view.serve.running import Viewer
from tests.web.conftest import INSTALLED, Traced

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LIBRARY = "node_modules/@huggingface/transformers/dist/transformers.min.js"
MODEL = f"models/{TINY_NAME}/onnx/model.onnx"
pytestmark = pytest.mark.skipif(
    not all((INSTALLED / file).is_file() for file in (LIBRARY, MODEL)),
    reason="needs transformers.js and a model exported for it: make web",
)
PROMPT = "The queue is where a request waits while others hold the device. " * 4
START = f"""
  const {{ transformers }} = await import("/web/src/transformers.js");
  const hub = await import("/{LIBRARY}");
  Object.assign(hub.env, {{ allowRemoteModels: false, allowLocalModels: true, localModelPath: "/models/" }});
  hub.env.backends.onnx.wasm.wasmPaths = "/node_modules/onnxruntime-web/dist/";
  globalThis.hub = hub;
  globalThis.make = (device) => (progress) =>
    hub.pipeline("text-generation", "{TINY_NAME}", {{ device, dtype: "fp32", progress_callback: progress }});
  globalThis.request = {{ provider: "transformers.js", model: "{TINY_NAME}", local: true }};
  globalThis.transformers = transformers;
"""


def test_the_first_call_waits_for_the_model_and_says_so(traced: Traced) -> None:
    bare, through, moments = traced.run(
        START
        + """
        globalThis.loading = llm.load(request, make("wasm"));
        globalThis.traced = transformers(llm, request.model, loading);
        const moments = [];
        const streamer = { put: () => moments.push(performance.timeOrigin + performance.now()), end: () => {} };
        const [through] = await traced(given, { max_new_tokens: 6, streamer });
        const [bare] = await (await loading)(given, { max_new_tokens: 6 });
        return [bare, through, moments];
        """,
        PROMPT,
    )
    assert through == bare, "what comes back is transformers.js' own"
    call = traced.received.one("completed")
    (load,) = [span for span in traced.received.finished() if span.name == "llm.model_load" and span.parent is None]
    parts = traced.received.children(load)
    assert [part.name for part in parts] == ["llm.model_load.download", "llm.model_load.compile"]
    assert_contiguous(load, parts)
    assert attributes(load)["llmtrace.model_load.bytes"] >= (INSTALLED / MODEL).stat().st_size
    assert attributes(call)["llmtrace.diagnosis.cause"] == "cold_model"
    phases = traced.received.phases(call)
    assert [name for name in phases if name != "unattributed"] == ["model_load", "prefill", "decode"]
    attrs = attributes(call)
    assert (attrs["gen_ai.usage.output_tokens"], attrs["llmtrace.stream.chunks"]) == (6, 6)
    assert attrs["gen_ai.usage.input_tokens"] == attributes(phases["prefill"])["llmtrace.phase.tokens"] > 40
    assert attributes(phases["decode"])["llmtrace.decode.itl.basis"] == "chunks"
    assert len(moments) == 7
    begun, first, *_, last = (moment + 0.002 for moment in moments)  # a span's times are whole microseconds
    prefill, decode = phases["prefill"], phases["decode"]
    start, answered, end = (time / 1e6 for time in (prefill.start_time, prefill.end_time, decode.end_time))
    assert start <= begun, "the page's own streamer is called just after ours"
    assert begun <= answered + 0.004
    assert answered <= first
    assert end <= last


def test_what_lies_in_the_kv_cache_is_told(traced: Traced) -> None:
    lengths = traced.run(
        START
        + """
        const generator = await make("wasm")();
        const traced = transformers(llm, request.model, generator);
        const cache = new hub.DynamicCache();
        const [{ generated_text: said }] = await traced(given, { max_new_tokens: 4, past_key_values: cache });
        const first = cache.get_seq_length();
        await traced(said + " And then?", { max_new_tokens: 2, past_key_values: cache });
        return [first, generator.tokenizer(said + " And then?").input_ids.dims[1]];
        """,
        PROMPT,
    )
    traced.received.check_all()
    fresh, again = traced.received.parents()
    assert attributes(fresh)["gen_ai.usage.cache_read.input_tokens"] == 0
    assert [
        attributes(again)[f"gen_ai.usage.{name}"] for name in ("cache_read.input_tokens", "input_tokens")
    ] == lengths
    phases = traced.received.phases(again)
    assert [name for name in phases if name != "unattributed"] == ["kv_cache_hit", "prefill", "decode"]
    counted = {
        name: attributes(span)["llmtrace.phase.tokens"] for name, span in phases.items() if name != "unattributed"
    }
    assert counted == {"kv_cache_hit": lengths[0], "prefill": lengths[1] - lengths[0], "decode": 2}


def test_an_error_of_the_model_is_the_pages_own(traced: Traced) -> None:
    told = traced.run(
        START
        + """
        const broken = transformers(llm, request.model, make("nowhere")());
        try { await broken("a") } catch (error) { return [error.name, error.message] }
        """
    )
    assert told[0] == "Error"
    assert "nowhere" in told[1]
    call = traced.received.one("error")
    assert attributes(call)["error.type"] == "Error"


@pytest.fixture
def with_gpu(browser: Browser) -> Iterator[Browser]:
    """A Chromium with WebGPU, in software where there is no GPU."""
    flags = [flag for flag in QUIET if flag != "--disable-gpu"]
    flags += ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
    started = browser.browser_type.launch(executable_path=find_chromium(), headless=True, args=flags)
    yield started
    started.close()


def test_on_webgpu_and_when_its_device_is_lost(with_gpu: Browser, receiver: Viewer, site: Any) -> None:
    page = with_gpu.new_page()
    page.set_default_timeout(120_000)
    page.goto(site[0])
    if not page.evaluate("async () => Boolean(await navigator.gpu?.requestAdapter())"):
        pytest.skip("this browser has no WebGPU")
    traced = Traced(page, receiver)
    reason = traced.run(
        START
        + """
        const generator = await llm.load(request, async (progress) => {
          const made = await make("webgpu")(progress);
          progress("warm_up"); // compiles the shaders
          await made("a", { max_new_tokens: 1 });
          return made;
        });
        const traced = transformers(llm, request.model, generator);
        await traced("The queue", { max_new_tokens: 2 });
        const device = await hub.env.backends.onnx.webgpu.device;
        llm.watch(device);
        let tokens = 0;
        const streamer = { put: () => void (++tokens === 2 && device.destroy()), end: () => {} };
        await traced("The queue", { max_new_tokens: 3, streamer }).catch(() => {});
        return (await device.lost).reason;
        """
    )
    whole, lost = traced.received.parents()
    traced.received.check(whole)
    traced.received.check(lost)
    assert [name for name in traced.received.phases(whole) if name != "unattributed"] == ["prefill", "decode"]
    (load,) = [span for span in traced.received.finished() if span.name == "llm.model_load"]
    assert [part.name.rsplit(".", 1)[1] for part in traced.received.children(load)][-2:] == ["compile", "warm_up"]
    assert seconds(load) > 0
    assert attributes(lost)["llmtrace.device.lost"] == reason == "destroyed"
    assert [event.name for event in lost.events] == ["llmtrace.device.lost"]
