"""Many requests on one model: the same tokens as alone, and a truth that says who waited for whom."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from llmtrace.observe.clock import now
from llmtrace.reference import LoadedModel, RunnerError, build_or_load
from llmtrace.reference._errors import OutOfMemory
from llmtrace.reference.prefix_cache import PrefixCache
from llmtrace.reference.runner import Generation, Piece, Request, Runner
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
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}


@pytest.fixture(scope="module")
def families(small: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights of three architectures."""
    made: dict[str, Path] = {}
    torch.manual_seed(3)
    shape = {**SHAPE, "vocab_size": len(small.tokenizer)}
    for name, model in (
        ("llama", transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))),
        ("qwen2", transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**shape))),
        ("mistral", transformers.MistralForCausalLM(transformers.MistralConfig(**shape, sliding_window=16))),
    ):
        made[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(made[name])
        small.tokenizer.save_pretrained(made[name])
    return made


def prompt_of(loaded: LoadedModel, tokens: int, seed: int = 0) -> list[int]:
    made = torch.Generator().manual_seed(seed)
    return torch.randint(5, loaded.vocabulary, (tokens,), generator=made).tolist()


def generated(loaded: LoadedModel, prompt: list[int], tokens: int) -> list[int]:
    """What `transformers` itself writes."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0
        )
    return out[0, len(prompt) :].tolist()


class Crowd:
    """Runs requests together, letting each in at its step, and keeps what was told."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.told: dict[Generation, list[Piece | Exception]] = {}
        self.steps = 0
        self._waiting: list[tuple[int, Generation]] = []

    def add(self, request: Request, at_step: int = 0) -> Generation:
        generation = self.runner.start(request, Timings(arrived=now()))
        self.told[generation] = []
        self._waiting.append((at_step, generation))
        return generation

    def run(self, most_steps: int = 5_000) -> None:
        while self._waiting or self.runner.running:
            while self._waiting and self._waiting[0][0] <= self.steps and self.runner.admit(self._waiting[0][1]):
                self._waiting.pop(0)
            self.step()
            assert self.steps < most_steps, "it never ends"

    def step(self) -> None:
        self.runner.step(lambda generation, news: self.told[generation].append(news))
        self.steps += 1

    def tokens(self, generation: Generation) -> list[int]:
        return [news.token for news in self.told[generation] if isinstance(news, Piece)]


def adds_up(timings: Timings) -> None:
    phases = timings.phases()
    assert phases[0].start == timings.arrived
    assert phases[-1].end == timings.finished
    assert all(left.end == right.start for left, right in pairwise(phases))
    assert sum(phase.end - phase.start for phase in phases) == timings.finished - timings.arrived
    assert all(0 <= phase.others <= phase.end - phase.start for phase in phases)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("chunk", [None, 7])
def test_neighbours_change_no_token(family: str, chunk: int | None, families: dict[str, Path]) -> None:
    loaded = build_or_load(families[family], device="cpu")
    runner = Runner(loaded, max_running=5, prefill_chunk=chunk, token_budget=32, prefix_cache=PrefixCache(block=8))
    crowd = Crowd(runner)
    prompts = [prompt_of(loaded, length, seed) for seed, length in enumerate((40, 1, 9, 63, 17, 30, 40))]
    prompts[6][:32] = prompts[0][:32]  # hits the cache, if the first has left by then
    made = [crowd.add(Request(prompt, 20 + 3 * at, GREEDY), at_step=3 * at) for at, prompt in enumerate(prompts)]
    crowd.run()
    for prompt, generation in zip(prompts, made, strict=True):
        assert crowd.tokens(generation) == generated(loaded, prompt, generation.request.max_tokens)
        adds_up(generation.timings)
    assert max(max(generation.timings.batch) for generation in made) == 5
    assert runner.used_tokens == 0


@pytest.mark.parametrize(("dtype", "slack"), [("float32", 1e-4), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_logits_warm_and_cold_and_among_neighbours(
    family: str, dtype: str, slack: float, families: dict[str, Path]
) -> None:
    """Against the model's own, over the whole sequence at once: cold, after a cache hit, chunked, and in a batch."""
    loaded = build_or_load(families[family], device="cpu", dtype=dtype)
    prompts = [prompt_of(loaded, length, seed) for seed, length in enumerate((50, 34, 81))]
    with torch.inference_mode():
        expected = [loaded.model(torch.tensor([prompt])).logits[0, -1].float() for prompt in prompts]
    runner = Runner(loaded, max_running=4, prefix_cache=PrefixCache(block=16), prefill_chunk=30)
    for cached in (0, 32):
        seen: list[torch.Tensor] = []
        hook = loaded.model.lm_head.register_forward_hook(lambda _, __, logits, seen=seen: seen.append(logits.float()))
        crowd = Crowd(runner)
        made = [crowd.add(Request(prompt, 1, GREEDY, ignore_eos=True)) for prompt in prompts]
        crowd.run()
        hook.remove()
        rows = torch.cat([logits[0] for logits in seen])
        for wanted, generation in zip(expected, made, strict=True):
            assert min(float((row - wanted).norm() / wanted.norm()) for row in rows) < slack
            assert generation.timings.cached_tokens >= cached


def test_seeds_and_choices_come_out_the_same_in_a_crowd(small: LoadedModel) -> None:
    asked = [
        Request(prompt_of(small, 12), 12, Sampling(1.0, 0.95, seed=11), choices=3, ignore_eos=True),
        Request(prompt_of(small, 20, 1), 15, Sampling(0.8, 1.0, seed=5), ignore_eos=True),
        Request(prompt_of(small, 7, 2), 18, GREEDY, choices=2, ignore_eos=True),
    ]
    alone = [[piece.token for piece in Runner(small).generate(each)] for each in asked]
    crowd = Crowd(Runner(small, max_running=3))
    made = [crowd.add(each, at_step=at) for at, each in enumerate(asked)]
    crowd.run()
    assert [crowd.tokens(generation) for generation in made] == alone
    for generation in made:
        adds_up(generation.timings)


@pytest.fixture
def own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are those of this thread's own work: what else the machine does meanwhile is in none of them."""
    monkeypatch.setitem(globals(), "now", time.thread_time_ns)
    for name, module in list(sys.modules.items()):
        if name.startswith("llmtrace.reference.") and getattr(module, "now", None) is time.perf_counter_ns:
            monkeypatch.setattr(module, "now", time.thread_time_ns)


@pytest.mark.usefixtures("own_time")
def test_a_long_prefill_stalls_the_neighbours_and_is_told_apart(small: LoadedModel) -> None:
    runner = Runner(small, max_running=3, prefill_chunk=64, token_budget=80)
    crowd = Crowd(runner)
    first, second = (crowd.add(Request(prompt_of(small, 8, seed), 40, GREEDY, ignore_eos=True)) for seed in (1, 2))
    late = crowd.add(Request(prompt_of(small, 400), 4, GREEDY, ignore_eos=True), at_step=10)
    crowd.run()
    prompt = late.timings
    assert [chunk.tokens for chunk in prompt.chunks] == [64] * 6 + [16]
    assert all(left.end <= right.start for left, right in pairwise(prompt.chunks))
    steps = [chunk.end - chunk.start for chunk in prompt.chunks]
    prefill = next(phase for phase in prompt.phases() if phase.name == "prefill")
    # Two neighbours had a token each in every one of its steps: their share of the step, by tokens.
    shares = [step * 2 / (chunk.tokens + 2) for step, chunk in zip(steps, prompt.chunks, strict=True)]
    assert prefill.others == prompt.prefill_others == pytest.approx(sum(shares), abs=10)
    assert sum(steps) <= prefill.end - prefill.start
    for neighbour in (first, second):
        timings = neighbour.timings
        # What it waited for: the share of the prompt's chunks in the steps that it decoded in.
        stalled = sum(step - share for step, share in zip(steps, shares, strict=True))
        assert timings.decode_others == pytest.approx(stalled, abs=10)
        gaps = [right - left for left, right in pairwise(timings.tokens)]
        assert max(gaps) >= max(steps)
    every = [first.timings.cost, second.timings.cost, prompt.cost]
    assert sum(every) == pytest.approx(1e9 * sum(runner.works.values()), rel=1e-6), "all costs are all steps"
    assert set(runner.works) == {"prefill", "decode", "mixed"}
    assert 0 < runner.busy < sum(runner.works.values())


def test_a_whole_prompt_is_one_chunk(small: LoadedModel) -> None:
    crowd = Crowd(Runner(small, max_running=2, prefill_chunk=None, token_budget=16))
    late = crowd.add(Request(prompt_of(small, 300), 2, GREEDY, ignore_eos=True))
    crowd.run()
    assert [chunk.tokens for chunk in late.timings.chunks] == [300]


def test_the_wait_for_the_running_step_is_queue(small: LoadedModel) -> None:
    """Taken in between two steps; a decode of others goes before its first chunk."""
    crowd = Crowd(Runner(small, max_running=2, token_budget=8, prefill_chunk=8))
    crowd.add(Request(prompt_of(small, 64), 30, GREEDY, ignore_eos=True))
    second = crowd.add(Request(prompt_of(small, 8, 1), 4, GREEDY, ignore_eos=True))
    crowd.run()
    timings = second.timings
    assert timings.arrived <= timings.taken_in <= timings.scheduled
    assert timings.scheduled - timings.taken_in > 0, "the budget went to the first prompt, chunk by chunk"
    assert timings.phases()[0].end == timings.scheduled


# The cache runs out


def test_one_gives_way_and_is_computed_again(small: LoadedModel) -> None:
    runner = Runner(small, max_running=3, cache_tokens=512)
    assert runner.most_tokens == 512
    crowd = Crowd(runner)
    asked = [Request(prompt_of(small, 200, seed), 120, GREEDY, ignore_eos=True) for seed in range(2)]
    alone = [[piece.token for piece in Runner(small).generate(each)] for each in asked]
    old, young = (crowd.add(each) for each in asked)
    crowd.run()
    assert [crowd.tokens(old), crowd.tokens(young)] == alone
    assert runner.preemptions == len(young.timings.preempted) == 1
    assert old.timings.preempted == []
    [lost], [again] = young.timings.preempted, young.timings.resumed
    assert young.timings.tokens[0] < lost < again < young.timings.tokens[-1]
    assert again >= old.timings.finished, "there was room only when the older one had left"
    assert [chunk.again for chunk in young.timings.chunks] == [False, True]
    adds_up(young.timings)
    adds_up(old.timings)
    assert runner.used_tokens == 0


def test_nobody_is_let_in_while_one_waits_that_gave_way(small: LoadedModel) -> None:
    runner = Runner(small, max_running=3, cache_tokens=512)
    crowd = Crowd(runner)
    _, young, later = (
        crowd.add(Request(prompt_of(small, length, length), tokens, GREEDY, ignore_eos=True), at_step=at)
        for length, tokens, at in ((200, 120, 0), (201, 120, 0), (10, 4, 60))
    )
    crowd.run()
    assert young.timings.preempted[0] < later.timings.taken_in
    assert later.timings.taken_in > young.timings.resumed[0]


def test_what_could_never_fit_is_refused(small: LoadedModel) -> None:
    runner = Runner(small, max_running=2, cache_tokens=256)
    with pytest.raises(RunnerError, match=r"room for 256.*--cache-tokens"):
        runner.start(Request(prompt_of(small, 200), 100, GREEDY))


@given(
    asked=st.lists(
        st.tuples(st.integers(1, 120), st.integers(1, 60), st.integers(0, 12), st.integers(0, 3)),
        min_size=1,
        max_size=7,
    ),
    room=st.sampled_from([256, 512, 1024]),
    chunk=st.sampled_from([None, 5, 64]),
    block=st.sampled_from([4, 8, 32]),
)
@example(
    asked=[(74, 41, 0, 1), (24, 46, 3, 2), (109, 50, 9, 0), (87, 40, 12, 3), (87, 40, 12, 3)],
    room=256,
    chunk=None,
    block=8,
)
@example(asked=[(47, 14, 4, 0), (87, 11, 6, 0), (107, 47, 2, 2), (107, 47, 2, 2)], room=256, chunk=None, block=8)
@settings(
    max_examples=int(os.environ.get("LLMTRACE_RUNNER_EXAMPLES", "4")),
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whatever_comes_everybody_gets_their_own(
    small: LoadedModel, asked: list[tuple[int, int, int, int]], room: int, chunk: int | None, block: int
) -> None:
    """Any lengths, arrivals and sizes of the cache; some leave early: the rest is as if each had been alone."""
    runner = Runner(small, max_running=3, cache_tokens=room, prefill_chunk=chunk, prefix_cache=PrefixCache(block=block))
    crowd = Crowd(runner)
    at = 0
    made: list[Generation] = []
    for length, tokens, wait, _ in asked:
        at += wait
        made.append(crowd.add(Request(prompt_of(small, length, length), tokens, GREEDY, ignore_eos=True), at_step=at))
    left: set[Generation] = set()
    while crowd._waiting or runner.running:
        while crowd._waiting and crowd._waiting[0][0] <= crowd.steps and runner.admit(crowd._waiting[0][1]):
            crowd._waiting.pop(0)
        crowd.step()
        for generation, (_, tokens, _, early) in zip(made, asked, strict=True):
            if early == 3 and generation in runner.running and len(generation.output) > tokens // 2:
                runner.leave(generation)
                left.add(generation)
        assert crowd.steps < 5_000
        assert runner.used_tokens <= room
    for generation, (length, tokens, _, _) in zip(made, asked, strict=True):
        expected = _alone(small, length, tokens)
        found = crowd.tokens(generation)
        assert found == expected[: len(found)]
        assert len(found) == tokens or generation in left
        adds_up(generation.timings)
    assert runner.used_tokens == 0
    assert len({generation.timings.taken_in for generation in made}) == len(made)
    assert [generation.timings.taken_in for generation in made] == sorted(each.timings.taken_in for each in made)


_known: dict[tuple[int, int], list[int]] = {}


def _alone(small: LoadedModel, length: int, tokens: int) -> list[int]:
    if (length, 60) not in _known:
        asked = Request(prompt_of(small, length, length), 60, GREEDY, ignore_eos=True)
        _known[length, 60] = [piece.token for piece in Runner(small).generate(asked)]
    return _known[length, 60][:tokens]


# Other architectures


def test_sliding_windows_are_the_engines_too(families: dict[str, Path]) -> None:
    loaded = build_or_load(families["mistral"], device="cpu")
    crowd = Crowd(Runner(loaded, max_running=3, prefix_cache=PrefixCache(block=8)))
    prompts = [prompt_of(loaded, length, length) for length in (40, 12, 25)]
    made = [crowd.add(Request(prompt, 12, GREEDY)) for prompt in prompts]
    crowd.run()
    for prompt, generation in zip(prompts, made, strict=True):
        assert crowd.tokens(generation) == generated(loaded, prompt, 12)
        adds_up(generation.timings)


def test_an_architecture_that_the_engine_cannot_batch_is_refused(small: LoadedModel, tmp_path: Path) -> None:
    config = transformers.Qwen3NextConfig(**SHAPE | {"vocab_size": len(small.tokenizer), "num_experts": 2})
    transformers.Qwen3NextForCausalLM(config).save_pretrained(tmp_path)
    small.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(RunnerError, match="cannot batch mine continuously"):
        Runner(build_or_load(tmp_path, device="cpu", name="mine"))


# Failures


class Breaking:
    """The engine's forward, which fails while a condition on its requests holds."""

    def __init__(self, runner: Runner, fails: Callable[[list[Any]], Exception | None]) -> None:
        engine = runner._engine
        model_runner = engine._processor.model_runner
        whole = model_runner.compute_batch

        def compute(*arguments: Any) -> Any:
            if (error := fails(engine._ios.requests_in_batch)) is not None:
                raise error
            return whole(*arguments)

        model_runner.compute_batch = compute


def test_a_failing_request_costs_only_itself(small: LoadedModel) -> None:
    runner = Runner(small, max_running=3)
    crowd = Crowd(runner)
    good, bad, other = (
        crowd.add(Request(prompt_of(small, 10, seed), 12, GREEDY, ignore_eos=True)) for seed in range(3)
    )

    def fails(batch: list[Any]) -> Exception | None:
        mine = any(future.state.request_id == bad.request_id for future in batch)
        return RuntimeError("a kernel went wrong") if mine and len(bad.output) == 5 else None

    Breaking(runner, fails)
    crowd.run()
    assert isinstance(crowd.told[bad][-1], RuntimeError)
    assert len(crowd.tokens(bad)) == 5
    for each in (good, other):
        assert crowd.tokens(each) == generated(small, list(each.request.prompt), 12)
        adds_up(each.timings)
    assert runner.used_tokens == 0


def test_a_chunk_that_does_not_fit_is_halved(small: LoadedModel) -> None:
    runner = Runner(small, prefix_cache=PrefixCache(block=8))

    def fails(batch: list[Any]) -> Exception | None:
        return torch.OutOfMemoryError("CUDA out of memory") if batch[0].query_length > 50 else None

    Breaking(runner, fails)
    prompt = prompt_of(small, 150)
    timings = Timings(arrived=now())
    pieces = list(runner.generate(Request(prompt, 8, GREEDY), timings))
    assert [piece.token for piece in pieces] == generated(small, prompt, 8)
    assert [chunk.tokens for chunk in timings.chunks] == [37, 37, 37, 37, 2]


def test_out_of_memory_says_what_would_fit(small: LoadedModel) -> None:
    runner = Runner(small, max_running=2, prefill_chunk=32)

    def fails(batch: list[Any]) -> Exception | None:
        long = any(future.state.position_offset > 96 for future in batch)
        return torch.OutOfMemoryError("CUDA out of memory") if long else None

    Breaking(runner, fails)
    crowd = Crowd(runner)
    short = crowd.add(Request(prompt_of(small, 20), 8, GREEDY, ignore_eos=True))
    long = crowd.add(Request(prompt_of(small, 150), 8, GREEDY, ignore_eos=True))
    crowd.run()
    [error] = crowd.told[long]
    assert isinstance(error, OutOfMemory)
    assert "a prompt of at most 96 tokens would fit now" in str(error)
    assert len(crowd.tokens(short)) == 8
    assert runner.used_tokens == 0
