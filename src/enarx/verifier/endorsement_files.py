# SPDX-License-Identifier: Apache-2.0
"""Tell from the bytes what an endorsement file is: names of files and folders mean nothing here.

What is understood: certificates and CRLs in DER or PEM, PkiPath, AMD's certificate table, Intel's collateral as separate
files or as one JSON bundle of hex and PEM, TCG event logs, and JSON objects whose values are any of these.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.crypto.certificates import load_certificate_untrusted, load_crl_untrusted, load_pem_chain_untrusted, name_of
from enarx.errors import DecodeError
from enarx.rats import Endorsements, IntelCollateral
from enarx.verifier.text_encodings import decode_text
from enarx.wire.cmw import decode_cmw_untrusted, leaves
from enarx.wire.strict_json import load_json_untrusted

__all__ = ["MAX_ENDORSEMENT_BYTES", "read_endorsements", "read_wrapped_endorsements"]

MAX_ENDORSEMENT_BYTES = 8 << 20
_MAX_DEPTH = 4
_MAX_COLLATERAL_SETS = 256
_TCB_SIGNER = "Intel SGX TCB Signing"
_INTEL_ROOT = "Intel SGX Root CA"
_EVENT_LOG_SIGNATURE = b"Spec ID Event0"


def read_endorsements(files: Iterable[tuple[str, bytes]]) -> Endorsements:
    """Sort the contents of files into endorsements.

    Args:
        files: a name for messages, and the content.

    Raises:
        DecodeError: a file is none of what is understood, or larger than `MAX_ENDORSEMENT_BYTES`.
    """
    gathered = _Gathered()
    for name, data in files:
        if len(data) > MAX_ENDORSEMENT_BYTES:
            raise DecodeError(
                f"cannot read endorsements: {name}: size: found {len(data)} bytes, want at most {MAX_ENDORSEMENT_BYTES}"
            )
        try:
            gathered.take(data, _MAX_DEPTH)
        except DecodeError as error:
            raise DecodeError(f"cannot read endorsements: {name}: {error}", hint=error.hint) from error
    return gathered.endorsements()


def read_wrapped_endorsements(wrappers: Iterable[bytes], *, name: str = "the offer's") -> Endorsements:
    """Sort endorsements that came with evidence.

    Args:
        wrappers: CMW.
        name: whose they are, for messages about one without a label.

    Raises:
        DecodeError: one is none.
    """
    files = []
    for data in wrappers:
        for path, leaf in leaves(decode_cmw_untrusted(data)):
            files.append(("/".join(map(str, path)) or name, leaf.value))
    return read_endorsements(files)


class _Gathered:
    """What was found so far."""

    def __init__(self) -> None:
        self.certificates: list[bytes] = []
        self.crls: list[bytes] = []
        self.event_logs: list[bytes] = []
        self.tcb_infos: list[bytes] = []
        self.qe_identities: list[bytes] = []
        self.intel: list[IntelCollateral] = []

    def take(self, data: bytes, depth: int) -> None:
        """Take one blob.

        Raises:
            DecodeError: it is none of what is understood.
        """
        start = data.lstrip()[:32]
        if start[:1] in {b"{", b"["}:
            self._take_json(load_json_untrusted(data, what="endorsement", max_bytes=MAX_ENDORSEMENT_BYTES), data, depth)
        elif data[:2] in {b"\x30\x82", b"\x30\x81", b"\x30\x83"}:
            self._take_der(data)
        elif b"-----BEGIN " in data[:4096]:
            self._take_pem(data)
        elif _EVENT_LOG_SIGNATURE in data[:128]:
            self.event_logs.append(data)
        elif (decoded := decode_text(data)) is not None and depth:
            self.take(decoded, depth - 1)
        else:
            self._take_table(data)

    def _take_pem(self, data: bytes) -> None:
        if b"BEGIN CERTIFICATE" in data:
            self.certificates += load_pem_chain_untrusted(data)
        if b"BEGIN X509 CRL" in data:
            try:
                crl = x509.load_pem_x509_crl(data)
            except (ValueError, x509.InvalidVersion) as error:
                raise DecodeError(f"cannot decode a CRL: found {error}, want a CRL in PEM") from error
            self.crls.append(crl.public_bytes(Encoding.DER))
        if b"BEGIN CERTIFICATE" not in data and b"BEGIN X509 CRL" not in data:
            raise DecodeError("found PEM of another kind, want certificates or CRLs")

    def _take_der(self, data: bytes) -> None:
        # Certificates that come out of a TPM's memory carry its padding.
        data = cut_der(data)
        try:
            load_crl_untrusted(data)
        except DecodeError:
            certificates = split_certificates(data)
            if not certificates:
                load_certificate_untrusted(data)
            self.certificates += certificates
        else:
            self.crls.append(data)

    def _take_table(self, data: bytes) -> None:
        from enarx.abi.snp import parse_certificate_table_untrusted, parse_sev_crate_certificates_untrusted

        for parse in (parse_certificate_table_untrusted, parse_sev_crate_certificates_untrusted):
            try:
                entries = parse(data)
            except DecodeError:
                continue
            for _guid, content in entries:
                if content[:1] == b"\x30":
                    self._take_der(content)
                elif content.startswith(b"-----BEGIN "):
                    self._take_pem(content)
            return
        raise DecodeError(
            "found none of the known formats, want certificates, CRLs, Intel collateral or an event log",
        )

    def _take_json(self, value: Any, raw: bytes, depth: int) -> None:
        if isinstance(value, dict) and "tcb_info" in value and "qe_identity" in value:
            self.intel.append(read_collateral_bundle(value))
        elif isinstance(value, dict) and "tcbInfo" in value:
            self.tcb_infos.append(raw or write_compact(value))
        elif isinstance(value, dict) and "enclaveIdentity" in value:
            self.qe_identities.append(raw or write_compact(value))
        elif isinstance(value, dict | list) and depth:
            for item in value.values() if isinstance(value, dict) else value:
                self._take_json_item(item, depth - 1)
        else:
            raise DecodeError("found JSON of another kind, want Intel collateral or certificates")

    def _take_json_item(self, item: Any, depth: int) -> None:
        if isinstance(item, dict | list):
            self._take_json(item, b"", depth)
        elif isinstance(item, str) and item:
            data = item.encode()
            self.take(decode_text(data) or data, depth)

    def endorsements(self) -> Endorsements:
        """Return everything, Intel's separate files put together."""
        intel = list(self.intel)
        if self.tcb_infos and self.qe_identities:
            intel += self._combine()
        return Endorsements(
            certificates=tuple(dict.fromkeys(self.certificates)),
            crls=tuple(dict.fromkeys(self.crls)),
            intel=tuple(intel),
            event_logs=tuple(self.event_logs),
        )

    def _combine(self) -> list[IntelCollateral]:
        """Put each TCB info together with each QE identity; the verifier takes what fits the quote."""
        named = [(name_of(load_certificate_untrusted(der)), der) for der in dict.fromkeys(self.certificates)]
        signers = tuple(der for name, der in named if name == _TCB_SIGNER)
        others = tuple(der for name, der in named if name != _TCB_SIGNER)
        root_crl, pck_crls = b"", []
        # Of several lists of the root, the newest is the one that counts.
        crls = sorted(((load_crl_untrusted(der), der) for der in dict.fromkeys(self.crls)), key=_last_update)
        for crl, der in crls:
            issuer = crl.issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
            name = str(issuer[-1].value) if issuer else ""
            if name == _INTEL_ROOT:
                root_crl = der
            elif "PCK" in name:
                pck_crls.append(der)
        sets = len(self.tcb_infos) * len(self.qe_identities) * max(1, len(pck_crls))
        if sets > _MAX_COLLATERAL_SETS:
            raise DecodeError(
                f"found {len(self.tcb_infos)} TCB infos, {len(self.qe_identities)} QE identities and {len(pck_crls)} PCK CRLs, which"
                f" are {sets} sets of collateral, want at most {_MAX_COLLATERAL_SETS}",
                hint="pass those of the platform at hand",
            )
        return [
            IntelCollateral(
                tcb_info=tcb_info,
                tcb_info_chain=signers + others,
                qe_identity=qe_identity,
                qe_identity_chain=signers + others,
                pck_crl=pck_crl,
                pck_crl_chain=others,
                root_ca_crl=root_crl,
            )
            for tcb_info in self.tcb_infos
            for qe_identity in self.qe_identities
            for pck_crl in pck_crls or [b""]
        ]


