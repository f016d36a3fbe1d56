"""Validation re-asks: told by themselves from the history of prompts, or said by the application, and counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.trace import SpanKind

import llmtrace
from llmtrace.tasks import units
from tests.conftest import Tracing
from tests.support import replay as play
from tests.support.apis import Sync
from tests.support.by_funnel import Anthropic
from tests.support.clock import Clock
from tests.support.replay import Replay
from tests.support.spans import Spans, attributes

ASKED: list[Any] = [{"role": "system", "content": "Answer in JSON."}, {"role": "user", "content": "Who is it?"}]
PYDANTIC = (
    "1 validation error for Person\nage\n  Field required [type=missing, input_value={'name': 'Ann'}, input_type=dict]"
)
RETRY = f"1 validation error:\n{PYDANTIC}\n\nFix the errors and try again."
BROKEN = "My program says JSONDecodeError: Expecting value. Can you fix it?"
AGAIN = {"role": "user", "content": "Are you sure? Try again."}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"city": 1}'}}


def ask(api: Sync, replay: Replay, messages: list[Any], **more: Any) -> None:
    replay.play(play.openai_body())
    api.create(messages=messages, **more)


def after(answer: Any, complaint: str, role: str = "user") -> list[Any]:
    """The history once an answer and what is said to it have been added."""
    said = answer if isinstance(answer, dict) else {"role": "assistant", "content": answer}
    to = {"tool_call_id": "c1"} if role == "tool" else {}
    return [*ASKED, said, {"role": role, "content": complaint, **to}]


def repairs(spans: Spans) -> list[Any]:
    """Of each call how many repairs it is the last of, and the span that it is linked to, by number."""
    calls = [span for span in spans.finished() if "llmtrace.call.outcome" in attributes(span)]
    numbers = {span.context.span_id: number for number, span in enumerate(calls)}
    told: list[Any] = []
    for span in calls:
        linked = [numbers[link.context.span_id] for link in span.links if link.attributes == KIND]
        told.append((attributes(span).get("llmtrace.call.repairs"), linked))
    return told


KIND = {"llmtrace.link.kind": "repair"}
NONE = (None, [])
DETAILS = [{"type": "missing", "loc": ["age"], "msg": "Field required", "input": {"name": "Ann"}}]
MISTAKE = f"Error: {PYDANTIC}\n Please fix your mistakes."
TOLD: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "instructor, in tools": (
        after(
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            f"Validation Error found:\n{PYDANTIC}\nRecall the function correctly, fix the errors",
            "tool",
        ),
        {},
    ),
    "instructor, in JSON": (
        after('{"name": "Ann"}', f"Correct your JSON ONLY RESPONSE, based on the following errors:\n{PYDANTIC}"),
        {"response_format": {"type": "json_object"}},
    ),
    "pydantic-ai, of a text": (
        after("Ann.", "Validation feedback:\nNot a person.\n\nFix the errors and try again."),
        {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": {}}}},
    ),
    "pydantic-ai, of a tool": (
        after({"role": "assistant", "tool_calls": [CALL]}, RETRY, "tool"),
        {},
    ),
    "pydantic-ai, of a tool, at length": (
        after({"role": "assistant", "tool_calls": [CALL]}, f"9 validation errors:\n{'x ' * 4000}\n\n{RETRY}", "tool"),
        {},
    ),
    "pydantic-ai, newer, of a tool": (
        after({"role": "assistant", "tool_calls": [CALL]}, json.dumps({"error": DETAILS}), "tool"),
        {},
    ),
    "pydantic-ai, newer, of a text": (
        after("{}", f"Your previous response failed the application's validation (by a program):\n{DETAILS}"),
        {},
    ),
    "LangGraph": (after({"role": "assistant", "tool_calls": [CALL]}, MISTAKE, "tool"), {}),
    "by hand, of arguments": (
        after({"role": "assistant", "content": "{}"}, "age: missing. Your arguments did not validate. Try again."),
        {},
    ),
    "by hand": (after("It is Ann.", "Your answer is not valid JSON: Expecting value: line 1. Return only JSON."), {}),
    "by hand, in a fence": (after('```json\n{"a": }\n```', "JSONDecodeError: Expecting value: line 1 column 7"), {}),
    "by hand, of a schema": (
        after('{"name": 1}', "The response does not match the schema: 1 is not of type 'string'. Try again."),
        {},
    ),
}


@pytest.fixture
def work(spans: Spans) -> Iterator[None]:
    """What the calls are made in: a trace."""
    with spans.provider.get_tracer("application").start_as_current_span("work"):
        yield


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize("name", [*TOLD])
def test_told_by_itself(name: str, traced: Tracing, api: Sync, replay: Replay, spans: Spans) -> None:
    messages, more = TOLD[name]
    ask(api, replay, ASKED, **more)
    ask(api, replay, messages, **more)
    assert repairs(spans) == [NONE, (1, [0])]
    assert "Who is it?" not in str([dict(attributes(span)) for span in spans.finished()])


@pytest.mark.usefixtures("work")
def test_one_repair_after_the_other(traced: Tracing, api: Sync, replay: Replay, spans: Spans) -> None:
    ask(api, replay, ASKED)
    once = after('{"name": "Ann"}', f"Fix the errors:\n{PYDANTIC}")
    twice = [*once, {"role": "assistant", "content": "{}"}, {"role": "user", "content": f"Fix the errors:\n{PYDANTIC}"}]
    ask(api, replay, once)
    ask(api, replay, twice)
    ask(api, replay, [*twice, {"role": "assistant", "content": "{}"}, {"role": "user", "content": "And who else?"}])
    assert repairs(spans) == [NONE, (1, [0]), (2, [1]), NONE]


FAILURES = (
    f"FAILED test_a.py::test_b\n{PYDANTIC}\nEnsure that the file exists and try again.",
    "1 validation error for File\npath\n  Field required\nEnsure that the file exists.",
    "error: failed to parse Cargo.toml: invalid JSON. Please try again later.",
    '{"status": 400, "message": "field required (must be set). Fix the errors and try again."}',
    "# Loader\nYour output is not valid YAML if it has tabs. Make sure to fix them and try again.",
    json.dumps({"detail": [{"type": "missing", "loc": ["body", "age"], "msg": "Field required"}]}),
    "Your response is not valid JSON. Return only JSON.",
)
OTHERS: dict[str, list[list[Any]]] = {
    "a chat": [
        ASKED,
        after("Ann.", "How old is she?"),
        [*after("Ann.", "How old is she?"), {"role": "assistant", "content": "12."}, AGAIN],
    ],
    "a chat about errors": [
        ASKED,
        after("```python\nPerson(name='Ann')\n```", f"I get this, what does it mean?\n{PYDANTIC}"),
        after("```python\nPerson(name='Ann')\n```", BROKEN),
    ],
    "a bot that answers in JSON": [
        ASKED,
        after('{"answer": "Ann"}', "What is a validation error?"),
        after('{"answer": "Ann"}', "Say it in another way, please."),
    ],
    "an agent's tools": [
        ASKED,
        after({"role": "assistant", "tool_calls": [CALL]}, '{"temperature": 12}', "tool"),
        after({"role": "assistant", "tool_calls": [CALL]}, "Error: city not found", "tool"),
        after({"role": "assistant", "tool_calls": [CALL]}, "Traceback (most recent call last): TimeoutError", "tool"),
    ],
    "an agent that reads a log": [
        ASKED,
        after({"role": "assistant", "tool_calls": [CALL]}, f"12:01 worker died\n12:02 {PYDANTIC}\n12:03 gone", "tool"),
    ],
    "an agent's tools that fail": [
        ASKED,
        *(after({"role": "assistant", "tool_calls": [CALL]}, failure, "tool") for failure in FAILURES),
    ],
    "a chat about a file": [
        ASKED,
        after("```yaml\na: 1\n```", "I now get 'field required' from compose. How do I fix that again?"),
        after("```yaml\na: 1\n```", "1 validation error for Settings\na\n  Field required. How do I fix it?"),
    ],
    "a rule for the next answer": [
        ASKED,
        after('{"class": 1}', "Next: 'worker died'. If your answer is not valid JSON, you have to answer again."),
        after('{"class": 1}', "Next log line to classify: 'ERROR validation failed for user 5, must be retried'"),
        after('{"class": 1}', "JSONDecodeError: Expecting value: line 1 column 1. Classify this line again."),
    ],
    "another task": [
        ASKED,
        after('{"a": 1}', "Now write documentation that says what a JSONDecodeError is, and make sure it is brief."),
    ],
    "the same once more": [ASKED, ASKED],
    "an error without a call before": [after("{}", f"Fix the errors:\n{PYDANTIC}")],
    "another prompt": [[{"role": "user", "content": "Who?"}], after("{}", f"Fix the errors:\n{PYDANTIC}")],
}


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize("more", [{}, {"response_format": {"type": "json_object"}}], ids=["plain", "in JSON"])
@pytest.mark.parametrize("name", [*OTHERS])
def test_what_is_none(
    name: str, more: dict[str, Any], traced: Tracing, api: Sync, replay: Replay, spans: Spans
) -> None:
    for messages in OTHERS[name]:
        ask(api, replay, messages, **more)
    assert repairs(spans) == [NONE] * len(OTHERS[name])


@pytest.mark.usefixtures("work")
def test_a_person_s_word_is_none(traced: Tracing, api: Sync, replay: Replay, spans: Spans, clock: Clock) -> None:
    """Who takes a while to say that the answer is wrong is no program."""
    messages = after("It is Ann.", "Your answer is not valid JSON. Return only JSON.")
    ask(api, replay, ASKED)
    clock.advance(20.0)
    ask(api, replay, messages)
    assert repairs(spans) == [NONE, NONE]


def test_another_trace_is_another_matter(traced: Tracing, api: Sync, replay: Replay, spans: Spans) -> None:
    tracer = spans.provider.get_tracer("application")
    for messages in (ASKED, TOLD["instructor, in JSON"][0]):
        with tracer.start_as_current_span("request"):
            ask(api, replay, messages)
    calls = [span for span in spans.finished() if "llmtrace.call.outcome" in attributes(span)]
    assert not [span for span in calls if span.links or "llmtrace.call.repairs" in attributes(span)]


def test_over_anthropic(replay: Replay, spans: Spans, tracing: Tracing) -> None:
    opened = Anthropic("sync", replay.url)
    tracing.on("anthropic")
    used = {"type": "tool_use", "id": "t", "name": "Person", "input": {"name": "Ann"}}
    complaint = f"Validation Error found:\n{PYDANTIC}\nRecall the function correctly, fix the errors"
    result = {"type": "tool_result", "tool_use_id": "t", "content": complaint, "is_error": True}
    first: list[Any] = [{"role": "user", "content": "Who?"}]
    for messages in (first, [*first, {"role": "assistant", "content": [used]}, {"role": "user", "content": [result]}]):
        replay.play(opened.whole())
        opened.client.messages.create(model="m", max_tokens=9, messages=messages)
    assert repairs(spans) == [NONE, (1, [0])]
    opened.shut()


def test_over_responses(traced: Tracing, client: Any, replay: Replay, spans: Spans) -> None:
    from tests.support.by_funnel import Responses

    driver = Responses("sync", replay.url)
    call = {"type": "function_call", "call_id": "c", "name": "Person", "arguments": "{}"}
    failed = {"type": "function_call_output", "call_id": "c", "output": f"{PYDANTIC}\nFix the errors and try again."}
    first: list[Any] = [{"role": "user", "content": "Who?"}]
    for sent in (first, [*first, call, failed]):
        replay.play(driver.whole())
        client.responses.create(model="m", input=sent)
    assert repairs(spans) == [NONE, (1, [0])]
    driver.shut()


WRONG = "Your reply was not valid JSON: Expecting ',' delimiter. Reply with JSON only."


def test_the_answer_s_own_blocks_handed_back(replay: Replay, spans: Spans, tracing: Tracing) -> None:
    """As Anthropic's examples do it, outside of any trace; a newer client begins one of its own for each call."""
    opened = Anthropic("sync", replay.url)
    tracing.on("anthropic")
    messages: list[Any] = [{"role": "user", "content": "Who?"}]
    for _ in range(3):
        replay.play(opened.whole())
        answer = opened.client.messages.create(model="m", max_tokens=9, messages=messages)
        messages += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": WRONG}]
    told = [attributes(span) for span in spans.finished() if "llmtrace.call.outcome" in attributes(span)]
    assert [each.get("llmtrace.call.repairs") for each in told] == [None, 1, 2]
    linked = [link.context.span_id for span in spans.finished() for link in span.links if link.attributes == KIND]
    assert len(set(linked)) == 2
    opened.shut()


