"""Several adapters at once: what a request may say, the same logits as PEFT's own, and how they conflict."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmtrace.reference import RunnerError, build_or_load
from llmtrace.reference import adapters as adapters_module
from llmtrace.reference.adapters import Adapters
from llmtrace.reference.compositions import (
    _WAYS,
    STACKED,
    Composition,
    CompositionError,
    composed,
    methods,
    parse_composition,
)
from llmtrace.reference.conflicts import Factors, Pair, compare, compare_all
from llmtrace.reference.prefix_cache import PrefixCache
from llmtrace.reference.runner import Request, Runner
from llmtrace.reference.sampling import Sampling
from llmtrace.reference.timings import Timings
from llmtrace.reference.tiny_adapter import build_tiny_adapter
from tests.reference.conftest import SMALL
from tests.support.late import Late

if TYPE_CHECKING:
    import safetensors.torch as safetensors_torch
    import torch

    Change = Callable[[str, torch.Tensor], torch.Tensor]
else:
    safetensors_torch = Late("safetensors.torch")
    torch = Late("torch")

peft: Any = Late("peft")
if find_spec("peft") is None:
    pytest.skip("PEFT is not installed", allow_module_level=True)

HALF = SMALL.hidden // 2


def changed(folder: Path, target: Path, change: Change) -> Path:
    """Another adapter, of the same shapes: each matrix is what `change(name, matrix)` makes of it."""
    target.mkdir()
    (target / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())
    file = "adapter_model.safetensors"
    safetensors_torch.save_file(
        {
            name: change(name, matrix).contiguous()
            for name, matrix in safetensors_torch.load_file(folder / file).items()
        },
        target / file,
    )
    return target


def noisy(name: str, matrix: torch.Tensor, sign: float = 1.0) -> torch.Tensor:
    noise = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(len(name)))
    return (sign if "lora_B" in name else 1.0) * (matrix + 0.3 * matrix.std() * noise)


def half(upper: bool) -> Change:
    """Reads one half of the inputs, writes to one half of the outputs."""

    def change(name: str, matrix: torch.Tensor) -> torch.Tensor:
        kept = torch.zeros_like(matrix)
        side = 0 if "lora_B" in name else 1
        size = matrix.shape[side] // 2
        part = slice(size, None) if upper else slice(0, size)
        where = (part, slice(None)) if side == 0 else (slice(None), part)
        kept[where] = matrix[where]
        return kept

    return change


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One adapter; one that agrees with it, one that is against it; two that have nothing in common; one of rank 8."""
    root = tmp_path_factory.mktemp("adapters")
    one = build_tiny_adapter(root / "one", spec=SMALL, rank=4, seed=1)
    return {
        "one": one,
        "alike": changed(one, root / "alike", noisy),
        "against": changed(one, root / "against", lambda name, matrix: noisy(name, matrix, -1.0)),
        "low": changed(one, root / "low", half(False)),
        "high": changed(one, root / "high", half(True)),
        "wide": build_tiny_adapter(root / "wide", spec=SMALL, rank=8, seed=2),
    }


@pytest.fixture(scope="module")
def adapters(small_path: Path, folders: dict[str, Path]) -> Adapters:
    return Adapters(build_or_load(small_path, device="cpu"), folders)


# How they conflict


def brute_force(first: Factors, second: Factors, weights: tuple[float, float]) -> dict[str, Any]:
    """The same figures from the dense deltas."""
    x, y = (
        weight * each.scale * (each.b.double() @ each.a.double())
        for each, weight in zip((first, second), weights, strict=True)
    )
    differ = x * y < 0
    change = x.abs() + y.abs()
    angles: list[list[float]] = []
    for each in ((x, y), (x.T, y.T)):
        u, v = (torch.linalg.svd(delta)[0][:, : torch.linalg.matrix_rank(delta)] for delta in each)
        angles.append(torch.rad2deg(torch.acos(torch.linalg.svdvals(u.T @ v).clamp(max=1))).tolist())
    return {
        "cosine": float((x * y).sum() / x.norm() / y.norm()) if x.norm() * y.norm() else 0.0,
        "signs": int(differ.sum()) / max(1, int(((x != 0) & (y != 0)).sum())),
        "signs_by_change": float(change[differ].sum() / change.sum()),
        "cancelled": float(1 - (x + y).abs().sum() / change.sum()),
        "outputs": angles[0],
        "inputs": angles[1],
    }


