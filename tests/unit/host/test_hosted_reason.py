# SPDX-License-Identifier: Apache-2.0
"""Why a Keep ended is its launcher's to say, and is what a start that fails answers with."""

from __future__ import annotations

import asyncio
import socket
import time
from types import SimpleNamespace

import pytest

from enarx.errors import KeepError, PlatformError
from enarx.host import hosted as hosted_module
from tests.unit.host.test_hosted import a_process, make_keep


class Launcher:
    """A Keep whose link closes at once, and that has a reason for it."""

    start_timeout_s = 20.0

    def __init__(self, reason):
        self.reason = reason

    def connect(self, _):
        here, there = socket.socketpair()
        here.setblocking(False)
        there.close()
        return here

    def explain(self, _):
        return self.reason


def start(launcher, *, ends=True):
    async def test():
        async with asyncio.timeout(20):
            keep = make_keep(process, launcher)
            keep._log = SimpleNamespace(warning=lambda event, **fields: said.append((event, fields["reason"])))
            if ends:
                asyncio.get_running_loop().call_later(0.05, process.stdin.close)
            try:
                await keep.connect()
            finally:
                process.stdin.close()
                await keep.ended.wait()

    said = []
    with a_process() as process:
        asyncio.run(test())
    return said


@pytest.mark.parametrize("kind", [KeepError, PlatformError])
def test_a_start_that_fails_answers_with_the_reason(kind):
    with pytest.raises(kind, match="the boot took too long") as caught:
        start(Launcher(kind("the boot took too long", hint="wait")))
    assert caught.value.hint == "wait"


def test_a_start_that_fails_without_a_reason_says_that_nothing_answered():
    with pytest.raises(KeepError, match="cannot reach the Keep"):
        start(Launcher(None))


def test_a_link_that_closes_while_the_keep_goes_on_is_waited_for_a_little(monkeypatch):
    monkeypatch.setattr(hosted_module, "ENDING_S", 0.1)
    begun = time.monotonic()
    with pytest.raises(KeepError, match="cannot reach the Keep"):
        start(Launcher(KeepError("never said")), ends=False)
    assert time.monotonic() - begun < 10
