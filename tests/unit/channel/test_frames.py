# SPDX-License-Identifier: Apache-2.0
"""Frames: what is encoded is what the CDDL says and comes out again, in any pieces; any other bytes are refused."""

from __future__ import annotations

from pathlib import Path

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.channel.frames import (
    MAX_DATA_BYTES,
    RESET_REASONS,
    WINDOW_BYTES,
    Credit,
    Data,
    End,
    FrameReader,
    Hello,
    Open,
    Opened,
    Reset,
    Target,
    encode_credit,
    encode_data_header,
    encode_end,
    encode_hello,
    encode_open,
    encode_opened,
    encode_reset,
)
from enarx.errors import DecodeError, UsageError

LINK_CDDL = Path(__file__).parents[3] / "docs" / "formats" / "link.cddl"

numbers = st.integers(0, 2**32 - 1)
names = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x17F, exclude_categories=["C", "Z"]), min_size=1, max_size=100
)
targets = st.one_of(
    st.just(Target.session()),
    st.just(Target.platform()),
    names.map(Target.inbound),
    st.builds(Target.outbound, names, st.integers(1, 65535)),
    st.binary(min_size=32, max_size=32).map(Target.blob),
)
events = st.one_of(
    st.sampled_from(["host", "keep"]).map(Hello),
    st.builds(Open, numbers, targets),
    st.builds(Data, numbers, st.binary(min_size=1, max_size=300)),
    st.builds(Credit, numbers, st.integers(1, WINDOW_BYTES)),
    st.builds(End, numbers),
    st.builds(Reset, numbers, st.sampled_from(RESET_REASONS)),
    st.builds(Opened, numbers),
)


def encode(event):
    if isinstance(event, Hello):
        return encode_hello(event.role)
    if isinstance(event, Open):
        return encode_open(*event)
    if isinstance(event, Data):
        return encode_data_header(event.stream, len(event.data)) + bytes(event.data)
    if isinstance(event, Credit):
        return encode_credit(*event)
    if isinstance(event, Opened):
        return encode_opened(*event)
    return encode_end(*event) if isinstance(event, End) else encode_reset(*event)


def joined(found):
    """Put the pieces of data together, as bytes."""
    out = []
    for event in found:
        if not isinstance(event, Data):
            out.append(event)
        elif out and isinstance(out[-1], Data) and out[-1].stream == event.stream:
            out[-1] = Data(event.stream, out[-1].data + bytes(event.data))
        else:
            out.append(Data(event.stream, bytes(event.data)))
    return out


def frame(value):
    header = cbor2.dumps(value, canonical=True)
    return len(header).to_bytes(2, "big") + header


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(events, max_size=8), st.data())
def test_what_is_encoded_comes_out_again_in_whatever_pieces_it_goes_in(sent, data):
    wire = b"".join(map(encode, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    reader = FrameReader()
    found = []
    for start, stop in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        found += [
            Data(e.stream, bytes(e.data)) if isinstance(e, Data) else e for e in reader.feed_untrusted(wire[start:stop])
        ]
    assert joined(found) == joined(sent)
    assert reader.between_frames


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(events, max_size=4))
def test_single_bytes_are_pieces_too(sent):
    reader = FrameReader()
    found = [
        Data(e.stream, bytes(e.data)) if isinstance(e, Data) else e
        for byte in b"".join(map(encode, sent))
        for e in reader.feed_untrusted(bytes([byte]))
    ]
    assert joined(found) == joined(sent)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=600))
def test_any_bytes_are_events_or_refused(data):
    try:
        FrameReader().feed_untrusted(data)
    except DecodeError:
        return


