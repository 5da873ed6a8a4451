# SPDX-License-Identifier: Apache-2.0
"""The original Enarx's carriers of evidence: a certificate request or a certificate with one extension for each kind of Keep.

Rules of this file:

- Form and nothing else: no signature is checked but the request's own, by who asks for that, and no date. Whoever judges binds
  `report_data` to `public_key`: the original put SHA-256 (SGX) or SHA-384 (SNP) of it there.
- Exactly one of the extensions is there, not critical, and nothing stands after it. Other extensions are the request's affair.
- A PkiPath is a sequence of certificates, the issuer first. Real ones hold a vendor's chain and no evidence.

Source: enarx/enarx and enarx/steward (crates/attestation); RFC 2986; ITU-T X.509 (PkiPath).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enarx.crypto.certificates import X509_ERRORS, load_certificate_untrusted, load_crl_untrusted
from enarx.errors import DecodeError

__all__ = [
    "KVM_OID",
    "MAX_CSR_BYTES",
    "SGX_OID",
    "SNP_OID",
    "EnarxEvidence",
    "NoEvidenceError",
    "encode_bundle_answer",
    "encode_pki_path",
    "is_request_signed",
    "parse_bundle_untrusted",
    "parse_certificate_untrusted",
    "parse_csr_untrusted",
    "parse_pki_path_untrusted",
]

KVM_OID = "1.3.6.1.4.1.58270.1.1"
SGX_OID = "1.3.6.1.4.1.58270.1.2"
SNP_OID = "1.3.6.1.4.1.58270.1.3"

# A request holds at most a handful of CRLs, of at most 10,000 bytes each where the original fetched them.
MAX_CSR_BYTES = 1 << 20
_MAX_ITEMS = 16
_MAX_URL_BYTES = 1024

_SEQUENCE, _OCTET_STRING, _UTF8_STRING = 0x30, 0x04, 0x0C
_PEM = re.compile(
    rb"\s*-----BEGIN (?:NEW )?CERTIFICATE REQUEST-----([A-Za-z0-9+/=\s]*)-----END (?:NEW )?CERTIFICATE REQUEST-----\s*"
)


class NoEvidenceError(DecodeError):
    """A request or certificate is well formed and has none of the original's extensions."""


class EnarxEvidence(NamedTuple):
    """What an original Keep says about itself.

    Args:
        kind: `sgx`, `snp`, or `kvm`, which is no TEE and brings no evidence.
        evidence: the quote or the report, empty for `kvm`.
        public_key: of the Keep, SubjectPublicKeyInfo in DER.
        certificates: in DER, the VCEK alone (SNP) or the chain of the TCB info's signer (SGX), as they stand.
        crls: in DER, each with the address it was fetched from.
        tcb_info: JSON `{"tcbInfo": ..., "signature": ...}` (SGX), else None.
    """

    kind: str
    evidence: bytes
    public_key: bytes
    certificates: tuple[bytes, ...] = ()
    crls: tuple[tuple[str, bytes], ...] = ()
    tcb_info: bytes | None = None


def parse_csr_untrusted(data: bytes) -> EnarxEvidence:
    """Decode the evidence in a certificate request.

    Args:
        data: a PKCS#10 request in DER or PEM, at most `MAX_CSR_BYTES`, nothing after it.

    Raises:
        NoEvidenceError: a request without evidence.
        DecodeError: no request, more than one piece of evidence in it, or one not well formed. Nothing else, for any input.
    """
    if len(data) > MAX_CSR_BYTES:
        raise _refusal("size", f"{len(data)} bytes", f"at most {MAX_CSR_BYTES}")
    try:
        request = x509.load_der_x509_csr(_der_of(data))
        extensions = request.extensions
        public_key = request.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except X509_ERRORS as error:
        raise _refusal("the request", _one_line(error), "PKCS#10 in DER or PEM") from error
    return _evidence_in(extensions, public_key)


def is_request_signed(data: bytes) -> bool:
    """Return whether a certificate request is signed with its own key, so that whoever asks has it.

    Args:
        data: as `parse_csr_untrusted` accepts it.

    Raises:
        DecodeError: no request, or signed in a way that nobody here knows.
    """
    try:
        return x509.load_der_x509_csr(_der_of(data)).is_signature_valid
    except X509_ERRORS as error:
        raise _refusal("the request's signature", _one_line(error), "one of a known kind") from error


