"""The package's version and the name it is distributed under, both kept in step with pyproject.toml by a test."""

VERSION = "0.1.0"

DISTRIBUTION = "llmtrace-phases"
"""The distribution's name for pip. The import is ``llmtrace``, but on PyPI that name is another package's."""


GRPC_EXPORTER_COMMAND = "pip install opentelemetry-exporter-otlp-proto-grpc"
"""Brings OpenTelemetry's exporter for gRPC, and grpcio with it."""


def install_hint(extra: str = "", *, upgrade: bool = False) -> str:
    """The command that installs llmtrace, with an extra if one is named: ``pip install "llmtrace-phases[openai]"``."""
    requirement = f"{DISTRIBUTION}[{extra}]" if extra else DISTRIBUTION
    return f'pip install {"--upgrade " if upgrade else ""}"{requirement}"'