@settings(max_examples=300, deadline=None, derandomize=True)
@given(events, st.data())
def test_a_changed_header_is_another_event_or_refused(event, data):
    wire = bytearray(encode(event))
    wire[data.draw(st.integers(0, min(len(wire), 24) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        FrameReader().feed_untrusted(wire)
    except DecodeError:
        return


@settings(max_examples=150, deadline=None, derandomize=True)
@given(events)
def test_a_header_is_one_of_the_cddl(event):
    pycddl = pytest.importorskip("pycddl", reason="pycddl has no wheel for this Python")
    wire = encode(event)
    header = wire[2 : 2 + int.from_bytes(wire[:2], "big")]
    # pycddl takes the alternatives of an array inside an alternative for the outer one's, so the target has its own turn.
    cddl = LINK_CDDL.read_text()
    if isinstance(event, Open):
        pycddl.Schema("root = target\n" + cddl).validate_cbor(cbor2.dumps(cbor2.loads(header)[2]))
        cddl = cddl.replace("open = [ 1, stream, target ]", "open = [ 1, stream, [* any] ]")
        cddl = "root = open\n" + cddl
    pycddl.Schema(cddl).validate_cbor(header)


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        5,
        "x",
        [7, 0],
        [6, 0, 0],
        [True, 0, "session"],
        [0, 2, "host"],
        [0, True, "host"],
        [0, 1, "tenant"],
        [0, 1],
        [1, 0, []],
        [1, 0, "session"],
        [1, 0, ["session", 1]],
        [1, 0, ["other"]],
        [1, 0, ["inbound", ""]],
        [1, 0, ["inbound", "x" * 256]],
        [1, 0, ["inbound", "é" * 128]],
        [1, 0, ["inbound", "a\nb"]],
        [1, 0, ["inbound", b"x"]],
        [1, 0, ["outbound", "x" * 254, 1]],
        [1, 0, ["outbound", "h", 0]],
        [1, 0, ["outbound", "h", 65536]],
        [1, 0, ["outbound", "h", True]],
        [1, 0, ["blob", bytes(31)]],
        [1, 0, ["blob", "x" * 32]],
        [1, -1, ["session"]],
        [1, 2**32, ["session"]],
        [2, 0, 0],
        [2, 0, MAX_DATA_BYTES + 1],
        [2, 2**32, 1],
        [2, 0, -1],
        [2, 0, b"x"],
        [2, 0],
        [2, 0, 1, 1],
        [3, 0, 0],
        [3, 0, WINDOW_BYTES + 1],
        [3, 0, 2**40],
        [4, "0"],
        [4, 0, 0],
        [5, 0, "because"],
        [5, 0, 1],
        [5, 0, ["closed"]],
    ],
)
def test_refuses_what_the_cddl_does_not_have(value):
    with pytest.raises(DecodeError):
        FrameReader().feed_untrusted(frame(value))


@pytest.mark.parametrize(
    "header",
    [
        "83021800" + "01",  # a number that is not in its shortest form
        "8302190001" + "01",
        "83021a00000001" + "01",
        "83020018",
        "830200",
        "8302000100",
        "83020061",
        "9f0400ff",
        "c1820400",
        "8204f97c00",
    ],
)
def test_refuses_another_encoding_of_the_same(header):
    data = bytes.fromhex(header)
    with pytest.raises(DecodeError):
        FrameReader().feed_untrusted(len(data).to_bytes(2, "big") + data)


@pytest.mark.parametrize("length", [0, 513, 65535])
def test_refuses_a_header_of_a_wrong_length_before_it_comes(length):
    with pytest.raises(DecodeError):
        FrameReader().feed_untrusted(length.to_bytes(2, "big"))
    reader = FrameReader()
    reader.feed_untrusted(bytes([length >> 8]))
    reader.feed_untrusted(bytes([length & 255]))
    with pytest.raises(DecodeError):
        reader.feed_untrusted(b"x")


@pytest.mark.parametrize(
    "misuse",
    [
        lambda: encode_hello("tenant"),
        lambda: encode_open(0, Target("other")),
        lambda: encode_open(0, Target.inbound("x" * 256)),
        lambda: encode_open(0, Target.inbound("\ud800")),
        lambda: encode_open(2**32, Target.session()),
        lambda: encode_data_header(0, 0),
        lambda: encode_data_header(0, MAX_DATA_BYTES + 1),
        lambda: encode_credit(0, 0),
        lambda: encode_credit(0, WINDOW_BYTES + 1),
        lambda: encode_end(-1),
        lambda: encode_reset(0, "because"),
    ],
)
def test_encodes_nothing_that_it_would_refuse(misuse):
    with pytest.raises(UsageError):
        misuse()
