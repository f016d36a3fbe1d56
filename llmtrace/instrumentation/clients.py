"""Tracing of each client library, switched on and off. ``llmtrace.instrument`` and the instrumentors both come here.

This module imports none of OpenTelemetry's instrumentor classes: with what they import, they would add half to the time
that ``llmtrace.instrument`` takes.
"""

from __future__ import annotations

import importlib.metadata
import logging
from typing import TYPE_CHECKING, Any

from llmtrace.config import Settings
from llmtrace.instrumentation import process_ends
from llmtrace.instrumentation.patching import Patches
from llmtrace.providers import CLIENTS, Client

if TYPE_CHECKING:
    from llmtrace.instrumentation.traced import Traced

_log = logging.getLogger("llmtrace")


class ClientTracing:
    """Tracing of one client library. A process has one object for each library."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.patches: Patches | None = None
        """The wrappers for this client; None while it is not traced."""
        self.tracer_provider: Any = None
        """The one that it was switched on with; None: the global one."""
        self._traced: Traced | None = None

    def on(self, settings: Settings, tracer_provider: Any, meter_provider: Any, *, supported: bool = False) -> None:
        """Trace the client, now or as soon as it is imported; does nothing where it is traced already.

        ``supported``: the installed version is known to be.
        """
        if self.patches is not None:
            return
        self.patches = patches = Patches()
        self.tracer_provider = tracer_provider
        if settings.flush_on_sigterm:
            # Now, not when the client is imported: handlers can be set on the main thread only.
            patches.when_undone(process_ends.take_sigterm())

        def imported(package: Any) -> None:
            if not supported and (conflict := self.unsupported()) is not None:
                # Not a warning: the user of a program can do nothing about it, and the calls may be traced through
                # another client. `llmtrace doctor` reports it.
                _log.debug("%s is not traced: %s", self.client.name, conflict)
                return
            self._traced = install(patches, self.client, settings, tracer_provider, meter_provider)

        patches.when_imported(self.client.package, imported)

    def off(self) -> None:
        """Trace the client no more; its functions are the very ones from before."""
        if self.patches is not None:
            self.patches.undo()
        if self._traced is not None:
            self._traced.close()
        self._traced = self.patches = self.tracer_provider = None

    def installed(self) -> str | None:
        """The client's version, read off its distribution's metadata; None where it is not installed."""
        try:
            return importlib.metadata.version(self.client.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    def unsupported(self) -> str | None:
        """What is wrong with the installed version; None where it is supported."""
        if _is_plainly(self.installed() or "", self.client.versions):
            return None
        from opentelemetry.instrumentation.dependencies import get_dependency_conflicts

        conflict = get_dependency_conflicts([self.client.requirement])
        return None if conflict is None else str(conflict)


def _is_plainly(installed: str, versions: str) -> bool:
    """Whether a version of nothing but numbers is among ``versions`` (``>= 1.40``), told without a library for that."""
    numbers, least = installed.split("."), versions.removeprefix(">= ").split(".")
    if not all(each.isdigit() for each in (*numbers, *least)):
        return False
    return [int(each) for each in numbers] >= [int(each) for each in least]


def install(patches: Patches, client: Client, *setup: Any) -> Traced:
    """Load the code that traces a client and put its hooks in.

    It is loaded this late to keep other programs' start quick.
    """
    from llmtrace.instrumentation.traced import Traced

    return Traced(patches, client, *setup)


TRACING: dict[str, ClientTracing] = {client.name: ClientTracing(client) for client in CLIENTS}
"""By the client's name."""
