# SPDX-License-Identifier: Apache-2.0
"""The original's protocol: its real requests at their own date, and what is refused."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha384
from unittest.mock import patch

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku

from enarx.abi.enarx_csr import KVM_OID, SNP_OID, NoEvidenceError, parse_pki_path_untrusted
from enarx.crypto.certificates import issued_directly, load_pem_chain_untrusted
from enarx.errors import AppraisalError, DecodeError, EndorsementError, UsageError, VerificationError
from enarx.rats import Endorsements, IntelCollateral
from enarx.steward.authority import make_authority
from enarx.steward.certificates import EMULATED
from enarx.steward.judging import make_policy
from enarx.steward.original import BUNDLE_TYPE, REQUEST_TYPE, OriginalSteward
from enarx.verifier import recognise
from enarx.verifier.policy_write import write_policy
from tests.evidence import needs_evidence, read
from tests.unit.abi.test_enarx_csr import der
from tests.unit.steward import keeps as k

REAL = datetime(2023, 1, 27, tzinfo=UTC)
MILAN = "milan.signed.crl.csr"
SGX = {
    "icelake.signed.tcb.crl.multi.xeon.csr": "00606a000000-2023-01-26-eval14",
    "icelake.signed.tcb.crl.single.i5.csr": "00706e470000-2023-01-25-eval14",
}


@cache
def authority(at=k.AT):
    return make_authority("steward.example.com", at, purpose="original")


@cache
def real_policy():
    """Return a policy that takes all that is genuine and not debugged."""
    text = write_policy(["snp", "sgx"], references={}, origin="for a test").text
    text = re.sub(r"^# (\w+) =.*$", r"\1 = 0", text, flags=re.MULTILINE)
    text = re.sub(r"^(\w+) = .*$", r'\1 = { skip = "not what is tested" }', text, flags=re.MULTILINE)
    text = re.sub(r"^(version) = .*$", r"\1 = 1", text, count=1, flags=re.MULTILINE)
    text = re.sub(r"^(debug) = .*$", r'\1 = "forbidden"', text, flags=re.MULTILINE)
    return make_policy(text.encode(), path="policy.toml", name="policy.toml")


def collateral(folder):
    def file(name):
        return read(f"sgx/collateral/{folder}/{name}")

    def chain(name):
        return load_pem_chain_untrusted(file(f"{name}_issuer_chain.pem"))

    return Endorsements(
        intel=(
            IntelCollateral(
                tcb_info=file("tcb_info.json"),
                tcb_info_chain=chain("tcb_info"),
                qe_identity=file("qe_identity.json"),
                qe_identity_chain=chain("qe_identity"),
                pck_crl=file("pck_crl.der"),
                pck_crl_chain=chain("pck_crl"),
                root_ca_crl=file("root_ca_crl.der"),
            ),
        )
    )


def real_steward(fetch=None):
    return OriginalSteward(authority(REAL), real_policy(), fetch=fetch)


def read_answer(body):
    issuer, leaf = map(x509.load_der_x509_certificate, parse_pki_path_untrusted(body))
    return issuer, leaf


@needs_evidence
def test_a_real_request_of_snp_gets_a_certificate_at_its_own_date():
    request = read(f"enarx/{MILAN}")
    answer = real_steward().answer(request, REQUEST_TYPE, now=REAL)
    issuer, leaf = read_answer(answer.body)
    assert issuer == authority(REAL).certificate
    assert issued_directly(leaf, issuer)
    assert leaf.public_key() == x509.load_der_x509_csr(request).public_key()
    assert not answer.issued[0].result.emulated


@needs_evidence
def test_it_ends_with_the_lists_in_the_request():
    with pytest.raises(EndorsementError):
        real_steward().answer(read(f"enarx/{MILAN}"), REQUEST_TYPE, now=datetime(2024, 1, 1, tzinfo=UTC))
    at = datetime(2023, 5, 1, tzinfo=UTC)
    _, leaf = read_answer(real_steward().answer(read(f"enarx/{MILAN}"), REQUEST_TYPE, now=at).body)
    assert leaf.not_valid_after_utc == datetime(2023, 5, 9, 23, tzinfo=UTC)


@needs_evidence
@pytest.mark.parametrize(("name", "folder"), SGX.items())
def test_a_real_request_of_sgx_gets_one_with_the_collateral_of_its_date(name, folder):
    request = read(f"enarx/{name}")
    with pytest.raises(EndorsementError):
        real_steward().answer(request, REQUEST_TYPE, now=REAL)
    steward = real_steward(lambda recognised, known, at: collateral(folder))
    issuer, leaf = read_answer(steward.answer(request, REQUEST_TYPE, now=REAL).body)
    assert issued_directly(leaf, issuer)
    assert leaf.public_key() == x509.load_der_x509_csr(request).public_key()


@needs_evidence
def test_real_requests_in_a_bundle_get_their_certificates_together():
    request = read(f"enarx/{MILAN}")
    steward = real_steward()
    answer = steward.answer(der(0x30, request, request), BUNDLE_TYPE, now=REAL)
    leaves = [each.certificate.public_bytes(Encoding.DER) for each in answer.issued]
    above = authority(REAL).certificate.public_bytes(Encoding.DER)
    assert len(leaves) == 2
    assert answer.body == der(0x30, der(0x30, above), der(0x30, *leaves))


@needs_evidence
def test_a_real_request_that_was_changed_is_refused():
    request = bytearray(read(f"enarx/{MILAN}"))
    request[-1] ^= 1
    with pytest.raises(VerificationError):
        real_steward().answer(bytes(request), REQUEST_TYPE, now=REAL)


# --- Made requests ---------------------------------------------------------------------------------------------------


def make_request(key=k.KEY, *, signer=None, report_data=None, **fields):
    """Return a request as the original makes it."""
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    report_data = sha384(spki).digest().ljust(64, b"\0") if report_data is None else report_data
    case = k.amd().make_case(report={"report_data": report_data, **fields}, at=k.AT - timedelta(days=1))
    crl = k.amd().make_crl(at=k.AT - timedelta(hours=1))
    crls = der(0x30, der(0x30, der(0x30, der(0x0C, b"https://example.com/crl"), crl)))
    evidence = der(0x30, der(0x30, case.certificates[0], crls), der(0x04, case.data))
    names = x509.SubjectAlternativeName([x509.DNSName("victim.example.com")])
    return k.make_csr(key, x509.UnrecognizedExtension(x509.ObjectIdentifier(SNP_OID), evidence), names)


def look(evidence):
    """Recognise, and know the certificates of this test's vendor, which are pinned for a real one."""
    found = recognise(evidence)
    case = k.amd().make_case(at=k.AT - timedelta(days=1))
    return found._replace(endorsements=found.endorsements + Endorsements(certificates=case.certificates[1:]))


