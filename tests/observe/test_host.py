"""The host on a resource, which keeps the spans of one machine together where clocks are set right."""

from __future__ import annotations

import socket

import pytest
from opentelemetry.sdk.resources import Resource

from llmtrace.observe.host import host_name


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES", raising=False)
    assert host_name() == {"host.name": socket.gethostname()}


@pytest.mark.parametrize("told", ["host.name=other", "service.name=a,host.name=other"])
def test_what_the_environment_says_stands(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", told)
    assert Resource.create(host_name()).attributes["host.name"] == "other"
