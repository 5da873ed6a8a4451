# SPDX-License-Identifier: Apache-2.0
"""The notation HOST:PORT."""

from __future__ import annotations

import pytest

from enarx.errors import ConfigError
from enarx.wire import split_host_port


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("example.com:443", "example.com", 443),
        ("*.example.com:443", "*.example.com", 443),
        ("10.0.0.0/8:5432", "10.0.0.0/8", 5432),
        ("[::1]:80", "::1", 80),
        ("[fd00::/8]:65535", "fd00::/8", 65535),
        ("*:443", "*", 443),
        ("host:*", "host", None),
        ("münchen.example:1", "münchen.example", 1),
    ],
)
def test_separates_host_and_port(text, host, port):
    assert split_host_port(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "host",
        "host:",
        ":80",
        "host:0",
        "host:65536",
        "host:080",
        "host:-1",
        "host:+1",
        "host: 80",
        "host:²",
        "host:x",
        "::1:80",
        "[::1]",
        "[::1]80",
        "[host]:80",
        "[]:80",
        "[::1:80",
        "ho st:80",
        "ho\x00st:80",
        "user@host:80",
        "h" * 300 + ":80",
        "host:" + "1" * 5000,
    ],
)
def test_refuses_what_is_no_endpoint(text):
    with pytest.raises(ConfigError) as caught:
        split_host_port(text, name="allow_connect[0]")
    assert caught.value.key == "allow_connect[0]"
    assert len(str(caught.value)) < 200
