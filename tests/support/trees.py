"""The span trees of docs/providers, made by the code as it is: ``make trees``, or some with ``make trees ARGS=ollama``.

Each is a real client's call to a local server that plays a stream, 120 ms to its first event and 20 ms from event to
event, unless the page says otherwise.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan

import llmtrace
from tests.support import by_funnel, by_library, by_method, ndjson
from tests.support.by_method import Driver
from tests.support.replay import Replay, Script, completion, json_answer, paced
from tests.support.spans import Spans, attributes, seconds

PAGES = Path(__file__).parents[2] / "docs" / "providers"
_MARKED = re.compile(r"(<!-- tree: (\S+) -->\n\n).*?(\n<!-- end -->)", re.S)
Concurrency = Callable[[Replay], Driver]
"""Sets the server's answer up, and makes the client."""


def _plain(driver_class: type[Driver], last_fields: Mapping[str, Any] | None = None) -> Concurrency:
    """A stream; ``last_fields``: fields to add to its last event."""

    def scene(replay: Replay) -> Driver:
        driver = driver_class("sync" if "sync" in driver_class.kinds else "async", replay.url)
        events = driver.events()
        if last_fields:
            at = max(i for i, event in enumerate(events) if b'{"' in event)
            events[at] = (
                b"data: %s\n\n" % json.dumps(json.loads(events[at].removeprefix(b"data: ")) | last_fields).encode()
            )
        replay.serve(driver.script(paced(events, 0.12, 0.02), lockstep=True))
        return driver

    return scene


class _Thinking(by_funnel.Anthropic):
    def events(self, words: Sequence[str] = by_method.WORDS, usage: bool = True, **extra: Any) -> list[bytes]:
        answer_events = super().events(words, usage, **extra)
        block = {"type": "thinking", "thinking": "", "signature": ""}
        thought = [{"type": "thinking_delta", "thinking": word} for word in ("Let", " me", " see")]
        thought.append({"type": "signature_delta", "signature": "c2ln"})
        thinking = [
            {"type": "content_block_start", "index": 0, "content_block": block},
            *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in thought),
            {"type": "content_block_stop", "index": 0},
        ]
        return [
            answer_events[0],
            *by_funnel.typed_events(*thinking),
            *(event.replace(b'"index": 0', b'"index": 1') for event in answer_events[1:]),
        ]


def _ollama(replay: Replay) -> Driver:
    loaded = {"total_duration": 515_000_000, "load_duration": 210_000_000, "prompt_eval_duration": 190_000_000}
    end = ndjson.COUNTS | loaded | {"eval_duration": 95_000_000}
    replay.serve(ndjson.stream(end=end, ttft=0.42, itl=0.02, lockstep=True))
    return by_library.Ollama("sync", replay.url)


class _Router(by_library.LiteLLM):
    def ask(self, streaming: bool) -> Any:
        place = {"api_base": f"{self.url}/v1", "api_key": "k"}
        names = {"big": "gpt-4o", "small": "gpt-4o-mini"}
        models = [
            {"model_name": name, "litellm_params": {"model": f"openai/{model}", **place}}
            for name, model in names.items()
        ]
        router = self.client.Router(model_list=models, fallbacks=[{"big": ["small"]}], num_retries=1, retry_after=0)
        return router.completion(model="big", messages=by_library.MESSAGES)


def _router(replay: Replay) -> Driver:
    driver = _Router("sync", replay.url)

    def answer(request: Any) -> Script:
        model = request.json["model"]
        if model == "gpt-4o":
            return driver.refusal(503)
        answered = json_answer(completion("Hello", model=model))
        return Script(200, answered.headers, [(0.12, part) for _, part in answered.parts], chunked=False)

    replay.serve(answer)
    return driver


class _Transformers(Driver):
    """A small Llama with random weights, in this process."""

    name = "transformers"
    kinds = ("sync",)

    def make(self) -> Any:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.set_num_threads(1)
        sizes = {"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 256, "intermediate_size": 512}
        self.prompt = torch.arange(5, 405).unsqueeze(0)
        return LlamaForCausalLM(LlamaConfig(vocab_size=1000, **sizes)).eval()

    def stream(self) -> Any:
        settings = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False, "pad_token_id": 0}
        return list(self.client.generate(self.prompt, **settings))

    def plain(self, item: Any) -> Any:
        return item


_VLLM = {"queue_time_ms": 30.0, "time_to_first_token_ms": 80.0, "generation_time_ms": 120.0}
SCENES: dict[str, Concurrency] = {
    "openai": _plain(by_funnel.Responses),
    "openai-compatible": _plain(by_funnel.OpenAI, {"metrics": _VLLM}),
    "anthropic": _plain(_Thinking),
    "ollama": _ollama,
    "litellm": _router,
    "transformers": lambda replay: _Transformers("sync", replay.url),
}
"""By the name that a page has at the place."""


def made(name: str, calls: int = 2) -> str:
    """A scene's tree, of its last call: in the first a client builds what it works with."""
    spans = Spans()
    with Replay() as replay:
        driver = SCENES[name](replay)
        llmtrace.instrument(driver.name, tracer_provider=spans.provider)
        try:
            for _ in range(calls):
                spans.clear()
                driver.call() if name == "litellm" else driver.drain(driver.stream())
                driver.settle()
        finally:
            llmtrace.uninstrument()
            driver.shut()
    (parent,) = spans.parents()
    return "\n".join(["```", *_lines(spans, parent), "```"])


def _lines(spans: Spans, span: ReadableSpan, bar: str = "", pad: str = "") -> Iterator[str]:
    attrs = attributes(span)
    notes = [attrs.get("llmtrace.phase.source", "")]
    if (tokens := attrs.get("llmtrace.phase.tokens")) is not None:
        notes.append(f"{tokens} tokens")
    if span.name == "llm.attempt":
        notes = [str(attrs.get("http.response.status_code", attrs)), attrs.get("gen_ai.request.model", "")]
    elif span.parent is None:
        notes = ["completed"]
    yield f"{bar + span.name:<30} {seconds(span) * 1e3:6.1f} ms  {'  '.join(notes)}".rstrip()
    children = spans.children(span)
    for child in children:
        last = child is children[-1]
        yield from _lines(spans, child, pad + ("└─ " if last else "├─ "), pad + ("   " if last else "│  "))


def shape(tree: str) -> str:
    """A tree without its times."""
    return re.sub(r" +[\d.]+ ms", "", tree)


def on_pages() -> dict[str, tuple[Path, str]]:
    """Every tree in the pages, with its page."""
    trees: dict[str, tuple[Path, str]] = {}
    for page in sorted(PAGES.glob("*.md")):
        for match in _MARKED.finditer(page.read_text()):
            trees[match[2]] = page, match[0].removeprefix(match[1]).removesuffix(match[3]).strip()
    return trees


def main() -> None:
    """Make the trees anew, all or the typed_events ones, and put them into their pages."""
    for name, (page, _) in on_pages().items():
        if name in (sys.argv[1:] or SCENES):
            tree = made(name)
            print(f"{page.name}\n{tree}", flush=True)
            put = re.compile(rf"(<!-- tree: {name} -->\n\n).*?(\n<!-- end -->)", re.S)
            page.write_text(put.sub(lambda match: f"{match[1]}{tree}\n{match[2]}", page.read_text()))  # noqa: B023


if __name__ == "__main__":
    main()
