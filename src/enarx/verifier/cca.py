# SPDX-License-Identifier: Apache-2.0
"""Judge Arm CCA attestation tokens.

What holds it together: the platform's key (CPAK), which the relying party must know by the platform's instance id, signs
the platform token; that names the hash of the realm's key (RAK); which signs the realm token, and is in it. There is no
chain of certificates: a platform whose key nobody told us leaves the question open, and is no forgery.

Both signatures are looked at every time; keys are remembered.

Source: Arm DEN0137 (Realm Management Monitor) section A7.2, here "RMM A7.2"; draft-ffm-rats-cca-token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from enarx.abi.cca import CcaToken, SoftwareComponent
from enarx.crypto.cose import algorithm_name, algorithm_of, load_key_untrusted, verifies
from enarx.errors import DecodeError
from enarx.rats import Check, Concern, Endorsements, Expectation, OneOf, Skip, render
from enarx.verifier.grammar import MAX_VALUES, Digests, Freshness, Grammar, Words
from enarx.verifier.ledger import Examined, Judge, Ledger, Part, Rule, Setting

__all__ = ["JUDGE", "LEGACY_PROFILE", "PLATFORM_PROFILE", "REALM_PROFILE"]

LEGACY_PROFILE = "http://arm.com/CCA-SSD/1.0.0"
PLATFORM_PROFILE = "tag:arm.com,2023:cca_platform#1.0.0"
REALM_PROFILE = "tag:arm.com,2023:realm#1.0.0"
_PLATFORM_PROFILES = frozenset({LEGACY_PROFILE, PLATFORM_PROFILE})
# A realm token of the legacy profile does not name it.
_REALM_PROFILES = frozenset({None, REALM_PROFILE})
_NO_REALM_PROFILE = "legacy"

_HASHES: Mapping[str, Any] = {"sha-256": hashlib.sha256, "sha-384": hashlib.sha384, "sha-512": hashlib.sha512}
_HASH_NAMES = frozenset(_HASHES)
_POINT_BYTES = 97
# A key, or what is wrong with it.
_Key = ec.EllipticCurvePublicKey | str
_SPEC = "RMM A7.2"

# The upper byte of the lifecycle claim.
_LIFECYCLES: Mapping[int, str] = {
    0x00: "unknown",
    0x10: "assembly and test",
    0x20: "platform RoT provisioning",
    0x30: "secured",
    0x40: "non-platform-RoT debug",
    0x50: "recoverable platform RoT debug",
    0x60: "decommissioned",
}


def _authenticity(name: str, title: str, spec: str = _SPEC) -> Check:
    return Check(f"cca.{name}", title, Concern.AUTHENTICITY, spec)


_PLATFORM_PROFILE_KNOWN = _authenticity("platform.profile", "the platform token's profile is known")
_PLATFORM_ALGORITHM = _authenticity("platform.algorithm", "its algorithm is that of the platform's key", "RFC 9053 2.1")
_PLATFORM_SIGNATURE = _authenticity("platform.signature", "the platform's key (CPAK) signed the platform token")
_REALM_PROFILE_KNOWN = _authenticity("realm.profile", "the realm token's profile is known")
_REALM_KEY = _authenticity("realm.key", "the realm's key (RAK) has its profile's form and is on a curve")
_REALM_ALGORITHM = _authenticity("realm.algorithm", "its algorithm is that of the realm's key", "RFC 9053 2.1")
_REALM_SIGNATURE = _authenticity("realm.signature", "the realm's key (RAK) signed the realm token")
_BINDING = _authenticity("binding", "the platform token names the hash of the realm's key")


def _examine(token: CcaToken, _endorsements: Endorsements, setting: Setting, ledger: Ledger) -> Examined:
    platform, realm = token.platform, token.realm
    spki = setting.anchors.cca.get(platform.instance_id)
    cpak = None if spki is None else setting.cache.remember(("cca.cpak", spki), lambda: _load_cpak(spki))
    rak = setting.cache.remember(("cca.rak", realm.profile, realm.public_key), lambda: _load_rak(token))
    # One right after the other, so that the interpreter loses the processor's caches once and not twice. The key's own algorithm is
    # the only one that either can be made with.
    is_platform_signed = not isinstance(cpak, (str, type(None))) and verifies(token.platform_message, cpak)
    is_realm_signed = not isinstance(rak, str) and verifies(token.realm_message, rak)
    ledger.require(
        _PLATFORM_PROFILE_KNOWN,
        platform.profile in _PLATFORM_PROFILES,
        expected=_PLATFORM_PROFILES,
        found=platform.profile,
        source=_SPEC,
    )
    _check_platform(ledger, token, spki, cpak, is_signed=is_platform_signed)
    ledger.require(
        _REALM_PROFILE_KNOWN,
        realm.profile in _REALM_PROFILES,
        expected=_REALM_PROFILES,
        found=realm.profile,
        source=_SPEC,
    )
    _check_realm(ledger, token, rak, is_signed=is_realm_signed)
    algorithm = _HASHES.get(realm.public_key_hash_algorithm)
    digest = algorithm(realm.public_key).digest() if algorithm else None
    ledger.require(
        _BINDING,
        digest == platform.challenge,
        expected=digest if digest is not None else _HASH_NAMES,
        found=platform.challenge if digest is not None else realm.public_key_hash_algorithm,
        source="the realm token",
    )
    return Examined(parts=(Part("cca", token),), tee="cca")


def _check_platform(ledger: Ledger, token: CcaToken, spki: bytes | None, key: _Key | None, *, is_signed: bool) -> None:
    message, instance_id = token.platform_message, token.platform.instance_id
    if spki is None or key is None:
        ledger.doubt(
            _PLATFORM_SIGNATURE,
            expected=f"the key (CPAK) of the platform {instance_id.hex()}",
            found="no such trust anchor",
            source="trust anchors",
        )
        return
    if isinstance(key, str):
        ledger.require(
            _PLATFORM_SIGNATURE,
            passed=False,
            expected="the key (CPAK) of its instance id",
            found=f"a trust anchor that is no such key: {key}",
            source="trust anchors",
        )
        return
    _check_algorithm(ledger, _PLATFORM_ALGORITHM, message.algorithm, key, "the trust anchor")
    ledger.require(
        _PLATFORM_SIGNATURE,
        is_signed,
        expected="the key (CPAK) of its instance id",
        found="the key (CPAK) of its instance id" if is_signed else "a signature that this key did not make",
        source="COSE_Sign1",
        anchor=f"CPAK {instance_id.hex()}, {hashlib.sha256(spki).hexdigest()}",
    )
    ledger.chains.append(("CPAK", "the platform token", "RAK", "the realm token"))


def _check_realm(ledger: Ledger, token: CcaToken, key: _Key, *, is_signed: bool) -> None:
    realm, message = token.realm, token.realm_message
    ledger.require(
        _REALM_KEY,
        not isinstance(key, str),
        expected="a COSE_Key" if realm.profile else "a point on P-384",
        found=key if isinstance(key, str) else realm.public_key,
        source="the realm token",
    )
    if isinstance(key, str):
        ledger.require(_REALM_SIGNATURE, passed=False, expected="the realm's key", found="no key", source="COSE_Sign1")
        return
    _check_algorithm(ledger, _REALM_ALGORITHM, message.algorithm, key, "the realm's key")
    ledger.require(
        _REALM_SIGNATURE,
        is_signed,
        expected="the realm's key",
        found="the realm's key" if is_signed else "a signature that this key did not make",
        source="COSE_Sign1",
    )


def _check_algorithm(
    ledger: Ledger, check: Check, algorithm: int | None, key: ec.EllipticCurvePublicKey, source: str
) -> None:
    wanted = algorithm_of(key)
    ledger.require(
        check,
        wanted is not None and algorithm == wanted,
        expected=algorithm_name(wanted),
        found=algorithm_name(algorithm),
        source=source,
    )


def _load_cpak(spki: bytes) -> _Key:
    """Return the platform's key, or what is wrong with it."""
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        return " ".join(str(error).split())
    return key if isinstance(key, ec.EllipticCurvePublicKey) else "a key that is not on a curve of ECDSA"


