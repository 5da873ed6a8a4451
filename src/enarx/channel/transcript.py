# SPDX-License-Identifier: Apache-2.0
"""What a Keep's evidence is over: 64 bytes for each purpose, the same ones computed by both ends.

Evidence over a key alone, or over a nonce alone, could be relayed to somebody else's session. So it is over all that tells this
session from every other, in one array for each purpose, of which the first two items are this protocol and the purpose:
nothing that was attested for one purpose is evidence for another.

Source: docs/protocol.md, "What evidence is over"; docs/formats/session.cddl, "binding".
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enarx.crypto.cbor import encode
from enarx.wire.release import Configuration, configuration_value
from enarx.wire.session import Attachment, Offer, Receipt, without_evidence

__all__ = [
    "Transcript",
    "attach_report_data",
    "configuration_digest",
    "identity_report_data",
    "leaf_hash",
    "offer_report_data",
    "receipt_digest",
    "receipt_report_data",
    "self_signed_report_data",
    "spki_hash",
]

_LABEL = "enarx-keep/1"


class Transcript(NamedTuple):
    """A session up to the Keep's first message.

    Args:
        exporter: 32 bytes, RFC 9266, from the own end's completed handshake.
        keep_leaf: the Keep's certificate in DER.
        tenant_leaf: the tenant's certificate in DER. The exporter does not cover it.
        challenge: the message as it was sent, in CBOR.
    """

    exporter: bytes
    keep_leaf: bytes
    tenant_leaf: bytes
    challenge: bytes


def offer_report_data(transcript: Transcript, offer: Offer) -> bytes:
    """Return the 64 bytes that the evidence of an offer is over."""
    return _report_data("offer", *_session(transcript), _sha384(without_evidence(offer)))


def receipt_report_data(offered: bytes, receipt: Receipt) -> bytes:
    """Return the 64 bytes that the evidence of a receipt is over.

    Args:
        offered: the 64 bytes of the offer of the same session.
        receipt: whatever its evidence is.
    """
    return _report_data("receipt", offered, receipt_digest(receipt))


def attach_report_data(transcript: Transcript, attachment: Attachment, receipt: bytes) -> bytes:
    """Return the 64 bytes that the evidence of an attachment is over.

    Args:
        transcript: of the new session.
        attachment: whatever its evidence is.
        receipt: the digest of the receipt that the Keep sent when it was provisioned.
    """
    return _report_data("attach", *_session(transcript), _sha384(without_evidence(attachment)), receipt)


def identity_report_data(nonce: bytes, spki: bytes, identity: bytes, root: bytes) -> bytes:
    """Return the 64 bytes that evidence for a Steward is over.

    The identity record says nothing of the Steward that the release names, and the Keep judges peers by that one's root. Without the
    root in here, a Keep that was given somebody else's root could be shown with a certificate of this Steward's.

    Args:
        nonce: 32 bytes, the Steward's.
        spki: SHA-384 of the SubjectPublicKeyInfo that is to be certified.
        identity: the record in CBOR.
        root: SHA-384 of the DER of the Steward's root that the release names.
    """
    return _report_data("identity", nonce, spki, _sha384(identity), root)


def self_signed_report_data(spki: bytes, identity: bytes) -> bytes:
    """Return the 64 bytes that the evidence in a self-signed certificate is over.

    Args:
        spki: SHA-384 of its SubjectPublicKeyInfo.
        identity: the record in CBOR.
    """
    return _report_data("self-signed", spki, _sha384(identity))


def receipt_digest(receipt: Receipt) -> bytes:
    """Return the 48 bytes that stand for a receipt, whatever its evidence: SHA-384."""
    return _sha384(without_evidence(receipt))


def leaf_hash(leaf: bytes) -> bytes:
    """Return the 48 bytes that stand for a certificate in DER: SHA-384."""
    return _sha384(leaf)


def spki_hash(leaf: bytes) -> bytes:
    """Return the 48 bytes that stand for the key of a certificate in DER: SHA-384 of its SubjectPublicKeyInfo.

    Raises:
        ValueError: the certificate is none; one that came through a handshake is.
    """
    try:
        key = x509.load_der_x509_certificate(leaf).public_key()
    except (x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise ValueError("found a version or a key that there is not") from error
    return _sha384(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def configuration_digest(salt: bytes, configuration: Configuration) -> bytes:
    """Return the 32 bytes that stand for a configuration in an identity record.

    Args:
        salt: 32 bytes, so that nobody can guess a configuration and compare.
        configuration: what was given beyond the package.
    """
    return hashlib.sha256(salt + encode(configuration_value(configuration))).digest()


def _session(transcript: Transcript) -> tuple[bytes, bytes, bytes, bytes]:
    return (
        transcript.exporter,
        _sha384(transcript.keep_leaf),
        _sha384(transcript.tenant_leaf),
        _sha384(transcript.challenge),
    )


def _report_data(purpose: str, *parts: bytes) -> bytes:
    return hashlib.sha512(encode([_LABEL, purpose, *parts])).digest()


def _sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()