def parse_certificate_untrusted(der: bytes) -> EnarxEvidence:
    """Decode the evidence in a certificate.

    Args:
        der: one certificate.

    Raises:
        DecodeError: as for `parse_csr_untrusted`.
    """
    certificate = load_certificate_untrusted(der)
    try:
        public_key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except X509_ERRORS as error:
        raise _refusal("the certificate's key", _one_line(error), "one that is known") from error
    return _evidence_in(certificate.extensions, public_key)


def parse_pki_path_untrusted(data: bytes) -> tuple[bytes, ...]:
    """Decode a PkiPath.

    Args:
        data: a sequence of 1 to 16 certificates in DER, nothing after it.

    Returns:
        The certificates in DER in their order: the issuer first, the end entity last.

    Raises:
        DecodeError: anything else.
    """
    if len(data) > MAX_CSR_BYTES:
        raise _refusal("size", f"{len(data)} bytes", f"at most {MAX_CSR_BYTES}")
    outer = _Der(data, "a PkiPath")
    path = outer.enter(_SEQUENCE)
    outer.finish()
    certificates = path.certificates()
    path.finish()
    if not certificates:
        raise _refusal("a PkiPath", "no certificate", "at least one")
    return certificates


def encode_pki_path(certificates: Sequence[bytes]) -> bytes:
    """Return a PkiPath of certificates in DER, the issuer first."""
    return _sequence(*certificates)


def parse_bundle_untrusted(data: bytes) -> tuple[bytes, ...]:
    """Decode a bundle of requests, as the original's Steward takes it: a sequence of them.

    Args:
        data: 1 to 16 requests in DER, nothing after them; what is in them is not looked at.

    Raises:
        DecodeError: anything else.
    """
    if len(data) > MAX_CSR_BYTES:
        raise _refusal("size", f"{len(data)} bytes", f"at most {MAX_CSR_BYTES}")
    outer = _Der(data, "a bundle of requests")
    bundle = outer.enter(_SEQUENCE)
    outer.finish()
    found: list[bytes] = []
    while bundle.at < len(bundle.data):
        if len(found) == _MAX_ITEMS:
            raise _refusal("a bundle of requests", f"more than {_MAX_ITEMS}", "fewer")
        found.append(bundle.whole(_SEQUENCE))
    if not found:
        raise _refusal("a bundle of requests", "none", "at least one")
    return tuple(found)


def encode_bundle_answer(chain: Sequence[bytes], issued: Sequence[bytes]) -> bytes:
    """Return SEQUENCE { SEQUENCE OF Certificate chain, SEQUENCE OF Certificate issued }, the answer to a bundle."""
    return _sequence(_sequence(*chain), _sequence(*issued))


def _sequence(*items: bytes) -> bytes:
    content = b"".join(items)
    size = len(content)
    head = b"" if size < 0x80 else size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([_SEQUENCE, 0x80 | len(head) if head else size]) + head + content


def _evidence_in(extensions: x509.Extensions, public_key: bytes) -> EnarxEvidence:
    found = [extension for extension in extensions if extension.oid.dotted_string in {KVM_OID, SGX_OID, SNP_OID}]
    if len(found) != 1:
        kind = DecodeError if found else NoEvidenceError
        raise kind(
            str(_refusal("the extensions", f"{len(found)} of Enarx", f"one of {KVM_OID}, {SGX_OID} and {SNP_OID}"))
        )
    extension = found[0]
    if extension.critical:
        raise _refusal(f"the extension {extension.oid.dotted_string}", "a critical one", "one that is not")
    data = extension.value.public_bytes()
    oid = extension.oid.dotted_string
    if oid == KVM_OID:
        if data:
            raise _refusal("the evidence of a plain virtual machine", f"{len(data)} bytes", "none")
        return EnarxEvidence("kvm", b"", public_key)
    return _sgx(data, public_key) if oid == SGX_OID else _snp(data, public_key)


def _sgx(data: bytes, public_key: bytes) -> EnarxEvidence:
    """Decode SEQUENCE { OCTET STRING quote, CrlList, SEQUENCE { SEQUENCE OF Certificate, OCTET STRING tcbInfo } }."""
    outer = _Der(data, "SGX evidence")
    body = outer.enter(_SEQUENCE)
    outer.finish()
    quote = body.take(_OCTET_STRING)
    crls = body.crls()
    tcb = body.enter(_SEQUENCE)
    body.finish()
    chain = tcb.enter(_SEQUENCE)
    certificates = chain.certificates()
    tcb_info = tcb.take(_OCTET_STRING)
    tcb.finish()
    return EnarxEvidence("sgx", quote, public_key, certificates, crls, tcb_info)


