"""One line of code that sets OpenTelemetry's SDK up and switches tracing on."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from llmtrace.config import is_disabled
from llmtrace.emit import names
from llmtrace.errors import LlmtraceError
from llmtrace.launch import signals
from llmtrace.launch.destinations import Destination, choose
from llmtrace.launch.probe import patience, refusal
from llmtrace.observe.host import host_name
from llmtrace.wording import say

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from llmtrace.instrumentation.switch import Given

_SEND_EVERY_MS = 1000
"""Spans are sent after a second at most, so that a page that is looked at keeps up."""
_log = logging.getLogger("llmtrace")
_in_force: list[Any] = []
"""The providers that an earlier call made here, that of spans first."""


def configure(
    *clients: str,
    view: bool = False,
    otlp: str | None = None,
    file: str | os.PathLike[str] | None = None,
    console: bool = False,
    service_name: str | None = None,
    service_version: str | None = None,
    service_instance: str | None = None,
    device: str | None = None,
    model_fingerprint: str | None = None,
    model_format: str | None = None,
    **settings: Unpack[Given],
) -> str:
    """Set up where spans go and trace the named client libraries, or all that are installed.

    The providers are llmtrace's own: what the program sets up for itself, before or after, stays its own. A program
    with spans of its own has whole traces where both go to one place, or with ``llmtrace.instrument``. With none of
    ``view``, ``otlp``, ``file`` and ``console`` the first place that is there is taken: the endpoint in
    ``OTEL_EXPORTER_OTLP_ENDPOINT``, a running viewer, a collector on port 4318, a viewer started now, a file.

    A second call takes the place of the first; what is under way then (calls, tasks) still goes where the first one
    said. Clients that ``llmtrace.instrument`` or ``opentelemetry-instrument`` traces already stay with the providers
    that they have, which is logged.

    Args:
        clients: names of client libraries, for instance ``"openai"``.
        view: send to ``llmtrace view`` on this machine, which is started where it does not run.
        otlp: address of an OTLP endpoint; port 4317 is spoken to over gRPC, every other one over HTTP.
        file: OTLP/JSON file to append to.
        console: print each call on stderr as it ends.
        service_name: ``service.name`` of the spans; ``OTEL_SERVICE_NAME``, else the program's name by default.
        service_version: ``service.version``, the application's own.
        service_instance: ``service.instance.id``: which one of the installations or processes this is. One that
            lasts from start to start lets ``llmtrace report fleet`` follow it.
        device: ``device.model.name``, the model of the device that this runs on.
        model_fingerprint: ``llmtrace.model.fingerprint``, the version of the weights where one model serves all calls.
        model_format: ``llmtrace.model.format``, the format of these weights: ``bf16``, ``gguf Q4_K_M``.
        settings: those of ``llmtrace.instrument``.

    Returns:
        A sentence that says where the trace can be seen.

    Raises:
        LlmtraceError: two destinations, an address that is none, something that is not installed, or what
            ``llmtrace.instrument`` raises.
    """
    if is_disabled():
        return "OTEL_SDK_DISABLED is set: nothing is traced"
    destination = choose(view=view, otlp=otlp, file=file, console=console)
    told = {
        names.SERVICE_VERSION: service_version,
        names.SERVICE_INSTANCE: service_instance,
        names.DEVICE_NAME: device,
        names.MODEL_FINGERPRINT: model_fingerprint,
        names.MODEL_FORMAT: model_format,
    }
    about = {name: value for name, value in told.items() if value is not None}
    set_up(destination, *clients, service_name=service_name, about=about, **settings)
    return destination.sentence


def set_up(
    destination: Destination,
    *clients: str,
    service_name: str | None = None,
    about: Mapping[str, str] | None = None,
    launched: bool = False,
    **settings: Any,
) -> None:
    """Make the providers for ``destination`` and switch tracing on with them.

    ``about``: further attributes of the resource.
    ``launched``: before anything of the program has run, so that stderr is still the terminal's.
    """
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    from llmtrace.instrumentation import switch

    switch.check(*clients, **settings)  # before anything that is there is taken down
    traced = switch.instrumented()
    ours = [name for name, provider in traced.items() if any(provider is one for one in _in_force)]
    if ours:
        switch.uninstrument(*ours)
    _retire(_in_force[:])
    _in_force.clear()
    taken = [name for name in traced if name not in ours and (not clients or name in clients)]
    if taken:
        others = ", ".join(taken)
        _log.warning("traced already, and so not by configure(): %s. Call llmtrace.uninstrument() before", others)
    resource = Resource.create({**_own_resource(service_name), **(about or {})})
    tracer_provider = TracerProvider(resource=resource)
    tracer_provider.add_span_processor(span_processor(destination, launched))
    meters = meter_provider(destination, resource)
    if meters is None:
        settings.setdefault("metrics", False)
    switch.instrument(*clients, tracer_provider=tracer_provider, meter_provider=meters, **settings)
    _in_force[:] = [provider for provider in (tracer_provider, meters) if provider is not None]


def _retire(providers: list[Any]) -> None:
    """Send what the providers of an earlier call still hold, and shut them down: now, or on a thread of ours once the
    last call or task that writes to them has ended.
    """
    from llmtrace.calls import finalizers
    from llmtrace.observe.in_use import in_use

    if not providers:
        return
    under_way = in_use(providers[0])
    if under_way:
        _each(providers, "force_flush")
        under_way.when_free(lambda: finalizers.soon(partial(_each, providers, "shutdown")))
    else:
        _each(providers, "shutdown")


def _each(providers: list[Any], method: str) -> None:
    for provider in providers:
        try:
            getattr(provider, method)()
        except Exception as error:  # whatever an exporter raises
            _log.debug("an earlier provider did not end well", exc_info=error)


def span_processor(destination: Destination, launched: bool = False) -> Any:
    """The processor that sends spans to ``destination``. ``launched``: see ``set_up``."""
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

    from llmtrace.launch import exporters

    if destination.kind == "console":
        write = exporters.own_stderr() if launched else exporters.to_stderr
        return SimpleSpanProcessor(exporters.ConsoleExporter(write))
    if destination.kind == "file":
        from llmtrace.emit.otlp_json import OtlpJsonFileExporter

        exporter: Any = OtlpJsonFileExporter(destination.place)
    else:
        exporter = exporters.otlp(destination)
    return BatchSpanProcessor(exporter, schedule_delay_millis=_SEND_EVERY_MS)


def _own_resource(service_name: str | None) -> dict[str, str]:
    """``service.name`` where neither the program nor its surroundings name it, and the host."""
    import sys

    attributes = host_name()
    if service_name is not None:
        attributes["service.name"] = service_name
    elif not os.environ.get("OTEL_SERVICE_NAME") and not _names_service(os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")):
        attributes["service.name"] = os.path.basename(sys.argv[0] if sys.argv and sys.argv[0] else "python")
    return attributes


def _names_service(attributes: str) -> bool:
    return any(pair.partition("=")[0].strip() == "service.name" for pair in attributes.split(","))


def meter_provider(destination: Destination, resource: Any) -> Any:
    """A provider that sends metrics where they are taken; None where they are not: Jaeger takes spans only."""
    place, grpc = destination.metrics_place, destination.metrics_kind == "otlp_grpc"
    if not place:
        return None
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    from llmtrace.launch.exporters import encryption

    make, timeout = signals.exporter("METRICS", grpc=grpc), patience(os.environ, "METRICS")
    exporter = make(endpoint=place, timeout=timeout, **encryption(place, grpc))
    if refusal(lambda: exporter.export(signals.nothing("METRICS"))) is not None:
        exporter.shutdown()
        return None
    return MeterProvider(metric_readers=[PeriodicExportingMetricReader(exporter)], resource=resource)


def in_a_launched_program(destination: Destination) -> None:
    """Set up at the start of a program that ``llmtrace run`` has started. Raises nothing: the program comes first."""
    try:
        set_up(destination, launched=True)
    except LlmtraceError as error:
        say(f"not tracing: {error}")
    except Exception as error:
        say(f"not tracing: {type(error).__name__}: {error}")
