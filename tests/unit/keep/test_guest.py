# SPDX-License-Identifier: Apache-2.0
"""What the Keep of a virtual machine finds out about its machine."""

from __future__ import annotations

import asyncio
import socket

import pytest

from enarx.channel.frames import Target
from enarx.channel.link import open_link
from enarx.channel.port import Port
from enarx.errors import PlatformError
from enarx.keep import guest
from enarx.keep.guest import find_ports, machine_bytes, options_for
from enarx.keep.life import Keep
from enarx.keep.network import listen
from enarx.keep.options import MIN_LOG_BYTES
from enarx.wire.machine import LINK_PORT, OVERHEAD_BYTES, PLATFORM_PORT
from enarx.wire.session import Offer
from tests.keeping import OPTIONS, WAIT_S, FakeAttester, Tenant

MIB = 1 << 20
# Of a machine with 960 MiB: firmware has some of it, and what is inside of something else is not counted again.
IOMEM = """\
00000000-00000fff : Reserved
00001000-0009ffff : System RAM
000f0000-000fffff : System ROM
00100000-007fffff : System RAM
00800000-00807fff : ACPI Non-volatile Storage
00808000-3b6ecfff : System RAM
  04000000-051fffff : Kernel code
3b6ed000-3b9ecfff : Reserved
3ba00000-3bfeffff : System RAM
b0000000-bfffffff : PCI ECAM 0000 [bus 00-ff]
"""


def test_counts_what_a_launcher_gave(tmp_path):
    path = tmp_path / "iomem"
    path.write_text(IOMEM)
    assert machine_bytes(str(path)) == 960 * MIB


def test_of_a_large_machine_both_parts_count(tmp_path):
    path = tmp_path / "iomem"
    path.write_text("00100000-7fffffff : System RAM\n100000000-17fffffff : System RAM\n")
    assert machine_bytes(str(path)) == 4096 * MIB


def test_a_keep_has_all_but_the_overhead():
    options = options_for("snp", 960 * MIB)
    assert options.backend == "snp"
    assert options.memory_bytes == 960 * MIB - OVERHEAD_BYTES == 512 * MIB
    assert options.package_bytes == 256 * MIB
    assert options.log_bytes == 16 * MIB


def test_a_small_keep_has_a_small_log():
    least = 8 * MIN_LOG_BYTES
    options = options_for("vm", OVERHEAD_BYTES + least)
    assert (options.memory_bytes, options.log_bytes) == (least, MIN_LOG_BYTES)
    with pytest.raises(PlatformError, match="memory: found 471859199 bytes, want at least 471859200"):
        options_for("vm", OVERHEAD_BYTES + least - 1)


def test_a_large_keep_has_no_endless_log():
    options = options_for("vm", 64 << 30)
    assert (options.package_bytes, options.log_bytes) == (1 << 30, 16 * MIB)


def make_ports(folder, ports):
    for device, name in ports.items():
        (folder / device).mkdir(parents=True)
        if name is not None:
            (folder / device / "name").write_text(f"{name}\n")


def test_finds_ports_by_their_names(tmp_path):
    make_ports(tmp_path, {"vport0p1": LINK_PORT, "vport0p2": PLATFORM_PORT})
    assert find_ports(str(tmp_path)) == {LINK_PORT: "/dev/vport0p1", PLATFORM_PORT: "/dev/vport0p2"}


def test_no_ports_are_none(tmp_path):
    assert find_ports(str(tmp_path / "none")) == {}


def test_waits_until_every_port_has_a_name(tmp_path, monkeypatch):
    make_ports(tmp_path, {"vport0p1": LINK_PORT, "vport0p2": None})
    looked = []

    def sleep(_):
        looked.append(guest.find_ports(str(tmp_path)))
        (tmp_path / "vport0p2" / "name").write_text(PLATFORM_PORT)

    monkeypatch.setattr(guest.time, "sleep", sleep)
    assert set(guest._wait_for_ports(str(tmp_path))) == {LINK_PORT, PLATFORM_PORT}
    assert looked == [{LINK_PORT: "/dev/vport0p1", "": "/dev/vport0p2"}]


def test_waits_for_a_port_only_so_long(tmp_path, monkeypatch):
    monkeypatch.setattr(guest, "PORTS_S", 0.02)
    with pytest.raises(PlatformError, match=r"port keep\.0: found none, want it within 0\.02 s"):
        guest._wait_for_ports(str(tmp_path))


def test_a_keep_lives_on_a_port():
    async def test():
        here, there = socket.socketpair()
        here.setblocking(False)
        attester = FakeAttester()
        keep = Keep(OPTIONS, Port(here.fileno()), lambda _: attester, say=print)
        life = asyncio.ensure_future(keep.run())
        async with asyncio.timeout(WAIT_S):
            link = await open_link(there, role="host")
            tenant = await Tenant.connect(await link.open(Target.session()))
            assert isinstance(await tenant.challenge(), Offer)
            keep.end(3)
            assert await life == 3
        link.close()
        here.close()

    asyncio.run(test())


def test_a_keep_lives_on_a_network_one_host_at_a_time():
    async def test():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        attester = FakeAttester()
        keep = Keep(OPTIONS, listen(port), lambda _: attester, say=print)
        life = asyncio.ensure_future(keep.run())

        async def connect():
            sock = socket.create_connection(("127.0.0.1", port), WAIT_S)
            return await open_link(sock, role="host", timeout_s=WAIT_S)

        async with asyncio.timeout(WAIT_S):
            link = await connect()
            tenant = await Tenant.connect(await link.open(Target.session()))
            assert isinstance(await tenant.challenge(), Offer)
            # The next host is heard when the one before is gone.
            waiting = asyncio.ensure_future(connect())
            await asyncio.sleep(0)
            assert not waiting.done()
            link.close()
            following = await waiting
            tenant = await Tenant.connect(await following.open(Target.session()))
            assert isinstance(await tenant.challenge(), Offer)
            keep.end(3)
            assert await life == 3
        following.close()

    asyncio.run(test())