def _last_update(loaded: tuple[x509.CertificateRevocationList, bytes]) -> datetime:
    return loaded[0].last_update_utc


def write_compact(value: Any) -> bytes:
    """Return JSON without spaces: of a document that was decoded within another one, the form that Intel signed."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def read_collateral_bundle(bundle: dict[str, Any]) -> IntelCollateral:
    """Read Intel's collateral from one JSON object, as quote libraries keep it: PEM chains, CRLs in hex or PEM, signatures apart.

    Raises:
        DecodeError: a member is missing or of another kind.
    """

    def text(name: str) -> str:
        value = bundle.get(name)
        if not isinstance(value, str) or not value:
            raise DecodeError(f"cannot decode the collateral bundle: {name}: found no text, want one")
        return value

    def signed(member: str, signature: str, wrapped: str) -> bytes:
        body = text(member)
        if body.lstrip().startswith('{"' + wrapped + '"'):
            return body.encode()
        return f'{{"{wrapped}":{body},"signature":"{text(signature)}"}}'.encode()

    def crl(name: str) -> bytes:
        value = text(name).encode()
        if value.lstrip().startswith(b"-----BEGIN"):
            try:
                return x509.load_pem_x509_crl(value).public_bytes(Encoding.DER)
            except (ValueError, x509.InvalidVersion) as error:
                raise DecodeError(f"cannot decode the collateral bundle: {name}: found {error}, want a CRL") from error
        decoded = decode_text(value)
        if decoded is None:
            raise DecodeError(f"cannot decode the collateral bundle: {name}: found no hex or base64, want a CRL")
        # Some services return the hex of the DER as the bytes of the list.
        return decode_text(decoded) or decoded

    return IntelCollateral(
        tcb_info=signed("tcb_info", "tcb_info_signature", "tcbInfo"),
        tcb_info_chain=load_pem_chain_untrusted(text("tcb_info_issuer_chain").encode()),
        qe_identity=signed("qe_identity", "qe_identity_signature", "enclaveIdentity"),
        qe_identity_chain=load_pem_chain_untrusted(text("qe_identity_issuer_chain").encode()),
        pck_crl=crl("pck_crl"),
        pck_crl_chain=load_pem_chain_untrusted(text("pck_crl_issuer_chain").encode()),
        root_ca_crl=crl("root_ca_crl"),
    )


def cut_der(data: bytes) -> bytes:
    """Return the first DER element where only zero bytes follow it; other data is returned as it is."""
    if len(data) >= 4 and data[0] == 0x30 and data[1] == 0x82:
        size = 4 + int.from_bytes(data[2:4], "big")
        if size < len(data) and not any(data[size:]):
            return data[:size]
    return data


def split_certificates(data: bytes) -> tuple[bytes, ...]:
    """Return the certificates of a PkiPath, a PEM text or one DER, the end entity last in a PkiPath; none where it is something else."""
    from enarx.abi.enarx_csr import parse_pki_path_untrusted

    if data[:1] != b"\x30" and b"-----BEGIN CERTIFICATE-----" in data[:4096]:
        return load_pem_chain_untrusted(data)
    for parse in (lambda der: (load_certificate_untrusted(der), (der,))[1], parse_pki_path_untrusted):
        try:
            return parse(data)
        except DecodeError:
            continue
    return ()
