"""The loop itself: the same tokens as transformers, the same logits warm and cold, and times that add up."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmtrace.observe.clock import now
from llmtrace.reference import LoadedModel, RunnerError, build_or_load
from llmtrace.reference.prefix_cache import PrefixCache
from llmtrace.reference.runner import Piece, Request, Runner
from llmtrace.reference.sampling import Sampling
from llmtrace.reference.timings import Timings
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
    import transformers
else:
    torch = Late("torch")
    transformers = Late("transformers")

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def qwen(small: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Another family, wholly random."""
    path = tmp_path_factory.mktemp("qwen")
    torch.manual_seed(3)
    config = transformers.Qwen2Config(
        vocab_size=len(small.tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=None,
    )
    transformers.Qwen2ForCausalLM(config).save_pretrained(path)
    small.tokenizer.save_pretrained(path)
    return build_or_load(path, device="cpu")


def prompt_of(loaded: LoadedModel, tokens: int, seed: int = 0) -> list[int]:
    made = torch.Generator().manual_seed(seed)
    return torch.randint(5, loaded.vocabulary, (tokens,), generator=made).tolist()


def tokens_of(pieces: list[Piece], choice: int = 0) -> list[int]:
    return [piece.token for piece in pieces if piece.choice == choice]


def first_logits(runner: Runner, prompt: list[int]) -> torch.Tensor:
    """The logits from which the first token is chosen."""
    seen: list[torch.Tensor] = []
    hook = runner.loaded.model.lm_head.register_forward_hook(lambda _, __, logits: seen.append(logits.clone()))
    try:
        list(runner.generate(Request(prompt, max_tokens=1, sampling=GREEDY, ignore_eos=True)))
    finally:
        hook.remove()
    [logits] = seen
    return logits[0, -1]


@pytest.mark.parametrize("family", ["small", "qwen"])
@pytest.mark.parametrize("chunk", [None, 7])
def test_greedy_output_is_that_of_generate(family: str, chunk: int | None, request: pytest.FixtureRequest) -> None:
    loaded: LoadedModel = request.getfixturevalue(family)
    prompt = prompt_of(loaded, 40)
    ids = torch.tensor([prompt])
    expected = loaded.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, pad_token_id=0
    )[0, len(prompt) :].tolist()
    runner = Runner(loaded, prefix_cache=PrefixCache(block=8), prefill_chunk=chunk)
    asked = Request(prompt, max_tokens=24, sampling=GREEDY)
    cold = list(runner.generate(asked))
    warm = list(runner.generate(asked))
    assert tokens_of(cold) == expected
    assert tokens_of(warm) == expected
    assert runner.prefix_cache is not None
    assert runner.prefix_cache.counters.hits == 32, "of 40 tokens the last is always computed: four blocks of 8"


def test_greedy_output_of_the_served_model_is_that_of_generate(loaded: LoadedModel) -> None:
    prompt = loaded.tokenizer("<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    ids = torch.tensor([prompt])
    expected = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)[
        0, len(prompt) :
    ].tolist()
    assert tokens_of(list(Runner(loaded).generate(Request(prompt, max_tokens=16, sampling=GREEDY)))) == expected


@pytest.mark.parametrize("family", ["small", "qwen", "loaded"])
def test_logits_after_a_warm_prefill_equal_cold_ones(family: str, request: pytest.FixtureRequest) -> None:
    loaded: LoadedModel = request.getfixturevalue(family)
    shared, own = prompt_of(loaded, 64), prompt_of(loaded, 21, seed=1)
    cold = first_logits(Runner(loaded), shared + own)
    runner = Runner(loaded, prefix_cache=PrefixCache(block=16))
    list(runner.generate(Request(shared + prompt_of(loaded, 9, seed=2), max_tokens=2, sampling=GREEDY)))
    warm = first_logits(runner, shared + own)
    assert runner.prefix_cache is not None
    assert runner.prefix_cache.counters.hits == 64
    assert (warm - cold).norm() / cold.norm() < 1e-4
    torch.testing.assert_close(warm, cold, rtol=1e-4, atol=1e-4 * float(cold.abs().max()))


