# SPDX-License-Identifier: Apache-2.0
"""The first and only program of a Keep's virtual machine: make the kernel safe to live on, and be the Keep.

Rules of this file:

- What it reads is in the image, or is of the machine: its memory, its devices, and the ports of `enarx.wire.machine`. Of the kernel's
  command line, which is measured, one word says what carries the link; nothing of firmware or host has a say here.
- One process is both init and the Keep: there is nobody to start it, and nobody whom it could outlive. Where it ends, however it
  does, the machine does.
- The console gets one line: that the Keep is ready, or why it is not. From then on nothing here or in the kernel writes to it.
- The clock that the host set is put back, to the same moment for every Keep: the tenant's time comes with the release.
- The workload process is forked before anything is loaded that it may not know, and shares what both have: interpreting the
  same files twice would take a third of the time until the first output.

What holds it together is the order of `main`. It ends with rights that are enough to start a workload process as somebody without
any, to end it, and to turn the machine off.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import time

from enarx.channel.memory import keep_freed_memory
from enarx.errors import EnarxError, PlatformError
from enarx.keep.hardening import give_up, keep_capabilities
from enarx.keep.workload import main as be_workload
from enarx.keep.workload_spawn import fork
from enarx.wire.machine import READY_LINE, parse_link_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from enarx.keep.options import Options

__all__ = ["main"]

USER = 1000
"""Number of the user that workload processes are, and of its group; nothing in the image is theirs."""

MAX_OPEN_FILES = 8192
_TEE_MODULES = ("configfs", "tsm", "sev-guest", "tdx-guest", "arm-cca-guest")
_TPM_MODULES = ("tpm_tis_core", "tpm_tis")
_NETWORK_MODULES = ("failover", "net_failover", "virtio_net", "ena", "gve", "hv_vmbus", "hv_netvsc")
# In the order in which they need each other; those of other machines than this one do not load, or are not in the image. Each
# costs a twentieth of a boot, for its signature, so that they are not tried where the kernel knows that there is no TEE.
_TEE_DEVICES = ("/sys/bus/platform/devices/sev-guest", "/sys/bus/platform/devices/arm-cca-dev")
_TEE_FLAG = b"tdx_guest"

_CLOCK_S = 946684800
"""The year 2000; the kernel has none before its own start."""

_MAX_COMMAND_LINE_BYTES = 4096
_MODULES_FOLDER = "/usr/lib/modules"
_SCRATCH = "/dev/shm"  # noqa: S108  # the tmpfs of `enarx.runtime.scratch`

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 4096
_QUIET = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
# In the group 0, which is this process's, the processes of others can be seen, and in no other.
_EARLY_MOUNTS = (
    ("proc", "/proc", _QUIET, "hidepid=invisible,gid=0"),
    ("sysfs", "/sys", _QUIET, ""),
    ("devtmpfs", "/dev", _MS_NOSUID | _MS_NOEXEC, "mode=0755"),
)
_LATE_MOUNTS = (
    ("configfs", "/sys/kernel/config", _QUIET, ""),
    ("securityfs", "/sys/kernel/security", _QUIET | _MS_RDONLY, ""),
)
# Not all of them are in every kernel.
_SETTINGS = (
    ("kernel/modules_disabled", "1"),
    ("kernel/kexec_load_disabled", "1"),
    ("kernel/unprivileged_bpf_disabled", "1"),
    ("kernel/io_uring_disabled", "2"),
    ("kernel/perf_event_paranoid", "3"),
    ("kernel/yama/ptrace_scope", "3"),
    ("kernel/dmesg_restrict", "1"),
    ("kernel/kptr_restrict", "2"),
    ("user/max_user_namespaces", "0"),
    ("vm/unprivileged_userfaultfd", "0"),
)
_REQUIRED = {"kernel/modules_disabled", "kernel/kexec_load_disabled"}

_SYS_FINIT_MODULE = {"x86_64": 313, "aarch64": 273}
_CAP_CHOWN, _CAP_KILL, _CAP_SETGID, _CAP_SETUID, _CAP_SYS_BOOT = 0, 5, 6, 7, 22
_POWER_OFF, _RESTART = 0x4321FEDC, 0x01234567


def main() -> NoReturn:
    """Be the first process of the machine, and end it."""
    # What is loaded stays; looking for garbage in it would take a tenth of the time until the Keep is ready.
    gc.disable()
    keep_freed_memory()
    try:
        port = _prepare()
        spawned = fork(lambda: be_workload(USER))
        # Nothing of a session, of keys or of evidence is loaded before there is a process that must not have it.
        import asyncio

        from enarx.keep.guest import live

        asyncio.run(live(spawned, user=USER, port=port, ready=_settle))
    except EnarxError as error:
        _say(f"enarx keep: {error}")
    except BaseException as error:  # noqa: BLE001  # whatever it is, the console is told of it and the machine ends
        _say(f"enarx keep: bug in enarx: {type(error).__name__}: {error}")
    finally:
        _end()


def _prepare() -> int | None:
    """Make the kernel safe to live on, and return the TCP port of the link; None where that is on a port of the machine's."""
    for kind, where, flags, data in _EARLY_MOUNTS:
        _mount(kind, where, flags, data)
    os.mkdir(_SCRATCH)
    with open("/proc/cmdline", "rb") as file:
        port = parse_link_port(file.read(_MAX_COMMAND_LINE_BYTES))
    for name in () if port is None else _NETWORK_MODULES:
        _load(f"{_MODULES_FOLDER}/{name}.ko")
    for name in (*_TEE_MODULES, *_TPM_MODULES) if _is_in_tee() else _TPM_MODULES:
        _load(f"{_MODULES_FOLDER}/{name}.ko")
    for kind, where, flags, data in _LATE_MOUNTS:
        # A kernel that does not have it has no use for it.
        if os.path.isdir(where):
            _mount(kind, where, flags, data)
    _mount("", "/", _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV, "")
    for name, value in _SETTINGS:
        _set(name, value)
    time.clock_settime(time.CLOCK_REALTIME, _CLOCK_S)
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    give_up()
    return port


