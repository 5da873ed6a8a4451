# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enarx.channel.transcript import (
    Transcript,
    attach_report_data,
    configuration_digest,
    identity_report_data,
    leaf_hash,
    offer_report_data,
    receipt_digest,
    receipt_report_data,
    self_signed_report_data,
    spki_hash,
)
from enarx.crypto.cbor import encode
from enarx.crypto.x509 import make_self_signed
from enarx.wire.release import Configuration, Identity, encode_identity
from enarx.wire.session import Attachment, Image, Limits, Offer, Receipt
from tests.cddl import schema

TRANSCRIPT = Transcript(exporter=b"e" * 32, keep_leaf=b"keep", tenant_leaf=b"tenant", challenge=b"challenge")
IMAGE, LIMITS = Image("enarx", "1", "nil"), Limits(1, 2, 3)
OFFER = Offer(b"k" * 1216, IMAGE, LIMITS, (b"endorsement",), b"evidence")
ATTACHMENT = Attachment(0, 5, IMAGE, LIMITS, (), b"evidence")
IDENTITY = encode_identity(Identity(b"p" * 32, b"m" * 32, b"c" * 32, True, b"t" * 48))
RECEIPT = Receipt(IDENTITY, LIMITS, (), b"evidence")


def sha384(data):
    return hashlib.sha384(data).digest()


def limits():
    return {"memory-bytes": 1, "package-bytes": 2, "log-bytes": 3}


IMAGE_VALUE = {"name": "enarx", "version": "1", "backend": "nil"}
SESSION = [b"e" * 32, sha384(b"keep"), sha384(b"tenant"), sha384(b"challenge")]
OFFERED = ["enarx-keep/1", "offer", *SESSION]
OFFERED.append(sha384(encode({"type": "offer", "hpke-key": b"k" * 1216, "image": IMAGE_VALUE, "limits": limits()})))
RECEIVED = sha384(encode({"type": "receipt", "identity": IDENTITY, "limits": limits()}))
ATTACHED = ["enarx-keep/1", "attach", *SESSION]
ATTACHED.append(
    sha384(encode({"type": "attachment", "log-start": 0, "log-end": 5, "image": IMAGE_VALUE, "limits": limits()}))
)
ATTACHED.append(RECEIVED)
OFFER_DATA = hashlib.sha512(encode(OFFERED)).digest()

BINDINGS = {
    "offer-binding": (OFFERED, lambda: offer_report_data(TRANSCRIPT, OFFER)),
    "receipt-binding": (
        ["enarx-keep/1", "receipt", OFFER_DATA, RECEIVED],
        lambda: receipt_report_data(OFFER_DATA, RECEIPT),
    ),
    "attach-binding": (ATTACHED, lambda: attach_report_data(TRANSCRIPT, ATTACHMENT, receipt_digest(RECEIPT))),
    "identity-binding": (
        ["enarx-keep/1", "identity", b"n" * 32, b"s" * 48, sha384(IDENTITY), b"r" * 48],
        lambda: identity_report_data(b"n" * 32, b"s" * 48, IDENTITY, b"r" * 48),
    ),
    "self-signed-binding": (
        ["enarx-keep/1", "self-signed", b"s" * 48, sha384(IDENTITY)],
        lambda: self_signed_report_data(b"s" * 48, IDENTITY),
    ),
}


@pytest.mark.parametrize("rule", BINDINGS)
def test_report_data_is_over_the_array_of_the_cddl(rule):
    array, compute = BINDINGS[rule]
    assert compute() == hashlib.sha512(encode(array)).digest()


@pytest.mark.parametrize("rule", BINDINGS)
def test_the_array_is_what_the_cddl_says(rule):
    array, _ = BINDINGS[rule]
    schema("session", rule).validate_cbor(encode(array))
    schema("session", "binding").validate_cbor(encode(array))


def test_no_two_purposes_have_the_same_report_data():
    assert len({compute() for _, compute in BINDINGS.values()}) == len(BINDINGS)


@pytest.mark.parametrize("part", Transcript._fields)
def test_every_part_of_a_session_counts(part):
    other = TRANSCRIPT._replace(**{part: b"other".ljust(32)})
    assert offer_report_data(other, OFFER) != offer_report_data(TRANSCRIPT, OFFER)
    receipt = receipt_digest(RECEIPT)
    assert attach_report_data(other, ATTACHMENT, receipt) != attach_report_data(TRANSCRIPT, ATTACHMENT, receipt)


def test_the_offered_key_and_the_receipt_count_and_evidence_does_not():
    offered = offer_report_data(TRANSCRIPT, OFFER)
    assert offer_report_data(TRANSCRIPT, OFFER._replace(hpke_key=b"K" * 1216)) != offered
    assert offer_report_data(TRANSCRIPT, OFFER._replace(evidence=b"other", endorsements=())) == offered
    attached = attach_report_data(TRANSCRIPT, ATTACHMENT, receipt_digest(RECEIPT))
    assert attach_report_data(TRANSCRIPT, ATTACHMENT, bytes(48)) != attached
    assert attach_report_data(TRANSCRIPT, ATTACHMENT._replace(log_end=6), receipt_digest(RECEIPT)) != attached


def test_a_leaf_s_key_is_hashed_as_spki():
    certificate = make_self_signed(at=datetime(2026, 1, 1, tzinfo=UTC)).chain[0]
    der = certificate.public_bytes(Encoding.DER)
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert spki_hash(der) == sha384(spki)
    assert leaf_hash(der) == sha384(der)


@pytest.mark.parametrize("change", [(b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07", 3), (b"\xa0\x03\x02\x01\x02", 4)])
def test_a_certificate_with_a_key_or_version_that_there_is_not_is_none(change):
    piece, at = change
    der = make_self_signed(at=datetime(2026, 1, 1, tzinfo=UTC)).chain[0].public_bytes(Encoding.DER)
    other = bytearray(piece)
    other[at] ^= 0x55
    with pytest.raises(ValueError, match="found a version or a key"):
        spki_hash(der.replace(piece, bytes(other)))


def test_a_configuration_is_hidden_by_its_salt():
    nothing = Configuration()
    assert configuration_digest(b"s" * 32, nothing) == hashlib.sha256(b"s" * 32 + b"\xa0").digest()
    given = Configuration(arguments=("x",))
    assert configuration_digest(b"s" * 32, given) != configuration_digest(b"s" * 32, nothing)
    assert configuration_digest(b"t" * 32, given) != configuration_digest(b"s" * 32, given)
