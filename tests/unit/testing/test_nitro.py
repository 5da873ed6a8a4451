# SPDX-License-Identifier: Apache-2.0
"""The fake Nitro makes what the real one makes, as far as it can be compared."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import cbor2
from cryptography import x509

from enarx.abi.nitro import parse_document_untrusted
from enarx.testing.nitro import MODULE_ID, NitroAuthority
from tests.evidence import cases, needs_evidence, read

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
AUTHORITY = NitroAuthority(at=AT)


def test_issues_a_chain_from_the_root_to_the_certificate():
    chain = [x509.load_der_x509_certificate(der) for der in (*AUTHORITY.cabundle, AUTHORITY.leaf().certificate)]
    for issuer, certificate in itertools.pairwise(chain):
        certificate.verify_directly_issued_by(issuer)
        assert certificate.not_valid_before_utc <= AT <= certificate.not_valid_after_utc
    assert AUTHORITY.anchors.aws == (AUTHORITY.cabundle[0],)


def test_every_authority_has_keys_of_its_own():
    assert NitroAuthority(at=AT).cabundle != AUTHORITY.cabundle


@needs_evidence
def test_makes_documents_and_certificates_in_the_form_of_real_ones():
    real = parse_document_untrusted(read(cases("nitro")[2]["inputs"]["document"]))
    fake = parse_document_untrusted(AUTHORITY.document())
    assert (fake.message.protected, fake.message.tagged) == (real.message.protected, real.message.tagged)
    assert cbor2.loads(fake.message.payload).keys() == cbor2.loads(real.message.payload).keys()
    assert fake.pcrs.keys() == real.pcrs.keys()
    for ours, theirs in zip((*fake.cabundle, fake.certificate), (*real.cabundle, real.certificate), strict=True):
        forms = []
        for der in (ours, theirs):
            certificate = x509.load_der_x509_certificate(der)
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
            usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
            forms.append(
                (
                    certificate.signature_algorithm_oid,
                    constraints,
                    usage.key_cert_sign,
                    certificate.public_key().key_size,
                )
            )
        assert forms[0] == forms[1]


def test_bends_what_it_is_asked_to():
    document = parse_document_untrusted(AUTHORITY.document(changes={"nonce": b"n"}, without=("user_data",)))
    assert (document.nonce, document.user_data, document.module_id) == (b"n", None, MODULE_ID)
    assert parse_document_untrusted(AUTHORITY.document(is_tpm=True, tagged=True)).message.tagged
