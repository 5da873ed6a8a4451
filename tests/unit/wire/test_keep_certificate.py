# SPDX-License-Identifier: Apache-2.0
"""What a certificate says of the Keep it is of."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.crypto.cbor import decode_untrusted
from enarx.crypto.x509 import make_self_signed
from enarx.errors import DecodeError, UsageError
from enarx.wire import keep_certificate as k
from enarx.wire.cmw import (
    CMW_EXTENSION_OID,
    Cmw,
    CmwCollection,
    CmwRecord,
    CmwTag,
    Indicator,
    decode_cmw_extension_untrusted,
    encode_cmw_cbor,
    encode_cmw_extension,
    encode_cmw_json,
)
from enarx.wire.ear import MEDIA_TYPE_CWT
from enarx.wire.release import Identity, encode_identity
from tests.cddl import schema
from tests.unit.wire.test_steward import AT

IDENTITY = encode_identity(Identity(b"p" * 32, b"m" * 32, b"c" * 32, pristine=True, tenant=b"t" * 48))
EVIDENCE = encode_cmw_cbor(CmwRecord("application/vnd.enarx.sev-snp-report", b"report", Indicator.EVIDENCE))
MORE = (encode_cmw_cbor(CmwTag(7, b"x")), encode_cmw_cbor(CmwCollection({"a": CmwRecord(30, b"y")})))
OF_STEWARD = k.KeepCertificate(IDENTITY, b"ear")
SELF_SIGNED = k.KeepCertificate(IDENTITY, None, EVIDENCE)
WITH_ENDORSEMENTS = SELF_SIGNED._replace(endorsements=MORE)
KEEPS = [OF_STEWARD, SELF_SIGNED, WITH_ENDORSEMENTS]


def certificate(*extensions: x509.ExtensionType) -> bytes:
    made = make_self_signed(at=AT)
    name, key = made.chain[0].subject, made.private_key
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, AT, AT.replace(year=2036))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def extension(der: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(CMW_EXTENSION_OID), der)


@pytest.mark.parametrize("keep", KEEPS)
def test_reads_what_it_wrote(keep):
    der = k.encode_keep_extension(keep)
    assert k.decode_keep_extension_untrusted(der) == keep
    assert k.decode_keep_certificate_untrusted(certificate(extension(der))) == keep


@pytest.mark.parametrize("keep", KEEPS)
def test_is_as_its_cddl_says(keep):
    content = bytes(encode_content(keep))
    schema("keep-certificate", "keep-certificate").validate_cbor(content)
    assert set(decode_untrusted(content, max_bytes=1 << 16, tags=frozenset({0x63740101 + 7}))) >= {
        "__cmwc_t",
        "identity",
    }


def encode_content(keep):
    from cryptography.hazmat import asn1

    return asn1.decode_der(bytes, k.encode_keep_extension(keep))


def test_is_a_wrapper_that_others_read():
    cmw = decode_cmw_extension_untrusted(k.encode_keep_extension(OF_STEWARD))
    assert cmw == CmwCollection(
        {
            "identity": CmwRecord("application/vnd.enarx.identity+cbor", IDENTITY),
            "result": CmwRecord(MEDIA_TYPE_CWT, b"ear", Indicator.ATTESTATION_RESULTS),
        },
        "tag:enarx.dev,2026:keep-certificate",
    )


@pytest.mark.parametrize(
    "keep",
    [
        k.KeepCertificate(IDENTITY, b"ear", EVIDENCE),
        k.KeepCertificate(IDENTITY, b"ear", endorsements=MORE),
        k.KeepCertificate(IDENTITY, None),
        k.KeepCertificate(b"", b"ear"),
        k.KeepCertificate(b"x", b"ear"),
        k.KeepCertificate(IDENTITY, b""),
        k.KeepCertificate(IDENTITY, None, b"x"),
        k.KeepCertificate(IDENTITY, None, EVIDENCE, MORE * 5),
        k.KeepCertificate(IDENTITY, bytes(60 << 10)),
    ],
)
def test_what_would_be_refused_is_not_written(keep):
    with pytest.raises(UsageError):
        k.encode_keep_extension(keep)


def entries(**changes: Cmw | None) -> dict[str | int, Cmw]:
    whole: dict[str | int, Cmw | None] = {
        "identity": CmwRecord(k.IDENTITY_TYPE, IDENTITY),
        "result": CmwRecord(MEDIA_TYPE_CWT, b"ear", Indicator.ATTESTATION_RESULTS),
    }
    return {label: entry for label, entry in {**whole, **changes}.items() if entry is not None}


EVIDENCE_CMW = CmwRecord("a/b", b"e")


@pytest.mark.parametrize(
    ("cmw", "found"),
    [
        (CmwRecord(k.IDENTITY_TYPE, IDENTITY), "the extension: found another message"),
        (CmwCollection(entries()), "the extension: found another message"),
        (CmwCollection(entries(), "tag:other"), "the extension: found another message"),
        (CmwCollection(entries(identity=None), k.STEWARD_TYPE), "identity: found nothing"),
        (CmwCollection(entries(identity=CmwRecord("a/b", IDENTITY)), k.STEWARD_TYPE), "identity: found another"),
        (
            CmwCollection(entries(identity=CmwRecord(k.IDENTITY_TYPE, IDENTITY, Indicator.EVIDENCE)), k.STEWARD_TYPE),
            "identity: found another",
        ),
        (CmwCollection(entries(identity=CmwRecord(k.IDENTITY_TYPE, b"x")), k.STEWARD_TYPE), "identity record"),
        (CmwCollection(entries(result=None), k.STEWARD_TYPE), "result: found nothing"),
        (CmwCollection(entries(result=CmwRecord(MEDIA_TYPE_CWT, b"ear")), k.STEWARD_TYPE), "result: found another"),
        (CmwCollection(entries(result=CmwTag(1, b"ear")), k.STEWARD_TYPE), "result: found another"),
        (CmwCollection(entries(evidence=EVIDENCE_CMW), k.STEWARD_TYPE), "found an unknown entry 'evidence'"),
        (CmwCollection(entries(), k.SELF_SIGNED_TYPE), "found no evidence"),
        (CmwCollection(entries(evidence=EVIDENCE_CMW), k.SELF_SIGNED_TYPE), "found an unknown entry 'result'"),
        *(
            (
                CmwCollection(
                    entries(result=None, evidence=EVIDENCE_CMW, endorsements=endorsements), k.SELF_SIGNED_TYPE
                ),
                "endorsements: found another",
            )
            for endorsements in (
                CmwRecord("a/b", b"e"),
                CmwCollection({1: EVIDENCE_CMW}),
                CmwCollection({"0": EVIDENCE_CMW}),
                CmwCollection({0: EVIDENCE_CMW}, "tag:x"),
                CmwCollection(dict.fromkeys(range(9), EVIDENCE_CMW)),
            )
        ),
    ],
)
def test_refuses_another_wrapper(cmw, found):
    with pytest.raises(DecodeError, match=found):
        k.decode_keep_extension_untrusted(encode_cmw_extension(cmw))


def test_there_is_one_encoding():
    content = encode_content(OF_STEWARD)
    long = b"\x04\x82" + len(content).to_bytes(2, "big") + content
    assert k.decode_keep_extension_untrusted(long) == OF_STEWARD
    # A map that ends with a break.
    loose = b"\xbf" + content[1:] + b"\xff"
    with pytest.raises(DecodeError, match="want the deterministic one"):
        k.decode_keep_extension_untrusted(b"\x04\x82" + len(loose).to_bytes(2, "big") + loose)
    text = encode_cmw_json(CmwCollection(entries(), k.STEWARD_TYPE))
    with pytest.raises(DecodeError, match="want the deterministic one"):
        k.decode_keep_extension_untrusted(b"\x0c\x82" + len(text).to_bytes(2, "big") + text)


def test_refuses_what_is_too_large():
    with pytest.raises(DecodeError, match="want at most 61440"):
        k.decode_keep_extension_untrusted(bytes((60 << 10) + 1))
    with pytest.raises(DecodeError, match="want at most 65536"):
        k.decode_keep_certificate_untrusted(bytes((64 << 10) + 1))


def test_refuses_a_certificate_that_says_nothing_of_a_keep():
    with pytest.raises(DecodeError, match=r"no extension about a Keep, want 1\.3\.6\.1\.5\.5\.7\.1\.35"):
        k.decode_keep_certificate_untrusted(certificate())


@pytest.mark.parametrize("der", [b"", b"x", certificate()[:-1], certificate() + b"\0"])
def test_refuses_what_is_no_certificate(der):
    with pytest.raises(DecodeError, match=r"want X\.509 in DER"):
        k.decode_keep_certificate_untrusted(der)
