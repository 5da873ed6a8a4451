# SPDX-License-Identifier: Apache-2.0
"""What stands in certificates, checked by `cryptography`'s path validation and by OpenSSL."""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from enarx.errors import EndorsementError
from enarx.steward.certificates import EMULATED, Wanted, encode_key, serial_number, spiffe_id, spki_of
from enarx.wire.keep_certificate import decode_keep_certificate_untrusted
from enarx.wire.release import encode_identity
from tests.unit.steward import keeps as k

WANTED = Wanted(
    key=k.KEY.public_key(),
    spki=encode_key(k.KEY.public_key()),
    package=k.PACKAGE,
    identity=encode_identity(k.IDENTITY),
    result=b"ear",
    dns=("web.example.com", "other.example.com"),
    spiffe=spiffe_id("example.com", k.PACKAGE),
    lifetime=timedelta(hours=24),
    crl_url="http://steward.example.com/v1/crl",
)


def issue(**changes):
    return k.authority().issue(replace(WANTED, **changes), at=k.AT)


def value(certificate, kind):
    extension = certificate.extensions.get_extension_for_class(kind)
    return extension.value, extension.critical


def verified(certificate, name="web.example.com", at=k.AT, authority=None):
    authority = authority if authority is not None else k.authority()
    builder = PolicyBuilder().store(Store([authority.root])).time(at.replace(tzinfo=None))
    return builder.build_server_verifier(x509.DNSName(name)).verify(certificate, list(authority.certificates[:-1]))


def test_has_the_profile():
    certificate = issue()
    assert certificate.version is x509.Version.v3
    assert certificate.subject.rfc4514_string() == f"CN=keep {k.PACKAGE.hex()[:16]}"
    assert certificate.issuer == k.authority().certificate.subject
    assert certificate.not_valid_before_utc == k.AT - timedelta(minutes=5)
    assert certificate.not_valid_after_utc == k.AT + timedelta(hours=24)
    assert certificate.serial_number.bit_length() == 127
    usage, is_critical = value(certificate, x509.KeyUsage)
    assert is_critical
    assert usage.digital_signature
    assert not any((usage.key_cert_sign, usage.crl_sign, usage.key_encipherment, usage.key_agreement))
    assert value(certificate, x509.BasicConstraints) == (x509.BasicConstraints(ca=False, path_length=None), True)
    assert set(value(certificate, x509.ExtendedKeyUsage)[0]) == {Eku.SERVER_AUTH, Eku.CLIENT_AUTH}
    names, is_critical = value(certificate, x509.SubjectAlternativeName)
    assert not is_critical
    assert list(names) == [
        x509.DNSName("web.example.com"),
        x509.DNSName("other.example.com"),
        x509.UniformResourceIdentifier(f"spiffe://example.com/keep/{k.PACKAGE.hex()}"),
    ]
    (point,) = value(certificate, x509.CRLDistributionPoints)[0]
    assert [each.value for each in point.full_name] == ["http://steward.example.com/v1/crl"]
    own = value(certificate, x509.SubjectKeyIdentifier)[0].digest
    assert own == spki_of(k.KEY.public_key())[:20]
    above = value(k.authority().certificate, x509.SubjectKeyIdentifier)[0].digest
    assert value(certificate, x509.AuthorityKeyIdentifier)[0].key_identifier == above
    assert certificate.signature_hash_algorithm.name == "sha384"


def test_says_of_the_keep_what_was_judged():
    keep = decode_keep_certificate_untrusted(issue().public_bytes(Encoding.DER))
    assert (keep.identity, keep.result) == (encode_identity(k.IDENTITY), b"ear")
    assert not issue().extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.35")).critical


def test_without_a_list_there_is_no_address_of_one():
    with pytest.raises(x509.ExtensionNotFound):
        value(issue(crl_url=None), x509.CRLDistributionPoints)


def test_an_emulated_platform_is_in_the_subject():
    (organisation,) = issue(is_emulated=True).subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)
    assert organisation.value == EMULATED == "EMULATED platform, protects nothing"
    assert not issue().subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)


def test_each_has_a_serial_number_of_its_own():
    assert len({issue().serial_number for _ in range(20)}) == 20


def test_a_later_serial_number_is_larger_and_as_long():
    times = [k.AT + timedelta(milliseconds=each) for each in range(20)] + [datetime(4000, 1, 1, tzinfo=UTC)]
    numbers = list(map(serial_number, times))
    assert numbers == sorted(numbers)
    assert {each.bit_length() for each in numbers} == {127}
    assert serial_number(datetime.max.replace(tzinfo=UTC)).bit_length() == 127


def test_ends_with_what_it_rests_on():
    ends = k.AT + timedelta(hours=2, microseconds=5)
    assert issue(valid_until=ends).not_valid_after_utc == k.AT + timedelta(hours=2)
    assert issue(valid_until=k.AT + timedelta(days=5)).not_valid_after_utc == k.AT + timedelta(hours=24)


