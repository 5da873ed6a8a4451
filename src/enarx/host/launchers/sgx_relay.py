# SPDX-License-Identifier: Apache-2.0
"""The process beside each enclave: starts it, carries its link, and says why it ended. A program of its own that imports nothing of ours.

It is what the host has of a Keep in an enclave: either ends when the other does. The link socket is listened on, and one host after
the other connected with the enclave's standard input and output; what it writes while no host is there stays where it is, as with
a port of a machine. Nothing is understood here.

    sgx_relay.py PARENT FOLDER COMMAND...      descriptors: 3 the listening link, 4 the console, 5 the file of the ending
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_LINK_FD, _CONSOLE_FD, _ENDING_FD = 3, 4, 5
_ENDING_BYTES = 4096
_PIECE_BYTES = 1 << 18
_MAX_SAID = 600
_KILL_WAIT_MS = 5000
_LAST_WORDS_S = 5.0
_PR_SET_PDEATHSIG = 1


class _Way:
    """Bytes on their way from one socket to another: what was read and not taken yet."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source, self.target = source, target
        self.waiting = b""

    def move(self, events: dict[int, int]) -> bool:
        """Carry what can be carried; say whether both ends are there still."""
        try:
            if not self.waiting and events.get(self.source.fileno(), 0) & (select.POLLIN | select.POLLHUP):
                self.waiting = self.source.recv(_PIECE_BYTES)
                if not self.waiting:
                    return False
            if self.waiting:
                self.waiting = self.waiting[self.target.send(self.waiting) :]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


def main() -> NoReturn:
    """Be the process beside an enclave."""
    parent, folder, *command = sys.argv[1:]
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    if parent != "-":
        _die_with(int(parent), signal.SIGTERM)
    wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _note)
    ours, theirs = socket.socketpair()
    pid = _start(command, folder, theirs)
    theirs.close()
    ours.setblocking(False)
    pidfd = os.pidfd_open(pid)
    told = _carry(socket.socket(fileno=_LINK_FD), ours, pidfd, wake)
    if told:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(_KILL_WAIT_MS)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0 if not told else os.WNOHANG)[1])
    os.pwrite(_ENDING_FD, json.dumps(_ending(status, told=told)).encode()[:_ENDING_BYTES].ljust(_ENDING_BYTES), 0)
    os._exit(0)


def _start(command: list[str], folder: str, link: socket.socket) -> int:
    """Start the enclave with the link for standard input and output."""
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        try:
            os.chdir(folder)
            os.dup2(link.fileno(), 0)
            os.dup2(link.fileno(), 1)
            os.dup2(_CONSOLE_FD, 2)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            for fd in (_LINK_FD, _CONSOLE_FD, _ENDING_FD):
                os.set_inheritable(fd, False)
            _die_with(parent, signal.SIGKILL)
            os.execv(command[0], command)  # noqa: S606 - no shell is wanted
        except OSError as error:
            os.write(2, f"cannot start {command[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(127)
    return pid


def _carry(listener: socket.socket, enclave: socket.socket, pidfd: int, wake: int) -> bool:
    """Carry the link until the enclave has ended, or this process is told to; say whether it was that."""
    listener.setblocking(False)
    host: socket.socket | None = None
    ways: tuple[_Way, _Way] | None = None
    while True:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(wake, select.POLLIN)
        if ways is None:
            poll.register(listener, select.POLLIN)
        else:
            for way, other in (ways, ways[::-1]):
                # What cannot be handed on is not read, and what is full is asked for room.
                poll.register(
                    way.source, (0 if way.waiting else select.POLLIN) | (select.POLLOUT if other.waiting else 0)
                )
        events = dict(poll.poll())
        if wake in events:
            return True
        if pidfd in events:
            if ways is not None:
                _drain(ways[0])
            return False
        if ways is None:
            if listener.fileno() in events:
                host, _ = listener.accept()
                host.setblocking(False)
                ways = _Way(enclave, host), _Way(host, enclave)
            continue
        # Both, whatever the first one finds.
        whole = [way.move(events) for way in ways]
        if host is not None and not all(whole):
            # A host that goes makes room for the next; what it had not sent whole is the link's affair.
            host.close()
            host, ways = None, None


def _drain(way: _Way) -> None:
    """Hand on the last that an enclave said, to a host that takes it in time."""
    way.source.setblocking(False)
    way.target.settimeout(_LAST_WORDS_S)
    try:
        while True:
            way.target.sendall(way.waiting)
            way.waiting = way.source.recv(_PIECE_BYTES)
            if not way.waiting:
                return
    except OSError:
        return  # there is nothing more, or nobody who wants it


def _ending(status: int, *, told: bool) -> dict[str, str]:
    if told:
        return {"kind": "stopped", "message": ""}
    if status == 0:
        return {"kind": "off", "message": ""}
    how = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return {"kind": "KeepError", "message": f"the Keep ended: gramine-sgx: found it {how}, want it to run{_said()}"}


def _said() -> str:
    """Return the end of what Gramine said, on one line."""
    try:
        with open(f"/proc/self/fd/{_CONSOLE_FD}", "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _MAX_SAID))
            text = file.read(_MAX_SAID).decode("utf-8", "replace")
    except OSError:
        return ""
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f"; it said last: {words}" if words else "; it said nothing"


def _note(_number: int, _frame: object) -> None:
    """Take a signal; that it came is read where everything else is."""


def _die_with(parent: int, number: int) -> None:
    """End when whoever started us does; it is looked for afterwards, because it may have ended before."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()
