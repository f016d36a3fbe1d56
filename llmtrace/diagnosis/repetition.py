"""Whether a stream's end repeats itself, told from its last pieces of text, of which nothing is kept."""

from __future__ import annotations

from collections.abc import Sequence

from llmtrace.fixed import fixed

LEAST_CHARACTERS = 60
LEAST_ROUNDS = 3
_PROBE = 12


@fixed(eq=True)
class Repetition:
    """The stream ended in the same text over and over."""

    period: int
    """Characters in one round."""
    rounds: float
    """How often it came, within what was looked at."""


def repetition(pieces: Sequence[str]) -> Repetition | None:
    """The repetition at the end of ``pieces`` joined, None where there is none.

    The text's last characters are looked for before its end: the nearest place gives the period, and the text has to
    go on alike for ``LEAST_ROUNDS`` rounds and ``LEAST_CHARACTERS`` characters.
    """
    text = "".join(pieces)
    size = len(text)
    if size < LEAST_CHARACTERS:
        return None
    at = text.rfind(text[-_PROBE:], 0, size - 1)
    if at < 0:
        return None
    period = size - _PROBE - at
    need = max(LEAST_ROUNDS * period, LEAST_CHARACTERS)
    if need > size or text[-need:-period] != text[period - need :]:
        return None
    length = need
    while length < size and text[-length - 1] == text[-length - 1 + period]:
        length += 1
    return Repetition(period, length / period)
