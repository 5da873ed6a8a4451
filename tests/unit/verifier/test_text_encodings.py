# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.verifier.text_encodings import decode_text

DATA = bytes(range(256))


@pytest.mark.parametrize(
    "text",
    [
        DATA.hex().encode(),
        b"0x" + DATA.hex().upper().encode() + b"\n",
        base64.b64encode(DATA),
        base64.encodebytes(DATA),
        base64.urlsafe_b64encode(DATA).rstrip(b"="),
        base64.b64encode(DATA) + b"\0\0\0",
    ],
)
def test_decodes_what_tools_print(text):
    assert decode_text(text) == DATA


@pytest.mark.parametrize("text", [b"", b"00ff", DATA, b"not a text of either kind!", b"A" * 17])
def test_other_bytes_are_no_such_text(text):
    assert decode_text(text) is None


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(min_size=16, max_size=80))
def test_gives_back_what_was_encoded(data):
    assert decode_text(data.hex().encode()) == data
    encoded = base64.b64encode(data)
    assert decode_text(encoded) in {data, bytes.fromhex(encoded.decode()) if _is_hex(encoded) else data}


def _is_hex(text):
    return len(text) % 2 == 0 and all(letter in b"0123456789abcdefABCDEF" for letter in text)
