# SPDX-License-Identifier: Apache-2.0
"""The time that commands judge by."""

from __future__ import annotations

from enarx.errors import PlatformError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime

EARLIEST_YEAR = 2020
"""No evidence that is understood here is older; a clock before it was never set."""


def read_clock(purpose: str, *, hint: str) -> datetime:
    """Return the time now, aware UTC.

    Args:
        purpose: what it is needed for, as in `cannot verify`.
        hint: what to do where the clock is not set.

    Raises:
        PlatformError: this machine's clock is not set.
    """
    from datetime import UTC, datetime
    from time import time

    now = datetime.fromtimestamp(time(), UTC)
    if now.year < EARLIEST_YEAR:
        raise PlatformError(
            f"cannot {purpose}: this machine's clock: found {now:%Y-%m-%d}, want {EARLIEST_YEAR} or later", hint=hint
        )
    return now
