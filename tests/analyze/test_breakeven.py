"""``llmtrace breakeven``: its queueing model against the runner's own steps, and its report on calls that are known."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmtrace.analyze.book import Book
from llmtrace.analyze.breakeven import choices, machine, report
from llmtrace.analyze.breakeven.choices import Choice, Prices, Targets
from llmtrace.analyze.breakeven.machine import Machine
from llmtrace.analyze.breakeven.queueing import Asked, play
from llmtrace.analyze.breakeven.workload import Workload
from llmtrace.analyze.load import load
from llmtrace.analyze.report import Lines, as_json
from llmtrace.cli import build_app
from llmtrace.errors import LlmtraceError
from llmtrace.view import report_page
from tests.analyze.writing import Writer

BATCHING = Machine(
    "fp32", base=0.01, per_row=0.001, per_context=1e-6, per_prompt=2e-4, per_attention=1e-8, request=0.005,
    added=((1, 0.002), (4, 0.006)), slots=4, chunk=64, budget=96, block=32,
)  # fmt: skip
"""Small steps and few slots, so that prompts are cut, share steps and wait."""
SECOND = Machine("m", base=0.0, per_row=0.0, per_context=0.0, per_prompt=0.01, per_attention=0.0, slots=1)
"""A prompt token takes 10 ms, an output token nothing, and one request runs at a time."""


def bench(**formats: dict[str, Any]) -> dict[str, Any]:
    return {"model": "toy", "device": "cpu", "formats": formats}


def measured(of: Machine, **more: Any) -> dict[str, Any]:
    """What a bench would write of a machine."""
    return {
        "prefill": [
            {"tokens": tokens, "seconds": of.compute(0, 0, tokens, tokens * tokens / 2)} for tokens in (64, 256, 1024)
        ],
        "decode": [
            {"batch": batch, "context": context, "seconds_per_step": of.compute(batch, batch * context, 0, 0)}
            for batch in (1, 4, 8)
            for context in (64, 512)
        ],
        **more,
    }


PLAN = [(16, 1, 0.0), (64, 1, 0.0), (180, 1, 0.0), (512, 1, 0.0), (180, 1, 0.3), *((16, n, 0.0) for n in (2, 4, 8)),
        (180, 8, 0.0)]  # fmt: skip
"""What a bench asks a server: tokens of a prompt, streams at once, and s of a pause before."""
BEFORE = [(16, 1, 0.0), (512, 1, 0.0), (16, 4, 0.0), (16, 8, 0.0)]
"""What it asked at first."""


def serving(of: Machine, plan: list[tuple[int, int, float]] = PLAN) -> dict[str, Any]:
    """What it would write of its server: each step, prompt and request as ``of`` says."""

    def step(batch: int, prompt: int) -> float:
        return of.compute(batch, batch * (prompt + 16), 0, 0) + of.overhead(batch)

    rows = [
        {
            "prompt": prompt,
            "batch": batch,
            **({"pause_seconds": pause} if plan is PLAN else {}),
            "ttft_seconds": of.request + of.alone(prompt) + (of.wake if pause else 0.0),
            "seconds_per_step": step(batch, prompt),
        }
        for prompt, batch, pause in plan
    ]
    return {"slots": 8, "chunk": of.chunk, "budget": of.budget, "block": of.block, "tokens": 32, "rows": rows}


def test_it_batches_as_the_runner_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner computes real steps; what each would have taken on the machine is added up, and no clock is asked."""
    import torch

    from llmtrace.reference import shapes
    from llmtrace.reference.prefix_cache import PrefixCache
    from llmtrace.reference.runner import Generation, Request, Runner
    from llmtrace.reference.sampling import Sampling

    torch.set_num_threads(1)  # more of them than free cores spin
    draw, model = random.Random(5), BATCHING
    monkeypatch.setitem(shapes.SHAPES, "toy", {"kind": "llama", "size": (32, 64, 1, 2, 1, 640), "tied": False})
    runner = Runner(
        shapes.make_model("toy", "fp32", "cpu"), max_running=model.slots, prefill_chunk=model.chunk,
        token_budget=model.budget, prefix_cache=PrefixCache(block=model.block), cache_tokens=4096,
    )  # fmt: skip
    prefix = [draw.randrange(600) for _ in range(64)]
    prompts: list[list[int]] = []
    asked: list[Asked] = []
    at = 0.0
    for number in range(30):
        at += draw.expovariate(11)
        prompt = [draw.randrange(600) for _ in range(draw.randint(3, 200))]
        shares = number == 0 or draw.random() < 0.3
        prompts.append(prefix + prompt if shares else prompt)
        asked.append(Asked(at, len(prompts[-1]), draw.randint(1, 14), 64 if shares and number else 0))
    parts: list[Any] = []
    prepare = runner._engine.prepare  # pyright: ignore[reportPrivateUsage]

    def watched(whose: Any) -> Any:
        parts[:] = prepare(whose)
        return parts

    runner._engine.prepare = watched  # pyright: ignore[reportPrivateUsage]
    waiting, time = list(range(len(asked))), 0.0
    running: dict[Generation, int] = {}
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    while waiting or running:
        arrivals = [asked[number].at + model.request for number in waiting]
        if not running:
            time = max(time, arrivals[0])
        for arrived in arrivals:
            if arrived > time:
                break
            request = Request(prompts[waiting[0]], asked[waiting[0]].output, Sampling(0), ignore_eos=True)
            generation = runner.start(request)
            if not runner.admit(generation):
                break
            running[generation] = waiting.pop(0)
        told: list[Generation] = []
        runner.step(lambda generation, news, told=told: told.append(generation))
        numbers = {generation.request_id: number for generation, number in running.items()}
        decoding = [part for part in parts if part.before >= asked[numbers[part.request_id]].prompt]
        prefilling = [part for part in parts if part not in decoding]
        time += model.overhead(len(parts)) + model.compute(
            len(decoding),
            sum(part.before for part in decoding),
            sum(part.tokens for part in prefilling),
            sum(part.tokens * (part.before + part.tokens / 2) for part in prefilling),
        )
        for generation in told:
            first.setdefault(running[generation], time)
        for generation in [one for one in running if one.done]:
            last[running.pop(generation)] = time
            runner.leave(generation)
    answers = play(model, asked).answers
    assert sum(answer.queue > 0 for answer in answers) > 15, "or nobody waited"
    assert [answer.ttft for answer in answers] == pytest.approx([first[n] - asked[n].at for n in range(len(asked))])
    assert [answer.total for answer in answers] == pytest.approx([last[n] - asked[n].at for n in range(len(asked))])


