"""The application's own ``generate`` calls: nothing about them changes, and their phases are where the work was."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from tokenizers import Tokenizer, models, pre_tokenizers

import llmtrace
from llmtrace.instrumentation.event_timer import CudaTimer
from llmtrace.observe import internal_errors
from llmtrace.observe.clock import now
from llmtrace.providers import model_identity
from tests.support.late import Late
from tests.support.spans import Metrics, Spans, attributes, seconds, spent

if TYPE_CHECKING:
    import torch
    import transformers
else:
    torch = Late("torch")
    transformers = Late("transformers")

VOCABULARY = 64
EOS = 2


def build(**changes: Any) -> transformers.LlamaForCausalLM:
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": EOS,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**(shape | changes))).eval()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> transformers.LlamaForCausalLM:
    return build()


@pytest.fixture(scope="module")
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ["input_ids", "attention_mask"]
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="w0", eos_token="w2", model_input_names=names
    )
    made.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return made


@pytest.fixture
def traced(spans: Spans, metrics: Metrics) -> Iterator[None]:
    before = sum(internal_errors.counts.values())
    llmtrace.instrument("transformers", tracer_provider=spans.provider, meter_provider=metrics.provider)
    yield
    llmtrace.uninstrument()
    assert sum(internal_errors.counts.values()) == before, internal_errors.counts


def prompt() -> torch.Tensor:
    return torch.tensor([[5, 9, 23, 41, 7, 11]])


def batch() -> torch.Tensor:
    return torch.tensor([[0, 0, 0, 41, 7, 11], [5, 9, 23, 41, 7, 11]])


def mask() -> torch.Tensor:
    return torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]])


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 0.9, "top_p": 0.8},
    "several": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": 3, "do_sample": False},
    "chunked": {"do_sample": False, "prefill_chunk_size": 2},
    "static cache": {"do_sample": False, "cache_implementation": "static"},
    "no cache": {"do_sample": False, "use_cache": False},
    "scores": {"do_sample": False, "return_dict_in_generate": True, "output_scores": True},
}


def sequences(result: Any) -> torch.Tensor:
    return getattr(result, "sequences", result)


@pytest.mark.parametrize("way", WAYS)
def test_results_are_the_same_bits(way: str, model: Any, spans: Spans, metrics: Metrics) -> None:
    def run() -> Any:
        torch.manual_seed(7)
        return model.generate(batch(), attention_mask=mask(), max_new_tokens=7, **WAYS[way])

    bare = run()
    llmtrace.instrument("transformers", tracer_provider=spans.provider, meter_provider=metrics.provider)
    try:
        timed = run()
    finally:
        llmtrace.uninstrument()
    assert type(timed) is type(bare)
    assert torch.equal(sequences(timed), sequences(bare))
    if way == "scores":
        assert all(torch.equal(a, b) for a, b in zip(timed.scores, bare.scores, strict=True))
    span = spans.one("completed")
    found = attributes(span)
    phases = spans.phases(span)
    assert list(phases) == ["prefill", "decode"]
    assert {attributes(phase)["llmtrace.phase.source"] for phase in phases.values()} == {"client"}
    assert found["gen_ai.usage.input_tokens"] == 9  # three of the first row are padding
    assert found["gen_ai.request.max_tokens"] == 7
    assert found["llmtrace.generate.batch_size"] == 2
    assert attributes(phases["prefill"])["llmtrace.phase.tokens"] == 9
    assert 0 < attributes(phases["prefill"])["llmtrace.generate.setup"] < seconds(phases["prefill"])
    new = sequences(bare)[:, batch().shape[1] :].tolist()
    lengths = [row.index(EOS) + 1 if EOS in row else len(row) for row in new]
    assert found["gen_ai.usage.output_tokens"] == sum(lengths)
    assert found["gen_ai.response.finish_reasons"] == tuple("stop" if EOS in row else "length" for row in new)
    assert found["llmtrace.generate.mode"] == {"sampling": "sample", "several": "sample", "beams": "beam_search"}.get(
        way, "greedy_search"
    )
    if way == "beams":
        assert "llmtrace.call.ttft" not in found  # no token is decided before the end
        assert found["llmtrace.generate.beams"] == 3
    else:
        assert found["llmtrace.call.ttft"] == pytest.approx(seconds(phases["prefill"]), abs=1e-6)
        assert attributes(phases["decode"])["llmtrace.generate.steps"] == max(lengths)
        assert attributes(phases["decode"])["llmtrace.decode.chunk_gap.max"] < seconds(phases["decode"])
    assert found.get("gen_ai.request.choice.count") == (3 if way == "several" else None)


@pytest.mark.usefixtures("traced")
def test_an_end_of_sequence_is_counted_and_padding_is_not(model: Any, spans: Spans) -> None:
    row = model.generate(batch(), attention_mask=mask(), max_new_tokens=6, do_sample=False)[0, 6:].tolist()
    spans.clear()
    out = model.generate(batch(), attention_mask=mask(), max_new_tokens=6, do_sample=False, eos_token_id=row[2])
    new = out[:, 6:].tolist()
    lengths = [each.index(row[2]) + 1 if row[2] in each else len(each) for each in new]
    assert lengths[0] == row.index(row[2]) + 1
    found = attributes(spans.one("completed"))
    assert found["gen_ai.usage.output_tokens"] == sum(lengths)
    assert found["gen_ai.response.finish_reasons"][0] == "stop"


@pytest.mark.usefixtures("traced")
def test_embeddings_in_place_of_ids(model: Any, spans: Spans) -> None:
    embedded = model.get_input_embeddings()(prompt())
    out = model.generate(inputs_embeds=embedded, max_new_tokens=5, do_sample=False)
    found = attributes(spans.one("completed"))
    assert found["gen_ai.usage.input_tokens"] == prompt().shape[1]
    assert found["gen_ai.usage.output_tokens"] == out.shape[1]


@pytest.mark.usefixtures("traced")
def test_a_cache_that_is_passed_in(model: Any, spans: Spans) -> None:
    first = model.generate(prompt(), max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    spans.clear()
    cache = getattr(first, "cache", None) or first.past_key_values
    held = cache.get_seq_length()
    longer = torch.cat([first.sequences, torch.tensor([[8, 9]])], dim=1)
    model.generate(longer, past_key_values=cache, max_new_tokens=3, do_sample=False)
    span = spans.one("completed")
    assert attributes(span)["gen_ai.usage.cache_read.input_tokens"] == held
    assert attributes(spans.phases(span)["prefill"])["llmtrace.phase.tokens"] == longer.shape[1] - held


@pytest.mark.usefixtures("traced")
def test_an_assistant_is_part_of_the_call(model: Any, spans: Spans) -> None:
    assistant = build(num_hidden_layers=1)
    for helper in (assistant, model):
        spans.clear()
        out = model.generate(prompt(), max_new_tokens=9, do_sample=False, assistant_model=helper)
        span = spans.one("completed")
        found = attributes(span)
        assert found["llmtrace.generate.mode"] == "assisted_generation"
        assert found["gen_ai.usage.output_tokens"] == out.shape[1] - prompt().shape[1]
        steps = attributes(spans.phases(span)["decode"])["llmtrace.generate.steps"]
        assert 1 <= steps <= found["gen_ai.usage.output_tokens"]


@pytest.mark.usefixtures("traced")
def test_an_encoder_and_a_decoder(spans: Spans) -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(**shape, decoder_start_token_id=0, eos_token_id=1, pad_token_id=0)
    ).eval()
    out = t5.generate(prompt(), max_new_tokens=5, min_new_tokens=5, do_sample=False)
    found = attributes(spans.one("completed"))
    assert found["gen_ai.usage.output_tokens"] == 5 == out.shape[1] - 1
    assert found["gen_ai.usage.input_tokens"] == prompt().shape[1]


@pytest.mark.usefixtures("traced")
def test_a_streamer_read_in_another_thread_streams(model: Any, tokenizer: Any, spans: Spans) -> None:
    gate = threading.Event()

    class Hold(transformers.LogitsProcessor):
        """Lets the fourth token be made only once the first was read."""

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            if input_ids.shape[1] - prompt().shape[1] == 3:
                assert gate.wait(30)
            return scores

    streamer = transformers.TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=30)
    asked = {
        "inputs": prompt(),
        "max_new_tokens": 8,
        "min_new_tokens": 8,
        "do_sample": False,
        "streamer": streamer,
        "logits_processor": transformers.LogitsProcessorList([Hold()]),
    }
    worker = threading.Thread(target=model.generate, kwargs=asked)
    worker.start()
    texts: list[str] = []
    for text in streamer:
        texts.append(text)
        if text:
            gate.set()
    worker.join(30)
    assert "".join(texts).split()
    span = spans.one("completed")
    found = attributes(span)
    assert found["gen_ai.request.stream"] is True
    assert found["gen_ai.response.time_to_first_chunk"] == found["llmtrace.call.ttft"]
    assert found["llmtrace.tokenizer.basis"] == "streamer"
    assert "llmtrace.decode.consumer_wait" not in attributes(spans.phases(span)["decode"])  # nobody measured it


class _Crash:
    def __init__(self, error: BaseException, at: int) -> None:
        self.error, self.at = error, at

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] - prompt().shape[1] == self.at:
            raise self.error
        return scores


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("error", "at", "outcome", "names"),
    [
        (RuntimeError("PROMPT-SENTINEL"), 0, "error", ["prefill"]),
        (RuntimeError("PROMPT-SENTINEL"), 3, "error", ["prefill", "decode"]),
        (KeyboardInterrupt(), 3, "cancelled", ["prefill", "decode"]),
    ],
)
def test_exceptions_pass(
    error: BaseException, at: int, outcome: str, names: list[str], model: Any, spans: Spans
) -> None:
    with pytest.raises(type(error)) as raised:
        model.generate(
            prompt(),
            max_new_tokens=8,
            min_new_tokens=8,
            logits_processor=transformers.LogitsProcessorList([_Crash(error, at)]),
        )
    assert raised.value is error
    span = spans.one(outcome)
    assert list(spans.phases(span)) == names
    assert attributes(span).get("gen_ai.usage.output_tokens", 0) == at


@pytest.mark.usefixtures("traced")
def test_a_mistake_in_the_arguments(model: Any, spans: Spans) -> None:
    with pytest.raises(ValueError, match="no_such_argument"):
        model.generate(prompt(), no_such_argument=3)
    assert list(spans.phases(spans.one("error"))) == ["opaque"]


@pytest.mark.usefixtures("traced")
def test_a_chat_template_makes_it_a_chat(model: Any, tokenizer: Any, spans: Spans) -> None:
    said = [{"role": "user", "content": "w5 w6 w7 w8"}]
    ids = tokenizer.apply_chat_template(said, return_tensors="pt", return_dict=True)
    model.generate(**ids, max_new_tokens=2)
    chat = attributes(spans.one("completed"))
    assert chat["gen_ai.operation.name"] == "chat"
    assert chat["llmtrace.tokenizer.basis"] == "shape"
    assert chat["llmtrace.tokenizer.fingerprint"] == model_identity.identify_tokenizer(tokenizer)
    spans.clear()
    model.generate(**tokenizer("w5 w6 w7", return_tensors="pt"), max_new_tokens=2)
    assert attributes(spans.one("completed"))["gen_ai.operation.name"] == "text_completion"


def test_content_only_where_it_is_asked_for(model: Any, tokenizer: Any, spans: Spans) -> None:
    llmtrace.instrument("transformers", tracer_provider=spans.provider, capture_content=True)
    try:
        model.generate(**tokenizer("w5 w6", return_tensors="pt"), max_new_tokens=2)
    finally:
        llmtrace.uninstrument()
    (span,) = spans.parents()
    assert '"content": "w5 w6"' in attributes(span)["gen_ai.input.messages"]
    assert '"role": "assistant"' in attributes(span)["gen_ai.output.messages"]


def test_content_of_a_call_that_failed(model: Any, tokenizer: Any, spans: Spans) -> None:
    before = sum(internal_errors.counts.values())
    llmtrace.instrument("transformers", tracer_provider=spans.provider, capture_content=True)
    try:
        with pytest.raises(ValueError):
            model.generate(**tokenizer("w5 w6", return_tensors="pt"), no_such_argument=1)
    finally:
        llmtrace.uninstrument()
    (span,) = spans.parents()
    assert "gen_ai.output.messages" not in attributes(span)
    assert sum(internal_errors.counts.values()) == before, internal_errors.counts


def test_unsampled_calls_are_left_alone(model: Any, spans: Spans) -> None:
    bare = model.generate(prompt(), max_new_tokens=3, do_sample=False, assistant_model=build(num_hidden_layers=1))
    llmtrace.instrument("transformers", tracer_provider=TracerProvider(sampler=ALWAYS_OFF), metrics=False)
    try:
        same = model.generate(prompt(), max_new_tokens=3, do_sample=False, assistant_model=build(num_hidden_layers=1))
    finally:
        llmtrace.uninstrument()
    assert torch.equal(bare, same)
    assert not spans.finished()


@pytest.mark.usefixtures("traced")
def test_metrics(model: Any, metrics: Metrics) -> None:
    model.generate(prompt(), max_new_tokens=4, min_new_tokens=4)
    (duration,) = metrics.points("gen_ai.client.inference.duration")
    assert dict(duration.attributes)["gen_ai.provider.name"] == "transformers"
    assert {kind: spent(metrics, kind) for kind in ("input", "output")} == {"input": 6, "output": 4}


def test_undoing_puts_the_very_functions_back(spans: Spans) -> None:
    names = ("generate", "_sample", "_has_unfinished_sequences")
    mixin = transformers.generation.utils.GenerationMixin
    before = [vars(mixin)[name] for name in names]
    llmtrace.instrument("transformers", tracer_provider=spans.provider)
    assert vars(mixin)["generate"] is not before[0]
    llmtrace.uninstrument("transformers")
    assert [vars(mixin)[name] for name in names] == before


def test_nothing_is_imported_for_it() -> None:
    code = (
        "import llmtrace, sys; llmtrace.instrument('transformers'); print({'torch', 'transformers'} & {*sys.modules})"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True)
    assert ran.stdout.strip() == "set()"


# --- identity -------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_of_the_model_not_of_the_object(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path / "one")
    first, again = (transformers.LlamaForCausalLM.from_pretrained(tmp_path / "one") for _ in range(2))
    known = model_identity.identify(first)
    assert known == model_identity.identify(again)
    assert known.dtype == "float32"
    assert known.quantization is None
    assert known.fingerprint != model_identity.identify(build(intermediate_size=64)).fingerprint
    dtype = "torch_dtype" if version("transformers").startswith("4") else "dtype"
    halved = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "one", **{dtype: torch.bfloat16})
    assert model_identity.identify(halved).dtype == "bfloat16"
    assert model_identity.identify(halved).fingerprint != known.fingerprint
    assert model_identity.identify(again.to(torch.bfloat16)).dtype == "bfloat16"
    assert model_identity.model_name(first) == "one"


def test_weight_files_headers_count(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path / "one")
    before = model_identity.identify(transformers.LlamaForCausalLM.from_pretrained(tmp_path / "one")).fingerprint
    (file,) = (tmp_path / "one").glob("*.safetensors")
    from safetensors.torch import load_file, save_file

    save_file(load_file(file), file, metadata={"format": "pt", "made": "elsewhere"})
    assert (
        model_identity.identify(transformers.LlamaForCausalLM.from_pretrained(tmp_path / "one")).fingerprint != before
    )


def test_the_costly_part_is_done_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model_identity.identify(model)
    monkeypatch.setattr(model_identity, "_read_model", lambda *_: pytest.fail("looked again"))
    model_identity.identify(model)


@pytest.mark.usefixtures("traced")
def test_adapters_are_told_as_they_are_now(spans: Spans) -> None:
    peft = pytest.importorskip("peft")
    model = build()
    base = model_identity.identify(model)
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(model, config, adapter_name="first")
    wrapped.add_adapter("second", peft.LoraConfig(r=8, target_modules=["q_proj"], task_type="CAUSAL_LM"))

    def told() -> dict[str, Any]:
        spans.clear()
        wrapped.generate(input_ids=prompt(), max_new_tokens=2)
        return attributes(spans.one("completed"))

    first = told()
    assert first["llmtrace.model.adapters"] == ("first",)
    assert first["llmtrace.model.adapters.rank"] == (4,)
    assert first["llmtrace.model.adapters.merged"] == (False,)
    wrapped.set_adapter("second")
    second = told()
    assert second["llmtrace.model.adapters.rank"] == (8,)
    assert len({base.fingerprint, first["llmtrace.model.fingerprint"], second["llmtrace.model.fingerprint"]}) == 3
    wrapped.merge_adapter()
    assert told()["llmtrace.model.adapters.merged"] == (True,)
    wrapped.unmerge_adapter()
    with wrapped.disable_adapter():
        assert told()["llmtrace.model.fingerprint"] == base.fingerprint


# --- marks ----------------------------------------------------------------------------------------------------


class _Event:
    """An event of a device whose clock starts elsewhere, and which is `behind` ns after the host."""

    behind = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: Any) -> None:
        self.at = now() + self.behind

    def synchronize(self) -> None:
        while now() < self.at:
            pass

    def elapsed_time(self, end: _Event) -> float:
        return (end.at - self.at) / 1e6


class _Cuda:
    Event = _Event

    @staticmethod
    def current_stream(device: Any) -> str:
        return f"stream of {device}"


def test_device_marks_map_to_when_the_device_got_there(monkeypatch: pytest.MonkeyPatch) -> None:
    marks = CudaTimer(_Cuda, "cuda:1")
    monkeypatch.setattr(_Event, "behind", 3_000_000)
    before = now()
    marks.mark()
    after = now()
    monkeypatch.setattr(_Event, "behind", 0)
    (mark,) = marks.resolve()
    assert marks.source == "device"
    assert marks.error is not None
    slack = round(marks.error * 1e9) + 1_000
    assert before + 3_000_000 - slack <= mark <= after + 3_000_000 + slack


@pytest.mark.cuda
@pytest.mark.usefixtures("traced")
def test_on_a_device_the_phases_are_the_devices(spans: Spans) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = build().to("cuda")
    model.generate(prompt().to("cuda"), max_new_tokens=8, min_new_tokens=8)
    phases = spans.phases(spans.one("completed"))
    assert {attributes(phase)["llmtrace.phase.source"] for phase in phases.values()} == {"device"}


def test_the_model_as_a_resource(model: transformers.LlamaForCausalLM) -> None:
    """The same fingerprint as on each call, for all that a process of one model sends."""
    told = dict(llmtrace.model_resource(model).attributes)
    identity = model_identity.identify(model)
    assert told == {"llmtrace.model.fingerprint": identity.fingerprint, "llmtrace.model.dtype": "float32"}
    with pytest.raises(llmtrace.LlmtraceError, match="not a str"):
        llmtrace.model_resource("gpt-4o")


def test_vllms_engine_as_a_resource(model: transformers.LlamaForCausalLM) -> None:
    """By the shape of vLLM's own ``ModelConfig``, which the end-to-end test sees for real."""
    config = SimpleNamespace(hf_config=model.config, dtype=torch.bfloat16, quantization="awq", revision=None)
    engine = SimpleNamespace(llm_engine=SimpleNamespace(model_config=config))
    told = dict(llmtrace.model_resource(engine).attributes)
    assert told["llmtrace.model.dtype"] == "bfloat16"
    assert told["llmtrace.model.quantization"] == "awq"
    config.quantization = None
    other = llmtrace.model_resource(engine).attributes
    assert other["llmtrace.model.fingerprint"] != told["llmtrace.model.fingerprint"]
