# SPDX-License-Identifier: Apache-2.0
"""The receipt file: everything that a deployment's verdict rests on, so that it can be judged again years later, offline.

Rules of this file:

- It is JSON, and bytes are base64. Messages are there byte for byte; nothing that can be computed from them is there beside them.
- Whoever reads it believes none of it. What it says is worth as much as the evidence in it, judged under a policy; docs/receipt.md says
  what that proves and what not.
- Every member has a type and a limit; a member too many or too few is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from enarx.errors import DecodeError
from enarx.rats import Endorsements, IntelCollateral
from enarx.wire.json_members import Members, base64_of, time_text
from enarx.wire.strict_json import load_json_untrusted

__all__ = [
    "MAX_RECEIPT_BYTES",
    "RECEIPT_TYPE",
    "ReceiptFile",
    "decode_receipt_untrusted",
    "encode_receipt",
]

RECEIPT_TYPE = "enarx-receipt"
MAX_RECEIPT_BYTES = 32 << 20
VERSION = 1
_MAX_BLOB_BYTES = 8 << 20
_MAX_LEAF_BYTES = 16384
_LISTS = ("certificates", "crls", "event_logs")
_INTEL_BYTES = ("tcb_info", "qe_identity", "pck_crl", "root_ca_crl")
_INTEL_CHAINS = ("tcb_info_chain", "qe_identity_chain", "pck_crl_chain")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptFile:
    """A deployment.

    Args:
        made_at: aware UTC, whole seconds, by the tenant's clock: when both were judged.
        enarx: the tenant's version.
        host: its URL, as the tenant named it.
        keep: the host's name for the Keep.
        keep_leaf: the Keep's certificate in DER.
        tenant_leaf: the tenant's certificate in DER, of the deployment key.
        exporter: 32 bytes, of the session.
        challenge: the message as sent, in CBOR.
        offer: likewise, as received, evidence and endorsements included.
        receipt: likewise.
        endorsements: that were used and are not in the messages, of both verdicts.
        policy: its text.
        policy_name: for people.
        accepted_roots: SHA-256 of emulated roots that were accepted beside the policy.
        offer_result: the verdict on the offer, an EAR as JWT, signed with the deployment key.
        receipt_result: likewise on the receipt.
    """

    made_at: datetime
    enarx: str
    host: str
    keep: str
    keep_leaf: bytes
    tenant_leaf: bytes
    exporter: bytes
    challenge: bytes
    offer: bytes
    receipt: bytes
    endorsements: Endorsements
    policy: bytes
    policy_name: str
    accepted_roots: frozenset[bytes]
    offer_result: str
    receipt_result: str


def encode_receipt(receipt: ReceiptFile) -> bytes:
    """Return a receipt file, the type first."""
    return (json.dumps(_document(receipt), indent=1, ensure_ascii=True) + "\n").encode()


def _document(receipt: ReceiptFile) -> dict[str, Any]:
    known = receipt.endorsements
    return {
        "type": RECEIPT_TYPE,
        "version": VERSION,
        "made-at": time_text(receipt.made_at),
        "enarx": receipt.enarx,
        "host": receipt.host,
        "keep": receipt.keep,
        "keep-leaf": base64_of(receipt.keep_leaf),
        "tenant-leaf": base64_of(receipt.tenant_leaf),
        "exporter": base64_of(receipt.exporter),
        "challenge": base64_of(receipt.challenge),
        "offer": base64_of(receipt.offer),
        "receipt": base64_of(receipt.receipt),
        "endorsements": {
            **{_hyphens(name): [base64_of(each) for each in getattr(known, name)] for name in _LISTS},
            "intel": [
                {_hyphens(name): base64_of(getattr(each, name)) for name in _INTEL_BYTES}
                | {_hyphens(name): [base64_of(der) for der in getattr(each, name)] for name in _INTEL_CHAINS}
                for each in known.intel
            ],
        },
        "policy": base64_of(receipt.policy),
        "policy-name": receipt.policy_name,
        "accepted-roots": sorted(root.hex() for root in receipt.accepted_roots),
        "offer-result": receipt.offer_result,
        "receipt-result": receipt.receipt_result,
    }


def decode_receipt_untrusted(data: bytes) -> ReceiptFile:
    """Decode a receipt file.

    Raises:
        DecodeError: it is none, or of another version. Nothing else, for any input.
    """
    members = Members(load_json_untrusted(data, what="receipt", max_bytes=MAX_RECEIPT_BYTES), "the receipt")
    if members.take("type") != RECEIPT_TYPE:
        raise _refusal("type", "another", RECEIPT_TYPE)
    version = members.take("version")
    if type(version) is not int or version != VERSION:
        raise _refusal("version", repr(version)[:40], f"{VERSION}: a newer enarx may read it")
    receipt = ReceiptFile(
        made_at=members.time("made-at"),
        enarx=members.text("enarx"),
        host=members.text("host"),
        keep=members.text("keep"),
        keep_leaf=members.bytes("keep-leaf", 1, _MAX_LEAF_BYTES),
        tenant_leaf=members.bytes("tenant-leaf", 1, _MAX_LEAF_BYTES),
        exporter=members.bytes("exporter", 32, 32),
        challenge=members.bytes("challenge", 1, _MAX_BLOB_BYTES),
        offer=members.bytes("offer", 1, _MAX_BLOB_BYTES),
        receipt=members.bytes("receipt", 1, _MAX_BLOB_BYTES),
        endorsements=_endorsements(members.inside("endorsements")),
        policy=members.bytes("policy", 0, _MAX_BLOB_BYTES),
        policy_name=members.text("policy-name"),
        accepted_roots=frozenset(members.hexes("accepted-roots", 32)),
        offer_result=members.text("offer-result", 256 << 10),
        receipt_result=members.text("receipt-result", 256 << 10),
    )
    members.end()
    return receipt


def _endorsements(members: Members) -> Endorsements:
    lists = {name: members.blobs(_hyphens(name), each=_MAX_BLOB_BYTES) for name in _LISTS}
    intel = tuple(map(_collateral, members.all_inside("intel")))
    members.end()
    return Endorsements(**lists, intel=intel)


def _collateral(members: Members) -> IntelCollateral:
    fields: dict[str, Any] = {name: members.bytes(_hyphens(name), 0, _MAX_BLOB_BYTES) for name in _INTEL_BYTES}
    fields |= {name: members.blobs(_hyphens(name), each=_MAX_BLOB_BYTES) for name in _INTEL_CHAINS}
    members.end()
    return IntelCollateral(**fields)


def _hyphens(name: str) -> str:
    return name.replace("_", "-")


def _refusal(where: str, found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode the receipt: {where}: found {found}, want {want}")
