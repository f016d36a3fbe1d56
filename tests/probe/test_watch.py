"""`llmtrace probe --watch` over real sockets: a calm provider, one that changes, and what is kept between runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from llmtrace.probe.maths.drift import LEARNED
from tests.probe.provider import Provider
from tests.probe.test_command import run
from tests.support.replay import Replay, json_answer

CALM, LATER = LEARNED + 2, 10


def watching(server: Replay, *arguments: str | Path, rounds: int) -> str:
    """What so many rounds print."""
    result = run("--watch", "--yes", "--every", "0", "--rounds", str(rounds), *arguments, url=server.base_url)
    assert result.exit_code == 0, result.output
    return result.output


def changed(server: Replay, provider: Provider, changes: dict[str, object], *arguments: str | Path) -> str:
    """What is printed where the provider becomes another after some calm rounds."""

    def refuse(body: object) -> None:
        if len(provider.bodies) == 3 * CALM + 1:
            for name, value in changes.items():
                setattr(provider, name, value)

    provider.refuse = refuse  # looks at each request, and refuses none
    provider.serve(server)
    return watching(server, *arguments, rounds=CALM + LATER)


def test_another_model_behind_the_name_is_told(server: Replay) -> None:
    output = changed(server, Provider(), {"answer": "two"})
    assert output.count("answers are not the ones from before") == 1


def test_a_moved_region_is_told(server: Replay) -> None:
    before, after = {"cf-ray": "8f-FRA"}, {"cf-ray": "8f-AMS"}
    output = changed(server, Provider(headers=before), {"headers": after})
    assert output.count("answers come from AMS, no more from FRA") == 1


def test_a_run_goes_on_from_what_the_last_one_learned(server: Replay, tmp_path: Path) -> None:
    provider = Provider()
    provider.serve(server)
    state, spans = tmp_path / "state.json", tmp_path / "spans.jsonl"
    calm = watching(server, "--state", state, rounds=LEARNED)
    provider.answer = "two"
    later = watching(server, "--state", state, "--file", spans, rounds=LATER)
    assert "answers" not in calm.splitlines()[-1]
    assert "answers are not the ones from before" in later
    watched = json.loads(state.read_text())["watched"]
    assert list(watched) == [f"{server.base_url} scripted-1"]
    assert '"llmtrace.probe.change"' in spans.read_text()


def test_bad_rounds_are_lines(server: Replay, tmp_path: Path) -> None:
    provider = Provider()
    provider.refuse = lambda body: (503, "busy") if len(provider.bodies) in (4, 5) else None
    provider.serve(server)
    assert watching(server, rounds=4).count("answers 503: busy") == 2
    (tmp_path / "state.json").write_text("[]")
    result = run("--watch", "--yes", "--state", tmp_path / "state.json", url=server.base_url)
    assert result.exit_code == 1
    assert "was not written by llmtrace probe --watch" in result.output


@pytest.mark.parametrize("usage", [True, False])
def test_rounds_end_where_the_budget_does(server: Replay, usage: bool) -> None:
    provider = Provider(usage=usage)
    provider.serve(server)
    output = watching(server, "--budget", "0.2", "--price", "10", "30", rounds=100)
    assert "the budget is spent" in output
    assert 0 < sum(10e-6 * prompt + 30e-6 * answer for prompt, answer in provider.answered) <= 0.2


def test_each_address_is_paid_at_its_own_models_price(server: Replay) -> None:
    budget, prices = 0.02, {"gpt-4o-mini": (0.15e-6, 0.6e-6), "gpt-4o": (2.5e-6, 10e-6)}
    with Replay() as dearer:
        providers = [Provider(), Provider()]
        for provider, behind, model in zip(providers, (server, dearer), prices, strict=True):
            provider.serve(behind)
            behind.serve(json_answer({"object": "list", "data": [{"id": model, "object": "model"}]}), "/v1/models")
        urls = ("--base-url", dearer.base_url, "--budget", str(budget))
        output = watching(server, *urls, rounds=100)
    assert "the budget is spent" in output
    cheap, dear = (float(usd) for usd in re.findall(r"([\d.]+) USD a round", output))
    assert dear == pytest.approx(cheap * 2.5 / 0.15, rel=0.1)
    paid = [
        sum(prompt * into + answer * out for prompt, answer in provider.answered)
        for provider, (into, out) in zip(providers, prices.values(), strict=True)
    ]
    assert budget / 2 < sum(paid) <= budget


def test_several_addresses_are_only_watched(server: Replay) -> None:
    result = run("--base-url", "http://127.0.0.1:1/v1", url=server.base_url)
    assert result.exit_code == 1
    assert "several base URLs are only for --watch" in result.output