@pytest.mark.parametrize(
    ("first", "second", "weights"),
    [
        ("one", "alike", (1.0, 1.0)),
        ("one", "against", (1.0, 0.5)),
        ("low", "high", (1.0, 1.0)),
        ("one", "wide", (-0.7, 2.0)),
    ],
)
def test_the_figures_are_those_of_the_dense_deltas(
    adapters: Adapters, first: str, second: str, weights: tuple[float, float]
) -> None:
    ours, theirs = adapters._factors[first], adapters._factors[second]
    assert len(ours) == 14, "seven matrices in each of two layers"
    [pair] = compare_all([(first, weights[0], ours), (second, weights[1], theirs)])
    for matrix in pair.matrices:
        dense = brute_force(ours[matrix.module], theirs[matrix.module], weights)
        group = pair.matrices_as_json()[pair.matrices.index(matrix)]
        assert matrix.exact
        assert group["cosine"] == pytest.approx(dense["cosine"], abs=1e-9)
        assert group["signs_differ"] == pytest.approx(dense["signs"], abs=1e-9)
        assert group["signs_differ_by_change"] == pytest.approx(dense["signs_by_change"], abs=1e-9)
        assert group["cancelled"] == pytest.approx(dense["cancelled"], abs=1e-9)
        assert matrix.outputs == pytest.approx(dense["outputs"], abs=1e-3)
        assert matrix.inputs == pytest.approx(dense["inputs"], abs=1e-3)
    flat = [
        torch.cat([(each[name].scale * (each[name].b @ each[name].a)).double().flatten() for name in ours]) * weight
        for each, weight in ((ours, weights[0]), (theirs, weights[1]))
    ]
    assert pair.whole is not None
    assert pair.whole.cosine == pytest.approx(float(torch.cosine_similarity(*flat, dim=0)), abs=1e-6)
    assert pair.sizes == pytest.approx([float(each.norm()) for each in flat], rel=1e-6)


def pair_of(adapters: Adapters, first: str, second: str) -> Pair:
    return adapters.conflicts(composed([first, second]))[0]


def test_agreement_conflict_and_distance_are_told_apart(adapters: Adapters) -> None:
    alike, against, apart = (
        pair_of(adapters, *names) for names in (("one", "alike"), ("one", "against"), ("low", "high"))
    )
    assert alike.whole is not None
    assert against.whole is not None
    assert apart.whole is not None
    assert alike.whole.cosine > 0.8
    assert against.whole.cosine < -0.8
    assert alike.whole.signs < 0.25
    assert against.whole.signs > 0.75
    assert alike.whole.signs_by_change < alike.whole.signs, "signs differ where there is little change"
    assert against.whole.cancelled > 0.6
    assert alike.whole.cancelled < 0.1
    assert alike.whole.outputs > 0.8, "they write to the same outputs"
    assert alike.whole.chance[0] < 0.15
    assert (apart.whole.cosine, apart.whole.signs, apart.whole.cancelled) == (0, 0, 0)
    assert apart.whole.outputs == pytest.approx(0, abs=1e-9)
    assert apart.whole.angles == pytest.approx((90, 90))
    assert "pull the same way" in alike.says()
    assert "1.9 times as far" in alike.says() or "2.0 times as far" in alike.says()
    assert "pull against each other" in against.says()
    assert "keep out of each other's way" in apart.says()
    assert [group.name for group in alike.groups] == [
        f"layer {layer}, {part}" for layer in (0, 1) for part in ("attention", "mlp")
    ]
    assert [group.matrices for group in alike.groups] == [4, 3, 4, 3]


def test_a_negative_weight_turns_a_conflict_round(adapters: Adapters) -> None:
    [turned] = adapters.conflicts(composed(["one", "against"], [1.0, -1.0]))
    assert turned.whole is not None
    assert turned.whole.cosine == pytest.approx(-pair_of(adapters, "one", "against").whole.cosine)  # pyright: ignore
    assert "pull the same way" in turned.says()


