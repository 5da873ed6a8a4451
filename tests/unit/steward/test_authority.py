# SPDX-License-Identifier: Apache-2.0
"""The authority: made, loaded, below another one; what is no authority is found out before it is used."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.crypto.x509 import make_self_signed
from enarx.errors import ConfigError, VerificationError
from enarx.steward.authority import (
    install_chain,
    load_authority_key,
    make_authority,
    make_key,
    make_request,
    write_key,
)
from enarx.steward.certificates import key_usage
from tests.unit.steward import test_certificates
from tests.unit.steward.keeps import AT, authority
from tests.unit.steward.test_certificates import WANTED, needs_openssl, openssl, verified

YEAR = timedelta(days=365)
CA = x509.BasicConstraints(ca=True, path_length=None)


def load(made, *, key=None, chain=None, at=AT):
    key = load_authority_key(write_key(made.key) if key is None else key, path="ca.key")
    return install_chain(key, made.chain_pem if chain is None else chain, path="ca.pem", at=at)


class TestRoot:
    def test_is_one(self):
        root = authority().root
        assert root.subject == root.issuer
        assert root.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
        usage = root.extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical
        assert usage.value == key_usage(is_authority=True)
        assert root.not_valid_after_utc - AT == timedelta(days=3652)
        assert isinstance(root.public_key().curve, ec.SECP384R1)
        assert authority().chain == (root,)

    def test_two_of_one_name_have_other_names(self):
        assert make_authority("s", AT).root.subject != make_authority("s", AT).root.subject

    def test_a_long_name_is_cut(self):
        name = ".".join(["a" * 60] * 4)
        (found,) = make_authority(name, AT).root.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        assert len(found.value) == 64

    def test_comes_back_as_it_was(self):
        loaded = load(authority())
        assert loaded.certificates == authority().certificates
        verified(loaded.issue(WANTED, at=AT), authority=loaded)

    def test_its_key_is_not_shown(self):
        assert "key" not in repr(authority())
        assert b"BEGIN PRIVATE KEY" in write_key(authority().key)

    def test_signs_no_authority_below_it(self):
        below = make_key()
        certificate = sign(authority().root.subject, authority().key, "below", below.public_key(), CA)
        chain = pem(certificate, *authority().certificates)
        with pytest.raises(VerificationError):
            install_chain(below, chain, path="ca.pem", at=AT)


def sign(issuer, issuer_key, name, key, constraints, usage=None, *, at=AT, lifetime=YEAR):
    """Sign as somebody else's authority does."""
    usage = key_usage(is_authority=True) if usage is None else usage
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer = subject if issuer is None else issuer
    builder = x509.CertificateBuilder(
        issuer, subject, key, x509.random_serial_number(), at - timedelta(days=1), at + lifetime
    )
    if constraints is not None:
        builder = builder.add_extension(constraints, critical=True)
    if usage:
        builder = builder.add_extension(usage, critical=True)
    identifiers = (
        x509.SubjectKeyIdentifier.from_public_key(key),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
    )
    for each in identifiers:
        builder = builder.add_extension(each, critical=False)
    return builder.sign(issuer_key, hashes.SHA384())


def pem(*certificates):
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


class Operator:
    """Somebody's own authority: a root, and one below it."""

    def __init__(self):
        self.root_key, self.middle_key, self.key = make_key(), make_key(), make_key()
        self.root = sign(None, self.root_key, "root", self.root_key.public_key(), CA)
        self.middle = sign(self.root.subject, self.root_key, "middle", self.middle_key.public_key(), CA)

    def sign(self, constraints=CA, usage=None, key=None, **times):
        key = self.key if key is None else key
        return sign(self.middle.subject, self.middle_key, "steward", key.public_key(), constraints, usage, **times)

    def install(self, *certificates, key=None, at=AT):
        return install_chain(self.key if key is None else key, pem(*certificates), path="ca.pem", at=at)


@pytest.fixture(scope="module")
def operator():
    return Operator()


