# SPDX-License-Identifier: Apache-2.0
"""Tests of the original Enarx's requests and certificates, against real ones and made ones."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.abi.enarx_csr import (
    KVM_OID,
    MAX_CSR_BYTES,
    SGX_OID,
    SNP_OID,
    encode_bundle_answer,
    encode_pki_path,
    parse_bundle_untrusted,
    parse_certificate_untrusted,
    parse_csr_untrusted,
    parse_pki_path_untrusted,
)
from enarx.errors import DecodeError
from tests.evidence import needs_evidence, read

KEY = ec.derive_private_key(7, ec.SECP256R1())
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
FROM, TO = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
URL = b"https://example.com/crl"


def der(tag, *contents):
    content = b"".join(contents)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def make_certificate(*extensions, critical=False):
    builder = x509.CertificateBuilder(NAME, NAME, KEY.public_key(), 1, FROM, TO)
    for oid, value in extensions:
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)


def make_request(*extensions, critical=False, encoding=Encoding.DER):
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    for oid, value in extensions:
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(encoding)


CERTIFICATE = make_certificate()
CRL = (
    x509.CertificateRevocationListBuilder(NAME, FROM, TO).sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)
)  # fmt: skip
ENTRY = der(0x30, der(0x0C, URL), CRL)
CRLS = der(0x30, der(0x30, ENTRY))
SNP = der(0x30, der(0x30, CERTIFICATE, CRLS), der(0x04, b"report"))
SGX = der(0x30, der(0x04, b"quote"), CRLS, der(0x30, der(0x30, CERTIFICATE, CERTIFICATE), der(0x04, b"{}")))


def test_reads_a_request_from_an_snp_keep():
    found = parse_csr_untrusted(make_request((SNP_OID, SNP)))
    assert (found.kind, found.evidence, found.public_key) == ("snp", b"report", SPKI)
    assert found.certificates == (CERTIFICATE,)
    assert found.crls == ((URL.decode(), CRL),)
    assert found.tcb_info is None


def test_reads_a_request_from_an_sgx_keep():
    found = parse_csr_untrusted(make_request((SGX_OID, SGX)))
    assert (found.kind, found.evidence, found.tcb_info) == ("sgx", b"quote", b"{}")
    assert found.certificates == (CERTIFICATE, CERTIFICATE)
    assert found.crls == ((URL.decode(), CRL),)


def test_reads_a_request_from_a_plain_virtual_machine():
    assert parse_csr_untrusted(make_request((KVM_OID, b""))).kind == "kvm"


def test_reads_a_request_in_pem():
    request = (SNP_OID, SNP)
    assert parse_csr_untrusted(make_request(request, encoding=Encoding.PEM)).evidence == b"report"


def test_reads_a_certificate():
    assert parse_certificate_untrusted(make_certificate((SNP_OID, SNP))).evidence == b"report"


def test_reads_a_pki_path():
    other = make_certificate((KVM_OID, b""))
    assert parse_pki_path_untrusted(der(0x30, CERTIFICATE, other)) == (CERTIFICATE, other)


def test_writes_the_pki_path_that_it_reads():
    for size in (1, 2, 16):
        assert parse_pki_path_untrusted(encode_pki_path([CERTIFICATE] * size)) == (CERTIFICATE,) * size
    assert encode_pki_path([CERTIFICATE]) == der(0x30, CERTIFICATE)


def test_reads_a_bundle_of_requests():
    request, other = make_request((SNP_OID, SNP)), make_request((KVM_OID, b""))
    assert parse_bundle_untrusted(der(0x30, request, other)) == (request, other)
    assert parse_bundle_untrusted(der(0x30, *[other] * 16)) == (other,) * 16


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "nothing"),
        (der(0x30), "none, want at least one"),
        (der(0x31, make_request()), "0x31"),
        (der(0x30, b"\x04\0"), "0x04"),
        (der(0x30, make_request()) + b"\0", "1 bytes after the end"),
        (der(0x30, make_request()[:-1]), "bytes left"),
        (der(0x30, *[make_request()] * 17), "more than 16"),
        (bytes(MAX_CSR_BYTES + 1), "size"),
    ],
)
def test_refuses_what_is_no_bundle(data, found):
    with pytest.raises(DecodeError, match=found):
        parse_bundle_untrusted(data)


def test_writes_the_answer_to_a_bundle():
    assert encode_bundle_answer([CERTIFICATE], [b"\x30\0", b"\x30\0"]) == der(
        0x30, der(0x30, CERTIFICATE), der(0x30, b"\x30\0\x30\0")
    )


REFUSED = {
    "no extension": make_request(),
    "two kinds": make_request((KVM_OID, b""), (SNP_OID, SNP)),
    "a critical one": make_request((SNP_OID, SNP), critical=True),
    "evidence of a plain virtual machine": make_request((KVM_OID, b"\x04\x00")),
    "the other kind": make_request((SGX_OID, SNP)),
    "bytes after the evidence": make_request((SNP_OID, SNP + b"\0")),
    "bytes after the report": make_request(
        (SNP_OID, der(0x30, der(0x30, CERTIFICATE, CRLS), der(0x04, b"report"), b"\0"))
    ),
    "no CRL list": make_request((SNP_OID, der(0x30, der(0x30, CERTIFICATE), der(0x04, b"report")))),
    "no certificate": make_request((SNP_OID, der(0x30, der(0x30, der(0x30), CRLS), der(0x04, b"report")))),
    "a CRL that is none": make_request(
        (
            SNP_OID,
            der(
                0x30,
                der(0x30, CERTIFICATE, der(0x30, der(0x30, der(0x30, der(0x0C, URL), der(0x30))))),
                der(0x04, b"report"),
            ),
        )
    ),
    "an address with a line break": make_request(
        (
            SNP_OID,
            der(
                0x30,
                der(0x30, CERTIFICATE, der(0x30, der(0x30, der(0x30, der(0x0C, b"a\nb"), CRL)))),
                der(0x04, b"report"),
            ),
        )
    ),
    "a longer length": make_request((SNP_OID, b"\x30\x84" + len(SNP[4:]).to_bytes(4, "big") + SNP[4:])),
    "more certificates than there are": make_request(
        (SGX_OID, der(0x30, der(0x04, b"q"), CRLS, der(0x30, der(0x30, *[CERTIFICATE] * 17), der(0x04, b"{}"))))
    ),
    "more CRLs than there may be": make_request(
        (SNP_OID, der(0x30, der(0x30, CERTIFICATE, der(0x30, der(0x30, *[ENTRY] * 17))), der(0x04, b"report")))
    ),
    "something after it": make_request((SNP_OID, SNP)) + b"\0",
    "another version": make_request((SNP_OID, SNP)).replace(b"\x02\x01\x00", b"\x02\x01\x40", 1),
    "nothing": b"",
    "a certificate": CERTIFICATE,
    "PEM of something else": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "PEM that is not base64": b"-----BEGIN CERTIFICATE REQUEST-----\nA\n-----END CERTIFICATE REQUEST-----\n",
    "too much": b"\x30" * (MAX_CSR_BYTES + 1),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_refuses_a_request_with(data):
    with pytest.raises(DecodeError):
        parse_csr_untrusted(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x30" * (MAX_CSR_BYTES + 1), b"\x30\x00", der(0x30, CERTIFICATE) + b"\0", der(0x31, CERTIFICATE), der(0x30, *[CERTIFICATE] * 17), CERTIFICATE],
)  # fmt: skip
def test_refuses_a_pki_path(data):
    with pytest.raises(DecodeError):
        parse_pki_path_untrusted(data)


@needs_evidence
@pytest.mark.parametrize(
    ("name", "kind", "size", "digest", "certificates", "crls"),
    [
        ("milan.signed.crl.csr", "snp", 1184, hashlib.sha384, 1, 2),
        ("icelake.signed.tcb.crl.multi.xeon.csr", "sgx", None, hashlib.sha256, 2, 3),
        ("icelake.signed.tcb.crl.single.i5.csr", "sgx", None, hashlib.sha256, 2, 3),
    ],
)
def test_reads_real_requests(name, kind, size, digest, certificates, crls):
    found = parse_csr_untrusted(read(f"enarx/{name}"))
    assert found.kind == kind
    assert size in {None, len(found.evidence)}
    assert len(found.certificates) == certificates
    assert len(found.crls) == crls
    assert all(url.startswith("https://") for url, _ in found.crls)
    assert (found.tcb_info is not None) == (kind == "sgx")
    # The evidence was made for this very key.
    at = 0x50 if kind == "snp" else 48 + 320
    assert found.evidence[at : at + 64].startswith(digest(found.public_key).digest())


@needs_evidence
@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("sgx/icx-enarx-signed/quote.bin", "icelake.signed.tcb.crl.multi.xeon.csr"),
        ("sgx/gemini-enarx-i5/quote.bin", "icelake.signed.tcb.crl.single.i5.csr"),
    ],
)
def test_the_quote_is_the_one_that_others_took_out(case, name):
    assert parse_csr_untrusted(read(f"enarx/{name}")).evidence == read(case)


@needs_evidence
@pytest.mark.parametrize("name", ["milan.pkipath", "genoa.pkipath"])
def test_reads_real_pki_paths(name):
    path = [x509.load_der_x509_certificate(item) for item in parse_pki_path_untrusted(read(f"enarx/{name}"))]
    assert len(path) == 2
    path[1].verify_directly_issued_by(path[0])


SEEDS = [make_request((SNP_OID, SNP)), make_request((SGX_OID, SGX)), der(0x30, CERTIFICATE)]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=80) | st.builds(
    lambda seed, at, new: seed[: at % len(seed)] + new + seed[at % len(seed) + 1 :],
    st.sampled_from(SEEDS), st.integers(0, 5000), st.binary(max_size=3),
))  # fmt: skip
def test_any_bytes_are_evidence_or_refused(data):
    for parse in (parse_csr_untrusted, parse_certificate_untrusted, parse_pki_path_untrusted):
        try:
            parse(data)
        except DecodeError:
            continue
