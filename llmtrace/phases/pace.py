"""From the times between chunks to times between tokens, and what the rhythm of the chunks gives away.

A chunk is not a token: it may hold several, or none. How many each one held is known where the stream lists its tokens
(log probabilities), where the application gave a tokenizer, and in the mean from usage, which a chunk's characters
spread over the chunks. What none of these supports is left open.

Two rhythms have several tokens at once. An engine that decodes speculatively has them at a steady pace, now more of
them, now fewer: the time does not depend on their number. What a network (or a proxy, or a busy event loop) held back
comes after a pause in proportion to it, and makes up for it. After a pause of the model nothing lies ready.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, pstdev

from llmtrace.observe.chunk_timing import READY_NS, ChunkTiming

CHUNKS = "chunks"
USAGE = "usage"
LOGPROBS = "logprobs"
TOKENIZER = "tokenizer"

SPECULATIVE = "speculative"
COALESCED = "coalesced"

_ALIKE = 0.02
"""Tokens and chunks whose numbers differ by no more than this share: one token a chunk."""
_STEADY = 0.35
"""Distance of the quartiles over the median, up to which times count as steady."""
_SEVERAL = 1.25
"""Mean tokens at once, from which they count as several."""
_VARIED = 0.25
"""Standard deviation over the mean, from which exact numbers of tokens count as varied."""
_CHARACTERS = 0.75
"""The same for characters, times the root of the tokens: those of one token alone scatter by about 0.6."""
_LEAST = 8
"""Arrivals that a rhythm is told from."""
_READY_SHARE = 8
_READY_MOST_NS = 1_000_000
_SLOWEST = 5
"""The mean gap must be so many times what reading a ready chunk takes, or the two cannot be told apart."""


@dataclass(slots=True, eq=False, repr=False)
class Piece:
    """One of the stream's last chunks."""

    gap: int | None
    """Time since the chunk before it, ns; None: the application made it, or it is the first one seen."""
    weight: float
    """The number of its tokens or, where nobody counts them, of its characters; 0 for a chunk without any."""


@dataclass(slots=True)
class Pace:
    """What the chunks of one stream say of its tokens. Times in s; None where that cannot be said."""

    per_chunk: float | None = None
    """The mean number of tokens in a chunk that has any."""
    p50: float | None = None
    p99: float | None = None
    longest: float | None = None
    basis: str | None = None
    """How the tokens of a chunk are known: chunks (one each, by usage), usage, logprobs, tokenizer."""
    pattern: str | None = None
    """speculative, coalesced, or neither."""
    made_up: int = 0
    """Stalls after which the chunks that were due lay ready."""


def pace(pulls: ChunkTiming, last: Sequence[Piece], chunks: int, tokens: int | None, counted: str | None) -> Pace:
    """The pace of a stream's tokens.

    ``last``: its last chunks, oldest first, none before the first token; ``chunks``: how many there were from the first
    token on; ``tokens``: those that the stream showed, by usage; ``counted``: what the weights were counted by
    (logprobs, tokenizer), None where they are characters.
    """
    stream_pace = Pace()
    with_tokens = [piece for piece in last if piece.weight > 0]
    bringing = chunks - (len(last) - len(with_tokens))
    stream_pace.per_chunk, stream_pace.basis = _per_chunk(with_tokens, bringing, tokens, counted)
    each = stream_pace.per_chunk
    if each is not None and pulls.gaps:
        _between_tokens(stream_pace, pulls, with_tokens, each, counted, whole=len(last) >= chunks)
    if stream_pace.p50 is None:
        stream_pace.basis = None
    groups = _groups(pulls)
    stream_pace.pattern = _rhythm(groups, pulls, with_tokens, each, counted)
    if stream_pace.pattern == COALESCED:
        bar = pulls.stall_bar()
        stream_pace.made_up = sum(gap > bar and size > 1 for gap, size in groups)
    return stream_pace


def is_one_each(tokens: int, bringing: int) -> bool:
    """Whether ``bringing`` chunks had one of these tokens each. The one that ends an answer comes in no chunk."""
    return abs(tokens - bringing) <= max(1.0, _ALIKE * bringing) and bringing > 1


def _per_chunk(
    with_tokens: Sequence[Piece], bringing: int, tokens: int | None, counted: str | None
) -> tuple[float | None, str | None]:
    """The mean number of tokens in a chunk that has any, and how that is known."""
    if counted == LOGPROBS and with_tokens:
        each = fmean(piece.weight for piece in with_tokens)
        if tokens and bringing > len(with_tokens):
            each = tokens / bringing  # all chunks rather than the last
        return (1.0 if all(piece.weight == 1 for piece in with_tokens) and abs(each - 1) <= _ALIKE else each), LOGPROBS
    if tokens and bringing > 0:
        if is_one_each(tokens, bringing):
            return 1.0, CHUNKS
        return tokens / bringing, USAGE if counted is None else counted
    if counted is not None and with_tokens:
        return fmean(piece.weight for piece in with_tokens), counted
    return None, None


