"""Where a program's spans go: a viewer, an OTLP endpoint, a file or the terminal. Chosen before the program starts."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from llmtrace import interpreter, scratch
from llmtrace.errors import LlmtraceError
from llmtrace.launch import signals
from llmtrace.launch.signals import PATHS, Signal
from llmtrace.observe.address import without_credentials
from llmtrace.version import GRPC_EXPORTER_COMMAND, install_hint

VIEWER: Final = "http://127.0.0.1:4319"
COLLECTOR: Final = "http://127.0.0.1:4318"
"""Where a collector or Jaeger listens for OTLP over HTTP by default."""
DEFAULT_FILE: Final = "traces.otlp.jsonl"
_GRPC_PORT: Final = 4317
_PRINTED = "each call is printed here as it ends"
_TRACES, _METRICS = PATHS["TRACES"], PATHS["METRICS"]
_CONNECT_S = 0.25
_VIEWER_STARTS_WITHIN_S = 20.0
_GRPC_SCHEMES = ("unix", "unix-abstract", "dns", "ipv4", "ipv6", "xds")
"""Targets that gRPC knows by itself; whether somebody listens there is not asked."""
_KIND, _PLACE = "LLMTRACE_RUN_KIND", "LLMTRACE_RUN_PLACE"
_METRICS_KIND, _METRICS_PLACE = "LLMTRACE_RUN_METRICS_KIND", "LLMTRACE_RUN_METRICS_PLACE"
VARIABLES: Final = (_KIND, _PLACE, _METRICS_KIND, _METRICS_PLACE)
"""Those by which a program is told of its destination."""

Kind = Literal["otlp", "otlp_grpc", "file", "console"]


@dataclass(frozen=True, slots=True)
class Destination:
    """One place that spans go to, and where metrics go beside them."""

    kind: Kind
    place: str = ""
    """The address that spans are sent to, or the file's absolute path."""
    sentence: str = ""
    """Where the trace can be seen, for people."""
    metrics_kind: Kind | Literal[""] = ""
    metrics_place: str = ""
    """The address that metrics are sent to, if it takes them; empty where they go nowhere."""

    def to_environ(self) -> dict[str, str]:
        """The variables by which a child process is told of it."""
        ours = (self.kind, self.place, self.metrics_kind, self.metrics_place)
        return dict(zip(VARIABLES, ours, strict=True))


def from_environ(environ: Mapping[str, str]) -> Destination | None:
    """The destination that ``to_environ`` wrote, None where there is none."""
    kind, place = environ.get(_KIND), environ.get(_PLACE, "")
    if kind not in ("otlp", "otlp_grpc", "file", "console"):
        return None
    shown = without_credentials(place) if kind.startswith("otlp") else place
    sentence = f"spans go where the llmtrace run around this one sends them: {shown or 'stderr'}"
    metrics_kind = environ.get(_METRICS_KIND)
    if metrics_kind not in ("otlp", "otlp_grpc"):
        return Destination(kind, place, sentence)
    return Destination(kind, place, sentence, metrics_kind, environ.get(_METRICS_PLACE, ""))


