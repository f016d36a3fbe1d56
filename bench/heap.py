"""How many bytes the process holds on its heap. Exact where Python allocates with glibc's malloc (PYTHONMALLOC=malloc)."""

from __future__ import annotations

import ctypes
import tracemalloc


class MallInfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def heap() -> int:
    """Bytes in use: glibc's own account, which covers native code too; elsewhere Python's slower one."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        if not tracemalloc.is_tracing():
            tracemalloc.start()
        return tracemalloc.get_traced_memory()[0]
    mallinfo.restype = MallInfo
    info = mallinfo()
    return info.uordblks + info.hblkhd
