# SPDX-License-Identifier: Apache-2.0
"""/dev/nsm: documents of a Nitro Security Module, and its errors."""

from __future__ import annotations

import ctypes
import errno
from datetime import UTC, datetime

import pytest

from enarx.attester.attested import NITRO_DOCUMENT
from enarx.attester.nsm import NsmAttester, find_nsm
from enarx.crypto.cbor import encode
from enarx.errors import DecodeError, PlatformError, UsageError
from enarx.testing.attesters import FakeFile, FakeNsm, FakeSystem
from enarx.testing.nitro import NitroAuthority
from tests.unit.attester.judging import REPORT_DATA, assert_judged, assert_marked

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
AUTHORITY = NitroAuthority(at=AT)


def machine(device):
    return FakeSystem({"/dev/nsm": device})


def assert_fails(device, words, error=PlatformError):
    system = machine(device)
    with pytest.raises(error) as caught:
        NsmAttester(system).attest(REPORT_DATA)
    assert words in str(caught.value)
    assert system.files == {}


def test_evidence_is_accepted():
    system = machine(FakeNsm(AUTHORITY))
    attester = find_nsm(system)
    assert (attester.backend, attester.media_type, attester.register) == ("nitro", NITRO_DOCUMENT, None)
    attested = attester.attest(REPORT_DATA)
    assert_marked(attested, NITRO_DOCUMENT)
    assert_judged(attested, at=AT, anchors=AUTHORITY.anchors, freshness="nitro.nonce")
    assert system.files == {}


@pytest.mark.parametrize("reason", ["InvalidArgument", "InputTooLarge", "InternalError"])
def test_an_error_of_the_module_is_told(reason):
    device = FakeNsm(AUTHORITY)
    device.answer = encode({"Error": reason})
    assert_fails(device, f"/dev/nsm: found the error '{reason}', want a document")


@pytest.mark.parametrize(
    "answer",
    [
        encode("Attestation"),
        encode({}),
        encode({"Attestation": {}}),
        encode({"Attestation": {"document": b""}}),
        encode({"Attestation": {"document": "text"}}),
        encode({"Error": 7}),
        encode({"GetRandom": {"random": b"x"}}),
        encode({"Attestation": {"document": b"x"}})[:-1],
        b"\xff",
    ],
)
def test_another_answer_is_refused(answer):
    device = FakeNsm(AUTHORITY)
    device.answer = answer
    assert_fails(device, "/dev/nsm", error=DecodeError)


def test_an_answer_that_was_cut_off_is_refused():
    device = FakeNsm(AUTHORITY)
    device.answer = encode({"Attestation": {"document": bytes(0x3000)}})
    assert_fails(device, "/dev/nsm", error=DecodeError)


def test_no_answer_is_refused():
    device = FakeNsm(AUTHORITY)
    device.answer = b""
    assert_fails(device, "found 0 bytes, want 1 to 12288")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ETIMEDOUT, "no answer in two minutes (ETIMEDOUT)"),
        (errno.EMSGSIZE, "too long"),
        (errno.EINVAL, "(EINVAL)"),
    ],
)
def test_errors_of_the_kernel_are_told(number, words):
    device = FakeNsm(AUTHORITY)
    device.error = number
    assert_fails(device, words)


def test_an_answer_with_maps_without_length_is_read():
    """As the module's own library writes them."""
    device = FakeNsm(AUTHORITY)
    document = AUTHORITY.document(changes={"nonce": REPORT_DATA})
    inner = b"\xbf" + encode("document") + encode(document) + b"\xff"
    device.answer = b"\xbf" + encode("Attestation") + inner + b"\xff"
    attested = NsmAttester(machine(device)).attest(REPORT_DATA)
    assert_judged(attested, at=AT, anchors=AUTHORITY.anchors, freshness="nitro.nonce")


def test_the_module_refuses_what_it_does_not_know():
    """The emulation is no yes-man."""
    system = machine(FakeNsm(AUTHORITY))
    attester = NsmAttester(system)
    assert attester._call({"DescribeNSM": {}}) == {"Error": "InvalidOperation"}
    wanted = {"user_data": None, "nonce": None, "public_key": bytes(1025)}
    assert attester._call({"Attestation": wanted}) == {"Error": "InputTooLarge"}
    assert attester._call({"Attestation": wanted | {"public_key": 7}}) == {"Error": "InvalidArgument"}
    with pytest.raises(PlatformError, match="too long"):
        attester._call({"Attestation": bytes(0x1000)})
    fd = system.open("/dev/nsm", 2)
    with pytest.raises(OSError, match="Invalid argument"):
        system.ioctl(fd, 0xC0200A01, ctypes.create_string_buffer(32))


def test_refuses_report_data_of_another_size():
    with pytest.raises(UsageError, match="found 0 bytes, want 64"):
        NsmAttester(machine(FakeNsm(AUTHORITY))).attest(b"")


def test_a_device_that_does_not_open_is_said():
    assert_fails(FakeFile(error=errno.EACCES), "permission denied (EACCES)")
    assert find_nsm(FakeSystem({})) is None
