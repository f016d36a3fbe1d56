"""What is installed, what would be traced, where spans go, and what is missing: nothing secret is ever printed."""

from __future__ import annotations

import difflib
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from llmtrace import config, name_clash, unsplit
from llmtrace.observe import internal_errors
from llmtrace.version import DISTRIBUTION, install_hint

Mark = Literal["ok", "note", "missing", "broken"]

_SYMBOLS: dict[Mark, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "note": ("·", "dim"),
    "missing": ("!", "yellow"),
    "broken": ("✗", "red"),
}
_ASCII = {"✓": "+", "·": "-", "!": "!", "✗": "x"}
_PACKAGES = (
    # what it is called, what it is for, how to get it; no command where llmtrace itself brings it or does without
    (DISTRIBUTION, "", ""),
    ("opentelemetry-api", "", install_hint()),
    ("opentelemetry-sdk", "", install_hint()),
    ("opentelemetry-instrumentation", "", install_hint()),
    ("opentelemetry-semantic-conventions", "", install_hint()),
    ("wrapt", "", install_hint()),
    ("opentelemetry-distro", "lets opentelemetry-instrument set the SDK up", "pip install opentelemetry-distro"),
    ("opentelemetry-exporter-otlp-proto-http", "sends spans over OTLP", install_hint("otlp")),
    ("opentelemetry-exporter-otlp-proto-grpc", "sends spans over OTLP/gRPC", ""),
    ("openai", "", ""),
    ("httpx", "", ""),
    ("httpx2", "", ""),
    ("torch", "runs the reference server", install_hint("reference")),
    ("transformers", "runs the reference server", install_hint("reference")),
    ("starlette", "runs the reference server", install_hint("reference")),
    ("uvicorn", "runs the reference server", install_hint("reference")),
)
_NEEDED = ("opentelemetry-api", "opentelemetry-sdk", "opentelemetry-instrumentation", "wrapt")
_SHOWN = (
    # settings of OpenTelemetry whose values cannot hold a secret; of all others only the name is told
    "OTEL_SDK_DISABLED",
    "OTEL_SERVICE_NAME",
    "OTEL_TRACES_EXPORTER",
    "OTEL_METRICS_EXPORTER",
    "OTEL_LOGS_EXPORTER",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_PROPAGATORS",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS",
    "OTEL_SEMCONV_STABILITY_OPT_IN",
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
)
_FURTHER = {"LLMTRACE_CACHE"}  # the reference server's own
_SECRET = re.compile(r"key|token|secret|password|passwd|credential|auth|header|cookie", re.IGNORECASE)
_SAFE_VALUE = re.compile(r"[\w.,:;%+\- /*]{1,60}")
_CONNECT_TIMEOUT = 0.5


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: a mark, the subject, the finding, and the command that mends it."""

    mark: Mark
    name: str
    detail: str = ""
    fix: str = ""


@dataclass(slots=True)
class Report:
    """Findings by section."""

    sections: dict[str, list[Finding]] = field(default_factory=dict[str, list[Finding]])

    @property
    def tracing_possible(self) -> bool:
        """Whether a call made here could leave a span at all."""
        return not any(finding.mark == "broken" for section in self.sections.values() for finding in section)


def examine(environ: Mapping[str, str] | None = None, traces: Path | None = None) -> Report:
    """Look around; imports nothing heavy but torch, and that only where it is installed.

    ``traces``: a file of spans, of which it is told what keeps their phases merged.

    Raises:
        LlmtraceError: that file cannot be read.
    """
    environ = os.environ if environ is None else environ
    phases = [*_unsplit(traces), *_baseline(environ)]
    return Report(
        {
            **({"Phases": phases} if phases else {}),
            "Installed": list(_installed()),
            "Clients": list(_clients(environ)),
            "Export": list(_export(environ)),
            "Settings": list(_settings(environ)),
            "Device": list(_device()),
        }
    )


def run(console: Any, environ: Mapping[str, str] | None = None, traces: Path | None = None) -> int:
    """Print the report on a rich console. 1 if something makes tracing impossible, else 0."""
    from rich.text import Text

    report = examine(environ, traces)
    ascii_only = console.options.ascii_only
    width = max((len(f.name) for section in report.sections.values() for f in section), default=0)
    for title, findings in report.sections.items():
        console.print(Text(title, style="bold"))
        for finding in findings:
            symbol, style = _SYMBOLS[finding.mark]
            line = Text.assemble(
                "  ",
                (_ASCII[symbol] if ascii_only else symbol, style),
                f" {finding.name.ljust(min(width, 40))}  {finding.detail}",
            )
            console.print(Text(line.plain.rstrip(), spans=line.spans), soft_wrap=True)
        console.print()
    fixes = list(dict.fromkeys((f.fix, f.name) for section in report.sections.values() for f in section if f.fix))
    if fixes:
        console.print(Text("To mend", style="bold"))
        by_command: dict[str, list[str]] = {}
        for command, name in fixes:
            by_command.setdefault(command, []).append(name)
        for command, names in by_command.items():
            console.print(Text.assemble("  ", command, (f"  # {', '.join(names)}", "dim")), soft_wrap=True)
        console.print()
    if report.tracing_possible:
        console.print(Text("Tracing is possible here.", style="green"))
        return 0
    console.print(Text("Tracing is not possible here: see what is marked as broken above.", style="red"))
    return 1


# What is installed


def _installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _installed() -> Iterator[Finding]:
    yield Finding("note", "python", f"{sys.version.split()[0]}, {sys.platform}")
    yield from _name_clash()
    for package, purpose, command in _PACKAGES:
        version = _installed_version(package)
        if version:
            yield Finding("ok", package, version)
        elif package in _NEEDED:
            yield Finding("broken", package, "not installed, and tracing cannot do without it", command)
        elif command:
            yield Finding("missing", package, f"not installed: {purpose}" if purpose else "not installed", command)
        else:
            yield Finding("note", package, "not installed")


def _name_clash() -> Iterator[Finding]:
    other = name_clash.installed()
    if name_clash.imported():
        which = f"{name_clash.OTHER} {other}" if other else "another package"
        detail = f"import llmtrace gives {which}, which is not this one and has overwritten it"
        yield Finding("broken", name_clash.OTHER, detail, name_clash.mend())
    elif other:
        detail = f"{other}, another package, is installed beside {DISTRIBUTION}: both write to one folder"
        yield Finding("missing", name_clash.OTHER, detail, name_clash.mend())


# What would be patched


def _clients(environ: Mapping[str, str]) -> Iterator[Finding]:
    disabled = {name.strip() for name in environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").split(",")}
    ours: list[EntryPoint] = []
    others: list[EntryPoint] = []
    for entry in sorted(entry_points(group="opentelemetry_instrumentor"), key=lambda entry: entry.name):
        (ours if entry.name.startswith("llmtrace-") else others).append(entry)
    for entry in ours:
        client = entry.name.removeprefix("llmtrace-")
        if entry.name in disabled or "*" in disabled:
            yield Finding("missing", client, "switched off by OTEL_PYTHON_DISABLED_INSTRUMENTATIONS")
        else:
            yield _client(client, entry)
        for other in others:
            if client in other.name:
                package = other.dist.name if other.dist else other.value
                yield Finding("note", client, f"also patched by {package}: phases go under its span")
    if not ours:
        yield Finding("missing", "llmtrace", "no client is registered: is llmtrace installed properly?")
    for entry in others:
        if entry.name.startswith("httpx"):
            yield Finding("note", entry.name, f"patched by {entry.dist.name if entry.dist else entry.value} as well")


def _client(client: str, entry: EntryPoint) -> Finding:
    """Whether one client's calls are traced, by its instrumentor; the client itself is not imported."""
    try:
        instrumentor = entry.load()()
        library = instrumentor.client
        conflict = instrumentor.unsupported()
    except Exception as error:  # a package that it needs is missing or broken
        return Finding("broken", client, f"its instrumentor cannot be loaded: {' '.join(str(error).split())[:120]}")
    version = _installed_version(library.distribution)
    if version is None:
        return Finding("missing", client, f"{library.distribution} is not installed", install_hint(client))
    if conflict is not None:
        supported = library.versions.replace(" ", "")
        return Finding(
            "missing",
            client,
            f"{library.distribution} {version} is not supported (needs {supported}): not traced, "
            "but for what it calls through another client that is",
            f'pip install "{library.distribution}{supported}"',
        )
    state = "supported, patched by opentelemetry-instrument or llmtrace.instrument()"
    if instrumentor.patches is not None:  # traced in this process: under opentelemetry-instrument, say
        failed = internal_errors.counts[f"patching {library.package}"]
        state = "cannot be patched: see the log" if failed else _hooked(instrumentor)
    return Finding("ok", client, f"{library.distribution} {version}: {state}")


