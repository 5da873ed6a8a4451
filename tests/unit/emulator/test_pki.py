# SPDX-License-Identifier: Apache-2.0
"""The emulated vendor's certificates look like AMD's."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA384

from enarx.abi.snp import parse_vek_extensions_untrusted
from enarx.crypto.certificates import issued_directly, load_certificate_untrusted, load_crl_untrusted
from enarx.emulator.pki import make_certificate, make_crl, make_name, make_vendor, make_vendor_key
from enarx.testing.snp import AT, FakeAmd


@pytest.fixture(scope="module")
def amd():
    return FakeAmd()


def test_makes_authorities_with_amds_names(amd):
    vendor = amd.vendor
    ark, ask, asvk = (load_certificate_untrusted(each.certificate) for each in (vendor.ark, vendor.ask, vendor.asvk))
    amds = "CN={},O=Advanced Micro Devices,ST=CA,L=Santa Clara,C=US,OU=Engineering"
    assert ark.subject.rfc4514_string() == amds.format("ARK-Milan")
    assert ask.subject.rfc4514_string() == amds.format("SEV-Milan")
    assert asvk.subject.rfc4514_string() == amds.format("SEV-VLEK-Milan")
    assert (ark.serial_number, ask.serial_number, asvk.serial_number) == (0x10000, 0x10001, 0x10101)
    assert issued_directly(ark, ark)
    assert issued_directly(ask, ark)
    assert issued_directly(asvk, ark)
    assert ask.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_signs_with_rsa_pss_and_sha_384(amd):
    certificate = load_certificate_untrusted(amd.vendor.ask.certificate)
    assert isinstance(certificate.signature_algorithm_parameters, padding.PSS)
    assert isinstance(certificate.signature_hash_algorithm, SHA384)
    assert certificate.public_key().key_size == 4096


@pytest.mark.parametrize(("csp_id", "kind"), [(None, "VCEK"), ("CN=cloud.example", "VLEK")])
def test_issues_a_vek_with_serial_number_zero_and_amds_extensions(amd, csp_id, kind):
    processor = amd.make_processor(csp_id=csp_id)
    tcb = bytes((4, 0, 0, 0, 0, 0, 24, 219))
    vek, issuer, _ = (load_certificate_untrusted(der) for der in processor.certificates_for(tcb, at=AT))
    assert vek.serial_number == 0
    assert issued_directly(vek, issuer)
    values = {each.oid.dotted_string: each.value.value for each in vek.extensions}
    assert parse_vek_extensions_untrusted(values) == processor.claims_for(tcb)
    assert processor.claims_for(tcb).kind == kind


def test_makes_a_revocation_list_that_its_issuer_signed(amd):
    crl = load_crl_untrusted(make_crl(amd.vendor.ark, [7], at=AT))
    assert crl.is_signature_valid(load_certificate_untrusted(amd.root).public_key())
    assert crl.get_revoked_certificate_by_serial_number(7) is not None
    assert crl.get_revoked_certificate_by_serial_number(8) is None


def test_makes_other_keys_for_each_installation():
    key = make_vendor_key()
    vendor = make_vendor(at=AT, keys=(key, key, key))
    assert vendor.ark.certificate != FakeAmd().root
    assert "private_key" not in repr(vendor)


def test_signs_otherwise_when_it_is_told_to(amd):
    der = make_certificate(
        make_name("SEV-Milan"),
        amd.vendor.ask.private_key.public_key(),
        issuer=amd.vendor.ark.subject,
        signer=amd.vendor.ark.private_key,
        serial=5,
        not_before=AT,
        not_after=AT + timedelta(days=1),
        extensions=(),
        rsa_padding=padding.PKCS1v15(),
    )
    assert isinstance(load_certificate_untrusted(der).signature_algorithm_parameters, padding.PKCS1v15)
