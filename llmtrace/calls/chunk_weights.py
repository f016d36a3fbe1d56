"""How many tokens each of a stream's last chunks brought, and what that says of the pace of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llmtrace.calls.result import Result
from llmtrace.observe import internal_errors
from llmtrace.observe.call import NOTHING
from llmtrace.observe.chunk_timing import LAST
from llmtrace.phases import pace as paces
from llmtrace.phases.pace import Pace, Piece
from llmtrace.providers.declare import Operation


def pace_of(result: Result, tokenizer: Callable[[str], int] | None) -> Pace | None:
    """The pace of the tokens; None where there is no stream of chunks to tell it from.

    Of several choices at once, and of bytes that the application reads itself, chunks say nothing of one answer's pace.
    """
    call, state = result.call, result.state
    chunks = call.chunk_timing.total - call.first_token_index
    if call.first_token is None or call.running is None or state.request.choices != 1 or chunks < 2:
        return None
    shown = _shown(result)
    try:
        recent = list(call.recent)[-min(LAST, chunks) :]
        weights, counted = _one_each(state.operation, recent, chunks, shown), None
        if weights is None:
            chunk_text = state.operation.chunk_text
            texts = [chunk_text(chunk) for chunk in recent] if chunk_text else []
            weights, counted = _weights(texts, tokenizer)
    except Exception as error:
        internal_errors.note("weighing chunks", error)
        return None
    gaps = call.chunk_timing.last(len(weights))
    last = [Piece(gap, weight) for gap, weight in zip(gaps, weights, strict=True)]
    if last and len(last) == chunks:
        last[0].gap = None  # before the first token
    return paces.pace(call.chunk_timing, last, chunks, shown, counted)


def _shown(result: Result) -> int | None:
    """Output tokens that the stream showed, by usage. Of shown reasoning it may have been a summary only."""
    usage = result.answer.usage
    if usage.output_tokens is None or (usage.reasoning_tokens and result.call.first_reasoning is not None):
        return None
    return result.seen.shown_tokens


def _one_each(operation: Operation, recent: Sequence[Any], chunks: int, shown: int | None) -> list[float] | None:
    """1 for each chunk that brings something, where usage says that it is one token each; else None.

    No text is read then but one chunk's, which would list its tokens if the others do.
    """
    if shown is None or operation.chunk_text is None:
        return None
    classify = operation.classify_chunk
    last = next((at for at in reversed(range(len(recent))) if classify(recent[at]) != NOTHING), None)
    if last is None:
        return None
    empty = len(recent) - 1 - last
    if shown >= chunks - empty:  # no room for another without any
        weights = [1.0] * (last + 1) + [0.0] * empty
    else:
        weights = [0.0 if at > last or classify(chunk) == NOTHING else 1.0 for at, chunk in enumerate(recent)]
    if not paces.is_one_each(shown, chunks - weights.count(0.0)):
        return None
    return weights if operation.chunk_text(recent[last])[1] is None else None


def _weights(
    read: Sequence[tuple[str, int | None]], tokenizer: Callable[[str], int] | None
) -> tuple[list[float], str | None]:
    """Each chunk's tokens, and who counted them; its characters where nobody did."""
    texts = [text for text, _ in read]
    if any(listed for _, listed in read) and all(listed is not None for text, listed in read if text):
        return [float(listed or 0) for _, listed in read], paces.LOGPROBS
    if tokenizer is None or not any(texts):
        return [float(len(text)) for text in texts], None
    # A text cut in pieces has more tokens than the whole: the pieces' counts are scaled to that.
    alone = [float(tokenizer(text)) if text else 0.0 for text in texts]
    scale = tokenizer("".join(texts)) / (sum(alone) or 1.0)
    return [count * scale for count in alone], paces.TOKENIZER
