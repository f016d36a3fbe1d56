"""Building, loading, and what is said when neither is possible."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmtrace.reference import LoadedModel, RunnerError, ServerProcess, build_or_load, serve
from llmtrace.reference.model import pick_device
from llmtrace.reference.tiny import TinySpec, build_tiny, cache_root, tiny_path
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
else:
    torch = Late("torch")

SMALL = TinySpec(hidden=64, intermediate=96, layers=2, heads=2, kv_heads=1, frozen_layers=1, steps=3, rows=2)


def test_importing_the_package_imports_no_torch_and_no_server() -> None:
    code = (
        "import sys, llmtrace.reference, llmtrace.reference.process\n"
        "print([name for name in ('torch', 'transformers', 'starlette', 'uvicorn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_build_tells_its_progress_and_appears_whole(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = tmp_path / "deep" / "model"
    loss = build_tiny(path, spec=SMALL, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert loss > 0
    assert {entry.name for entry in path.parent.iterdir()} == {"model"}, "nothing half-built is left beside it"


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_tiny(tmp_path / "model", spec=SMALL, progress=fail)
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_builds_the_same_weights(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    build_tiny(tmp_path / "a", spec=SMALL)
    assert torch.equal(before, torch.random.get_rng_state()), "the caller's random state is left alone"
    build_tiny(tmp_path / "b", spec=SMALL)
    first, second = (build_or_load(tmp_path / name, device="cpu").model.state_dict() for name in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_broken_build_in_the_cache_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmtrace.reference.tiny.TinySpec", lambda: SMALL)
    broken = tiny_path(tmp_path)
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("{")
    loaded = build_or_load(device="cpu", cache_dir=tmp_path)
    assert loaded.name == "llmtrace-tiny"


def test_the_tiny_model_holds_long_contexts_and_writes_visible_text(loaded: LoadedModel) -> None:
    from llmtrace.reference.runner import Request, Runner
    from llmtrace.reference.sampling import Sampling

    assert loaded.context == 4096
    assert (loaded.device, loaded.dtype) == ("cpu", "float32")
    prompt = loaded.tokenizer(
        "<|im_start|>user\nTell me about Zanzibar, é and 日本.<|im_end|>\n<|im_start|>assistant\n"
    )
    pieces = list(Runner(loaded).generate(Request(prompt["input_ids"], max_tokens=40, sampling=Sampling(0))))
    assert len(pieces) == 40, "it does not stop early"
    assert all(piece.text for piece in pieces), "every token is visible"
    assert "".join(piece.text for piece in pieces).isascii()


def test_the_fingerprint_tells_dtypes_and_checkpoints_apart(small: LoadedModel, tmp_path: Path) -> None:
    small.model.save_pretrained(tmp_path)
    small.tokenizer.save_pretrained(tmp_path)
    again = build_or_load(tmp_path, device="cpu", name="mine")
    other = build_or_load(tmp_path, device="cpu", dtype="bfloat16")
    assert again.name == "mine"
    assert again.fingerprint == small.fingerprint != other.fingerprint
    with torch.no_grad():
        again.model.model.layers[0].mlp.up_proj.weight.mul_(1.001)
    again.model.save_pretrained(tmp_path)
    assert build_or_load(tmp_path, device="cpu").fingerprint != small.fingerprint, (
        "another checkpoint, one architecture"
    )


def test_the_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMTRACE_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    assert tiny_path().parent.parent == tmp_path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder / "absent", "there is no such folder"),
        (lambda folder: folder, "no config.json"),
        (lambda folder: _written(folder / "config.json", "{}"), "no weights"),
        (lambda folder: _written(folder / "file", "x") / "file", "it is a file"),
        (lambda folder: _written(_written(folder / "config.json", "{") / "a.safetensors", ""), "cannot load the model"),
    ],
)
def test_a_path_without_a_model_is_told_in_one_line(make, says: str, empty_folder: Path) -> None:
    path = make(empty_folder)
    with pytest.raises(RunnerError, match=says) as caught:
        build_or_load(path, device="cpu")
    assert "\n" not in str(caught.value)


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path.parent


def test_devices() -> None:
    assert pick_device("cpu") == "cpu"
    with pytest.raises(RunnerError, match="unknown device"):
        pick_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(RunnerError, match="--device cpu"):
            pick_device("cuda")


def test_a_port_in_use_is_told_before_the_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmtrace.reference.model.build_or_load", lambda *_, **__: pytest.fail("loaded"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RunnerError, match=f"127.0.0.1:{port}.*choose another"):
            serve(port=port)


def test_a_host_that_is_none() -> None:
    with pytest.raises(RunnerError, match="cannot listen"):
        serve(host="no.such.host.invalid")


def test_a_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(RunnerError, match=r'uvicorn.*pip install "llmtrace-phases\[reference\]"'):
        serve()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(RunnerError, match=r"no model at .*there is no such folder") as caught,
        ServerProcess(tmp_path / "absent"),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_the_saved_model_is_one_that_other_engines_load(loaded: LoadedModel) -> None:
    config = json.loads((tiny_path() / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (tiny_path() / "model.safetensors").is_file()
    assert (tiny_path() / "tokenizer.json").is_file()
