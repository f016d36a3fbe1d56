"""Which machine this is, for the resource of the spans that are written here."""

from __future__ import annotations

import os
import socket


def host_name() -> dict[str, str]:
    """``host.name``; nothing where ``OTEL_RESOURCE_ATTRIBUTES`` names one, which then stands.

    Jaeger sets right the clocks of different machines. Without a host on the resource it takes each span for a machine
    of its own, and moves the spans of one server apart.
    """
    if "host.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        return {}
    return {"host.name": socket.gethostname()}
