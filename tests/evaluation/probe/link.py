"""A link between two network namespaces whose delay is settled, and changed while it runs.

So the kernel's own round trip is as long as to another region. Linux, as root, with ``ip``.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import select
import struct
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

from tests.evaluation.phases.engines import NotHere

NEAR, FAR = "10.77.0.1", "10.77.0.2"
"""The client's address, and the server's."""
_TUNSETIFF, _TUN_WITHOUT_HEADER = 0x400454CA, 0x1001
_CLONE_NEWNET = 0x40000000
_MOST_PACKET = 1 << 16


class Link:
    """Two namespaces and what lies between them."""

    def __init__(self) -> None:
        self.delay = 0.0
        """Added to the round trip, half of it on each way, s."""
        self.names = [f"llmtrace-{end}-{os.getpid()}" for end in ("near", "far")]

    @contextmanager
    def inside(self, end: int) -> Generator[None]:
        """This thread's new sockets, and its children's, are made in the client's (0) or the server's (1) namespace."""
        with open("/proc/thread-self/ns/net") as own:
            _enter(f"/run/netns/{self.names[end]}")
            try:
                yield
            finally:
                if ctypes.CDLL(None, use_errno=True).setns(own.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "cannot return from a network namespace")


def _enter(path: str) -> None:
    with open(path) as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {path}")


@contextmanager
def link() -> Generator[Link]:
    """A link, until the block ends.

    Raises:
        NotHere: this machine does not let one make network namespaces.
    """
    made = Link()
    over = threading.Event()
    ends: list[int] = []
    carrier = threading.Thread(target=_carry, args=(made, ends, over), daemon=True)
    try:
        try:
            for number, address in enumerate((NEAR, FAR)):
                _run("ip", "netns", "add", made.names[number])
                ends.append(_end(made, number, address))
        except (OSError, subprocess.CalledProcessError) as error:
            raise NotHere(f"no network namespaces here ({error})") from None
        carrier.start()
        yield made
    finally:
        over.set()
        if carrier.is_alive():
            carrier.join()
        for end in ends:
            os.close(end)
        for name in made.names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _end(made: Link, number: int, address: str) -> int:
    """The file of a network device in a namespace: what is sent there is read here, what is written here arrives."""
    with made.inside(number):
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH", b"hop", _TUN_WITHOUT_HEADER))
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "addr", "add", f"{address}/24", "dev", "hop")
        _run("ip", "link", "set", "hop", "up")
    return end


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _carry(made: Link, ends: list[int], over: threading.Event) -> None:
    """Take packets over, each when its time has come, in the order in which they came."""
    waiting: list[tuple[float, int, int, bytes]] = []
    number = 0
    while not over.is_set():
        rest = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.1
        readable, _, _ = select.select(ends, [], [], min(rest, 0.1))
        for end in readable:
            packet = os.read(end, _MOST_PACKET)
            number += 1
            other = ends[1 - ends.index(end)]
            heapq.heappush(waiting, (time.monotonic() + made.delay / 2, number, other, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, other, packet = heapq.heappop(waiting)
            os.write(other, packet)
