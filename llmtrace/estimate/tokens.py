"""How many tokens a call had, also where nobody counts them: from the prompt's characters and the stream's chunks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from llmtrace.estimate.prefixes import Prompt, Survival, expected
from llmtrace.observe.answer import Usage

PER_CHAR = 0.25
"""Tokens per character where nothing has shown it: OpenAI documents about four characters of English for a token. A
route's own curve is learned in the same tokens, so that a wrong ratio stretches the unit and not the split."""
_PER_CHUNK = 1.0
"""Engines send a chunk for each token, as long as nothing holds the stream back."""
_MOST = 10**8
"""No prompt and no answer is longer: a provider may claim any count."""
_COUNTED = 16
"""Of so many calls without usage, one prompt is counted: the ratio moves slowly."""
_NEW = 0.1
"""Weight of the latest call in a route's ratios: they follow within some ten calls; one odd call moves them little."""


class Tokens(NamedTuple):
    """A call's tokens, as far as they are known or can be reckoned."""

    uncached: int
    cached: int = 0
    output: int = 0


class Ratios:
    """Tokens per character of prompt and per chunk of answer, from the calls whose usage was told."""

    __slots__ = ("_asked", "per_char", "per_chunk", "text")

    def __init__(self) -> None:
        self.per_char: float | None = None
        self.per_chunk: float | None = None
        self.text: tuple[Sequence[str], str | None] | None = None
        """A prompt that waits to be counted, and its model: one at a time, until the next fit."""
        self._asked = 0

    def learn(self, characters: int, chunks: int, usage: Usage) -> None:
        """Take in a call whose usage was told."""
        if usage.input_tokens and characters:
            self.per_char = _moved(self.per_char, usage.input_tokens / characters)
        if usage.output_tokens and chunks:
            self.per_chunk = _moved(self.per_chunk, usage.output_tokens / chunks)

    def wants_text(self) -> bool:
        """Whether the prompt of a call without usage is to be counted: each so many-th is."""
        self._asked += 1
        return self.text is None and self._asked % _COUNTED == 1

    def counted(self, characters: int, tokens: int) -> None:
        """A tokenizer counted a prompt: its ratio weighs as much as those of some calls that told."""
        if tokens > 0 and characters > 0:
            ratio = tokens / characters
            self.per_char = ratio if self.per_char is None else (self.per_char + ratio) / 2


def loaded_tokenizer(model: str | None) -> Callable[[str], int] | None:
    """tiktoken, where the application has loaded an encoding of it; None elsewhere. Nothing is imported for it, and
    nothing fetched."""
    registry, models = sys.modules.get("tiktoken.registry"), sys.modules.get("tiktoken.model")
    encodings = getattr(registry, "ENCODINGS", None)
    if not encodings:
        return None
    try:
        name = getattr(models, "encoding_name_for_model")(model)  # noqa: B009
    except Exception:  # not one of OpenAI's models
        name = None
    encoding = encodings.get(name) or next(iter(encodings.values()))
    return lambda text: len(encoding.encode_ordinary(text))


def _moved(known: float | None, latest: float) -> float:
    return latest if known is None else known + _NEW * (latest - known)


def reckon(
    usage: Usage,
    prompt: Prompt | None,
    chunks: int,
    route: Ratios,
    elsewhere: Ratios,
    survival: Survival,
    provider: str,
) -> Tokens | None:
    """The tokens of a call: those that ``usage`` tells, else by the ratios of its ``route``, else of the provider's
    other routes (``elsewhere``). Cached tokens that nobody tells come from this client's own history of prompts.

    Returns None where there is neither usage nor a prompt that could be read.
    """
    total, cached, output = usage.input_tokens, usage.cached_tokens, usage.output_tokens
    if (
        total is not None and cached is not None and output is not None
        and 0 <= cached <= total <= _MOST and 0 <= output <= _MOST
    ):  # fmt: skip
        return Tokens(total - cached, cached, output)  # as nearly always
    if total is not None:
        total = max(0, min(total, _MOST))
    else:
        if prompt is None or not prompt.text_size:
            return None
        total = max(1, round(prompt.text_size * (route.per_char or elsewhere.per_char or PER_CHAR)))
    if cached is None:
        cached = 0 if prompt is None else expected(prompt, survival, provider, total).tokens
    if output is None:
        output = round(chunks * (route.per_chunk or elsewhere.per_chunk or _PER_CHUNK))
    cached = max(0, min(cached, total))
    return Tokens(total - cached, cached, max(0, min(output, _MOST)))
