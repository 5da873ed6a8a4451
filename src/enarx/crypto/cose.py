# SPDX-License-Identifier: Apache-2.0
"""COSE_Sign1 messages and COSE_Key public keys: decode, verify, sign.

Rules of this file:

- The algorithm comes from the protected header and nowhere else, and it must be the one of the key's own curve: a key is
  never used with an algorithm that a message picked for it.
- A header parameter that must be understood (`crit`) is refused: none is understood here.
- The message around the signed parts has one encoding. Whoever changes a byte of it changes the meaning or is refused.
- ECDSA is what RFC 9053 says it is: where `(r, s)` verifies, `(r, n - s)` does too, for the same signed bytes. It says nothing
  else and proves nothing less, so it is no forgery; a signature is just not a name for a message.

Source: RFC 9052, RFC 9053.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enarx.crypto.cbor import Tagged, decode_untrusted, encode, encode_head, read_tag_untrusted
from enarx.errors import DecodeError

__all__ = [
    "ALG",
    "CRIT",
    "EDDSA",
    "ES256",
    "ES384",
    "ES512",
    "SIGN1_TAG",
    "PrivateKey",
    "PublicKey",
    "Sign1",
    "algorithm_name",
    "algorithm_of",
    "encode_key",
    "encode_sign1",
    "load_key_untrusted",
    "parse_sign1_untrusted",
    "sign",
    "verifies",
]

SIGN1_TAG = 18
ALG, CRIT = 1, 2
ES256, ES384, ES512, EDDSA = -7, -35, -36, -8

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_ALGORITHMS: Mapping[str, tuple[int, ec.ECDSA]] = {
    "secp256r1": (ES256, ec.ECDSA(hashes.SHA256())),
    "secp384r1": (ES384, ec.ECDSA(hashes.SHA384())),
    "secp521r1": (ES512, ec.ECDSA(hashes.SHA512())),
}
_ECDSA: Mapping[int, ec.ECDSA] = dict(_ALGORITHMS.values())
_NAMES: Mapping[int, str] = {ES256: "ES256", ES384: "ES384", ES512: "ES512", EDDSA: "EdDSA"}
_SIGNATURE_BYTES: Mapping[int, int] = {ES256: 64, ES384: 96, ES512: 132, EDDSA: 64}

_PARTS = [bytes, dict, bytes, bytes]
# What most messages have, decoded once.
_USUAL_HEADERS: Mapping[bytes, dict[int | str | bytes, Any]] = {
    encode({ALG: number}): {ALG: number} for number in _NAMES
}

# How most messages begin: the tag or none, an array of four, the protected header of ES384 and nothing else, an empty map, and
# a payload with its length in two bytes.
_USUAL_START = re.compile(rb"(\xd2)?\x84\x44(\xa1\x01\x38\x22)\xa0\x59..", re.DOTALL).match

# COSE_Key: labels, key types and curves (RFC 9053 section 7).
_KTY, _KEY_ALG, _CRV, _X, _Y = 1, 3, -1, -2, -3
_OKP, _EC2 = 1, 2
_CURVES: Mapping[int, tuple[ec.EllipticCurve, int]] = {
    1: (ec.SECP256R1(), 32),
    2: (ec.SECP384R1(), 48),
    3: (ec.SECP521R1(), 66),
}
_ED25519 = 6
_MAX_KEY_BYTES = 1024


class Sign1(NamedTuple):
    """A COSE_Sign1 message, decoded and not believed.

    Args:
        protected: the protected header as it was signed.
        header: the same, decoded; `crit` is not among its labels.
        unprotected: the other header, which nobody signed.
        payload: attached.
        signature: as it stands.
        tagged: whether the tag 18 was in front.
    """

    protected: bytes
    header: dict[int | str | bytes, Any]
    unprotected: dict[int | str | bytes, Any]
    payload: bytes
    signature: bytes
    tagged: bool

    @property
    def algorithm(self) -> int | None:
        """The number of the signature's algorithm in the protected header, None where it has none."""
        value = self.header.get(ALG)
        return value if type(value) is int else None


