"""Adapters: the same logits as PEFT's own, no keys and values of one in another's answer, and swaps that add up."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from llmtrace.reference import LoadedModel, RunnerError, build_or_load
from llmtrace.reference.adapters import Adapters, parse_adapters
from llmtrace.reference.prefix_cache import PrefixCache
from llmtrace.reference.runner import Generation, Piece, Request, Runner
from llmtrace.reference.sampling import Sampling
from llmtrace.reference.timings import Timings
from llmtrace.reference.tiny import TinySpec
from llmtrace.reference.tiny_adapter import build_tiny_adapter
from tests.reference.conftest import SMALL
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
else:
    torch = Late("torch")

peft: Any = Late("peft")
if find_spec("peft") is None:
    pytest.skip("PEFT is not installed", allow_module_level=True)

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def base(small_path: Path) -> Path:
    return small_path


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One made by PEFT, one by our own hand."""
    root = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(5)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    peft.get_peft_model(build_or_load(base, device="cpu").model, config).save_pretrained(root / "first")
    return {"first": root / "first", "second": build_tiny_adapter(root / "second", spec=SMALL, rank=8)}


@pytest.fixture(params=[False, True], ids=["beside", "merged"])
def runner(base: Path, folders: dict[str, Path], request: pytest.FixtureRequest) -> Runner:
    loaded = build_or_load(base, device="cpu")
    adapters = Adapters(loaded, folders, merge=request.param)
    return Runner(loaded, prefix_cache=PrefixCache(block=8), max_running=4, prefill_chunk=16, adapters=adapters)


def prompt_of(runner: Runner, tokens: int, seed: int = 0) -> list[int]:
    made = torch.Generator().manual_seed(seed)
    return torch.randint(5, runner.loaded.vocabulary, (tokens,), generator=made).tolist()


def ask(prompt: list[int], adapter: str | None = None, **more: Any) -> Request:
    return Request(prompt, **{"max_tokens": 6, "sampling": GREEDY, "ignore_eos": True, "adapter": adapter, **more})


def tokens(runner: Runner, request: Request) -> tuple[list[int], Timings]:
    timings = Timings(arrived=runner.clock.mark().host)
    return [piece.token for piece in runner.generate(request, timings)], timings


def expected(base: Path, folder: Path | None, prompt: list[int], steps: int = 6) -> list[int]:
    """By transformers and PEFT alone."""
    model: Any = build_or_load(base, device="cpu").model
    if folder is not None:
        model = peft.PeftModel.from_pretrained(model, folder)
    with torch.inference_mode():
        out = model.generate(
            input_ids=torch.tensor([prompt]), max_new_tokens=steps, min_new_tokens=steps, do_sample=False
        )
    return out[0, len(prompt) :].tolist()


def test_each_adapter_answers_as_it_does_alone(runner: Runner, base: Path, folders: dict[str, Path]) -> None:
    prompt = prompt_of(runner, 40)
    alone = {name: expected(base, folder, prompt) for name, folder in {**folders, None: None}.items()}
    assert len({tuple(each) for each in alone.values()}) == 3
    for name in ("first", None, "second", "first", None):  # a warm cache from the second round on
        found, timings = tokens(runner, ask(prompt, name))
        assert found == alone[name], name
        assert (timings.adapter.name if timings.adapter else None) == name


def test_the_base_is_bit_for_bit_itself_after_any_number_of_swaps(runner: Runner) -> None:
    ids = torch.tensor([prompt_of(runner, 12)])
    with torch.inference_mode():
        before = runner.loaded.model(ids).logits
        for name in ("first", "second", None, "second", None):
            runner.adapters.activate(name)  # pyright: ignore[reportOptionalMemberAccess]
        after = runner.loaded.model(ids).logits
    assert torch.equal(before, after)


def test_a_prefix_is_reused_by_its_own_adapter_only(runner: Runner) -> None:
    prompt = prompt_of(runner, 41, seed=2)
    cold, first = tokens(runner, ask(prompt, None))
    assert first.cached_tokens == 0
    _, other = tokens(runner, ask(prompt, "first"))
    assert other.cached_tokens == 0
    _, again = tokens(runner, ask(prompt, "first"))
    assert again.cached_tokens == 40
    warm, base = tokens(runner, ask(prompt, None))
    assert base.cached_tokens == 40
    assert warm == cold


