# SPDX-License-Identifier: Apache-2.0
"""The process for each Keep on a machine elsewhere: it connects there, and carries the link. A program of its own that imports nothing of ours.

It is what the host has of such a Keep: it ends when the Keep cannot be reached any more, and the link is broken when it ends. The
machine goes on then, until its Keep ends it or whoever started it does. Nothing is understood here but that a Keep speaks first: a
network may well accept connections to a machine on which nobody listens yet, or where another host is being served.

    remote_relay.py PARENT ADDRESS PORT START_S AGAIN_S      descriptors: 3 the listening link, 4 the file of the ending
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

LINK_FD, ENDING_FD = 3, 4
ENDING_BYTES = 4096

_CONNECT_S = 5.0
_RETRY_S = 0.5
_WORD_S = 15.0
_PIECE_BYTES = 1 << 18
# As at the Keep's end: a machine that went away without a word is noticed.
_IDLE_S, _EVERY_S, _COUNT = 15, 5, 3
_PR_SET_PDEATHSIG = 1


_HINT = "see whether the machine runs, and its network lets this host through to the port"


class _Unreachable(Exception):  # noqa: N818
    """Nobody answers there."""


def main() -> NoReturn:
    """Carry the link until the Keep cannot be reached; SIGTERM ends this process at once."""
    parent, address, port, start_s, again_s = sys.argv[1:]
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    if parent != "-":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):
            os._exit(0)
    listener = socket.socket(fileno=LINK_FD)
    has_said_end = False
    within_s = float(start_s)
    try:
        while True:
            host, _ = listener.accept()
            with host, connect(address, int(port), within_s, gone_with=host) as machine:
                has_said_end = carry(host, machine)
            within_s = float(again_s)
    except _Unreachable as error:
        # A Keep that ends closes its end of the link, and then there is nobody any more.
        said = {"kind": "off", "message": ""}
        if not has_said_end:
            said = {"kind": "KeepError", "message": f"cannot reach the Keep: {address}:{port}: {error}", "hint": _HINT}
        os.pwrite(ENDING_FD, json.dumps(said).encode()[:ENDING_BYTES].ljust(ENDING_BYTES), 0)
        os._exit(0)


def connect(address: str, port: int, within_s: float, *, gone_with: socket.socket) -> socket.socket:
    """Connect to a machine whose Keep speaks, and try until it does.

    Args:
        address: of the machine, or its name.
        port: there.
        within_s: for all of it.
        gone_with: who wants it; where that end is closed, nobody does any more.

    Raises:
        _Unreachable: it does not within that time.
    """
    until = time.monotonic() + within_s
    found = "no answer"
    while (left := until - time.monotonic()) > 0:
        begun = time.monotonic()
        try:
            machine = socket.create_connection((address, port), min(_CONNECT_S, left))
        except OSError as error:
            found = error.strerror or "no answer"
        else:
            if _speaks(machine, until, gone_with):
                machine.setblocking(True)
                _notice_silence(machine)
                return machine
            machine.close()
            found = "a connection and no word of a Keep"
            if _is_gone(gone_with):
                break
        time.sleep(max(0.0, min(_RETRY_S - (time.monotonic() - begun), until - time.monotonic())))
    raise _Unreachable(f"found {found}, want a Keep within {within_s:g} s")


def _speaks(machine: socket.socket, until: float, host: socket.socket) -> bool:
    poll = select.poll()
    poll.register(machine, select.POLLIN)
    poll.register(host, select.POLLRDHUP)
    events = dict(poll.poll(max(0.0, min(_WORD_S, until - time.monotonic())) * 1000))
    if machine.fileno() not in events:
        return False
    try:
        return bool(machine.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


def _is_gone(host: socket.socket) -> bool:
    poll = select.poll()
    poll.register(host, select.POLLRDHUP)
    return bool(poll.poll(0))


def _notice_silence(machine: socket.socket) -> None:
    for level, name, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _EVERY_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _COUNT),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * (_IDLE_S + _EVERY_S * _COUNT)),
    ):
        machine.setsockopt(level, name, value)


def carry(host: socket.socket, machine: socket.socket) -> bool:
    """Carry bytes both ways until either end is over, and return whether the machine ended its own in order."""
    ended: list[socket.socket | None] = []

    def one_way(source: socket.socket, target: socket.socket) -> None:
        buffer = memoryview(bytearray(_PIECE_BYTES))
        # Either may break at any time: then both are over.
        try:
            while count := source.recv_into(buffer):
                target.sendall(buffer[:count])
            ended.append(source)
        except OSError:
            ended.append(None)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    back = threading.Thread(target=one_way, args=(machine, host), daemon=True)
    back.start()
    one_way(host, machine)
    back.join()
    return ended[0] is machine


if __name__ == "__main__":
    main()
