# SPDX-License-Identifier: Apache-2.0
"""The allocator of a process that carries streams: what was freed is used again, not given back and asked for again.

Pieces of a stream are some hundred kilobytes and live for a moment. By default glibc returns such memory to the kernel as soon as
it is free, and the page faults when it is wanted again take half of the time that carrying takes.
"""

from __future__ import annotations

import contextlib
import ctypes

__all__ = ["keep_freed_memory"]

KEPT_BYTES = 8 << 20
"""What may be free at the end of the heap."""

_LARGE_BYTES = 4 << 20
# Source: malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next allocations, as far as its C library knows how to."""
    # Another library than glibc has no `mallopt`, or one that does nothing.
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
