# SPDX-License-Identifier: Apache-2.0
"""Intel's collateral: TCB info and QE identity, from JSON to records, and whether Intel signed them.

Rules of this file:

- A signature is over the bytes of one member as they were received, so those bytes are cut out of the text and never written
  anew.
- JSON is read strictly: no key twice, no number that is not a whole one of its field's range, no time that is not UTC, nothing
  larger than `MAX_DOCUMENT_BYTES`. Members that nobody here knows are Intel's to add.
- A set is verified once; `load_collateral` remembers what cannot change. Times are compared by whoever uses it.

Source: Intel SGX and TDX PCS API 4 (TCB info 3, QE identity 2) and 3 (TCB info 2).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.crypto.certificates import load_certificate_untrusted, load_crl_untrusted, name_of
from enarx.errors import DecodeError
from enarx.rats import Check, Concern, Finding, IntelCollateral
from enarx.verifier.chain import Chain, ChainChecks, make_chain_checks, verify_chain
from enarx.verifier.ledger import Ledger, Setting
from enarx.verifier.tcb import IsvLevel, ModuleIdentity, QeIdentity, SvnLevel, TcbInfo
from enarx.wire.strict_json import load_json_untrusted

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "Collateral",
    "CollateralChecks",
    "load_collateral",
    "make_collateral_checks",
    "p256_key_of",
    "parse_qe_identity_untrusted",
    "parse_tcb_info_untrusted",
    "verify_p256",
]

MAX_DOCUMENT_BYTES = 1 << 20
_MAX_LEVELS = 1024
_MAX_TEXT = 256
_TCB_SIGNER = "Intel SGX TCB Signing"
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII).fullmatch
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+", re.ASCII).fullmatch
_P256_SHA256 = ECDSA(SHA256())

T = TypeVar("T")


class CollateralChecks(NamedTuple):
    """The checks of collateral for one kind of quote; each `*_chain` is the signer's."""

    tcb_info_chain: ChainChecks
    tcb_info_signer: Check
    tcb_info_signature: Check
    tcb_info_window: Check
    qe_identity_chain: ChainChecks
    qe_identity_signer: Check
    qe_identity_signature: Check
    qe_identity_window: Check


def make_collateral_checks(section: str) -> CollateralChecks:
    """Make the checks of one section, `sgx` or `tdx`."""
    spec, authenticity = "Intel PCS API 4", Concern.AUTHENTICITY

    def make(what: str, name: str) -> tuple[ChainChecks, Check, Check, Check]:
        prefix = f"{section}.{name}"
        return (
            make_chain_checks(f"{prefix}.chain", f"the signer of the {what}", spec),
            Check(f"{prefix}.signer", f"the {what} is signed by Intel's TCB signer", authenticity, spec),
            Check(f"{prefix}.signature", f"the {what} is as Intel signed it", authenticity, spec),
            Check(f"{prefix}.window", f"the {what} is for this time", authenticity, spec),
        )

    return CollateralChecks(*make("TCB info", "tcb_info"), *make("QE identity", "qe_identity"))


class Collateral(NamedTuple):
    """A set of collateral whose signatures were looked at.

    Args:
        tcb_info: as decoded, signed or not: `findings` say which.
        qe_identity: likewise.
        chains: of the signers, those that lead to a trust anchor, each with the check of its validity.
        signers: the certificates of the chains, DER.
        said: what the chains sign, for `Ledger.chains`.
        pck_crl: DER, or None where there is none.
        pck_crl_issuer: whose list it says it is.
        root_ca_crl: DER, or None where there is none.
        findings: that depend on the set and the trust anchors only, in the order of the documents.
        not_before: since when both documents hold.
        not_after: until when both do.
        signed: whether everything holds that does not depend on the time.
    """

    tcb_info: TcbInfo
    qe_identity: QeIdentity
    chains: tuple[tuple[Check, Chain], ...]
    signers: tuple[bytes, ...]
    said: tuple[tuple[str, ...], ...]
    pck_crl: bytes | None
    pck_crl_issuer: x509.Name | None
    root_ca_crl: bytes | None
    findings: tuple[Finding, ...]
    not_before: datetime
    not_after: datetime
    signed: bool


