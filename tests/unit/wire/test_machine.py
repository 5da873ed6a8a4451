# SPDX-License-Identifier: Apache-2.0
"""What a command line says of the link."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import DecodeError
from enarx.wire.machine import TCP_LINK_PORT, parse_link_port


@pytest.mark.parametrize(
    ("line", "port"),
    [
        (b"", None),
        (b"quiet panic=-1 xenarx.link=tcp:1\n", None),
        (b"quiet enarx.link=tcp:8471\n", 8471),
        (b"enarx.link=tcp:1 quiet", 1),
        (b"enarx.link=tcp:65535", 65535),
        (f"ipv6.disable=1 enarx.link=tcp:{TCP_LINK_PORT}".encode(), TCP_LINK_PORT),
    ],
)
def test_the_word_names_a_port_or_is_not_there(line, port):
    assert parse_link_port(line) == port


@pytest.mark.parametrize(
    "line",
    [
        b"enarx.link=",
        b"enarx.link=tcp",
        b"enarx.link=tcp:",
        b"enarx.link=tcp:0",
        b"enarx.link=tcp:65536",
        b"enarx.link=tcp:+1",
        b"enarx.link=tcp:\xb2",
        b"enarx.link=tcp:123456",
        b"enarx.link=vsock:1",
        b"enarx.link=tcp:1 enarx.link=tcp:1",
        b"enarx.link=tcp:1 enarx.link=tcp:2",
    ],
)
def test_refuses_another_word(line):
    with pytest.raises(DecodeError, match="want tcp:PORT once"):
        parse_link_port(line)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=60))
def test_any_line_is_a_port_none_or_refused(text):
    try:
        port = parse_link_port(b"quiet enarx.link=" + text)
    except DecodeError:
        return
    assert port is not None
    assert 0 < port < 65536
