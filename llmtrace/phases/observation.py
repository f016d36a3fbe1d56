"""One call as it was seen: what the timeline, the estimate and the diagnosis look at."""

from __future__ import annotations

from dataclasses import dataclass

from llmtrace.observe.answer import ServerTimings, Usage
from llmtrace.observe.transport import Attempt

BUFFERED_CHUNKS = 8
BUFFERED_SHARE = 0.02
BUFFERED_MIN_S = 0.05
"""So many chunks within this share of the time to the first one, itself at least so long: a buffered stream."""
BURST_SHARE = 0.1
BURST_PER_CHUNK_S = 0.0006
"""Or within this share, with chunks so close together that only the client's parsing lay between them."""


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
        if self.first_token is None or self.last_chunk is None or self.chunks < BUFFERED_CHUNKS:
            return False
        silence = (self.first_token - self.start) / 1e9
        burst = (self.last_chunk - self.first_token) / 1e9
        late = self.first_token_error is not None or self.consumer_wait > BUFFERED_SHARE * silence
        at_once = burst < BUFFERED_SHARE * silence or (
            burst < BURST_SHARE * silence and burst < BURST_PER_CHUNK_S * self.chunks
        )
        return silence >= BUFFERED_MIN_S and at_once and not late
