#!/usr/bin/python3.11 -IS
# SPDX-License-Identifier: Apache-2.0
"""The first program of a bare machine: it sends and takes bytes by the port of a Keep's link, as fast as they go.

A command is a letter and sixteen digits. `d`: send so many bytes; `u`: say `r`, take so many, say `.`. In capitals the same after a
handshake of a session's TLS, and in it.
"""

import ctypes
import os
import sys
import time
from datetime import UTC, datetime

sys.path.append("/usr/lib/enarx")
from enarx.channel.tls import TlsEnd
from enarx.crypto.x509 import make_self_signed

PAGE, WRITE, CHUNK = 4096, 32 << 10, 64 << 10
ctypes.CDLL(None).mount(b"devtmpfs", b"/dev", b"devtmpfs", ctypes.c_ulong(0), None)
ctypes.CDLL(None).mount(b"sysfs", b"/sys", b"sysfs", ctypes.c_ulong(0), None)

PORTS = "/sys/class/virtio-ports"
name = ""
while not name:
    for device in os.listdir(PORTS):
        with open(f"{PORTS}/{device}/name") as file:
            if file.read().strip() == "keep.0":
                name = device
port = os.open(f"/dev/{name}", os.O_RDWR)
buffer = bytearray(CHUNK)
pages = [memoryview(buffer)[at : at + PAGE] for at in range(0, CHUNK, PAGE)]


def take() -> memoryview:
    """Return some bytes; while there is no host, there are none."""
    while not (count := os.readv(port, pages)):
        time.sleep(0.01)
    return memoryview(buffer)[:count]


def give(data: bytes) -> None:
    """Send bytes."""
    view = memoryview(data)
    while view:
        view = view[os.writev(port, [view[at : at + WRITE] for at in range(0, len(view), WRITE)]) :]


def command() -> tuple[str, int]:
    said = b""
    while len(said) < 17:
        said += os.read(port, 17 - len(said)) or (time.sleep(0.01) or b"")
    return chr(said[0]), int(said[1:])


def carry_plain(way: str, count: int) -> None:
    block = bytes(CHUNK)
    if way == "d":
        for _ in range(count // CHUNK):
            give(block)
        return
    give(b"r")
    while count:
        count -= len(take())
    give(b".")


def carry_in_tls(way: str, count: int) -> None:
    end = TlsEnd.for_keep(make_self_signed(at=datetime(2000, 1, 1, tzinfo=UTC)))
    while not end.established:
        give(end.take_output())
        end.receive(take())
    give(end.take_output())
    block = bytes(CHUNK)
    if way == "D":
        for _ in range(count // CHUNK):
            end.write(block)
            give(end.take_output())
        return
    end.write(b"r")
    give(end.take_output())
    while count:
        end.receive(take())
        count -= len(end.read())
    end.write(b".")
    give(end.take_output())


os.write(1, b"port: ready\n")
while True:
    what, size = command()
    (carry_plain if what.islower() else carry_in_tls)(what, size)
