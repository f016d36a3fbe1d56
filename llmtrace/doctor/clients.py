"""Which client libraries are traced: asked of what is really patched, not of what was meant to be."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from llmtrace.doctor.findings import Finding, installed_version, one_line
from llmtrace.observe import internal_errors
from llmtrace.providers.declare import operations
from llmtrace.version import install_hint


def examine(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Each client that there is an instrumentor for, and other instrumentations of the same libraries."""
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
            finding = _client(client, entry)
            yield finding
            if finding.mark == "ok":
                traced = operations(entry.load()().client.load())
                yield Finding("note", client, f"traced there: {', '.join(traced)}")
        for other in others:
            if client in other.name:
                package = other.dist.name if other.dist else other.value
                yield Finding("note", client, f"also patched by {package}: phases go under its span")
    if not ours:
        yield Finding("missing", "llmtrace", "no client is registered: is llmtrace installed properly?")
    for entry in others:
        if entry.name.startswith("httpx"):
            yield Finding("note", entry.name, f"patched by {entry.dist.name if entry.dist else entry.value} as well")


def summary(findings: Iterable[Finding]) -> str:
    """One sentence: which clients are traced here."""
    traced = [finding.detail.partition(":")[0] for finding in findings if finding.mark == "ok"]
    if not traced:
        return f"Traced: nothing, since no client library that is supported is installed ({install_hint('openai')})."
    return f"Traced: {', '.join(traced)}."


def _client(client: str, entry: EntryPoint) -> Finding:
    """Whether one client's calls are traced, by its instrumentor; the client itself is not imported."""
    try:
        instrumentor = entry.load()()
        library = instrumentor.client
        conflict = instrumentor.unsupported()
    except Exception as error:  # a package that it needs is missing or broken
        return Finding("broken", client, f"its instrumentor cannot be loaded: {one_line(error)}")
    version = installed_version(library.distribution)
    if version is None:
        return Finding("note", client, f"{library.distribution} is not installed")
    if conflict is not None:
        supported = library.versions.replace(" ", "")
        return Finding(
            "missing",
            client,
            f"{library.distribution} {version} is not supported (needs {supported}): not traced, "
            "but for what it calls through another client that is",
            f'pip install "{library.distribution}{supported}"',
        )
    name = f"{library.distribution} {version}"
    if instrumentor.patches is None:
        return Finding("ok", client, f"{name}: traced once something switches it on")
    if internal_errors.counts[f"patching {library.package}"]:
        return Finding("missing", client, f"{name} cannot be patched: see the log")
    return _hooked(client, name, instrumentor)


def _hooked(client: str, name: str, instrumentor: Any) -> Finding:
    """What is really wrapped now: what was meant to be says little (a package may be imported and not be hooked)."""
    functions = instrumentor.patches.functions()
    if functions:
        return Finding("ok", client, f"{name}: patched in this process ({len(functions)} functions)")
    package = instrumentor.client.package
    if package in sys.modules:
        if instrumentor.patches.seen == {package}:  # the modules of its calls are imported on first use
            return Finding("ok", client, f"{name}: patched in this process as soon as it is used")
        return Finding("missing", client, f"{name} is imported, and none of its functions is patched")
    return Finding("ok", client, f"{name}: patched in this process as soon as it is imported")