def test_generated_tokens_are_reused_too(small: LoadedModel) -> None:
    runner = Runner(small, prefix_cache=PrefixCache(block=4))
    prompt = prompt_of(small, 8)
    answer = tokens_of(list(runner.generate(Request(prompt, max_tokens=9, sampling=GREEDY, ignore_eos=True))))
    timings = Timings(arrived=now())
    list(runner.generate(Request(prompt + answer, max_tokens=1, sampling=GREEDY), timings))
    assert timings.cached_tokens == 16, "8 prompt tokens and the first 8 of the answer; the ninth was never computed on"
    assert Runner(small, prefix_cache=None).prefix_cache is None


def test_phases_are_contiguous_and_fill_the_request(small: LoadedModel) -> None:
    runner = Runner(small, prefix_cache=PrefixCache(block=8))
    prompt = prompt_of(small, 60)
    for cached in (0, 56):
        timings = Timings(arrived=now())
        list(runner.generate(Request(prompt, max_tokens=5, sampling=GREEDY, ignore_eos=True), timings))
        phases = timings.phases()
        names = [phase.name for phase in phases]
        assert names == ["queue", *(["kv_cache_hit"] if cached else []), "prefill", "decode"]
        assert timings.cached_tokens == cached
        assert phases[0][1] == timings.arrived
        assert all(left[2] == right[1] for left, right in pairwise(phases))
        assert phases[-1][2] == timings.finished == timings.tokens[-1]
        assert {phase.name: phase.tokens for phase in phases}["prefill"] == 60 - cached
        assert len(timings.tokens) == 5
        metrics = timings.metrics()
        assert (metrics["kv_cache_hit_time_ms"] > 0) is bool(cached)
        assert metrics["kv_cache_hit_time_ms"] <= metrics["time_to_first_token_ms"]
        total = sum(metrics[key] for key in ("queue_time_ms", "time_to_first_token_ms", "generation_time_ms"))
        assert total == pytest.approx((timings.finished - timings.arrived) / 1e6)


def test_a_seed_repeats_and_choices_differ(small: LoadedModel) -> None:
    runner = Runner(small)
    asked = Request(
        prompt_of(small, 12), max_tokens=12, sampling=Sampling(1.0, 0.95, seed=11), choices=3, ignore_eos=True
    )
    first, again = list(runner.generate(asked)), list(runner.generate(asked))
    assert first == again
    answers = [tuple(tokens_of(first, choice)) for choice in range(3)]
    assert all(len(answer) == 12 for answer in answers)
    assert len(set(answers)) == 3
    assert [piece.finish for piece in first if piece.finish] == ["length"] * 3


def test_further_choices_start_from_the_same_prompt(small: LoadedModel) -> None:
    runner = Runner(small, prefix_cache=PrefixCache(block=8))
    pieces = list(runner.generate(Request(prompt_of(small, 30), 10, GREEDY, choices=2, ignore_eos=True)))
    assert tokens_of(pieces, 0) == tokens_of(pieces, 1)


def test_a_stop_string_ends_the_text_before_it(loaded: LoadedModel) -> None:
    prompt = loaded.tokenizer("<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    runner = Runner(loaded)
    whole = "".join(piece.text for piece in runner.generate(Request(prompt, 30, GREEDY)))
    stop = whole[len(whole) // 2 :][:5]
    pieces = list(runner.generate(Request(prompt, 30, GREEDY, stops=("never said", stop))))
    assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finish == "stop"


def test_the_end_of_sequence_ends_the_answer_unless_told_otherwise(small: LoadedModel) -> None:
    prompt = prompt_of(small, 10)
    runner = Runner(small)
    free = tokens_of(list(runner.generate(Request(prompt, 8, GREEDY, ignore_eos=True))))
    ending = Runner(replace(small, stop_ids=frozenset({free[3]})))
    stopped = list(ending.generate(Request(prompt, 8, GREEDY)))
    assert tokens_of(stopped) == free[: free.index(free[3]) + 1]
    assert stopped[-1].finish == "stop"
    assert len(list(ending.generate(Request(prompt, 8, GREEDY, ignore_eos=True)))) == 8


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (Request([], 4), "no tokens"),
        (Request([1] * 500, 100), "do not fit in the context of 512"),
        (Request([10**6], 4), "token ids must lie"),
        (Request([-1], 4), "token ids must lie"),
    ],
)
def test_what_cannot_be_generated(asked: Request, says: str, small: LoadedModel) -> None:
    with pytest.raises(RunnerError, match=says):
        Runner(small).start(asked)