def load_collateral(found: IntelCollateral, checks: CollateralChecks, setting: Setting) -> Collateral:
    """Decode a set and verify its signatures, once for a set, a section and trust anchors.

    Args:
        found: as received.
        checks: of the section.
        setting: for the trust anchors and the cache; its time serves to find a certificate path and decides nothing.

    Raises:
        DecodeError: a document or a certificate is not well formed.
    """
    roots = setting.anchors.intel

    def load() -> Collateral:
        tcb_info, tcb_bytes, tcb_signature = _open(found.tcb_info, "tcbInfo", "TCB info", _read_tcb_info)
        qe_identity, qe_bytes, qe_signature = _open(
            found.qe_identity, "enclaveIdentity", "QE identity", _read_qe_identity
        )
        ledger = Ledger()
        chains = (
            _verify_signer(
                ledger,
                (checks.tcb_info_chain, checks.tcb_info_signer, checks.tcb_info_signature),
                found.tcb_info_chain,
                (tcb_bytes, tcb_signature),
                setting,
                signs="the TCB info",
            ),
            _verify_signer(
                ledger,
                (checks.qe_identity_chain, checks.qe_identity_signer, checks.qe_identity_signature),
                found.qe_identity_chain,
                (qe_bytes, qe_signature),
                setting,
                signs="the QE identity",
            ),
        )
        timeless = tuple(
            finding
            for finding in ledger.findings
            if finding.check not in {checks.tcb_info_chain.validity, checks.qe_identity_chain.validity}
        )
        return Collateral(
            tcb_info=tcb_info,
            qe_identity=qe_identity,
            chains=tuple(
                (chain_checks.validity, chain)
                for chain_checks, chain in zip((checks.tcb_info_chain, checks.qe_identity_chain), chains, strict=True)
                if chain is not None
            ),
            signers=tuple(
                each.public_bytes(Encoding.DER) for chain in chains if chain is not None for each in chain.certificates
            ),
            said=tuple(ledger.chains),
            pck_crl=found.pck_crl or None,
            pck_crl_issuer=load_crl_untrusted(found.pck_crl).issuer if found.pck_crl else None,
            root_ca_crl=found.root_ca_crl or None,
            findings=timeless,
            not_before=max(tcb_info.issue_date, qe_identity.issue_date),
            not_after=min(tcb_info.next_update, qe_identity.next_update),
            signed=all(finding.outcome == "passed" for finding in timeless),
        )

    def holds(known: Collateral) -> bool:
        return len(known.chains) == 2 and all(
            chain.not_before <= setting.at <= chain.not_after for _, chain in known.chains
        )

    return setting.cache.remember(("intel collateral", checks.tcb_info_window.id, found, roots), load, holds=holds)


def p256_key_of(certificate: x509.Certificate) -> EllipticCurvePublicKey | None:
    """Return a certificate's public key if it is one on P-256."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1) else None


def verify_p256(key: EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    """Return whether a raw ECDSA P-256 SHA-256 signature, r and s of 32 bytes each, is a key's."""
    try:
        key.verify(
            encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")),
            data,
            _P256_SHA256,
        )
    except InvalidSignature:
        return False
    return True


def _verify_signer(
    ledger: Ledger,
    checks: tuple[ChainChecks, Check, Check],
    chain_ders: tuple[bytes, ...],
    signed: tuple[bytes, bytes],
    setting: Setting,
    *,
    signs: str,
) -> Chain | None:
    """Record who signed a document, and whether they did."""
    chain_checks, signer_check, signature_check = checks
    if not chain_ders:
        ledger.doubt(chain_checks.anchor, expected="the signer's certificates", found="none", source="the collateral")
        return None
    data, signature = signed
    leaf = _find_signer(chain_ders, data, signature)
    others = tuple(der for der in chain_ders if der != leaf)
    chain = verify_chain(ledger, chain_checks, leaf, others, setting.anchors.intel, setting, signs=signs)
    if chain is None:
        return None
    name = name_of(chain.leaf)
    ledger.require(
        signer_check,
        name == _TCB_SIGNER,
        expected=_TCB_SIGNER,
        found=name,
        source="the certificate's subject",
        anchor=chain.anchor,
    )
    ledger.require(
        signature_check,
        _has_signed(chain.leaf, data, signature),
        expected=f"a signature of {name}",
        found=signature,
        source="the signer's key",
        anchor=chain.anchor,
    )
    return chain


def _find_signer(chain_ders: tuple[bytes, ...], data: bytes, signature: bytes) -> bytes:
    """Return which of several certificates signed a document; where none did, the one that should have."""
    named = [(der, load_certificate_untrusted(der)) for der in chain_ders]
    signers = [(der, each) for der, each in named if name_of(each) == _TCB_SIGNER] or named
    return next((der for der, each in signers if _has_signed(each, data, signature)), signers[0][0])