def _hooked(instrumentor: Any) -> str:
    """What is really wrapped now: what was meant to be says little (a package may be imported and not be hooked)."""
    functions = instrumentor.patches.functions()
    if functions:
        return f"patched in this process ({len(functions)} functions)"
    if instrumentor.client.package in sys.modules:
        return "imported, and none of its functions is patched"
    return "patched in this process as soon as it is imported"


# Where spans go


def _export(environ: Mapping[str, str]) -> Iterator[Finding]:
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        yield Finding("broken", "OTEL_SDK_DISABLED", "true: no span is made", "unset OTEL_SDK_DISABLED")
    yield from _sampler(environ)
    if not entry_points(group="opentelemetry_configurator"):
        yield Finding(
            "missing",
            "opentelemetry-instrument",
            "has no distribution to set up the SDK: spans go nowhere unless the program does it",
            "pip install opentelemetry-distro",
        )
    yield from _exporters(environ)
    for name in sorted(environ):
        if name.startswith("OTEL_") and name.endswith("HEADERS"):
            yield Finding("note", name, f"sends {_header_names(environ[name])} (values not shown)")


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
        yield Finding("ok", "sampler", f"{_plain(sampler)}{f' {_plain(ratio)}' if ratio else ''}")
    else:
        yield Finding("ok", "sampler", "parentbased_always_on (the default)")


