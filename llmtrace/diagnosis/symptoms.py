"""What the diagnosis looks at: one call as numbers, most of them off its observation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmtrace.diagnosis.repetition import Repetition
from llmtrace.phases.model import Estimate
from llmtrace.phases.observation import BURST_SHARE, READY_GAP_S, Observation, came_at_once
from llmtrace.phases.server import load_of

TAIL = 32
"""Gaps at a stream's end by which its evenness is judged: all of them, since thinned ones may skip the bursts."""
BURSTS = 0.35
"""A median gap of less than this share of the mean: most chunks came together with others."""
_READY_NS = READY_GAP_S * 1e9
_FEW_GAPS = 16
_ALL_KEPT = 1024
"""Of longer streams only a part of the gaps is kept."""
READY_HELD = 0.15
"""The most of its reading that an application may hold a stream for its ready chunks to be a burst's."""


@dataclass(slots=True, eq=False, repr=False)
class Symptoms:
    """One call. Durations in seconds; None where nothing is known."""

    begin: int
    """Monotonic ns."""
    end: int
    wait: float | None = None
    """The request's arrival (or the attempt's start) until the first token."""
    headers: float | None = None
    """The request's last byte out until the response's headers."""
    setup: float | None = None
    """TCP connect and TLS, where the connection is new."""
    rtt: float | None = None
    """TCP round trip as it is now (smoothed)."""
    server_queue: float | None = None
    server_prefill: float | None = None
    grammar_compile: float = 0.0
    """Compiling the answer's grammar, as the server tells it; it lies in no other time here."""
    model_load: float = 0.0
    """Loading the model, as the server tells it; it lies in no other time here either."""
    whole: bool = False
    """The answer came in one piece: its parts are known by the estimate alone."""
    queue: float | None = None
    """What the estimate says of the wait to be scheduled, where the server tells none."""
    input_tokens: int | None = None
    cached_tokens: int | None = None
    expected_cached: int | None = None
    """What the client's own prefix history says should have come from the cache."""
    cache_miss: str | None = None
    """Why the provider says that its prompt cache missed."""
    cache_missed: int | None = None
    """And for how many tokens."""
    decode: float | None = None
    """First token until last, without the time in which the application held the stream."""
    tokens: int = 0
    """Output tokens, or chunks where no usage is told."""
    consumer_wait: float = 0.0
    reading: float = 0.0
    """From the stream's hand-over or first token to its last chunk: what consumer_wait is a share of."""
    gap: float | None = None
    """Median gap between the last chunks."""
    mean_gap: float | None = None
    burst: float = 0.0
    """The longest of them."""
    ready_at_first: int = 0
    """Chunks that lay ready behind the first token: it came before it was read."""
    buffered: bool = False
    segments: int | None = None
    """TCP segments that came after the headers; looked up only where chunks lay ready together."""
    behind_headers: int = 0
    """Chunks beyond those that lay ready beside the headers."""
    unread: float | None = None
    """How long data had lain in the kernel when the headers were read."""
    silence: float = 0.0
    """Start until first token."""
    attempts: int = 1
    retrying: float = 0.0
    """First attempt's start until the last one's."""
    refusals: str = ""
    """What the earlier attempts came to: ``429 429``."""
    others_open: int = 0
    """The application's own other calls under way when this one ended."""
    alongside: int = 0
    """And those of the route that ended meanwhile; filled in by the judge."""
    crowded: bool | None = None
    """Whether those were more than usual; filled in as its pace is judged, None where it was not."""
    slower: float = 0.0
    """By what share most of its tokens took longer than usual; filled in as its pace is judged."""
    no_core: float | None = None
    """How long its thread was ready to go on and had no core; looked up only where something would be named for the
    call's times."""
    asked: str | None = None
    answered: str | None = None
    fingerprint: str | None = None
    upstream: str | None = None
    """Who answered behind a gateway, as that tells it."""
    repetition: Repetition | None = None

    @property
    def prepared(self) -> float:
        """What the server made ready in front of the first token, and tells apart, s."""
        return self.grammar_compile + self.model_load

    @property
    def ready_together(self) -> bool:
        """Whether most of the stream's chunks lay ready together with others."""
        return self.buffered or (self.gap is not None and self.gap < BURSTS * (self.mean_gap or 0.0))

    @property
    def uncached(self) -> int | None:
        """Prompt tokens that had to be computed."""
        return None if self.input_tokens is None else max(0, self.input_tokens - (self.cached_tokens or 0))


