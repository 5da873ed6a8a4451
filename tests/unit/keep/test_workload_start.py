# SPDX-License-Identifier: Apache-2.0
"""What Keep and workload process say to each other: each record comes back as it was, and nothing else is taken for one."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.crypto.cbor import encode
from enarx.errors import AppraisalError, ConfigError, DecodeError, KeepError
from enarx.keep.workload_start import (
    MAX_LISTENERS,
    MAX_PACKET_BYTES,
    MAX_TRAP_BYTES,
    REASONS,
    Connect,
    Connected,
    Ended,
    Refused,
    Start,
    decode_answer,
    decode_start,
    decode_word_untrusted,
    encode_start,
    encode_word,
    receive_packet,
    receive_start,
    send_packet,
    send_start,
)
from enarx.wire import DEFAULT, ConnectFile, Dir, EnarxToml, Limits, ListenFile, NullFile, Peer, StdioFile, Tls, replace
from enarx.wire.session import ExitFailure

FULL = Start(
    EnarxToml(
        args=("a", "", "ü"),
        env=(("A", "1"), ("B", "")),
        files=(
            NullFile(name="n"),
            StdioFile(kind="stdout", name="out"),
            ListenFile(name="l", prot="tcp", addr="127.0.0.1", port=0),
            ConnectFile(name="c", prot="tls", host="db.example", port=5432),
        ),
        dirs=(Dir(host="/tmp/x", guest="/data", read_only=True),),
        limits=Limits(memory_bytes=1, timeout_s=0.25, fuel=2, output_bytes=0, open_files=5),
        tls=Tls(certificate="c.pem", private_key="k.pem", client_auth="required", trust_anchors=("a.pem",)),
        allow_connect=("*:443",),
    ),
    announce_files=True,
    tls_files={"c.pem": b"certificate", "k.pem": b"key", "a.pem": b""},
    wall_clock_offset_ns=-5,
)
CERTIFIED = FULL._replace(
    toml=replace(
        FULL.toml,
        tls=Tls(
            client_auth="required",
            peers=(Peer(package="1" * 64, tenant="2" * 96), Peer(package="3" * 64, tenant="any")),
        ),
    ),
    has_credential=True,
    steward_root=b"root",
)
NOTHING = Start(DEFAULT, announce_files=False, tls_files={}, wall_clock_offset_ns=None)


@pytest.fixture
def pair():
    keep, workload = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with keep, workload:
        yield keep, workload


@pytest.fixture
def module():
    fd = os.memfd_create("module")
    os.write(fd, b"module")
    yield fd
    os.close(fd)


@pytest.mark.parametrize("start", [FULL, CERTIFIED, NOTHING], ids=["all", "certified", "nothing"])
def test_a_start_comes_back_as_it_was(start):
    assert decode_start(encode_start(start)) == start


@pytest.mark.parametrize(
    "change",
    [
        {"surplus": 1},
        {"arguments": [1]},
        {"arguments": None},
        {"environment": [["A"]]},
        {"files": [["socket", "s", "", "", 0]]},
        {"files": [["listen", "s", "udp", "", 0]]},
        {"files": [["listen", "s", "tls", "", 65536]]},
        {"announce-files": 1},
        {"fuel": -1},
        {"client-auth": "sometimes"},
        {"tls-files": {"a": "text"}},
        {"wall-clock-offset-ns": True},
        {"has-credential": None},
        {"steward-root": b""},
        {"steward-root": bytes(8193)},
        {"peers": [["1" * 64]]},
    ],
)
def test_refuses_a_start_that_is_none(change):
    from enarx.crypto.cbor import decode_untrusted

    value = decode_untrusted(encode_start(FULL), max_bytes=1 << 20)
    with pytest.raises(DecodeError):
        decode_start(encode(value | change))


WORDS = [
    Connect(0, "db.example", 1),
    Connect((1 << 32) - 1, "::1", 65535),
    Ended(0),
    Ended(134, trap="wasm trap: unreachable"),
    Ended(3, hint="its memory"),
    Ended(109, failure=ExitFailure(109, "stopped", "raise it")),
    Ended(102, failure=ExitFailure(102, "wrong")),
]


@pytest.mark.parametrize("word", WORDS)
def test_what_the_workload_says_comes_back_as_it_was(word):
    assert decode_word_untrusted(encode_word(word)) == word


@pytest.mark.parametrize("word", [Connected(7), *(Refused(7, reason) for reason in REASONS)])
def test_what_the_keep_answers_comes_back_as_it_was(word):
    assert decode_answer(encode_word(word)) == word


@pytest.mark.parametrize("word", WORDS)
def test_what_the_workload_says_is_no_answer(word):
    with pytest.raises(DecodeError):
        decode_answer(encode_word(word))


@pytest.mark.parametrize(
    "value",
    [
        {"type": "connect", "request": 1, "host": "", "port": 1},
        {"type": "connect", "request": 1, "host": "a" * 254, "port": 1},
        {"type": "connect", "request": 1, "host": "a", "port": 0},
        {"type": "connect", "request": 1 << 32, "host": "a", "port": 1},
        {"type": "connect", "request": 1, "host": "a", "port": 1, "more": 1},
        {"type": "ended", "status": 256},
        {"type": "ended", "status": True},
        {"type": "ended", "status": 0, "trap": ""},
        {"type": "ended", "status": 0, "trap": "x" * (MAX_TRAP_BYTES + 1)},
        {"type": "ended", "status": 0, "failure": {"class": 101, "message": "m"}},
        {"type": "ended", "status": 0, "failure": {"class": 109, "message": "m", "more": 1}},
        {"type": "started"},
        [],
        None,
    ],
)
def test_refuses_what_the_workload_cannot_say(value):
    with pytest.raises(DecodeError):
        decode_word_untrusted(encode(value))


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_bytes_are_a_word_or_a_decode_error(data):
    for decode in (decode_word_untrusted, decode_answer, decode_start):
        try:
            decode(data)
        except DecodeError:
            continue


def test_long_texts_are_cut_to_what_is_taken():
    ended = Ended(134, trap="ü" * MAX_TRAP_BYTES, hint="h" * 5000)
    data = encode_word(ended)
    back = decode_word_untrusted(data)
    assert len(data) <= MAX_PACKET_BYTES
    assert back.trap.endswith("ü ...")
    assert back.hint.endswith("h ...")
    failure = decode_word_untrusted(encode_word(Ended.of(KeepError("m" * 9000, hint="h" * 9000)))).failure
    assert failure.message.endswith("m ...")
    assert failure.hint.endswith("h ...")


def test_errors_end_with_their_status():
    assert Ended.of(KeepError("stopped", hint="more")) == Ended(109, failure=ExitFailure(109, "stopped", "more"))
    assert Ended.of(ConfigError("wrong")).status == 102
    assert Ended.of(AppraisalError("no")).status == 105
    bug = Ended.of(ZeroDivisionError("division"))
    assert (bug.status, bug.failure.message) == (109, "bug in enarx: ZeroDivisionError: division")


def test_a_start_arrives_with_its_descriptors(pair, module):
    keep, workload = pair
    with socket.socket(socket.AF_UNIX) as listener:
        send_start(keep, FULL, module, [listener.fileno()])
    start, module_fd, listeners, credential_fd = receive_start(workload)
    try:
        assert start == FULL
        assert os.pread(module_fd, 10, 0) == b"module"
        assert len(listeners) == 1
        assert credential_fd is None
        assert not os.get_inheritable(module_fd)
    finally:
        for fd in (module_fd, *listeners):
            os.close(fd)


def test_a_certificate_s_memory_arrives_with_the_start_that_says_so(pair, module):
    keep, workload = pair
    with socket.socket(socket.AF_UNIX) as listener:
        send_start(keep, CERTIFIED, module, [listener.fileno()], module)
        started = receive_start(workload)
        assert started.start == CERTIFIED
        assert os.pread(started.credential_fd, 10, 0) == b"module"
        assert len(started.listeners) == 1
        for fd in (started.module_fd, started.credential_fd, *started.listeners):
            os.close(fd)
        # Without it the listener would be taken for it.
        send_start(keep, CERTIFIED, module, [listener.fileno()])
        with pytest.raises(DecodeError, match="found 0 listening sockets, want 1"):
            receive_start(workload)
        send_start(keep, FULL, module, [listener.fileno()], module)
        with pytest.raises(DecodeError, match="found 2 listening sockets, want 1"):
            receive_start(workload)


def test_refuses_a_start_without_its_listeners(pair, module):
    keep, workload = pair
    send_start(keep, FULL, module, [])
    with pytest.raises(DecodeError, match="found 0 listening sockets, want 1"):
        receive_start(workload)


def test_refuses_another_packet_for_a_start(pair):
    keep, workload = pair
    send_packet(keep, encode_word(Connected(1)))
    with pytest.raises(DecodeError, match="want a start packet"):
        receive_start(workload)


def test_refuses_to_send_more_listeners_than_can_be_passed(pair, module):
    with pytest.raises(ConfigError, match="found 201 listen entries"):
        send_start(pair[0], NOTHING, module, [module] * (MAX_LISTENERS + 1))


def test_a_packet_with_too_many_descriptors_leaves_none(pair, module):
    keep, workload = pair
    before = len(os.listdir("/proc/self/fd"))
    send_packet(keep, b"x", [module] * 3)
    with pytest.raises(DecodeError):
        receive_packet(workload, max_fds=1)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_packet_that_is_too_long_is_refused(pair):
    keep, workload = pair
    keep.send(b"x" * (MAX_PACKET_BYTES + 1))
    with pytest.raises(DecodeError):
        receive_packet(workload, max_fds=1)


def test_the_end_is_an_empty_packet(pair):
    keep, workload = pair
    keep.close()
    assert receive_packet(workload, max_fds=1) == (b"", [])