def _exporters(environ: Mapping[str, str]) -> Iterator[Finding]:
    exporters = environ.get("OTEL_TRACES_EXPORTER")
    names = [name.strip() for name in (exporters or "otlp").split(",") if name.strip()]
    installed_exporters = {entry.name for entry in entry_points(group="opentelemetry_traces_exporter")}
    if names == ["none"]:
        yield Finding("missing", "OTEL_TRACES_EXPORTER", "none: spans are made and dropped")
        return
    for name in names:
        if name == "none":
            continue
        protocol = _protocol(environ)
        real = name
        if name == "otlp":
            real = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
        if real in installed_exporters:
            yield Finding(
                "ok", "exporter", f"{_plain(name)}{'' if exporters else ' (what opentelemetry-instrument takes)'}"
            )
        elif name in ("otlp", "otlp_proto_http", "otlp_proto_grpc"):
            command = install_hint("otlp")
            if real == "otlp_proto_grpc":
                command = "pip install opentelemetry-exporter-otlp-proto-grpc"
            yield Finding("broken" if exporters else "missing", "exporter", f"{_plain(name)} is not installed", command)
        else:
            yield Finding("broken", "exporter", f"{_plain(name)} (OTEL_TRACES_EXPORTER) is not installed")
        if real.startswith("otlp"):
            yield _endpoint(environ, protocol)


def _protocol(environ: Mapping[str, str]) -> str:
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if environ.get(name, "").strip():
            return environ[name].strip()
    return "http/protobuf"


def _endpoint(environ: Mapping[str, str], protocol: str) -> Finding:
    default = "http://localhost:4317" if protocol == "grpc" else "http://localhost:4318"
    for name in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        if environ.get(name, "").strip():
            url = environ[name].strip()
            break
    else:
        name, url = "endpoint", default
    default_note = " (the default)" if name == "endpoint" else ""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return Finding("missing", name, "is not a URL")
    if not host:
        return Finding("missing", name, "is not a URL")
    shown_url = f"{_plain(parts.scheme)}://{host}:{port}{default_note}"
    try:
        socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT).close()
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else (error.strerror or str(error)).lower()
        return Finding("missing", name, f"{shown_url}: {why}")
    return Finding("ok", name, f"{shown_url} answers")


def _header_names(value: str) -> str:
    names = [pair.split("=")[0].strip() for pair in value.split(",") if "=" in pair]
    safe = [name for name in names if re.fullmatch(r"[A-Za-z0-9-]{1,40}", name)]
    return ", ".join(safe) if safe and len(safe) == len(names) else "headers"


# Settings