def test_is_not_issued_for_less_than_a_minute():
    issue(valid_until=k.AT + timedelta(seconds=60))
    for left_s in (59, 0, -86400):
        with pytest.raises(EndorsementError, match="want at least a minute"):
            issue(valid_until=k.AT + timedelta(seconds=left_s))


def test_does_not_outlive_the_authority():
    end = k.authority().root.not_valid_after_utc
    made = k.authority().issue(WANTED, at=end - timedelta(hours=1))
    assert made.not_valid_after_utc == end
    with pytest.raises(EndorsementError):
        k.authority().issue(WANTED, at=end)


@pytest.mark.parametrize("key", [k.KEY, ec.derive_private_key(5, ec.SECP384R1())])
def test_clients_believe_it(key):
    certificate = issue(key=key.public_key())
    assert [each.subject for each in verified(certificate)] == [certificate.subject, k.authority().root.subject]
    verified(certificate, "other.example.com")
    for name, at in (("wrong.example.com", k.AT), ("web.example.com", k.AT + timedelta(hours=25))):
        with pytest.raises(VerificationError):
            verified(certificate, name, at)


def test_servers_believe_it():
    builder = PolicyBuilder().store(Store([k.authority().root])).time(k.AT.replace(tzinfo=None))
    found = builder.build_client_verifier().verify(issue(), [])
    assert x509.UniformResourceIdentifier(WANTED.spiffe) in found.subjects


def openssl(folder, certificate, *options, authority=None):
    authority = authority if authority is not None else k.authority()
    (folder / "root.pem").write_bytes(authority.root.public_bytes(Encoding.PEM))
    above = b"".join(each.public_bytes(Encoding.PEM) for each in authority.certificates[:-1])
    (folder / "leaf.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "above.pem").write_bytes(above)
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        "-CAfile",
        "root.pem",
        "-attime",
        str(int(k.AT.timestamp())),
        *options,
    ]
    command += ["-untrusted", "above.pem"] if above else []
    done = subprocess.run([*command, "leaf.pem"], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="no openssl: install Debian's package openssl"
)


@needs_openssl
@pytest.mark.parametrize("key", [k.KEY, ec.derive_private_key(5, ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()])
def test_openssl_believes_it(tmp_path, key):
    certificate = issue(key=key.public_key())
    assert openssl(tmp_path, certificate, "-purpose", "sslserver", "-verify_hostname", "web.example.com")[0] == 0
    assert openssl(tmp_path, certificate, "-purpose", "sslclient")[0] == 0
    status, out = openssl(tmp_path, certificate, "-verify_hostname", "wrong.example.com")
    assert status != 0
    assert "ostname mismatch" in out


@needs_openssl
def test_openssl_sees_what_was_revoked(tmp_path):
    first, second = issue(), issue()
    crl = k.authority().crl([(first.serial_number, k.AT, "snp.measurement")], at=k.AT, number=1)
    (tmp_path / "list.pem").write_bytes(x509.load_der_x509_crl(crl).public_bytes(Encoding.PEM))
    assert openssl(tmp_path, second, "-crl_check", "-CRLfile", "list.pem")[0] == 0
    status, out = openssl(tmp_path, first, "-crl_check", "-CRLfile", "list.pem")
    assert status != 0
    assert "certificate revoked" in out


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("steward.example.com", x509.DNSName("steward.example.com")),
        ("192.0.2.1", x509.IPAddress(ipaddress.ip_address("192.0.2.1"))),
        ("::1", x509.IPAddress(ipaddress.ip_address("::1"))),
    ],
)
def test_the_steward_s_own_port_has_its_name(name, found):
    credential = k.authority().server_credential(name, at=k.AT)
    certificate = credential.chain[0]
    assert list(value(certificate, x509.SubjectAlternativeName)[0]) == [found]
    assert list(value(certificate, x509.ExtendedKeyUsage)[0]) == [Eku.SERVER_AUTH]
    assert certificate.not_valid_after_utc == k.AT + timedelta(days=30)
    assert credential.private_key.public_key() == certificate.public_key()
    assert credential.chain[1:] == k.authority().chain
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.35"))


def test_a_key_of_the_original_s_protocol_has_no_name():
    made = k.authority().issue_original(k.KEY.public_key(), at=k.AT, valid_until=None, is_emulated=True)
    with pytest.raises(x509.ExtensionNotFound):
        value(made, x509.SubjectAlternativeName)
    assert made.not_valid_after_utc == k.AT + timedelta(days=28)
    assert EMULATED in made.subject.rfc4514_string().replace("\\", "")
    with pytest.raises(VerificationError):
        verified(made)


def test_what_is_encoded_once_is_what_would_be_encoded_each_time():
    first, second = issue(), issue(dns=("else.example.com",))
    for certificate in (first, second):
        for extension in certificate.extensions:
            raw = extension.value.public_bytes()
            assert raw in certificate.public_bytes(Encoding.DER)
    assert next(iter(value(second, x509.SubjectAlternativeName)[0])) == x509.DNSName("else.example.com")
    assert list(value(issue(), x509.SubjectAlternativeName)[0]) == list(value(first, x509.SubjectAlternativeName)[0])
