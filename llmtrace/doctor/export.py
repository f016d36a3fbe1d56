"""Where spans go: shown by an export of nothing, over the protocol and with the headers that are in force."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from llmtrace.config import is_disabled
from llmtrace.doctor.findings import Finding, Mark, plain
from llmtrace.errors import LlmtraceError
from llmtrace.launch import destinations, signals
from llmtrace.launch.probe import is_a_page, patience, refusal
from llmtrace.launch.signals import Signal
from llmtrace.version import GRPC_EXPORTER_COMMAND, install_hint

_BESIDE: Final[tuple[Signal, ...]] = ("METRICS", "LOGS")
_ENDPOINTS: Final = (signals.own("TRACES", "ENDPOINT"), signals.general("ENDPOINT"))


class Spans(NamedTuple):
    """What is known of where spans go."""

    findings: list[Finding]
    summary: str
    """One sentence."""


def examine(environ: Mapping[str, str]) -> Spans:
    """The sampler, the exporter, and whether its endpoint takes an export."""
    findings: list[Finding] = []
    if is_disabled(environ):
        findings.append(Finding("broken", "OTEL_SDK_DISABLED", "true: no span is made", "unset OTEL_SDK_DISABLED"))
    findings += _sampler(environ)
    destination = destinations.from_environ(environ)
    if destination is not None:
        findings += _launched(destination, environ)
        summary = f"Spans: {destination.sentence}."
    else:
        chosen = list(_exporters(environ, _is_launched_by_opentelemetry() or _says_where(environ)))
        findings += chosen
        summary = _summary(chosen, environ)
        findings += _beside(environ)
    findings += [
        _headers(name, environ[name])
        for name in sorted(environ)
        if name.startswith("OTEL_") and name.endswith("HEADERS")
    ]
    return Spans(findings, summary)


def _is_launched_by_opentelemetry() -> bool:
    return "opentelemetry.instrumentation.auto_instrumentation" in sys.modules


def _says_where(environ: Mapping[str, str]) -> bool:
    """Whether the environment says where spans are to go; else the defaults hurt nobody who uses ``llmtrace run``."""
    return any(environ.get(name, "").strip() for name in ("OTEL_TRACES_EXPORTER", *_ENDPOINTS))


def _summary(chosen: list[Finding], environ: Mapping[str, str]) -> str:
    if _is_launched_by_opentelemetry() or _says_where(environ):
        return "Spans: " + "; ".join(finding.detail for finding in chosen if finding.name != "distribution") + "."
    try:
        return f"Spans: under llmtrace run, {destinations.foresee(environ)}."
    except LlmtraceError as error:
        return f"Spans: under llmtrace run, nowhere: {error}."


def _sampler(environ: Mapping[str, str]) -> Iterator[Finding]:
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    ratio = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    never = sampler in ("always_off", "parentbased_always_off")
    if sampler.endswith("traceidratio"):
        try:
            never = ratio != "" and float(ratio) <= 0
        except ValueError:
            yield Finding("missing", "OTEL_TRACES_SAMPLER_ARG", "is not a number: the SDK samples everything")
    if never:
        yield Finding("broken", "OTEL_TRACES_SAMPLER", "samples nothing", "unset OTEL_TRACES_SAMPLER")
    elif sampler:
        yield Finding("ok", "sampler", f"{plain(sampler)}{f' {plain(ratio)}' if ratio else ''}")
    else:
        yield Finding("ok", "sampler", "parentbased_always_on (the default)")


def _launched(destination: destinations.Destination, environ: Mapping[str, str]) -> Iterator[Finding]:
    """What an ``llmtrace run`` around this process has chosen."""
    if destination.kind.startswith("otlp"):
        yield _tried("llmtrace run", destination.place, destination.kind == "otlp_grpc", environ, "missing")
    else:
        yield Finding("ok", "llmtrace run", destination.sentence)
    if place := destination.metrics_place:
        # Where nobody has named it, it is tried whether this place takes metrics at all.
        named = bool(environ.get(signals.own("METRICS", "ENDPOINT")))
        grpc = destination.metrics_kind == "otlp_grpc"
        yield _tried("llmtrace run, metrics", place, grpc, environ, "missing" if named else "note", "METRICS")


def _beside(environ: Mapping[str, str]) -> Iterator[Finding]:
    """The places that metrics and log events have of their own."""
    for signal in _BESIDE:
        name, url = signals.own(signal, "ENDPOINT"), environ.get(signals.own(signal, "ENDPOINT"), "").strip()
        if not url or environ.get(f"OTEL_{signal}_EXPORTER", "").strip() == "none":
            continue
        grpc = signals.protocol(environ, signal) == "grpc"
        try:
            signals.exporter(signal, grpc=grpc)
        except ImportError:
            mend = GRPC_EXPORTER_COMMAND if grpc else install_hint("otlp")
            yield Finding("missing", name, "the exporter that it needs is not installed", mend)
        else:
            yield _tried(name, url, grpc, environ, "missing", signal)


def _exporters(environ: Mapping[str, str], meant: bool) -> Iterator[Finding]:
    """What OpenTelemetry's launcher and programs that read its variables send by. ``meant``: somebody relies on it."""
    amiss: Mark = "missing" if meant else "note"
    if not entry_points(group="opentelemetry_configurator"):
        yield Finding(
            "missing" if _is_launched_by_opentelemetry() else "note",
            "distribution",
            "none: opentelemetry-instrument sets no SDK up, and spans go nowhere unless the program does it",
            "pip install opentelemetry-distro",
        )
    exporters = environ.get("OTEL_TRACES_EXPORTER", "")
    names = [name.strip() for name in (exporters or "otlp").split(",") if name.strip()]
    if names == ["none"]:
        yield Finding(
            "missing", "OTEL_TRACES_EXPORTER", "none: spans are made and dropped", "unset OTEL_TRACES_EXPORTER"
        )
        return
    available = {entry.name for entry in entry_points(group="opentelemetry_traces_exporter")}
    for name in names:
        if name == "none":
            continue
        if name not in ("otlp", "otlp_proto_http", "otlp_proto_grpc"):
            there = name in available
            detail = f"{plain(name)}{'' if there else ' (OTEL_TRACES_EXPORTER) is not installed'}"
            yield Finding("ok" if there else "broken", "exporter", detail)
            continue
        grpc = name == "otlp_proto_grpc" or (name == "otlp" and signals.protocol(environ) == "grpc")
        if f"otlp_proto_{'grpc' if grpc else 'http'}" in available:
            variable, url = _endpoint(environ, grpc)
            yield _tried(variable, url, grpc, environ, amiss)
        else:
            mark: Mark = "broken" if exporters else "missing"
            yield Finding(
                mark,
                "exporter",
                f"{plain(name)} is not installed",
                GRPC_EXPORTER_COMMAND if grpc else install_hint("otlp"),
            )


