# SPDX-License-Identifier: Apache-2.0
"""Tell what is at hand already, so that evidence which brings its own endorsements needs no network.

It compares names, numbers and times, to know what to ask for. What it finds is not believed, and what it overlooks is
fetched once too often and no worse.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cryptography import x509

from enarx.abi.pck import SGX_EXTENSION_OID, parse_pck_extension_untrusted
from enarx.abi.quote import CERTIFICATION_PCK_CHAIN, SgxQuote, TdxQuote
from enarx.abi.snp import SnpReport, line_of, parse_vek_extensions_untrusted, tcb_components
from enarx.crypto.certificates import issued_directly, load_certificate_untrusted, load_pem_chain_untrusted
from enarx.endorsers.amd_kds import extension_values
from enarx.endorsers.fetching import decode_crl
from enarx.endorsers.intel_pcs import CAS
from enarx.errors import DecodeError, EndorsementError
from enarx.rats import Endorsements
from enarx.verifier.roots import amd_intermediates

__all__ = ["brought_by", "has_crl", "has_issuer", "leaf_for", "line_of_report", "parts_of", "platform_of"]

Part = SnpReport | SgxQuote | TdxQuote


def parts_of(parsed: Any) -> tuple[Part, ...]:
    """Return the reports and quotes in parsed evidence of any kind: itself, or those of its fields."""
    if isinstance(parsed, Part):
        return (parsed,)
    return tuple(field for field in _fields(parsed) if isinstance(field, Part))


def brought_by(parsed: Any) -> Endorsements:
    """Return the certificates and lists that parsed evidence has in fields of its own, told apart by the verifier later."""
    blobs: list[bytes] = []
    for field in _fields(parsed):
        for item in field if isinstance(field, tuple) and not isinstance(field, Part) else ():
            # The entries of a certificate table are pairs of GUID and content.
            content = item[-1] if isinstance(item, tuple) and item else item
            if isinstance(content, bytes):
                blobs.append(content)
    return Endorsements(certificates=tuple(blobs), crls=tuple(blobs))


def _fields(parsed: Any) -> tuple[Any, ...]:
    if isinstance(parsed, tuple):
        return parsed
    return tuple(getattr(parsed, name, None) for name in getattr(parsed, "__slots__", ()))


def platform_of(quote: SgxQuote | TdxQuote, known: Endorsements) -> tuple[bytes, str]:
    """Return the FMSPC and the CA, `platform` or `processor`, of the machine that a quote is of.

    Raises:
        EndorsementError: neither the quote nor what is at hand has its PCK certificate.
    """
    chain: tuple[bytes, ...] = ()
    if quote.signature.certification_type == CERTIFICATION_PCK_CHAIN:
        try:
            chain = load_pem_chain_untrusted(quote.signature.certification_data)
        except DecodeError:
            # The verifier will name it.
            chain = ()
    by_name = {name: ca for ca, name in CAS.items()}
    for der in (*chain, *known.certificates):
        try:
            certificate = load_certificate_untrusted(der)
            extension = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(SGX_EXTENSION_OID))
            issuers = certificate.issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
            fmspc = parse_pck_extension_untrusted(extension.value.public_bytes()).fmspc
        except (DecodeError, x509.ExtensionNotFound):
            # Another kind of certificate, or a broken one, which the verifier will name.
            continue
        if issuers and (ca := by_name.get(str(issuers[-1].value))) is not None:
            return fmspc, ca
    raise EndorsementError(
        f"cannot get Intel's collateral: the PCK certificate: found certification data of type"
        f" {quote.signature.certification_type} and no PCK certificate at hand, want one that names the platform",
        hint="pass the PCK certificate chain with --endorsements",
    )


def leaf_for(report: SnpReport, known: Endorsements) -> bytes | None:
    """Return the certificate at hand that is for the report's chip and TCB, as far as they are told."""
    for der in known.certificates:
        try:
            claims = parse_vek_extensions_untrusted(extension_values(load_certificate_untrusted(der)))
        except DecodeError:
            # Another kind of certificate, or a broken one, which the verifier will name.
            continue
        line = line_of(claims.product)
        same_tcb = tcb_components(claims.tcb, line) == tcb_components(report.reported_tcb, line)
        same_chip = claims.chip_id in {None, report.chip_id} or not any(report.chip_id)
        if claims.kind == report.signing_key and same_tcb and same_chip:
            return der
    return None


def line_of_report(report: SnpReport, leaf: bytes | None) -> str | None:
    """Return the line of the report's chip, as far as the report or its key's certificate tells."""
    if report.product is not None:
        return line_of(report.product)
    if leaf is None:
        return None
    claims = parse_vek_extensions_untrusted(extension_values(load_certificate_untrusted(leaf)))
    return line_of(claims.product)


def has_issuer(leaf: bytes, known: Endorsements) -> bool:
    """Return whether the certificate that signed another one is at hand or part of this package."""
    certificate = load_certificate_untrusted(leaf)
    for der in (*amd_intermediates(), *known.certificates):
        try:
            issuer = load_certificate_untrusted(der)
        except DecodeError:
            # The verifier will name it.
            continue
        if issued_directly(certificate, issuer):
            return True
    return False


def has_crl(known: Endorsements, line: str, at: datetime) -> bool:
    """Return whether a line's revocation list for a time is at hand."""
    for der in known.crls:
        try:
            content = decode_crl(der, f"ARK-{line}")
        except DecodeError:
            # Another issuer's list.
            continue
        if content.issued_at <= at <= content.valid_until:
            return True
    return False
