# SPDX-License-Identifier: Apache-2.0
"""Platform keys of Arm CCA (CPAK) from the files in which they are passed on: who holds them decides whom he believes.

What is understood: one JWK, which the caller says is the key of the platform at hand; and a list of objects that say by
`instance-id` whose key `pkey` is. A private key is read as its public half.

Source: RFC 7517; the trust anchor stores of rust-ccatoken.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enarx.errors import DecodeError
from enarx.wire.strict_json import load_json_untrusted

__all__ = ["MAX_CPAK_BYTES", "read_cpaks"]

MAX_CPAK_BYTES: Final = 1 << 20
_INSTANCE_ID_BYTES = 33
_CURVES = {"P-256": (ec.SECP256R1(), 32), "P-384": (ec.SECP384R1(), 48), "P-521": (ec.SECP521R1(), 66)}


def read_cpaks(data: bytes, *, instance_id: bytes) -> dict[bytes, bytes]:
    """Return platform keys as `TrustAnchors.cca` has them.

    Args:
        data: JSON, at most `MAX_CPAK_BYTES`.
        instance_id: of the platform that a JWK without one is the key of, 33 bytes.

    Returns:
        SubjectPublicKeyInfo in DER by instance id.

    Raises:
        DecodeError: neither of the two forms, or a key that is none.
    """
    value = load_json_untrusted(data, what="CPAK", max_bytes=MAX_CPAK_BYTES)
    if isinstance(value, dict):
        return {instance_id: _spki(value)}
    if not isinstance(value, list) or not value:
        raise _refusal("the file", type(value).__name__, "a JWK, or a list of keys with their instance ids")
    keys: dict[bytes, bytes] = {}
    for item in value:
        if not isinstance(item, dict) or not isinstance(item.get("pkey"), dict):
            raise _refusal("an entry", "another shape", "instance-id and pkey")
        owner = _owner(item.get("instance-id"))
        if owner in keys:
            raise _refusal("instance-id", f"{owner.hex()} twice", "one key for each platform")
        keys[owner] = _spki(item["pkey"])
    return keys


def _owner(text: Any) -> bytes:
    try:
        owner = bytes.fromhex(text)
    except (TypeError, ValueError) as error:
        raise _refusal("instance-id", "another value", "hex") from error
    if len(owner) != _INSTANCE_ID_BYTES:
        raise _refusal("instance-id", f"{len(owner)} bytes", f"{_INSTANCE_ID_BYTES}")
    return owner


def _spki(jwk: dict[str, Any]) -> bytes:
    known = _CURVES.get(jwk.get("crv", "")) if isinstance(jwk.get("crv"), str) and jwk.get("kty") == "EC" else None
    if known is None:
        raise _refusal("the key", "another kind", "EC on P-256, P-384 or P-521")
    curve, size = known
    x, y = (_coordinate(jwk.get(name), size) for name in ("x", "y"))
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + x + y)
    except ValueError as error:
        raise _refusal("the key", "no point on its curve", "one") from error
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _coordinate(text: Any, size: int) -> bytes:
    if not isinstance(text, str) or len(text) > 2 * size:
        raise _refusal("the key", "another coordinate", f"{size} bytes in base64url")
    try:
        value = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise _refusal("the key", "another coordinate", f"{size} bytes in base64url") from error
    if len(value) != size:
        raise _refusal("the key", f"a coordinate of {len(value)} bytes", f"{size}")
    return value


def _refusal(where: str, found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode the CPAK: {where}: found {found}, want {want}")
