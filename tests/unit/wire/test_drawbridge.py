# SPDX-License-Identifier: Apache-2.0
"""How a Drawbridge names packages and describes them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from enarx.errors import DecodeError, UsageError
from enarx.wire import drawbridge
from enarx.wire.drawbridge import (
    DIRECTORY,
    Node,
    decode_content_digest_untrusted,
    decode_directory_untrusted,
    decode_tag_untrusted,
    parse_drawbridge_ref,
)
from tests.fake_drawbridge import compact, digests_of, entry_of, header_of, tree_of

# What the original's own test of this header has.
KNOWN = (
    "sha-224=:CAj2TmDViXn8tnbJbsk4Jw3qQkRa7vzTpOb42w==:,sha-256=:LCa0a2j/xo/5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564=:,"
    "sha-384=:mMEf/f3VQGdrGhN8saIrKnA1DJpEFx1rEYDGvly7LuP3nVMsih3Z7y6OCOdSo7q7:,"
    "sha-512=:9/u6bgY2+JDlb7vzKD5STG+jIErimDgtYkdB0NxmODJuKCxBvl5CVNiCB3LFUYosWowMf37aGVlKfrU5RT4e1w==:"
)


# --- Names


@pytest.mark.parametrize(
    ("text", "parts", "host"),
    [
        ("drawbridge://store.example/examples/fib:0.2.0", ("store.example", "examples", "fib", "0.2.0"), "store.example"),
        ("store.example/examples/fib:0.2.0", ("store.example", "examples", "fib", "0.2.0"), "store.example"),
        ("Store.Example:8443/A1/a-B-2:1.0.0-rc.1+b.5", ("Store.Example:8443", "A1", "a-B-2", "1.0.0-rc.1+b.5"), "store.example"),
        ("drawbridge://[::1]:80/u/-:0.0.0", ("[::1]:80", "u", "-", "0.0.0"), "::1"),
        ("127.0.0.1/u/r:10.20.30", ("127.0.0.1", "u", "r", "10.20.30"), "127.0.0.1"),
    ],
)  # fmt: skip
def test_a_slug_is_read(text, parts, host):
    ref = parse_drawbridge_ref(text)
    assert (tuple(ref), ref.host) == (parts, host)
    assert parse_drawbridge_ref(ref.text) == ref


@pytest.mark.parametrize(
    "text",
    [
        "",
        "drawbridge://",
        "store.example/examples/fib",
        "store.example/examples/fib:",
        "store.example/examples/fib:1.0",
        "store.example/examples/fib:01.0.0",
        "store.example/examples/fib:1.0.0-",
        "store.example/examples/fib:latest",
        "store.example/exam-ples/fib:1.0.0",
        "store.example/examples/f_b:1.0.0",
        "store.example/examples/a/b:1.0.0",
        "store.example//fib:1.0.0",
        "https://store.example/examples/fib:1.0.0",
        "user@store.example/examples/fib:1.0.0",
        "store.example:0/examples/fib:1.0.0",
        "store.example:99999/examples/fib:1.0.0",
        "../examples/fib:1.0.0",
        "store.example/examples/fib:1.0.0\n",
        "store.example/examples/fib:1.0.0/../../x",
        "store.example/ex?mples/fib:1.0.0",
        "s/u/r:1.0.0-" + "a" * 2000,
    ],
)
def test_what_is_no_slug_is_refused(text):
    with pytest.raises(UsageError, match="want drawbridge://HOST"):
        parse_drawbridge_ref(text)


def test_no_host_is_taken_where_none_is_named():
    with pytest.raises(UsageError) as caught:
        parse_drawbridge_ref("examples/fib:0.2.0")
    assert "no host" in caught.value.hint


# --- Digests


def test_the_originals_header_is_read():
    found = decode_content_digest_untrusted(KNOWN)
    assert {name: len(value) for name, value in found.items()} == {
        "sha-224": 28, "sha-256": 32, "sha-384": 48, "sha-512": 64,
    }  # fmt: skip
    assert found["sha-256"].hex().startswith("2c26b46b")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "want NAME=:BASE64:"),
        ("sha-256=LCa0", "want NAME=:BASE64:"),
        ("sha-256=:", "want NAME=:BASE64:"),
        ("sha-256=:AAAA:", "want 32 bytes in base64"),
        ("sha-256=:!!!!:", "want 32 bytes in base64"),
        ("md5=:AAAAAAAAAAAAAAAAAAAAAA==:", "want one of sha-224"),
        (header_of(b"x") + ",md5=:AAAA:", "want one of sha-224"),
        (f"{header_of(b'x')},{header_of(b'x')}", "'sha-224' twice"),
        (header_of(b"x").partition(",")[0], "found sha-224, want one of"),
        ("sha-256=:" + "A" * 2000 + ":", "want at most 1024"),
        ("sha-256=:é" + "A" * 42 + ":", "want 32 bytes"),
    ],
)
def test_what_is_no_header_is_refused(text, said):
    with pytest.raises(DecodeError) as caught:
        decode_content_digest_untrusted(text)
    assert said in str(caught.value)


# --- Tags and directories


def test_a_tag_is_read_and_what_is_unknown_ignored():
    entry = entry_of(b"contents", DIRECTORY) | {"custom": {"of": "somebody"}}
    node = decode_tag_untrusted(compact(entry))
    digests = {name: base64.b64decode(value) for name, value in digests_of(b"contents").items()}
    assert node == Node(digests, 8, DIRECTORY)


def test_the_originals_tag_is_read():
    """What its own client shows of the package in its tests: the sha-256 is the one that is pinned."""
    digests = {
        "sha-224": "ipv22ZRLXTRv4MypL2IVaZypKHb91PgAqWXG6w==",
        "sha-256": "Jcdf/Q0urZed/9dKu9IBq/BtWIHcvSGlsrUWkS1Rx+E=",
        "sha-384": "f52Mxw0vy4KHhk4MAKzfo3xfvi1sM+YpMhBaQvHMB2vGs378nyAADtEYxPlUnUoI",
        "sha-512": "3weINHlihNmslwpckBdzARz4LdTMYsg+L1prU+u1FmwedBnYmpOIEB1Yix4kR3o4G4pbw+JLiSTBftGwLjFrqA==",
    }
    node = decode_tag_untrusted(json.dumps({"digest": digests, "length": 707, "type": DIRECTORY}, indent=2).encode())
    assert (node.length, node.media_type, len(node.digests)) == (707, DIRECTORY, 4)
    assert node.digests["sha-256"].hex() == "25c75ffd0d2ead979dffd74abbd201abf06d5881dcbd21a5b2b516912d51c7e1"


def test_a_directory_is_read():
    bodies, _ = tree_of({"main.wasm": b"m", "data:1": {"a_b-c.txt": b"t"}})
    found = decode_directory_untrusted(bodies[""].data)
    assert {name: (node.length, node.media_type) for name, node in found.items()} == {
        "main.wasm": (1, "application/wasm"),
        "data:1": (len(bodies["/data:1"].data), DIRECTORY),
    }
    assert decode_directory_untrusted(b"{}") == {}


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../x", "/x", "a\\b", "a b", "\0", "é", "%2e%2e", "a" * 256, "a\n"]
)
def test_a_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(DecodeError, match="found the name"):
        decode_directory_untrusted(compact({name: entry_of(b"", DIRECTORY)}))


RIGHT = entry_of(b"x", DIRECTORY)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ([], "want an object"),
        (RIGHT | {"digest": None}, "digest: found "),
        (RIGHT | {"digest": {}}, "found none, want one of"),
        (RIGHT | {"digest": digests_of(b"x", ("sha-224",))}, "found sha-224, want one of"),
        (RIGHT | {"digest": {"sha-256": "AA=="}}, "want 32 bytes"),
        (RIGHT | {"digest": {"sha-256": 5}}, "want 32 bytes"),
        (RIGHT | {"digest": {"blake3": "AA=="}}, "want one of sha-224"),
        (RIGHT | {"length": -1}, "length"),
        (RIGHT | {"length": 2**60}, "length"),
        (RIGHT | {"length": True}, "length"),
        (RIGHT | {"length": "1"}, "length"),
        (RIGHT | {"type": None}, "type"),
        (RIGHT | {"type": "x"}, "type"),
        (RIGHT | {"type": "a/b\nc"}, "type"),
        ({name: value for name, value in RIGHT.items() if name != "length"}, "length"),
    ],
)
def test_an_entry_that_is_none_is_refused(entry, said):
    for read, data in ((decode_tag_untrusted, compact(entry)), (decode_directory_untrusted, compact({"a": entry}))):
        with pytest.raises(DecodeError) as caught:
            read(data)
        assert said in str(caught.value)


def test_what_is_too_large_is_refused():
    with pytest.raises(DecodeError, match="want at most 65536"):
        decode_tag_untrusted(b" " * 65537)
    with pytest.raises(DecodeError, match="want at most 1000000"):
        decode_directory_untrusted(b" " * 1_000_001)
    with pytest.raises(DecodeError, match="twice"):
        decode_directory_untrusted(b'{"a":1,"a":1}')
    few = json.dumps({f"{number:x}": 0 for number in range(drawbridge._MAX_NODES + 1)}, separators=(",", ":")).encode()
    with pytest.raises(DecodeError, match="want at most 20000"):
        decode_directory_untrusted(few)


@given(st.text(max_size=60))
@example("s/u/r:1.0.0")
def test_any_text_is_a_slug_or_refused(text):
    try:
        ref = parse_drawbridge_ref(text)
    except UsageError:
        return
    assert ref.text.endswith(text.removeprefix("drawbridge://"))


@given(st.text(max_size=200) | st.builds(header_of, st.binary(max_size=8)))
def test_any_text_is_a_header_or_refused(text):
    try:
        found = decode_content_digest_untrusted(text)
    except DecodeError:
        return
    for name, value in found.items():
        assert len(value) == hashlib.new(drawbridge.ALGORITHMS[name]).digest_size


@given(st.binary(max_size=200))
def test_any_bytes_are_a_directory_or_refused(data):
    for read in (decode_tag_untrusted, decode_directory_untrusted):
        with contextlib.suppress(DecodeError):
            read(data)