def parse_sign1_untrusted(data: bytes, *, max_bytes: int, what: str = "COSE_Sign1") -> Sign1:
    """Decode a message, tagged or not, without checking its signature.

    Args:
        data: all of it is the message.
        max_bytes: of `data`.
        what: it is, for messages.

    Raises:
        DecodeError: anything else than the one encoding of a message with its payload attached, a `crit` parameter, or a
            parameter in both headers.
    """
    if len(data) > max_bytes:
        raise DecodeError(f"cannot decode {what}: size: found {len(data)} bytes, want at most {max_bytes}")
    usual = _USUAL_START(data)
    if usual is not None:
        # Such a message is in its one encoding where the payload is not too short for two bytes of length and a signature of 96
        # bytes ends it. To cut it apart costs half of decoding it.
        start = usual.end()
        end = start + int.from_bytes(data[start - 2 : start])
        if end - start >= 256 and data[end : end + 2] == b"\x58\x60" and len(data) == end + 98:
            tag, protected = usual.groups()
            return Sign1(protected, _USUAL_HEADERS[protected], {}, data[start:end], data[end + 2 :], tag is not None)
    tag, body = read_tag_untrusted(data, what=what)
    if tag is not None and tag != SIGN1_TAG:
        raise DecodeError(f"cannot decode {what}: tag: found {tag}, want {SIGN1_TAG} or none")
    parts = decode_untrusted(body, max_bytes=max_bytes, what=what)
    if type(parts) is not list or [*map(type, parts)] != _PARTS:
        raise DecodeError(
            f"cannot decode {what}: found other parts, want a protected and an unprotected header, a payload and a signature"
        )
    protected, unprotected, payload, signature = parts
    header = _USUAL_HEADERS.get(protected)
    if header is None:
        header = decode_untrusted(protected, max_bytes=max_bytes, what=f"{what}: protected header") if protected else {}
    if type(header) is not dict:
        raise DecodeError(f"cannot decode {what}: protected header: found {type(header).__name__}, want a map")
    if CRIT in header or CRIT in unprotected:
        raise DecodeError(f"cannot decode {what}: crit: found parameters that must be understood, want none")
    if unprotected and not header.keys().isdisjoint(unprotected):
        raise DecodeError(f"cannot decode {what}: headers: found a parameter in both, want it in one")
    return Sign1(protected, header, unprotected, payload, signature, tag is not None)


def encode_sign1(message: Sign1) -> bytes:
    """Encode a message: the bytes that `parse_sign1_untrusted` takes it from, where the unprotected header's keys were in order."""
    parts = encode([message.protected, message.unprotected, message.payload, message.signature])
    return b"\xd2" + parts if message.tagged else parts


def algorithm_name(algorithm: int | None) -> str:
    """Return what people call an algorithm: `ES384`, or its number where it is not one of those known here."""
    return "none" if algorithm is None else _NAMES.get(algorithm, str(algorithm))


def algorithm_of(key: PublicKey | PrivateKey) -> int | None:
    """Return the only algorithm that a key may be used with, None for a curve or another kind of key that has none here."""
    curve = getattr(key, "curve", None)
    if curve is None:
        # Keys come from files that people choose: an RSA key, which has no curve, may be among them whatever the type says.
        return EDDSA if isinstance(key, ed25519.Ed25519PublicKey | ed25519.Ed25519PrivateKey) else None
    known = _ALGORITHMS.get(curve.name)
    return known[0] if known else None


def verifies(message: Sign1, key: PublicKey, *, external_aad: bytes = b"") -> bool:
    """Return whether a key made the signature, with its own algorithm and no other.

    Args:
        message: parsed.
        key: whose signature it should be.
        external_aad: what was signed along with it.

    Spec: RFC 9052 section 4.4.
    """
    algorithm = algorithm_of(key)
    if algorithm is None or message.algorithm != algorithm:
        return False
    signature = message.signature
    if len(signature) != _SIGNATURE_BYTES[algorithm]:
        return False
    signed = _to_be_signed(message.protected, message.payload, external_aad)
    # Asking for the abstract types of keys takes longer than all else here.
    check: Any = key.verify
    try:
        if algorithm == EDDSA:
            check(signature, signed)
        else:
            half = len(signature) // 2
            r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
            check(encode_dss_signature(r, s), signed, _ECDSA[algorithm])
    except InvalidSignature:
        return False
    return True


