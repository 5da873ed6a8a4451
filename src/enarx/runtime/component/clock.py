# SPDX-License-Identifier: Apache-2.0
"""The one source of time of a Keep.

Everything that tells a workload the time asks here, because inside a TEE the wall clock is the tenant's, carried on by
the monotonic one, and never the host's.
"""

from __future__ import annotations

import time


class Clock:
    """Time in nanoseconds.

    Args:
        wall_offset_ns: what to add to monotonic time for that since 1970; None is this machine's clock.
    """

    __slots__ = ("_wall_offset_ns",)

    resolution_ns = 1

    def __init__(self, wall_offset_ns: int | None = None) -> None:
        self._wall_offset_ns = wall_offset_ns

    def monotonic_ns(self) -> int:
        """Return monotonic time; only differences mean anything."""
        return time.monotonic_ns()

    def about_to_wait(self) -> None:
        """Take note that the guest is about to wait for something; a service lets another request go on."""

    def wall_ns(self) -> int:
        """Return time since 1970-01-01T00:00:00Z."""
        offset_ns = self._wall_offset_ns
        # Before 1970 there is nothing that could be told.
        return time.time_ns() if offset_ns is None else max(0, min(time.monotonic_ns() + offset_ns, (1 << 64) - 1))
