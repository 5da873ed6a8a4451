# SPDX-License-Identifier: Apache-2.0
"""Whoever is between a host and its Keeps in tests cuts what passes where a frame ends, and loses nothing of it."""

from __future__ import annotations

import pytest

from enarx.channel.frames import encode_data_header, encode_hello
from enarx.channel.link import _BREAK
from tests.between import Frames


@pytest.mark.parametrize("size", [1, 7, 1 << 16, 1 << 20])
def test_zeros_of_a_host_that_heard_no_hello_are_no_frame(size):
    data = _BREAK + encode_hello("host") + encode_data_header(0, 4) + b"\0\0\0\0" + _BREAK
    frames, kinds, passed = Frames(), [], b""
    for at in range(0, len(data), size):
        for header, piece in frames.cut(data[at : at + size]):
            passed += piece
            if [header[0]] != kinds[-1:]:
                kinds.append(header[0])
    assert passed == data
    assert kinds == ["zeros", 0, 2, "zeros"]
