"""Transport facts of one HTTP attempt: connect, TLS, request out, headers in, TCP round trip.

Fed by httpcore's ``trace`` extension (httpx) and httpcore2's (httpx2), which name their events alike.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from llmtrace.observe.address import Address, address_of
from llmtrace.observe.clock import now

_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
_TCP_INFO_SIZE = 160
# struct tcp_info of linux/tcp.h: eight bytes of flags, then u32 fields; these are byte offsets of four of them.
LAST_DATA_RECV, _RTT, _MIN_RTT, _DATA_SEGMENTS = 52, 68, 148, 152
_U32 = struct.Struct("=I")

_MOMENTS = {
    f"{module}.{step}": moment
    for module in ("connection", "http11", "http2", "http_proxy", "proxy", "socks")
    for step, moment in (
        ("connect_tcp.started", "connect_start"),
        ("connect_tcp.complete", "connect_end"),
        ("connect_unix_socket.started", "connect_start"),
        ("connect_unix_socket.complete", "connect_end"),
        ("start_tls.started", "tls_start"),
        ("start_tls.complete", "tls_end"),
        # Once per redirect hop: the last one is the hop that answered.
        ("send_request_headers.started", "sending"),
        ("send_request_body.complete", "sent"),
        ("receive_response_headers.complete", "headers_at"),
        ("receive_response_body.failed", "broken_at"),
        ("response_closed.complete", "closed_at"),
    )
}
"""httpcore's event names (module of the connection, step) and the attribute of ``Attempt`` that each one sets."""
_CLOSING = "http11.response_closed.started"
"""The last moment at which the kernel surely knows the connection: OpenAI's client stops reading at ``[DONE]``, which
closes it."""


class Attempt:
    """The transport facts of one HTTP request. Times are in monotonic ns; None where the transport told nothing."""

    # Defaults stand on the class, as the call's do.
    end: int | None = None
    connect_start: int | None = None
    connect_end: int | None = None
    tls_start: int | None = None
    tls_end: int | None = None
    sending: int | None = None
    """When the first byte of the request was handed over."""
    sent: int | None = None
    """When the last byte of the request was handed over."""
    headers_at: int | None = None
    broken_at: int | None = None
    """When reading the body failed, be it by a cancellation."""
    closed_at: int | None = None
    """When the transport was done with the response; if that was not read to its end, with the connection."""
    status: int | None = None
    error: BaseException | None = None
    headers: Mapping[str, str] | None = None
    rtt: float | None = None
    """TCP round trip in seconds: the kernel's minimum, else its smoothed value, else the connect time."""
    rtt_now: float | None = None
    """The kernel's smoothed round trip, s: it follows the network, and the peer's delayed acknowledgements."""
    unread: float | None = None
    """How long data had lain in the kernel when the headers were read, s (1 to 4 ms grain)."""
    socket: Any = None
    request: Any = None
    response: Any = None
    _chained: Callable[[str, Any], Any] | None = None
    _segments: int | None = None
    """TCP segments with data that the connection had received when the headers were read."""
    _received: int | None = None
    """And when the response was closed."""

    def __init__(
        self, start: int, pick: Callable[[Mapping[str, str]], Mapping[str, str]] = lambda headers: headers
    ) -> None:
        self.start = start
        self.pick = pick
        """Takes the few response headers that are allowed to be kept."""

    @property
    def new_connection(self) -> bool:
        """Whether this attempt opened its connection (False: reused, or the transport did not say)."""
        return self.connect_start is not None

    @property
    def address(self) -> Address:
        """Host and port that the request went to."""
        return address_of(getattr(self.request, "url", None))

    def chain(self, callback: Callable[[str, Any], Any] | None) -> None:
        """Call ``callback`` for each event too: the application may have a trace extension of its own."""
        self._chained = callback

    def event(self, name: str, info: Any) -> None:
        """httpcore's ``trace`` callback, synchronous."""
        if name in _MOMENTS:
            setattr(self, _MOMENTS[name], now())
        elif name == _CLOSING:
            self._received = self._received_now()
        if self._chained is not None:
            self._chained(name, info)

    async def aevent(self, name: str, info: Any) -> None:
        """httpcore's ``trace`` callback, asynchronous."""
        if name in _MOMENTS:
            setattr(self, _MOMENTS[name], now())
        elif name == _CLOSING:
            self._received = self._received_now()
        if self._chained is not None:
            result: Awaitable[Any] | None = self._chained(name, info)
            if result is not None:
                await result

    def take_response(self) -> Any:
        """Return the response object and stop holding it."""
        response, self.response = self.response, None
        return response

    def answered(self, response: Any, at: int) -> None:
        """Read a response object (httpx's or httpx2's): status, headers, the socket's round trip.

        ``at``: monotonic ns.
        """
        self.response = response
        self.status = response.status_code
        self.headers = self.pick(response.headers)
        if self.headers_at is None:
            self.headers_at = at
        stream = response.extensions.get("network_stream")
        if stream is not None and _TCP_INFO is not None:
            self.socket = stream.get_extra_info("socket")
        self.measure_rtt()

    def release(self) -> None:
        """Drop the client's objects: the request's trace extension holds this attempt as long as the request lives."""
        self.request = self.response = self.socket = self.error = self.headers = None

    def measure_rtt(self) -> None:
        """Set ``rtt`` in seconds from the socket, else from the connect time, which is one round trip."""
        info = self.tcp_info()
        if info is not None:
            smoothed = _U32.unpack_from(info, _RTT)[0]
            self.rtt_now = smoothed / 1e6
            self.unread = _U32.unpack_from(info, LAST_DATA_RECV)[0] / 1e3
            # The smoothed value may hold the peer's delayed acknowledgement (up to 40 ms); the minimum does not.
            smallest = 0
            if len(info) >= _TCP_INFO_SIZE:
                smallest = _U32.unpack_from(info, _MIN_RTT)[0]
                self._segments = _U32.unpack_from(info, _DATA_SEGMENTS)[0]
            rtt = min(smoothed, smallest) if smallest else smoothed
            if 0 < rtt < 60_000_000:
                self.rtt = rtt / 1e6
        elif self.connect_start is not None and self.connect_end is not None:
            self.rtt = (self.connect_end - self.connect_start) / 1e9

    def since_last_data(self) -> float | None:
        """Seconds since the kernel last took in data on this connection (1 to 4 ms grain), None where unknown."""
        info = self.tcp_info()
        return None if info is None else _U32.unpack_from(info, LAST_DATA_RECV)[0] / 1e3

    def segments(self) -> int | None:
        """TCP segments with data that the connection has received since the headers were read; None where unknown."""
        received = self._received if self._received is not None else self._received_now()
        if received is None or self._segments is None:
            return None
        return (received - self._segments) & 0xFFFFFFFF

    def _received_now(self) -> int | None:
        info = None if self._segments is None else self.tcp_info()
        return None if info is None else _U32.unpack_from(info, _DATA_SEGMENTS)[0]

    def tcp_info(self) -> bytes | None:
        """The raw ``struct tcp_info`` of this attempt's socket; None off Linux or once it is closed."""
        if self.socket is None or _TCP_INFO is None:
            return None
        try:
            return self.socket.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _TCP_INFO_SIZE)
        except (OSError, AttributeError, ValueError):
            return None
