# SPDX-License-Identifier: Apache-2.0
"""Sign an attestation result for `enarx attest verify --ear`."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from enarx import __version__
from enarx.crypto.x509 import MAX_PEM_BYTES, load_private_key
from enarx.errors import UsageError
from enarx.rats import AttestationResult, Verdict
from enarx.wire.ear import build_ear, sign_ear_jwt

__all__ = ["sign_result"]

# Of a nonce in an EAT; evidence can carry a shorter one.
_LEAST_NONCE_BYTES = 8


def sign_result(result: AttestationResult, evidence: bytes, key_path: str, *, nonce: bytes | None) -> str:
    """Return the result as a signed JWT.

    Args:
        result: what the verifier concluded.
        evidence: as it was handed in.
        key_path: PEM, on P-256, P-384 or Ed25519.
        nonce: the freshness value that was asked for, or None.

    Raises:
        UsageError: the key cannot be read, or is of another kind.
        ConfigError: it is no key.
    """
    try:
        with open(key_path, "rb") as file:
            pem = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot sign the result: {key_path}: {error.strerror}") from error
    key = load_private_key(pem, path=key_path)
    if not isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise UsageError(
            f"cannot sign the result: {key_path}: found a key of another kind, want one on P-256, P-384 or Ed25519"
        )
    nonce = nonce if nonce is not None and len(nonce) >= _LEAST_NONCE_BYTES else None
    ear = build_ear(
        result,
        issued_at=datetime.fromtimestamp(time.time(), UTC),
        evidence_sha256=hashlib.sha256(evidence).digest(),
        build=__version__,
        nonce=nonce,
        evidence_nonce=nonce if result.verdict is Verdict.ACCEPTED else None,
    )
    return sign_ear_jwt(ear, key)
