"""`llmtrace bench adapters`: how far answers move, what it prints, and what it says of what cannot be."""

from __future__ import annotations

import io
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from llmtrace.cli import build_app
from llmtrace.commands import bench_adapters
from llmtrace.reference import RunnerError, build_or_load
from llmtrace.reference.adapter_bench import Asked, measure, named_folders
from llmtrace.reference.adapter_shifts import measure_shifts, read_prompts
from llmtrace.reference.adapters import Adapters
from llmtrace.reference.compositions import composed
from llmtrace.reference.tiny_adapter import build_tiny_adapter
from llmtrace.view import adapters_page
from tests.reference.conftest import SMALL
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
else:
    torch = Late("torch")

if find_spec("peft") is None:
    pytest.skip("PEFT is not installed", allow_module_level=True)

LINES = 'What time is it?\n\n{"prompt": "Hello there"}\n{"messages": [{"role": "user", "content": "Who are you?"}]}\n'


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {name: build_tiny_adapter(root / name, spec=SMALL, rank=4, seed=n) for n, name in enumerate(("one", "two"))}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("asked") / "prompts.txt"
    file.write_text(LINES)
    return file


@pytest.fixture(scope="module")
def results(small_path: Path, folders: dict[str, Path], prompts: Path) -> dict[str, Any]:
    told: list[tuple[int, int]] = []
    asked = Asked(folders, [1.0, -0.5], model=small_path, device="cpu", prompts=prompts, tokens=5)
    measured = measure(asked, lambda _, done, of: told.append((done, of)))
    assert told[-1] == (9, 9), "three prompts, each for the base and for two adapters"
    return json.loads(json.dumps(measured))


def test_everything_is_told(results: dict[str, Any]) -> None:
    assert results["composition"]["name"] == "one+two:-0.5"
    assert [(each["name"], each["weight"], each["rank"]) for each in results["composition"]["adapters"]] == [
        ("one", 1.0, 4),
        ("two", -0.5, 4),
    ]
    [conflict] = results["conflicts"]
    assert conflict["adapters"] == ["one", "two"]
    assert len(conflict["matrices"]) == 14
    assert all(len(each["angles_degrees"]["inputs"]) == 4 for each in conflict["matrices"])
    assert [shift["adapter"] for shift in results["shifts"]] == [None, "one", "two"]
    assert {shift["tokens"] for shift in results["shifts"]} <= set(range(3, 16))
    assert results["prompts"]["count"] == 3
    assert results["says"][-1].startswith("one+two:-0.5 keeps ")


def test_how_far_answers_move_is_what_the_dense_models_say(small_path: Path, folders: dict[str, Path]) -> None:
    """KL and agreement, from whole models whose weights hold the deltas."""
    adapters = Adapters(build_or_load(small_path, device="cpu"), folders)
    prompt = [7, 40, 9, 33]
    shifts = measure_shifts(adapters, composed(["one", "two"]), [prompt], 6)

    def dense(*names: str) -> Any:
        model: Any = build_or_load(small_path, device="cpu").model
        with torch.inference_mode():
            for name in names:
                for module, each in adapters._factors[name].items():
                    model.get_submodule(module).weight += each.scale * (each.b @ each.a)
        return model

    both = dense("one", "two")
    for shift, names in zip(shifts, ([], ["one"], ["two"]), strict=True):
        alone = dense(*names)
        with torch.inference_mode():
            answer = alone.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False)
            places = slice(len(prompt) - 1, -1)
            p, q = (torch.log_softmax(model(answer).logits[0, places].double(), -1) for model in (alone, both))
        kl = (p.exp() * (p - q)).sum(-1)
        assert shift.tokens == len(kl)
        assert shift.kl == pytest.approx(float(kl.mean()), rel=1e-3)
        assert shift.top1 == float((p.argmax(-1) == q.argmax(-1)).double().mean())
        assert shift.same_answers == int(shift.top1 == 1)
        assert shift.kl <= shift.kl_p95
    [base, one, two] = measure_shifts(adapters, composed(["one", "two"], [1.0, 1e-6]), [prompt], 6)
    assert (one.top1, one.same_answers) == (1.0, 1)
    assert one.kl < 1e-9 < min(base.kl, two.kl)


