# SPDX-License-Identifier: Apache-2.0
"""Keeps on machines elsewhere: the launcher with its real process, and a machine that is a socket of this one."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import socket
import struct
import time

import pytest

from enarx.errors import KeepError, PlatformError, UsageError
from enarx.host.launchers import KeepSpec
from enarx.host.launchers.remote import RemoteLauncher, RemoteMachine, parse_machine
from enarx.host.process_facts import find_marked

WAIT_S = 10.0


@pytest.mark.parametrize(
    ("text", "machine"),
    [
        ("vm=127.0.0.1:8471", ("vm", "127.0.0.1", 8471)),
        ("tdx=keep-7.example.org:1", ("tdx", "keep-7.example.org", 1)),
        ("snp=[2001:db8::7]:65535", ("snp", "2001:db8::7", 65535)),
    ],
)
def test_a_machine_is_a_backend_an_address_and_a_port(text, machine):
    assert parse_machine(text) == machine


@pytest.mark.parametrize(
    "text", ["", "vm", "vm=", "vm=:8471", "vm=host", "vm=host:", "vm=host:0", "vm=host:65536", "vm=host:+1", "nil=host:1",
             "host:8471", "vm=a b:1", "vm=2001:db8::7:1", "vm=-x:1"],
)  # fmt: skip
def test_refuses_what_is_no_machine(text):
    with pytest.raises(UsageError, match="want BACKEND=ADDRESS:PORT"):
        parse_machine(text)


class Machine:
    """A machine on which somebody listens, or will."""

    def __init__(self):
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.settimeout(WAIT_S)
        self.place = RemoteMachine("vm", *self.listener.getsockname())

    def serve(self, word=b"hello of a Keep"):
        connection, _ = self.listener.accept()
        connection.settimeout(WAIT_S)
        if word:
            connection.sendall(word)
        return connection


@pytest.fixture
def machine():
    machine = Machine()
    machine.listener.listen()
    yield machine
    machine.listener.close()


class Started:
    def __init__(self, launcher, folder):
        self.launcher, self.id = launcher, secrets.token_hex(8)
        self.folder = folder / self.id
        self.folder.mkdir()
        spec = KeepSpec(id=self.id, memory_bytes=1, package_bytes=1, log_bytes=1)
        self.launched = launcher.start(spec, str(self.folder))
        # A process that was just started has no command line for a moment.
        until = time.monotonic() + WAIT_S
        while not find_marked(f"-Xenarx-keep={self.id}".encode()):
            assert time.monotonic() < until

    def connect(self):
        host = self.launcher.connect(str(self.folder))
        host.settimeout(WAIT_S)
        return host

    def wait(self):
        assert select.select([self.launched.pidfd], [], [], WAIT_S)[0]
        status = os.waitstatus_to_exitcode(os.waitpid(self.launched.pid, 0)[1])
        os.close(self.launched.pidfd)
        self.launched = None
        return status, self.launcher.explain(str(self.folder))


@pytest.fixture
def start(tmp_path):
    started = []

    def start(launcher):
        started.append(Started(launcher, tmp_path))
        return started[-1]

    yield start
    for one in started:
        if one.launched is not None:
            os.kill(one.launched.pid, signal.SIGKILL)
            one.wait()


def exactly(sock, size):
    data = b""
    while len(data) < size and (piece := sock.recv(size - len(data))):
        data += piece
    return data


def test_carries_bytes_both_ways_and_to_the_next_host(machine, start):
    keep = start(RemoteLauncher("vm", [machine.place]))
    for _ in range(2):
        with keep.connect() as host, machine.serve() as there:
            assert exactly(host, 15) == b"hello of a Keep"
            host.sendall(b"x" * 300_000)
            assert exactly(there, 300_000) == b"x" * 300_000
            there.sendall(b"y" * 300_000)
            assert exactly(host, 300_000) == b"y" * 300_000
            host.close()
            # The Keep sees that its host has gone.
            assert there.recv(1) == b""


def test_a_machine_that_is_booting_is_waited_for(start):
    machine = Machine()
    with machine.listener:
        keep = start(RemoteLauncher("vm", [machine.place]))
        with keep.connect() as host:
            host.settimeout(0.2)
            with pytest.raises(TimeoutError):
                host.recv(1)
            host.settimeout(WAIT_S)
            machine.listener.listen()
            with machine.serve():
                assert exactly(host, 15) == b"hello of a Keep"


def test_a_connection_on_which_nobody_speaks_is_none(machine, start):
    keep = start(RemoteLauncher("vm", [machine.place]))
    with keep.connect() as host:
        # As a network does that accepts for a machine on which nobody listens.
        machine.serve(b"").close()
        with machine.serve():
            assert exactly(host, 15) == b"hello of a Keep"


def test_a_machine_that_is_not_there_is_an_error_within_its_time(start):
    machine = Machine()
    with machine.listener:
        keep = start(RemoteLauncher("vm", [machine.place], start_s=0.3))
        begun = time.monotonic()
        with keep.connect() as host:
            assert host.recv(1) == b""
        status, reason = keep.wait()
    assert status == 0
    assert isinstance(reason, KeepError)
    assert f"127.0.0.1:{machine.place.port}: found Connection refused, want a Keep within 0.3 s" in str(reason)
    assert "network" in reason.hint
    assert time.monotonic() - begun < 5


def test_a_keep_that_ends_its_link_and_is_gone_has_ended(machine, start):
    keep = start(RemoteLauncher("vm", [machine.place], again_s=0.3))
    with keep.connect() as host:
        with machine.serve() as there:
            assert exactly(host, 15) == b"hello of a Keep"
            machine.listener.close()
            there.shutdown(socket.SHUT_RDWR)
        assert host.recv(1) == b""
    # The host comes back, and nobody is there any more: it is told so soon.
    with keep.connect() as host:
        assert host.recv(1) == b""
    assert keep.wait() == (0, None)


def test_a_machine_whose_connection_breaks_and_that_is_gone_is_an_error(machine, start):
    keep = start(RemoteLauncher("vm", [machine.place], again_s=0.3))
    with keep.connect() as host:
        there = machine.serve()
        assert exactly(host, 15) == b"hello of a Keep"
        machine.listener.close()
        # A reset in the place of an end.
        there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        there.close()
        assert host.recv(1) == b""
    with keep.connect() as host:
        assert host.recv(1) == b""
    status, reason = keep.wait()
    assert status == 0
    assert isinstance(reason, KeepError)
    assert "want a Keep within 0.3 s" in str(reason)


def test_each_machine_has_one_keep_and_is_free_after_it(machine, start):
    other = Machine()
    with other.listener:
        launcher = RemoteLauncher("vm", [machine.place, other.place])
        one, two = start(launcher), start(launcher)
        assert launcher._taken == {one.id: machine.place, two.id: other.place}
        with pytest.raises(PlatformError, match="found a Keep on each of 2, want one without"):
            start(launcher)
        launcher.stop(one.launched, at_once=False)
        assert one.wait() == (-signal.SIGTERM, None)
        assert start(launcher).id in launcher._taken


def test_a_host_process_takes_over_what_another_began(machine, start):
    first = start(RemoteLauncher("vm", [machine.place]))
    second = RemoteLauncher("vm", [machine.place])
    adopted = second.adopt(first.id, first.launched.pid, first.launched.start_ticks)
    try:
        assert second._taken == {first.id: machine.place}
        with pytest.raises(PlatformError, match="found a Keep on each"):
            start(second)
        second.stop(adopted, at_once=True)
        assert first.wait()[0] == -signal.SIGKILL
    finally:
        os.close(adopted.pidfd)
    assert second.adopt(first.id, 1 << 22, 1) is None


def test_what_was_never_recorded_is_ended_by_its_mark(machine, start):
    launcher = RemoteLauncher("vm", [machine.place])
    keep = start(launcher)
    assert find_marked(f"-Xenarx-keep={keep.id}".encode()) == [keep.launched.pid]
    launcher.stop_strays(keep.id)
    assert keep.wait()[0] == -signal.SIGKILL


def test_it_ends_with_its_host_where_it_is_told_to(machine, tmp_path):
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            launched = Started(RemoteLauncher("vm", [machine.place], dies_with_host=True), tmp_path).launched
            os.write(writer, str(launched.pid).encode())
            time.sleep(WAIT_S)
        os._exit(0)
    try:
        relay = int(os.read(reader, 20))
        pidfd = os.pidfd_open(relay)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
    assert select.select([pidfd], [], [], WAIT_S)[0]
    os.close(pidfd)


def test_it_takes_nothing_of_this_machine_and_answers_for_no_platform(machine):
    launcher = RemoteLauncher("tdx", [machine.place], start_s=5)
    assert launcher.reserved_bytes(1 << 30, 1 << 30) == 0
    assert launcher.start_timeout_s > 5
    for refused in (lambda: launcher.report(None, b""), lambda: launcher.parts("")):
        with pytest.raises(PlatformError, match="found a machine elsewhere"):
            refused()


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b'{"kind": "KeepError"}', b'{"kind": "off", "message": ""}', b"\xff"]
)
def test_an_ending_that_says_nothing_is_no_error(tmp_path, machine, text):
    (tmp_path / "ending").write_bytes(text)
    assert RemoteLauncher("vm", [machine.place]).explain(str(tmp_path)) is None
