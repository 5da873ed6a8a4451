# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from enarx.crypto.certificates import (
    MAX_CERTIFICATE_BYTES,
    Issuer,
    issued_directly,
    load_certificate_untrusted,
    load_crl_untrusted,
    load_pem_chain_untrusted,
    name_of,
)
from enarx.errors import DecodeError

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def make(subject, key, issuer, signer, digest=None, serial=None):
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(END)
    )
    return builder.sign(signer, digest or hashes.SHA256())


KEYS = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "RSA": rsa.generate_private_key(65537, 2048),
}
OTHER = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize("kind", KEYS)
def test_an_issuer_answers_as_the_library_does(kind):
    authority = make("CA", KEYS[kind], "CA", KEYS[kind])
    issuer = Issuer(authority)
    genuine = make("Leaf", OTHER, "CA", KEYS[kind])
    small = make("Leaf", OTHER, "CA", KEYS[kind], serial=1)
    of_another_name = make("Leaf", OTHER, "Somebody", KEYS[kind])
    of_another_key = make("Leaf", OTHER, "CA", OTHER)
    for certificate, answer in ((genuine, True), (small, True), (of_another_name, False), (of_another_key, False)):
        der = certificate.public_bytes(Encoding.DER)
        assert issuer.issued(certificate, der) is issued_directly(certificate, authority) is answer


def test_an_issuer_whose_name_cannot_be_decoded_is_another_one():
    authority = make("CA", KEYS["P-384"], "CA", KEYS["P-384"])
    der = make("Leaf", OTHER, "CA", KEYS["P-384"]).public_bytes(Encoding.DER)
    # A bit string, which only one attribute may be; `cryptography` says so by a TypeError.
    changed = der.replace(b"\x0c\x02CA", b"\x03\x02CA", 1)
    assert changed != der
    certificate = load_certificate_untrusted(changed, decode_issuer=False)
    with pytest.raises(TypeError):
        _ = certificate.issuer
    assert not Issuer(authority).issued(certificate, changed)


@pytest.mark.parametrize("kind", ["P-256", "P-384"])
def test_no_flipped_bit_is_taken_by_an_issuer_and_not_by_the_library(kind):
    authority = make("CA", KEYS[kind], "CA", KEYS[kind])
    issuer = Issuer(authority)
    der = make("Leaf", OTHER, "CA", KEYS[kind]).public_bytes(Encoding.DER)
    assert issuer.issued(load_certificate_untrusted(der), der)
    judged = 0
    for position in range(8 * len(der)):
        flipped = bytearray(der)
        flipped[position // 8] ^= 1 << position % 8
        try:
            certificate = load_certificate_untrusted(bytes(flipped))
        except DecodeError:
            continue
        judged += 1
        assert not issuer.issued(certificate, bytes(flipped)), position
        assert not issued_directly(certificate, authority), position
    assert judged > 500


def test_an_algorithm_that_only_stands_beside_the_signature_counts_for_nothing():
    authority = make("CA", KEYS["P-256"], "CA", KEYS["P-256"])
    der = bytearray(make("Leaf", OTHER, "CA", KEYS["P-256"]).public_bytes(Encoding.DER))
    # ecdsa-with-SHA256 is 1.2.840.10045.4.3.2; the second one is nobody's promise.
    oid = bytes.fromhex("06082a8648ce3d040302")
    at = der.rindex(oid)
    assert der.index(oid) != at
    der[at + len(oid) - 1] = 3
    certificate = load_certificate_untrusted(bytes(der))
    assert not Issuer(authority).issued(certificate, bytes(der))


def test_names_a_certificate_by_its_common_name_or_all_it_has():
    assert name_of(make("CA", OTHER, "CA", OTHER)) == "CA"
    bare = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Somebody")])
    builder = x509.CertificateBuilder().subject_name(bare).issuer_name(bare).public_key(OTHER.public_key())
    certificate = builder.serial_number(1).not_valid_before(START).not_valid_after(END).sign(OTHER, hashes.SHA256())
    assert name_of(certificate) == "O=Somebody"


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"\x30\x82\xff\xff", bytes(MAX_CERTIFICATE_BYTES + 1)])
@pytest.mark.parametrize("load", [load_certificate_untrusted, load_crl_untrusted, load_pem_chain_untrusted])
def test_refuses_what_is_no_certificate(load, data):
    with pytest.raises(DecodeError, match="cannot decode"):
        load(data)


def test_a_pem_chain_keeps_its_order_and_leaves_out_what_is_between():
    chain = [make(text, OTHER, "CA", OTHER) for text in ("one", "two")]
    pem = b"first\n" + b"then\n".join(each.public_bytes(Encoding.PEM) for each in chain) + bytes(8)
    assert load_pem_chain_untrusted(pem) == tuple(each.public_bytes(Encoding.DER) for each in chain)


def test_an_issuers_name_that_is_not_well_formed_is_no_issuers():
    authority = make("CA", KEYS["P-256"], "CA", KEYS["P-256"])
    der = bytearray(make("Leaf", OTHER, "CA", KEYS["P-256"]).public_bytes(Encoding.DER))
    # A common name in UTF-8, the issuer's in front of the subject's.
    at = der.index(b"\x0c\x02CA")
    der[at + 2 : at + 4] = b"\xff\xff"
    with pytest.raises(DecodeError, match="cannot decode a certificate"):
        load_certificate_untrusted(bytes(der))
    certificate = load_certificate_untrusted(bytes(der), decode_issuer=False)
    assert not Issuer(authority).issued(certificate, bytes(der))
