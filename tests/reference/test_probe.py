"""The probe against the reference server in this process, whose settings it does not know."""

from __future__ import annotations

import contextlib
import copy
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from llmtrace.cli import build_app
from llmtrace.estimate import store
from llmtrace.estimate.prefixes import COUNTS
from llmtrace.estimate.rows import COLUMNS
from llmtrace.probe.clients import open_client
from llmtrace.probe.maths.drift import LEARNED
from llmtrace.probe.prompts import Prompts
from llmtrace.probe.session import Purse, Session
from llmtrace.probe.tracing import Tracing
from llmtrace.probe.watching import ANSWERS, Watched
from llmtrace.reference import LoadedModel
from llmtrace.reference.app import create_app
from tests.reference.conftest import in_process
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
else:
    torch = Late("torch")

BLOCK, SLOTS, CHUNK = 16, 3, 64


def serving(loaded: LoadedModel, run_on: bool = False) -> contextlib.AbstractContextManager[str]:
    """The server in a thread of this process; its URL."""
    return in_process(create_app(loaded, max_running=SLOTS, block_size=BLOCK, prefill_chunk=CHUNK, run_on=run_on))


@pytest.mark.parametrize("run_on", [False, True])
def test_who_goes_on_after_a_stream_is_closed(
    small: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_on: bool
) -> None:
    monkeypatch.setattr("llmtrace.probe.cancel._IDLE_APART_S", 0.02)
    answer = tmp_path / "answer.json"
    with serving(small, run_on) as base_url:
        given = ["--base-url", base_url, "--yes", "--tokens", "150", "--json", str(answer)]
        result = CliRunner().invoke(build_app(), ["probe", "cancel", *given])
    assert result.exit_code == 0, result.output
    told = json.loads(answer.read_text())
    engine = next(each for each in told["hops"] if each["hop"] == "engine")
    if run_on:
        assert (engine["state"], engine["low"], engine["high"]) == ("ran_on", 150, 150)
    else:
        assert engine["state"] == "stopped"
        assert told["came"] <= engine["low"] == engine["high"] < 135


def test_the_whole_way(small: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheet_file, baseline = tmp_path / "sheet.json", tmp_path / "baseline.json"
    with serving(small) as base_url:
        monkeypatch.setenv("OPENAI_BASE_URL", base_url)
        monkeypatch.setenv("LLMTRACE_BASELINE_PATH", str(baseline))
        result = CliRunner().invoke(
            build_app(), ["probe", "--yes", "--at-once", "9", "--longest", "400", "--json", str(sheet_file)]
        )
    assert result.exit_code == 0, result.output
    figures = {figure["name"]: figure for figure in json.loads(sheet_file.read_text())["figures"]}
    # What the server counts is right however busy the machine is.
    assert figures["cache.block"]["value"] == BLOCK
    assert figures["cache.minimum"]["value"] == BLOCK
    assert figures["prompt.thousand"]["value"] > 0
    assert figures["answer.per_token"]["value"] > 0
    limit = figures["concurrency.limit"]
    assert limit["value"] is None or limit["low"] <= SLOTS <= limit["high"]
    # The baseline has the calls that were alone, and none of the burst's.
    assert os.environ["LLMTRACE_BASELINE_PATH"] == str(baseline)
    (saved,) = store.load(baseline, COLUMNS, COUNTS).values()
    assert len(saved.rows) >= 30


def test_a_swapped_model_is_seen_within_ten_rounds(small: LoadedModel) -> None:
    other = replace(small, model=copy.deepcopy(small.model))
    with torch.no_grad():
        weights = other.model.get_input_embeddings().weight
        weights.copy_(weights[torch.randperm(len(weights), generator=torch.Generator().manual_seed(1))])
    tracing = Tracing("openai", None, None)
    with serving(small) as before, serving(other) as after:
        client = open_client("openai", before, small.name)
        watched = Watched(Session(client, Prompts(), Purse(), 400), tracing)
        calm = [kind for _ in range(LEARNED + 1) for kind in watched.round()[1]]
        client.close()
        watched.session.client = swapped = open_client("openai", after, small.name)
        seen = [kind for _ in range(10) for kind in watched.round()[1]]
        swapped.close()
    tracing.close()
    # How fast the two are depends on what else the machine does; what they answer does not.
    assert ANSWERS not in calm
    assert ANSWERS in seen
