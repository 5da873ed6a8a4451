# SPDX-License-Identifier: Apache-2.0
"""A fake Arm CCA platform: its key, a realm's key, and the tokens they sign.

`CcaPlatform.token` makes a token that is accepted where the platform's key is a trust anchor; each argument bends one thing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enarx.abi.cca import LEGACY_COLLECTION_TAG, encode_token
from enarx.crypto.cbor import encode
from enarx.crypto.cose import encode_key, sign
from enarx.rats import TrustAnchors
from enarx.verifier.cca import LEGACY_PROFILE, PLATFORM_PROFILE, REALM_PROFILE

__all__ = ["CcaPlatform"]

_HASHES = {"sha-256": hashlib.sha256, "sha-384": hashlib.sha384, "sha-512": hashlib.sha512}


class CcaPlatform:
    """A platform with one realm.

    Args:
        is_legacy: whether its tokens have the legacy profile, where the realm's key is a bare point.
        cpak: the platform's key; None makes one on P-384.
        rak: the realm's key; None makes one on P-384.
    """

    def __init__(
        self,
        *,
        is_legacy: bool = False,
        cpak: ec.EllipticCurvePrivateKey | None = None,
        rak: ec.EllipticCurvePrivateKey | None = None,
    ) -> None:
        self.is_legacy = is_legacy
        self.cpak = cpak or ec.generate_private_key(ec.SECP384R1())
        self.rak = rak or ec.generate_private_key(ec.SECP384R1())
        self.spki = self.cpak.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.instance_id = b"\x01" + hashlib.sha256(self.spki).digest()

    @property
    def anchors(self) -> TrustAnchors:
        """Trust in this platform's key and in nothing else."""
        return TrustAnchors(cca={self.instance_id: self.spki})

    def realm_key(self) -> bytes:
        """Return the realm's public key as its token has it."""
        public = self.rak.public_key()
        if self.is_legacy:
            return public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return encode_key(public)

    def platform_claims(self, *, rak_hash: str = "sha-256") -> dict[int, Any]:
        """Return the claims of the platform token by label."""
        component = {2: b"\x11" * 32, 5: b"\x22" * 32, 6: "sha-256"}
        return {
            265: LEGACY_PROFILE if self.is_legacy else PLATFORM_PROFILE,
            10: _HASHES[rak_hash](self.realm_key()).digest(),
            2396: b"\x33" * 32,
            256: self.instance_id,
            2401: b"\xcf" * 4,
            2395: 0x3003,
            2399: [component | {1: "BL2", 4: "1.0.0"}, component | {1: "RMM", 2: b"\x44" * 32}],
            2400: "https://verifier.example",
            2402: "sha-256",
        }

    def realm_claims(self, *, rak_hash: str = "sha-256") -> dict[int, Any]:
        """Return the claims of the realm token by label."""
        profile = {} if self.is_legacy else {265: REALM_PROFILE}
        return profile | {
            10: b"\x55" * 64,
            44235: b"\x66" * 64,
            44236: "sha-256",
            44237: self.realm_key(),
            44238: b"\x77" * 32,
            44239: [bytes([0x80 + index]) * 32 for index in range(4)],
            44240: rak_hash,
        }

    def token(
        self,
        *,
        tag: int = LEGACY_COLLECTION_TAG,
        rak_hash: str = "sha-256",
        platform: Mapping[int, Any] | None = None,
        realm: Mapping[int, Any] | None = None,
        without: tuple[int, ...] = (),
        platform_signer: ec.EllipticCurvePrivateKey | None = None,
        realm_signer: ec.EllipticCurvePrivateKey | None = None,
    ) -> bytes:
        """Make a token.

        Args:
            tag: of the collection.
            rak_hash: with what the realm's key is hashed.
            platform: claims of the platform token that are otherwise.
            realm: claims of the realm token that are otherwise.
            without: labels that neither of them has.
            platform_signer: signs in the place of the platform's key.
            realm_signer: signs in the place of the realm's key.
        """
        parts = [
            (self.platform_claims(rak_hash=rak_hash) | dict(platform or {}), platform_signer or self.cpak),
            (self.realm_claims(rak_hash=rak_hash) | dict(realm or {}), realm_signer or self.rak),
        ]
        messages = [
            sign(encode({label: value for label, value in claims.items() if label not in without}), key)
            for claims, key in parts
        ]
        return encode_token(platform=messages[0], realm=messages[1], tag=tag)
