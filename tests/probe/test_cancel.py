"""`llmtrace probe cancel`: what counts say of a closed stream, and the whole way over real sockets."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from llmtrace.cli import build_app
from llmtrace.probe import cancel
from llmtrace.probe.engines import ENGINES, Reading
from llmtrace.probe.maths import cuts
from llmtrace.probe.maths.cuts import RAN_ON, STOPPED, UNKNOWN, Cut, Said, Watched
from tests.probe.provider import MODEL, Provider
from tests.support.replay import Replay, Request, Script, json_answer, refused_url

VLLM, SGLANG, LLAMA, REFERENCE = ENGINES
CUT = Cut(came=10, whole=400, closed=20.0, pace=0.01)


def readings(*values: tuple[float, float, float], ended: Sequence[float] = ()) -> list[Reading]:
    """From (moment, tokens, running); ``ended``: calls that have ended by then, and the last of them given up."""
    return [
        Reading(*value, finished=ended[i] if ended else None, aborted=float(i == 2) if ended else None)
        for i, value in enumerate(values)
    ]


def watched(after: list[Reading], idle: list[Reading] | None = None, whole: float = 400) -> Watched:
    quiet = idle if idle is not None else readings((0, 1000, 0), (2, 1000, 0))
    return Watched(quiet, (quiet[-1], Reading(10, quiet[-1].tokens + whole, 0)), after)


def after(tokens: float, *, free: float = 20.2, ended: Sequence[float] = ()) -> list[Reading]:
    return readings((15, 1400, 0), (20.1, 1400 + tokens / 2, 1), (free, 1400 + tokens, 0), ended=ended)


BUSY = readings((0, 0, 1), (1, 100, 1), (2, 202, 1))
BURSTS = readings((0, 0, 1), (1, 40, 1), (2, 160, 1))


@pytest.mark.parametrize(
    ("engine", "seen", "said"),
    [
        (VLLM, watched(after(13)), (STOPPED, 13, 13)),
        (VLLM, watched(after(400)), (RAN_ON, 400, 400)),
        (REFERENCE, watched(after(12, ended=(5, 5, 6))), (STOPPED, 12, 12)),
        (LLAMA, watched(after(15), whole=402), (STOPPED, 13, 13)),  # two steps were the prompt's
        (LLAMA, watched(after(7), whole=200), (STOPPED, 14, 14)),  # two tokens a step
        (SGLANG, watched(after(0)), (STOPPED, 10, 30)),  # by the time until it had no call
        (SGLANG, watched(after(0, free=24.0)), UNKNOWN),
        (SGLANG, watched(after(400)), (RAN_ON, 400, 400)),
        # others' traffic
        (VLLM, watched(readings((15, 1400, 1), (16, 1515, 1)), BUSY), (STOPPED, 10, 28)),
        (VLLM, watched(readings((15, 1400, 1), (16, 1901, 1)), BUSY), (RAN_ON, 386, 400)),
        (VLLM, watched(readings((15, 1400, 1), (19, 1900, 1)), BURSTS), UNKNOWN),
        (REFERENCE, watched(after(12), BUSY), UNKNOWN),
        (REFERENCE, watched(after(90, ended=(5, 5, 7))), UNKNOWN),
        (LLAMA, watched(after(12), BUSY), UNKNOWN),
        # not this engine, or not it alone
        (VLLM, watched(after(0), whole=0), UNKNOWN),
        (VLLM, watched(after(13), whole=700), UNKNOWN),
        (VLLM, watched(after(13), whole=200), UNKNOWN),
        (VLLM, watched(after(1)), UNKNOWN),
        (VLLM, watched(readings((15, 1400, 0), (16, 5, 0))), UNKNOWN),
    ],
)
def test_what_an_engines_counters_say(engine: Any, seen: Watched, said: tuple[str, int, int] | str) -> None:
    told = cuts.engine(seen, engine, CUT)
    assert (told.state if isinstance(said, str) else (told.state, told.low, told.high)) == said
    assert told.why


@pytest.mark.parametrize(
    ("remaining", "refill", "said"),
    [
        # counted as they are made: short, whole, short, closed, short
        ((9000, 8950, 8500, 8450, 8390), 0.0, (STOPPED, 10, 10)),
        ((9000, 8950, 8500, 8450, 8000), 0.0, (RAN_ON, 400, 400)),
        # taken beforehand, and given back
        ((9000, 8500, 8500, 8000, 8390), 0.0, (STOPPED, 10, 10)),
        # taken beforehand, for good
        ((9000, 8500, 8500, 8000, 8000), 0.0, UNKNOWN),
        # refilled, or rounded to thousands
        ((9000, 9000, 9000, 9000, 9000), 0.0, UNKNOWN),
        ((9000, 8950, 8500, 8450, 8390), 1000.0, UNKNOWN),
        ((9000, 8950, 8500, 8450, 7000), 0.0, UNKNOWN),  # others' calls
    ],
)
def test_what_a_rate_limit_says(remaining: Sequence[float], refill: float, said: tuple[str, int, int] | str) -> None:
    told = cuts.rate_limit("x-ratelimit-remaining-tokens", remaining, CUT, refill, (4.0, 4.2))
    assert (told.state if isinstance(said, str) else (told.state, told.low, told.high)) == said


@pytest.mark.parametrize(
    ("engine", "aborted", "state"),
    [(STOPPED, False, STOPPED), (RAN_ON, True, STOPPED), (RAN_ON, False, UNKNOWN), (UNKNOWN, False, UNKNOWN)],
)
def test_what_the_engine_shows_of_the_gateway(engine: cuts.State, aborted: bool, state: str) -> None:
    assert cuts.gateway("litellm", Said("engine", engine), aborted).state == state


# ---- over real sockets -----------------------------------------------------------------------------------------------


@dataclass
class Engine(Provider):
    """A provider that counts like vLLM: what it has written, or (``run_on``) all that was asked for."""

    run_on: bool = False
    longest: int = 1 << 20
    page: str = "vllm:generation_tokens_total"
    seen: list[tuple[Request, int]] = field(default_factory=list[tuple[Request, int]])

    def serve(self, server: Replay) -> None:
        super().serve(server)
        server.serve(self.metrics, "/metrics")
        server.serve(self.generation, "/v1/generation")

    def handle(self, request: Request) -> Script:
        script = super().handle(request)
        if script.status == 200:
            self.seen.append((request, self.answered[-1][1]))
            script.parts = [
                (delay, part.replace(b'"id": "c"', b'"id": "gen-7"')) for delay, part in script.parts[: self.longest]
            ]
        return script

    def made(self) -> list[int]:
        return [count if self.run_on else min(count, len(request.written)) for request, count in self.seen]

    def metrics(self, _: Request) -> Script:
        lines = f'{self.page}{{model_name="m"}} {sum(self.made())}\nvllm:num_requests_running 0\n'
        return Script(headers={"content-type": "text/plain"}, parts=[(0.0, lines.encode())])

    def generation(self, _: Request) -> Script:
        made = self.made()[3]
        told = {"native_tokens_completion": made, "cancelled": made < TOKENS, "provider_name": "Up"}
        return json_answer({"data": told})


TOKENS = 60


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_IDLE_APART_S", 0.01), ("_POLL_S", 0.02), ("_MORE_S", 0.2)):
        monkeypatch.setattr(cancel, name, seconds)


def run(url: str, *arguments: str | Path) -> Result:
    given = ["probe", "cancel", "--base-url", url, "--yes", "--tokens", TOKENS, *arguments]
    return CliRunner().invoke(build_app(), list(map(str, given)))


@pytest.mark.parametrize("run_on", [False, True])
def test_a_stream_is_closed_and_who_went_on_is_told(server: Replay, tmp_path: Path, run_on: bool) -> None:
    engine = Engine(run_on=run_on, pace=0.004)
    engine.serve(server)
    answer, spans = tmp_path / "answer.json", tmp_path / "spans.jsonl"
    result = run(server.base_url, "--json", answer, "--file", spans)
    assert result.exit_code == 0, result.output
    told = json.loads(answer.read_text())
    hops = {each["hop"]: each for each in told["hops"]}
    assert told["came"] == 10
    assert hops["engine"]["state"] == hops["OpenRouter"]["state"] == (RAN_ON if run_on else STOPPED)
    assert hops["engine"]["low"] == engine.made()[3]
    assert hops["rate limit"]["state"] == hops["stored response"]["state"] == UNKNOWN
    assert told["calls"] == len(engine.answered) == 5
    text = spans.read_text()
    assert f"engine: {'ran on to 60 tokens' if run_on else 'stopped after'}" in text
    assert "ran on to 60 tokens" in result.output if run_on else "stopped after" in result.output


def test_without_an_engines_page_the_rest_is_told(server: Replay) -> None:
    engine = Engine(page="somebody_elses_total", pace=0.002)
    engine.serve(server)
    result = run(server.base_url)
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "engine cannot be told" in words
    assert "OpenRouter stopped after" in words


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--budget", "0.00001", "--price", "1", "1"), "more than the budget: nothing was sent"),
        (("--metrics", "nonsense"), "nonsense is no page of metrics"),
        (("--metrics", refused_url()), "cannot be read"),
        (("--json", "no-such-folder/answer.json"), "there is no folder"),
        (("--price", "-1", "1"), "--price takes"),
        (("--tokens", "20"), "--tokens"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_sent(
    server: Replay, arguments: tuple[str, ...], says: str
) -> None:
    engine = Engine()
    engine.serve(server)
    result = run(server.base_url, *arguments)
    assert result.exit_code in (1, 2)
    assert says in " ".join(result.output.split())
    assert not engine.bodies


@pytest.mark.parametrize("password", ["hunter2", "hunter/2"])
def test_a_page_is_counted_once_and_asked_with_the_password_in_its_address(server: Replay, password: str) -> None:
    engine = Engine(pace=0.002)
    engine.serve(server)
    page = server.url.replace("http://", f"http://me:{password}@") + "/metrics"
    again = page.replace("127.0.0.1", "localhost") + "/"
    result = run(server.base_url, "--metrics", page, "--metrics", again)
    assert result.exit_code == 0, result.output
    assert "engine stopped after" in " ".join(result.output.split())
    assert "hunter" not in result.output
    pages = [request for request in server.requests if request.path == "/metrics"]
    sent = f"Basic {b64encode(f'me:{password}'.encode()).decode()}"
    assert {request.headers.get("authorization") for request in pages} == {sent}


def test_ctrl_c_after_the_close_names_what_was_not_looked_at(
    server: Replay, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Engine(pace=0.002).serve(server)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cancel._Trial, "_followed", interrupted)
    result = run(server.base_url, "--json", tmp_path / "answer.json")
    assert result.exit_code == 130
    hops = json.loads((tmp_path / "answer.json").read_text())["hops"]
    assert {each["hop"]: each["state"] for each in hops} == dict.fromkeys(
        ("engine", "rate limit", "stored response"), UNKNOWN
    )
    words = " ".join(result.output.split())
    assert "closed after 10 of 60 tokens" in words
    assert "engine cannot be told it ended before this was looked at" in words


def test_options_before_the_command_are_not_lost() -> None:
    result = CliRunner().invoke(build_app(), ["probe", "--budget", "1", "cancel"])
    assert result.exit_code == 2
    assert "--budget goes behind cancel" in result.output


def test_answers_that_are_too_short_are_one_line(server: Replay) -> None:
    engine = Engine()
    engine.serve(server)
    engine.longest = 20
    result = run(server.base_url)
    assert result.exit_code == 1
    assert "try another model, or a larger --tokens" in " ".join(result.output.split())


def test_a_limit_in_the_middle_keeps_what_was_learned(server: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(pace=0.002, refuse=lambda body: (429, "no more") if len(engine.answered) >= 4 else None)
    engine.serve(server)
    monkeypatch.setattr("llmtrace.probe.session._RETRIES", 0)
    result = run(server.base_url, "--model", MODEL)
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "engine stopped after" in words
    assert "ended early" in words


def test_anthropics_client(server: Replay, tmp_path: Path) -> None:
    engine = Engine()

    def answer(request: Request) -> Script:
        count = request.json["max_tokens"]
        engine.seen.append((request, count))
        usage = {"input_tokens": 9, "output_tokens": 1}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": [],
                   "stop_reason": None, "stop_sequence": None, "usage": usage}  # fmt: skip
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "one "}}
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": message},
            *[delta] * count,
            {"type": "message_delta", "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
             "usage": {"output_tokens": count}},
            {"type": "message_stop"},
        ]  # fmt: skip
        lines = [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in events]
        return Script(headers={"content-type": "text/event-stream"}, parts=[(0.003, line) for line in lines])

    server.serve(answer, "/v1/messages")
    server.serve(engine.metrics, "/metrics")
    answered = tmp_path / "answer.json"
    result = run(server.url, "--client", "anthropic", "--model", MODEL, "--json", answered)
    assert result.exit_code == 0, result.output
    told = json.loads(answered.read_text())
    assert [each["hop"] for each in told["hops"]] == ["engine", "rate limit"]
    assert told["hops"][0]["state"] == STOPPED
    assert told["calls"] == len(engine.seen) == 5


def test_a_stored_response_is_told_by_the_call_that_goes_on(server: Replay, tmp_path: Path) -> None:
    engine = Engine(pace=0.002)
    engine.serve(server)
    asked: list[dict[str, Any]] = []
    lock = threading.Lock()

    def respond(request: Request) -> Script:
        with lock:
            asked.append(request.json)
        if "previous_response_id" not in request.json:
            return Script(headers={"content-type": "text/event-stream"}, parts=list(_response_events()))
        words = sum(len(body["input"].split()) for body in asked)
        usage = {"input_tokens": words + 33, "output_tokens": 1, "total_tokens": words + 34}
        return json_answer({**_RESPONSE, "id": "resp_2", "status": "completed", "usage": usage})

    server.serve(respond, "/v1/responses")
    answer = tmp_path / "answer.json"
    result = run(server.base_url, "--json", answer)
    assert result.exit_code == 0, result.output
    (stored,) = (each for each in json.loads(answer.read_text())["hops"] if each["hop"] == "stored response")
    assert stored["state"] == STOPPED
    assert stored["low"] <= 33 <= stored["high"]
    assert asked[1]["previous_response_id"] == "resp_1"


_RESPONSE: dict[str, Any] = {
    "id": "resp_1", "object": "response", "created_at": 1, "model": MODEL, "output": [], "status": "in_progress",
    "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
}  # fmt: skip


def _response_events() -> Sequence[tuple[float, bytes]]:
    events: list[dict[str, Any]] = [{"type": "response.created", "sequence_number": 0, "response": _RESPONSE}]
    events += [
        {"type": "response.output_text.delta", "sequence_number": i, "item_id": "m", "output_index": 0,
         "content_index": 0, "delta": "one ", "logprobs": []}
        for i in range(1, TOKENS)
    ]  # fmt: skip
    return [(0.002, f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode()) for each in events]
