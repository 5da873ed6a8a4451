# SPDX-License-Identifier: Apache-2.0
"""Coroutines of tests, each run to its end in a loop of its own."""

from __future__ import annotations

import asyncio
import gc

TIMEOUT_S = 20.0


def run(test):
    """Run a coroutine function within a time, require that it leaves no task, and return what it returns."""

    async def limited():
        async with asyncio.timeout(TIMEOUT_S):
            found = await test()
        # What was cancelled ends in the next turn.
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return found

    found = asyncio.run(limited())
    # What was forgotten open is said now, and is this test's.
    gc.collect()
    return found
