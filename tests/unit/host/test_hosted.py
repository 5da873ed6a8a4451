# SPDX-License-Identifier: Apache-2.0
"""A Keep whose link breaks for good: it ended by itself, or it is lost and is ended. And how many sessions it has."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from enarx.channel.link import open_link
from enarx.errors import KeepError, TransportError
from enarx.host import hosted as hosted_module
from enarx.host.hosted import HostedKeep
from enarx.host.launchers import Launched


class Launcher:
    """Connects once, and stops a process the way a test has it."""

    start_timeout_s = 20.0

    def explain(self, folder):
        return None

    def __init__(self, sock, end):
        self.socks = [sock]
        self.end = end

    def connect(self, _):
        if not self.socks:
            raise ConnectionRefusedError(111, "Connection refused")
        return self.socks.pop()

    def stop(self, launched, *, at_once):
        self.end(launched.pid)


def make_keep(process, launcher):
    return HostedKeep(
        SimpleNamespace(id="k"),
        folder="",
        launcher=launcher,
        launched=Launched(pid=process.pid, start_ticks=0, pidfd=os.pidfd_open(process.pid)),
        outbound=None,
        blobs=None,
        publish="127.0.0.1",
        log=SimpleNamespace(warning=lambda *_, **__: None),
        on_end=lambda _: None,
    )


@contextlib.contextmanager
def a_process():
    """Start a process that ends with its standard input."""
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.stdin.close()
        # The Keep may have been told of its end, and then nobody else is.
        process.returncode = process.returncode or 0


@pytest.mark.parametrize(("by_itself", "status"), [(True, 0), (False, -signal.SIGKILL)])
def test_only_what_had_to_be_killed_is_lost(monkeypatch, by_itself, status):
    monkeypatch.setattr(hosted_module, "ENDING_S", 0.05)

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
            keep = make_keep(process, Launcher(here, end))
            await keep.connect()
            link = await opening
            link.close()
            await keep.ended.wait()
            assert keep.exit_status == status
            assert keep.is_lost is not by_itself

    with a_process() as process:
        asyncio.run(test())


@pytest.mark.parametrize("is_told", [True, False])
def test_only_what_nobody_told_to_end_was_killed_for_a_reason(is_told):
    async def test():
        async with asyncio.timeout(20):
            keep = make_keep(process, Launcher(None, lambda pid: os.kill(pid, signal.SIGKILL)))
            if is_told:
                await keep.stop()
            else:
                os.kill(process.pid, signal.SIGKILL)
            await keep.ended.wait()
            return keep

    with a_process() as process:
        keep = asyncio.run(test())
    assert keep.exit_status == -signal.SIGKILL
    assert is_told == (keep.reason is None)
    assert is_told or "killed by signal 9" in str(keep.reason)


@pytest.mark.parametrize("by_itself", [True, False])
def test_a_keep_that_is_given_up_ended_for_that_reason_unless_it_had_ended(by_itself):
    reason = KeepError("found nobody")

    async def test():
        async with asyncio.timeout(20):
            keep = make_keep(
                process,
                Launcher(None, lambda pid: process.stdin.close() if by_itself else os.kill(pid, signal.SIGKILL)),
            )
            keep.give_up(reason, is_lost=True)
            await keep.ended.wait()
            return keep

    with a_process() as process:
        keep = asyncio.run(test())
    assert (keep.reason, keep.is_lost) == ((None, False) if by_itself else (reason, True))


def test_two_sessions_at_the_same_moment_do_not_share_the_last_place(monkeypatch):
    monkeypatch.setattr(hosted_module, "MAX_SESSIONS", 1)

    class Link:
        """Opens a stream a turn of the loop later, as one whose socket is full does."""

        received_bytes = sent_bytes = 0

        async def open(self, _):
            await asyncio.sleep(0)
            return SimpleNamespace(close=lambda: None)

        def close(self, _):
            """Nothing is open."""

    async def test():
        keep = make_keep(process, None)
        keep._link = Link()

        async def use():
            async with keep.session():
                await asyncio.sleep(0)

        results = await asyncio.gather(use(), use(), return_exceptions=True)
        assert [type(result) for result in results] == [type(None), TransportError]
        assert keep.sessions == 0
        async with keep.session():
            assert keep.sessions == 1
        keep.leave()

    with a_process() as process:
        asyncio.run(test())


def test_a_session_waits_until_a_link_that_broke_is_restored():
    async def test():
        async with asyncio.timeout(20):
            pairs = [socket.socketpair() for _ in range(2)]
            for sock in (each for pair in pairs for each in pair):
                sock.setblocking(False)
            connecting = asyncio.Event()

            class Twice(Launcher):
                def connect(self, folder):
                    if len(self.socks) == 1:
                        connecting.set()
                    return super().connect(folder)

            launcher = Twice(None, lambda pid: process.stdin.close())
            launcher.socks = [here for here, _ in reversed(pairs)]
            opening = asyncio.ensure_future(open_link(pairs[0][1], role="keep", accept=lambda stream: None))
            keep = make_keep(process, launcher)
            await keep.connect()
            link = await opening
            link.close()
            await connecting.wait()
            asking = asyncio.ensure_future(keep.session().__aenter__())
            await asyncio.sleep(0)
            assert not asking.done()
            opened = asyncio.Event()
            again = await open_link(pairs[1][1], role="keep", accept=lambda stream: opened.set())
            await asking
            await opened.wait()
            again.close()
            await keep.stop()

    with a_process() as process:
        asyncio.run(test())


@pytest.mark.parametrize("ends", [True, False])
def test_a_session_of_a_keep_without_a_link_is_refused_in_time(monkeypatch, ends):
    """At once where it has ended, and else when one should have been there."""
    monkeypatch.setattr(hosted_module, "RESTORE_S", 60 if ends else 0.01)

    async def test():
        async with asyncio.timeout(20):
            keep = make_keep(process, Launcher(None, lambda pid: process.stdin.close()))
            asking = asyncio.ensure_future(keep.session().__aenter__())
            await asyncio.sleep(0)
            if ends:
                await keep.stop()
            with pytest.raises(KeepError, match="found no link"):
                await asking
            assert keep.sessions == 0
            if not ends:
                await keep.stop()

    with a_process() as process:
        asyncio.run(test())