def test_closing_in_the_middle_keeps_what_was_computed(small: LoadedModel) -> None:
    runner = Runner(small, prefix_cache=PrefixCache(block=8), prefill_chunk=16, token_budget=16)
    generation = runner.start(Request(prompt_of(small, 64), 8, GREEDY))
    assert runner.admit(generation)
    for _ in range(2):
        runner.step(lambda *_: None)
    runner.leave(generation)
    runner.leave(generation)
    assert generation.done
    assert runner.used_tokens == 0
    assert runner.prefix_cache is not None
    assert runner.prefix_cache.counters.blocks == 4, "two chunks of 16 tokens, in blocks of 8"
    assert [name for name, *_ in generation.timings.phases()] == ["queue", "prefill"]


def test_the_clock_of_this_test_is_the_hosts(small: LoadedModel, tmp_path: Path) -> None:
    timings = Timings(arrived=now())
    list(Runner(small).generate(Request(prompt_of(small, 4), 2, GREEDY), timings))
    assert timings.timed_by == "host"
    assert timings.clock_error == 0


@pytest.mark.cuda
@pytest.mark.skipif("not torch.cuda.is_available()", reason="needs a CUDA device")
def test_on_cuda_the_device_times_and_the_tokens_agree() -> None:
    """Events, one step of lag and pinned copies give what the CPU gives."""
    on_cpu, on_cuda = (build_or_load(device=device, dtype="float32") for device in ("cpu", "cuda"))
    prompt = on_cpu.tokenizer("<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    asked = Request(prompt, 24, GREEDY)
    timings = Timings(arrived=now())
    runner = Runner(on_cuda, prefix_cache=PrefixCache())
    runner.warm_up()
    pieces = list(runner.generate(asked, timings))
    assert tokens_of(pieces) == tokens_of(list(Runner(on_cpu).generate(asked)))
    assert timings.timed_by == "cuda"
    assert 0 < timings.clock_error < 1_000_000
    assert timings.tokens == sorted(timings.tokens)
    assert timings.arrived <= timings.tokens[0] <= timings.tokens[-1] <= now()


def test_one_that_leaves_between_steps_does_not_move_the_next_ones_beginning(small: LoadedModel) -> None:
    runner = Runner(small, prefix_cache=PrefixCache(block=8))
    gone = runner.start(Request(prompt_of(small, 20), max_tokens=9, sampling=GREEDY, ignore_eos=True))
    assert runner.admit(gone)
    runner.step(lambda _, __: None)
    gone.cancelled = True
    runner.leave(gone)
    timings = Timings(arrived=now())
    list(runner.generate(Request(prompt_of(small, 20, 1), max_tokens=2, sampling=GREEDY), timings))
    assert timings.taken_in is not None
    assert timings.scheduled is not None
    assert timings.scheduled >= timings.taken_in


def test_the_room_is_given_back_with_the_last_reference(small: LoadedModel) -> None:
    """Half a GiB each, which nobody would wait for the collector to find."""
    runner = Runner(small, prefix_cache=PrefixCache(block=8), cache_tokens=4096)
    list(runner.generate(Request(prompt_of(small, 30), 4, GREEDY)))
    room = weakref.ref(runner._engine.cache)
    gc.disable()
    try:
        del runner
        assert room() is None
    finally:
        gc.enable()