def _load_rak(token: CcaToken) -> _Key:
    """Return the realm's key, or what is wrong with it."""
    data = token.realm.public_key
    if token.realm.profile is None:
        if len(data) != _POINT_BYTES or data[0] != 4:
            return f"{len(data)} bytes that are no uncompressed point"
        try:
            return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), data)
        except ValueError as error:
            return str(error)
    try:
        key = load_key_untrusted(data)
    except DecodeError as error:
        return str(error)
    return key if isinstance(key, ec.EllipticCurvePublicKey) else "a key that is not on a curve of ECDSA"


# --- Appraisal -------------------------------------------------------------------------------------------------------


class _EachIsKnown(Expectation):
    """Each software component is one of these; what an entry does not say may be anything."""

    __slots__ = ("entries",)

    def __init__(self, *entries: tuple[tuple[str, object], ...]) -> None:
        self.entries = frozenset(entries)

    def holds(self, found: Any) -> bool:
        return bool(found) and all(map(self._knows, found))

    def _knows(self, component: SoftwareComponent) -> bool:
        for entry in self.entries:
            for name, value in entry:
                if getattr(component, name) != value:
                    break
            else:
                return True
        return False

    def __str__(self) -> str:
        return "each one of " + "; ".join(
            sorted(" ".join(f"{name}={render(value)}" for name, value in entry) for entry in self.entries)
        )


