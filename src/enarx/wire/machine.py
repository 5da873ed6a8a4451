# SPDX-License-Identifier: Apache-2.0
"""What a launcher and the Keep in a virtual machine agree on beyond the link: names of ports, folders of nothing, and room.

Nothing here is believed: a host that gives other ports or less memory gives a Keep that does not start, or one that has less.
"""

from __future__ import annotations

__all__ = ["LINK_PORT", "OVERHEAD_BYTES", "PLATFORM_PORT", "READY_LINE"]

LINK_PORT = "keep.0"
"""The virtio-serial port that carries the link."""

PLATFORM_PORT = "platform.0"
"""The virtio-serial port on which the host's emulated platform answers, where the host has one."""

OVERHEAD_BYTES = 448 << 20
"""What a machine has more than its workload may take: kernel, initramfs, interpreter and compiler."""

READY_LINE = "enarx keep: ready"
"""The last that a console says."""
