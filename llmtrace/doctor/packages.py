"""What is installed, and the device that torch sees."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from typing import NamedTuple

from llmtrace import interpreter, name_clash
from llmtrace.doctor.findings import Finding, Mark, installed_version, one_line
from llmtrace.version import DISTRIBUTION, install_hint


class _Package(NamedTuple):
    name: str
    purpose: str = ""
    command: str = ""
    """What installs it."""
    without: Mark = "note"
    """How it is marked where it is not installed."""


_PACKAGES = (
    _Package(DISTRIBUTION),
    *(
        _Package(name, "tracing cannot do without it", install_hint(upgrade=True), "broken")
        for name in (
            "opentelemetry-api",
            "opentelemetry-sdk",
            "opentelemetry-instrumentation",
            "opentelemetry-semantic-conventions",
            "wrapt",
        )
    ),
    _Package("opentelemetry-exporter-otlp-proto-http", "sends spans over OTLP", install_hint("otlp"), "missing"),
    _Package("opentelemetry-exporter-otlp-proto-grpc", "sends spans over OTLP/gRPC"),
    _Package("opentelemetry-distro", "opentelemetry-instrument needs it to set the SDK up"),
    _Package("httpx"),
    _Package("httpx2"),
    *(
        _Package(name, "runs the reference server", install_hint("reference"))
        for name in ("torch", "transformers", "starlette", "uvicorn")
    ),
)


def examine() -> Iterator[Finding]:
    """The interpreter, another package of the same name, and each package that has a part in tracing."""
    yield Finding("note", "python", f"{sys.version.split()[0]}, {sys.platform}")
    yield from _name_clash()
    for package in _PACKAGES:
        version = installed_version(package.name)
        if version:
            yield Finding("ok", package.name, version)
        else:
            detail = f"not installed: {package.purpose}" if package.purpose else "not installed"
            yield Finding(package.without, package.name, detail, package.command)


def _name_clash() -> Iterator[Finding]:
    other = name_clash.installed()
    if name_clash.imported():
        which = f"{name_clash.OTHER} {other}" if other else "another package"
        detail = f"import llmtrace gives {which}, which is not this one and has overwritten it"
        yield Finding("broken", name_clash.OTHER, detail, name_clash.mend())
    elif other:
        detail = f"{other}, another package, is installed beside {DISTRIBUTION}: both write to one folder"
        yield Finding("missing", name_clash.OTHER, detail, name_clash.mend())


def device(*, ask: bool) -> Iterator[Finding]:
    """Whether torch is there, and if ``ask``, which takes seconds, whether it can be imported and sees a GPU."""
    if installed_version("torch") is None:
        yield Finding("note", "torch", "not installed: no device to look at")
        return
    try:
        torch = import_module("torch") if ask or not interpreter.finds("torch") else None
    except Exception as error:  # a broken build of torch raises whatever its loader raises
        detail = f"installed, but cannot be imported: {one_line(error)}"
        yield Finding("missing", "torch", detail, install_hint("reference"))
        return
    if torch is None:
        return
    try:
        cuda = bool(torch.cuda.is_available())
        name = str(torch.cuda.get_device_name(0)) if cuda else ""
    except Exception as error:  # a driver that does not fit
        yield Finding("note", "cuda", f"not usable: {one_line(error)}")
        return
    if cuda:
        yield Finding("ok", "cuda", f"{name}: phases timed on the device")
    else:
        yield Finding("note", "cuda", "not available: the reference server runs on the CPU")
