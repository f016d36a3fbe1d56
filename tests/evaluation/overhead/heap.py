"""How many bytes the process holds on its heap: exact where Python allocates with glibc (PYTHONMALLOC=malloc)."""

from __future__ import annotations

import ctypes
import tracemalloc

BEFORE, BETWEEN, AFTER = ("arena", "ordblks", "smblks", "hblks"), ("usmblks", "fsmblks"), ("fordblks", "keepcost")


class MallInfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [(name, ctypes.c_size_t) for name in (*BEFORE, "hblkhd", *BETWEEN, "uordblks", *AFTER)]


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
