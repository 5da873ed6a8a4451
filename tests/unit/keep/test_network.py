# SPDX-License-Identifier: Apache-2.0
"""The network of a Keep: an address out of what servers say, a lease that is kept, and a socket for hosts.

The kernel's side is played by objects; a slow test has the real one.
"""

from __future__ import annotations

import asyncio
import posixpath
import socket
import struct

import pytest

from enarx.errors import PlatformError
from enarx.image.contents import ARCHITECTURES
from enarx.keep import boot, network
from enarx.keep.dhcp import ACK, DISCOVER, NAK, OFFER, REQUEST, Answer
from enarx.keep.network import Lease, join_network, listen

ADDRESS = b"\x0a\x00\x02\x0f"


def said(kind, *, address=ADDRESS, lease_s=86400):
    return Answer(kind, address, b"\xff\xff\xff\x00", b"\x0a\x00\x02\x02", 1460, lease_s, b"\x0a\x00\x02\x02")


class Device:
    """A network device on which a server answers as it is told to."""

    made: list[Device]

    def __init__(self, name):
        self.name, self.asked, self.transaction, self.closed = name, [], b"", False
        self.answers = dict(Device.servers.get(name, {}))
        self.waiting = None
        self.socket, self.other = socket.socketpair()
        Device.made.append(self)

    def ask(self, kind, *, offered=None, held=bytes(4)):
        self.asked.append((kind, offered, held))
        self.waiting = self.answers.get(kind)
        if self.waiting is not None:
            self.other.send(b"x")

    def answer(self, *kinds):
        answer, self.waiting = self.waiting, None
        return answer if answer is not None and answer.kind in kinds else None


@pytest.fixture(autouse=True)
def devices(monkeypatch):
    Device.made, Device.servers = [], {}
    configured = []
    monkeypatch.setattr(network, "_Device", Device)
    monkeypatch.setattr(network, "_ethernet_devices", lambda: sorted(Device.servers))
    monkeypatch.setattr(network, "_configure", lambda name, answer: configured.append((name, answer)))
    monkeypatch.setattr(network, "_ASK_EVERY_S", 0.05)
    monkeypatch.setattr(network, "_LOOK_EVERY_S", 0.005)
    yield configured
    for device in Device.made:
        device.socket.close()
        device.other.close()


def test_takes_what_is_offered_and_configures_that_device(devices):
    Device.servers = {"eth0": {}, "eth1": {DISCOVER: said(OFFER), REQUEST: said(ACK, lease_s=60)}}
    lease = join_network(5.0)
    assert lease.answer == said(ACK, lease_s=60)
    assert devices == [("eth1", said(ACK, lease_s=60))]
    silent, answering = Device.made
    assert [kind for kind, _, _ in answering.asked] == [DISCOVER, REQUEST]
    assert answering.asked[1][1] == said(OFFER)
    # What nobody answers on is closed; the other asks for its lease again one day.
    assert silent.socket.fileno() == -1
    assert answering.socket.fileno() != -1


def test_a_device_that_comes_later_is_asked_too(devices, monkeypatch):
    names = iter([[], [], ["eth0"]])
    Device.servers = {"eth0": {DISCOVER: said(OFFER), REQUEST: said(ACK)}}
    monkeypatch.setattr(network, "_ethernet_devices", lambda: next(names, ["eth0"]))
    join_network(5.0)
    assert [name for name, _ in devices] == ["eth0"]


@pytest.mark.parametrize("request_answer", [None, NAK])
def test_an_offer_that_is_taken_back_is_none(devices, request_answer):
    Device.servers = {
        "eth0": {DISCOVER: said(OFFER), **({} if request_answer is None else {REQUEST: said(request_answer)})}
    }
    with pytest.raises(PlatformError, match=r"network: found eth0 and no address, want one within 1 s"):
        join_network(1.0)
    assert devices == []
    assert len(Device.made[0].asked) > 2
    assert Device.made[0].socket.fileno() == -1


def test_a_machine_without_a_device_is_refused():
    with pytest.raises(PlatformError, match="network: found no device and no address"):
        join_network(0.02)


def test_what_the_kernel_refuses_is_said(monkeypatch):
    def refuse(name):
        raise PermissionError(1, "Operation not permitted")

    Device.servers = {"eth0": {}}
    monkeypatch.setattr(network, "_Device", refuse)
    with pytest.raises(PlatformError, match="network: Operation not permitted"):
        join_network(1.0)


def keep(device, lease, until):
    """Keep a lease until something is so."""

    async def run():
        task = asyncio.create_task(lease.keep())
        async with asyncio.timeout(5):
            while not until():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        task.cancel()

    asyncio.run(run())


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(network, "RENEW_S", 0.05)
    monkeypatch.setattr(network, "_RETRY_S", 0.01)


def test_a_lease_is_asked_for_again_from_the_address_that_is_held(quick):
    Device.servers = {"eth0": {REQUEST: said(ACK, lease_s=1000)}}
    device = Device("eth0")
    lease = Lease(device, said(ACK, lease_s=0.02))
    keep(device, lease, lambda: lease.answer.lease_s == 1000)
    assert device.asked == [(REQUEST, None, ADDRESS)]


@pytest.mark.parametrize("answer", [None, said(NAK), said(ACK, address=b"\x0a\x00\x02\x10")])
def test_an_address_is_kept_and_asked_for_again_where_nobody_gives_it(quick, answer):
    Device.servers = {"eth0": {REQUEST: answer}}
    device = Device("eth0")
    lease = Lease(device, said(ACK, lease_s=0.02))
    keep(device, lease, lambda: len(device.asked) > 2)
    assert lease.answer.address == ADDRESS


def test_hosts_can_connect_and_are_asked_whether_they_are_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with listen(port) as listener, socket.create_connection(("127.0.0.1", port), 5) as host:
        keep_side, _ = listener.accept()
        with keep_side:
            assert keep_side.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert keep_side.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
            assert keep_side.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
            host.send(b"hello")
            assert keep_side.recv(5) == b"hello"


def test_a_port_that_is_taken_is_refused():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PlatformError, match=f"TCP port {port}: Address already in use"):
            listen(port)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_image_has_the_drivers_that_the_guest_loads_in_that_order(arch):
    names = tuple(posixpath.basename(name) for name in ARCHITECTURES[arch].network_modules)
    assert names == boot._NETWORK_MODULES


def test_a_route_is_what_the_kernel_calls_struct_rtentry(monkeypatch):
    given = []
    monkeypatch.setattr(network.fcntl, "ioctl", lambda _sock, request, entry: given.append((request, entry)))
    network._add_route(None, "eth0", bytes(4), 3, router=b"\x0a\x00\x02\x02")
    ((request, entry),) = given
    assert request == 0x890B
    assert entry[8:16] == struct.pack("=H2x4s", socket.AF_INET, bytes(4))
    assert entry[24:32] == struct.pack("=H2x4s", socket.AF_INET, b"\x0a\x00\x02\x02")
    assert struct.unpack_from("=H", entry, 56) == (3,)
    assert struct.unpack_from("@P", entry, 88)[0]
