# SPDX-License-Identifier: Apache-2.0
"""Keeps in real machines for tests: the image, a host that starts them, and the processes of each.

The image is the one of this version, or `ENARX_TEST_IMAGE`. Under emulation a boot takes some seconds of a processor alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import time
from pathlib import Path

import pytest

from enarx import __version__
from enarx.errors import UsageError
from enarx.host.process_facts import children_of
from enarx.image.store import Image, open_image
from tests.hosting import HostProcess, keep_pids

NAME = os.environ.get("ENARX_TEST_IMAGE", f"keep-{__version__}-x86_64")
MEMORY_BYTES = 32 << 20
"""The least that a Keep in a machine has for its workload."""

BOOT_S = 240.0
"""For a boot on a machine that has other things to do."""

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000


def require_image() -> Image:
    """Return the image, or skip where it or what starts it is not there."""
    for program in ("qemu-system-x86_64", "swtpm", "swtpm_setup"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: apt-get install qemu-system-x86 swtpm swtpm-tools")
    try:
        return open_image(NAME)
    except UsageError:
        pytest.skip(f"no image {NAME}: enarx image build makes it")


def environment(env: dict[str, str]) -> dict[str, str]:
    """Return an environment in which images are found, and everything else is where it was."""
    return {**env, "XDG_DATA_HOME": os.environ.get("XDG_DATA_HOME", str(Path.home() / ".local/share"))}


def serve(state: Path, *options: str, env: dict[str, str], evidence: str = "emulated-snp", **spawn) -> HostProcess:
    """Start a host whose `vm` Keeps are of the image under test."""
    given = ("--image", NAME, "--vm-evidence", evidence, *options)
    return HostProcess(state, *given, stub=False, env=environment(env), **spawn)


def guards(state: Path) -> set[int]:
    """Return the pids of the guards of a host's machines."""
    return keep_pids(state)


def beside(guard: int, name: str) -> int:
    """Return the pid of a program beside a guard, once it is there."""

    def found() -> int | None:
        for pid in children_of(guard):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().startswith(name):
                    return pid
        return None

    return until(found)


def until(condition, timeout_s: float = 60.0):
    """Wait until a condition holds, and return what it said."""
    limit = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < limit
        time.sleep(0.01)
    return found


def small_disk(path: Path, size_bytes: int):
    """Return what a new process does first, so that a folder is a disk of that size for it, and for nobody else.

    Whoever is not root does it in a user namespace of his own, where the kernel allows those.
    """
    library = ctypes.CDLL(None, use_errno=True)

    def mount() -> None:
        user, group, is_root = os.geteuid(), os.getegid(), os.geteuid() == 0
        _call(library.unshare(_CLONE_NEWNS | (0 if is_root else _CLONE_NEWUSER)))
        if not is_root:
            for name, line in (
                ("setgroups", "deny"),
                ("uid_map", f"{user} {user} 1"),
                ("gid_map", f"{group} {group} 1"),
            ):
                Path(f"/proc/self/{name}").write_text(line)
        _call(library.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None))
        options = f"size={size_bytes},mode=0700,uid={user},gid={group}".encode()
        _call(library.mount(b"tmpfs", os.fsencode(path), b"tmpfs", ctypes.c_ulong(0), options))

    return mount


def _call(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