def _has_signed(certificate: x509.Certificate, data: bytes, signature: bytes) -> bool:
    key = p256_key_of(certificate)
    return key is not None and verify_p256(key, signature, data)


# Documents.


def parse_tcb_info_untrusted(data: bytes) -> tuple[TcbInfo, bytes, bytes]:
    """Decode a signed TCB info without believing it.

    Args:
        data: JSON `{"tcbInfo": ..., "signature": ...}`, at most `MAX_DOCUMENT_BYTES`.

    Returns:
        The TCB info, the bytes that are signed, the signature of 64 bytes.

    Raises:
        DecodeError: anything else.
    """
    return _open(data, "tcbInfo", "TCB info", _read_tcb_info)


def parse_qe_identity_untrusted(data: bytes) -> tuple[QeIdentity, bytes, bytes]:
    """Decode a signed QE identity without believing it; like `parse_tcb_info_untrusted`, with `enclaveIdentity`."""
    return _open(data, "enclaveIdentity", "QE identity", _read_qe_identity)


def _open(data: bytes, member: str, what: str, read: Callable[[_Fields], T]) -> tuple[T, bytes, bytes]:
    document = _Fields(load_json_untrusted(data, what=what, max_bytes=MAX_DOCUMENT_BYTES), what)
    body = read(document.inner(member))
    return body, _bytes_of_member(data, member), document.hex("signature", 64)


def _bytes_of_member(data: bytes, member: str) -> bytes:
    """Cut the value of a member out of an object that was found to be well formed, with each key once."""
    text = data.rstrip(b"\0").decode("utf-8-sig")
    decode, space = json.JSONDecoder().raw_decode, re.compile(r"[ \t\n\r]*").match
    offset = text.index("{")
    while True:
        name, offset = decode(text, _after(space, text, offset + 1))
        # What follows the name is a colon, what follows the value a comma or the end: the text is well formed.
        start = _after(space, text, _after(space, text, offset) + 1)
        _, offset = decode(text, start)
        if name == member:
            return text[start:offset].encode()
        offset = _after(space, text, offset)


def _after(space: Callable[[str, int], re.Match[str] | None], text: str, offset: int) -> int:
    found = space(text, offset)
    return found.end() if found is not None else offset


