"""What the runner relies on in transformers, and that it is all there; and a device's graphs, played on the CPU."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmtrace.reference import LoadedModel, build_or_load
from llmtrace.reference.adapters import Adapters
from llmtrace.reference.hooks import HOOKS
from llmtrace.reference.runner import Request, Runner
from llmtrace.reference.sampling import Sampling
from llmtrace.reference.tiny import TinySpec, build_tiny
from llmtrace.reference.tiny_adapter import build_tiny_adapter
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
    import transformers
else:
    torch = Late("torch")
    transformers = Late("transformers")

PACKAGE = "transformers.generation.continuous_batching"
GREEDY = Sampling(temperature=0)


def prompt_of(loaded: LoadedModel, tokens: int, seed: int = 0) -> list[int]:
    made = torch.Generator().manual_seed(seed)
    return torch.randint(5, loaded.vocabulary, (tokens,), generator=made).tolist()


def test_every_hook_is_there() -> None:
    """A method or a field of the class, or an attribute that it sets on itself."""
    for owner, names in HOOKS.items():
        module, _, name = owner.rpartition(".")
        found: Any = getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)
        source = "".join(inspect.getsource(kind) for kind in found.__mro__ if kind.__module__.startswith(PACKAGE))
        for hook in names:
            assert hasattr(found, hook) or re.search(
                rf"self\.{hook}(:.*|, .*)? = |^    {hook}:", source, re.MULTILINE
            ), f"{owner}.{hook}"


ALSO_OURS = {"__init__", "clear", "config", "device", "dtype", "fresh", "model", "temperature", "top_p"}
"""Names in the engine that other things are called by here."""


def test_no_hook_is_missing_from_the_list() -> None:
    """What our modules name that is a name of the engine's too."""
    from llmtrace.reference import blocks, engine, paged_attention

    package = importlib.import_module(PACKAGE)
    theirs: set[str] = set()
    for file in Path(inspect.getfile(package)).parent.rglob("*.py"):
        for kind in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ClassDef)):
            for node in ast.walk(kind):
                if isinstance(node, ast.FunctionDef):
                    theirs.add(node.name)
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    theirs.add(node.target.id)
                elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    theirs.add(node.attr)
    ours: set[str] = set()
    for module in (blocks, engine, paged_attention):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.FunctionDef):
                ours.add(node.name)
            elif isinstance(node, ast.Attribute):
                ours.add(node.attr)
    listed = {hook for hooks in HOOKS.values() for hook in hooks}
    assert (ours & theirs) - listed - ALSO_OURS == set()
    assert listed - ours == set(), "what is no longer used"


def test_the_version_range_is_that_of_the_hooks() -> None:
    """Another minor version may have other hooks: the extra names the one that the tests run with."""
    project = Path(__file__).parents[2].joinpath("pyproject.toml").read_text()
    [low] = re.findall(r'"transformers>=(\d+\.\d+),<\d+\.\d+"', project)
    assert transformers.__version__.startswith(f"{low}.")


def test_a_whole_step_is_what_the_engine_itself_would_do(small: LoadedModel) -> None:
    """Our three calls and the engine's own loop give the same tokens."""
    prompts = [prompt_of(small, length, length) for length in (40, 3, 90)]
    config = transformers.ContinuousBatchingConfig(page_size=32, num_blocks=32, max_batch_tokens=128)
    greedy = transformers.GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=9)
    theirs = small.model.generate_batch(prompts, generation_config=greedy, continuous_batching_config=config)
    runner = Runner(small, max_running=3)
    for prompt, output in zip(prompts, theirs.values(), strict=True):
        mine = [piece.token for piece in runner.generate(Request(prompt, 9, GREEDY, ignore_eos=True))]
        assert mine == output.generated_tokens


# Graphs, without a device


class Graphs:
    """Captures as a device would: a graph replays the work that it was captured from, whatever is asked of it."""

    def __init__(self, runner: Runner) -> None:
        engine = runner._engine
        self.runner = engine._processor.model_runner
        self.runner.pad_inputs = self.runner.use_cuda_graph_varlen = True
        self.replayed = 0
        self.fails: Exception | None = None
        """Raised once, while the step is computed for the first time."""
        self.cannot_capture: Exception | None = None
        """Raised by each capture, when the step has been computed."""

        def capture(work: Callable[..., None], stream: Any, *arguments: Any) -> None:
            if self.fails is not None:
                error, self.fails = self.fails, None
                raise error
            work(*arguments)
            if self.cannot_capture is not None:
                raise self.cannot_capture
            engine._ios.set_graph(_Replay(self, lambda: work(*arguments)))

        self.runner._capture_graph = capture
        engine._watch_captures()


class _Replay:
    def __init__(self, graphs: Graphs, work: Callable[[], None]) -> None:
        self._graphs, self._work = graphs, work

    def reset(self) -> None:
        """Give its memory back."""

    def replay(self) -> None:
        self._graphs.replayed += 1
        self._work()


def tokens(runner: Runner, prompt: list[int], adapter: str | None = None) -> list[int]:
    asked = Request(prompt, 9, GREEDY, ignore_eos=True, adapter=adapter)
    return [piece.token for piece in runner.generate(asked)]


def test_a_first_run_that_fails_costs_its_request_alone(small: LoadedModel) -> None:
    prompt = prompt_of(small, 20)
    alone = tokens(Runner(small), prompt)
    runner = Runner(small)
    graphs = Graphs(runner)
    graphs.fails = RuntimeError("a kernel went wrong")
    with pytest.raises(RuntimeError, match="went wrong"):
        tokens(runner, prompt)
    assert runner.used_tokens == 0
    assert tokens(runner, prompt) == alone
    assert tokens(runner, prompt) == alone
    assert graphs.replayed > 0
    assert runner.failed_captures == 0


def test_a_capture_that_fails_costs_the_graphs_and_no_request(
    small: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    prompt = prompt_of(small, 20)
    alone = tokens(Runner(small), prompt)
    runner = Runner(small)
    graphs = Graphs(runner)
    graphs.cannot_capture = RuntimeError("operation not permitted when stream is capturing")
    assert tokens(runner, prompt) == alone
    assert tokens(runner, prompt) == alone
    assert (runner.failed_captures, graphs.replayed) == (1, 0), "it is not tried again"
    assert "could not be captured" in caplog.text


def test_adapters_share_no_graph(tmp_path: Path) -> None:
    """A graph replays the kernels of the adapter that it was captured with; PEFT's layers are switched on the host."""
    pytest.importorskip("peft")
    spec = TinySpec(hidden=64, intermediate=96, layers=2, heads=2, kv_heads=1, frozen_layers=1, steps=2, context=512)
    build_tiny(tmp_path / "base", spec=spec)
    folder = build_tiny_adapter(tmp_path / "tuned", spec=spec, rank=8)
    loaded = build_or_load(tmp_path / "base", device="cpu")
    runner = Runner(loaded, adapters=Adapters(loaded, {"tuned": folder}))
    Graphs(runner)
    prompt = prompt_of(loaded, 20)
    kept: list[Any] = []
    for adapter in (None, "tuned", None):
        tokens(runner, prompt, adapter)
        kept.append(runner._engine._ios.graphs)
    assert kept[0] is kept[2]
    assert kept[0] is not kept[1]