def choose(
    *,
    view: bool = False,
    otlp: str | None = None,
    file: str | os.PathLike[str] | None = None,
    console: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Destination:
    """The destination that was asked for; where none was, the first that is there.

    In this order: where an ``llmtrace run`` around this one sends them, the endpoint that
    ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_ENDPOINT`` names, a viewer that is running, a
    collector or Jaeger on its default port, a viewer started now, a file in the working directory. Metrics go where
    ``OTEL_EXPORTER_OTLP_METRICS_ENDPOINT`` says, but with ``otlp``; else to the same endpoint, if it takes them.

    Raises:
        LlmtraceError: several were asked for, an address is none, or what it needs is not installed.
    """
    environ = os.environ if environ is None else environ
    if sum((view, otlp is not None, file is not None, console)) > 1:
        raise LlmtraceError("view, otlp, file and console exclude each other: give one of them")
    if otlp is not None:  # an argument goes before the variables, of metrics too
        return _beside(endpoint(otlp))
    if console:
        return _with_metrics(Destination("console", "", _PRINTED), environ)
    if file is not None:
        return _with_metrics(_file(Path(file)), environ)
    if view:
        return _with_metrics(viewer(), environ)
    if (around := from_environ(environ)) is not None:
        return around
    return _with_metrics(_named(environ) or _first_there(), environ)


def is_named(environ: Mapping[str, str]) -> bool:
    """Whether the environment says where spans go: an ``llmtrace run`` around this one, or a variable of OTLP's."""
    return from_environ(environ) is not None or bool(signals.setting(environ, "TRACES", "ENDPOINT")[0])


def _named(environ: Mapping[str, str]) -> Destination | None:
    """The endpoint that OTLP's variables name for spans, None where they name none."""
    name, url = signals.setting(environ, "TRACES", "ENDPOINT")
    if not name:
        return None
    try:
        return endpoint(url, signals.protocol(environ), exact=name == signals.own("TRACES", "ENDPOINT"))
    except LlmtraceError as error:  # nobody asked for it here: the variable may be meant for others
        return _instead(f"{name}: {error}")


def _first_there() -> Destination:
    """The first place that is there, where nothing names one."""
    if is_viewer(VIEWER):
        return viewer()
    if _collector_listens():
        return endpoint(COLLECTOR)
    if _can_start_viewer():
        try:
            return viewer()
        except LlmtraceError as error:
            return _instead(str(error))
    return _instead()


def _with_metrics(spans: Destination, environ: Mapping[str, str]) -> Destination:
    """``spans`` with where metrics go: what the variable of their own names; what the one for all signals does, where
    a variable has named the spans' place; else the same endpoint, if that may take them.
    """
    name, url = signals.setting(environ, "METRICS", "ENDPOINT")
    is_own = name == signals.own("METRICS", "ENDPOINT")
    if not is_own and not (name and spans.kind.startswith("otlp") and not spans.place.startswith(VIEWER)):
        return _beside(spans)
    try:
        kind, place = _address(url, signals.protocol(environ, "METRICS"), "METRICS", exact=is_own)
    except LlmtraceError as error:
        return replace(spans, sentence=f"{spans.sentence}; metrics go nowhere: {name}: {error}") if is_own else spans
    if not is_own:
        return replace(spans, metrics_kind=kind, metrics_place=place)
    shown = without_credentials(place).removesuffix(_METRICS)
    if not listens(place):
        return replace(spans, sentence=f"{spans.sentence}; metrics go nowhere: nothing listens at {shown}")
    return replace(spans, sentence=f"{spans.sentence}; metrics go to {shown}", metrics_kind=kind, metrics_place=place)


def _beside(spans: Destination) -> Destination:
    """``spans`` with metrics at the same endpoint; without, where it cannot be known where that takes them."""
    if spans.kind == "otlp_grpc":
        return replace(spans, metrics_kind=spans.kind, metrics_place=spans.place)
    if spans.kind != "otlp" or spans.place.startswith(VIEWER):
        return spans
    parts = urlsplit(spans.place)
    if not parts.path.endswith(_TRACES):
        return spans
    place = parts._replace(path=parts.path.removesuffix(_TRACES) + _METRICS).geturl()
    return replace(spans, metrics_kind="otlp", metrics_place=place)


def foresee(environ: Mapping[str, str]) -> str:
    """What ``choose`` would say where nothing is asked for; starts nothing.

    Raises:
        LlmtraceError: as ``choose`` does.
    """
    if not is_named(environ) and not is_viewer(VIEWER) and not _collector_listens() and _can_start_viewer():
        return f"the trace is at {VIEWER}, where a viewer is started"
    return choose(environ=environ).sentence


def endpoint(url: str, protocol: str = "", *, exact: bool = False) -> Destination:
    """An OTLP endpoint that somebody else runs; where nobody listens there, a file, so that nothing is lost.

    ``protocol``: ``grpc``, or else HTTP; empty: gRPC on its own port, HTTP on every other. ``exact``: the address is
    that of the traces themselves, not one below which they have their path.

    Raises:
        LlmtraceError: ``url`` is no address, or the exporter is not installed.
    """
    kind, place = _address(url, protocol, "TRACES", exact=exact)
    shown = without_credentials(place).removesuffix(_TRACES)
    if not listens(place):
        return _instead(f"nothing listens at {shown}")
    return Destination(kind, place, f"spans go to {shown}")


def _address(url: str, protocol: str, signal: Signal, *, exact: bool) -> tuple[Kind, str]:
    """The protocol and the address by which an endpoint takes ``signal``. Arguments and errors are ``endpoint``'s."""
    if protocol == "grpc" and is_grpc_target(url) and _can_export():
        return "otlp_grpc", url
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not re.fullmatch(r"[^\s/]+", parts.netloc) or parts.port == 0:
            raise ValueError(url)
    except (TypeError, ValueError):  # no text, a port beyond 65535, half of an IPv6 address
        text = str(url)
        shown = without_credentials(text if "//" in text else f"//{text}").removeprefix("//")
        # No password, even of an address that is none.
        hint = "; a password in it has to be percent-encoded" if "@" in text else ""
        raise LlmtraceError(f"otlp takes an address such as {COLLECTOR}, not {shown!r}{hint}") from None
    if not _can_export():
        raise LlmtraceError(f"sending spans needs the OTLP exporter: {install_hint('otlp')}")
    kind: Kind = "otlp_grpc" if protocol == "grpc" or (not protocol and parts.port == _GRPC_PORT) else "otlp"
    if kind == "otlp_grpc":
        if not interpreter.finds("opentelemetry.exporter.otlp.proto.grpc"):
            raise LlmtraceError(
                f"sending spans over gRPC needs its exporter: {GRPC_EXPORTER_COMMAND}; or use the endpoint's HTTP port"
            )
        parts = parts._replace(path="", query="")
    elif not exact:
        parts = parts._replace(path=parts.path.rstrip("/").removesuffix(_TRACES) + PATHS[signal])
    return kind, parts._replace(fragment="").geturl()


def viewer() -> Destination:
    """The viewer that runs on this machine; one is started where there is none, and goes on when the program ends.

    Raises:
        LlmtraceError: it is not installed, or does not start.
    """
    if not _can_export():
        raise LlmtraceError(f"sending spans to the viewer needs the OTLP exporter: {install_hint('otlp')}")
    if is_viewer(VIEWER):
        return Destination("otlp", VIEWER + _TRACES, f"the trace is at {VIEWER}")
    if not _can_view():
        raise LlmtraceError(f"the viewer needs a few packages more: {install_hint('view')}; or use --file")
    pid = _start_viewer()
    return Destination("otlp", VIEWER + _TRACES, f"the trace is at {VIEWER} (llmtrace view, started as process {pid})")


def is_grpc_target(url: str) -> bool:
    """Whether ``url`` is a target that gRPC knows by itself and that is no http address."""
    return url.partition(":")[0] in _GRPC_SCHEMES


def listens(url: str) -> bool:
    """Whether somebody takes connections at ``url``, asked for a quarter of a second at most."""
    if is_grpc_target(url):
        return True
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_S):
            return True
    except (OSError, ValueError):
        return False


