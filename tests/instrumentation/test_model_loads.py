"""Loads of models into this process: a span of their own with its parts, and a first call that names it."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from tokenizers import Tokenizer, models

import llmtrace
from llmtrace.emit.model_load import emit_model_load
from llmtrace.observe import internal_errors
from llmtrace.observe.loading import Loading
from tests.support.clock import Clock
from tests.support.late import Late
from tests.support.replay import Replay
from tests.support.spans import IN_PROCESS, Spans, assert_contiguous, attributes, seconds
from tests.support.trees import SCENES

if TYPE_CHECKING:
    import torch
    import transformers
else:
    torch = Late("torch")
    transformers = Late("transformers")

LOAD = "llm.model_load"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in a folder."""
    shape = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, **heads)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)
    return folder


@pytest.fixture
def traced(spans: Spans) -> Iterator[Spans]:
    errors = dict(internal_errors.counts)
    llmtrace.instrument("transformers", tracer_provider=spans.provider)
    yield spans
    llmtrace.uninstrument()
    assert dict(internal_errors.counts) == errors


def loads(spans: Spans) -> list[Any]:
    found = [span for span in spans.finished() if span.name == LOAD]
    for span in found:
        attrs = attributes(span)
        assert (attrs["llmtrace.phase"], attrs["llmtrace.side"]) == ("model_load", "client")
        assert attrs["gen_ai.provider.name"] in IN_PROCESS
        assert span.start_time % 1000 == 999
        if parts := spans.children(span):
            assert_contiguous(span, parts)
    return found


def generate(model: Any) -> None:
    model.generate(torch.ones((1, 4), dtype=torch.long), max_new_tokens=2, min_new_tokens=2, do_sample=False)


