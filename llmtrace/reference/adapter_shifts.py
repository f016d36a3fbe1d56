"""How far a composition of adapters moves the answers: from each adapter alone, and from the base model.

Each of these answers the prompts by itself, always with its likeliest token. Then the composition is asked what it
would have said at every token of that answer: how often its likeliest token is the same, and the KL divergence of its
chances from those of the one that answered (nats per token).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmtrace.reference._errors import RunnerError
from llmtrace.reference.adapters import Adapters
from llmtrace.reference.compositions import Composition
from llmtrace.reference.model import LoadedModel
from llmtrace.reference.protocol import ApiRequest, BadRequest, prompts
from llmtrace.reference.runner import Request, Runner
from llmtrace.reference.sampling import Sampling

__all__ = ["PROMPTS", "Shift", "measure_shifts", "read_prompts", "tokenised"]

PROMPTS = (
    "What is the capital of Australia, and why is it not Sydney?",
    "Write a short, polite answer to a customer whose parcel is late.",
    "Explain to a child why the sky is blue.",
    "SELECT the ten newest orders of each customer from a table orders(id, customer, at).",
    "Summarise in one line: the meeting was moved to Thursday because the room is taken.",
    "Write a Python function that removes duplicates from a list and keeps its order.",
    "Translate into French: where is the nearest station?",
    "Name three reasons why an answer may come late.",
)
"""What is asked where the user gives no prompts."""


@dataclass(frozen=True)
class Shift:
    """How far a composition is from one adapter alone, or from the base."""

    adapter: str | None
    """The one that answered; None: the base model."""
    kl: float
    """The mean KL divergence of the composition from it, nats per token of its answers."""
    kl_p95: float
    """What 95 % of the tokens are below."""
    top1: float
    """The share of its answers' tokens at which the composition's likeliest token is the same."""
    same_answers: int
    """The answers of which the composition would have chosen every token."""
    answers: int
    tokens: int
    """Tokens of all answers."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def read_prompts(path: Path) -> list[Any]:
    """The prompts of a file: a text per line, or an object with `prompt` or `messages`. Raises `RunnerError`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RunnerError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RunnerError(f"cannot read {path}: it is not UTF-8 text") from error
    asked = [_prompt(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not asked:
        raise RunnerError(f"{path} has no prompts: give one per line")
    return asked


def _prompt(line: str, where: str) -> Any:
    if not line.lstrip().startswith("{"):
        return line.strip()
    try:
        asked: Any = json.loads(line)
    except ValueError as error:
        raise RunnerError(f"{where}: it begins like JSON and is none: {error}") from error
    for key, kind in (("prompt", str), ("messages", list)):
        if isinstance(asked.get(key), kind) and asked[key]:
            return asked[key]
    raise RunnerError(f"{where}: an object needs a prompt (text) or messages (a list)")


def tokenised(loaded: LoadedModel, asked: Sequence[Any], tokens: int) -> list[list[int]]:
    """The prompts as tokens, with room for so many of an answer. Raises `RunnerError`.

    A text is what a user says where the model has a chat template, else what is to be continued.
    """
    ids: list[list[int]] = []
    for number, each in enumerate(asked, 1):
        messages = each if isinstance(each, list) else [{"role": "user", "content": each}]
        chat = loaded.has_chat_template or isinstance(each, list)
        request = ApiRequest(chat=chat, model="", messages=messages, prompt=[each], max_tokens=tokens)
        try:
            ids += prompts(request, loaded)
        except BadRequest as error:
            raise RunnerError(f"prompt {number}: {error}") from error
    return ids


def measure_shifts(
    adapters: Adapters,
    composition: Composition,
    asked: Sequence[Sequence[int]],
    tokens: int,
    tell: Callable[[], None] = lambda: None,
) -> list[Shift]:
    """How far the composition is from the base and from each of its adapters, over answers of at most `tokens` tokens.

    `tell` is called after each answer. Raises `RunnerError` where PEFT cannot make the composition.
    """
    import torch

    loaded = adapters.loaded
    room = max(len(prompt) for prompt in asked) + tokens
    runner = Runner(loaded, adapters=adapters, cache_tokens=2 * room, prefill_chunk=None)
    shifts: list[Shift] = []
    for name in (None, *composition.names):
        divergences: list[float] = []
        same: list[bool] = []
        same_answers = 0
        for prompt in asked:
            request = Request(prompt, tokens, Sampling(temperature=0), adapter=name)
            answer = [piece.token for piece in runner.generate(request)]
            with torch.inference_mode():
                alone, together = (_chances(adapters, each, prompt, answer) for each in (name, composition.text))
                divergences += (alone.exp() * (alone - together)).sum(-1).clamp(min=0).tolist()
                equal = (alone.argmax(-1) == together.argmax(-1)).tolist()
            same += equal
            same_answers += all(equal)
            tell()
        divergences.sort()
        shifts.append(
            Shift(
                adapter=name,
                kl=sum(divergences) / len(divergences),
                kl_p95=divergences[min(len(divergences) - 1, int(0.95 * len(divergences)))],
                top1=sum(same) / len(same),
                same_answers=same_answers,
                answers=len(asked),
                tokens=len(same),
            )
        )
    return shifts


def _chances(adapters: Adapters, name: str | None, prompt: Sequence[int], answer: Sequence[int]) -> Any:
    """The logarithms of the chances of every token at each place of the answer, `[tokens, vocabulary]`."""
    import torch

    adapters.activate(name)
    loaded = adapters.loaded
    ids = torch.tensor([[*prompt, *answer[:-1]]], device=loaded.device)
    only: dict[str, Any] = {"logits_to_keep": len(answer)} if loaded.model._supports_logits_to_keep() else {}
    logits = loaded.model(ids, **only).logits[0, -len(answer) :]
    return torch.log_softmax(logits.double(), dim=-1)
