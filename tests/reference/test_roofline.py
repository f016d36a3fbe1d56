"""`llmtrace bench` on a toy shape: what it writes, and what it says of what cannot be done."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmtrace.reference import LoadedModel, RunnerError, energy, shapes
from llmtrace.reference.formats import fixed_text
from llmtrace.reference.roofline import Bench, Plan, estimate_bytes
from llmtrace.view import bench_page
from llmtrace.view.bench_formats import side_by_side


def silent(doing: str, done: int, of: int) -> None:
    """Nobody watches."""


def test_a_run_is_whole_and_consistent(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    run = Bench("tiny", "cpu", lambda doing, done, of: told.append((done, of)))
    run.run(Plan(["fp32"], [32, 64], [1, 2], [16], 3, 2))
    run.write(tmp_path / "bench.json")
    read = json.loads((tmp_path / "bench.json").read_text())
    assert read["done"] is True
    assert read["copy_bytes_per_second"] > 1e6
    found = read["formats"]["fp32"]
    assert found["weight_bytes"] == estimate_bytes("tiny", "fp32") + 4 * 256 * (2 * 4 + 1)  # and the norms
    assert [row["tokens"] for row in found["prefill"]] == [32, 64]
    assert found["seconds_per_prefill_token"] == min(row["seconds"] / row["tokens"] for row in found["prefill"])
    assert [(row["batch"], row["context"]) for row in found["decode"]] == [(1, 16), (2, 16)]
    assert all(row["mbu"] > 0 for row in found["decode"])
    assert all(row["launch_bound_ratio"] is None for row in found["decode"])
    assert "not applicable" in read["launch_bound"]
    assert found["cache_hit"]["tokens"] == 32, "blocks of 32, and the last token is always computed"
    assert found["cache_hit"]["bytes"] == 32 * 2 * 4 * 2 * 64 * 4, "keys and values, layers, heads, width, float32"
    assert found["generate"]["equal_tokens"] == found["generate"]["tokens"] == 3
    for compared in (found["timing"], found["generate"]):
        assert 0 < compared["low"] <= compared["ratio"] <= compared["high"]
        assert compared["pairs"] == 2
    served = [(row["prompt"], row["batch"], row["pause_seconds"]) for row in found["serving"]["rows"]]
    assert served == [
        *((n, 1, 0) for n in (16, 25, 40, 64)),
        (40, 1, 0.3),
        *((16, n, 0) for n in (2, 4, 8)),
        (40, 8, 0),
    ]
    assert all(row["seconds_per_step"] > 0 for row in found["serving"]["rows"])
    assert [done for done, _ in told] == list(range(12)), "copy, 10 measurements, and the end"
    assert {of for _, of in told} == {11}


def test_the_page_shows_every_point(tmp_path: Path) -> None:
    run = Bench("tiny", "cpu", silent)
    run.run(Plan(["bf16"], [16], [1], [8], 2, 1, served=False))
    page = bench_page.render(run.results)
    assert page.count("<circle") == 2
    assert page.count("<polyline") == 1
    assert "http" not in page.replace("http-equiv", ""), "it loads nothing"
    run.results["formats"] = {"int4": {"reason": "no <kernel>"}}
    assert "int4: not measured. no &lt;kernel&gt;" in bench_page.render(run.results)


def zone(folder: Path, name: str, microjoules: int, most: int) -> Path:
    """A package's counter as the kernel shows it."""
    file = folder / name / "energy_uj"
    file.parent.mkdir(parents=True)
    file.write_text(f"{microjoules}\n")
    (file.parent / "max_energy_range_uj").write_text(f"{most}\n")
    return file


def test_a_format_is_held_against_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path, "intel-rapl:0", 5_000_000, 1 << 32)
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    monkeypatch.setattr(energy, "_LEAST", 0.0)
    run = Bench("tiny", "cpu", silent)
    run.run(Plan(["fp32", "bf16"], [16], [1], [8], 2, 1, served=False))
    assert run.results["formats"]["bf16"]["energy"]["joules_per_token"] == 0, "this counter stands still"
    heads, rows, words = side_by_side(run.results)
    assert heads[-3:] == ["J per token", "same token", "KL nats"]
    assert [row[0] for row in rows] == ["fp32", "bf16"]
    assert all(len(row) == len(heads) for row in rows)
    assert rows[0][-2:] == ["100.0%", "0"]
    assert "against fp32, on 256 random tokens" in words
    assert "the CPU's packages, by RAPL" in words
    assert "Weight formats side by side" in bench_page.render(run.results)
    first, second = (run.results["formats"][name]["against"] for name in ("fp32", "bf16"))
    assert first == {"format": "fp32", "top1": 1.0, "kl_nats": 0.0}
    assert second["format"] == "fp32"
    assert 0 < second["kl_nats"] < 1e-2
    assert 0.8 < second["top1"] <= 1.0