def test_logits_of_an_adapter_after_a_hit_equal_cold_ones(runner: Runner) -> None:
    prompt = prompt_of(runner, 33, seed=3)
    tokens(runner, ask(prompt, None))  # what must not be taken
    _, cold = first_logits(runner, ask(prompt, "second", max_tokens=1))
    timings, warm = first_logits(runner, ask(prompt, "second", max_tokens=1))
    assert timings.cached_tokens == 32
    assert float((warm - cold).norm()) <= 1e-4 * float(cold.norm())


def first_logits(runner: Runner, request: Request) -> tuple[Timings, torch.Tensor]:
    seen: list[torch.Tensor] = []
    hook = runner.loaded.model.lm_head.register_forward_hook(lambda _, __, logits: seen.append(logits.clone()))
    try:
        _, timings = tokens(runner, request)
    finally:
        hook.remove()
    return timings, seen[-1][0, -1]


def test_neighbours_with_different_adapters_each_get_their_own_answer(
    runner: Runner, base: Path, folders: dict[str, Path]
) -> None:
    prompts = [prompt_of(runner, 20 + 13 * number, seed=10 + number) for number in range(4)]
    names = ["first", None, "second", "first"]
    generations = [runner.start(ask(prompt, name)) for prompt, name in zip(prompts, names, strict=True)]
    told: dict[Generation, list[int]] = {each: [] for each in generations}

    def tell(generation: Generation, news: Piece | Exception) -> None:
        assert isinstance(news, Piece), news
        told[generation].append(news.token)

    assert all(runner.admit(each) for each in generations)
    steps = 0
    while runner.running:
        runner.step(tell)
        steps += 1
    assert steps <= 12  # all of them advance in every step, whatever their neighbours' adapters are
    for generation, prompt, name in zip(generations, prompts, names, strict=True):
        assert told[generation] == expected(base, folders[name] if name else None, prompt), name
        assert_adds_up(generation.timings)
        assert generation.timings.swaps


@pytest.fixture(scope="module")
def adapted(base: Path, folders: dict[str, Path]) -> Adapters:
    return Adapters(build_or_load(base, device="cpu"), folders)


@given(
    asked=st.lists(
        st.tuples(
            st.sampled_from([None, "first", "second"]), st.integers(1, 90), st.integers(1, 40), st.integers(0, 9)
        ),
        min_size=2,
        max_size=6,
    ),
    room=st.sampled_from([136, 256]),
    leaves=st.integers(0, 20),
)
@example(asked=[("second", 51, 35, 2), ("second", 87, 20, 3), (None, 69, 4, 4)] * 2, room=136, leaves=5)
@settings(
    max_examples=int(os.environ.get("LLMTRACE_RUNNER_EXAMPLES", "3")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate],
)
def test_in_a_small_room_everybody_gets_their_own(
    adapted: Adapters, asked: list[tuple[str | None, int, int, int]], room: int, leaves: int
) -> None:
    """Requests of several adapters press each other out of the room, and one of them leaves."""
    loaded = adapted.loaded
    runner = Runner(loaded, prefix_cache=PrefixCache(block=8), max_running=3, cache_tokens=room, adapters=adapted)
    waiting = [
        (wait, runner.start(ask(prompt_of(runner, length, length), name, max_tokens=tokens)))
        for name, length, tokens, wait in asked
    ]
    told: dict[Generation, list[int]] = {each: [] for _, each in waiting}
    made = [each for _, each in waiting]
    for number in range(5_000):
        while waiting and waiting[0][0] <= number and runner.admit(waiting[0][1]):
            waiting.pop(0)
        if not waiting and not runner.running:
            break
        runner.step(lambda generation, news: told[generation].append(news.token))  # pyright: ignore
        if number == leaves and runner.running:
            runner.leave(runner.running[-1])
    else:
        pytest.fail("it never ends")
    assert runner.used_tokens == 0
    for generation, (name, length, _, _) in zip(made, asked, strict=True):
        found = told[generation]
        assert found == _alone(adapted, length, name)[: len(found)]
        assert_adds_up(generation.timings)