def answer(request, media_type=REQUEST_TYPE, policy=None):
    steward = OriginalSteward(authority(), k.policy() if policy is None else policy)
    with patch("enarx.steward.original.recognise", look):
        return steward.answer(request, media_type, now=k.AT)


def test_a_certificate_has_a_key_and_no_name():
    _, leaf = read_answer(answer(make_request()).body)
    assert leaf.public_key() == k.KEY.public_key()
    with pytest.raises(x509.ExtensionNotFound):
        leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert "anything" not in leaf.subject.rfc4514_string()
    assert "victim" not in str(leaf.extensions)
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {Eku.SERVER_AUTH, Eku.CLIENT_AUTH}
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert leaf.not_valid_after_utc == k.AT + timedelta(days=28)


def test_an_emulated_platform_is_marked():
    _, leaf = read_answer(answer(make_request()).body)
    (organisation,) = leaf.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)
    assert organisation.value == EMULATED


def test_the_authority_is_none_that_keeps_are_certified_by():
    issuer, _ = read_answer(answer(make_request()).body)
    assert issuer.subject != k.authority().certificate.subject
    assert issuer.public_key() != k.authority().certificate.public_key()


def test_the_policy_is_applied():
    strict = k.policy(measurement=f'["{"11" * 48}"]')
    with pytest.raises(AppraisalError, match="measurement"):
        answer(make_request(), policy=strict)


@pytest.mark.parametrize("report_data", [bytes(64), bytes(range(64))])
def test_evidence_over_another_key_is_refused(report_data):
    with pytest.raises(VerificationError):
        answer(make_request(report_data=report_data))


def test_a_key_of_another_kind_is_refused():
    with pytest.raises(VerificationError, match="the key cannot be certified"):
        answer(make_request(ec.derive_private_key(5, ec.SECP521R1())))


KVM = k.make_csr(k.KEY, x509.UnrecognizedExtension(x509.ObjectIdentifier(KVM_OID), b""))


@pytest.mark.parametrize("request_", [b"", b"x", k.make_csr(), KVM, bytes((1 << 20) + 1)])
def test_what_has_no_evidence_is_refused(request_):
    with pytest.raises(DecodeError):
        answer(request_)


@pytest.mark.parametrize(("media_type", "whole"), [(REQUEST_TYPE, bytes), (BUNDLE_TYPE, lambda one: der(0x30, one))])
def test_a_good_request_without_evidence_is_told_from_a_bad_one(media_type, whole):
    names = x509.SubjectAlternativeName([x509.DNSName("web.example.com")])
    for good in (k.make_csr(), k.make_csr(k.KEY, names)):
        with pytest.raises(NoEvidenceError):
            answer(whole(good), media_type)
    twice = k.make_csr(
        k.KEY, *(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), b"") for oid in (KVM_OID, SNP_OID))
    )
    for bad in (b"\x30\x00", KVM, twice):
        with pytest.raises(DecodeError) as refused:
            answer(whole(bad), media_type)
        assert not isinstance(refused.value, NoEvidenceError)


def test_a_certificate_is_no_request():
    with pytest.raises(DecodeError):
        answer(k.authority().root.public_bytes(Encoding.DER))


def test_one_bad_request_refuses_its_bundle():
    good = make_request()
    assert len(answer(der(0x30, good), BUNDLE_TYPE).issued) == 1
    with pytest.raises(DecodeError):
        answer(der(0x30, good, KVM), BUNDLE_TYPE)


@pytest.mark.parametrize("body", [b"", der(0x30), der(0x30, b"\x04\x00"), der(0x30, b"\x30\x00") + b"\0"])
def test_what_is_no_bundle_is_refused(body):
    with pytest.raises(DecodeError):
        answer(body, BUNDLE_TYPE)


@pytest.mark.parametrize("media_type", ["", "application/pkcs11", "application/pkcs10; x=y"])
def test_another_media_type_is_refused(media_type):
    with pytest.raises(UsageError, match="want application/pkcs10 or application/vnd"):
        answer(make_request(), media_type)
