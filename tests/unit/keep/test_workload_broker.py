# SPDX-License-Identifier: Apache-2.0
"""Many threads ask on one socket: each gets its own answer, and what nobody wants any more is closed."""

from __future__ import annotations

import errno
import os
import random
import select
import socket
import subprocess
import sys
import threading

import pytest

from enarx.keep.workload_broker import MAX_PENDING, ControlBroker
from enarx.keep.workload_start import (
    Connect,
    Connected,
    Refused,
    decode_word_untrusted,
    encode_word,
    receive_packet,
    send_packet,
)

WAIT_S = 20


class Keep:
    def __init__(self):
        self.control, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(WAIT_S)
        self.listener = socket.socket(socket.AF_UNIX)
        self.broker = ControlBroker(self.theirs, {"http": self.listener})

    def asked(self) -> Connect:
        return decode_word_untrusted(receive_packet(self.control, max_fds=0)[0])

    def connect(self, request):
        ours, theirs = socket.socketpair()
        with theirs:
            send_packet(self.control, encode_word(Connected(request)), [theirs.fileno()])
        ours.settimeout(WAIT_S)
        return ours

    def close(self):
        for sock in (self.control, self.theirs, self.listener):
            sock.close()


@pytest.fixture
def keep():
    keep = Keep()
    yield keep
    keep.close()


def wait(pending):
    assert select.select([pending.fileno()], [], [], WAIT_S)[0]


def taken(pending):
    wait(pending)
    return pending.take()


def test_who_is_not_the_keep_does_not_come_through_a_listener(keep):
    keep.listener.bind("")
    keep.listener.listen()
    name = keep.listener.getsockname()
    code = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({name!r}); print(s.recv(1))"
    with keep.broker.listener("http") as listener, socket.socket(socket.AF_UNIX) as ours:
        stranger = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert select.select([listener], [], [], WAIT_S)[0]
        # The stranger is first in the queue.
        ours.connect(name)
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"x")
            assert ours.recv(1) == b"x"
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert stranger.communicate(timeout=WAIT_S)[0] == b"b''\n"


def test_a_connection_is_asked_for_and_taken_once(keep):
    pending = keep.broker.ask("db.example", 5432)
    word = keep.asked()
    assert word == Connect(word.request, "db.example", 5432)
    with pytest.raises(BlockingIOError):
        pending.take()
    with keep.connect(word.request) as ours, taken(pending) as theirs:
        ours.sendall(b"x")
        assert theirs.recv(1) == b"x"
    with pytest.raises(OSError, match="Bad file"):
        pending.take()
    pending.close()


@pytest.mark.parametrize(
    ("reason", "number"),
    [
        ("denied", errno.EACCES),
        ("refused", errno.ECONNREFUSED),
        ("unreachable", errno.EHOSTUNREACH),
        ("timeout", errno.ETIMEDOUT),
        ("closed", errno.ECONNRESET),
        ("limit", errno.EMFILE),
    ],
)
def test_a_refusal_is_an_error_of_the_operating_system_s_words(keep, reason, number):
    pending = keep.broker.ask("a", 1)
    send_packet(keep.control, encode_word(Refused(keep.asked().request, reason)))
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            taken(pending)
        assert caught.value.errno == number
    pending.close()


def test_each_of_many_threads_gets_its_own(keep):
    count, failures = 64, []

    def ask(number):
        pending = keep.broker.ask(f"host-{number}", 1)
        with taken(pending) as sock:
            if sock.recv(20) != f"host-{number}".encode():
                failures.append(number)
        pending.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    words = [keep.asked() for _ in range(count)]
    random.Random(1).shuffle(words)
    ours = []
    for word in words:
        ours.append(keep.connect(word.request))
        ours[-1].sendall(word.host.encode())
    for thread in threads:
        thread.join(WAIT_S)
    for sock in ours:
        sock.close()
    assert failures == []


def test_what_nobody_wants_any_more_is_closed_when_it_comes(keep):
    pending = keep.broker.ask("a", 1)
    word = keep.asked()
    pending.close()
    with keep.connect(word.request) as ours:
        assert ours.recv(1) == b""


def test_what_came_and_was_not_taken_is_closed(keep):
    pending = keep.broker.ask("a", 1)
    with keep.connect(keep.asked().request) as ours:
        wait(pending)
        pending.close()
        assert ours.recv(1) == b""


def test_an_answer_nobody_asked_for_is_closed(keep):
    pending = keep.broker.ask("a", 1)
    word = keep.asked()
    with keep.connect(word.request + 1) as stranger, keep.connect(word.request) as ours, taken(pending) as theirs:
        assert stranger.recv(1) == b""
        ours.sendall(b"x")
        assert theirs.recv(1) == b"x"
    pending.close()


def test_a_connection_without_its_descriptor_is_none(keep):
    pending = keep.broker.ask("a", 1)
    send_packet(keep.control, encode_word(Connected(keep.asked().request)))
    with pytest.raises(ConnectionResetError):
        taken(pending)
    pending.close()


@pytest.mark.parametrize("last_words", [b"", b"nonsense"])
def test_when_the_keep_has_gone_nobody_waits(keep, last_words):
    pending = keep.broker.ask("a", 1)
    if last_words:
        keep.control.send(last_words)
    else:
        keep.control.close()
    with pytest.raises(ConnectionResetError):
        taken(pending)
    pending.close()
    with pytest.raises(ConnectionResetError):
        keep.broker.ask("b", 1)


def test_no_more_are_asked_for_at_once_than_there_may_be(keep):
    pending = []
    for _ in range(MAX_PENDING):
        pending.append(keep.broker.ask("a", 1))
        keep.asked()
    with pytest.raises(OSError) as caught:
        keep.broker.ask("a", 1)
    assert caught.value.errno == errno.EMFILE
    pending.pop().close()
    pending.append(keep.broker.ask("a", 1))
    for each in pending:
        each.close()


def test_a_listener_is_handed_out_again_and_again(keep):
    with keep.broker.listener("http") as one, keep.broker.listener("http") as two:
        assert os.path.sameopenfile(one.fileno(), two.fileno())
    with pytest.raises(OSError) as caught:
        keep.broker.listener("other")
    assert caught.value.errno == errno.EADDRNOTAVAIL
