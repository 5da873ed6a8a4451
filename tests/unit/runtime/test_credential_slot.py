# SPDX-License-Identifier: Apache-2.0
"""A credential in shared memory: what is read is one that was put there, whole, by whoever may."""

from __future__ import annotations

import mmap
import os
import threading
import time
from datetime import UTC, datetime

import pytest

from enarx.crypto.x509 import make_self_signed
from enarx.errors import KeepError, PlatformError
from enarx.runtime import credential_slot
from enarx.runtime.credential_slot import CredentialSlot, SlotIdentity

AT = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def slot():
    made = CredentialSlot()
    yield made
    made.close()


def test_reads_what_was_put_there(slot):
    put = make_self_signed(at=AT)
    slot.put(put)
    read = SlotIdentity(slot.fd).credential()
    assert read.chain == put.chain
    assert read.private_key.private_numbers() == put.private_key.private_numbers()


def test_gives_the_same_object_until_there_is_another(slot):
    slot.put(make_self_signed(at=AT))
    identity = SlotIdentity(slot.fd)
    first = identity.credential()
    assert identity.credential() is first
    for _ in range(3):
        newer = make_self_signed(at=AT)
        slot.put(newer)
        assert identity.credential().chain == newer.chain
        assert identity.credential() is identity.credential()


def test_says_that_there_is_none_yet(slot):
    with pytest.raises(KeepError, match="found none"):
        SlotIdentity(slot.fd).credential()


def test_a_reader_cannot_write(slot):
    slot.put(make_self_signed(at=AT))
    with pytest.raises(OSError, match="not permitted"):
        os.pwrite(slot.fd, b"\xff" * 8, 0)
    with pytest.raises(OSError, match="not permitted"):
        mmap.mmap(slot.fd, 4096)
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(slot.fd, 0)
    # Nor through a descriptor of its own.
    fd = os.open(f"/proc/self/fd/{slot.fd}", os.O_RDWR)
    try:
        with pytest.raises(OSError, match="not permitted"):
            os.pwrite(fd, b"\xff" * 8, 0)
    finally:
        os.close(fd)


def test_refuses_memory_of_another_size():
    fd = os.memfd_create("other")
    try:
        with pytest.raises(PlatformError, match="another size"):
            SlotIdentity(fd)
    finally:
        os.close(fd)


def test_refuses_a_credential_that_is_too_large(slot, monkeypatch):
    monkeypatch.setattr(credential_slot, "MAX_CREDENTIAL_BYTES", 100)
    with pytest.raises(PlatformError, match="want at most 100"):
        slot.put(make_self_signed(at=AT))
    with pytest.raises(KeepError, match="found none"):
        SlotIdentity(slot.fd).credential()


def test_half_of_a_credential_is_none(slot):
    first, second = make_self_signed(at=AT), make_self_signed(at=AT)
    slot.put(first)
    identity = SlotIdentity(slot.fd)
    slot.put(second)
    # As if a third one were being written where the first was, and the fourth had not been begun.
    start = credential_slot._place_of(2) + 100
    slot._memory[start : start + 8] = bytes(8)
    with pytest.raises(KeepError, match="found none"):
        identity.credential()
    slot.put(first)
    assert identity.credential().chain == first.chain


def test_what_is_there_and_is_no_credential_is_refused(slot, monkeypatch):
    monkeypatch.setattr(credential_slot, "_encode", lambda credential: b"\x81\x41\x00")
    slot.put(make_self_signed(at=AT))
    with pytest.raises(KeepError, match="something else"):
        SlotIdentity(slot.fd).credential()


def test_many_readers_see_whole_credentials_while_they_change(slot):
    made = [make_self_signed(at=AT) for _ in range(4)]
    known = {credential.chain for credential in made}
    slot.put(made[0])
    over = threading.Event()
    found, problems = set(), []

    def read():
        identity = SlotIdentity(slot.fd)
        try:
            while not over.is_set():
                found.add(identity.credential().chain)
        except KeepError as error:
            problems.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(300):
        slot.put(made[number % 4])
    over.set()
    for reader in readers:
        reader.join()
    assert not problems
    assert found <= known


def test_a_forked_process_sees_the_change(slot):
    first, second = make_self_signed(at=AT), make_self_signed(at=AT)
    slot.put(first)
    identity = SlotIdentity(slot.fd)
    assert identity.credential().chain == first.chain
    go, went = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.read(go[0], 1)
            os.write(went[1], b"y" if identity.credential().chain == second.chain else b"n")
        finally:
            os._exit(0)
    slot.put(second)
    os.write(go[1], b"!")
    assert os.read(went[0], 1) == b"y"
    os.waitpid(pid, 0)
    for fd in (*go, *went):
        os.close(fd)


def test_asking_costs_well_under_a_microsecond(slot):
    slot.put(make_self_signed(at=AT))
    identity = SlotIdentity(slot.fd)
    identity.credential()
    best = 1.0
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(1000):
            identity.credential()
        best = min(best, (time.perf_counter() - start) / 1000)
    assert best < 1e-6
