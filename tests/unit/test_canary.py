# SPDX-License-Identifier: Apache-2.0
"""The search for canaries finds what it is for, and nothing else."""

from __future__ import annotations

import base64
import os

import pytest

from tests.canary import LENGTH, make_canary, search, spellings, unmasked

CANARY = make_canary()
AROUND = bytes(range(256))


def test_canaries_differ_and_are_words():
    assert make_canary() != CANARY
    assert len(CANARY) == LENGTH
    assert CANARY.isalpha()


@pytest.mark.parametrize("before", range(7))
@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_finds_it_in_base64_wherever_it_begins(before, after, encode):
    written = encode(os.urandom(before) + CANARY.encode() + os.urandom(after))
    assert {place for place, _ in search(CANARY, {"there": b"x" + written, "elsewhere": AROUND})} == {"there"}


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("raw", CANARY.encode()),
        ("hex", CANARY.encode().hex().encode()),
        ("HEX", CANARY.encode().hex().upper().encode()),
        ("UTF-16 LE", CANARY.encode("utf-16-le")),
        ("UTF-16 BE", CANARY.encode("utf-16-be")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_finds_it_as_it_is_in_hexadecimal_and_in_utf_16(name, written):
    assert ("there", name) in search(CANARY, {"there": AROUND + written + AROUND})
    assert not search(CANARY, {"there": AROUND + written[:-2] + AROUND})


def test_finds_nothing_in_what_is_anything_else():
    assert not search(CANARY, {"noise": os.urandom(1 << 20), "another": make_canary().encode(), "nothing": b""})


def test_no_spelling_is_short_enough_to_be_there_by_chance():
    assert min(map(len, spellings(CANARY.encode()).values())) >= LENGTH


@pytest.mark.parametrize("length", [1, 125, 126, 65535, 65536])
def test_takes_the_mask_off_what_a_websocket_client_says(length):
    said = os.urandom(length) + CANARY.encode()
    key = os.urandom(4)
    masked = bytes(byte ^ key[at % 4] for at, byte in enumerate(said))
    size = len(said)
    written = (
        bytes([size | 128])
        if size < 126
        else b"\xfe" + size.to_bytes(2, "big")
        if size < 65536
        else b"\xff" + size.to_bytes(8, "big")
    )
    data = b"GET / HTTP/1.1\r\n\r\n" + (b"\x82" + written + key + masked) * 2 + b"\x82"
    assert unmasked(data) == said * 2
    assert search(CANARY, {"said": unmasked(data)})
    assert unmasked(b"no request") == b""