def test_a_load_is_one_span_and_the_first_call_points_to_it(traced: Spans, saved: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(saved)
    generate(model)
    generate(model)
    (load,) = loads(traced)
    assert traced.tree(load) == [LOAD, [f"{LOAD}.read"]]
    assert attributes(load)["gen_ai.request.model"] == "tiny-llama"
    first, second = traced.parents()
    (link,) = first.links
    assert (link.context.span_id, link.attributes["llmtrace.link.kind"]) == (load.context.span_id, "model_load")
    assert attributes(first)["llmtrace.model_load.before"] == pytest.approx(
        (load.end_time - load.start_time) / 1e9, 1e-3
    )
    assert "llmtrace.diagnosis" not in attributes(first), "nobody waited for both: they are in two traces"
    assert not second.links
    assert "llmtrace.model_load.before" not in attributes(second)
    traced.check_all()


def test_who_waited_for_the_model_too_is_told_so(traced: Spans, saved: Path, clock: Clock) -> None:
    class Slow(transformers.LlamaForCausalLM):
        def __init__(self, *given: Any) -> None:
            clock.advance(3.0)
            super().__init__(*given)

    with traced.provider.get_tracer("app").start_as_current_span("POST /answer"):
        model = Slow.from_pretrained(saved)
        generate(model)
    (load,), (call,) = loads(traced), traced.parents()
    assert load.parent.span_id == call.parent.span_id
    attrs = attributes(call)
    assert attrs["llmtrace.diagnosis.cause"] == "cold_model"
    (event,) = [event for event in call.events if event.name == "llmtrace.diagnosis"]
    assert event.attributes["llmtrace.diagnosis.excess"] == attrs["llmtrace.model_load.before"]
    assert attrs["llmtrace.model_load.before"] == pytest.approx(3.0, abs=0.1)
    traced.check_all()


def test_the_way_to_a_device_is_a_part_of_it(traced: Spans, saved: Path) -> None:
    model = transformers.LlamaForCausalLM.from_pretrained(saved)
    model.to(torch.float16)
    model.to("meta")  # a device that every machine has
    read, moved = loads(traced)
    assert traced.tree(moved) == [LOAD, [f"{LOAD}.to_device"]]
    assert traced.tree(read) == [LOAD, [f"{LOAD}.read"]]


def test_a_pipeline_is_one_load(traced: Spans, saved: Path) -> None:
    transformers.pipeline("text-generation", model=str(saved), device="cpu")
    (load,) = loads(traced)
    assert attributes(load)["gen_ai.request.model"] == "tiny-llama"


@pytest.mark.parametrize(
    ("name", "folder", "error"),
    [
        ("LlamaForCausalLM", ".", OSError),
        ("AutoModelForCausalLM", "not-there", OSError),
        ("AutoModel", ".", ValueError),
    ],
)
def test_a_load_that_fails_says_so(
    traced: Spans, tmp_path: Path, name: str, folder: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        getattr(transformers, name).from_pretrained(tmp_path / folder)
    (load,) = loads(traced)
    assert load.status.status_code is trace.StatusCode.ERROR
    assert attributes(load)["error.type"] == error.__name__
    assert str(tmp_path) not in str([attributes(load), load.status.description])
    assert attributes(load)["gen_ai.request.model"] == (tmp_path / folder).name, "what was to be loaded"
    assert traced.tree(load) == [LOAD], "nobody saw it read anything"


def test_a_load_of_which_no_part_is_told_has_its_span(spans: Spans) -> None:
    """As an engine has it that loads in another process."""
    loading = Loading()
    loading.finish()
    emit_model_load(spans.provider.get_tracer("llmtrace"), loading, {"gen_ai.provider.name": "transformers"})
    (load,) = loads(spans)
    assert spans.tree(load) == [LOAD]


def test_a_failed_load_is_named_as_it_was_asked_for(tmp_path: Path) -> None:
    from llmtrace.providers.llama_cpp import LLAMA_CPP
    from llmtrace.providers.transformers import TRANSFORMERS
    from llmtrace.providers.vllm import VLLM

    here, pipeline = TRANSFORMERS.loads[0].asked, TRANSFORMERS.loads[-1].asked
    assert here((), {"pretrained_model_name_or_path": "somebody/model"}) == "somebody/model"
    assert here((tmp_path / "tiny",), {}) == "tiny"
    assert here((5,), {}) is here((), {}) is None
    assert pipeline(("text-generation",), {"model": "./folder/tiny"}) == "tiny"
    assert pipeline(("text-generation", "somebody/model"), {}) == "somebody/model"
    assert pipeline((), {"model": object()}) is None
    file, repository = (load.asked for load in LLAMA_CPP.loads)
    assert file(("/models/tiny.gguf",), {}) == file((), {"model_path": "/models/tiny.gguf"}) == "tiny.gguf"
    assert repository((), {"repo_id": "somebody/tiny-gguf", "filename": "*q4.gguf"}) == "tiny-gguf"
    offline, online = (load.asked for load in VLLM.loads)
    assert offline(("/models/tiny",), {}) == offline((), {"model": "/models/tiny"}) == "tiny"
    assert online((SimpleNamespace(model_config=SimpleNamespace(model="somebody/model")),), {}) == "somebody/model"
    assert online((), {}) is None


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a model hub as a download asks for."""

    folder: Path

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        if (file := self.answer()) is not None:
            self.wfile.write(file)

    def answer(self) -> bytes | None:
        path = self.folder / self.path.rsplit("/", 1)[-1]
        if "/resolve/" not in self.path or not path.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        content = path.read_bytes()
        self.send_response(200)
        for name, value in (("ETag", f'"{path.name}"'), ("X-Repo-Commit", "0" * 40), ("Content-Length", len(content))):
            self.send_header(name, str(value))
        self.end_headers()
        return content

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_what_is_downloaded_is_a_part_of_it(
    traced: Spans, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    Hub.folder = saved
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    )
    try:
        transformers.LlamaForCausalLM.from_pretrained("somebody/tiny-llama", cache_dir=tmp_path)
        transformers.LlamaForCausalLM.from_pretrained("somebody/tiny-llama", cache_dir=tmp_path, local_files_only=True)
    finally:
        server.shutdown()
        server.server_close()
    first, again = loads(traced)
    assert traced.tree(first) == [LOAD, [f"{LOAD}.download"], [f"{LOAD}.read"]]
    assert attributes(first)["llmtrace.model_load.bytes"] >= (saved / "model.safetensors").stat().st_size
    assert traced.tree(again) == [LOAD, [f"{LOAD}.read"]]
    assert "llmtrace.model_load.bytes" not in attributes(again)


def test_a_server_that_tells_of_its_load_is_believed(replay: Replay, spans: Spans) -> None:
    driver = SCENES["ollama"](replay)
    llmtrace.instrument("ollama", tracer_provider=spans.provider)
    try:
        list(driver.stream())
    finally:
        llmtrace.uninstrument()
    call = spans.one("completed")
    load = spans.phases(call)["model_load"]
    assert seconds(load) == pytest.approx(attributes(call)["llmtrace.server.model_load"], abs=0.02)
    assert attributes(call)["llmtrace.diagnosis.cause"] == "cold_model"
    (event,) = load.events
    assert event.attributes["llmtrace.diagnosis.excess"] == pytest.approx(0.21)