@pytest.mark.usefixtures("work")
def test_contents_that_are_objects(replay: Replay, spans: Spans, tracing: Tracing) -> None:
    """As Google's client makes them of what is said in a chat."""
    from google.genai import Client

    tracing.on("google-genai")
    answer = {"candidates": [{"content": {"role": "model", "parts": [{"text": "{"}]}, "finishReason": "STOP"}]}
    replay.serve(play.json_answer(answer))
    google = Client(api_key="k", http_options={"base_url": replay.url})
    chat = google.chats.create(model="m")
    for said in ("Who is it?", WRONG, WRONG, "And how old is she?"):
        chat.send_message(said)
    assert repairs(spans) == [NONE, (1, [0]), (2, [1]), NONE]
    google.close()


@pytest.mark.usefixtures("work")
def test_an_answer_that_the_server_keeps(traced: Tracing, client: Any, replay: Replay, spans: Spans) -> None:
    """A request that goes on from it holds the error alone; another's answer is another's."""
    from tests.support.by_funnel import Responses

    driver = Responses("sync", replay.url)
    previous = None
    for said in ("Who?", WRONG, [{"role": "user", "content": WRONG}], "How old is she?"):
        replay.play(driver.whole())
        more = {} if previous is None else {"previous_response_id": previous}
        previous = client.responses.create(model="m", input=said, **more).id
    replay.play(driver.whole())
    client.responses.create(model="m", input=WRONG, previous_response_id="another")
    assert repairs(spans) == [NONE, (1, [0]), (2, [1]), NONE, NONE]
    driver.shut()