def _settings(environ: Mapping[str, str]) -> Iterator[Finding]:
    known_names = _known_settings()
    any_set = False
    wrong = list(_wrong_settings(environ))
    yield from wrong
    refused = {finding.name for finding in wrong}
    for name in sorted(environ):
        if name in refused:
            any_set = True
        elif name.startswith("LLMTRACE_"):
            any_set = True
            if name not in known_names:
                near = difflib.get_close_matches(name, known_names, 1)
                yield Finding("missing", name, f"unknown{f', did you mean {near[0]}?' if near else ''}")
            else:
                yield Finding("ok", name, _shown(name, environ[name]))
        elif name.startswith("OTEL_") and not name.endswith(("HEADERS", "ENDPOINT")):
            any_set = True
            yield Finding("note", name, _shown(name, environ[name]) if name in _SHOWN else "set (value not shown)")
    if not any_set:
        yield Finding("note", "environment", "no LLMTRACE_ or OTEL_ setting: the defaults hold")


def _wrong_settings(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Values that are ignored because their setting does not take them; the value itself is not repeated."""
    for name, takes in config.environment_slips(environ).items():
        if name.startswith("LLMTRACE_"):
            yield Finding("broken", name, f"is set to what it does not take; it takes {takes}")
        else:  # others may understand the value
            yield Finding("missing", name, f"is set to what llmtrace does not take, and does not use; it takes {takes}")


def _known_settings() -> set[str]:
    return set(config.environment_names.values()) | _FURTHER


def _shown(name: str, value: str) -> str:
    return "set (value not shown)" if _SECRET.search(name) else _plain(value)


def _plain(value: str) -> str:
    """``value`` if it looks like a plain word or number; anything else might be a secret or steer the terminal."""
    return value if _SAFE_VALUE.fullmatch(value) else "set (value not shown)"


# What keeps phases merged


def _unsplit(traces: Path | None) -> Iterator[Finding]:
    """Each route in a file of spans: how many of its calls have a phase that stands for several, and why."""
    if traces is None:
        return
    states = unsplit.of_traces(traces)
    if not states:
        yield Finding("note", traces.name, "no call in it has phases")
    for state in states:
        name, of = _clean(state.name), f"{state.calls:,} call{'' if state.calls == 1 else 's'}"
        if not state.merged:
            yield Finding("ok", name, f"{of}, all told apart")
        elif not state.lately:
            yield Finding("ok", name, f"{of}, all of the last {unsplit.RECENT} told apart")
        recent = min(state.calls, unsplit.RECENT)
        last = "" if recent == state.calls else "last "
        for number, sentence in state.reasons:
            yield Finding("missing", name, f"{number} of the {last}{recent} calls: {_clean(sentence)}")


def _clean(words: str) -> str:
    """What a file says, as a terminal may have it."""
    from llmtrace.view import text

    return text.clean(words)


def _baseline(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Each route in the saved baseline that the settings name."""
    if "LLMTRACE_BASELINE_PATH" in config.environment_slips(environ):
        return
    chosen = config.settings({}, environ)
    path = Path(chosen.baseline_path)
    if not chosen.baseline_path or not path.is_file():
        return
    routes = unsplit.of_baseline(path, chosen.min_calls, chosen.min_spread)
    if not routes:
        yield Finding("note", "baseline", "no route in it yet, or none of this version's")
    for name, sentence in routes:
        mark: Mark = "ok" if sentence is None else "missing"
        yield Finding(mark, _clean(name), f"saved baseline: {_clean(sentence or 'its calls are told apart')}")


# The device


def _device() -> Iterator[Finding]:
    if _installed_version("torch") is None:
        yield Finding("note", "torch", "not installed: no device to look at")
        return
    try:
        torch = import_module("torch")
    except Exception as error:  # a broken build of torch raises whatever its loader raises
        reason = " ".join(str(error).split())[:120]
        yield Finding("missing", "torch", f"installed, but cannot be imported: {reason}", install_hint("reference"))
        return
    try:
        cuda = bool(torch.cuda.is_available())
        name = str(torch.cuda.get_device_name(0)) if cuda else ""
    except Exception as error:  # a driver that does not fit
        yield Finding("note", "cuda", f"not usable: {' '.join(str(error).split())[:120]}")
        return
    if cuda:
        yield Finding("ok", "cuda", f"{name}: phases timed on the device")
    else:
        yield Finding("note", "cuda", "not available: the reference server runs on the CPU")