@pytest.mark.parametrize("plan", [PLAN, BEFORE], ids=["now", "an older file"])
def test_what_was_measured_gives_the_machine_back(plan: list[tuple[int, int, float]]) -> None:
    truth = Machine(
        "fp32", base=0.008, per_row=0.001, per_context=2e-6, per_prompt=1e-4, per_attention=2e-8, request=0.02,
        added=((1, 0.001), (4, 0.003), (8, 0.004)), wake=0.03 if plan is PLAN else 0.0,
    )  # fmt: skip
    (alone,) = machine.machines(bench(fp32=measured(truth)))
    for name in ("base", "per_row", "per_context", "per_prompt", "per_attention"):
        assert getattr(alone, name) == pytest.approx(getattr(truth, name)), name
    assert not alone.served
    (behind,) = machine.machines(bench(fp32=measured(truth, serving=serving(truth, plan))))
    assert behind.served
    assert behind.request + behind.alone(300) == pytest.approx(truth.request + truth.alone(300))
    assert behind.wake == pytest.approx(truth.wake)
    for streams, context in ((1, 700), (4, 900), (8, 5000)):
        step, real = (each.compute(streams, context, 0, 0) + each.overhead(streams) for each in (behind, truth))
        assert step == pytest.approx(real)
    asked = [Asked(number * 0.05 + number // 10 * 2, 300, 20) for number in range(20)]
    ours, theirs = (play(each, asked).answers for each in (behind, truth))
    # Steps with prompts have not been measured: how much of a step is each stream's is told from the steps without.
    assert [each.total for each in ours] == pytest.approx([each.total for each in theirs], 0.02)


def test_who_finds_the_machine_asleep_waits_longer_and_in_no_queue() -> None:
    sleepy = Machine("m", 0.01, 0.0, 0.0, 1e-3, 0.0, wake=0.06, pause=0.3)
    asked = [Asked(at, 10, 1) for at in (1.0, 1.005, 1.13, 9.0)]
    answers = play(sleepy, asked).answers
    assert [each.ttft for each in answers] == pytest.approx([0.08, 0.095, 0.026, 0.08])
    assert [each.queue for each in answers] == pytest.approx([0.0, 0.075, 0.0, 0.0])


@pytest.mark.parametrize("plan", [PLAN, BEFORE], ids=["now", "an older file"])
def test_a_server_whose_prompts_take_longer_than_the_runner_alone_slows_prompts(
    plan: list[tuple[int, int, float]],
) -> None:
    truth = Machine("fp32", base=0.01, per_row=0.0, per_context=0.0, per_prompt=1e-4, per_attention=0.0)
    slower = Machine("fp32", base=0.01, per_row=0.0, per_context=0.0, per_prompt=3e-4, per_attention=0.0)
    (behind,) = machine.machines(bench(fp32=measured(truth, serving=serving(slower, plan))))
    assert behind.alone(400) == pytest.approx(slower.alone(400))


def hosted(prompts: list[int], gap: float, cost: float = 0.01) -> Workload:
    """Calls every ``gap`` s that took 2 s each on the route."""
    requests = [Asked(number * gap, prompt, 1) for number, prompt in enumerate(prompts)]
    count = len(prompts)
    return Workload(requests, [2.0] * count, [2.0] * count, [cost] * count, gap * (count - 1), ["route"])


def test_what_one_bears_and_where_it_breaks_even_follow_from_its_steps() -> None:
    # A prompt of 100 tokens takes 1 s: back to back, one machine answers 86,400 a day, each 1 s after it was sent.
    workload = hosted([100] * 50, 4.0)
    choice = Choice(SECOND, workload, Targets(total=1.5), Prices(hour=3.0))
    assert choice.met == 1.0
    assert choice.played.utilisation == pytest.approx(50 / (4 * 49 + 1))
    # 5 % may be later than 1.5 s: evenly spaced calls meet it until they come faster than once in a second.
    assert choice.capacity == pytest.approx(86_400, rel=0.03)
    assert choice.breaks_even(0.01) == pytest.approx(24 * 3.0 / 0.01)
    assert choice.breaks_even(0.0001) is None, "one machine cannot bear so many"
    assert choice.machines(100_000) == 2
    assert choice.month(100_000) == pytest.approx(choices.MONTH_DAYS * 24 * 3.0 * 2)


def test_targets_that_no_load_meets_leave_no_machine() -> None:
    choice = Choice(SECOND, hosted([100] * 5, 4.0), Targets(ttft=0.5), Prices(hour=3.0))
    assert (choice.capacity, choice.machines(10), choice.month(10), choice.breaks_even(1.0)) == (0.0, None, None, None)


def test_a_router_keeps_short_prompts_and_pays_for_the_others() -> None:
    workload = hosted([10, 300] * 20, 4.0)
    choice = Choice(SECOND, workload, Targets(total=2.5), Prices(hour=0.1))
    routed = choices.route(choice, 10)
    assert (routed.kept, routed.met) == (0.5, 1.0)
    assert sorted(routed.total)[:20] == pytest.approx([0.1] * 20), "the short ones, alone on the machine"
    half = 0.01 * 20 / workload.span * 86_400 * choices.MONTH_DAYS
    assert routed.month == pytest.approx(half + choices.MONTH_DAYS * 24 * 0.1)
    assert choices.route(choice, 300).met == 0.5, "the long ones take 3 s there"


def traffic(writer: Writer) -> Writer:
    draw = random.Random(3)
    at = 0.0
    for _ in range(120):
        at += draw.expovariate(1.0) * 1000
        prompt, output = draw.randrange(20, 900), draw.randrange(5, 60)
        phases = [("queue", draw.uniform(5, 50)), ("prefill", 200.0), ("decode", output * 10.0)]
        writer.call(at, phases, tokens=(prompt, 0, output), marks={"llmtrace.call.ttft": 0.25})
    return writer


TWO = bench(
    fp32=measured(BATCHING, against={"format": "fp32", "top1": 1.0, "kl_nats": 0.0}, weight_bytes=4_000_000),
    int4=measured(
        Machine("int4", base=0.002, per_row=0.0002, per_context=1e-7, per_prompt=1e-5, per_attention=1e-9),
        against={"format": "fp32", "top1": 0.91, "kl_nats": 0.02},
        weight_bytes=1_000_000,
        energy={"joules_per_prompt_token": 0.1, "joules_per_token": 2.0},
    ),
)


NO_TARGETS = Targets()


def made(folder: Path, targets: Targets = NO_TARGETS, **more: Any) -> Any:
    source = traffic(Writer()).save(folder / "spans.jsonl")
    with load([str(source)], cache=False) as traces:
        return report.make(
            Book(traces), machine.machines(TWO), "toy on cpu", targets=targets, prices=Prices(0.5, 0.3), **more
        )


def rows(document: dict[str, Any], title: str) -> list[dict[str, Any]]:
    section = next(each for each in document["sections"] if each["title"] == title)
    return [dict(zip([each["title"] for each in section["columns"]], row, strict=True)) for row in section["rows"]]


def test_the_format_that_meets_a_target_is_told_with_its_loss(tmp_path: Path) -> None:
    made_report = made(tmp_path, Targets(itl=0.008))
    document = as_json(made_report)
    met = {row["format"]: row["within the targets"] for row in rows(document, "Weight formats")}
    assert met["int4"] == 1.0
    assert met["fp32"] < 0.5
    assert document["notes"][0] == (
        "ITL 0.008 s for 95 % of calls: met by int4 (100.0%; the same token as fp32 at 91.0%, KL 0.02 nats); "
        f"not by fp32 ({met['fp32']:.1%}; not even with a machine for each call)"
    )
    assert "with int4" in document["headline"], "the one that meets them is laid beside the route"
    assert as_json(made(tmp_path, Targets(itl=0.5)))["notes"][0].count("by fp32 (100.0%; no loss), int4")


def test_costs_and_energy_are_those_of_the_calls(tmp_path: Path) -> None:
    made_report = made(tmp_path)
    document = as_json(made_report)
    route, whole, small = rows(document, "Cost")
    assert route["who"] == "hosted"
    assert whole["a month"] == pytest.approx(choices.MONTH_DAYS * 24 * 0.5)
    assert whole["kWh a month"] is None
    assert small["kWh a month"] > 0
    calls = route["a month"] / choices.MONTH_DAYS / route["a call"]
    assert small["a month"] == pytest.approx(whole["a month"] + small["kWh a month"] * 0.3, rel=1e-6), (
        "the machine and its energy"
    )
    assert whole["breaks even, calls a day"] == pytest.approx(12.0 / route["a call"])
    assert f"{calls:,.0f} calls a day" in document["headline"]
    chart = made_report.sections[1].chart
    assert isinstance(chart, Lines)
    assert [name for name, _ in chart.lines] == ["hosted", "fp32", "int4"]
    page = report_page.render(made_report)
    assert page.count("<polyline") == 4 + 3
    assert "int4 breaks even" in page


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"route": "azure"}, "no call of a route with 'azure' in its name; there are openai gpt-4o-mini"),
        ({"weights": "int3"}, "the bench has no format 'int3' with figures; it has fp32, int4"),
    ],
)
def test_what_cannot_be_replayed_is_said(tmp_path: Path, more: dict[str, Any], says: str) -> None:
    with pytest.raises(LlmtraceError) as raised:
        made(tmp_path, **more)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no JSON"),
        ("[]", "is not what llmtrace bench writes"),
        (
            json.dumps(bench(fp32={"reason": "no memory"})),
            "has no weight format with two prompts and two decode points",
        ),
    ],
)
def test_a_bench_file_that_is_none_is_said(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(LlmtraceError) as raised:
        machine.machines(machine.read(path), path)
    assert says in str(raised.value)
    with pytest.raises(LlmtraceError, match="no bench file"):
        machine.read(tmp_path / "none.json")


def test_as_a_user_types_it(tmp_path: Path) -> None:
    source = str(traffic(Writer()).save(tmp_path / "spans.jsonl"))
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(bench(**TWO["formats"], int8={"reason": "no torchao"})))
    typed = ["breakeven", source, "--bench", str(path), "--usd-in", "1", "--usd-out", "2", "--no-cache"]
    told = CliRunner().invoke(build_app(), [*typed, "--weights", "fp32", "--format", "json"])
    assert told.exit_code == 0, told.output
    document = json.loads(told.stdout)
    with load([source], cache=False) as traces:
        (tokens,) = traces.table.agg(
            into=traces.table.input_tokens.sum(), out=traces.table.output_tokens.sum()
        ).to_pyarrow().to_pylist()  # fmt: skip
    assert rows(document, "Cost")[0]["a call"] == pytest.approx((tokens["into"] + 2 * tokens["out"]) / 1e6 / 120)
    assert [row["calls"] for row in rows(document, "Latency")] == ["p10", "p25", "p50", "p75", "p90", "p95", "p99"]
    assert rows(document, "Latency")[2]["TTFT hosted"] == 0.25
    assert "int8 is left out: no torchao" in document["notes"]
    alone = CliRunner().invoke(build_app(), [*typed[:-3], "--no-cache"])
    assert alone.exit_code == 2
    assert "--usd-in and --usd-out go together" in " ".join(alone.output.replace("│", " ").split())