_known: dict[tuple[int, str | None], list[int]] = {}


def _alone(adapted: Adapters, length: int, name: str | None) -> list[int]:
    if (length, name) not in _known:
        runner = Runner(adapted.loaded, adapters=adapted)
        _known[length, name] = tokens(runner, ask(prompt_of(runner, length, length), name, max_tokens=40))[0]
    return _known[length, name]


def assert_adds_up(timings: Timings) -> None:
    phases = timings.phases()
    assert phases[0].start == timings.arrived
    assert phases[-1].end == timings.finished
    assert all(before.end == after.start for before, after in pairwise(phases))
    for start, end in timings.swaps:
        assert (timings.scheduled or end) <= start <= end <= (timings.finished or 0)


def test_a_swap_is_a_phase_of_its_own_and_only_where_there_was_one(runner: Runner) -> None:
    prompt = prompt_of(runner, 30, seed=4)
    for name, swapped in ((None, False), ("first", True), ("first", False), (None, True)):
        _, timings = tokens(runner, ask(prompt, name))
        assert_adds_up(timings)
        names = [phase.name for phase in timings.phases()]
        assert ("adapter_swap" in names) is swapped
        metrics = timings.metrics()
        if swapped:
            assert names[:2] == ["queue", "adapter_swap"]
            assert timings.seconds()["adapter_swap"] * 1e3 == pytest.approx(metrics["adapter_swap_time_ms"])
            assert metrics["adapter_swap_time_ms"] <= metrics["time_to_first_token_ms"]  # pyright: ignore


def test_what_cannot_be_loaded_is_said(base: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    loaded = build_or_load(base, device="cpu")
    with pytest.raises(RunnerError, match="has no adapter_config"):
        Adapters(loaded, {"gone": tmp_path / "gone"})
    with pytest.raises(RunnerError, match="the model itself has this name"):
        Adapters(loaded, {loaded.name: folders["first"]})
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(RunnerError, match="cannot read"):
        Adapters(loaded, {"torn": tmp_path})
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2}')
    with pytest.raises(RunnerError, match="only LORA"):
        Adapters(loaded, {"prompt": tmp_path})
    wide = build_tiny_adapter(tmp_path / "wide", spec=TinySpec())
    with pytest.raises(RunnerError, match="cannot load the adapter"):
        Adapters(copy.copy(loaded), {"wide": wide})


@pytest.mark.parametrize(("layers", "says"), [(3, "which small does not have"), (1, "which it says it adapts")])
def test_an_adapter_of_another_model_is_refused(base: Path, tmp_path: Path, layers: int, says: str) -> None:
    """PEFT loads it, and leaves out what does not fit."""
    other = build_tiny_adapter(tmp_path / "other", spec=replace(SMALL, layers=layers))
    with pytest.raises(RunnerError, match=f"belongs to another model: .*{says}"):
        Adapters(build_or_load(base, device="cpu"), {"other": other})


def test_an_adapter_may_have_any_name(base: Path, folders: dict[str, Path]) -> None:
    runner = Runner(
        loaded := build_or_load(base, device="cpu"), adapters=Adapters(loaded, {"qwen2.5": folders["first"]})
    )
    prompt = prompt_of(runner, 8)
    assert tokens(runner, ask(prompt, "qwen2.5"))[0] == expected(base, folders["first"], prompt)


def test_an_unknown_adapter_is_refused(runner: Runner) -> None:
    with pytest.raises(RunnerError, match="no adapter 'third': this runner has first, second"):
        runner.start(ask([5, 6], "third"))


def test_names_on_the_command_line(tmp_path: Path) -> None:
    assert parse_adapters(["a=/x", "b=y=z"]) == {"a": Path("/x"), "b": Path("y=z")}
    for bad in ("a", "=x", "a="):
        with pytest.raises(RunnerError, match="NAME=PATH"):
            parse_adapters([bad])
    with pytest.raises(RunnerError, match="given twice"):
        parse_adapters(["a=x", "a=y"])


def test_the_plain_model_has_none(small: LoadedModel) -> None:
    with pytest.raises(RunnerError, match="this runner has none"):
        Runner(small).start(ask([5, 6], "first"))