@pytest.fixture
def tasks_here(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "_providers", [spans.provider])


def test_said_by_the_application(tasks_here: None, traced: Tracing, api: Sync, replay: Replay, spans: Spans) -> None:
    """In a step of its own: whatever the words, and whether or not the earlier call is known."""
    with llmtrace.task("who") as task:
        ask(api, replay, ASKED)
        with llmtrace.step("ask again", kind="repair"):
            ask(api, replay, after("Ann.", "Nein, anders."))
            ask(api, replay, [{"role": "user", "content": "Something else."}])
    first, second, third = (span for span in spans.finished() if "llmtrace.call.outcome" in attributes(span))
    assert "llmtrace.call.repairs" not in attributes(first)
    assert [attributes(each)["llmtrace.call.repairs"] for each in (second, third)] == [1, 1]
    assert [link.context.span_id for link in second.links] == [first.context.span_id]
    assert not third.links
    assert attributes(second)["llmtrace.step.kind"] == "repair"
    assert task.repairs == 2
    (whole,) = [span for span in spans.finished() if span.name == "task who"]
    assert attributes(whole)["llmtrace.task.repairs"] == 2


def test_a_loop_by_hand(
    tasks_here: None, traced: Tracing, make_api: Callable[..., Sync], kind: str, replay: Replay, spans: Spans
) -> None:
    """What many programs do: parse, and hand the error back."""
    api = make_api(kind)
    replay.play(play.openai_body("It is Ann."), play.openai_body('{"name": "Ann"'), play.openai_body('{"name": "Ann"}'))
    messages = [*ASKED]
    with llmtrace.task("who") as task:
        while True:
            answer = api.create(messages=messages).choices[0].message.content
            try:
                json.loads(answer)
                break
            except ValueError as error:
                messages += [
                    {"role": "assistant", "content": answer},
                    {"role": "user", "content": f"Your reply was not valid JSON ({error}). Reply with JSON only."},
                ]
    calls = [span for span in spans.finished() if "llmtrace.call.outcome" in attributes(span)]
    assert [attributes(span).get("llmtrace.call.repairs") for span in calls] == [None, 1, 2]
    assert task.repairs == 2


