# SPDX-License-Identifier: Apache-2.0
"""The emulated platform of a virtual machine's host, asked over a virtio-serial port of its own.

A request and its answer are those of `enarx.wire.platform_answer`, one after the other; both say how long they are. Who answers is
the host, so nothing here is proof of anything.

The port is opened for each request, because the kernel drops what nobody has read of it when it is closed: a late answer is not
taken for the next one, and if it were, it would be over other report data.
"""

from __future__ import annotations

import os
import select
import time

from enarx.errors import DecodeError, PlatformError
from enarx.wire.platform_answer import MAX_ANSWER_BYTES

__all__ = ["TIMEOUT_S", "ask_platform_port"]

TIMEOUT_S = 50.0
_ALONE_S = 0.02
_READ_BYTES = 1 << 16


def ask_platform_port(path: str, request: bytes, *, timeout_s: float = TIMEOUT_S) -> bytes:
    """Send a request, and return the answer.

    Args:
        path: of the port.
        request: 64 bytes.
        timeout_s: for all of it.

    Raises:
        PlatformError: the port cannot be used, or nobody answers in time.
        DecodeError: the answer is none.
    """
    deadline = time.monotonic() + timeout_s
    try:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            return _exchange(fd, request, deadline)
        finally:
            os.close(fd)
    except OSError as error:
        raise PlatformError(f"cannot attest: the emulated platform: {path}: {error.strerror}") from error


def _exchange(fd: int, request: bytes, deadline: float) -> bytes:
    left = memoryview(request)
    while left:
        _wait(fd, select.POLLOUT, deadline)
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            continue
    answer = bytearray()
    while not _is_whole(answer):
        _wait(fd, select.POLLIN, deadline)
        try:
            answer += os.read(fd, _READ_BYTES)
        except BlockingIOError:
            continue
    return bytes(answer)


def _wait(fd: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(fd, event)
    found = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
    if not found or time.monotonic() > deadline:
        raise PlatformError("cannot attest: the emulated platform: found no answer, want one in time")
    if found[0][1] & select.POLLHUP:
        # Without a host the port is ready for everything, and nothing comes of it.
        time.sleep(_ALONE_S)


def _is_whole(answer: bytearray) -> bool:
    """Return whether an answer has come whole, or can be none any more."""
    size = 0
    for _ in range(2):
        if len(answer) < size + 4:
            return False
        size += 4 + int.from_bytes(answer[size : size + 4], "big")
        if size > MAX_ANSWER_BYTES:
            raise DecodeError(
                f"cannot attest: the emulated platform: found an answer of {size} bytes, want at most {MAX_ANSWER_BYTES}"
            )
    return len(answer) >= size
