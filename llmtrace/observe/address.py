"""The host and port that a URL leads to, and whether that host is private. Everything else takes them from here."""

from __future__ import annotations

import ipaddress
import re
from base64 import b64encode
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urlsplit

Address = tuple[str | None, int | None]
"""Host (IPv6 without brackets) and port; None where they are not known."""
_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_LOCAL_ENDINGS = (".local", ".internal", ".localhost", ".lan")


def address_of(url: Any) -> Address:
    """Host and port of a URL: text, or an object with ``scheme``, ``host`` (or ``hostname``) and ``port``.

    Never raises: both are None for anything that is no URL. Where the URL names no port, it is the scheme's.
    """
    try:
        parts = urlsplit(url) if isinstance(url, str) else url
        host = _host(parts)
        if host is None:
            return None, None
        port = getattr(parts, "port", None)
        if not isinstance(port, int):
            port = _PORTS.get(str(getattr(parts, "scheme", "")).lower(), 443)
        return host, port
    except ValueError:  # a port that is no number, a bracket that does not close
        return None, None


def host_of(url: Any) -> str | None:
    """The host of ``address_of(url)`` alone, where the port is of no interest."""
    return address_of(url)[0] if isinstance(url, str) else _host(url)


def without_credentials(url: str) -> str:
    """``url`` as it may be shown: without the user and password in it."""
    return apart(url)[0]


def apart(url: str) -> tuple[str, str]:
    """``url`` without the user and password in it, and the value of ``Authorization`` that they make (empty: none).

    A password may hold ``/``, ``?`` or ``#`` as they are: by the letter it would end there, what follows would be a
    path, and be shown.
    """
    begin = re.match("([^:/?#]+:)?//", url)
    if begin is None:
        return url, ""
    rest = url[begin.end() :]
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    cut_short = "@" in rest and "@" not in authority and not re.fullmatch(r"(\[.*\]|[^:]*)(:\d*)?", authority)
    user, _, host = (rest if cut_short else authority).rpartition("@")
    basic = f"Basic {b64encode(unquote(user).encode()).decode()}" if user else ""
    return f"{begin[0]}{host}{'' if cut_short else rest[len(authority) :]}", basic


def _host(parts: Any) -> str | None:
    host = getattr(parts, "host", None) or getattr(parts, "hostname", None)
    return host.strip("[]") or None if isinstance(host, str) else None


@lru_cache(256)
def is_private(host: str | None) -> bool:
    """Whether ``host`` is on this machine or a private network, by its address or by a name without a public domain.

    A host that is not known counts as public.
    """
    if not host:
        return False
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        name = host.rstrip(".").lower()
        if not name or ":" in name or name[0].isdigit():  # "134744072" and "0x8080808" are addresses to a resolver
            return False
        return "." not in name or name.endswith(_LOCAL_ENDINGS)
    mapped = getattr(address, "ipv4_mapped", None)
    address = address if mapped is None else mapped
    return address.is_private or address.is_loopback or address.is_link_local
