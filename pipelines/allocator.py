"""How the C library keeps memory that a batch has freed for the next one."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


@cache
def tune_allocator() -> None:
    """Let glibc keep freed activations, in this process and in those that are forked from it.

    A block of more than 32 MiB is otherwise mapped afresh each time and pays for its page faults again, and so is
    anything over 128 KiB under a MALLOC_TRIM_THRESHOLD_, which Dask sets. Threads that start later share one arena,
    since their own ones hold no block of more than 64 MiB and are given back once empty. Where there is no glibc there
    is nothing to mend.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_TRIM_THRESHOLD, 512 << 20)
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_ARENA_MAX, 1)
