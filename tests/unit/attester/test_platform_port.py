# SPDX-License-Identifier: Apache-2.0
"""The emulated platform over its port. A terminal stands for the device: it is a file with two directions, too."""

from __future__ import annotations

import os
import threading
import tty

import pytest

from enarx.attester.platform_port import ask_platform_port
from enarx.errors import DecodeError, PlatformError
from enarx.wire.platform_answer import encode_answer

REQUEST = bytes(range(64))


@pytest.fixture
def terminal():
    """Return the host's end, and the path of the guest's."""
    host, guest = os.openpty()
    tty.setraw(guest)
    yield host, os.ttyname(guest)
    os.close(host)
    os.close(guest)


def answering(host, *pieces):
    """Answer one request by pieces; return the thread and what it was asked."""
    asked = []

    def answer():
        data = b""
        while len(data) < 64:
            data += os.read(host, 64 - len(data))
        asked.append(data)
        for piece in pieces:
            os.write(host, piece)

    thread = threading.Thread(target=answer)
    thread.start()
    return thread, asked


@pytest.mark.parametrize("cut", [1, 3, 4, 1000, 1189, 1192, 1300])
def test_an_answer_may_come_in_pieces(terminal, cut):
    host, path = terminal
    answer = encode_answer(bytes(1184), os.urandom(1500))
    thread, asked = answering(host, answer[:cut], answer[cut:])
    assert ask_platform_port(path, REQUEST, timeout_s=20) == answer
    thread.join()
    assert asked == [REQUEST]


def test_a_refusal_is_two_empty_blocks(terminal):
    host, path = terminal
    thread, _ = answering(host, bytes(8))
    assert ask_platform_port(path, REQUEST, timeout_s=20) == bytes(8)
    thread.join()


def test_an_answer_without_end_is_none(terminal):
    host, path = terminal
    thread, _ = answering(host, b"\xff" * 8)
    with pytest.raises(DecodeError, match="found an answer of 4294967299 bytes"):
        ask_platform_port(path, REQUEST, timeout_s=20)
    thread.join()


def test_waits_only_so_long(terminal):
    _, path = terminal
    with pytest.raises(PlatformError, match="found no answer, want one in time"):
        ask_platform_port(path, REQUEST, timeout_s=0.05)


def test_waits_only_so_long_for_a_host_that_is_gone():
    host, guest = os.openpty()
    path = os.ttyname(guest)
    os.close(host)
    with pytest.raises(PlatformError, match="the emulated platform"):
        ask_platform_port(path, REQUEST, timeout_s=0.05)
    os.close(guest)


def test_a_port_that_is_not_there(tmp_path):
    with pytest.raises(PlatformError, match="No such file"):
        ask_platform_port(str(tmp_path / "vport0p2"), REQUEST)
