"""Settings from the environment; nothing that may be a secret is shown."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping

from llmtrace import config
from llmtrace.doctor.findings import Finding, plain
from llmtrace.launch.destinations import VARIABLES

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
_FURTHER = {"LLMTRACE_CACHE", *VARIABLES}  # the reference server's own, and those of `llmtrace run`
_SECRET = re.compile(r"key|token|secret|password|passwd|credential|auth|header|cookie", re.IGNORECASE)


def examine(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Each variable of llmtrace's and OpenTelemetry's that is set."""
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
    """Values that are passed over because their setting does not take them; the value itself is not repeated."""
    for name, takes in config.environment_slips(environ).items():
        others = "" if name.startswith("LLMTRACE_") else " by llmtrace, though others may understand it"
        yield Finding("missing", name, f"its value is ignored{others}; it takes {takes}", f"unset {name}")


def _known_settings() -> set[str]:
    return set(config.environment_names.values()) | _FURTHER


def _shown(name: str, value: str) -> str:
    return "set (value not shown)" if _SECRET.search(name) else plain(value)