def symptoms_of(seen: Observation, gaps: Sequence[int] = (), estimate: Estimate | None = None) -> Symptoms:
    """The symptoms that an observation tells. ``gaps``: between its chunks, ns, the model's only; ``estimate``: of its
    phases, from what the client alone saw."""
    symptoms = Symptoms(seen.start, seen.end)
    usage, server = seen.usage, seen.server
    if usage is not None:
        symptoms.input_tokens, symptoms.cached_tokens = usage.input_tokens, usage.cached_tokens
        symptoms.tokens = seen.shown_tokens or 0
    if server is not None:
        symptoms.server_queue, symptoms.server_prefill = server.queue, server.prefill
        symptoms.grammar_compile = server.grammar_compile or 0.0
        if symptoms.server_queue is not None:
            symptoms.model_load = load_of(server)
            symptoms.server_queue = max(0.0, symptoms.server_queue - symptoms.prepared)
    if seen.sent is not None and seen.headers is not None:
        symptoms.headers = max(0.0, (seen.headers - seen.sent) / 1e9 - symptoms.prepared)
    if estimate is not None and symptoms.server_queue is None:
        take_queue(symptoms, estimate)
    first = seen.first_token
    if not seen.streaming:
        return _of_whole_answer(symptoms, estimate)
    if first is None:
        return symptoms
    symptoms.silence = silence = (first - seen.start) / 1e9
    held = seen.consumer_wait
    last = seen.last_chunk if seen.last_chunk is not None else first
    symptoms.reading = reading = (last - first) / 1e9
    if held > 0:
        symptoms.consumer_wait = held
    if reading - held < BURST_SHARE * silence:  # else it came too slowly for that
        symptoms.buffered = seen.buffered or (held > 0 and _at_once(seen, symptoms))
        if symptoms.buffered:
            symptoms.headers = None  # what held the stream back may have held them back with it
            return symptoms
    if seen.first_token_error is None:
        begin = seen.request_arrived
        waited = (first - (seen.start if begin is None else begin)) / 1e9
        symptoms.wait = max(0.0, waited - symptoms.prepared)
    symptoms.tokens = symptoms.tokens or seen.chunks
    symptoms.decode = max(0.0, reading - held)
    chunks = seen.chunks - 1
    if chunks < _FEW_GAPS or not gaps:
        return symptoms
    tail = sorted(gaps[-TAIL:])
    if 2 * len(gaps) < chunks <= _ALL_KEPT and held < READY_HELD * reading:
        # Most chunks lay ready for an application that took but a moment with each: no gap of theirs is the model's.
        symptoms.gap, symptoms.mean_gap = 0.0, reading / chunks
    elif len(tail) >= _FEW_GAPS:
        symptoms.gap, symptoms.mean_gap = tail[len(tail) // 2] / 1e9, sum(tail) / len(tail) / 1e9
    symptoms.burst = tail[-1] / 1e9
    if gaps[0] < _READY_NS:
        symptoms.ready_at_first = next((place for place, gap in enumerate(gaps) if gap >= _READY_NS), len(gaps))
        if not symptoms.ready_together:
            came_earlier(symptoms, symptoms.ready_at_first * (symptoms.gap or 0.0))
    return symptoms


def came_earlier(symptoms: Symptoms, seconds: float) -> None:
    """The first token came so much before it was read, by the chunks that lay ready with it: nobody waited for that."""
    if symptoms.wait is not None:
        symptoms.wait = max(0.0, symptoms.wait - seconds)
    if symptoms.queue is not None:
        symptoms.queue = max(0.0, symptoms.queue - seconds)


def take_queue(symptoms: Symptoms, estimate: Estimate) -> None:
    """Take what ``estimate`` says of the wait to be scheduled."""
    symptoms.queue = estimate.queue + estimate.step_wait


def _of_whole_answer(symptoms: Symptoms, estimate: Estimate | None) -> Symptoms:
    """An answer in one piece: its headers come with it and say nothing of the way, and where its time went is known as
    far as the estimate tells its parts apart."""
    symptoms.headers, symptoms.whole = None, True
    if estimate is not None and estimate.decode is not None:
        symptoms.wait = (symptoms.queue or 0.0) + estimate.prefill
        symptoms.decode = symptoms.reading = estimate.decode
    return symptoms


def _at_once(seen: Observation, symptoms: Symptoms) -> bool:
    """Whether the stream came at once to an application that took a moment with each chunk."""
    held = symptoms.consumer_wait
    if seen.first_token_error is not None or held >= BURST_SHARE * symptoms.silence:
        return False
    return came_at_once(symptoms.silence, symptoms.reading - held, seen.chunks, ())