def _endpoint(environ: Mapping[str, str], grpc: bool) -> tuple[str, str]:
    """The variable that names the endpoint, and the address that traces are sent to."""
    name, url = signals.setting(environ, "TRACES", "ENDPOINT")
    if name == signals.own("TRACES", "ENDPOINT"):
        return name, url
    url = url or ("http://localhost:4317" if grpc else "http://localhost:4318")
    return name or "endpoint", url if grpc else f"{url.rstrip('/')}{signals.PATHS['TRACES']}"


def _tried(
    name: str, url: str, grpc: bool, environ: Mapping[str, str], amiss: Mark, signal: Signal = "TRACES"
) -> Finding:
    """Send an empty export there. ``amiss``: how a failure is marked."""
    if grpc and destinations.is_grpc_target(url):
        return _outcome(name, f"{plain(url)} over gRPC", url, grpc, environ, amiss, signal)
    url = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        host, port, parts = None, 0, urlsplit("")
    if not host:
        return Finding(amiss, name, "the endpoint is not a URL")
    default = " (the default)" if name == "endpoint" else ""
    shown = f"{plain(parts.scheme)}://{host}:{port}{default} over {'gRPC' if grpc else 'HTTP'}"
    if not destinations.listens(url):
        return Finding(amiss, name, f"{shown}: nobody listens", f"unset {name}" if name.startswith("OTEL_") else "")
    return _outcome(name, shown, url, grpc, environ, amiss, signal)


def _outcome(
    name: str, shown: str, url: str, grpc: bool, environ: Mapping[str, str], amiss: Mark, signal: Signal
) -> Finding:
    """What became of an empty export. ``shown``: the address as people may see it."""
    why = refusal(lambda: _export(url, grpc, environ, signal)) or (None if grpc else is_a_page(url, environ, signal))
    if why is None:
        return Finding("ok", name, f"{shown} took an empty export")
    return Finding(amiss, name, f"{shown}: {why}")


def _export(url: str, grpc: bool, environ: Mapping[str, str], signal: Signal) -> Any:
    """Send nothing, by an exporter as a program has it."""
    from opentelemetry.util.re import parse_env_headers

    headers = dict(parse_env_headers(signals.setting(environ, signal, "HEADERS")[1], liberal=True))
    make = signals.exporter(signal, grpc=grpc)
    exporter = make(endpoint=url, headers=headers, timeout=patience(environ, signal))
    try:
        return exporter.export(signals.nothing(signal))
    finally:
        exporter.shutdown()


def _headers(name: str, value: str) -> Finding:
    if any(part.strip() and "=" not in part for part in value.split(",")):
        return Finding("missing", name, "is not NAME=VALUE, with commas between: what is not is not sent")
    return Finding("note", name, f"sends {_header_names(value)} (values not shown)")


def _header_names(value: str) -> str:
    names = [pair.split("=")[0].strip() for pair in value.split(",") if "=" in pair]
    safe = [name for name in names if re.fullmatch(r"[A-Za-z0-9-]{1,40}", name)]
    return ", ".join(safe) if safe and len(safe) == len(names) else "headers"