class TestIntermediate:
    def test_asks_for_what_it_is_to_be(self, operator):
        request = x509.load_pem_x509_csr(make_request("steward.example.com", operator.key))
        assert request.is_signature_valid
        assert request.public_key() == operator.key.public_key()
        assert request.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
        assert request.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign

    def test_issues_what_leads_to_the_operator_s_root(self, operator):
        made = operator.install(operator.sign(), operator.middle, operator.root)
        assert made.root == operator.root
        assert made.chain == made.certificates[:2]
        certificate = made.issue(WANTED, at=AT)
        assert len(verified(certificate, authority=made)) == 4
        assert load(made).certificates == made.certificates

    @needs_openssl
    def test_openssl_finds_the_path(self, operator, tmp_path):
        made = operator.install(operator.sign(), operator.middle, operator.root)
        certificate = made.issue(WANTED, at=AT)
        assert openssl(tmp_path, certificate, "-verify_hostname", "web.example.com", authority=made)[0] == 0

    def test_refuses_what_is_of_another_key(self, operator):
        with pytest.raises(VerificationError, match="found the key of steward first, want this Steward's own"):
            operator.install(operator.sign(), operator.middle, operator.root, key=make_key())

    def test_refuses_another_order(self, operator):
        with pytest.raises(VerificationError, match="found steward before root, want each one's issuer after it"):
            operator.install(operator.sign(), operator.root, operator.middle)

    def test_refuses_a_chain_without_its_root(self, operator):
        with pytest.raises(VerificationError, match="found a last one that is no root"):
            operator.install(operator.sign(), operator.middle)

    def test_refuses_another_root(self, operator):
        other = sign(None, make_key(), "root", make_key().public_key(), CA)
        with pytest.raises(VerificationError, match="found middle before root"):
            operator.install(operator.sign(), operator.middle, other)

    @pytest.mark.parametrize(
        ("constraints", "usage", "found"),
        [
            (None, None, "which is no authority"),
            (x509.BasicConstraints(False, None), key_usage(is_authority=False), "which is no authority"),
            (CA, False, "whose key may not sign certificates"),
            (CA, key_usage(is_authority=False), "whose key may not sign certificates"),
        ],
    )
    def test_refuses_what_is_no_authority(self, operator, constraints, usage, found):
        made = operator.sign(constraints, usage)
        with pytest.raises(VerificationError, match=found):
            operator.install(made, operator.middle, operator.root)

    @pytest.mark.parametrize("at", [AT - timedelta(days=2), AT + 2 * YEAR])
    def test_refuses_what_is_not_in_force(self, operator, at):
        with pytest.raises(VerificationError, match="want one in force at"):
            operator.install(operator.sign(), operator.middle, operator.root, at=at)

    def test_refuses_a_chain_that_is_too_long(self, operator):
        with pytest.raises(VerificationError, match="found 7 certificates, want at most 6"):
            operator.install(operator.sign(), *[operator.root] * 6)

    def test_refuses_what_is_no_chain(self, operator):
        with pytest.raises(ConfigError):
            install_chain(operator.key, b"nothing", path="ca.pem", at=AT)


class TestKey:
    def test_another_kind_is_refused(self):
        for key in (ec.generate_private_key(ec.SECP256R1()), make_self_signed(at=AT).private_key):
            with pytest.raises(ConfigError, match="want one on P-384"):
                load_authority_key(write_key(key), path="ca.key")

    @pytest.mark.parametrize("data", [b"", b"x", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
    def test_what_is_none_is_refused(self, data):
        with pytest.raises(ConfigError, match=r"ca\.key"):
            load(authority(), key=data)

    def test_another_key_is_refused(self):
        with pytest.raises(VerificationError, match="want this Steward's own"):
            load(authority(), key=write_key(make_key()))


class TestList:
    def test_has_numbers_times_and_reasons(self):
        when = datetime(2026, 5, 30, tzinfo=UTC)
        der = authority().crl([(7, when, "snp.measurement"), (8, when, "keyCompromise")], at=AT, number=1 << 60)
        crl = x509.load_der_x509_crl(der)
        assert crl.is_signature_valid(authority().root.public_key())
        assert crl.last_update_utc == AT
        assert crl.next_update_utc == AT + timedelta(days=1)
        assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 1 << 60
        reasons = {
            each.serial_number: each.extensions.get_extension_for_class(x509.CRLReason).value.reason for each in crl
        }
        assert reasons == {7: x509.ReasonFlags.privilege_withdrawn, 8: x509.ReasonFlags.key_compromise}
        assert {each.revocation_date_utc for each in crl} == {when}

    def test_may_be_empty(self):
        crl = x509.load_der_x509_crl(authority().crl([], at=AT, number=0))
        assert len(crl) == 0
        assert crl.issuer == authority().root.subject


def test_certificates_of_another_authority_of_the_same_name_are_not_believed():
    made = make_authority("steward.example.com", AT).issue(WANTED, at=AT)
    with pytest.raises(test_certificates.VerificationError):
        verified(made)
