# SPDX-License-Identifier: Apache-2.0
"""The one source of time of a Keep.

Everything that tells a workload the time asks here, because inside a TEE the wall clock is the tenant's, carried on by
the monotonic one, and never the host's.
"""

from __future__ import annotations

import time


class Clock:
    """Time of this machine, in nanoseconds."""

    __slots__ = ()

    resolution_ns = 1

    def monotonic_ns(self) -> int:
        """Return monotonic time; only differences mean anything."""
        return time.monotonic_ns()

    def about_to_wait(self) -> None:
        """Take note that the guest is about to wait for something; a service lets another request go on."""

    def wall_ns(self) -> int:
        """Return time since 1970-01-01T00:00:00Z."""
        return time.time_ns()
