# SPDX-License-Identifier: Apache-2.0
"""Arm CCA attestation tokens: a platform token and a realm token, each a COSE_Sign1 message over EAT claims.

Two collections are in use: tag 399, whose values are the messages (RMM 1.0), and tag 907, a conceptual-message wrapper whose
values are `[263, message]`, where 263 is the CoAP content format of `application/eat+cwt` (RMM 2.0). Two profiles of
the claims are in use with either: the legacy one, where the realm's key is a bare point, and `tag:arm.com,2023:`, where it
is a COSE_Key. Which profiles are believed, and what a key is, is the verifier's to say.

Claims with other labels are left alone, as EAT asks: they are signed and mean nothing here.

Source: Arm DEN0137 (Realm Management Monitor) section A7.2; draft-ffm-rats-cca-token; RFC 9711 for the labels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from enarx.crypto.cbor import Tagged, decode_untrusted, encode, read_tag_untrusted
from enarx.crypto.cose import Sign1, encode_sign1, parse_sign1_untrusted
from enarx.errors import DecodeError

__all__ = [
    "COLLECTION_TAG",
    "LEGACY_COLLECTION_TAG",
    "MAX_TOKEN_BYTES",
    "CcaToken",
    "PlatformClaims",
    "RealmClaims",
    "SoftwareComponent",
    "encode_token",
    "parse_token_untrusted",
]

MAX_TOKEN_BYTES = 64 << 10
LEGACY_COLLECTION_TAG, COLLECTION_TAG = 399, 907
_PLATFORM, _REALM = 44234, 44241
_EAT_CWT = 263
_MAX_COMPONENTS = 64
_MAX_TEXT = 1024
_MAX_CONFIG_BYTES = 4096
_MAX_KEY_BYTES = 1024
_TAGS = frozenset({LEGACY_COLLECTION_TAG, COLLECTION_TAG})
_HASH_BYTES = frozenset({32, 48, 64})
_N_EXTENSIBLE = 4
_WHAT = "a CCA token"


class SoftwareComponent(NamedTuple):
    """A part of the platform's firmware.

    Args:
        type: its role, or None.
        measurement: 32, 48 or 64 bytes.
        version: its vendor's text, or None.
        signer_id: the hash of the authority's key, 32, 48 or 64 bytes.
        hash_algorithm: how it was measured, or None.
    """

    type: str | None
    measurement: bytes
    version: str | None
    signer_id: bytes
    hash_algorithm: str | None

    def __str__(self) -> str:
        what = [text for text in (self.type, self.version, self.hash_algorithm) if text]
        return " ".join([*what, f"measurement={self.measurement.hex()}", f"signer_id={self.signer_id.hex()}"])


class PlatformClaims(NamedTuple):
    """What the platform says of itself.

    Args:
        profile: the EAT profile.
        challenge: the hash of the realm's key: 32, 48 or 64 bytes.
        implementation_id: 32 bytes.
        instance_id: an EAT UEID of 33 bytes, which begins with 1; it names the key that signed.
        config: at most 4096 bytes.
        lifecycle: 0 to 0xFFFF.
        sw_components: at least one.
        verification_service: where a verifier can be found, or None.
        hash_algorithm: of extended measurements, as text.
    """

    profile: str
    challenge: bytes
    implementation_id: bytes
    instance_id: bytes
    config: bytes
    lifecycle: int
    sw_components: tuple[SoftwareComponent, ...]
    verification_service: str | None
    hash_algorithm: str


class RealmClaims(NamedTuple):
    """What the Realm Management Monitor says of a realm.

    Args:
        profile: the EAT profile; None is the legacy one.
        challenge: the caller's, 64 bytes.
        personalization: 64 bytes.
        initial_measurement: 32, 48 or 64 bytes.
        extensible_measurements: four of the same sizes.
        hash_algorithm: of the measurements, as text.
        public_key: the realm attestation key as it was hashed.
        public_key_hash_algorithm: with what, as text.
    """

    profile: str | None
    challenge: bytes
    personalization: bytes
    initial_measurement: bytes
    extensible_measurements: tuple[bytes, ...]
    hash_algorithm: str
    public_key: bytes
    public_key_hash_algorithm: str


class CcaToken(NamedTuple):
    """Both tokens, decoded and not believed.

    Args:
        tag: of the collection.
        platform_message: signed by the platform's key.
        realm_message: signed by the realm's.
        platform: its claims.
        realm: its claims.
    """

    tag: int
    platform_message: Sign1
    realm_message: Sign1
    platform: PlatformClaims
    realm: RealmClaims

    def named(self) -> dict[str, object]:
        """Return the claims of both tokens by the names that the specification gives them, shortened."""
        platform, realm = self.platform, self.realm
        return {
            "tag": self.tag,
            "platform_profile": platform.profile,
            "platform_challenge": platform.challenge,
            "platform_instance_id": platform.instance_id,
            "platform_implementation_id": platform.implementation_id,
            "platform_config": platform.config,
            "lifecycle": platform.lifecycle,
            "platform_hash_alg": platform.hash_algorithm,
            "verification_service": platform.verification_service,
            "n_sw_components": len(platform.sw_components),
            "sw_components": [component._asdict() for component in platform.sw_components],
            "realm_profile": realm.profile,
            "realm_challenge": realm.challenge,
            "realm_initial_measurement": realm.initial_measurement,
            "realm_extensible_measurements": list(realm.extensible_measurements),
            "realm_personalization": realm.personalization,
            "realm_hash_alg": realm.hash_algorithm,
            "rak_hash_alg": realm.public_key_hash_algorithm,
        }

    def serialise(self) -> bytes:
        """Return the bytes that it was parsed from."""
        return encode_token(
            platform=encode_sign1(self.platform_message), realm=encode_sign1(self.realm_message), tag=self.tag
        )


def encode_token(*, platform: bytes, realm: bytes, tag: int = LEGACY_COLLECTION_TAG) -> bytes:
    """Put two messages into a collection."""
    collection: dict[int, Any] = {_PLATFORM: platform, _REALM: realm}
    if tag == COLLECTION_TAG:
        collection = {label: [_EAT_CWT, message] for label, message in collection.items()}
    return encode(Tagged(tag, collection))


def parse_token_untrusted(data: bytes) -> CcaToken:
    """Decode a token of either collection without believing it.

    Args:
        data: at most `MAX_TOKEN_BYTES`.

    Raises:
        DecodeError: anything else: a claim that is missing, or of another type or size; a collection with other members.
    """
    if len(data) > MAX_TOKEN_BYTES:
        raise _refusal("size", f"{len(data)} bytes", f"at most {MAX_TOKEN_BYTES}")
    tag, body = read_tag_untrusted(data, what=_WHAT)
    if tag not in _TAGS:
        raise _refusal("tag", str(tag).lower(), f"{LEGACY_COLLECTION_TAG} or {COLLECTION_TAG}")
    collection = decode_untrusted(body, max_bytes=MAX_TOKEN_BYTES, what=_WHAT)
    if type(collection) is not dict or list(collection) != [_PLATFORM, _REALM]:
        raise _refusal("collection", "other members", "a platform token and a realm token, in this order")
    if tag == COLLECTION_TAG:
        collection = {label: _unwrap(record) for label, record in collection.items()}
    platform_message, platform = _parse_part(collection[_PLATFORM], "platform token")
    realm_message, realm = _parse_part(collection[_REALM], "realm token")
    return CcaToken(tag, platform_message, realm_message, _platform_claims(platform), _realm_claims(realm))


def _unwrap(record: Any) -> Any:
    if type(record) is not list or len(record) != 2 or type(record[0]) is not int or record[0] != _EAT_CWT:
        raise _refusal("collection", "another record", f"[{_EAT_CWT}, a message]")
    return record[1]


def _parse_part(data: Any, name: str) -> tuple[Sign1, dict[Any, Any]]:
    what = f"{_WHAT}: {name}"
    if type(data) is not bytes:
        raise _refusal(name, "another value", "a byte string")
    message = parse_sign1_untrusted(data, max_bytes=MAX_TOKEN_BYTES, what=what)
    if not message.tagged:
        raise _refusal(name, "no tag", "the tag of COSE_Sign1")
    claims = decode_untrusted(message.payload, max_bytes=MAX_TOKEN_BYTES, what=what, indefinite=True)
    if type(claims) is not dict:
        raise _refusal(name, type(claims).__name__, "a map of claims")
    return message, claims


def _platform_claims(claims: dict[Any, Any]) -> PlatformClaims:
    components = claims.get(2399)
    if type(components) is not list or not 0 < len(components) <= _MAX_COMPONENTS:
        raise _refusal("cca-platform-sw-components", "another value", f"1 to {_MAX_COMPONENTS} of them")
    instance_id = _bytes(claims.get(256), "cca-platform-instance-id", 33)
    if instance_id[0] != 1:
        raise _refusal("cca-platform-instance-id", f"the type {instance_id[0]}", "1, a random UEID")
    config, lifecycle, service = claims.get(2401), claims.get(2395), claims.get(2400)
    if type(config) is not bytes or len(config) > _MAX_CONFIG_BYTES:
        raise _refusal("cca-platform-config", "another value", f"at most {_MAX_CONFIG_BYTES} bytes")
    if type(lifecycle) is not int or not 0 <= lifecycle <= 0xFFFF:
        raise _refusal("cca-platform-lifecycle", "another value", "a number of 16 bits")
    return PlatformClaims(
        _text(claims.get(265), "cca-platform-profile"),
        _hash(claims.get(10), "cca-platform-challenge"),
        _bytes(claims.get(2396), "cca-platform-implementation-id", 32),
        instance_id,
        config,
        lifecycle,
        tuple(map(_component, components)),
        None if service is None else _text(service, "cca-platform-verification-service"),
        _text(claims.get(2402), "cca-platform-hash-algo-id"),
    )


def _component(item: Any) -> SoftwareComponent:
    if type(item) is not dict:
        raise _refusal("cca-platform-sw-components", "another value", "a map for each")
    kind, version, algorithm = item.get(1), item.get(4), item.get(6)
    return SoftwareComponent(
        None if kind is None else _text(kind, "component type"),
        _hash(item.get(2), "measurement value"),
        None if version is None else _text(version, "version"),
        _hash(item.get(5), "signer id"),
        None if algorithm is None else _text(algorithm, "hash algorithm id"),
    )


def _realm_claims(claims: dict[Any, Any]) -> RealmClaims:
    profile, extensible, key = claims.get(265), claims.get(44239), claims.get(44237)
    if type(extensible) is not list or len(extensible) != _N_EXTENSIBLE:
        raise _refusal("cca-realm-extensible-measurements", "another value", f"{_N_EXTENSIBLE} of them")
    if type(key) is not bytes or not 0 < len(key) <= _MAX_KEY_BYTES:
        raise _refusal("cca-realm-public-key", "another value", f"1 to {_MAX_KEY_BYTES} bytes")
    return RealmClaims(
        None if profile is None else _text(profile, "cca-realm-profile"),
        _bytes(claims.get(10), "cca-realm-challenge", 64),
        _bytes(claims.get(44235), "cca-realm-personalization-value", 64),
        _hash(claims.get(44238), "cca-realm-initial-measurement"),
        tuple([_hash(item, "cca-realm-extensible-measurements") for item in extensible]),
        _text(claims.get(44236), "cca-realm-hash-algo-id"),
        key,
        _text(claims.get(44240), "cca-realm-public-key-hash-algo-id"),
    )


def _bytes(value: Any, name: str, size: int) -> bytes:
    if type(value) is not bytes or len(value) != size:
        raise _refusal(name, "another value", f"{size} bytes")
    return value


def _hash(value: Any, name: str) -> bytes:
    if type(value) is not bytes or len(value) not in _HASH_BYTES:
        raise _refusal(name, "another value", "32, 48 or 64 bytes")
    return value


def _text(value: Any, name: str) -> str:
    if type(value) is not str or not 0 < len(value) <= _MAX_TEXT:
        raise _refusal(name, "another value", f"a text of 1 to {_MAX_TEXT} characters")
    return value


def _refusal(claim: str, found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode {_WHAT}: {claim}: found {found}, want {want}")
