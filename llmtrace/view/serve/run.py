"""Starts and ends the viewer: the port first, then the store, then the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from llmtrace import listening, scratch
from llmtrace.errors import LlmtraceError
from llmtrace.view.serve import app as application
from llmtrace.view.serve import over_grpc
from llmtrace.view.serve.notes import Notes
from llmtrace.view.serve.state import Loading, State
from llmtrace.view.serve.store import Store, default_path
from llmtrace.view.serve.writer import Writer

if TYPE_CHECKING:
    from llmtrace.view.serve.files import Reader


_GRPC_PORT: Final = 4317
_HTTP_PORT: Final = 4318
"""OTLP's own ports, to which programs send that are told nothing else."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of ``llmtrace view``."""

    files: Sequence[str] = ()
    host: str = "127.0.0.1"
    port: int = 4319
    store: Path | None = None
    """The store's file; by default in the user's data folder, or a temporary one where files are opened."""
    memory: bool = False
    max_bytes: int = 2 << 30
    jaeger_url: str | None = None
    names: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    """Those whose pages may send spans."""
    default_ports: bool = False
    """Listen on OTLP's own ports too, where they are free."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What is said once the viewer takes requests."""

    url: str
    place: str
    """Where spans are kept, in words."""
    grpc: bool
    """Whether it understands gRPC."""
    ports: tuple[int, ...]
    """Those of OTLP's own ports that it listens on."""


def run(
    options: Options,
    ready: Callable[[Ready], None],
    tell: Callable[[Loading | None], None] = lambda loading: None,
    note: Callable[[str], None] = lambda sentence: None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    ``ready`` is called once requests are taken, ``tell`` with how far the reading of files is, None at its end,
    ``note`` with what people are told once.

    Raises:
        LlmtraceError: the port is taken, the store cannot be opened, a file does not exist.
    """
    with contextlib.ExitStack() as stack:
        obey = stack.enter_context(holding_signals())
        listener = stack.enter_context(contextlib.closing(listening.bind(options.host, options.port, backlog=128)))
        os.umask(0o077)  # traces may hold content: only their owner may read them
        place = stack.enter_context(_place(options))
        store = Store(place, options.max_bytes)
        stack.callback(store.close)
        writer = Writer(store)
        notes = Notes(note)
        state = State(store, writer, options.jaeger_url, notes)
        reader = _reader(options, state, tell)
        writer.start()
        stack.callback(writer.stop)
        loopback = listening.is_loopback(options.host)
        names = (*options.names, *(() if loopback else (socket.gethostname(),)))
        app = application.create(state, loopback=loopback, names=names, origins=options.origins)
        url = listening.url(options.host, listener)
        listeners = [listener, *(stack.enter_context(contextlib.closing(more)) for more in _http_port(options))]
        grpc_server = _grpc_server(options, writer, notes)
        if grpc_server is not None:
            stack.callback(grpc_server.stop)
        kept = "spans in memory" if place is None else f"spans in {place}"
        ports = ((_GRPC_PORT,) if grpc_server is not None and grpc_server.taken else ()) + (_HTTP_PORT,) * (
            len(listeners) - 1
        )

        class Server(uvicorn.Server):
            """Tells when it is ready; ends live tails before it waits for requests."""

            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets=sockets)
                if self.started:
                    ready(Ready(url, kept, grpc_server is not None, ports))
                    threading.Thread(target=_warm, daemon=True).start()
                    if reader is not None:
                        reader.start()

            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                state.closing.set()
                if reader is not None:
                    await asyncio.to_thread(reader.stop)
                await super().shutdown(sockets=sockets)

        server = Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=3,
                h11_max_incomplete_event_size=64 << 10,
                http=over_grpc.protocol(None if grpc_server is None else grpc_server.port, notes),
            )
        )
        obey()
        server.run(sockets=listeners)


def _http_port(options: Options) -> list[socket.socket]:
    """OTLP's own port over HTTP, if it is wanted and free."""
    if not options.default_ports:
        return []
    try:
        return [listening.bind(options.host, _HTTP_PORT, backlog=128)]
    except LlmtraceError:
        return []


def _grpc_server(options: Options, writer: Writer, notes: Notes) -> over_grpc.GrpcServer | None:
    if not over_grpc.is_installed():
        return None
    host = f"[{options.host}]" if ":" in options.host else options.host
    return over_grpc.GrpcServer(writer, notes, (f"{host}:{_GRPC_PORT}",) if options.default_ports else ())


@contextlib.contextmanager
def holding_signals() -> Generator[Callable[[], None], None, None]:
    """Hold Ctrl-C and SIGTERM back until the function that this gives is called: it obeys the first that came.

    While the viewer starts, libraries import others from C code (DuckDB does pandas), where an exception is dropped:
    the viewer would start all the same, with half a pandas. A second signal ends the process at once.
    """
    came: list[int] = []

    def hold(number: int, frame: object) -> None:
        came.append(number)
        if len(came) > 1:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def give_back() -> None:
        for number, handler in later.items():
            if signal.getsignal(number) is hold:
                signal.signal(number, handler)

    def obey() -> None:
        give_back()
        if came:
            later[came[0]](came[0], None)

    later: dict[int, Callable[[int, FrameType | None], Any]] = {signal.SIGTERM: _ended}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # `nohup` ignores it, and so do we
        later[signal.SIGINT] = signal.default_int_handler
    for number in later:
        signal.signal(number, hold)
    try:
        yield obey
    finally:
        give_back()


def _ended(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM as Ctrl-C, so that everything is closed."""
    raise SystemExit(128 + number)


def _reader(options: Options, state: State, tell: Callable[[Loading | None], None]) -> Reader | None:
    if not options.files:
        return None
    from llmtrace.view.serve.files import Reader

    return Reader(options.files, state, tell)


@contextlib.contextmanager
def _place(options: Options) -> Generator[Path | None, None, None]:
    if options.memory:
        yield None
    elif options.store is not None:
        yield options.store
    elif options.files:
        with tempfile.TemporaryDirectory(prefix="llmtrace-view-", dir=scratch.folder()) as folder:
            yield Path(folder) / "view.duckdb"
    else:
        yield default_path()


def _warm() -> None:
    """Import the modules that the first spans will need, before any request comes."""
    import_module("pyarrow.dataset")
    from llmtrace.view.serve import derive

    derive.calls_sql([], paired=False, engines=False)
