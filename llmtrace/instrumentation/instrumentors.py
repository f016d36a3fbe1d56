"""The instrumentors that ``opentelemetry-instrument`` finds, and what ``llmtrace.instrument`` uses itself."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from llmtrace.config import settings
from llmtrace.instrumentation.patching import Patches
from llmtrace.providers import CLIENTS, Client

if TYPE_CHECKING:
    from llmtrace.instrumentation.traced import Traced

_log = logging.getLogger("llmtrace")


class ClientInstrumentor(BaseInstrumentor):
    """Instruments one client library; each has a subclass, made from its line in ``llmtrace.providers``."""

    client: Client
    _patches: Patches | None = None
    _traced: Traced | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """The client versions that are supported."""
        return (f"{self.client.distribution} {self.client.versions}",)

    def _instrument(self, **kwargs: Any) -> None:
        tracer_provider = kwargs.pop("tracer_provider", None)
        meter_provider = kwargs.pop("meter_provider", None)
        kwargs.pop("skip_dep_check", None)
        kwargs.pop("raise_exception_on_conflict", None)
        chosen = settings(kwargs)
        self._patches = patches = Patches()

        def imported(package: Any) -> None:
            if (conflict := self.unsupported()) is not None:
                # Nothing that the program's user could mend, and its calls may be seen through another client:
                # `llmtrace doctor` tells it to who asks.
                _log.debug("%s is not traced: %s", self.client.name, conflict)
                return
            self._traced = install(patches, self.client, chosen, tracer_provider, meter_provider)

        patches.when_imported(self.client.package, imported)

    def unsupported(self) -> str | None:
        """What is wrong with the version that is installed, None where it is supported."""
        conflict: Any = self._check_dependency_conflicts()
        return None if conflict is None else str(conflict)

    def _uninstrument(self, **kwargs: Any) -> None:
        if self._patches is not None:
            self._patches.undo()
        if self._traced is not None:
            self._traced.close()
        self._traced = self._patches = None


def install(patches: Patches, client: Client, *engine: Any) -> Traced:
    """Load what tracing a client takes, now that there is a client: it would only slow the start of other programs."""
    from llmtrace.instrumentation.traced import Traced

    return Traced(patches, client, *engine)


def _instrumentor(client: Client) -> type[ClientInstrumentor]:
    doc = f"Instruments ``{client.name}``."
    return type(f"{client.title}Instrumentor", (ClientInstrumentor,), {"__doc__": doc, "client": client})


INSTRUMENTORS: dict[str, type[ClientInstrumentor]] = {client.name: _instrumentor(client) for client in CLIENTS}
globals().update((made.__name__, made) for made in INSTRUMENTORS.values())  # for the entry points
