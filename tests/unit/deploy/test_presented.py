# SPDX-License-Identifier: Apache-2.0
"""What a service presents, decoded."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.deploy.presented import MAX_CHAIN_BYTES, MAX_CHAIN_LENGTH, Kind, read_presented_untrusted
from enarx.errors import DecodeError
from enarx.testing.snp import FakeAmd
from tests.presenting import IDENTITY, FakeSteward, make_self_signed_keep

AT = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def steward():
    return FakeSteward(at=AT, intermediate=True)


def test_reads_a_stewards_certificate(steward):
    shown = steward.issue(names=("keep.example", "other.example"), emulated=True)
    presented = read_presented_untrusted(shown.der)
    assert presented.kind is Kind.STEWARD
    assert presented.identity == IDENTITY
    assert presented.names[:2] == ("keep.example", "other.example")
    assert presented.names[2].startswith("spiffe://")
    assert presented.issuers == steward.issuers
    assert presented.emulated
    assert not read_presented_untrusted(steward.issue().der).emulated


def test_takes_silence_about_the_platform_for_an_emulated_one(steward):
    for claim in (None, "no", 0):
        assert read_presented_untrusted(steward.issue(emulated=claim).der).emulated


def test_reads_a_self_signed_certificate():
    presented = read_presented_untrusted(make_self_signed_keep(FakeAmd(), at=AT).der)
    assert presented.kind is Kind.SELF_SIGNED
    assert presented.identity == IDENTITY
    assert presented.ear is None
    assert not presented.emulated
    assert presented.names == ()


def test_takes_any_other_certificate_for_what_it_is(steward):
    presented = read_presented_untrusted(steward.issue(extension=None).der)
    assert presented.kind is Kind.OTHER
    assert presented.keep is presented.identity is presented.ear is None


@pytest.mark.parametrize("extension", [b"\x04\x01\x00", b"\x00", b"garbage", b"\x04\x02\xa0\x00"])
def test_refuses_an_extension_that_it_cannot_read(steward, extension):
    with pytest.raises(DecodeError, match="cannot decode"):
        read_presented_untrusted(steward.issue(extension=extension).der)


def test_refuses_a_result_that_is_none(steward):
    from enarx.wire.keep_certificate import KeepCertificate, encode_keep_extension
    from enarx.wire.release import encode_identity

    extension = encode_keep_extension(KeepCertificate(encode_identity(IDENTITY), b"no token"))
    with pytest.raises(DecodeError, match="EAR"):
        read_presented_untrusted(steward.issue(extension=extension).der)


def test_refuses_what_is_no_chain(steward):
    der = steward.issue().der
    with pytest.raises(DecodeError, match="found 0 certificates of 0 bytes"):
        read_presented_untrusted([])
    with pytest.raises(DecodeError, match=f"want 1 to {MAX_CHAIN_LENGTH}"):
        read_presented_untrusted([der[0]] * (MAX_CHAIN_LENGTH + 1))
    with pytest.raises(DecodeError, match=f"of at most {MAX_CHAIN_BYTES}"):
        read_presented_untrusted([*der, bytes(MAX_CHAIN_BYTES)])
    for chain in ([b""], [b"no certificate"], [der[0], der[1][:-1]], [der[0] + b"\0"]):
        with pytest.raises(DecodeError, match=r"want X\.509 in DER"):
            read_presented_untrusted(chain)


def test_reads_a_chain_with_its_root(steward):
    presented = read_presented_untrusted([*steward.issue().der, steward.root.public_bytes(Encoding.DER)])
    assert presented.issuers == (*steward.issuers, steward.root)
