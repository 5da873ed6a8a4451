# SPDX-License-Identifier: Apache-2.0
"""Certificates and keys: what is made, what is loaded, and that nothing but ConfigError comes out of bad files."""

from __future__ import annotations

import base64
import contextlib
import warnings
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.crypto.x509 import MAX_PEM_BYTES, load_certificates, load_private_key, make_self_signed, require_match
from enarx.errors import ConfigError

AT = datetime(2026, 6, 1, tzinfo=UTC)


def pem_of(key, encryption=None):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


@pytest.fixture(scope="module")
def credential():
    return make_self_signed(at=AT)


def extension(credential, kind):
    return credential.chain[0].extensions.get_extension_for_class(kind)


def test_self_signed_has_the_names_and_times_of_the_fallback(credential):
    (certificate,) = credential.chain
    certificate.verify_directly_issued_by(certificate)
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "localhost"
    assert certificate.not_valid_before_utc == AT
    assert certificate.not_valid_after_utc == AT + timedelta(days=365)
    assert isinstance(credential.private_key.curve, ec.SECP256R1)
    assert certificate.public_key() == credential.private_key.public_key()


def test_self_signed_has_the_extensions_of_the_fallback(credential):
    usage = extension(credential, x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_encipherment
    assert not usage.value.key_cert_sign
    constraints = extension(credential, x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value.ca is False
    assert set(extension(credential, x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    names = extension(credential, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]


def test_self_signed_has_a_serial_of_16_bytes_and_never_the_same():
    serials = {make_self_signed(at=AT).chain[0].serial_number for _ in range(8)}
    assert len(serials) == 8
    assert {(serial.bit_length() + 7) // 8 for serial in serials} == {16}


def test_a_credential_does_not_show_its_key(credential):
    assert "private_key" not in repr(credential)


def test_loads_every_certificate_in_order(credential):
    other = make_self_signed(at=AT).chain[0]
    pem = b"a comment\n" + b"".join(c.public_bytes(Encoding.PEM) for c in (credential.chain[0], other))
    assert load_certificates(pem, path="chain.pem") == (credential.chain[0], other)


@pytest.mark.parametrize("pem", [b"", b"text", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_refuses_a_file_without_a_certificate(pem):
    with pytest.raises(ConfigError, match=r"chain\.pem: found no well-formed chain") as caught:
        load_certificates(pem, path="chain.pem")
    assert caught.value.path == "chain.pem"


def test_refuses_a_certificate_of_a_version_that_there_is_not(credential):
    der = credential.chain[0].public_bytes(Encoding.DER)
    version = bytes.fromhex("a003020102")
    other = der.replace(version, version[:-1] + b"\7", 1)
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(other) + b"-----END CERTIFICATE-----\n"
    with pytest.raises(ConfigError, match="found no well-formed chain"):
        load_certificates(pem, path="p")


def test_refuses_a_private_key_as_a_certificate(credential):
    with pytest.raises(ConfigError):
        load_certificates(pem_of(credential.private_key), path="p")


def test_refuses_a_file_beyond_the_size_limit():
    for load in (load_certificates, load_private_key):
        with pytest.raises(ConfigError, match="found 1048577 bytes, want at most 1048576"):
            load(b" " * (MAX_PEM_BYTES + 1), path="p")


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate,
        lambda: rsa.generate_private_key(65537, 2048),
    ],
)
def test_loads_a_key_that_tls_can_sign_with(make):
    key = make()
    assert load_private_key(pem_of(key), path="p").public_key() == key.public_key()


def test_loads_a_traditional_key(credential):
    pem = credential.private_key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    assert load_private_key(pem, path="p").public_key() == credential.private_key.public_key()


def test_refuses_a_key_that_tls_cannot_sign_with():
    with pytest.raises(ConfigError, match="found X25519PrivateKey, want an EC, RSA or EdDSA key"):
        load_private_key(pem_of(x25519.X25519PrivateKey.generate()), path="p")


def test_refuses_an_encrypted_key_and_says_what_to_do(credential):
    with pytest.raises(ConfigError, match="found an encrypted key") as caught:
        load_private_key(pem_of(credential.private_key, BestAvailableEncryption(b"secret")), path="p")
    assert "openssl pkey" in caught.value.hint


@pytest.mark.parametrize("pem", [b"", b"text", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_refuses_a_file_without_a_key(pem):
    with pytest.raises(ConfigError, match=r"key\.pem: found no well-formed key") as caught:
        load_private_key(pem, path="key.pem")
    assert caught.value.status == 2


def test_accepts_a_certificate_of_the_key(credential):
    require_match(credential.chain[0], credential.private_key, path="p")


def test_refuses_a_certificate_of_another_key(credential):
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(ConfigError, match=r"key\.pem: found the key of another certificate") as caught:
        require_match(credential.chain[0], other, path="key.pem")
    assert caught.value.status == 2
    assert caught.value.path == "key.pem"


def _damaged(pem):
    return st.tuples(st.integers(0, len(pem) - 1), st.binary(max_size=4)).map(
        lambda at: pem[: at[0]] + at[1] + pem[at[0] + len(at[1]) :]
    )


MADE = make_self_signed(at=AT)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.one_of(st.binary(max_size=200), _damaged(MADE.chain[0].public_bytes(Encoding.PEM))))
def test_any_bytes_are_certificates_or_a_config_error(data):
    with warnings.catch_warnings(), contextlib.suppress(ConfigError):
        warnings.simplefilter("ignore")
        certificates = load_certificates(data, path="p")
        assert certificates
        require_match(certificates[0], MADE.private_key, path="p")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.one_of(st.binary(max_size=200), _damaged(pem_of(MADE.private_key))))
def test_any_bytes_are_a_key_or_a_config_error(data):
    with contextlib.suppress(ConfigError):
        load_private_key(data, path="p")
