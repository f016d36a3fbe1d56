"""What holding answers to a schema is worth: valid at the first try with a grammar, without, and with retries.

Every prompt is answered in three ways by the same model: held to the schema; freely, once; and freely again until the
answer is valid, or the tries are over, as an application does that has no grammar. What counts is what the application
waits for and pays: all tries, and with a grammar its compiling too.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmtrace.observe.clock import now
from llmtrace.reference._errors import RunnerError
from llmtrace.reference.grammar import BrokenGrammar, Grammar, Grammars
from llmtrace.reference.model import LoadedModel
from llmtrace.reference.other_load import OtherLoad
from llmtrace.reference.runner import Request, Runner
from llmtrace.reference.sampling import Sampling
from llmtrace.reference.timings import Timings

__all__ = ["PROMPTS", "SCHEMA", "Plan", "measure", "validator"]

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "days": {"type": "integer", "minimum": 1, "maximum": 30},
        "indoors": {"type": "boolean"},
    },
    "required": ["city", "days", "indoors"],
    "additionalProperties": False,
}
"""What answers are held to where nothing else is given."""
PROMPTS = (
    "Ada wants to spend a week in Lisbon and does not mind the rain.",
    "Three days in Oslo in January, museums only.",
    "Plan a fortnight of hiking around Innsbruck.",
    "We have one day in Rome and want to see the Forum.",
    "Ten days of Kyoto's gardens, please.",
    "A weekend in Bruges, whatever the weather.",
    "My parents will visit Quito for twenty days and love churches.",
    "Five days in Cairo, mostly in the shade.",
)
"""The same for prompts."""


@dataclass(frozen=True)
class Plan:
    """What to ask."""

    schema: dict[str, Any] = field(default_factory=lambda: SCHEMA)
    prompts: Sequence[str] = PROMPTS
    max_tokens: int = 96
    tries: int = 3
    """The most tries without a grammar."""
    temperature: float = 0.7
    seed: int = 0


@dataclass
class _Answer:
    """What one prompt came to, in one way."""

    valid: bool = False
    first: bool = False
    """Whether the first try was valid."""
    tries: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def add(self, valid: bool, timings: Timings, compiling: float = 0.0) -> None:
        """Add one more try, which took `compiling` s before its request began."""
        self.valid = valid
        self.first = valid if self.tries == 0 else self.first
        self.tries += 1
        self.tokens += timings.output_tokens
        self.seconds += compiling + ((timings.finished or timings.arrived) - timings.arrived) / 1e9


def validator(schema: dict[str, Any]) -> Callable[[str], bool]:
    """Whether a text is JSON that fits the schema. Raises `RunnerError` for a schema that is none."""
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    kind: Any = validator_for(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise RunnerError(f"the schema is no JSON schema: {error.message}") from error
    judge = kind(schema)

    def valid(text: str) -> bool:
        try:
            return bool(judge.is_valid(json.loads(text)))
        except ValueError:
            return False

    return valid


def measure(loaded: LoadedModel, plan: Plan, answered: Callable[[], None] | None = None) -> dict[str, Any]:
    """Ask everything, and return what each way came to. `answered` is called after each prompt. Raises `RunnerError`.

    Seconds are medians, the other numbers means over the prompts.
    """
    others = OtherLoad()
    valid = validator(plan.schema)
    grammars = Grammars(loaded)
    runner = Runner(loaded)
    runner.warm_up()
    held: list[_Answer] = []
    once: list[_Answer] = []
    again: list[_Answer] = []
    compiled: list[float] = []
    masked: list[float] = []
    for prompt in plan.prompts:
        ids = _ids(loaded, prompt, plan.schema)
        begun = now()
        try:
            grammar = grammars.compile("json_schema", plan.schema)
        except BrokenGrammar as error:
            raise RunnerError(f"no answer can be held to this schema: {error}") from error
        compiled.append((now() - begun) / 1e9)
        text, timings = _answer(runner, ids, plan, plan.seed, grammar)
        masked.append(timings.mask_per_token / 1e9)
        held.append(_Answer())
        held[-1].add(valid(text), timings, compiled[-1])
        once.append(_Answer())
        again.append(_Answer())
        while again[-1].tries < plan.tries and not again[-1].valid:
            text, timings = _answer(runner, ids, plan, plan.seed + again[-1].tries, None)
            for way in (once, again) if not again[-1].tries else (again,):
                way[-1].add(valid(text), timings)
        if answered is not None:
            answered()
    results: dict[str, Any] = {
        "model": loaded.name,
        "device": loaded.device,
        "schema": plan.schema,
        "answers": len(plan.prompts),
        "tries": plan.tries,
        "max_tokens": plan.max_tokens,
        "ways": {
            "with grammar": _summary(held)
            | {
                "compile_seconds": statistics.median(compiled),
                "compile_seconds_first": compiled[0],
                "mask_seconds_per_token": statistics.mean(masked),
            },
            "without": _summary(once),
            "with retries": _summary(again),
        },
    }
    others.into(results)
    return results


def _answer(runner: Runner, ids: list[int], plan: Plan, seed: int, grammar: Grammar | None) -> tuple[str, Timings]:
    timings = Timings(arrived=now())
    sampling = Sampling(temperature=plan.temperature, seed=seed)
    asked = Request(ids, max_tokens=plan.max_tokens, sampling=sampling, grammar=grammar)
    return "".join(piece.text for piece in runner.generate(asked, timings)), timings


def _ids(loaded: LoadedModel, prompt: str, schema: dict[str, Any]) -> list[int]:
    text = f"{prompt}\nAnswer with JSON that fits this schema, and with nothing else: {json.dumps(schema)}"
    if loaded.has_chat_template:
        message = [{"role": "user", "content": text}]
        text = loaded.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    return list(loaded.tokenizer(text, add_special_tokens=not loaded.has_chat_template)["input_ids"])


def _summary(answers: Sequence[_Answer]) -> dict[str, float]:
    return {
        "valid_first_try": statistics.mean(answer.first for answer in answers),
        "valid": statistics.mean(answer.valid for answer in answers),
        "tries": statistics.mean(answer.tries for answer in answers),
        "tokens": statistics.mean(answer.tokens for answer in answers),
        "seconds": statistics.median(answer.seconds for answer in answers),
    }