def _settle(options: Options) -> None:
    """Give up what was needed until here, and say that the Keep is ready."""
    _mount("tmpfs", _SCRATCH, _QUIET, f"mode=0755,size={options.memory_bytes // 2}")
    keep_capabilities((_CAP_CHOWN, _CAP_KILL, _CAP_SETGID, _CAP_SETUID, _CAP_SYS_BOOT))
    _say(READY_LINE)
    _leave_console()


def _mount(kind: str, where: str, flags: int, data: str) -> None:
    if _library().mount(kind.encode(), where.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode() or None):
        raise _failure(f"mount {where}")


def _is_in_tee() -> bool:
    """Return whether the kernel says that this machine is a TEE's guest; a driver of evidence has nothing to do elsewhere.

    Source: Linux 6.12 arch/x86/coco/sev/core.c, arch/x86/include/asm/cpufeatures.h, arch/arm64/kernel/rsi.c.
    """
    with open("/proc/cpuinfo", "rb") as file:
        return _TEE_FLAG in file.read().split() or any(map(os.path.exists, _TEE_DEVICES))


def _load(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        # The image of another machine.
        return
    # One for a TEE that is not here says so, and is not needed.
    _library().syscall(ctypes.c_long(_SYS_FINIT_MODULE[os.uname().machine]), ctypes.c_int(fd), b"", ctypes.c_int(0))
    os.close(fd)


def _set(name: str, value: str) -> None:
    try:
        with open(f"/proc/sys/{name}", "w", encoding="ascii") as file:
            file.write(value)
    except OSError as error:
        if name in _REQUIRED:
            raise PlatformError(f"cannot start the Keep: {name}: {error.strerror}") from error


def _end() -> NoReturn:
    """Turn the machine off, or start it again where it cannot be: whoever runs it takes that for the end, too."""
    has_switch = os.path.isdir("/sys/firmware/acpi") or os.path.isdir("/sys/firmware/devicetree")
    _library().reboot(ctypes.c_int(_POWER_OFF if has_switch else _RESTART))
    # The kernel ends the machine where its first process ends.
    os._exit(1)


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _failure(what: str) -> PlatformError:
    return PlatformError(f"cannot start the Keep: {what}: {os.strerror(ctypes.get_errno())}")


# --- The console -----------------------------------------------------------------------------------------------------


def _say(line: str) -> None:
    # A host that reads no console has nothing of it.
    with contextlib.suppress(OSError):
        os.write(1, f"{line[:500]}\n".encode(errors="replace"))


def _leave_console() -> None:
    """Let nothing be written to the console any more: neither by this process, nor by what it starts, nor by the kernel."""
    _set("kernel/printk", "0")
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)