def test_int4_is_told_with_its_reason_where_it_cannot_run() -> None:
    run = Bench("tiny", "cpu", silent)
    run.run(Plan(["int4", "fp32"], [16], [1], [8], 2, 1, served=False))
    assert run.results["done"] is True
    assert ("reason" in run.results["formats"]["int4"]) != ("generate" in run.results["formats"]["int4"])
    assert "generate" in run.results["formats"]["fp32"]


def test_int8_weights_take_half_of_bf16() -> None:
    pytest.importorskip("torchao")
    run = Bench("tiny", "cpu", silent)
    run.run(Plan(["bf16", "int8"], [16], [1], [8], 2, 1, served=False))
    whole, half = (run.results["formats"][name] for name in ("bf16", "int8"))
    assert "reason" not in half
    assert 0.5 <= half["weight_bytes"] / whole["weight_bytes"] < 0.6


def test_int4_on_a_cpu_says_what_its_figures_are_not() -> None:
    pytest.importorskip("torchao")
    run = Bench("tiny", "cpu", silent)
    run.run(Plan(["fp32", "int8", "int4"], [16], [1], [8], 2, 1, served=False))
    eight, four = (run.results["formats"][name] for name in ("int8", "int4"))
    assert "each is held in a byte" in four["note"]
    assert four["against"]["kl_nats"] > eight["against"]["kl_nats"] > 0
    assert four["against"]["top1"] < eight["against"]["top1"] < 1


def test_formats_are_compared_on_a_text_where_there_is_a_tokenizer(small: LoadedModel, small_path: Path) -> None:
    text, what = fixed_text(small, str(small_path), 512)
    assert what == "256 tokens of English"
    assert small.tokenizer.decode(text).startswith("The ferry leaves the island")
    assert fixed_text(small, "tiny", 100)[1] == "100 random tokens"


def test_energy_is_the_sum_of_the_packages_and_goes_on_where_a_counter_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = zone(tmp_path, "intel-rapl:0", 900_000, 1_000_000)
    second = zone(tmp_path, "intel-rapl:1", 0, 1_000_000)
    zone(tmp_path, "intel-rapl:0:0", 77, 1_000_000)  # the cores of the first, which has them
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    monkeypatch.setattr(energy, "_LEAST", 0.0)

    def work() -> int:
        first.write_text("100000\n")
        second.write_text("300000\n")
        return 10

    spent = energy.measure_energy(energy.energy_counter("cpu"), work)
    assert (spent.joules, spent.tokens, spent.runs) == (pytest.approx(0.5), 10, 1)


def test_where_there_is_no_counter_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    for device, says in (
        ("cpu", "has no RAPL zone"),
        ("mps", "no counter is known for mps"),
        ("cuda", r"nvidia-ml-py is not installed: .*\[energy\]"),
    ):
        with pytest.raises(energy.NoCounter, match=says):
            energy.energy_counter(device)
    zone(tmp_path, "intel-rapl:0", 0, 1).write_text("")
    with pytest.raises(energy.NoCounter, match="cannot be read"):
        energy.energy_counter("cpu")


def test_what_does_not_fit_is_told_with_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        shapes.SHAPES, "huge", {"kind": "llama", "size": (1 << 16, 1 << 18, 200, 64, 8, 1 << 17), "tied": False}
    )
    run = Bench("huge", "cpu", silent)
    run.run(Plan(["bf16"], [32], [1], [16], 1, served=False))
    assert run.results["done"] is True
    reason = run.results["formats"]["bf16"]["reason"]
    assert "what would fit: tiny" in reason


def test_an_interrupted_run_leaves_a_valid_file(tmp_path: Path) -> None:
    def interrupt(doing: str, done: int, of: int) -> None:
        if "prefill" in doing:
            raise KeyboardInterrupt

    run = Bench("tiny", "cpu", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.run(Plan(["fp32"], [32], [1], [16], 1, served=False))
    run.write(tmp_path / "bench.json")
    assert json.loads((tmp_path / "bench.json").read_text())["done"] is False


def test_an_unknown_shape_names_the_known_ones() -> None:
    with pytest.raises(RunnerError, match=r"qwen2-0\.5b"):
        Bench("llama-9b", "cpu", silent)


@pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
def test_ctrl_c_leaves_a_valid_file_and_page(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    command = [
        "bench",
        "--device",
        "cpu",
        "--formats",
        "fp32",
        "--steps",
        "100000",
        "--contexts",
        "8",
        "--batches",
        "1",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "llmtrace.cli", *command, "--prompts", "16", "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        until = time.monotonic() + 120
        while not (out.exists() and json.loads(out.read_text())["formats"]) and time.monotonic() < until:
            assert running.poll() is None, running.communicate()
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        said, complained = running.communicate(timeout=240)
    assert running.returncode == 130, said + complained
    assert complained == "", "no progress bar where nobody looks, and no traceback"
    left = json.loads(out.read_text())
    assert left["done"] is False
    assert left["copy_bytes_per_second"] > 0
    assert "stopped before its end" in out.with_suffix(".html").read_text()
    assert not list(tmp_path.glob("*.part"))
