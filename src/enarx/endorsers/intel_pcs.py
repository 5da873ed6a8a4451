# SPDX-License-Identifier: Apache-2.0
"""What Intel's Provisioning Certification Service publishes: TCB info, QE identities and revocation lists, with their chains.

Rules of this file:

- It says how the questions are spelled and whether an answer is one to the question: TCB info of this TEE and FMSPC, the
  list of this CA, with a chain above it that hangs together. Signatures are the verifier's.
- PCS learns the FMSPC (a kind of platform, not one machine), the CA and the TEE, and no more.
- A mirror is a PCCS: the same paths, the root's list at a path of its own, and lists as DER, as PEM or as hex.
- A PCK certificate is not asked for: that takes the platform's encrypted PPID and a subscription, and quotes bring theirs.

Source: Intel PCS API v4 (Get TCB Info, Get QE Identity, Get Revocation List); Intel PCCS design guide.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.crypto.certificates import (
    MAX_CRL_BYTES,
    load_certificate_untrusted,
    load_pem_chain_untrusted,
    name_of,
)
from enarx.endorsers.fetching import Content, Wanted, decode_crl
from enarx.errors import DecodeError, UsageError
from enarx.rats import IntelCollateral
from enarx.wire.strict_json import load_json_untrusted

__all__ = [
    "CAS",
    "FMSPC_BYTES",
    "INTEL_PCS_URL",
    "UPDATES",
    "covers",
    "pck_crl_wanted",
    "qe_identity_wanted",
    "root_crl_wanted",
    "tcb_info_wanted",
]

INTEL_PCS_URL = "https://api.trustedservices.intel.com"
_ROOT_CRL_URL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
_PCCS_ROOT_CRL_PATH = "/sgx/certification/v4/rootcacrl"
FMSPC_BYTES = 6
UPDATES = ("standard", "early")
CAS = {"platform": "Intel SGX PCK Platform CA", "processor": "Intel SGX PCK Processor CA"}
"""The CAs of PCK certificates: their names in questions, and in certificates."""
_TCB_SIGNER = "Intel SGX TCB Signing"
_ROOT = "Intel SGX Root CA"
_TEES = {"sgx": ("SGX", "QE"), "tdx": ("TDX", "TD_QE")}
MAX_JSON_BYTES = 1 << 20
# A mirror may send hex.
_MAX_CRL_ANSWER_BYTES = 2 * MAX_CRL_BYTES


def tcb_info_wanted(base_url: str, tee: str, fmspc: bytes, update: str = "standard") -> Wanted:
    """Say what the TCB info of a kind of platform is.

    Args:
        base_url: of Intel's PCS or a mirror.
        tee: `sgx` or `tdx`.
        fmspc: 6 bytes.
        update: `standard`, or `early` for what becomes standard when platforms have had time to be updated.

    Returns:
        What has the JSON and its signer's chain in DER as its value.
    """
    identity, _ = _TEES[tee]
    if len(fmspc) != FMSPC_BYTES:
        raise ValueError(f"found {len(fmspc)} bytes, want {FMSPC_BYTES}")
    _require_update(update)
    name = fmspc.hex().upper()
    return Wanted(
        what=f"Intel's TCB info of {tee.upper()} platforms {name}",
        accept=_signed_json(
            "tcbInfo", identity, ("tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain"), _of_platform(fmspc)
        ),
        headers=("tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain"),
        absent="Intel knows no such platform: is the quote genuine, or the mirror incomplete?",
        **_location(base_url, f"/{tee}/certification/v4/tcb?fmspc={name}&update={update}"),
        max_bytes=MAX_JSON_BYTES,
    )


def qe_identity_wanted(base_url: str, tee: str, update: str = "standard") -> Wanted:
    """Say what the identity of the quoting enclave is.

    Args:
        base_url: as for `tcb_info_wanted`, like the others.
        tee: `sgx` or `tdx`.
        update: `standard` or `early`.

    Returns:
        What has the JSON and its signer's chain in DER as its value.
    """
    _, identity = _TEES[tee]
    _require_update(update)
    chain_name = "sgx-enclave-identity-issuer-chain"
    return Wanted(
        what=f"Intel's identity of the {tee.upper()} quoting enclave",
        accept=_signed_json("enclaveIdentity", identity, (chain_name,), lambda _: None),
        headers=(chain_name,),
        absent="is the mirror complete?",
        **_location(base_url, f"/{tee}/certification/v4/qe/identity?update={update}"),
        max_bytes=MAX_JSON_BYTES,
    )


def pck_crl_wanted(base_url: str, ca: str) -> Wanted:
    """Say what the revocation list of PCK certificates is.

    Args:
        base_url: as for `tcb_info_wanted`.
        ca: `platform` or `processor`.

    Returns:
        What has the list in DER and its signer's chain in DER as its value.
    """
    issuer = CAS[ca]
    chain_name = "sgx-pck-crl-issuer-chain"

    def accept(body: bytes, headers: dict[str, str]) -> Content:
        chain = _chain_of(headers, (chain_name,), issuer)
        content = decode_crl(_crl_der(body), issuer)
        return content._replace(value=(content.value, chain))

    return Wanted(
        what=f"the revocation list of {issuer}",
        accept=accept,
        headers=(chain_name,),
        absent="is the mirror complete?",
        **_location(base_url, f"/sgx/certification/v4/pckcrl?ca={ca}&encoding=der"),
        max_bytes=_MAX_CRL_ANSWER_BYTES,
    )


def root_crl_wanted(base_url: str) -> Wanted:
    """Say what the revocation list of Intel's root is; the value is DER.

    Intel publishes it on a host of its own; a PCCS has it at a path of its own.
    """
    return Wanted(
        what=f"the revocation list of {_ROOT}",
        service="intel",
        key=_ROOT_CRL_URL,
        url=_ROOT_CRL_URL if base_url == INTEL_PCS_URL else base_url + _PCCS_ROOT_CRL_PATH,
        accept=lambda body, _headers: decode_crl(_crl_der(body), _ROOT),
        absent="is the mirror complete?",
        max_bytes=_MAX_CRL_ANSWER_BYTES,
    )


def covers(collateral: IntelCollateral, tee: str, fmspc: bytes, ca: str, at: datetime) -> bool:
    """Return whether collateral that is at hand is for these platforms and this time, so that nothing has to be fetched."""
    tcb_id, qe_id = _TEES[tee]
    try:
        contents = (
            _decode_signed(collateral.tcb_info, "tcbInfo", tcb_id, _of_platform(fmspc)),
            _decode_signed(collateral.qe_identity, "enclaveIdentity", qe_id, lambda _: None),
            decode_crl(collateral.pck_crl, CAS[ca]),
            decode_crl(collateral.root_ca_crl, _ROOT),
        )
    except DecodeError:
        return False
    return all(content.issued_at <= at <= content.valid_until for content in contents)


def _of_platform(fmspc: bytes) -> Callable[[dict[str, Any]], str | None]:
    name = fmspc.hex().upper()

    def fits(info: dict[str, Any]) -> str | None:
        found = info.get("fmspc")
        if not isinstance(found, str) or found.upper() != name:
            return f"found TCB info of FMSPC {str(found)[:40]}, want {name}"
        return None

    return fits


def _location(base_url: str, path: str) -> dict[str, Any]:
    return {"service": "intel", "key": INTEL_PCS_URL + path, "url": base_url + path}


def _require_update(update: str) -> None:
    if update not in UPDATES:
        raise UsageError(f"cannot ask Intel PCS: update: found {update}, want one of {', '.join(UPDATES)}")


def _signed_json(
    member: str, identity: str, chain_names: tuple[str, ...], fits: Callable[[dict[str, Any]], str | None]
) -> Callable[[bytes, dict[str, str]], Content]:
    def accept(body: bytes, headers: dict[str, str]) -> Content:
        chain = _chain_of(headers, chain_names, _TCB_SIGNER)
        content = _decode_signed(body, member, identity, fits)
        return content._replace(value=(body, chain))

    return accept


def _decode_signed(body: bytes, member: str, identity: str, fits: Callable[[dict[str, Any]], str | None]) -> Content:
    document = load_json_untrusted(body, what=member, max_bytes=MAX_JSON_BYTES)
    inner = document.get(member) if isinstance(document, dict) else None
    if not isinstance(inner, dict) or not isinstance(document.get("signature"), str):
        raise DecodeError(f"found JSON of another kind, want {member} and its signature")
    if inner.get("id") != identity:
        raise DecodeError(f"found {member} of {str(inner.get('id'))[:40]}, want {identity}")
    if problem := fits(inner):
        raise DecodeError(problem)
    return Content(body, _time_of(inner, "issueDate"), _time_of(inner, "nextUpdate"))


def _time_of(document: dict[str, Any], name: str) -> datetime:
    text = document.get(name)
    try:
        return datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise DecodeError(f"found {name} {str(text)[:40]!r}, want a time like 2026-01-31T00:00:00Z") from error


def _chain_of(headers: dict[str, str], names: tuple[str, ...], signer: str) -> tuple[bytes, ...]:
    """Return the chain of an answer in DER, the signer's certificate first.

    Raises:
        DecodeError: there is none, it is another signer's, or it does not hang together up to Intel's root.
    """
    text = next((headers[name] for name in names if name in headers), None)
    if text is None:
        raise DecodeError(f"found no header {names[0]}, want the issuer's chain in it")
    chain = load_pem_chain_untrusted(unquote(text, errors="replace").encode())
    certificates = [load_certificate_untrusted(der) for der in chain]
    found = " < ".join(name_of(each) for each in certificates)
    linked = all(lower.issuer == upper.subject for lower, upper in pairwise(certificates))
    if not linked or name_of(certificates[0]) != signer or name_of(certificates[-1]) != _ROOT:
        raise DecodeError(f"found the chain {found} in the header {names[0]}, want one from {signer} to {_ROOT}")
    return chain


def _crl_der(body: bytes) -> bytes:
    """Return a list in DER out of any form in which a PCS or a PCCS sends one."""
    if body[:1] == b"\x30" and body[1:2] >= b"\x80":
        return body
    if b"-----BEGIN X509 CRL-----" in body[:256]:
        try:
            return x509.load_pem_x509_crl(body).public_bytes(Encoding.DER)
        except (ValueError, TypeError, x509.InvalidVersion) as error:
            raise DecodeError(f"found {error}, want a CRL in PEM") from error
    try:
        return binascii.unhexlify(body.strip())
    except ValueError as error:
        raise DecodeError("found something else, want a CRL in DER, PEM or hex") from error
