"""A clock of the test's own in the place of llmtrace's, for what depends on times and must not on the machine's.

Sockets, clients and servers stay real. Time passes only where the test says so: by ``advance``, and by ``tick`` with
each reading, so that no two moments are the same.
"""

from __future__ import annotations

import pkgutil
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module

import pytest

from llmtrace.observe import transport
from llmtrace.observe.call import open_calls
from tests.support.replay import After, Part, Script

MICROSECOND = 1_000


class Clock:
    """Monotonic ns, from the true time on."""

    def __init__(self, tick: int = MICROSECOND) -> None:
        self.at = time.perf_counter_ns()
        self.tick = tick
        """ns that pass with each reading."""
        self.written: int | None = None
        """When a server last wrote a part whose delay passed by this clock."""

    def __call__(self) -> int:
        self.at += self.tick
        return self.at

    def advance(self, seconds: float) -> bool:
        """Let time pass. True, so that it can be what a server's part waits for."""
        self.at += round(seconds * 1e9)
        return True

    def passing(self, parts: Sequence[Part]) -> list[Part]:
        """A script's parts whose delays pass by this clock, at the moment when the server writes them.

        No time passes before each open call has been told that its request is out: a client whose thread is late to
        read the clock after it has sent would else count the server's time as its own.
        """

        def pass_when_sent(delay: float) -> bool:
            if not _all_sent():
                return False
            self.advance(delay)
            self.written = self.at
            return True

        return [(After(partial(pass_when_sent, delay)), data) for delay, data in parts if isinstance(delay, float)]

    def playing(self, script: Script) -> Script:
        """A script whose delays pass by this clock."""
        return replace(script, parts=self.passing(script.parts))


def _all_sent() -> bool:
    return all(call.attempts and call.attempts[-1].sent is not None for call in open_calls())


def install(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give every module of llmtrace's that reads the clock this one."""
    clock = Clock()
    for room in ("observe", "calls", "instrumentation", "tasks"):
        package = import_module(f"llmtrace.{room}")  # all of it: a module imported later would keep the clock for good
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            import_module(module.name)
    for name, module in list(sys.modules.items()):
        if name.startswith("llmtrace.") and getattr(module, "now", None) is time.perf_counter_ns:
            monkeypatch.setattr(module, "now", clock)
    asked = transport.Attempt.tcp_info

    def tcp_info(attempt: transport.Attempt) -> bytes | None:
        """What the kernel says, but when it last took in data: that is what the server wrote, and by this clock."""
        info = asked(attempt)
        if info is None or clock.written is None:
            return info
        changed = bytearray(info)
        struct.pack_into("=I", changed, transport.LAST_DATA_RECV, (clock.at - clock.written) // 1_000_000)
        return bytes(changed)

    monkeypatch.setattr(transport.Attempt, "tcp_info", tcp_info)
    return clock