def _snp(data: bytes, public_key: bytes) -> EnarxEvidence:
    """Decode SEQUENCE { SEQUENCE { Certificate VCEK, CrlList }, OCTET STRING report }."""
    outer = _Der(data, "SNP evidence")
    body = outer.enter(_SEQUENCE)
    outer.finish()
    keys = body.enter(_SEQUENCE)
    vcek = keys.whole(_SEQUENCE)
    load_certificate_untrusted(vcek)
    crls = keys.crls()
    keys.finish()
    report = body.take(_OCTET_STRING)
    body.finish()
    return EnarxEvidence("snp", report, public_key, (vcek,), crls)


class _Der:
    """Reads DER items one after the other; each is refused where its length is not in its shortest form."""

    def __init__(self, data: bytes, what: str) -> None:
        self.data = data
        self.what = what
        self.at = 0

    def whole(self, tag: int) -> bytes:
        """Return the next item with its head."""
        data, start = self.data, self.at
        head = data[start : start + 2]
        if len(head) < 2 or head[0] != tag:
            raise _refusal(self.what, f"the tag 0x{head[0]:02x}" if head else "nothing", f"the tag 0x{tag:02x}")
        length, begin = head[1], start + 2
        if length >= 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[begin : begin + size], "big")
            if not 1 <= size <= 4 or length < max(0x80, 1 << 8 * (size - 1)):
                raise _refusal(self.what, "a length in another form", "the shortest one")
            begin += size
        if begin + length > len(data):
            raise _refusal(self.what, f"{len(data) - begin} bytes left", str(length))
        self._content = begin
        self.at = begin + length
        return data[start : self.at]

    def take(self, tag: int) -> bytes:
        """Return the content of the next item."""
        self.whole(tag)
        return self.data[self._content : self.at]

    def enter(self, tag: int) -> _Der:
        """Return a reader of the content of the next item."""
        return _Der(self.take(tag), self.what)

    def finish(self) -> None:
        """Refuse what is left."""
        if self.at != len(self.data):
            raise _refusal(self.what, f"{len(self.data) - self.at} bytes after the end", "none")

    def certificates(self) -> tuple[bytes, ...]:
        """Return all that is left as certificates."""
        found: list[bytes] = []
        while self.at < len(self.data):
            if len(found) == _MAX_ITEMS:
                raise _refusal(self.what, f"more than {_MAX_ITEMS} certificates", "fewer")
            found.append(self.whole(_SEQUENCE))
            load_certificate_untrusted(found[-1])
        return tuple(found)

    def crls(self) -> tuple[tuple[str, bytes], ...]:
        """Return a CrlList: SEQUENCE { SEQUENCE OF SEQUENCE { UTF8String url, CertificateList } }."""
        outer = self.enter(_SEQUENCE)
        entries = outer.enter(_SEQUENCE)
        outer.finish()
        found: list[tuple[str, bytes]] = []
        while entries.at < len(entries.data):
            if len(found) == _MAX_ITEMS:
                raise _refusal(self.what, f"more than {_MAX_ITEMS} CRLs", "fewer")
            entry = entries.enter(_SEQUENCE)
            url = entry.take(_UTF8_STRING)
            crl = entry.whole(_SEQUENCE)
            entry.finish()
            if len(url) > _MAX_URL_BYTES or not url.isascii() or not url.decode().isprintable():
                raise _refusal(self.what, "an address that is none", "printable ASCII")
            load_crl_untrusted(crl)
            found.append((url.decode(), crl))
        return tuple(found)


def _der_of(data: bytes) -> bytes:
    if data[:1] == b"\x30":
        return data
    match = _PEM.fullmatch(data)
    if match is None:
        raise ValueError("neither DER nor one request in PEM")
    try:
        return base64.b64decode(b"".join(match[1].split()), validate=True)
    except binascii.Error as error:
        raise ValueError(f"PEM with {error}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _refusal(where: str, found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode an Enarx certificate request: {where}: found {found}, want {want}")
