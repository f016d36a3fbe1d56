"""`llmtrace probe` over real sockets, with the real clients: what it sends, what it costs, what it says goes wrong."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from llmtrace.cli import build_app
from llmtrace.probe import plan, text
from llmtrace.probe.answers import Answer
from llmtrace.probe.clients import open_client
from llmtrace.probe.experiments import life
from llmtrace.probe.learned import Learned
from llmtrace.probe.plan import Options
from llmtrace.probe.prompts import Prompts
from llmtrace.probe.session import Purse, Session
from llmtrace.probe.sheet import Figure, Sheet
from tests.probe.provider import MODEL, Provider
from tests.support.replay import Replay, Script, refused_url

pytestmark = pytest.mark.usefixtures("quick")
SMALL = ("--yes", "--longest", "300", "--at-once", "0")


def run(*arguments: str | Path, url: str | None = None) -> Result:
    base = [] if url is None else ["--base-url", url]
    return CliRunner().invoke(build_app(), ["probe", *base, *map(str, arguments)])


def refusing(status: int, message: str, when: Callable[[Mapping[str, Any]], bool] = lambda body: True) -> Provider:
    return Provider(refuse=lambda body: (status, message) if when(body) else None)


def test_a_sheet_is_printed_and_written(server: Replay, tmp_path: Path) -> None:
    provider = Provider(headers={"x-ratelimit-limit-requests": "500"})
    provider.serve(server)
    sheet_file, spans = tmp_path / "sheet.json", tmp_path / "spans.jsonl"
    result = run(*SMALL, "--json", sheet_file, "--file", spans, url=server.base_url)
    assert result.exit_code == 0, result.output
    sheet = json.loads(sheet_file.read_text())
    figures = {figure["name"]: figure for figure in sheet["figures"]}
    assert figures["cache.block"]["value"] == 16
    assert figures["cache.minimum"]["value"] == 16
    assert figures["rate.limit"]["value"] == "x-ratelimit-limit-requests: 500"
    assert figures["cache.life"]["note"] == "ask with --ttl SECONDS"
    assert sheet["calls"] == len(provider.answered)
    prompts = sum(prompt for prompt, _ in provider.answered)
    assert abs(sheet["prompt_tokens"] - prompts) < 0.02 * prompts  # of streams that were ended early it is reckoned
    announced = re.search(r"([\d,]+) calls, about ([\d,]+) prompt", result.output)
    assert announced is not None
    assert int(announced[1].replace(",", "")) >= sheet["calls"]
    assert len({body["messages"][0]["content"] for body in provider.bodies}) == len(provider.bodies)
    steps = marks(spans)
    assert steps >= {plan.GREET, plan.CURVE, plan.CACHE, plan.ANSWERS, plan.BESIDE}


def marks(spans: Path) -> set[str]:
    """The steps that the spans of calls are marked with; each span of a call has one."""
    steps: set[str] = set()
    for line in spans.read_text().splitlines():
        for resource in json.loads(line)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    marked = [each for each in span.get("attributes", []) if each["key"] == "llmtrace.probe"]
                    assert marked, span["name"]
                    steps.add(marked[0]["value"]["stringValue"])
    return steps


def test_nothing_is_sent_before_somebody_said_yes(server: Replay) -> None:
    provider = Provider()
    provider.serve(server)
    result = run("--longest", "300", url=server.base_url)
    assert result.exit_code == 1
    assert "say --yes" in result.output
    assert not provider.bodies


@pytest.mark.parametrize(
    ("provider", "says"),
    [
        (refusing(401, "Incorrect API key"), "refuses the key (401): Incorrect API key"),
        (refusing(404, "no such model"), f"does not know {MODEL} (no such model): name another model with --model"),
        (refusing(429, "slow down"), "limits the rate (429: slow down): try again later"),
        (refusing(500, "oops"), "answers 500: oops"),
    ],
    ids=["no key", "wrong model", "429 at once", "broken"],
)
def test_a_refused_first_call_is_one_line(server: Replay, provider: Provider, says: str) -> None:
    provider.serve(server)
    result = run(*SMALL, url=server.base_url)
    assert result.exit_code == 1
    last = result.output.strip().splitlines()[-1]
    assert last.startswith("llmtrace: ")
    assert says in last
    assert len(provider.bodies) == 1


@pytest.mark.parametrize(
    ("kind", "body", "says"),
    [
        ("text/html", b"<html><body>Welcome</body></html>", "a stream without a chunk, text/html"),
        ("text/event-stream", b'data: {"id": oops\n\n', "JSONDecodeError"),
        ("text/event-stream", b'data: {"id": "c", "choices": null}\n\n', "TypeError"),
        ("text/event-stream", b'data: {"error": {"message": "overloaded"}}\n\n', "stream with an error: overloaded"),
    ],
)
def test_what_is_no_chat_answer_is_one_line(server: Replay, kind: str, body: bytes, says: str) -> None:
    server.serve(Script(headers={"content-type": kind}, parts=[(0.0, body)]), "/v1/chat/completions")
    result = run(*SMALL, "--model", MODEL, url=server.base_url)
    assert result.exit_code == 1
    assert says in result.output.splitlines()[-1]
    assert isinstance(result.exception, SystemExit)


def test_a_page_in_the_place_of_the_models_is_one_line(server: Replay) -> None:
    server.serve(Script(headers={"content-type": "text/html"}, parts=[(0.0, b"<html></html>")]), "/v1/models")
    result = run(*SMALL, url=server.base_url)
    assert result.exit_code == 1
    assert "lists none: name one with --model, or check the base URL" in result.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--json", "no-such-folder/sheet.json"), "there is no folder no-such-folder"),
        (("--price", "-1", "1"), "--price takes"),
        (("--ttl", "inf"), "--ttl"),
        (("--state", "state.json"), "only for --watch"),
        (("--watch", "--json", "sheet.json"), "not for --watch"),
        (("--watch", "--rounds", "1", "--budget", "0", "--price", "1", "1"), "does not pay for a whole round"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_sent(server: Replay, options: tuple[str, ...], says: str) -> None:
    provider = Provider()
    provider.serve(server)
    result = run("--yes", *options, url=server.base_url)
    assert result.exit_code in (1, 2)
    assert says in " ".join(result.output.split())
    assert not provider.bodies


def test_in_a_narrow_terminal_notes_stand_below() -> None:
    figures = [Figure("wire", "wire, round trip", 7e-6, 7e-6, 2e-5, "s", "by the kernel"), Figure("x", "x", note="?")]
    page = io.StringIO()
    text.print_sheet(Sheet("http://127.0.0.1", "m", figures), Console(file=page, width=40))
    assert "wire, round trip: by the kernel" in page.getvalue().splitlines()


def test_a_baseline_that_was_not_written_is_told(server: Replay, tmp_path: Path) -> None:
    Provider().serve(server)
    (tmp_path / "file").touch()
    result = run(*SMALL, "--baseline", tmp_path / "file" / "baseline.json", url=server.base_url)
    assert result.exit_code == 0, result.output
    assert result.output.rstrip().endswith("was not written")


def test_no_key_is_one_line_and_nothing_is_sent() -> None:
    result = run(*SMALL, url="https://api.example.com/v1")
    assert result.exit_code == 1
    assert "no key: set OPENAI_API_KEY" in result.output


def test_nobody_listens() -> None:
    result = run(*SMALL, "--model", "m", url=refused_url())
    assert result.exit_code == 1
    assert "cannot be reached" in result.output
    assert result.output.count("\n") <= 3


@pytest.mark.parametrize(
    ("refuses", "message", "sent"),
    [
        (lambda body: body.get("max_tokens", 16) < 16, "max_tokens must be at least 16 tokens", {"max_tokens": 16}),
        (lambda body: "max_tokens" in body, "use 'max_completion_tokens' instead", {"max_completion_tokens": 2}),
        (lambda body: "temperature" in body, "'temperature' does not support 0", {"max_tokens": 2}),
        (lambda body: "stream_options" in body, "stream_options: extra inputs", {"max_tokens": 2}),
        (lambda body: "ignore_eos" in body, "Unrecognized request argument: ignore_eos", {"max_tokens": 2}),
    ],
    ids=["short answers", "completion tokens", "temperature", "usage", "ignore_eos"],
)
def test_what_a_provider_refuses_is_not_sent_again(
    server: Replay, refuses: Callable[[Mapping[str, Any]], bool], message: str, sent: dict[str, int]
) -> None:
    provider = refusing(400, message, refuses)
    provider.serve(server)
    result = run(*SMALL, url=server.base_url)
    assert result.exit_code == 0, result.output
    assert sum(map(refuses, provider.bodies)) == 1
    assert sent.items() <= provider.bodies[1].items()


def test_without_usage_tokens_are_reckoned_and_the_block_is_not_told(server: Replay, tmp_path: Path) -> None:
    Provider(usage=False).serve(server)
    sheet_file = tmp_path / "sheet.json"
    result = run(*SMALL, "--json", sheet_file, url=server.base_url)
    assert result.exit_code == 0, result.output
    figures = {figure["name"]: figure for figure in json.loads(sheet_file.read_text())["figures"]}
    assert figures["prompt.per_token"]["note"].startswith("tokens reckoned")
    assert figures["cache.block"]["value"] is None
    assert "does not count cached tokens" in figures["cache.block"]["note"]


def test_a_budget_that_the_first_call_would_pass_sends_nothing(server: Replay) -> None:
    provider = Provider()
    provider.serve(server)
    result = run(*SMALL, "--budget", "0.0001", "--price", "10", "30", url=server.base_url)
    assert result.exit_code == 1
    assert "more than the budget: nothing was sent" in result.output
    assert not provider.bodies


def test_a_budget_needs_a_price(server: Replay) -> None:
    provider = Provider()
    provider.serve(server)
    result = run(*SMALL, "--budget", "1", url=server.base_url)
    assert result.exit_code == 1
    assert "give --price IN OUT" in result.output
    assert not provider.bodies


@pytest.mark.parametrize("budget", [0.006, 0.02, 0.1, 0.2])
@pytest.mark.parametrize("usage", [True, False])
def test_no_call_is_sent_that_the_budget_may_not_pay_for(server: Replay, budget: float, usage: bool) -> None:
    provider = Provider(usage=usage)
    provider.serve(server)
    result = run(*SMALL, "--budget", str(budget), "--price", "10", "30", url=server.base_url)
    assert result.exit_code in (0, 1), result.output
    assert sum(10e-6 * prompt + 30e-6 * answer for prompt, answer in provider.answered) <= budget
    assert provider.answered or budget < 0.01


def test_a_rate_limit_in_a_burst_is_told(server: Replay, tmp_path: Path) -> None:
    provider = Provider(refuse=lambda body: (429, "no more") if body["max_tokens"] > plan.ANSWER else None)
    provider.serve(server)
    sheet_file = tmp_path / "sheet.json"
    result = run("--yes", "--longest", "256", "--at-once", "6", "--json", sheet_file, url=server.base_url)
    assert result.exit_code == 0, result.output
    figures = {figure["name"]: figure for figure in json.loads(sheet_file.read_text())["figures"]}
    assert "of 6 calls at once were refused (429)" in figures["rate.limit"]["note"]
    assert "limits the rate" in figures["prefill.chunk"]["note"]


def test_ctrl_c_leaves_what_was_learned(server: Replay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Provider()
    provider.serve(server)
    send = Session.ask
    calls: list[int] = []

    def interrupted(self: Session, *arguments: Any, **options: Any) -> Answer:
        calls.append(1)
        if len(calls) == 30:
            raise KeyboardInterrupt
        return send(self, *arguments, **options)

    monkeypatch.setattr(Session, "ask", interrupted)
    sheet_file = tmp_path / "sheet.json"
    result = run(*SMALL, "--json", sheet_file, url=server.base_url)
    assert result.exit_code == 130
    assert "ended early: interrupted" in result.output
    figures = {figure["name"]: figure for figure in json.loads(sheet_file.read_text())["figures"]}
    assert figures["prompt.thousand"]["value"] is not None
    assert figures["prefill.chunk"]["note"] == "not asked"


class Clock:
    """Time that passes without waiting; its wall can be set to another time in the middle."""

    def __init__(self, jump_after: float, jump: float) -> None:
        self.began, self.slept = time.monotonic(), 0.0
        self.jump_after, self.jump = jump_after, jump

    def sleep(self, seconds: float) -> None:
        self.slept += seconds

    def now(self) -> float:
        return time.monotonic() + self.slept

    def wall(self) -> float:
        now = self.now()
        return 1e9 + now + (self.jump if now - self.began >= self.jump_after else 0.0)


@pytest.mark.parametrize("jump", [0.0, 3600.0, -3600.0])
def test_idle_times_over_which_the_clock_jumped_are_thrown_away(server: Replay, jump: float) -> None:
    provider = Provider()
    provider.serve(server)
    clock = Clock(200, jump)
    client = open_client("openai", server.base_url, MODEL)
    session = Session(client, Prompts(1), Purse(), 256, sleep=clock.sleep, clock=clock.now, wall=clock.wall)
    learned = Learned()
    life(session, learned, Options(life_s=1000))
    client.close()
    assert learned.jumped == (0 if not jump else 2)
    assert len(learned.idles) == 7 - learned.jumped


def test_anthropics_client_marks_what_may_be_kept(server: Replay, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    events = [
        {"type": "message_start", "message": {"id": "m", "type": "message", "role": "assistant", "model": "c",
         "content": [], "stop_reason": None, "stop_sequence": None,
         "usage": {"input_tokens": 5, "cache_read_input_tokens": 7, "cache_creation_input_tokens": 3,
                   "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "one"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " two"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
         "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]  # fmt: skip
    lines = [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in events]
    parts = [(0.0, line) for line in lines]
    server.serve(Script(headers={"content-type": "text/event-stream"}, parts=parts), "/v1/messages")
    client = open_client("anthropic", server.url, "c")
    prompts = Prompts(1)
    first = prompts.unique(100)
    answer = client.send(prompts.branch(first, 0.5)[0], 2)
    client.close()
    assert (answer.input_tokens, answer.cached_tokens, answer.output_tokens, answer.text) == (15, 7, 2, "one two")
    shared, tail = server.last.json["messages"][0]["content"]
    assert shared["cache_control"] == {"type": "ephemeral"}
    assert first.text.startswith(shared["text"])
    assert "cache_control" not in tail
