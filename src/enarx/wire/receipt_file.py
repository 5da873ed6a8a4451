# SPDX-License-Identifier: Apache-2.0
"""The receipt file: everything that a deployment's verdict rests on, so that it can be judged again years later, offline.

Rules of this file:

- It is JSON, and bytes are base64. Messages are there byte for byte; nothing that can be computed from them is there beside them.
- Whoever reads it believes none of it. What it says is worth as much as the evidence in it, judged under a policy; docs/receipt.md says
  what that proves and what not.
- Every member has a type and a limit; a member too many or too few is refused.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from enarx.errors import DecodeError
from enarx.rats import Endorsements, IntelCollateral
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
_MAX_TEXT_CHARS = 4096
_MAX_BLOB_BYTES = 8 << 20
_MAX_ITEMS = 256
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
        "made-at": receipt.made_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "enarx": receipt.enarx,
        "host": receipt.host,
        "keep": receipt.keep,
        "keep-leaf": _text_of(receipt.keep_leaf),
        "tenant-leaf": _text_of(receipt.tenant_leaf),
        "exporter": _text_of(receipt.exporter),
        "challenge": _text_of(receipt.challenge),
        "offer": _text_of(receipt.offer),
        "receipt": _text_of(receipt.receipt),
        "endorsements": {
            **{_hyphens(name): [_text_of(each) for each in getattr(known, name)] for name in _LISTS},
            "intel": [
                {_hyphens(name): _text_of(getattr(each, name)) for name in _INTEL_BYTES}
                | {_hyphens(name): [_text_of(der) for der in getattr(each, name)] for name in _INTEL_CHAINS}
                for each in known.intel
            ],
        },
        "policy": _text_of(receipt.policy),
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
    members = _Members(load_json_untrusted(data, what="receipt", max_bytes=MAX_RECEIPT_BYTES), "")
    if members.take("type") != RECEIPT_TYPE:
        raise _refusal("type", "another", RECEIPT_TYPE)
    version = members.take("version")
    if type(version) is not int or version != VERSION:
        raise _refusal("version", repr(version)[:40], f"{VERSION}: a newer enarx may read it")
    receipt = ReceiptFile(
        made_at=_time(members.text("made-at")),
        enarx=members.text("enarx"),
        host=members.text("host"),
        keep=members.text("keep"),
        keep_leaf=members.bytes("keep-leaf", 1, _MAX_LEAF_BYTES),
        tenant_leaf=members.bytes("tenant-leaf", 1, _MAX_LEAF_BYTES),
        exporter=members.bytes("exporter", 32, 32),
        challenge=members.bytes("challenge"),
        offer=members.bytes("offer"),
        receipt=members.bytes("receipt"),
        endorsements=_endorsements(_Members(members.take("endorsements"), "endorsements.")),
        policy=members.bytes("policy", 0),
        policy_name=members.text("policy-name"),
        accepted_roots=frozenset(map(_digest, members.list("accepted-roots"))),
        offer_result=members.text("offer-result", 256 << 10),
        receipt_result=members.text("receipt-result", 256 << 10),
    )
    members.end()
    return receipt


class _Members:
    """The members of an object, each taken once."""

    def __init__(self, value: Any, where: str) -> None:
        if type(value) is not dict:
            raise _refusal(where.rstrip(".") or "the file", type(value).__name__, "an object")
        self._left = dict(value)
        self._where = where

    def take(self, name: str) -> Any:
        if name not in self._left:
            raise _refusal(self._where + name, "nothing", "a value")
        return self._left.pop(name)

    def text(self, name: str, max_chars: int = _MAX_TEXT_CHARS) -> str:
        value = self.take(name)
        if type(value) is not str or len(value) > max_chars:
            raise _refusal(self._where + name, _size_of(value), f"text of at most {max_chars} characters")
        return value

    def bytes(self, name: str, least: int = 1, most: int = _MAX_BLOB_BYTES) -> bytes:
        return _bytes_of(self.take(name), self._where + name, least, most)

    def list(self, name: str) -> list[Any]:
        value = self.take(name)
        if type(value) is not list or len(value) > _MAX_ITEMS:
            raise _refusal(self._where + name, _size_of(value), f"an array of at most {_MAX_ITEMS}")
        return value

    def blobs(self, name: str) -> tuple[bytes, ...]:  # type: ignore[valid-type]  # the method above is not meant
        return tuple(_bytes_of(each, self._where + name, 1, _MAX_BLOB_BYTES) for each in self.list(name))

    def end(self) -> None:
        if self._left:
            raise _refusal(self._where + ascii(next(iter(self._left)))[:40], "an unknown member", "none")


def _endorsements(members: _Members) -> Endorsements:
    lists = {name: members.blobs(_hyphens(name)) for name in _LISTS}
    intel = tuple(_collateral(_Members(each, "endorsements.intel.")) for each in members.list("intel"))
    members.end()
    return Endorsements(**lists, intel=intel)


def _collateral(members: _Members) -> IntelCollateral:
    fields: dict[str, Any] = {name: members.bytes(_hyphens(name), 0) for name in _INTEL_BYTES}
    fields |= {name: members.blobs(_hyphens(name)) for name in _INTEL_CHAINS}
    members.end()
    return IntelCollateral(**fields)


def _digest(value: Any) -> bytes:
    try:
        digest = bytes.fromhex(value)
    except (TypeError, ValueError):
        digest = b""
    # `fromhex` takes spaces and capitals as well; there is one way to write a digest.
    if len(digest) != 32 or digest.hex() != value:
        raise _refusal("accepted-roots", repr(value)[:40], "SHA-256 in hex")
    return digest


def _time(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise _refusal("made-at", repr(text)[:40], "a time in UTC") from error


def _text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes_of(value: Any, where: str, least: int, most: int) -> bytes:
    try:
        data = base64.b64decode(value, validate=True) if type(value) is str else None
    except (binascii.Error, ValueError):
        data = None
    if data is None or _text_of(data) != value or not least <= len(data) <= most:
        raise _refusal(where, _size_of(value), f"base64 of {least} to {most} bytes")
    return data


def _size_of(value: Any) -> str:
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, str | list) else type(value).__name__


def _hyphens(name: str) -> str:
    return name.replace("_", "-")


def _refusal(where: str, found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode the receipt: {where}: found {found}, want {want}")