@pytest.mark.parametrize("mode", ["TOOLS", "JSON", "MD_JSON", "JSON_SCHEMA"])
def test_instructor(mode: str, traced: Tracing, client: Any, replay: Replay, spans: Spans) -> None:
    instructor = pytest.importorskip("instructor")
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    def turn(arguments: str) -> Any:
        fenced = f"```json\n{arguments}\n```" if mode == "MD_JSON" else arguments
        return play.tool_turn("Person", arguments) if mode == "TOOLS" else play.openai_body(fenced)

    replay.play(turn('{"name": "Ann"}'), turn('{"name": "Ann", "age": "x"}'), turn('{"name": "Ann", "age": 12}'))
    asking = instructor.from_openai(client, mode=getattr(instructor.Mode, mode))
    person = asking.chat.completions.create(
        model="m", response_model=Person, max_retries=3, messages=[{"role": "user", "content": "Who is it?"}]
    )
    assert person.age == 12
    assert repairs(spans) == [NONE, (1, [0]), (2, [1])]


@pytest.mark.parametrize("output", ["tool", "native"])
async def test_pydantic_ai(output: str, traced: Tracing, aclient: Any, replay: Replay, spans: Spans) -> None:
    pytest.importorskip("pydantic_ai")
    from pydantic import BaseModel
    from pydantic_ai import Agent, NativeOutput
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    class Person(BaseModel):
        name: str
        age: int

    def turn(arguments: str) -> Any:
        return play.tool_turn("final_result", arguments) if output == "tool" else play.openai_body(arguments)

    replay.play(turn('{"name": "Ann"}'), turn('{"name": "Ann", "age": 12}'))
    model = OpenAIChatModel("gpt-4o", provider=OpenAIProvider(openai_client=aclient))
    agent = Agent(model, output_type=Person if output == "tool" else NativeOutput(Person), retries=2)
    assert (await agent.run("Who is it?")).output.age == 12
    assert repairs(spans) == [NONE, (1, [0])]


def test_on_a_span_that_another_instrumentation_opened(
    tracing: Tracing, api: Sync, replay: Replay, spans: Spans
) -> None:
    tracing.on(parent="auto")
    tracer = spans.provider.get_tracer("opentelemetry.instrumentation.openai_v2")
    with spans.provider.get_tracer("application").start_as_current_span("work"):
        for messages in (ASKED, TOLD["instructor, in JSON"][0]):
            about = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o-mini"}
            with tracer.start_as_current_span("chat m", kind=SpanKind.CLIENT, attributes=about):
                ask(api, replay, messages)
    first, second = (span for span in spans.finished() if "llmtrace.call.outcome" in attributes(span))
    assert attributes(second)["llmtrace.call.adopted"]
    assert attributes(second)["llmtrace.call.repairs"] == 1
    assert [link.context.span_id for link in second.links] == [first.context.span_id]