def test_what_only_one_changes_is_counted_apart(adapters: Adapters) -> None:
    ours = adapters._factors["one"]
    attention = {name: each for name, each in ours.items() if "self_attn" in name}
    rest = {name: each for name, each in ours.items() if name not in attention}
    [partly] = compare_all([("all", 1.0, ours), ("attention", 1.0, attention)])
    assert partly.only == (6, 0)
    assert [group.name for group in partly.groups] == ["layer 0, attention", "layer 1, attention"]
    [never] = compare_all([("attention", 1.0, attention), ("mlp", 1.0, rest)])
    assert never.whole is None
    assert never.says() == "attention and mlp change different matrices: no weight is touched by both."
    nothing = {name: Factors(each.a, torch.zeros_like(each.b), 1.0) for name, each in ours.items()}
    assert compare_all([("one", 1.0, ours), ("new", 1.0, nothing)])[0].whole is None, "one that changes nothing yet"


def test_shared_inputs_are_seen_where_the_cosine_is_silent(adapters: Adapters) -> None:
    ours = adapters._factors["low"]
    generator = torch.Generator().manual_seed(3)
    theirs = {name: Factors(each.a, torch.randn(each.b.shape, generator=generator), 1.0) for name, each in ours.items()}
    [pair] = compare_all([("low", 1.0, ours), ("other", 1.0, theirs)])
    assert pair.whole is not None
    assert abs(pair.whole.cosine) < 0.2
    assert pair.whole.inputs == pytest.approx(1)
    assert "read the same inputs (overlap 100%" in pair.says()


def test_a_conflict_that_the_whole_does_not_show_is_named(adapters: Adapters) -> None:
    ours = adapters._factors["one"]
    theirs = {name: Factors(each.a, -each.b if ".1." in name else each.b, 1.0) for name, each in ours.items()}
    [pair] = compare_all([("one", 1.0, ours), ("other", 1.0, theirs)])
    assert not pair.is_conflict
    assert "But they pull against each other in layer 1, " in pair.says()
    assert "(cosine -1.00)" in pair.says()


def test_of_a_large_matrix_a_sample_is_looked_at() -> None:
    generator = torch.Generator().manual_seed(4)

    def factors(seed_b: torch.Tensor) -> Factors:
        return Factors(torch.randn(8, 900, generator=generator), seed_b, 0.5)

    shared = torch.randn(700, 8, generator=generator)
    first, second = factors(shared), factors(shared + torch.randn(700, 8, generator=generator))
    second = Factors(second.a + first.a, second.b, 0.5)
    whole, some = (compare("big", first, second, (1.0, 1.0), exact=exact) for exact in (1 << 20, 1 << 16))
    assert whole.exact
    assert not some.exact
    assert some.product == whole.product, "exact however large"
    assert some.compared == pytest.approx(whole.compared, rel=1e-3), "sums stand for the whole matrix"
    for part, base in (("differing", "compared"), ("differing_change", "change"), ("cancelled", "change")):
        shares = [getattr(each, part) / getattr(each, base) for each in (whole, some)]
        assert shares[1] == pytest.approx(shares[0], abs=0.02), part


# What a request may say


KNOWN = ["a", "b", "c:2", "d+e"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a+b", Composition(("a", "b"), (1.0, 1.0))),
        ("a:0.70+b:-1", Composition(("a", "b"), (0.7, -1.0))),
        ("a:1.0 + b", Composition(("a", "b"), (1.0, 1.0))),
        ("a+c:2:3", Composition(("a", "c:2"), (1.0, 3.0))),
        ("a+b@cat", Composition(("a", "b"), (1.0, 1.0), "cat")),
        ("a+b@ties", Composition(("a", "b"), (1.0, 1.0), "ties", 0.5)),
        ("a+b:2@dare_linear:0.3", Composition(("a", "b"), (1.0, 2.0), "dare_linear", 0.3)),
        ("a", None),
        ("a:2", None),
        ("x@ties", None),
    ],
)
def test_a_composition_is_read_and_named_alike(text: str, expected: Composition | None) -> None:
    read = parse_composition(text, KNOWN)
    assert read == expected
    if read is not None:
        assert parse_composition(read.text, KNOWN) == read


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a+a", "is in the composition twice"),
        ("a+b:0", "a weight lies from -100 to 100 and is not 0"),
        ("a+b:101", "a weight lies from"),
        ("a+b:x", "the weight of b must be a number, not 'x'"),
        ("a+b:nan", "must be a number"),
        ("a+b@", "there is no way '' to compose"),
        ("a+b@sum", "there is no way 'sum' to compose adapters: use stacked, "),
        ("a+b@cat:0.5", "cat keeps all values"),
        ("a+b@ties:1", "ties keeps a share between 0 and 1"),
        ("a+b@ties:x", "must be a number"),
        ("+".join(["a"] * 9), "2 to 8 adapters, and this one has 9"),
    ],
)
def test_what_is_wrong_with_one_is_said(text: str, says: str) -> None:
    with pytest.raises(CompositionError, match=says):
        parse_composition(text, KNOWN)


