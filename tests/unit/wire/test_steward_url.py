# SPDX-License-Identifier: Apache-2.0
"""Where a Steward is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import ConfigError
from enarx.wire.steward_url import StewardUrl, parse_steward_url


@pytest.mark.parametrize(
    ("text", "url", "authority"),
    [
        ("https://steward.example", ("steward.example", 443, ""), "steward.example"),
        ("HTTPS://Steward.Example./", ("steward.example", 443, ""), "steward.example"),
        ("https://steward.example:443", ("steward.example", 443, ""), "steward.example"),
        ("https://steward.example:8443/a/b/", ("steward.example", 8443, "/a/b"), "steward.example:8443"),
        ("https://127.0.0.1:1", ("127.0.0.1", 1, ""), "127.0.0.1:1"),
        ("https://[::1]", ("::1", 443, ""), "[::1]"),
        ("https://[::1]:65535/x", ("::1", 65535, "/x"), "[::1]:65535"),
    ],
)
def test_takes_a_url_apart(text, url, authority):
    found = parse_steward_url(text)
    assert found == StewardUrl(*url)
    assert found.authority == authority


@pytest.mark.parametrize(
    "text",
    ["", "steward.example", "http://steward.example", "https://", "https://:443", "https:///path", "https://a b",
     "https://a:0", "https://a:65536", "https://a:99999", "https://a:x", "https://a?query", "https://a#fragment", "https://a/\r\nX: y",
     "https://a\n", "https://-", "https://[::1", "https://" + "a" * 2048, "https://a/ä"],
)  # fmt: skip
def test_refuses_what_is_none(text):
    with pytest.raises(ConfigError) as caught:
        parse_steward_url(text, name="--steward")
    assert caught.value.key == "--steward"


def test_shows_no_password():
    with pytest.raises(ConfigError) as caught:
        parse_steward_url("https://user:secret@steward.example")
    assert "secret" not in str(caught.value)


@given(st.text(max_size=100) | st.from_regex(r"https://[a-z.\[\]:0-9]{1,20}(/[a-z/%]{0,10})?", fullmatch=True))
def test_any_text_is_a_url_or_refused(text):
    try:
        found = parse_steward_url(text)
    except ConfigError:
        return
    assert found.host
    assert 1 <= found.port <= 65535
    assert not found.path.endswith("/")
    # Nothing that could end a line of a request.
    assert f"{found.authority}{found.path}".isprintable()
    assert " " not in f"{found.authority}{found.path}"
    assert parse_steward_url(f"https://{found.authority}{found.path}") == found