def is_viewer(url: str) -> bool:
    """Whether it is llmtrace's viewer that answers at ``url``."""
    if not listens(url):
        return False
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not reach this machine
    try:
        with direct.open(f"{url}/api/status", timeout=2.0) as response:
            return "spans" in json.loads(response.read(1 << 20))
    except (OSError, ValueError):
        return False


def _instead(why: str = "") -> Destination:
    """A file in the working directory, or where that cannot be written to, among the temporary files; else stderr."""
    try:
        file = _file(Path(DEFAULT_FILE))
    except LlmtraceError:
        try:
            temporary = scratch.folder()
        except LlmtraceError:  # the program is to run all the same
            return Destination("console", "", f"{why or 'no file can be written to'}; {_PRINTED}")
        file = _file(Path(temporary, DEFAULT_FILE))
    return replace(file, sentence=f"{why}; {file.sentence}") if why else file


def _file(path: Path) -> Destination:
    if not _can_export():
        raise LlmtraceError(f"a file of spans needs the OTLP encoder: {install_hint('otlp')}; or use --console")
    try:
        absolute = path.expanduser().absolute()
    except FileNotFoundError:
        raise LlmtraceError(f"{path} cannot be written to, since the working folder is gone: name its folder") from None
    folder = next(parent for parent in absolute.parents if parent.exists())  # the others are made
    if absolute.is_dir() or not folder.is_dir() or not os.access(absolute if absolute.exists() else folder, os.W_OK):
        raise LlmtraceError(f"{path} cannot be written to: name a file that can")
    return Destination("file", str(absolute), f"spans go into {path}: llmtrace show {path}")


def _can_export() -> bool:
    return interpreter.finds("opentelemetry.exporter.otlp.proto.http")


def _can_view() -> bool:
    return all(map(interpreter.finds, ("starlette", "uvicorn", "duckdb")))


def _collector_listens() -> bool:
    return listens(COLLECTOR) and _can_export()


def _can_start_viewer() -> bool:
    return _can_export() and _can_view() and not listens(VIEWER)  # else the port is somebody else's


def _start_viewer() -> int:
    """Start a viewer that outlives this process; returns its process id once it answers."""
    log = Path(scratch.folder()) / f"llmtrace-view-{os.getpid()}.log"
    with log.open("wb") as output:
        started = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "llmtrace",
                "view",
                "--port",
                VIEWER.rpartition(":")[2],
                "--no-default-ports",  # these are for a viewer that is started by hand, and ended by hand
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    until = time.monotonic() + _VIEWER_STARTS_WITHIN_S
    while time.monotonic() < until and started.poll() is None:
        if is_viewer(VIEWER):
            return started.pid
        time.sleep(0.05)
    if started.poll() is None:
        started.terminate()
    lines = log.read_text(errors="replace").strip().splitlines()
    raise LlmtraceError(f"llmtrace view did not start: {lines[-1] if lines else 'it said nothing'}")