class _Components(Grammar):
    """A list of tables, one for each software component that may be on the platform."""

    __slots__ = ()

    @property
    def wanted(self) -> str:
        return "a list of tables with one or more of measurement and signer_id (32 to 64 bytes in hex), type and version (text)"

    def decode(self, value: Any) -> Expectation:
        if not isinstance(value, list) or not 0 < len(value) <= MAX_VALUES:
            raise self.refuse(value)
        return _EachIsKnown(*(self._entry(item) for item in value))

    def _entry(self, item: Any) -> tuple[tuple[str, object], ...]:
        if not isinstance(item, dict) or not item:
            raise self.refuse(item)
        entry: list[tuple[str, object]] = []
        for name, text in sorted(item.items()):
            if name not in {"measurement", "signer_id", "type", "version"} or not isinstance(text, str) or not text:
                raise self.refuse(item)
            value: object = text
            if name in {"measurement", "signer_id"}:
                try:
                    value = bytes.fromhex(text)
                except ValueError:
                    raise self.refuse(item) from None
                if len(value) not in {32, 48, 64}:
                    raise self.refuse(item)
            entry.append((name, value))
        return tuple(entry)


_NO_POLICY = Skip("no policy was given")
_ALGORITHM_WORDS = Words(*_HASHES)
_ANY_ALGORITHM = "[" + ", ".join(f'"{name}"' for name in _HASHES) + "]"


def _rule(
    name: str, title: str, read: Any, grammar: Grammar, *, strict: str | None = None, baseline: Expectation = _NO_POLICY
) -> Rule:
    key = f"cca.{name}"
    return Rule(key, Check(key, title, Concern.APPRAISAL, _SPEC), read, grammar, strict, baseline)


def _rem_rule(index: int) -> Rule:
    return _rule(
        f"rem{index}",
        f"extensible measurement {index} is known",
        lambda token: token.realm.extensible_measurements[index],
        Digests(None),
        strict='{ skip = "the guest extends it at run time" }',
    )


_RULES = (
    _rule(
        "lifecycle",
        "the platform is in an accepted state of its life",
        lambda token: _LIFECYCLES.get(token.platform.lifecycle >> 8),
        Words(*_LIFECYCLES.values()),
        strict='["secured"]',
        baseline=OneOf("secured"),
    ),
    _rule(
        "implementation_id",
        "the platform is of an accepted implementation",
        attrgetter("platform.implementation_id"),
        Digests(32),
    ),
    _rule(
        "instance_id",
        "the platform is one that is accepted",
        attrgetter("platform.instance_id"),
        Digests(33),
        strict='{ skip = "any platform whose key is a trust anchor" }',
    ),
    _rule("config", "the platform's configuration is accepted", attrgetter("platform.config"), Digests(None)),
    _rule(
        "sw_components",
        "each component of the platform's firmware is known",
        attrgetter("platform.sw_components"),
        _Components(),
    ),
    _rule(
        "platform_profile",
        "the platform token's profile is accepted",
        attrgetter("platform.profile"),
        Words(LEGACY_PROFILE, PLATFORM_PROFILE),
        strict=f'["{LEGACY_PROFILE}", "{PLATFORM_PROFILE}"]',
    ),
    _rule(
        "realm_profile",
        "the realm token's profile is accepted",
        lambda token: token.realm.profile or _NO_REALM_PROFILE,
        Words(_NO_REALM_PROFILE, REALM_PROFILE),
        strict=f'["{_NO_REALM_PROFILE}", "{REALM_PROFILE}"]',
    ),
    _rule(
        "platform_hash_algorithm",
        "the platform measures with an accepted algorithm",
        attrgetter("platform.hash_algorithm"),
        _ALGORITHM_WORDS,
        strict=_ANY_ALGORITHM,
    ),
    _rule(
        "realm_hash_algorithm",
        "the realm is measured with an accepted algorithm",
        attrgetter("realm.hash_algorithm"),
        _ALGORITHM_WORDS,
        strict=_ANY_ALGORITHM,
    ),
    _rule(
        "rak_hash_algorithm",
        "the realm's key is bound with an accepted algorithm",
        attrgetter("realm.public_key_hash_algorithm"),
        _ALGORITHM_WORDS,
        strict=_ANY_ALGORITHM,
    ),
    _rule("rim", "the realm's initial measurement is known", attrgetter("realm.initial_measurement"), Digests(None)),
    *(_rem_rule(index) for index in range(4)),
    _rule(
        "personalization",
        "the realm's personalization value is known",
        attrgetter("realm.personalization"),
        Digests(64),
        strict='{ skip = "nothing is bound in it" }',
    ),
    _rule(
        "nonce",
        "the realm's challenge is the caller's",
        attrgetter("realm.challenge"),
        Freshness(64),
        strict='"from-caller"',
    ),
)

JUDGE = Judge(section="cca", examine=_examine, rules=_RULES)
