# SPDX-License-Identifier: Apache-2.0
"""A command that dies by SIGKILL before one of its writes to files in a folder, or in the middle of it.

The kernel stops each thread of it before every system call that changes a file, and asks the test: seccomp's user notification. So
the same write is met whatever the threads do, with nothing loaded into the process and nothing traced.

Run as a program it puts the filter in place, hands the descriptor that is asked over a socket, and becomes the command.

Source: seccomp_unotify(2); Linux include/uapi/linux/seccomp.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
ARRIVAL_S = 30.0

# write, writev, pwrite64, pwritev, fsync, fdatasync, ftruncate, unlinkat, renameat, renameat2; then unlink and rename by paths.
_BY_FD = {
    "x86_64": {1: "write", 20: "writev", 18: "pwrite", 296: "pwritev", 74: "fsync", 75: "fdatasync", 77: "ftruncate"},
    "aarch64": {64: "write", 66: "writev", 68: "pwrite", 70: "pwritev", 82: "fsync", 83: "fdatasync", 46: "ftruncate"},
}
_BY_PATH = {
    "x86_64": {82: ("rename", 1), 87: ("unlink", 0), 263: ("unlink", 1), 264: ("rename", 3), 316: ("rename", 3)},
    "aarch64": {35: ("unlink", 1), 38: ("rename", 3), 276: ("rename", 3)},
}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_MODE_FILTER, _NEW_LISTENER, _NO_NEW_PRIVS = 1, 8, 38
_ALLOW, _USER_NOTIF = 0x7FFF0000, 0x7FC00000
_LOAD_NUMBER, _EQUALS, _RETURN = 0x20, 0x15, 0x06
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTICE, _ANSWER = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
_GO_ON = 1


def main(argv):
    number, *command = argv
    machine = platform.machine()
    watched = [*_BY_FD[machine], *_BY_PATH[machine]]
    steps = [(_LOAD_NUMBER, 0, 0, 0)]
    steps += [(_EQUALS, len(watched) - index, 0, each) for index, each in enumerate(watched)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _USER_NOTIF)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    with socket.socket(fileno=int(number)) as to_test:
        listener = libc.syscall(_SECCOMP[machine], _MODE_FILTER, _NEW_LISTENER, program)
        if listener < 0:
            to_test.sendall(struct.pack("=i", ctypes.get_errno()))
            return 1
        socket.send_fds(to_test, [struct.pack("=i", 0)], [listener])
    os.close(listener)
    os.execv(command[0], command)  # noqa: S606
    return 1


class Dying:
    """Decides over the writes of one command.

    Args:
        folder: whose files count.
        at: before which write it dies, counted from 0; None lets all happen.
        torn: how much of that write happens, if it is one of bytes at an offset.

    Attributes:
        seen: what it wrote until now: what was called, and the name of the file.
    """

    def __init__(self, folder, *, at=None, torn=0.0):
        self.seen = []
        self.died = threading.Event()
        self._folder = f"{os.path.realpath(folder)}/"
        self._at, self._torn = at, torn
        self._machine = platform.machine()
        if self._machine not in _SECCOMP:
            pytest.skip(f"no system call numbers for {self._machine}")
        self._ours, self._its = socket.socketpair()
        self._thread = threading.Thread(target=self._decide, daemon=True)
        self._child = None

    def popen(self, command, **how):
        """Start the command, as `subprocess.Popen` does."""
        number = self._its.fileno()
        with self._its:
            whole = [sys.executable, "-I", str(Path(__file__)), str(number), *command]
            self._child = subprocess.Popen(whole, pass_fds=(number,), **how)
        self._thread.start()
        return self._child

    def close(self):
        """Wait until nothing is left to be decided, after the command has ended."""
        self._thread.join(ARRIVAL_S)
        assert not self._thread.is_alive()

    def _decide(self):
        with self._ours:
            self._ours.settimeout(ARRIVAL_S)
            said, (*fds,), _, _ = socket.recv_fds(self._ours, 4, 1)
        if not fds:
            os.kill(self._child.pid, signal.SIGKILL)
            raise OSError(struct.unpack("=i", said)[0], "seccomp user notification")
        (listener,) = fds
        try:
            poll = select.poll()
            poll.register(listener, select.POLLIN)
            while True:
                ((_, events),) = poll.poll()
                if not events & select.POLLIN:
                    return
                notice = bytearray(_NOTICE.size)
                try:
                    fcntl.ioctl(listener, _RECEIVE, notice)
                except OSError as error:
                    # It died while it waited.
                    if error.errno in {errno.ENOENT, errno.EINTR}:
                        continue
                    raise
                identifier, task, _, number, _, _, *arguments = _NOTICE.unpack(notice)
                if self._is_last(task, number, arguments):
                    self._child.kill()
                    self.died.set()
                    continue
                with contextlib.suppress(OSError):
                    fcntl.ioctl(listener, _SEND, bytearray(_ANSWER.pack(identifier, 0, 0, _GO_ON)))
        finally:
            os.close(listener)

    def _is_last(self, task, number, arguments):
        """Count a call; return whether it is the one before which the process dies."""
        if self.died.is_set():
            return True
        try:
            name, path = self._target(task, number, arguments)
        except OSError:
            return False
        if not path.startswith(self._folder):
            return False
        index = len(self.seen)
        self.seen.append((name, path.removeprefix(self._folder)))
        if index != self._at:
            return False
        if name == "pwrite" and self._torn:
            self._write_part(task, arguments)
        return True

    def _target(self, task, number, arguments):
        if (name := _BY_FD[self._machine].get(number)) is not None:
            return name, os.readlink(f"/proc/{task}/fd/{arguments[0]}")
        name, which = _BY_PATH[self._machine][number]
        path = self._memory(task, arguments[which], 4096, shorter=True).partition(b"\0")[0].decode()
        # Relative to a folder that is open, or to the one it works in.
        where = (
            f"/proc/{task}/fd/{arguments[which - 1]}"
            if which and arguments[which - 1] < 1 << 31
            else f"/proc/{task}/cwd"
        )
        return name, os.path.join(os.readlink(where), path)

    def _write_part(self, task, arguments):
        fd, address, size, offset, *_ = arguments
        part = self._memory(task, address, round(size * self._torn))
        with open(f"/proc/{task}/fd/{fd}", "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), part, offset)

    @staticmethod
    def _memory(task, address, size, *, shorter=False):
        with open(f"/proc/{task}/mem", "rb", buffering=0) as file:
            # What is read may not go beyond the mapping.
            return os.pread(file.fileno(), min(size, 4096 - address % 4096) if shorter else size, address)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
