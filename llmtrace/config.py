"""Settings: from arguments, else from the environment, read once when a client is instrumented."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from llmtrace.conventions import SEMCONVS, V0_1_0
from llmtrace.errors import LlmtraceError, did_you_mean
from llmtrace.fixed import fixed

if TYPE_CHECKING:
    from llmtrace.phases.objectives import Patterns

_log = logging.getLogger("llmtrace")
_slips_told: set[str] = set()
CAPTURE_ENV = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_CAPTURE_MODES = ("no_content", "span_only", "event_only", "span_and_event")
_PROPAGATE_MODES = ("auto", "always", "never")
_PARENT_MODES = ("auto", "own", "existing")


@fixed(eq=True)
class Settings:
    """The settings, by argument of ``llmtrace.instrument`` or by environment variable."""

    capture_content: str = "no_content"
    """Messages on spans: no_content, span_only, event_only, span_and_event (True: span_only)."""
    server_timings: bool = True
    """Use the timings that the provider reports. False: the blind mode that accuracy is measured in."""
    propagate: str = "auto"
    """Send ``traceparent``: auto (to private and loopback hosts only), always, never."""
    request_usage: bool = False
    """Ask for usage in streams (``stream_options.include_usage``): the one setting that changes a request."""
    metrics: bool = True
    """Record metrics where a MeterProvider is set up."""
    semconv: str = V0_1_0
    """Version of the GenAI conventions whose metrics are recorded: v0.1.0, or v1.41 for the names of before it."""
    parent: str = "auto"
    """Whose GenAI span the phases go under: auto (another instrumentation's if it is there), own, existing."""
    diagnosis: bool = True
    """Name the causes of slow or odd calls."""
    min_calls: int = 30
    """Calls on a route before queue and prefill are estimated."""
    min_spread: float = 4.0
    """Spread in uncached prompt tokens (90th over 10th percentile) asked for before estimating."""
    baseline_path: str = ""
    """File in which processes share what they learned of each route for estimating (tokens and seconds, no text)."""
    baseline_prior: str = ""
    """JSON file that says what the hardware needs at least: ``{"seconds_per_prefill_token": ...}``."""
    slo_ttft: Patterns = ()
    """Objective for the TTFT of streams, s: a number, or pairs of a pattern over routes and a number."""
    slo_itl: Patterns = ()
    """Objective for the mean time between a call's output tokens (TPOT), s; given in the same way."""
    slo_total: Patterns = ()
    """Objective for a call's whole duration, s; given in the same way."""
    slo_headers: bool = False
    """Send a call's objectives as headers that llm-d's scheduler reads."""
    flush_on_sigterm: bool = False
    """On a SIGTERM that nobody handles: end open calls and flush (5 s at most), then let it end the process."""
    tokenizer: Callable[[str], int] | None = None
    """Counts a text's tokens, for the times between tokens of streams whose chunks do not say how many they hold."""


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ValueError("true or false")


def _one_of(allowed: tuple[str, ...]) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        text = str(value).strip().lower()
        if text not in allowed:
            raise ValueError(" or ".join(allowed))
        return text

    return parse


def _capture(value: Any) -> str:
    if isinstance(value, bool):
        return "span_only" if value else "no_content"
    return _one_of(_CAPTURE_MODES)(value)


def _file(value: Any) -> str:
    text = os.path.expanduser(os.fspath(value)) if isinstance(value, (str, os.PathLike)) else ""
    if not text or os.path.isdir(text):
        raise ValueError("the name of a file")
    return str(text)


def _prior(value: Any) -> str:
    path = _file(value)
    try:
        seconds_per_prefill_token(path)
    except LlmtraceError:
        raise ValueError('a JSON file that can be read and says {"seconds_per_prefill_token": ...}, in s') from None
    return path


def seconds_per_prefill_token(path: str) -> float:
    """Seconds for each prefill token from the file of the setting ``baseline_prior``; 0 where that is not set.

    Raises:
        LlmtraceError: the file cannot be read, or does not hold ``seconds_per_prefill_token``, a number over 0.
    """
    if not path:
        return 0.0
    try:
        with open(path, encoding="utf-8") as file:
            prior: Any = json.load(file)
        seconds = prior["seconds_per_prefill_token"]
        if isinstance(seconds, (int, float)) and 0 < seconds < 1:
            return float(seconds)
    except OSError as error:
        raise LlmtraceError(f"baseline_prior: {path} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError):
        pass
    raise LlmtraceError(f"baseline_prior: {path} does not hold a JSON object with seconds_per_prefill_token, in s.")


def _function(value: Any) -> Any:
    if not callable(value):
        raise ValueError("a function that takes a text and returns how many tokens it has")
    return value


def _at_least(kind: Callable[[Any], Any], least: float) -> Callable[[Any], Any]:
    def parse(value: Any) -> Any:
        try:
            number = kind(value)
        except (TypeError, ValueError):
            raise ValueError(f"a number of at least {least:g}") from None
        if not number >= least:
            raise ValueError(f"a number of at least {least:g}")
        return number

    return parse


def _objective(value: Any) -> Patterns:
    from llmtrace.phases.objectives import parse_objective  # here, since few programs name any

    return parse_objective(value)


_PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "capture_content": _capture,
    "server_timings": _boolean,
    "propagate": _one_of(_PROPAGATE_MODES),
    "request_usage": _boolean,
    "metrics": _boolean,
    "semconv": _one_of(SEMCONVS),
    "parent": _one_of(_PARENT_MODES),
    "diagnosis": _boolean,
    "min_calls": _at_least(int, 2),
    "min_spread": _at_least(float, 1),
    "baseline_path": _file,
    "baseline_prior": _prior,
    "slo_ttft": _objective,
    "slo_itl": _objective,
    "slo_total": _objective,
    "slo_headers": _boolean,
    "flush_on_sigterm": _boolean,
    "tokenizer": _function,
}

_DISABLED_ENV = "OTEL_SDK_DISABLED"


def is_disabled(environ: Mapping[str, str] | None = None) -> bool:
    """Whether OpenTelemetry is switched off for this process: then nothing is patched, recorded or kept."""
    environ = os.environ if environ is None else environ
    return environ.get(_DISABLED_ENV, "").strip().lower() == "true"


known_settings: tuple[str, ...] = tuple(field.name for field in fields(Settings))
environment_names: Mapping[str, str] = {
    name: CAPTURE_ENV if name == "capture_content" else f"LLMTRACE_{name.upper()}"
    for name in known_settings
    if name != "tokenizer"  # a function: by argument only
}


def settings(arguments: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in force.

    Raises:
        LlmtraceError: an argument is not a setting, or the setting does not take its value. (A bad value in the
            environment is logged, and the default used.)
    """
    for name in arguments:
        if name not in _PARSERS:
            hint = did_you_mean(name, known_settings)
            raise LlmtraceError(f"unknown setting {name!r}.{hint} Known settings: {', '.join(known_settings)}.")
    environ = os.environ if environ is None else environ
    slips = environment_slips(environ)
    for variable, takes in slips.items():
        # An environment may be shared with other programs: a slip in it must not leave this one untraced. The value
        # stays out of the log; it may be a secret that went into the wrong variable.
        _log.log(_level(variable), "the value of %s is ignored; it takes %s", variable, takes)
    values: dict[str, Any] = {}
    for name, parse in _PARSERS.items():
        variable = environment_names.get(name, "")
        if arguments.get(name) is not None:
            try:
                values[name] = parse(arguments[name])
            except ValueError as error:
                raise LlmtraceError(f"{name} is {arguments[name]!r}; it takes {error}.") from None
        elif environ.get(variable, "").strip() and variable not in slips:
            values[name] = parse(environ[variable])
    return replace(Settings(), **values)


def _level(variable: str) -> int:
    """The log level for a bad value in ``variable``: a warning, once a process, if the variable is ours; else debug."""
    if variable in _slips_told or not variable.startswith("LLMTRACE_"):
        return logging.DEBUG
    _slips_told.add(variable)
    return logging.WARNING


def environment_slips(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables of ours with a value that the setting does not take, and the values it takes."""
    slips: dict[str, str] = {}
    for name, variable in environment_names.items():
        parse = _PARSERS[name]
        if environ.get(variable, "").strip():
            try:
                parse(environ[variable])
            except ValueError as error:
                slips[variable] = str(error)
    return slips
