"""A real local HTTP/1.1 server that plays scripted responses at a set pace, and records what it was asked.

Each response is a :class:`Script`: status, headers, timed parts, and what happens to the connection afterwards. Every
part is one write (one HTTP chunk where the body is chunked), so that a script decides what arrives together. A part's
delay may be a :class:`threading.Event`: the part then waits for the test, which makes orders of events exact.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

GATE_TIMEOUT = 30.0
"""s. No test waits longer than this for a gate that was never opened."""


@dataclass(frozen=True)
class After:
    """A part goes out once ``condition()`` has become true and so many seconds have passed since."""

    condition: Callable[[], object]
    seconds: float = 0.0


Delay = float | threading.Event | After
Part = tuple[Delay, bytes]


@dataclass
class Script:
    """One response. ``status=None`` sends no headers at all: only ``after`` then says what becomes of the call."""

    status: int | None = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    parts: Sequence[Part] = ()
    after: str = "keep"
    """keep (whole, keep-alive) · close (whole, then closed) · cut (closed before the end) · rst (reset) · hang."""
    before: Delay = 0.0
    """What passes before the headers are written."""
    chunked: bool = True
    lockstep: bool = False
    """Each part only once the client has taken the one before it off its socket: two never lie there together."""


@dataclass
class Request:
    """One request, and the times at which its response went out (``time.time_ns()``, comparable to span times).

    However late a busy machine lets a thread run, these hold: the client had sent the request by ``arrived``, had
    nothing of a part before ``written``, and had all of it lying in its socket by ``flushed``.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    arrived: int
    port: int
    headers_sent: int | None = None
    """When writing the headers began."""
    written: list[int] = field(default_factory=list)
    """When the writing of each part began."""
    flushed: list[int] = field(default_factory=list)
    """When each part was with the client's kernel."""
    gone: threading.Event = field(default_factory=threading.Event)
    """Set once the client has closed its end of the connection while the script was still going."""
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Handler = Callable[[Request], Script]


class Reader(Protocol):
    """Somebody who notes when each item of a stream came."""

    moments: list[int]


