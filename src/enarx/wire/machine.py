# SPDX-License-Identifier: Apache-2.0
"""What a launcher and the Keep in a virtual machine agree on beyond the link: names of ports, folders of nothing, and room.

Nothing here is believed: a host that gives other ports or less memory gives a Keep that does not start, or one that has less.
"""

from __future__ import annotations

from enarx.errors import DecodeError

__all__ = [
    "LINK_PORT",
    "LINK_WORD",
    "OVERHEAD_BYTES",
    "PLATFORM_PORT",
    "READY_LINE",
    "TCP_LINK_PORT",
    "parse_link_port",
]

LINK_PORT = "keep.0"
"""The virtio-serial port that carries the link."""

PLATFORM_PORT = "platform.0"
"""The virtio-serial port on which the host's emulated platform answers, where the host has one."""

LINK_WORD = "enarx.link="
"""Begins the word of the measured command line that says what carries the link: `tcp:PORT`. Without one it is `LINK_PORT`."""

TCP_LINK_PORT = 8471
"""The TCP port of images for clouds."""

OVERHEAD_BYTES = 448 << 20
"""What a machine has more than its workload may take: kernel, initramfs, interpreter and compiler."""

READY_LINE = "enarx keep: ready"
"""The last that a console says."""


def parse_link_port(command_line: bytes) -> int | None:
    """Return the TCP port that a kernel's command line says the link is on; None where it is on `LINK_PORT`.

    Args:
        command_line: of the kernel.

    Raises:
        DecodeError: it says something else, or says it twice.
    """
    beginning = LINK_WORD.encode()
    found = [word.removeprefix(beginning) for word in command_line.split() if word.startswith(beginning)]
    if not found:
        return None
    kind, _, number = found[0].partition(b":")
    if len(found) > 1 or kind != b"tcp" or not number.isdigit() or len(number) > 5 or not 0 < int(number) < 65_536:
        raise DecodeError(
            f"cannot read the command line: {LINK_WORD}: found {b' '.join(found)[:80]!r}, want tcp:PORT once"
        )
    return int(number)
