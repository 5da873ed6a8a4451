# SPDX-License-Identifier: Apache-2.0
"""What only a configuration asks for: a descriptor that is nothing, and a limit of output."""

from __future__ import annotations

from enarx.errors import KeepError
from enarx.runtime.preview1.descriptors import (
    FDFLAGS_APPEND,
    FDFLAGS_NONBLOCK,
    RIGHT_POLL,
    RIGHT_READ,
    RIGHT_STAT,
    RIGHT_WRITE,
    UNKNOWN,
    Descriptor,
)


class Null(Descriptor):
    """Reads nothing, writes everything away; the original's `null`."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(
            UNKNOWN,
            RIGHT_READ | RIGHT_WRITE | RIGHT_STAT | RIGHT_POLL,
            flags=FDFLAGS_APPEND | FDFLAGS_NONBLOCK,
            read=lambda _: 0,
            write=len,
        )


class OutputBudget:
    """Counts what a workload writes to stdout and stderr.

    Args:
        limit_bytes: for both together.
    """

    __slots__ = ("left", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.left = limit_bytes

    def allowed(self, count: int) -> int:
        """Return how many of `count` bytes may be written; `left` is reduced by what then was.

        Raises:
            KeepError: nothing is left of it.
        """
        if count and not self.left:
            raise KeepError(
                f"workload stopped: output: found more than {self.limit_bytes} bytes, want at most {self.limit_bytes}",
                hint="raise --output, or limits.output in Enarx.toml",
            )
        return min(count, self.left)