@pytest.mark.parametrize(
    ("text", "name"), [("a+x", "x"), ("a+x:0.5", "x"), ("a+", ""), ("a+d+e", "d"), ("a+x:y", "x:y")]
)
def test_an_adapter_that_is_not_there_is_named(text: str, name: str) -> None:
    with pytest.raises(KeyError) as caught:
        parse_composition(text, KNOWN)
    assert caught.value.args == (name,)


def test_the_ways_are_those_of_the_peft_that_is_installed() -> None:
    assert methods()[0] == STACKED
    assert {"svd", "linear", "cat", "ties", "dare_ties", "magnitude_prune"} <= set(methods())
    assert set(methods()[1:]) <= set(_WAYS), "a way that nothing here compares with PEFT's own"


def test_what_cannot_be_composed_is_refused_before_anything_runs(adapters: Adapters) -> None:
    with pytest.raises(CompositionError, match=r"linear needs adapters of one rank \(one has 4, wide has 8\): use cat"):
        adapters.get("one+wide@linear")
    assert adapters.get("one+wide@cat").rank == adapters.get("one+wide").rank == 12
    assert adapters.get("one+wide@svd").rank == 8
    config = adapters._configs["alike"]
    try:
        config.modules_to_save = ["lm_head"]
        with pytest.raises(CompositionError, match=r"alike cannot be composed: it has whole modules of its own"):
            adapters.get("one+alike")
    finally:
        config.modules_to_save = None


# What it answers


PROMPT = [17, 9, 230, 41, 5, 77, 120, 33]


def logits(adapters: Adapters, name: str | None) -> torch.Tensor:
    with torch.inference_mode():
        adapters.activate(name)
        return adapters.loaded.model(torch.tensor([PROMPT])).logits[0]


def dense(base: Path, adapters: Adapters, parts: dict[str, float]) -> torch.Tensor:
    """The logits of the base with the weighted sum of the dense deltas added to its weights."""
    model: Any = build_or_load(base, device="cpu").model
    with torch.inference_mode():
        for name, weight in parts.items():
            for module, each in adapters._factors[name].items():
                model.get_submodule(module).weight += weight * each.scale * (each.b @ each.a)
        return model(torch.tensor([PROMPT])).logits[0]


@pytest.fixture(scope="module", params=[False, True], ids=["beside", "merged"])
def either(small_path: Path, folders: dict[str, Path], request: pytest.FixtureRequest) -> Adapters:
    chosen = {name: folders[name] for name in ("one", "against", "wide")}
    return Adapters(build_or_load(small_path, device="cpu"), chosen, merge=request.param)


@pytest.mark.parametrize("text", ["one+wide", "one:0.7+wide:-0.5", "one:0.7+wide:-0.5@cat"])
def test_the_exact_ways_add_the_deltas_up(either: Adapters, small_path: Path, text: str) -> None:
    composition = either.get(text).composition
    assert composition is not None
    found = logits(either, text)
    assert torch.allclose(found, dense(small_path, either, dict(composition.parts)), atol=2e-5)
    assert float((found - logits(either, None)).abs().max()) > 0.01


