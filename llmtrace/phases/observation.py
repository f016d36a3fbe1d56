"""One call as it was seen: what the timeline, the estimate and the diagnosis look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmtrace.observe.answer import ServerTimings, Usage
from llmtrace.observe.transport import Attempt

BUFFERED_CHUNKS = 8
BUFFERED_MIN_S = 0.05
"""A stream of fewer chunks, or after a shorter silence, is not called buffered."""
LATE_SHARE = 0.02
"""An application that held the stream for this share of the silence before it was late itself."""
BURST_SHARE = 0.1
"""What was held back comes within this share of the silence before it."""
READY_GAP_S = 0.0006
"""And lies ready: all that passes from one chunk to the next is the client's own parsing. With the openai client on two
busy cores its median was 0.14 to 0.32 ms; engines take 1 ms and more for a step. The length of the silence says nothing
of that: a short answer after a long queue is decoded as slowly as any other."""
READY_MEAN_S = 0.003
"""The mean, which a moment without the processor raises (to 2.1 ms there). Beyond it, ready chunks came in groups with
pauses between them: a stream in coarse pieces, not one in a single piece."""


@dataclass(slots=True, eq=False, repr=False)
class Observation:
    """One call (or its answering attempt) as it was seen. Times are monotonic ns, None where not seen."""

    start: int
    end: int
    streaming: bool
    attempted: bool = False
    """The transport reported at least the attempt's begin."""
    sent: int | None = None
    """The request's last byte was handed to the kernel."""
    headers: int | None = None
    rtt: float | None = None
    """TCP round trip, s."""
    first_token: int | None = None
    first_token_error: float | None = None
    """Half width of the interval in which the first token came, s; None: it was seen as it came."""
    first_reasoning: int | None = None
    first_output: int | None = None
    last_chunk: int | None = None
    chunks: int = 0
    gaps: Sequence[int] = ()
    """Between its chunks from the first token on, ns; those only that the application did not make."""
    waited: bool = True
    """The application was reading, or waiting to read, until the end."""
    consumer_wait: float = 0.0
    usage: Usage | None = None
    server: ServerTimings | None = None
    gateway: float | None = None
    """What a gateway between client and provider says that it spent itself, s."""
    computed: bool = True
    """An engine computed the answer. False where it came from a gateway's cache."""
    connect_start: int | None = None
    connect_end: int | None = None
    tls_start: int | None = None
    tls_end: int | None = None
    sending: int | None = None
    """The request's first byte was handed to the kernel."""

    def take_transport(self, attempt: Attempt) -> None:
        """Take what the transport saw of the answering ``attempt``."""
        self.attempted = True
        self.connect_start, self.connect_end = attempt.connect_start, attempt.connect_end
        self.tls_start, self.tls_end = attempt.tls_start, attempt.tls_end
        self.sending, self.sent = attempt.sending, attempt.sent
        self.headers, self.rtt = attempt.headers_at, attempt.rtt

    @property
    def uncached_tokens(self) -> int | None:
        """Prompt tokens that had to be computed; None where the provider did not say."""
        if self.usage is None or self.usage.input_tokens is None:
            return None
        return max(0, self.usage.input_tokens - (self.usage.cached_tokens or 0))

    @property
    def shown_tokens(self) -> int | None:
        """Output tokens, of a stream those that it brought: reasoning that it does not show, and a summary of the
        history, were made before its first token. None where the provider did not say."""
        usage = self.usage
        if usage is None or usage.output_tokens is None or not self.streaming:
            return None if usage is None else usage.output_tokens
        hidden = (usage.reasoning_tokens or 0) if self.first_reasoning is None else 0
        return max(0, usage.output_tokens - hidden - (usage.summary_tokens or 0))

    @property
    def request_arrived(self) -> int | None:
        """When the request reached the server: bytes out plus half a round trip. None where not known."""
        if self.sent is None or self.rtt is None:
            return None
        arrived = self.sent + int(self.rtt * 5e8)
        latest = self.headers if self.headers is not None else self.end
        return max(self.start, min(arrived, latest, self.end))

    @property
    def never_asked(self) -> bool:
        """A request was begun and never got as far as being sent."""
        return self.attempted and self.sent is None and self.headers is None

    @property
    def buffered(self) -> bool:
        """Long silence, then everything at once, read by an application that was not late itself."""
        first, last = self.first_token, self.last_chunk
        if first is None or last is None or self.chunks < BUFFERED_CHUNKS:
            return False
        silence, burst = (first - self.start) / 1e9, (last - first) / 1e9
        if burst >= BURST_SHARE * silence:
            return False  # most streams are told by this alone
        late = self.first_token_error is not None or self.consumer_wait > LATE_SHARE * silence
        return not late and came_at_once(silence, burst, self.chunks, self.gaps)


def came_at_once(silence: float, burst: float, chunks: int, gaps: Sequence[int]) -> bool:
    """Whether ``chunks`` that came within ``burst`` s after ``silence`` s lay ready together; ``gaps`` in ns."""
    mean = burst / max(1, chunks - 1)
    if chunks < BUFFERED_CHUNKS or silence < BUFFERED_MIN_S or burst >= BURST_SHARE * silence or mean >= READY_MEAN_S:
        return False
    return (sorted(gaps)[len(gaps) // 2] / 1e9 if gaps else mean) < READY_GAP_S
