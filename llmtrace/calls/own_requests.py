"""Which HTTP requests are a call's own, of all that are sent while it is being made.

An application has requests of its own beneath a client: an event hook that posts to an audit log, a transport that asks
a guard, a token provider, an auth flow. None of them is an attempt, gets the trace's identity, or may be taken for the
answer.

What is known of the client decides, the surest first: the very request object that a client of Stainless's make built;
the HTTP client object that the library sends with; the path that all of an API's requests have. And while one request
is under way, another one in the same context is never the call's, but for the very same on its way through a transport
that is another HTTP library's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from llmtrace.observe import internal_errors

NOT_YET: Final = object()
"""In ``Own.built``: the client has built no request yet."""


class Own:
    """What one call's own requests are known by."""

    # Defaults stand on the class: each call makes one of these.
    funnel: int | None = None
    """How many of a library's own functions for posting are under way; None: it is not known to have any."""
    url: Any = None
    """Where the request under way goes, as its library has it; None while there is none."""

    def __init__(self, client: Any = None, senders: Any = None, path: str = "", built: Any = None) -> None:
        """``senders``: gives the HTTP clients that ``client`` sends with; ``path``: what its requests' paths hold;
        ``built``: ``NOT_YET`` where each request will be seen as the client builds it.
        """
        self.client = client
        self._senders = senders
        self._path = path
        self.built = built
        """The request that a client of Stainless's make built last."""

    def is_sent_by(self, sender: Any, request: Any, method: Any, headers: Any, url: Any) -> bool:
        """Whether a request that ``sender`` (a client, session or pool) is about to send is the call's own.

        ``request``: the request object, where there is one.
        """
        try:
            if self.url is not None:
                return False
            if self.built is not None:
                if request is self.built:
                    return True
                if self.funnel is None or self.client is not None:
                    # A client may rebuild it on the way: to sign it, or to send it elsewhere in the same words.
                    same = self.built is not NOT_YET and sender is getattr(self.client, "_client", self)
                    return same and str(getattr(self.built, "url", None)) == str(url)
            if asks_beside(method, headers):
                return False
            if self._path and self._path not in str(url):
                return False
            known = self._known()
            return any(sender is each for each in known) if known else request is None or self.funnel != 0
        except Exception as error:
            internal_errors.note("looking at a request", error)
            return False

    def is_on_its_way(self, url: Any) -> bool:
        """Whether a request to ``url`` is the one under way, seen again in the HTTP library beneath."""
        try:
            return self.url is not None and plain(self.url) == plain(url)
        except Exception as error:
            internal_errors.note("reading a URL", error)
            return False

    def _known(self) -> Sequence[Any]:
        if self._senders is None:
            return ()
        try:
            return [each for each in self._senders(self.client) if each is not None]
        except Exception as error:
            internal_errors.note("finding a client's HTTP clients", error)
            return ()


def plain(url: Any) -> str:
    """A URL of any library's as text that two of them agree on: without its query, and quoted as neither quotes it."""
    from urllib.parse import unquote

    return unquote(str(url).partition("?")[0])


def asks_beside(method: Any, headers: Any) -> bool:
    """Whether a request is none to a model, all of which are POST and no form: a client that fetches a token, or looks
    into a registry, before it makes its call.
    """
    if str(method).upper() != "POST":
        return True
    kind = None if headers is None else headers.get("content-type") or headers.get("Content-Type")
    return "x-www-form-urlencoded" in str(kind)