def test_it_prints_and_draws_it_in_sixty_columns(results: dict[str, Any]) -> None:
    written = io.StringIO()
    bench_adapters._print(Console(file=written, width=60, highlight=False), results)
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    assert sum(line.startswith("layer 1, mlp") for line in lines) == 2, "in the table and as a bar"
    assert any(line.startswith("by chance") for line in lines)
    assert sum(line.startswith("the base") for line in lines) == 2
    assert "-0.00" not in written.getvalue()


def test_the_page_shows_every_group_and_loads_nothing(results: dict[str, Any]) -> None:
    page = adapters_page.render(results)
    assert page.count("<rect") == 4 + 1 + 3, "the groups, all of them, and the three that answered"
    assert "http" not in page.replace("http-equiv", "")
    evil = json.loads(json.dumps(results).replace('"one"', '"<b>one"'))
    assert "<b>one" not in adapters_page.render(evil)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no prompts"),
        ('{"text": "x"}', "line 1: an object needs a prompt"),
        ("fine\n{x", "line 2: it begins like JSON"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_a_file_of_prompts_that_cannot_be_used(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "prompts"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunnerError, match=says):
        read_prompts(file)


def test_adapters_by_path_and_by_name(folders: dict[str, Path], tmp_path: Path) -> None:
    one, two = (str(folder) for folder in folders.values())
    assert named_folders([one, f"other={two}"]) == {"one": folders["one"], "other": folders["two"]}
    with pytest.raises(RunnerError, match="two adapters are called one: name them, as in first="):
        named_folders([one, one])


def test_the_command_says_in_a_line_what_cannot_be(folders: dict[str, Path], small_path: Path, tmp_path: Path) -> None:
    one, two = (str(folder) for folder in folders.values())
    named = tmp_path / "named"
    named.mkdir()
    (named / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "acme/llm"}')
    app, runner = build_app(), CliRunner()
    for arguments, says in (
        ([one], "one adapter has nobody to conflict with"),
        ([one, str(tmp_path / "gone")], "there is no such folder"),
        ([one, str(tmp_path)], "it has no adapter_config.json"),
        ([one, "acme/adapter"], "no adapter at acme/adapter: there is no such folder"),
        ([one, str(named)], "named was made for acme/llm, which is no folder here: give its folder with --model"),
        ([one, two, "--weights", "1"], "2 adapters need 2 weights, and 1 were given"),
        ([one, two, "--weights", "1,x"], "'1,x' is no list of weights"),
        ([one, two, "--method", "sum"], "there is no way 'sum'"),
        ([one, two, "--out", "x.html"], "give x.json"),
        ([one, two, "--out", str(tmp_path / "gone" / "x.json")], "there is no folder"),
        ([one, two, "--model", str(tmp_path)], "the folder has no config.json"),
    ):
        ended = runner.invoke(app, ["bench", "adapters", *arguments])
        assert ended.exit_code == 1, arguments
        assert says in ended.stderr, arguments
        assert ended.stderr.count("\n") == 1, arguments
        assert not ended.stdout


def test_the_command_writes_what_it_measured(
    folders: dict[str, Path], small_path: Path, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    arguments = [*map(str, folders.values()), "--model", str(small_path), "--device", "cpu", "--tokens", "2"]
    ended = CliRunner().invoke(
        build_app(), ["bench", "adapters", *arguments, "--prompts", str(prompts), "--json", "--out", str(out)]
    )
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.stdout) == json.loads(out.read_text())
    assert "<svg" in out.with_suffix(".html").read_text()
