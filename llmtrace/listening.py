"""Binds a port, with a clear error where that is impossible."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from llmtrace.errors import LlmtraceError


def bind(host: str, port: int, error: type[LlmtraceError] = LlmtraceError, backlog: int | None = None) -> socket.socket:
    """A socket bound to ``host`` and ``port`` (0: a free one); it listens where a ``backlog`` is given.

    Raises ``error`` where ``host`` is no address of this machine, or the port is not free.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as cause:
        raise error(f"cannot listen on {host!r}: it is no address of this machine") from cause
    listener = socket.socket(family, kind)
    try:
        if os.name != "nt":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        if backlog is not None:
            listener.listen(backlog)
    except OSError as cause:
        listener.close()
        reason = cause.strerror or str(cause)
        raise error(f"cannot listen on {host}:{port} ({reason}): choose another --port, or 0 for a free one") from cause
    return listener


def url(host: str, listener: socket.socket) -> str:
    """The URL at which a client on this machine reaches ``listener``."""
    name = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    return f"http://{f'[{name}]' if ':' in name else name}:{listener.getsockname()[1]}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_own(header: str, *, loopback: bool, names: Collection[str]) -> bool:
    """Whether a Host header names this server: an address, localhost, or one of ``names`` (lower case).

    ``loopback``: whether only this machine can reach it, so that only loopback addresses are its own. Other names are
    somebody else's, who can have made them point here (DNS rebinding).
    """
    try:
        parts = urlsplit(f"//{header}")
        name = (parts.hostname or "").rstrip(".")
    except ValueError:
        return False
    if "@" in header or parts.netloc != header:  # it has a name and a port, and nothing else of an address
        return False
    if name == "localhost" or name in names or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not loopback