class Replay:
    """The server. ``play`` queues scripts, ``serve`` sets a standing answer, both for a path or for every path."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._queues: dict[str | None, deque[Script]] = {}
        self._standing: dict[str | None, Script | Handler] = {}
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._stopped = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.base_url = self.url + "/v1"
        self._threads = [threading.Thread(target=self._accept, name="replay", daemon=True)]
        self._threads[0].start()

    def play(self, *scripts: Script, path: str | None = None) -> None:
        """Answer the next requests (to ``path``, or to any) with ``scripts``, in order."""
        with self._lock:
            self._queues.setdefault(path, deque()).extend(scripts)

    def serve(self, script: Script | Handler, path: str | None = None) -> None:
        """Answer with this whenever nothing is queued."""
        self._standing[path] = script

    def drop_connections(self) -> None:
        """Close every connection from this side: the next request needs a new one."""
        with self._lock:
            open_now = list(self._connections)
        for connection in open_now:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Forget scripts and requests; open connections stay."""
        with self._lock:
            self._queues.clear()
            self._standing.clear()
            self.requests.clear()

    @property
    def last(self) -> Request:
        return self.requests[-1]

    def close(self) -> None:
        self._stopped = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()
        for thread in self._threads:
            thread.join(2)

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._stopped:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._connections.add(connection)
            thread = threading.Thread(target=self._connection, args=(connection,), name="replay", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _connection(self, connection: socket.socket) -> None:
        reader = connection.makefile("rb")
        try:
            while not self._stopped:
                request = _read_request(reader, connection.getpeername()[1])
                if request is None:
                    return
                with self._lock:
                    self.requests.append(request)
                script = self._script_for(request)
                try:
                    if not self._answer(connection, request, script):
                        return
                finally:
                    request.done.set()
        except (OSError, ValueError):
            return
        finally:
            with self._lock:
                self._connections.discard(connection)
            reader.close()
            connection.close()

    def _script_for(self, request: Request) -> Script:
        with self._lock:
            path = request.path.partition("?")[0]
            for key in (path, None):
                queue = self._queues.get(key)
                if queue:
                    return queue.popleft()
            standing = self._standing.get(path, self._standing.get(None))
        if standing is None:
            return json_answer({"error": {"message": f"nothing is scripted for {path}", "type": "replay"}}, status=418)
        return standing(request) if callable(standing) else standing

    def _answer(self, connection: socket.socket, request: Request, script: Script) -> bool:
        """Play one script; True where the connection stays open for the next request."""
        if not self._wait(connection, request, script.before):
            return False
        if script.status is not None:
            head = [f"HTTP/1.1 {script.status} {_REASONS.get(script.status, 'Scripted')}"]
            headers = {name.lower(): value for name, value in script.headers.items()}
            if script.chunked:
                headers["transfer-encoding"] = "chunked"
            else:
                headers["content-length"] = str(sum(len(data) for _, data in script.parts))
            if script.after == "close":
                headers["connection"] = "close"
            head += [f"{name}: {value}" for name, value in headers.items()]
            request.headers_sent = time.time_ns()
            connection.sendall("\r\n".join([*head, "", ""]).encode())
        for delay, data in script.parts:
            if script.lockstep:
                self._let_read(connection, request)
            if not self._wait(connection, request, delay):
                return False
            request.written.append(time.time_ns())
            connection.sendall(b"%x\r\n%b\r\n" % (len(data), data) if script.chunked else data)
            request.flushed.append(time.time_ns())
        if script.after in ("keep", "close"):
            if script.chunked and script.status is not None:
                connection.sendall(b"0\r\n\r\n")
            return script.after == "keep" and script.status is not None
        if script.after == "hang":
            self._wait(connection, request, GATE_TIMEOUT)
        elif script.after in ("rst", "cut"):
            # A reset discards what lies unread in the client's socket, and some clients discard what they have read
            # but not handed on when the connection ends: let them do both.
            self._let_read(connection, request)
            self._wait(connection, request, HANDED_ON_WITHIN)
            if script.after == "rst":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            raise ValueError(script.after)
        return False

    def _wait(self, connection: socket.socket, request: Request, delay: Delay) -> bool:
        """Let ``delay`` pass; False when the client went away or the server stops meanwhile."""
        if isinstance(delay, After):
            return self._wait_until(connection, request, delay.condition) and self._wait(
                connection, request, delay.seconds
            )
        if isinstance(delay, threading.Event):
            return self._wait_until(connection, request, delay.is_set)
        return self._wait_until(connection, request, None, delay)

    def _let_read(self, connection: socket.socket, request: Request) -> None:
        self._wait_until(connection, request, lambda: not _unread(connection), READ_WITHIN)

    def _wait_until(
        self,
        connection: socket.socket,
        request: Request,
        condition: Callable[[], object] | None,
        seconds: float = GATE_TIMEOUT,
    ) -> bool:
        """Wait for a condition, or (None) for so many seconds; False where neither came."""
        until = time.monotonic() + seconds
        while not self._stopped:
            if condition is not None and condition():
                return True
            seconds_left = until - time.monotonic()
            if seconds_left <= 0:
                return condition is None
            readable, _, _ = select.select(
                [connection], [], [], seconds_left if condition is None else min(seconds_left, 0.002)
            )
            if readable and not _alive(connection):
                request.gone.set()
                return False
            if readable:
                time.sleep(max(0.0, min(seconds_left, 0.002)))  # pipelined bytes: they wait their turn
        return False


READ_WITHIN = 5.0
"""s. A client that reads nothing for so long does not mean to."""
HANDED_ON_WITHIN = 0.03
"""s. What a client has read it has handed on by then."""


def _unread(connection: socket.socket) -> bool:
    """Whether bytes that were sent to the client still lie in its socket; False where that can't be known."""
    near, far = connection.getsockname()[1], connection.getpeername()[1]
    try:
        sockets = Path("/proc/net/tcp").read_text()
    except OSError:  # no Linux
        time.sleep(0.03)
        return False
    waiting = re.search(rf":{far:04X} \S+:{near:04X} \w\w \w+:(\w+)", sockets)
    return waiting is not None and int(waiting[1], 16) > 0


_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 429: "Too Many Requests", 500: "Server Error"}


