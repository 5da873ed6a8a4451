# SPDX-License-Identifier: Apache-2.0
"""DHCP: what is asked, byte by byte, and which answers are none."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import DecodeError
from enarx.keep.dhcp import (
    ACK,
    DISCOVER,
    MIN_LEASE_S,
    NAK,
    OFFER,
    REQUEST,
    Answer,
    encode_request,
    parse_answer_untrusted,
)

HARDWARE, TRANSACTION = bytes.fromhex("525400123456"), b"\x01\x02\x03\x04"
OPTIONS = {
    53: bytes((ACK,)),
    54: b"\x0a\x00\x02\x02",
    51: struct.pack(">I", 86400),
    1: b"\xff\xff\xff\x00",
    3: b"\x0a\x00\x02\x02\x0a\x00\x02\x03",
    26: struct.pack(">H", 1460),
}
ANSWER = Answer(ACK, b"\x0a\x00\x02\x0f", b"\xff\xff\xff\x00", b"\x0a\x00\x02\x02", 1460, 86400, b"\x0a\x00\x02\x02")


def packet(options=OPTIONS, *, address=b"\x0a\x00\x02\x0f", head=b"", tail=b"\xff", ports=(67, 68), **changes):
    """Return an answer as a server sends it."""
    fields = {
        "operation": 2,
        "transaction": TRANSACTION,
        "hardware": HARDWARE,
        "cookie": b"\x63\x82\x53\x63",
        **changes,
    }
    message = struct.pack(
        ">BBBB4sHH4s4s4s4s16s192x", fields["operation"], 1, 6, 0, fields["transaction"], 0, 0, bytes(4), address,
        bytes(4), bytes(4), fields["hardware"],
    )  # fmt: skip
    message += fields["cookie"] + b"".join(bytes((key, len(value))) + value for key, value in options.items()) + tail
    datagram = struct.pack(">HHHH", *ports, 8 + len(message), 0) + message
    ip = struct.pack(
        ">BBHHHBBH4s4s", 0x45 + len(head) // 4, 0, 20 + len(head) + len(datagram), 0, 0, 64, 17, 0, *[bytes(4)] * 2
    )
    return ip + head + datagram


def parse(data):
    return parse_answer_untrusted(data, transaction=TRANSACTION, hardware=HARDWARE)


def test_the_first_question_is_for_everybody_and_names_the_device():
    asked = encode_request(DISCOVER, transaction=TRANSACTION, hardware=HARDWARE)
    assert asked[:10] == bytes.fromhex("45000148 00000000 4011")
    # The checksum of the header makes its sum all ones.
    total = sum(struct.unpack(">10H", asked[:20]))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
    assert asked[12:20] == bytes(4) + b"\xff" * 4
    assert struct.unpack(">HHHH", asked[20:28]) == (68, 67, 308, 0)
    message = asked[28:]
    assert message[:12] == b"\x01\x01\x06\x00" + TRANSACTION + b"\x00\x00\x80\x00"
    assert message[28:34] == HARDWARE
    assert message[236:] == (bytes.fromhex("63825363 3501 01 3704 01031a33 ff").ljust(300 - 236, b"\0"))


def test_what_was_offered_is_requested_of_who_offered_it():
    asked = encode_request(REQUEST, transaction=TRANSACTION, hardware=HARDWARE, offered=ANSWER)
    assert bytes.fromhex("350103") in asked
    assert bytes.fromhex("32040a00020f 36040a000202 ff") in asked
    assert asked[12:16] == asked[40:44] == bytes(4)


def test_what_is_held_is_requested_from_there_and_of_nobody_by_name():
    asked = encode_request(REQUEST, transaction=TRANSACTION, hardware=HARDWARE, held=ANSWER.address)
    assert asked[12:16] == ANSWER.address
    assert asked[28 + 12 : 28 + 16] == ANSWER.address
    assert asked[28 + 10 : 28 + 12] == bytes(2)
    assert bytes.fromhex("37040103 1a33 ff") in asked


@pytest.mark.parametrize("head", [b"", b"\x01" * 4])
def test_reads_an_answer(head):
    assert parse(packet(head=head) + b"\0" * 6) == ANSWER


def test_an_offer_is_another_kind():
    assert parse(packet({**OPTIONS, 53: bytes((OFFER,))})).kind == OFFER


def test_what_is_not_said_has_a_usual_value():
    answer = parse(packet({key: OPTIONS[key] for key in (53, 54, 51)}))
    assert (answer.mask, answer.router, answer.mtu) == (b"\xff\xff\xff\x00", None, None)


@pytest.mark.parametrize("mtu", [0, 68, 575])
def test_a_size_of_packets_that_nothing_needs_is_left_aside(mtu):
    assert parse(packet({**OPTIONS, 26: struct.pack(">H", mtu)})).mtu is None


def test_a_lease_has_a_least_time():
    assert parse(packet({**OPTIONS, 51: bytes(4)})).lease_s == MIN_LEASE_S


def test_a_refusal_needs_no_more():
    assert parse(packet({53: bytes((NAK,))}, address=bytes(4))).kind == NAK


def test_the_first_of_two_options_counts_and_padding_none():
    answer = parse(packet({**OPTIONS}, tail=b"\0\0" + bytes((51, 4, 0, 0, 0, 0)) + b"\xff"))
    assert answer.lease_s == 86400


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "0 bytes"),
        (packet()[:100], "bytes from port"),
        (b"\x65" + packet()[1:], "another packet"),
        (packet()[:9] + b"\x06" + packet()[10:], "another packet"),
        (packet()[:6] + b"\x20\x00" + packet()[8:], "another packet"),
        (packet(ports=(67, 67)), "from port 67 to 67"),
        (packet(ports=(53, 68)), "from port 53"),
        (packet(operation=1), "somebody else"),
        (packet(transaction=b"\x01\x02\x03\x05"), "somebody else"),
        (packet(hardware=bytes(6)), "somebody else"),
        (packet(cookie=bytes(4)), "somebody else"),
        (packet({**OPTIONS, 53: b"\x01"}), "without kind"),
        (packet({**OPTIONS, 54: b"\x01"}), "without kind, server or lease"),
        (packet({**OPTIONS, 51: b""}), "without kind, server or lease"),
        (packet({**OPTIONS, 1: b"\xff\x00\xff\x00"}), "a mask"),
        (packet({**OPTIONS, 1: b"\xff\xff"}), "a mask"),
        (packet({**OPTIONS, 3: b"\x0a"}), "a mask, routers"),
        (packet({**OPTIONS, 26: b"\x05"}), "a mask, routers or a size"),
        (packet({**OPTIONS, 52: b"\x01"}), "options where names are"),
        (packet(address=bytes(4)), "an address that no machine"),
        (packet(address=b"\x7f\x00\x00\x01"), "an address that no machine"),
        (packet(address=b"\xe0\x00\x00\x01"), "an address that no machine"),
        (packet(tail=b"\x33"), "too early"),
        (packet(tail=b"\x33\x09\x00"), "an option that ends"),
    ],
)
def test_refuses_what_is_no_answer(data, found):
    with pytest.raises(DecodeError, match=found):
        parse(data)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_any_packet_is_an_answer_or_refused(data):
    changed = bytearray(packet())
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        answer = parse(bytes(changed[: data.draw(st.integers(0, len(changed)))]))
    except DecodeError:
        return
    assert len(answer.address) == len(answer.mask) == 4
    assert answer.lease_s >= MIN_LEASE_S
