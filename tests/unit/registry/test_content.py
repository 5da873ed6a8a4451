# SPDX-License-Identifier: Apache-2.0
"""Bytes are believed for their digest alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import DecodeError, VerificationError
from enarx.registry.content import checked, read_blob
from enarx.wire.oci import WASM, Descriptor, digest_of


def of(data):
    return Descriptor(WASM, digest_of(data), len(data))


@given(st.lists(st.binary(max_size=5), max_size=6))
def test_what_is_wanted_passes_whole(pieces):
    assert b"".join(checked(pieces, of(b"".join(pieces)))) == b"".join(pieces)


@given(st.lists(st.binary(min_size=1, max_size=5), min_size=1, max_size=6), st.data())
def test_of_anything_else_the_last_piece_never_passes(pieces, data):
    whole = b"".join(pieces)
    other = data.draw(st.binary(max_size=len(whole) + 2).filter(whole.__ne__))
    passed = []
    with pytest.raises(VerificationError, match="cannot accept sha256:"):
        passed.extend(checked(pieces, of(other)))
    assert passed in [pieces[:count] for count in range(len(pieces))]


def test_what_is_longer_is_refused_before_its_end():
    def endless():
        while True:
            yield b"xx"

    with pytest.raises(VerificationError, match="found more than 3 bytes, want 3"):
        list(checked(endless(), of(b"xxx")))


def test_what_is_shorter_is_refused():
    with pytest.raises(VerificationError, match="found 2 bytes, want 3"):
        list(checked([b"xx"], of(b"xxx")))


class One:
    def __init__(self, data):
        self.data = data
        self.was_asked = False

    def open_blob(self, wanted):
        self.was_asked = True
        return iter([self.data])


def test_a_blob_is_read_whole():
    assert read_blob(One(b"abc"), of(b"abc"), 3) == b"abc"


def test_a_source_that_checks_nothing_is_checked():
    with pytest.raises(VerificationError, match="digest"):
        read_blob(One(b"abd"), of(b"abc"), 3)


def test_what_is_announced_as_too_long_is_not_asked_for():
    source = One(b"abcd")
    with pytest.raises(DecodeError, match="found 4 bytes, want at most 3"):
        read_blob(source, of(b"abcd"), 3)
    assert not source.was_asked