class _Fields:
    """An object of a document; says where something is wrong."""

    __slots__ = ("_fields", "_where")

    def __init__(self, fields: Any, where: str) -> None:
        if not isinstance(fields, dict):
            raise DecodeError(f"cannot decode the {where}: found {type(fields).__name__}, want an object")
        self._fields, self._where = fields, where

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def number(self, name: str, maximum: int) -> int:
        value = self._fields.get(name)
        if type(value) is not int or not 0 <= value <= maximum:
            raise self._bad(name, f"a whole number from 0 to {maximum}")
        return value

    def text(self, name: str) -> str:
        value = self._fields.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT:
            raise self._bad(name, f"a text of 1 to {_MAX_TEXT} characters")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts; none where there is no such member."""
        values = self._fields.get(name, [])
        if not isinstance(values, list) or len(values) > _MAX_LEVELS:
            raise self._bad(name, "a list of texts")
        for value in values:
            if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT:
                raise self._bad(name, "a list of texts")
        return tuple(values)

    def hex(self, name: str, size: int) -> bytes:
        value = self._fields.get(name)
        if not isinstance(value, str) or len(value) != 2 * size or _HEX(value) is None:
            raise self._bad(name, f"{size} bytes in hex")
        return bytes.fromhex(value)

    def time(self, name: str) -> datetime:
        value = self._fields.get(name)
        try:
            if not isinstance(value, str) or _TIME(value) is None:
                raise ValueError
            return datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        except ValueError:
            raise self._bad(name, "a time in UTC, like 2026-01-31T12:00:00Z") from None

    def inner(self, name: str) -> _Fields:
        return _Fields(self._fields.get(name), f"{self._where}: {name}")

    def each(self, name: str, *, at_least: int = 1, at_most: int = _MAX_LEVELS) -> list[_Fields]:
        values = self._fields.get(name)
        if not isinstance(values, list) or not at_least <= len(values) <= at_most:
            raise self._bad(name, f"a list of {at_least} to {at_most} objects")
        return [_Fields(value, f"{self._where}: {name}[{index}]") for index, value in enumerate(values)]

    def _bad(self, name: str, want: str) -> DecodeError:
        value = self._fields.get(name)
        found = "none" if value is None else repr(value)[:80]
        return DecodeError(f"cannot decode the {self._where}: {name}: found {found}, want {want}")


def _read_tcb_info(fields: _Fields) -> TcbInfo:
    version = fields.number("version", 0xFFFF)
    if version not in {2, 3}:
        raise fields._bad("version", "2 or 3")
    # Version 2 is older than TDX and says nothing of a TEE.
    tee = fields.text("id") if version == 3 else "SGX"
    if tee not in {"SGX", "TDX"}:
        raise fields._bad("id", "SGX or TDX")
    is_tdx = tee == "TDX"
    return TcbInfo(
        tee=tee,
        issue_date=fields.time("issueDate"),
        next_update=fields.time("nextUpdate"),
        fmspc=fields.hex("fmspc", 6),
        pce_id=fields.hex("pceId", 2),
        tcb_type=fields.number("tcbType", 0xFFFFFFFF),
        evaluation_data_number=fields.number("tcbEvaluationDataNumber", 0xFFFFFFFF),
        module=_read_module(fields.inner("tdxModule"), "") if is_tdx else None,
        modules=tuple(_read_module(each, each.text("id")) for each in fields.each("tdxModuleIdentities", at_least=0))
        if is_tdx and "tdxModuleIdentities" in fields
        else (),
        levels=_sort_levels(_read_svn_level(each, version, is_tdx=is_tdx) for each in fields.each("tcbLevels")),
    )


def _read_module(fields: _Fields, name: str) -> ModuleIdentity:
    return ModuleIdentity(
        id=name,
        mr_signer=fields.hex("mrsigner", 48),
        attributes=fields.hex("attributes", 8),
        attributes_mask=fields.hex("attributesMask", 8),
        levels=_read_isv_levels(fields) if name else (),
    )


def _read_svn_level(fields: _Fields, version: int, *, is_tdx: bool) -> SvnLevel:
    tcb = fields.inner("tcb")
    if version == 3:
        components = _read_components(tcb, "sgxtcbcomponents")
    else:
        components = tuple(tcb.number(f"sgxtcbcomp{index:02d}svn", 0xFF) for index in range(1, 17))
    return SvnLevel(
        components=components,
        pce_svn=tcb.number("pcesvn", 0xFFFF),
        tdx_components=_read_components(tcb, "tdxtcbcomponents") if is_tdx else None,
        date=fields.time("tcbDate"),
        status=fields.text("tcbStatus"),
        advisory_ids=fields.texts("advisoryIDs"),
    )


def _sort_levels(levels: Iterable[SvnLevel]) -> tuple[SvnLevel, ...]:
    """Return levels from the highest to the lowest, as Intel publishes them and its library takes them."""
    return tuple(
        sorted(levels, key=lambda each: (each.components, each.pce_svn, each.tdx_components or ()), reverse=True)
    )


def _read_components(tcb: _Fields, name: str) -> tuple[int, ...]:
    return tuple(each.number("svn", 0xFF) for each in tcb.each(name, at_least=16, at_most=16))


def _read_isv_levels(fields: _Fields) -> tuple[IsvLevel, ...]:
    return tuple(
        IsvLevel(
            isv_svn=each.inner("tcb").number("isvsvn", 0xFFFF),
            date=each.time("tcbDate"),
            status=each.text("tcbStatus"),
            advisory_ids=each.texts("advisoryIDs"),
        )
        for each in fields.each("tcbLevels")
    )


def _read_qe_identity(fields: _Fields) -> QeIdentity:
    if fields.number("version", 0xFFFF) != 2:
        raise fields._bad("version", "2")
    return QeIdentity(
        id=fields.text("id"),
        issue_date=fields.time("issueDate"),
        next_update=fields.time("nextUpdate"),
        evaluation_data_number=fields.number("tcbEvaluationDataNumber", 0xFFFFFFFF),
        misc_select=fields.hex("miscselect", 4),
        misc_select_mask=fields.hex("miscselectMask", 4),
        attributes=fields.hex("attributes", 16),
        attributes_mask=fields.hex("attributesMask", 16),
        mr_signer=fields.hex("mrsigner", 32),
        isv_prod_id=fields.number("isvprodid", 0xFFFF),
        levels=_read_isv_levels(fields),
    )
