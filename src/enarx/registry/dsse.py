# SPDX-License-Identifier: Apache-2.0
"""A package's signature by a local key: one DSSE envelope over one statement, no certificate, no log, no time.

Such a signature says who held the key, and never when: whoever takes a key out of a policy refuses all that it signed. The key
that judges comes from the tenant; the one that an envelope names is a hint, used to say which signature is false and which is
merely somebody else's.

Source: DSSE 1.0.2 protocol.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from enarx.crypto.signature_keys import SigningKey, key_id_of, public_key_of, sign, verify_signature
from enarx.errors import AppraisalError, VerificationError
from enarx.wire.dsse import (
    IN_TOTO,
    SIGN_PREDICATE,
    Envelope,
    EnvelopeSignature,
    Statement,
    decode_envelope_untrusted,
    decode_statement_untrusted,
    encode_envelope,
    encode_statement,
    pre_authentication,
)
from enarx.wire.oci import is_digest
from enarx.wire.quoting import quote

__all__ = ["require_statement", "sign_with_key", "verify_envelope"]


def sign_with_key(digest: str, key: SigningKey) -> bytes:
    """Sign a package.

    Args:
        digest: of its OCI manifest.
        key: Ed25519 or P-256.

    Returns:
        an envelope, the same bytes each time for Ed25519.
    """
    payload = encode_statement(digest)
    signature = EnvelopeSignature(sign(key, pre_authentication(IN_TOTO, payload)), key_id_of(public_key_of(key)))
    return encode_envelope(Envelope(IN_TOTO, payload, (signature,)))


def verify_envelope(data: bytes, digest: str, keys: Sequence[bytes]) -> bytes:
    """Return the key that signed a package.

    Args:
        data: an envelope from a stranger.
        digest: of the package's OCI manifest.
        keys: those that may have signed, SubjectPublicKeyInfo in DER.

    Raises:
        DecodeError: it is no envelope, or holds no statement.
        VerificationError: it names one of the keys, which did not sign it; or it is of another package.
        AppraisalError: it is of another key, or says something else.
    """
    envelope = decode_envelope_untrusted(data)
    message = pre_authentication(envelope.payload_type, envelope.payload)
    named = {signature.key_id for signature in envelope.signatures}
    false: VerificationError | None = None
    for signature in envelope.signatures:
        for key in keys:
            try:
                verify_signature(key, signature.signature, message)
            except VerificationError as error:
                if signature.key_id == key_id_of(key):
                    false = error
            else:
                require_statement(envelope.payload_type, envelope.payload, digest)
                return key
    if false is not None:
        raise false
    shown = ", ".join(sorted(name if is_digest(name) else quote(name) for name in named)[:4])
    raise AppraisalError(
        f"the signature is of another local key: found {shown}, want one of {', '.join(key_id_of(key) for key in keys) or 'none'}"
    )


def require_statement(payload_type: str, payload: bytes, digest: str) -> Statement:
    """Return what was signed, if it is that this package is signed.

    Args:
        payload_type: of the envelope, authentic.
        payload: authentic too.
        digest: of the package's OCI manifest.

    Raises:
        VerificationError: it is about another package.
        AppraisalError: it is a document of another kind: nobody said that the package is signed.
        DecodeError: it is no statement.
    """
    if payload_type != IN_TOTO:
        raise AppraisalError(
            f"the signature is of no statement: payloadType: found {quote(payload_type)}, want {IN_TOTO}"
        )
    statement = decode_statement_untrusted(payload)
    if statement.predicate_type != SIGN_PREDICATE:
        raise AppraisalError(
            f"the signature says something else: predicateType: found {quote(statement.predicate_type)}, want {SIGN_PREDICATE}"
        )
    if digest not in statement.subjects:
        found = ", ".join(statement.subjects[:4]) or "no SHA-256 digest"
        raise VerificationError(f"the signature is of another package: found {found}, want {digest}")
    return statement
