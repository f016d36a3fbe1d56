"""Answers held to a grammar: valid whatever the model would say, and nobody else's tokens changed."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from llmtrace.reference import LoadedModel
from llmtrace.reference.grammar import BrokenGrammar, Grammar, Grammars
from llmtrace.reference.runner import Generation, Piece, Request, Runner
from llmtrace.reference.sampling import Sampling

pytest.importorskip("llguidance")

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "hot": {"type": "boolean"},
        "codes": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
        "kind": {"enum": ["sun", "rain"]},
    },
    "required": ["city", "hot", "codes", "kind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def grammars(small: LoadedModel) -> Grammars:
    return Grammars(small)


def run(runner: Runner, *requests: Request) -> list[tuple[str, str | None, Generation]]:
    """All at once; (text, finish reason, generation) of each."""
    generations = [runner.start(request) for request in requests]
    texts = dict.fromkeys(generations, "")
    finish: dict[Generation, str | None] = {}

    def tell(generation: Generation, news: Piece | Exception) -> None:
        assert isinstance(news, Piece), news
        texts[generation] += news.text
        finish[generation] = news.finish

    assert all(runner.admit(each) for each in generations)
    while runner.running:
        runner.step(tell)
    return [(texts[each], finish[each], each) for each in generations]


def ask(grammar: Grammar | None, seed: int | None = None, **more: Any) -> Request:
    sampling = Sampling(temperature=0) if seed is None else Sampling(temperature=1.5, seed=seed)
    return Request([5, 6, 7, 8], **{"max_tokens": 200, "sampling": sampling, "grammar": grammar, **more})


@pytest.mark.parametrize("seed", [None, *range(6)])
@pytest.mark.parametrize("ignore_eos", [False, True])
def test_the_answer_is_valid_by_its_schema(
    small: LoadedModel, grammars: Grammars, seed: int | None, ignore_eos: bool
) -> None:
    [(text, finish, generation)] = run(
        Runner(small), ask(grammars.compile("json_schema", SCHEMA), seed, ignore_eos=ignore_eos)
    )
    assert finish == "stop"
    jsonschema.validate(json.loads(text), SCHEMA)
    timings = generation.timings
    assert timings.grammar == "json_schema"
    assert timings.compile_ns > 0
    assert 0 < timings.mask_ns < (timings.finished or 0) - timings.arrived
    assert timings.metrics()["mean_mask_time_ms"] == pytest.approx(timings.mask_ns / 1e6 / timings.output_tokens)


def test_an_expression_and_a_grammar(small: LoadedModel, grammars: Grammars) -> None:
    [(text, finish, _)] = run(Runner(small), ask(grammars.compile("regex", "[a-f]{3}-[0-9]{2}")))
    assert (re.fullmatch("[a-f]{3}-[0-9]{2}", text) is not None, finish) == (True, "stop")
    [(text, finish, _)] = run(Runner(small), ask(grammars.compile("grammar", 'start: ("yes" | "no") "!"')))
    assert text in ("yes!", "no!")
    assert finish == "stop"


def test_every_choice_is_held_to_it(small: LoadedModel, grammars: Grammars) -> None:
    [(text, _, _)] = run(Runner(small), ask(grammars.compile("regex", "[ab]{4};"), 3, choices=3))
    assert re.fullmatch("([ab]{4};){3}", text)


def test_neighbours_are_not_masked(small: LoadedModel, grammars: Grammars) -> None:
    runner = Runner(small, max_running=3)
    free = ask(None, max_tokens=30, ignore_eos=True)
    [(alone, _, _)] = run(runner, free)
    (held, _, _), (beside, _, other), (sampled, _, _) = run(
        runner, ask(grammars.compile("json_schema", SCHEMA)), free, ask(None, 4, max_tokens=30, ignore_eos=True)
    )
    jsonschema.validate(json.loads(held), SCHEMA)
    assert beside == alone
    assert other.timings.mask_ns == 0
    assert "grammar_mask_time_ms" not in other.timings.metrics()
    [(sampled_alone, _, _)] = run(runner, ask(None, 4, max_tokens=30, ignore_eos=True))
    assert sampled == sampled_alone


def test_a_limit_cuts_it_and_says_so(small: LoadedModel, grammars: Grammars) -> None:
    [(_, finish, generation)] = run(Runner(small), ask(grammars.compile("json_schema", SCHEMA), max_tokens=3))
    assert finish == "length"
    assert generation.timings.output_tokens == 3


@pytest.mark.parametrize(
    ("kind", "source", "says"),
    [
        ("json_schema", {"type": "nonsense"}, "nonsense"),
        ("json_schema", {"$ref": "#/nope"}, "nope"),
        ("json_schema", {"type": "string", "pattern": "("}, "unclosed group"),
        ("regex", "[a-z", "unclosed"),
        ("grammar", "start: (", "Expected"),
    ],
)
def test_what_is_wrong_is_said(grammars: Grammars, kind: str, source: Any, says: str) -> None:
    with pytest.raises(BrokenGrammar, match=says):
        grammars.compile(kind, source)


def chain(rules: int) -> str:
    return "start: r0\n" + "".join(f"r{at}: r{at + 1}\n" for at in range(rules)) + f'r{rules}: "a"'


def references(objects: int) -> dict[str, Any]:
    made: dict[str, Any] = {
        f"a{at}": {"properties": {"x": {"$ref": f"#/$defs/a{at + 1}"}}, "required": ["x"]} for at in range(objects)
    }
    return {"$ref": "#/$defs/a0", "$defs": made | {f"a{objects}": {"type": "integer"}}}


@pytest.mark.parametrize(("kind", "source"), [("grammar", chain(8_000)), ("json_schema", references(1_500))])
def test_rules_that_refer_to_rules_without_end_cost_the_process_nothing(
    small: LoadedModel, grammars: Grammars, kind: str, source: Any
) -> None:
    """They go as deep as a source of the greatest length can: an ordinary stack ends at a fifth of it."""
    [(text, _, generation)] = run(Runner(small), ask(grammars.compile(kind, source), max_tokens=3))
    assert text
    assert generation.timings.grammar == kind


@pytest.mark.parametrize(("kind", "source"), [("regex", "a?" * 10_000), ("grammar", chain(30_000))])
def test_what_is_too_long_is_refused(grammars: Grammars, kind: str, source: str) -> None:
    with pytest.raises(BrokenGrammar, match="characters; at most"):
        grammars.compile(kind, source)
