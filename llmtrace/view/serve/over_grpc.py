"""OTLP over gRPC: a server of its own, to which connections to the viewer's HTTP port are led if they begin as gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

from llmtrace import interpreter
from llmtrace.errors import LlmtraceError
from llmtrace.view.serve.bodies import UNPACKED_BYTES
from llmtrace.view.serve.notes import Notes
from llmtrace.view.serve.protobuf import response
from llmtrace.view.serve.store import UnavailableError
from llmtrace.view.serve.writer import Writer

PREFACE: Final = b"PRI * HTTP/2.0"
"""What a client of HTTP/2 that does not ask first sends first (RFC 9113, section 3.4)."""
_SERVICE: Final = "opentelemetry.proto.collector.{0}.v1.{1}Service"
_WRITTEN_WITHIN_S: Final = 30
_GRACE_S: Final = 1
_THREADS: Final = 4


def is_installed() -> bool:
    """Whether grpcio is there, which comes with OpenTelemetry's exporter for gRPC."""
    return interpreter.finds("grpc")


class GrpcServer:
    """Takes traces; takes metrics and logs too, and drops them.

    Args:
        writer: takes the bodies.
        notes: is told of what is dropped.
        addresses: where it listens, ``host:port``, beside a port of its own on this machine; one that is taken is
            passed over.
    """

    def __init__(self, writer: Writer, notes: Notes, addresses: tuple[str, ...] = ()) -> None:
        import grpc

        options: list[tuple[str, int]] = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", UNPACKED_BYTES)]
        self._server: Any = grpc.server(ThreadPoolExecutor(_THREADS), options=options)
        self._server.add_generic_rpc_handlers(
            (
                _handler("trace", lambda body, context: _traces(grpc, writer, body, context)),
                _handler("metrics", lambda body, context: notes.dropped()),
                _handler("logs", lambda body, context: notes.dropped()),
            )
        )
        self.port: int = self._server.add_insecure_port("127.0.0.1:0")
        self.taken = tuple(address for address in addresses if _added(self._server, address))
        """Those of ``addresses`` that were free."""
        self._server.start()

    def stop(self) -> None:
        """End it, with a moment for what is under way."""
        self._server.stop(_GRACE_S).wait()


def _added(server: Any, address: str) -> bool:
    try:
        return bool(server.add_insecure_port(address))
    except RuntimeError:  # somebody else listens there
        return False


def _handler(signal: str, take: Callable[[bytes, Any], bytes]) -> Any:
    """One signal's service. Bodies stay bytes: the writer reads them."""
    import grpc

    methods: Mapping[str, Any] = {"Export": grpc.unary_unary_rpc_method_handler(take)}
    return grpc.method_handlers_generic_handler(_SERVICE.format(signal, signal.title()), methods)


def _traces(grpc: Any, writer: Writer, body: bytes, context: Any) -> bytes:
    try:
        taken = writer.body(body, protobuf=True).result(_WRITTEN_WITHIN_S)
    except UnavailableError as error:
        context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
    except LlmtraceError as error:
        writer.reject(str(error), 1)
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    else:
        return response(taken.rejected, taken.reason)
    return b""  # not reached: abort raises


def protocol(grpc_port: int | None, notes: Notes) -> type[H11Protocol]:
    """uvicorn's protocol, but for connections that begin as HTTP/2: those are led to the gRPC server on this machine.

    ``grpc_port``: None where there is no such server; then what would help is noted.
    """

    class Http1OrGrpc(H11Protocol):
        """Looks at the first bytes of each connection."""

        _first = True

        def data_received(self, data: bytes) -> None:
            """The connection's next bytes."""
            first, self._first = self._first, False
            if not first or not data.startswith(PREFACE):
                super().data_received(data)
            elif grpc_port is None:
                notes.without_grpc()
                self.transport.close()
            else:
                self._lead(data, grpc_port)

        def _lead(self, data: bytes, port: int) -> None:
            transport = self.transport
            transport.pause_reading()
            self.connections.discard(self)
            self._unset_keepalive_if_required()
            task = self.loop.create_task(_led(transport, data, port))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    return Http1OrGrpc


async def _led(transport: asyncio.Transport, data: bytes, port: int) -> None:
    """Connect ``transport`` with the gRPC server: each end's bytes go to the other."""
    loop = asyncio.get_running_loop()
    try:
        other, _ = await loop.create_connection(lambda: _Pipe(transport), "127.0.0.1", port)
    except OSError:
        transport.close()
        return
    other.write(data)
    transport.set_protocol(_Pipe(other))
    transport.resume_reading()


class _Pipe(asyncio.Protocol):
    """Writes what it receives to another transport, no faster than that takes it."""

    def __init__(self, other: asyncio.Transport) -> None:
        self._other = other

    def data_received(self, data: bytes) -> None:
        """Bytes from this end."""
        self._other.write(data)

    def pause_writing(self) -> None:
        """This end takes no more just now."""
        self._other.pause_reading()

    def resume_writing(self) -> None:
        """It takes more."""
        self._other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """This end has closed."""
        self._other.close()