def _alive(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _read_request(reader: Any, port: int) -> Request | None:
    line = reader.readline()
    if not line:
        return None
    method, path, _ = line.decode("latin-1").split()
    headers: dict[str, str] = {}
    while (line := reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while size := int(reader.readline(), 16):
            body += reader.read(size)
            reader.readline()
        reader.readline()
    else:
        body = reader.read(int(headers.get("content-length", 0)))
    return Request(method, path, headers, body, time.time_ns(), port)


def refused_url() -> str:
    """The base URL of a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


# Bodies.

MODEL = "gpt-4o-mini"
ID = "chatcmpl-replay1"
CREATED = 1_790_000_000
USAGE = {
    "prompt_tokens": 40,
    "completion_tokens": 6,
    "total_tokens": 46,
    "prompt_tokens_details": {"cached_tokens": 16},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
VLLM_METRICS = {"time_to_first_token_ms": 9.0, "generation_time_ms": 12.0, "queue_time_ms": 8.0, "mean_itl_ms": 3.0}
"""Server timings as vLLM reports them: prefill, decode and queue in ms."""

JSON_HEADERS = {"content-type": "application/json", "x-request-id": "req_replay"}
SSE_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "x-request-id": "req_replay"}


def event(data: Any) -> bytes:
    """One server-sent event; text and bytes go out as they are."""
    if isinstance(data, bytes):
        return b"data: " + data + b"\n\n"
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


def sse(*chunks: Any, done: bool = True) -> list[bytes]:
    """One event per chunk, and ``[DONE]``."""
    events = [event(chunk) for chunk in chunks]
    return [*events, event("[DONE]")] if done else events


def chunk(
    delta: Mapping[str, Any] | None, *, index: int = 0, finish: str | None = None, **extra: Any
) -> dict[str, Any]:
    """A ``chat.completion.chunk``; ``delta=None`` makes one without choices."""
    choices = (
        [] if delta is None else [{"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": finish}]
    )
    body = {
        "id": ID,
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": MODEL,
        "service_tier": "default",
        "system_fingerprint": "fp_replay",
        "choices": choices,
    }
    return body | extra


def completion(
    content: str = "Hello there, you two.", *, usage: Any = USAGE, n: int = 1, **extra: Any
) -> dict[str, Any]:
    """A ``chat.completion`` body."""
    message = {"role": "assistant", "content": content, "refusal": None}
    choices = [{"index": i, "message": message, "logprobs": None, "finish_reason": "stop"} for i in range(n)]
    body = {
        "id": ID,
        "object": "chat.completion",
        "created": CREATED,
        "model": MODEL,
        "service_tier": "default",
        "system_fingerprint": "fp_replay",
        "choices": choices,
    }
    return (body if usage is None else body | {"usage": usage}) | extra


def json_answer(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None, **fields: Any) -> Script:
    """A whole JSON answer, with a content length."""
    data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    return Script(status, JSON_HEADERS | dict(headers or {}), [(0.0, data)], chunked=False, **fields)


def openai_body(content: str = "Hello there, you two.", *, usage: Any = USAGE, n: int = 1, **extra: Any) -> Script:
    """A chat completion that is not streamed; ``extra`` goes into the body."""
    return json_answer(completion(content, usage=usage, n=n, **extra))


def openai_chunks(
    words: Iterable[str], usage: Any = None, *, role: bool = True, n: int = 1, last: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The chunks of a stream: role, one per word (and choice), finish, and usage if there is any."""
    chunks = [chunk({"role": "assistant", "content": ""}, index=i) for i in range(n)] if role else []
    chunks += [chunk({"content": word}, index=i) for word in words for i in range(n)]
    chunks += [chunk({}, index=i, finish="stop") for i in range(n)]
    if usage is not None:
        chunks.append(chunk(None, usage=usage))
    if last:
        chunks[-1] |= last
    return chunks


def paced(events: Sequence[bytes], ttft: Delay = 0.0, itl: Delay = 0.0) -> list[Part]:
    """The first event after ``ttft``, each further one after ``itl``; ``[DONE]`` comes with its predecessor."""
    joined = list(events)
    if len(joined) > 1 and joined[-1] == event("[DONE]"):
        joined[-2:] = [joined[-2] + joined[-1]]
    return [(ttft if i == 0 else itl, data) for i, data in enumerate(joined)]


def in_step(script: Script, reader: Reader) -> Script:
    """The same, each of its server-sent events only after the reader has got those before it, and its delay since.

    So no two parts come together, however late the reader's thread or the server's is let run.
    """
    due = len(reader.moments)
    parts: list[Part] = []
    for delay, data in script.parts:
        parts.append((After(lambda due=due: len(reader.moments) >= due, delay), data))  # type: ignore[misc, arg-type]
        due += len(re.findall(rb"^data: (?!\[DONE\])", data, re.MULTILINE))
    return replace(script, parts=parts)


def openai_stream(
    words: Iterable[str] = ("Hel", "lo", " there", ",", " you", " two"),
    usage: Any = None,
    *,
    ttft: Delay = 0.0,
    itl: Delay = 0.0,
    role: bool = True,
    n: int = 1,
    last: Mapping[str, Any] | None = None,
    done: bool = True,
    headers: Mapping[str, str] | None = None,
    **fields: Any,
) -> Script:
    """A streamed chat completion. The role chunk comes with the first token; ``last`` extends the last chunk."""
    events = sse(*openai_chunks(words, usage, role=role, n=n, last=last), done=done)
    if role:
        events[: n + 1] = [b"".join(events[: n + 1])]
    return Script(200, SSE_HEADERS | dict(headers or {}), paced(events, ttft, itl), **fields)


def events_script(*chunks: Any, done: bool = True, ttft: Delay = 0.0, itl: Delay = 0.0, **fields: Any) -> Script:
    """A stream of exactly these chunks."""
    return Script(200, SSE_HEADERS, paced(sse(*chunks, done=done), ttft, itl), **fields)


def tool_turn(name: str, arguments: str, *, stream: bool = False) -> Script:
    """A turn that calls one tool and says nothing."""
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    if stream:
        delta = {"role": "assistant", "content": None, "tool_calls": [{"index": 0} | call]}
        return events_script(chunk(delta), chunk({}, finish="tool_calls"), chunk(None, usage=USAGE))
    body = completion()
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    body["choices"][0] |= {"message": message, "finish_reason": "tool_calls"}
    return json_answer(body)


# Faults, by the phase in which they strike.

WORDS = ("Hel", "lo", " there", ",", " you", " two")


def accept_and_hang() -> Script:
    return Script(None, after="hang")


def too_many(retry_after_ms: int = 20, **headers: str) -> Script:
    body = {
        "error": {"message": "Rate limit reached", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    }
    return json_answer(body, status=429, headers={"retry-after-ms": str(retry_after_ms), "retry-after": "1"} | headers)


def server_error(status: int = 500) -> Script:
    body = {"error": {"message": "The server had an error", "type": "server_error", "param": None, "code": None}}
    return json_answer(body, status=status, headers={"retry-after-ms": "20"})


def reset_before_headers() -> Script:
    return Script(None, after="rst")


def reset_after_headers() -> Script:
    return Script(200, SSE_HEADERS, after="rst")


def reset_mid_stream(words: Sequence[str] = WORDS[:3]) -> Script:
    return replace(openai_stream(words, done=False), parts=openai_stream(words, done=False).parts[:-1], after="rst")


def cut_mid_stream(words: Sequence[str] = WORDS[:3]) -> Script:
    return replace(reset_mid_stream(words), after="cut")


def hang_mid_stream(words: Sequence[str] = WORDS[:3], **fields: Any) -> Script:
    script = openai_stream(words, done=False, **fields)
    return replace(script, parts=script.parts[:-1], after="hang")


def error_event(words: Sequence[str] = WORDS[:3]) -> Script:
    error = {"error": {"message": "The server had an error mid-stream", "type": "server_error", "code": "boom"}}
    return events_script(*openai_chunks(words)[:-1], error, done=False)


def malformed_chunk(words: Sequence[str] = WORDS[:3], data: bytes = b'{"id": "x", "choices": [{') -> Script:
    return events_script(*openai_chunks(words)[:-1], data)


def huge_chunk(size: int = 1_000_000) -> Script:
    return openai_stream(("Hel", "x" * size, "lo"), USAGE)


def split_unicode(text: str = "grün 🙂 日本") -> Script:
    """Every write ends in the middle of a character wherever it can."""
    whole = b"".join(sse(*openai_chunks((text,), USAGE)))
    cuts = [i + 1 for i, byte in enumerate(whole) if byte >= 0xC0]
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return Script(200, SSE_HEADERS, [(0.002, piece) for piece in pieces if piece])


def azure_stream(words: Sequence[str] = WORDS, **fields: Any) -> Script:
    """Azure's first chunk has no choices, no id and no model: only what the content filter says of the prompt."""
    head = {
        "choices": [],
        "created": 0,
        "id": "",
        "model": "",
        "object": "",
        "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}],
    }
    return events_script(head, *openai_chunks(words, USAGE), **fields)


def role_only_stream() -> Script:
    """A stream that says who speaks, and then nothing."""
    return events_script(chunk({"role": "assistant", "content": ""}), chunk({}, finish="stop"))


def buffered(words: Sequence[str] = WORDS, silence: float = 0.06) -> Script:
    """A long silence, then the whole body at once: a proxy that buffers."""
    return Script(200, SSE_HEADERS, [(silence, b"".join(sse(*openai_chunks(words, USAGE))))])


# Recordings of real providers, in the folder beside the checkout.


def shared_folder() -> Path | None:
    """``../shared`` beside the checkout (or LLMTRACE_SHARED), None where there is none."""
    root = Path(os.environ.get("LLMTRACE_SHARED") or Path(__file__).resolve().parents[2].parent / "shared")
    return root if (root / "recordings").is_dir() else None


NO_SHARED = "needs the recordings in ../shared (or LLMTRACE_SHARED), which are not there"


@dataclass
class Recording:
    """One recorded exchange: what was asked, what came back, and a script that plays it."""

    path: Path
    host: str
    method: str
    url_path: str
    request: dict[str, Any]
    streaming: bool
    status: int
    headers: dict[str, str]
    body: str

    def script(self, itl: float = 0.0) -> Script:
        headers = {k: v for k, v in self.headers.items() if k not in _HOP_BY_HOP}
        data = self.body.encode()
        if not self.streaming:
            return json_answer(data, status=self.status, headers=headers)
        events = [part + b"\n\n" for part in data.split(b"\n\n") if part]
        return Script(self.status, headers, [(itl, part) for part in events])


_HOP_BY_HOP = {"content-length", "content-encoding", "transfer-encoding", "connection", "keep-alive"}


def load_recording(path: str | Path) -> Recording:
    """Read a file of ``../shared/recordings`` (relative names are looked up there)."""
    folder = shared_folder()
    full = Path(path) if folder is None else folder / "recordings" / path
    data = json.loads(full.read_text())
    request, response = data["request"], data["response"]
    body = request.get("body")
    return Recording(
        path=full,
        host=data["host"],
        method=request["method"],
        url_path=request["path"],
        request=json.loads(body) if body else {},
        streaming=bool(data["streaming"]),
        status=response["status"],
        headers=response["headers"],
        body=response["body"] or "",
    )
