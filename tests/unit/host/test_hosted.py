# SPDX-License-Identifier: Apache-2.0
"""A Keep whose link breaks for good: it ended by itself, or it is lost and is ended."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from enarx.channel.link import open_link
from enarx.host import hosted as hosted_module
from enarx.host.hosted import HostedKeep
from enarx.host.launchers import Launched


class Launcher:
    """Connects once, and stops a process the way a test has it."""

    def __init__(self, sock, end):
        self.socks = [sock]
        self.end = end

    def connect(self, _):
        if not self.socks:
            raise ConnectionRefusedError(111, "Connection refused")
        return self.socks.pop()

    def stop(self, launched, *, at_once):
        self.end(launched.pid)


@pytest.mark.parametrize(("by_itself", "status"), [(True, 0), (False, -signal.SIGKILL)])
def test_only_what_had_to_be_killed_is_lost(monkeypatch, by_itself, status):
    monkeypatch.setattr(hosted_module, "ENDING_S", 0.05)
    code = "import sys; sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)

    def end(pid):
        # It ends just before the kill arrives, or by it.
        if by_itself:
            process.stdin.close()
        else:
            os.kill(pid, signal.SIGKILL)

    async def test():
        async with asyncio.timeout(20):
            here, there = socket.socketpair()
            here.setblocking(False)
            there.setblocking(False)
            opening = asyncio.ensure_future(open_link(there, role="keep", accept=lambda stream: None))
            keep = HostedKeep(
                SimpleNamespace(id="k"),
                folder="",
                launcher=Launcher(here, end),
                launched=Launched(pid=process.pid, start_ticks=0, pidfd=os.pidfd_open(process.pid)),
                outbound=None,
                blobs=None,
                publish="127.0.0.1",
                log=SimpleNamespace(warning=lambda *_, **__: None),
                on_end=lambda _: None,
            )
            await keep.connect()
            link = await opening
            link.close()
            await keep.ended.wait()
            assert keep.exit_status == status
            assert keep.is_lost is not by_itself

    try:
        asyncio.run(test())
    finally:
        if not by_itself:
            process.stdin.close()
        process.returncode = process.returncode or 0
