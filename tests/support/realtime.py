"""A websocket server that plays scripted conversations at a set pace, over real sockets.

A script is a list of steps, played for each connection from its beginning: ``Expect`` waits for an event of the
client's, ``Send`` writes one, ``Close`` closes the connection in good order, ``Cut`` lets it break.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from tests.support.replay import GATE_TIMEOUT, Delay

PATIENCE = GATE_TIMEOUT


@dataclass(frozen=True)
class Expect:
    """Reads until an event comes for which ``matches`` is true."""

    matches: Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Send:
    event: dict[str, Any]
    delay: float | threading.Event = 0.0
    """s before it, or what it waits for."""


@dataclass(frozen=True)
class Raw:
    """Something that is no event."""

    text: str


@dataclass(frozen=True)
class Close:
    code: int = 1000


@dataclass(frozen=True)
class Cut:
    """The connection is gone, without a word."""


@dataclass(frozen=True)
class Refuse:
    """Sends an error about the event that was read last, by its id."""

    error: dict[str, Any]


Step = Expect | Send | Refuse | Raw | Close | Cut


def expect(kind: str) -> Expect:
    """Wait for an event of that type."""
    return Expect(lambda event: event.get("type") == kind)


class Conversations:
    """The server. ``script`` is played to whoever connects."""

    def __init__(self, script: Sequence[Step] = (), tls: bool = False) -> None:
        """``tls``: with the certificate in ``localhost.pem``, for a client that speaks nothing else."""
        self.script = script
        self.received: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.raw: list[bytes] = []
        """The events that were sent, as they went over the wire."""
        self._server = serve(self._play, "127.0.0.1", 0, compression=None, ssl=_tls() if tls else None)
        self.port: int = self._server.socket.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="conversations", daemon=True)
        self._thread.start()

    def __enter__(self) -> Conversations:
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._thread.join(PATIENCE)

    def _play(self, connection: ServerConnection) -> None:
        self.paths.append(connection.request.path if connection.request is not None else "")
        try:
            for step in self.script:
                if not self._take(connection, step):
                    return
            while True:  # whatever else the client says, until it closes
                self.received.append(json.loads(connection.recv(PATIENCE)))
        except (ConnectionClosed, TimeoutError, OSError):
            pass

    def _take(self, connection: ServerConnection, step: Step) -> bool:
        if isinstance(step, Expect):
            while True:
                event = json.loads(connection.recv(PATIENCE))
                self.received.append(event)
                if step.matches(event):
                    return True
        if isinstance(step, Refuse):
            about = {**step.error, "event_id": self.received[-1].get("event_id")}
            step = Send({"type": "error", "event_id": "e", "error": about})
        if isinstance(step, Send):
            _wait(step.delay)
            text = json.dumps(step.event)
            self.raw.append(text.encode())
            connection.send(text)
            return True
        if isinstance(step, Raw):
            connection.send(step.text)
            return True
        if isinstance(step, Close):
            connection.close(step.code)
        else:
            connection.socket.shutdown(socket.SHUT_RDWR)
        return False


LOCALHOST = Path(__file__).parent / "localhost.pem"
"""The key and certificate of a server on this machine: no secret."""


def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(LOCALHOST)
    return context


def _wait(delay: Delay) -> None:
    if isinstance(delay, threading.Event):
        assert delay.wait(PATIENCE)
    elif isinstance(delay, float) and delay:
        threading.Event().wait(delay)


# --- OpenAI's events ----------------------------------------------------------------------------------------------
MODEL = "gpt-realtime"
SOUND = "U09VTkQtU0VOVElORUw="
USAGE = {
    "total_tokens": 260,
    "input_tokens": 120,
    "output_tokens": 140,
    "input_token_details": {
        "text_tokens": 40,
        "audio_tokens": 80,
        "cached_tokens": 64,
        "cached_tokens_details": {"text_tokens": 14, "audio_tokens": 50},
    },
    "output_token_details": {"text_tokens": 30, "audio_tokens": 110},
}


def session(model: str = MODEL) -> Send:
    """The server's greeting."""
    about = {"type": "realtime", "id": "sess_1", "model": model, "output_modalities": ["audio"], "instructions": "SAY"}
    return Send({"type": "session.created", "event_id": "e0", "session": about})


def created(name: str, delay: float | threading.Event = 0.0) -> Send:
    state = {"object": "realtime.response", "id": name, "status": "in_progress", "conversation_id": "conv_1"}
    return Send({"type": "response.created", "event_id": "e1", "response": state | {"output": []}}, delay)


def deltas(name: str, words: Sequence[str] = ("Hel", "lo"), delay: float | threading.Event = 0.0) -> list[Send]:
    """Sound and transcript, as they come in turns; ``delay`` before the first."""
    at = {"response_id": name, "item_id": "i", "output_index": 0, "content_index": 0}
    sent: list[Send] = []
    for word in words:
        sent.append(Send({"type": "response.output_audio.delta", "event_id": "e2", "delta": SOUND, **at}, delay))
        sent.append(Send({"type": "response.output_audio_transcript.delta", "event_id": "e3", "delta": word, **at}))
        delay = 0.0
    return sent


def done(
    name: str, status: str = "completed", reason: str | None = None, usage: Any = USAGE, words: str = "Hello"
) -> Send:
    content = [{"type": "output_audio", "transcript": words}]
    item = {"id": "i", "type": "message", "role": "assistant", "status": "completed", "content": content}
    state: dict[str, Any] = {"object": "realtime.response", "id": name, "status": status, "conversation_id": "conv_1"}
    details: dict[str, Any] = {"type": status} | ({"reason": reason} if reason else {})
    if status == "failed":
        details["error"] = {"type": "server_error", "code": "rate_limit_exceeded"}
    state |= {"status_details": details, "output": [item], "usage": usage}
    return Send({"type": "response.done", "event_id": "e4", "response": state})


def answer(name: str, delay: float = 0.0, **end: Any) -> list[Step]:
    """A whole response, once it is asked for."""
    return [expect("response.create"), created(name), *deltas(name, delay=delay), done(name, **end)]