def _between_tokens(
    stream_pace: Pace,
    pulls: ChunkTiming,
    with_tokens: Sequence[Piece],
    each: float,
    counted: str | None,
    *,
    whole: bool,
) -> None:
    """Fill in the times between tokens: those of a chunk share the time since the chunk before."""
    if each == 1.0 and not whole:
        quantiles = pulls.quantiles(0.5, 0.99)
        assert quantiles is not None
        (stream_pace.p50, stream_pace.p99), stream_pace.longest = quantiles, pulls.gap_max / 1e9
        return
    if each < 1 - _ALIKE:
        return  # pieces of tokens, or chunks without any: which, nobody says
    # Counts are exact where they are: only characters, and a tokenizer that is not the model's, are scaled to usage.
    scale = each / fmean(piece.weight for piece in with_tokens) if with_tokens and (whole or counted is None) else 1.0
    held = [(piece.gap, 1.0 if each == 1 else max(1.0, piece.weight * scale)) for piece in with_tokens]
    pairs = sorted((gap / 1e9 / tokens, tokens) for gap, tokens in held if gap is not None)
    if whole and pairs:
        stream_pace.p50, stream_pace.p99, stream_pace.longest = (
            _weighted(pairs, 0.5),
            _weighted(pairs, 0.99),
            pairs[-1][0],
        )
    elif _is_steady(pulls.ordered()):
        quantiles = pulls.quantiles(0.5, 0.99)
        assert quantiles is not None
        stream_pace.p50, stream_pace.p99, stream_pace.longest = (
            quantiles[0] / each,
            quantiles[1] / each,
            pulls.gap_max / 1e9 / each,
        )
    elif len(pairs) >= _LEAST:
        stream_pace.p50 = _weighted(pairs, 0.5)  # the tail is not seen in so few


def _weighted(pairs: Sequence[tuple[float, float]], rank: float) -> float:
    """A quantile of (value, weight) pairs in order."""
    left = rank * sum(weight for _, weight in pairs)
    for value, weight in pairs:
        left -= weight
        if left <= 0:
            return value
    return pairs[-1][0]


def _groups(pulls: ChunkTiming) -> list[tuple[int, int]]:
    """Chunks that came together, as (ns since those before, how many).

    None where no two of them came together, and none of a thinned sample of gaps, in which neighbours are missing.
    """
    if not pulls.every_gap or not pulls.gap_count:
        return []
    usual = pulls.gap_sum / pulls.gap_count
    if usual < _SLOWEST * READY_NS:
        return []
    ready = max(READY_NS, min(usual / _READY_SHARE, _READY_MOST_NS))
    if pulls.ordered()[0] >= ready:
        return []
    groups: list[tuple[int, int]] = []
    for gap in pulls.gaps:
        if gap >= ready:
            groups.append((gap, 1))
        elif groups:
            length, size = groups[-1]
            groups[-1] = (length + gap, size + 1)
    return groups


def _rhythm(
    groups: Sequence[tuple[int, int]],
    pulls: ChunkTiming,
    with_tokens: Sequence[Piece],
    each: float | None,
    counted: str | None,
) -> str | None:
    """Whether tokens came several at once, and why."""
    several = sorted(gap for gap, size in groups if size > 1)
    if len(groups) >= _LEAST and len(several) >= 2:
        return _together(groups)
    if several or each is None or each < _SEVERAL or len(with_tokens) < _LEAST or not _is_steady(pulls.ordered()):
        return None
    weights = [piece.weight for piece in with_tokens]
    varied = _VARIED if counted is not None else _CHARACTERS / each**0.5
    return SPECULATIVE if pstdev(weights) > varied * fmean(weights) else None


def _together(groups: Sequence[tuple[int, int]]) -> str | None:
    """Why chunks came several at once, by whether the time before them grows with their number."""
    sizes = sorted(size for _, size in groups)
    edge = max(1, sizes[(len(sizes) - 1) // 2])
    few = [(gap, size) for gap, size in groups if size <= edge]
    many = [(gap, size) for gap, size in groups if size > edge]
    if len(few) < 2 or len(many) < 2:
        return None  # always as many: a step of the engine and a hold of the network look alike
    longer = median(gap for gap, _ in many) / median(gap for gap, _ in few)
    more = fmean(size for _, size in many) / fmean(size for _, size in few)
    if longer >= 1 + 0.5 * (more - 1):
        return COALESCED
    steady = _is_steady(sorted(gap for gap, _ in groups))
    return SPECULATIVE if steady and fmean(sizes) >= _SEVERAL and longer <= 1 + 0.2 * (more - 1) else None


def _is_steady(ordered: Sequence[int]) -> bool:
    """Whether times differ little; ``ordered``: the shortest first."""
    top = len(ordered) - 1
    if top < _LEAST - 1:
        return False
    low, middle, high = (ordered[round(rank * top)] for rank in (0.25, 0.5, 0.75))
    return high - low <= _STEADY * middle
