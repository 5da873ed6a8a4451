# SPDX-License-Identifier: Apache-2.0
"""The Keep of a virtual machine: it finds its ports or its network, its evidence and its size by itself, and then lives as every Keep does.

A host tells it nothing: what there is room for is what the machine has, and which device gives evidence is found by asking.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import time
from collections.abc import Callable

from enarx.attester import find_attester
from enarx.attester.emulated import EmulatedAttester
from enarx.attester.platform_port import ask_platform_port
from enarx.channel.port import Port
from enarx.errors import PlatformError
from enarx.keep.life import IDLE_S, Keep
from enarx.keep.options import MIN_LOG_BYTES, Options
from enarx.keep.workload_spawn import Spawned
from enarx.wire.machine import LINK_PORT, OVERHEAD_BYTES, PLATFORM_PORT

__all__ = ["find_ports", "live", "machine_bytes", "options_for"]

NETWORK_IDLE_S = 3600.0
"""How long an empty Keep on a network waits for a session: in a cloud, who starts a machine and who uses it are not one program."""

PORTS_S = 10.0
_PORTS_STEP_S = 0.005
_PORTS = "/sys/class/virtio-ports"
_MAX_NAME_BYTES = 256

_ROUND_BYTES = 32 << 20
"""What firmware and kernel may keep of the memory that a launcher gave, which is a multiple of this."""

_MAX_PACKAGE_BYTES = 1 << 30
_MAX_LOG_BYTES = 16 << 20


async def live(spawned: Spawned, *, user: int, port: int | None, ready: Callable[[Options], None]) -> None:
    """Be a Keep.

    Args:
        spawned: a workload process.
        user: number of whom other workload processes become.
        port: for TCP, on which hosts connect; None is a port of the machine's.
        ready: is called when hosts and tenants can come, with what there is room for.

    Raises:
        PlatformError: the machine has not what a Keep needs.
    """
    listener: Port | socket.socket
    emulated: EmulatedAttester | None = None
    lease: asyncio.Task[None] | None = None
    idle_s = IDLE_S
    if port is None:
        ports = _wait_for_ports(_PORTS)
        platform = ports.get(PLATFORM_PORT)
        if platform is not None:
            emulated = EmulatedAttester(lambda request: ask_platform_port(platform, request))
        listener = Port.open(ports[LINK_PORT])
    else:
        # In images for clouds alone.
        from enarx.keep.network import join_network, listen

        lease = asyncio.create_task(join_network().keep())
        listener, idle_s = listen(port), NETWORK_IDLE_S
    attester = find_attester(emulated=emulated)
    # What a machine is whose platform is emulated: any machine.
    options = options_for("vm" if attester is emulated else attester.backend, machine_bytes())
    keep = Keep(options, listener, lambda _ask: attester, say=_ignore, spawned=spawned, user=user, idle_s=idle_s)
    gc.freeze()
    gc.enable()
    ready(options)
    await keep.run()
    if lease is not None:
        lease.cancel()


def options_for(backend: str, total_bytes: int) -> Options:
    """Return what a Keep has that has all of a machine.

    Args:
        backend: that its evidence is of.
        total_bytes: of the machine's memory.

    Raises:
        PlatformError: there is too little.
    """
    memory_bytes = total_bytes - OVERHEAD_BYTES
    least_bytes = 8 * MIN_LOG_BYTES
    if memory_bytes < least_bytes:
        raise PlatformError(
            f"cannot start the Keep: memory: found {total_bytes} bytes, want at least {OVERHEAD_BYTES + least_bytes}"
        )
    return Options(
        backend=backend,
        memory_bytes=memory_bytes,
        package_bytes=min(_MAX_PACKAGE_BYTES, memory_bytes // 2),
        log_bytes=min(_MAX_LOG_BYTES, memory_bytes // 8),
        link_fd=-1,
    )


def machine_bytes(path: str = "/proc/iomem") -> int:
    """Return the size of this machine's memory, with what firmware and kernel keep of the last piece.

    Args:
        path: of the kernel's map of physical addresses.
    """
    total = 0
    with open(path, encoding="ascii") as file:
        for line in file:
            # What begins at the margin is not a part of something else.
            span, _, name = line.rstrip().partition(" : ")
            if name == "System RAM" and not span.startswith(" "):
                first, _, last = span.partition("-")
                total += int(last, 16) - int(first, 16) + 1
    return -(-total // _ROUND_BYTES) * _ROUND_BYTES


def _wait_for_ports(folder: str) -> dict[str, str]:
    """Return the ports' devices by their names, once the link's is there and none is without a name."""
    deadline = time.monotonic() + PORTS_S
    while True:
        found = find_ports(folder)
        if LINK_PORT in found and "" not in found:
            return found
        if time.monotonic() > deadline:
            raise PlatformError(f"cannot start the Keep: port {LINK_PORT}: found none, want it within {PORTS_S:g} s")
        time.sleep(_PORTS_STEP_S)


def find_ports(folder: str) -> dict[str, str]:
    """Return the devices of virtio-serial ports by their names, which are empty as long as the host has told none.

    Args:
        folder: where the kernel lists them.
    """
    ports: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError):
        for device in os.listdir(folder):
            name = ""
            with contextlib.suppress(FileNotFoundError), open(f"{folder}/{device}/name", "rb") as file:
                name = file.read(_MAX_NAME_BYTES).strip().decode(errors="replace")
            ports[name] = f"/dev/{device}"
    return ports


def _ignore(_line: str) -> None:
    """Say nothing: what happens once the Keep is ready, a tenant hears."""