def sign(
    payload: bytes,
    key: PrivateKey,
    *,
    protected: Mapping[int | str, Any] | None = None,
    unprotected: Mapping[int | str, Any] | None = None,
    tagged: bool = True,
    external_aad: bytes = b"",
) -> bytes:
    """Make a message with the algorithm of the key's curve.

    Args:
        payload: what is signed.
        key: on P-256, P-384, P-521 or Ed25519.
        protected: more parameters for the protected header.
        unprotected: parameters for the other one.
        tagged: whether the tag 18 goes in front.
        external_aad: what is signed along with it.

    Raises:
        ValueError: the key is on another curve.
    """
    algorithm = algorithm_of(key)
    if algorithm is None:
        raise ValueError("found a key on another curve, want P-256, P-384, P-521 or Ed25519")
    header = encode({ALG: algorithm, **(protected or {})})
    signed = _to_be_signed(header, payload, external_aad)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        size = _SIGNATURE_BYTES[algorithm] // 2
        r, s = decode_dss_signature(key.sign(signed, _ALGORITHMS[key.curve.name][1]))
        signature = r.to_bytes(size, "big") + s.to_bytes(size, "big")
    else:
        signature = key.sign(signed)
    message: Any = [header, dict(unprotected or {}), payload, signature]
    return encode(Tagged(SIGN1_TAG, message) if tagged else message)


def load_key_untrusted(data: bytes) -> PublicKey:
    """Decode a public COSE_Key.

    Args:
        data: EC2 with both coordinates, or OKP Ed25519; other labels are ignored, a private part is not.

    Raises:
        DecodeError: anything else, or a point that is not on its curve.
    """
    parts = decode_untrusted(data, max_bytes=_MAX_KEY_BYTES, what="a COSE_Key")
    if type(parts) is not dict:
        raise DecodeError("cannot decode a COSE_Key: found another item, want a map")
    if -4 in parts:
        raise DecodeError("cannot decode a COSE_Key: found a private key, want a public one")
    kty, crv, x, y = parts.get(_KTY), parts.get(_CRV), parts.get(_X), parts.get(_Y)
    if type(kty) is not int or type(crv) is not int:
        raise DecodeError("cannot decode a COSE_Key: found another kind, want EC2 or Ed25519")
    key: PublicKey
    try:
        if kty == _EC2 and crv in _CURVES and type(x) is bytes and type(y) is bytes:
            curve, size = _CURVES[crv]
            if len(x) != size or len(y) != size:
                raise DecodeError(f"cannot decode a COSE_Key: found coordinates of another size, want {size} bytes")
            key = ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + x + y)
        elif kty == _OKP and crv == _ED25519 and type(x) is bytes and y is None:
            key = ed25519.Ed25519PublicKey.from_public_bytes(x)
        else:
            raise DecodeError("cannot decode a COSE_Key: found another kind, want EC2 or Ed25519")
    except ValueError as error:
        raise DecodeError(f"cannot decode a COSE_Key: found {error}, want a point on its curve") from error
    if _KEY_ALG in parts and parts[_KEY_ALG] != algorithm_of(key):
        raise DecodeError("cannot decode a COSE_Key: alg: found another, want that of its curve")
    return key


def encode_key(key: PublicKey) -> bytes:
    """Encode a public key as a COSE_Key, deterministically.

    Raises:
        ValueError: the key is on another curve than P-256, P-384, P-521 or Ed25519.
    """
    if isinstance(key, ed25519.Ed25519PublicKey):
        return encode({_KTY: _OKP, _CRV: _ED25519, _X: key.public_bytes(Encoding.Raw, PublicFormat.Raw)})
    for number, (curve, size) in _CURVES.items():
        if key.curve.name == curve.name:
            point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            return encode({_KTY: _EC2, _CRV: number, _X: point[1 : 1 + size], _Y: point[1 + size :]})
    raise ValueError(f"found a key on {key.curve.name}, want P-256, P-384, P-521 or Ed25519")


def _to_be_signed(protected: bytes, payload: bytes, external_aad: bytes) -> bytes:
    # An empty protected header is signed as an empty string (RFC 9052 section 4.4), which is how it must arrive as well.
    parts: list[bytes] = [b"\x84\x6aSignature1"]
    for part in (protected, external_aad, payload):
        parts += encode_head(2, len(part)), part
    return b"".join(parts)