@pytest.fixture(scope="module")
def by_peft(small_path: Path, folders: dict[str, Path]) -> Any:
    """The same adapters in PEFT's own hands."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for an old name
        model: Any = peft.PeftModel.from_pretrained(
            build_or_load(small_path, device="cpu").model, folders["one"], "one"
        )
    model.load_adapter(folders["against"], "against")
    return model


@pytest.mark.parametrize("method", _WAYS)  # to ask PEFT would import it, in every worker
def test_every_way_gives_what_peft_makes_of_it(either: Adapters, by_peft: Any, method: str) -> None:
    if method not in methods():
        pytest.skip("this PEFT does not offer it")
    text = f"one+against:0.5@{method}"
    sparse = method.startswith(("ties", "dare", "magnitude"))
    assert either.get(text).name == text + (":0.5" if sparse else "")
    found = logits(either, text)
    torch.manual_seed(0)
    more = {"density": 0.5} if sparse else {}
    by_peft.add_weighted_adapter(["one", "against"], [1.0, 0.5], method, combination_type=method, **more)
    by_peft.set_adapter(method)
    with torch.inference_mode():
        assert torch.allclose(found, by_peft(torch.tensor([PROMPT])).logits[0], atol=2e-5)
    for other in ("one", None, "wide"):
        logits(either, other)
    assert torch.equal(logits(either, text), found), "drawn alike each time, and left alone by others"


def test_each_adapter_and_the_base_are_themselves_after_compositions(either: Adapters) -> None:
    before = {name: logits(either, name) for name in (None, "one", "wide")}
    for text in ("one:0.3+wide", "one+against@ties", "one+wide:2@cat", "one:5+against"):
        logits(either, text)
    for name, expected in before.items():
        assert torch.equal(logits(either, name), expected), name


def test_few_compositions_are_kept_and_made_anew(either: Adapters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters_module, "_MOST_COMPOSED", 2)
    texts = [f"one+against:{weight}@linear" for weight in (2, 3, 4)]
    first = logits(either, texts[0])
    number = either.number(texts[0])
    for text in texts[1:]:
        logits(either, text)
    assert list(either._composed) == texts[1:]
    assert texts[0] in either.dropped
    assert {key for key in either._model.peft_config if key.startswith("c")} == {
        either._keys[each] for each in texts[1:]
    }
    assert torch.equal(logits(either, texts[0]), first)
    assert either.number(texts[0]) == number, "its prefixes are good as ever"
    assert len({either.number(name) for name in (*texts, "one", "against", "wide")}) == 6


def ask(prompt: list[int], adapter: str | None) -> Request:
    return Request(prompt, max_tokens=6, sampling=Sampling(temperature=0), ignore_eos=True, adapter=adapter)


def test_a_request_runs_with_a_composition_and_swaps_for_it(either: Adapters) -> None:
    runner = Runner(either.loaded, prefix_cache=PrefixCache(block=4), max_running=4, adapters=either)
    prompt = PROMPT * 3
    cold: dict[str | None, list[int]] = {}
    for name in ("one", "one+wide", "one:1.0+wide", None):
        timings = Timings(arrived=runner.clock.mark().host)
        cold[name] = [piece.token for piece in runner.generate(ask(prompt, name), timings)]
        assert (timings.adapter.name if timings.adapter else None) == ("one+wide" if name == "one:1.0+wide" else name)
        assert bool(timings.swaps) == (name != "one:1.0+wide"), "the same composition, whatever it is called"
        assert timings.cached_tokens == (20 if name == "one:1.0+wide" else 0)
        if timings.swaps:
            assert "adapter_swap" in timings.seconds()
    assert cold["one+wide"] == cold["one:1.0+wide"]
    assert cold["one+wide"] not in (cold["one"], cold[None])


def test_one_that_peft_cannot_make_fails_its_request_and_no_other(
    either: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("no such luck")

    monkeypatch.setattr(type(either._model.base_model), "add_weighted_adapter", broken)
    runner = Runner(either.loaded, max_running=2, adapters=either)
    with pytest.raises(RunnerError, match=r"PEFT cannot make one:9\+against@cat: no such luck"):
        list(runner.generate(ask(PROMPT, "one:9+against@cat")))
    assert len(list(runner.generate(ask(PROMPT, "one")))) == 6
    assert not runner.running


def test_a_weight_multiplies_the_scale_that_an_adapter_has(
    small_path: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Of RSLoRA too, whose scale is another one."""
    steady = changed(folders["one"], tmp_path / "steady", lambda _, matrix: matrix)
    settings = steady / "adapter_config.json"
    settings.write_text(settings.read_text().replace('"peft_type"', '"use_rslora": true, "peft_type"'))
    loaded = build_or_load(small_path, device="cpu")
    adapters = Adapters(loaded, {"steady": steady, "wide": folders["wide"]})
    assert {each.scale for each in adapters._factors["steady"].values()} == {2.0}, "4 / sqrt(4)"
    before = logits(adapters, "steady")
    found = logits(adapters, "steady:0.5+wide")
    assert torch.allclose(found, dense(small_path, adapters, {"steady": 0.5, "wide": 1.0}), atol=2e-5)
    assert torch.equal(logits(adapters, "steady"), before)
