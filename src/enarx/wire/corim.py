# SPDX-License-Identifier: Apache-2.0
"""Reference values as CoRIM: what a maker says the acceptable measurements are, unsigned or signed.

What holds it together: a `ReferenceValueSet` becomes a CoRIM with one CoMID of reference-value triples, and a CoRIM becomes such a
set again. Both directions speak of the same small part of the draft.

Rules of this file:

- What is not understood is refused, never skipped: another kind of triple or tag, a condition on who may say it, a linked or
  dependent document, an instance or group, a measurement value of another kind, a key nobody here knows. Each of them could narrow
  what the values hold for, and a reader that leaves it out would accept more than the author did. Only names of languages
  and entities are read and dropped, for they say who wrote it and change nothing.
- A profile may change what all the rest means, so a CoRIM with one is read only if the caller names that profile.
- Digests are SHA-256, SHA-384 or SHA-512, each of its own size.
- Signed means COSE_Sign1 with the payload inside, the content type `application/rim+cbor` and a signer in the protected header.
  Detached payloads and hash envelopes are refused.

How environments and measurements are named is ours and is in `docs/formats.md`; the draft leaves it to profiles.

Source: draft-ietf-rats-corim-10; RFC 9052; IANA named information hash algorithms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from enarx.crypto import cose
from enarx.crypto.cbor import Tagged, decode_untrusted, encode
from enarx.errors import DecodeError, EndorsementError, UsageError, VerificationError

__all__ = [
    "DIGEST_BYTES",
    "ENVIRONMENTS",
    "MAX_CORIM_BYTES",
    "MEDIA_TYPE_SIGNED",
    "MEDIA_TYPE_UNSIGNED",
    "Digest",
    "Environment",
    "Measurement",
    "ReferenceValue",
    "ReferenceValueSet",
    "SignedReferenceValues",
    "decode_corim_untrusted",
    "encode_corim",
    "sign_corim",
    "verify_corim",
]

MEDIA_TYPE_UNSIGNED = "application/rim+cbor"
MEDIA_TYPE_SIGNED = "application/rim+cose"
MAX_CORIM_BYTES = 1 << 20
_MAX_TEXT_CHARS = 1024
_MAX_ITEMS = 4096

DIGEST_BYTES: Mapping[str, int] = {"sha-256": 32, "sha-384": 48, "sha-512": 64}
_DIGEST_NUMBERS: Mapping[int, str] = {1: "sha-256", 7: "sha-384", 8: "sha-512"}
_NUMBER_OF_DIGEST = {name: number for number, name in _DIGEST_NUMBERS.items()}

# Tags: the draft's section 12.2, and those of time, URI, UUID (RFC 8949, RFC 9562's registration) and OID (RFC 9090).
_TIME, _URI, _UUID, _OID = 1, 32, 37, 111
_CORIM, _COMID = 501, 506
_SVN, _MIN_SVN, _BYTES, _MASKED = 552, 553, 560, 563
_TAGS = frozenset({_TIME, _URI, _UUID, _OID, _CORIM, _COMID, _SVN, _MIN_SVN, _BYTES, _MASKED})
# Names of what is refused, so that the message says more than a number.
_TRIPLES: Mapping[int, str] = {
    1: "endorsed values", 2: "identities", 3: "attestation keys", 4: "dependencies", 5: "memberships", 6: "CoSWID",
    8: "conditional endorsement series", 10: "conditional endorsements",
}  # fmt: skip
_DOTTED = re.compile(r"[0-2](?:\.(?:0|[1-9][0-9]{0,9}))+")

# COSE labels: content type, corim-meta, CWT claims; the claims iss, exp and nbf.
_CONTENT_TYPE, _META, _CWT_CLAIMS = 3, 8, 15
_ISS, _EXP, _NBF = 1, 4, 5

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the values are about.

    Args:
        class_id: an object identifier in dotted form, a UUID, or bytes; None where vendor and model say it.
        vendor: its maker.
        model: of it.
        layer: in a layered attester, or None.
        index: among several of the same, or None.
    """

    class_id: str | UUID | bytes | None = None
    vendor: str | None = None
    model: str | None = None
    layer: int | None = None
    index: int | None = None


class Digest(NamedTuple):
    """A digest.

    Args:
        algorithm: of `DIGEST_BYTES`.
        value: of its size.
    """

    algorithm: str
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Acceptable values of one measured element; at least one kind of value is given.

    Args:
        key: which element: a claim's name or a number; None where the environment has only one.
        digests: each acceptable.
        svn: the security version number must be this.
        min_svn: it must be this or more. Not together with `svn`.
        raw: the value itself.
        raw_mask: the bits of `raw` that count, of its length; None where all do.
        name: of the element, for people.
        registers: acceptable digests by register.
    """

    key: str | int | None = None
    digests: tuple[Digest, ...] = ()
    svn: int | None = None
    min_svn: int | None = None
    raw: bytes | None = None
    raw_mask: bytes | None = None
    name: str | None = None
    registers: Mapping[int | str, tuple[Digest, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceValue:
    """The acceptable measurements of one environment, at least one."""

    environment: Environment
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceValueSet:
    """What one maker says.

    Args:
        id: of the document.
        values: at least one.
        not_before: aware, whole seconds; None where it holds from ever.
        not_after: aware, whole seconds, the last at which it holds; None where it does not end.
        profile: a URI or a dotted object identifier, or None.
    """

    id: str | UUID
    values: tuple[ReferenceValue, ...]
    not_before: datetime | None = None
    not_after: datetime | None = None
    profile: str | None = None


class SignedReferenceValues(NamedTuple):
    """What was signed, and by whom.

    Args:
        values: decoded.
        signer: the name in the signed header.
        key: that made the signature.
    """

    values: ReferenceValueSet
    signer: str
    key: PublicKey


ENVIRONMENTS: Mapping[str, Environment] = {
    "snp": Environment(vendor="AMD", model="SEV-SNP"),
    "tdx": Environment(vendor="Intel", model="TDX"),
    "sgx": Environment(vendor="Intel", model="SGX"),
    "nitro": Environment(vendor="AWS", model="Nitro Enclaves"),
    "cca": Environment(vendor="Arm", model="CCA"),
    "tpm": Environment(vendor="TCG", model="TPM 2.0"),
}
"""What enarx calls the environment of each section of a policy; a measurement's key is the last word of the policy's key."""


# --- Both directions -------------------------------------------------------------------------------------------------


def encode_corim(values: ReferenceValueSet) -> bytes:
    """Encode reference values as an unsigned CoRIM, deterministically.

    Raises:
        UsageError: they are not as their types say.
    """
    try:
        data = encode(Tagged(_CORIM, _corim_map(values)))
        decoded = decode_corim_untrusted(data, profiles=frozenset({values.profile or ""}))
    except (TypeError, ValueError, DecodeError) as error:
        raise UsageError(f"cannot encode CoRIM: {error}") from error
    if decoded != values:
        raise UsageError("cannot encode CoRIM: found values that have another form when they are read again")
    return data


def decode_corim_untrusted(data: bytes, *, profiles: frozenset[str] = frozenset()) -> ReferenceValueSet:
    """Decode an unsigned CoRIM without believing it.

    Args:
        data: at most `MAX_CORIM_BYTES`; all of it is the CoRIM.
        profiles: whose meaning the caller knows.

    Returns:
        The values of all its CoMIDs in their order.

    Raises:
        DecodeError: anything else than the rules of this file admit. Nothing else, for any input.
    """
    value = decode_untrusted(data, max_bytes=MAX_CORIM_BYTES, what="CoRIM", tags=_TAGS)
    return _read_corim(_untag(value, _CORIM, "the document"), profiles)


def sign_corim(
    values: ReferenceValueSet,
    key: PrivateKey,
    *,
    signer: str,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> bytes:
    """Return a signed CoRIM.

    Args:
        values: what is signed.
        key: on P-256, P-384, P-521 or Ed25519.
        signer: the signer's name.
        not_before: as of the signature; aware.
        not_after: likewise; needed where `not_before` is given.

    Raises:
        UsageError: the values or the names are not as their types say.
    """
    payload = encode_corim(values)
    meta: dict[int, Any] = {0: {0: signer}}
    if not_before is not None or not_after is not None:
        meta[1] = _validity_map(not_before, not_after)
    try:
        header = encode(meta)
        _read_meta(header)
        return cose.sign(payload, key, protected={_CONTENT_TYPE: MEDIA_TYPE_UNSIGNED, _META: header})
    except (TypeError, ValueError, DecodeError) as error:
        raise UsageError(f"cannot sign CoRIM: {error}") from error


def verify_corim(
    data: bytes, keys: Sequence[PublicKey], *, at: datetime, profiles: frozenset[str] = frozenset()
) -> SignedReferenceValues:
    """Return the reference values of a signed CoRIM, once they are known to be from one of the keys and to hold at a time.

    Args:
        data: at most `MAX_CORIM_BYTES`.
        keys: of makers that are trusted, at least one.
        at: the time to judge for, aware.
        profiles: whose meaning the caller knows.

    Raises:
        DecodeError: no signed CoRIM, or one that the rules of this file do not admit.
        VerificationError: of none of the keys.
        EndorsementError: the signature or the values do not hold at that time.
        UsageError: no key, or `at` is naive.
    """
    if not keys:
        raise UsageError("cannot verify CoRIM: found no key, want at least one")
    if at.tzinfo is None:
        raise UsageError("cannot verify CoRIM: at: found a naive time, want an aware one")
    message = cose.parse_sign1_untrusted(data, max_bytes=MAX_CORIM_BYTES, what="CoRIM")
    if not message.tagged:
        raise _refusal("the signed document", "no tag", str(cose.SIGN1_TAG))
    signing_key = next((key for key in keys if cose.verifies(message, key)), None)
    if signing_key is None:
        raise VerificationError(
            "cannot accept the CoRIM: signature: found none by a trusted key"
            f" with {cose.algorithm_name(message.algorithm)}, want one",
            hint="pass the public key of the maker that signed it",
        )
    signer, period = _read_signer(message.header)
    values = decode_corim_untrusted(message.payload, profiles=profiles)
    for what, (begins, ends) in (
        ("the signature", period),
        ("the reference values", (values.not_before, values.not_after)),
    ):
        if (begins is not None and at < begins) or (ends is not None and at > ends):
            raise EndorsementError(
                f"cannot use the CoRIM: {what}: found one for {_period(begins, ends)}, want one for {at:%Y-%m-%dT%H:%M:%SZ}",
                hint="get the maker's current one",
            )
    return SignedReferenceValues(values, signer, signing_key)


# --- Writing ---------------------------------------------------------------------------------------------------------


def _corim_map(values: ReferenceValueSet) -> dict[int, Any]:
    triples = [
        [_environment_map(value.environment), [_measurement_map(item) for item in value.measurements]]
        for value in values.values
    ]
    identity = _id_value(values.id)
    comid = {1: {0: identity}, 4: {0: triples}}
    corim: dict[int, Any] = {0: identity, 1: [Tagged(_COMID, encode(comid))]}
    if values.profile is not None:
        corim[3] = (
            Tagged(_OID, _oid_content(values.profile))
            if _DOTTED.fullmatch(values.profile)
            else Tagged(_URI, values.profile)
        )
    if values.not_before is not None or values.not_after is not None:
        corim[4] = _validity_map(values.not_before, values.not_after)
    return corim


def _id_value(identity: str | UUID) -> str | bytes:
    return identity.bytes if isinstance(identity, UUID) else identity


def _validity_map(not_before: datetime | None, not_after: datetime | None) -> dict[int, Any]:
    if not_after is None:
        raise UsageError("cannot encode CoRIM: validity: found a beginning and no end, want an end")
    validity = {1: Tagged(_TIME, int(not_after.timestamp()))}
    if not_before is not None:
        validity[0] = Tagged(_TIME, int(not_before.timestamp()))
    return validity


def _environment_map(environment: Environment) -> dict[int, Any]:
    class_id = environment.class_id
    tagged: Tagged | None = None
    if isinstance(class_id, str):
        tagged = Tagged(_OID, _oid_content(class_id))
    elif isinstance(class_id, UUID):
        tagged = Tagged(_UUID, class_id.bytes)
    elif class_id is not None:
        tagged = Tagged(_BYTES, class_id)
    members = (tagged, environment.vendor, environment.model, environment.layer, environment.index)
    return {0: {number: member for number, member in enumerate(members) if member is not None}}


def _measurement_map(measurement: Measurement) -> dict[int, Any]:
    if measurement.svn is not None and measurement.min_svn is not None:
        raise UsageError("cannot encode CoRIM: svn: found one and a minimum, want either")
    values: dict[int, Any] = {}
    if measurement.svn is not None:
        values[1] = measurement.svn
    if measurement.min_svn is not None:
        values[1] = Tagged(_MIN_SVN, measurement.min_svn)
    if measurement.digests:
        values[2] = _digest_list(measurement.digests)
    if measurement.raw_mask is not None:
        values[4] = Tagged(_MASKED, [measurement.raw, measurement.raw_mask])
    elif measurement.raw is not None:
        values[4] = Tagged(_BYTES, measurement.raw)
    if measurement.name is not None:
        values[11] = measurement.name
    if measurement.registers:
        values[14] = {register: _digest_list(digests) for register, digests in measurement.registers.items()}
    return {1: values} if measurement.key is None else {0: measurement.key, 1: values}


def _digest_list(digests: tuple[Digest, ...]) -> list[list[Any]]:
    return [[_NUMBER_OF_DIGEST.get(digest.algorithm, digest.algorithm), digest.value] for digest in digests]


# --- Reading ---------------------------------------------------------------------------------------------------------


def _read_corim(value: Any, profiles: frozenset[str]) -> ReferenceValueSet:
    corim = _members(value, "the document", {0, 1, 3, 4, 5}, needed={0, 1})
    profile = None
    if 3 in corim:
        profile = _read_profile(corim[3])
        if profile not in profiles:
            raise _refusal("profile", _short(profile), "none, or one that is known here")
    _check_entities(corim.get(5), "entities")
    not_before, not_after = _read_validity(corim.get(4), "rim-validity")
    values: list[ReferenceValue] = []
    for tag in _list(corim[1], "tags"):
        if type(tag) is not Tagged or tag.tag != _COMID:
            raise _refusal(
                "tags", f"the tag {tag.tag}" if type(tag) is Tagged else _short(tag), f"CoMIDs, tag {_COMID}"
            )
        content = _typed(tag.value, bytes, "tags")
        values += _read_comid(decode_untrusted(content, max_bytes=MAX_CORIM_BYTES, what="CoMID", tags=_TAGS))
        if len(values) > _MAX_ITEMS:
            raise _refusal("tags", f"more than {_MAX_ITEMS} triples", "fewer")
    return ReferenceValueSet(
        id=_read_id(corim[0], "id"), values=tuple(values), not_before=not_before, not_after=not_after, profile=profile
    )


def _read_comid(value: Any) -> list[ReferenceValue]:
    comid = _members(value, "CoMID", {0, 1, 2, 4}, needed={1, 4})
    if 0 in comid:
        _text(comid[0], "CoMID: language")
    _check_entities(comid.get(2), "CoMID: entities")
    identity = _members(comid[1], "CoMID: tag-identity", {0, 1}, needed={0})
    _read_id(identity[0], "CoMID: tag-id")
    _uint(identity.get(1, 0), "CoMID: tag-version")
    triples = _typed(comid[4], dict, "triples")
    for number in triples:
        if number != 0:
            raise _refusal(
                "triples", _TRIPLES.get(number, f"the kind {_short(number)}"), "reference values and nothing else"
            )
    return [_read_triple(triple) for triple in _list(triples.get(0), "reference-triples")]


def _read_triple(value: Any) -> ReferenceValue:
    if type(value) is not list or len(value) != 2:
        raise _refusal("reference-triples", _short(value), "an environment and its measurements")
    return ReferenceValue(
        environment=_read_environment(value[0]),
        measurements=tuple(_read_measurement(item) for item in _list(value[1], "ref-claims")),
    )


def _read_environment(value: Any) -> Environment:
    environment = _members(value, "environment: instance and group are for one machine", {0}, needed={0})
    members = _members(environment[0], "class", {0, 1, 2, 3, 4}, needed=set())
    if not members:
        raise _refusal("class", "nothing", "an identifier, a vendor or a model")
    return Environment(
        class_id=_read_class_id(members[0]) if 0 in members else None,
        vendor=_text(members[1], "vendor") if 1 in members else None,
        model=_text(members[2], "model") if 2 in members else None,
        layer=_uint(members[3], "layer") if 3 in members else None,
        index=_uint(members[4], "index") if 4 in members else None,
    )


def _read_class_id(value: Any) -> str | UUID | bytes:
    if type(value) is Tagged and type(value.value) is bytes and value.value:
        if value.tag == _OID:
            return _dotted(value.value)
        if value.tag == _UUID and len(value.value) == 16:
            return UUID(bytes=value.value)
        if value.tag == _BYTES:
            return value.value
    raise _refusal("class-id", _short(value), "an object identifier, a UUID or tagged bytes")


def _read_measurement(value: Any) -> Measurement:
    measurement = _members(value, "measurement", {0, 1}, needed={1})
    values = _members(measurement[1], "measurement values", {1, 2, 4, 11, 14}, needed=set())
    if not values.keys() & {1, 2, 4, 14}:
        raise _refusal(
            "measurement values", "nothing to compare", "digests, a version number, a raw value or registers"
        )
    key = measurement.get(0)
    if key is not None:
        key = _uint(key, "mkey") if type(key) is int else _text(key, "mkey")
    svn, min_svn = _read_svn(values[1]) if 1 in values else (None, None)
    raw, raw_mask = _read_raw(values[4]) if 4 in values else (None, None)
    registers = {}
    if 14 in values:
        registers = {
            _uint(register, "register") if type(register) is int else _text(register, "register"): _read_digests(
                digests
            )
            for register, digests in _typed(values[14], dict, "integrity-registers").items()
        }
        if not registers:
            raise _refusal("integrity-registers", "none", "at least one")
    return Measurement(
        key=key,
        digests=_read_digests(values[2]) if 2 in values else (),
        svn=svn,
        min_svn=min_svn,
        raw=raw,
        raw_mask=raw_mask,
        name=_text(values[11], "name") if 11 in values else None,
        registers=registers,
    )


def _read_svn(value: Any) -> tuple[int | None, int | None]:
    if type(value) is Tagged and value.tag == _MIN_SVN:
        return None, _uint(value.value, "min-svn")
    if type(value) is Tagged and value.tag == _SVN:
        value = value.value
    return _uint(value, "svn"), None


def _read_raw(value: Any) -> tuple[bytes, bytes | None]:
    if type(value) is Tagged and value.tag == _BYTES:
        return _typed(value.value, bytes, "raw-value"), None
    if type(value) is Tagged and value.tag == _MASKED:
        parts = value.value
        if (
            type(parts) is list
            and [type(part) for part in parts] == [bytes, bytes]
            and len(parts[0]) == len(parts[1])
            and any(parts[1])
        ):
            return parts[0], parts[1]
    raise _refusal("raw-value", _short(value), "tagged bytes, or a value and a mask of its length that is not zero")


def _read_digests(value: Any) -> tuple[Digest, ...]:
    found = []
    for item in _list(value, "digests"):
        if type(item) is not list or len(item) != 2:
            raise _refusal("digests", _short(item), "an algorithm and a value")
        algorithm = _DIGEST_NUMBERS.get(item[0], "") if type(item[0]) is int else item[0]
        size = DIGEST_BYTES.get(algorithm) if type(algorithm) is str else None
        if type(algorithm) is not str or size is None:
            raise _refusal("digests", f"the algorithm {_short(item[0])}", ", ".join(DIGEST_BYTES))
        if type(item[1]) is not bytes or len(item[1]) != size:
            raise _refusal("digests", _short(item[1]), f"{size} bytes")
        found.append(Digest(algorithm, item[1]))
    return tuple(found)


def _read_signer(header: Mapping[Any, Any]) -> tuple[str, tuple[datetime | None, datetime | None]]:
    """Return the signer's name and when the signature holds, out of the signed header."""
    if header.get(_CONTENT_TYPE) != MEDIA_TYPE_UNSIGNED:
        raise _refusal("content type", _short(header.get(_CONTENT_TYPE)), MEDIA_TYPE_UNSIGNED)
    unknown = header.keys() - {cose.ALG, _CONTENT_TYPE, 4, _META, _CWT_CLAIMS, 33, 34}
    if unknown:
        # A key id and certificates name the signer; anything else could say how the payload is to be taken.
        raise _refusal("protected header", f"the parameter {_short(min(unknown, key=str))}", "none that is unknown")
    signer: str | None = None
    begins: datetime | None = None
    ends: datetime | None = None
    if _META in header:
        signer, (begins, ends) = _read_meta(_typed(header[_META], bytes, "corim-meta"))
    if _CWT_CLAIMS in header:
        claims = _typed(header[_CWT_CLAIMS], dict, "CWT claims")
        issuer = _text(claims.get(_ISS), "CWT claims: iss")
        nbf = _seconds(claims[_NBF], "CWT claims: nbf") if _NBF in claims else None
        exp = _seconds(claims[_EXP], "CWT claims: exp") if _EXP in claims else None
        signer = signer or issuer
        begins = max(filter(None, (begins, nbf)), default=None)
        ends = min(filter(None, (ends, exp)), default=None)
    if signer is None:
        raise _refusal("protected header", "no signer", "corim-meta or CWT claims")
    return signer, (begins, ends)


def _read_meta(data: bytes) -> tuple[str, tuple[datetime | None, datetime | None]]:
    value = decode_untrusted(data, max_bytes=MAX_CORIM_BYTES, what="corim-meta", tags=frozenset({_TIME, _URI}))
    meta = _members(value, "corim-meta", {0, 1}, needed={0})
    signer = _members(meta[0], "corim-meta: signer", {0, 1}, needed={0})
    if 1 in signer:
        _read_uri(signer[1], "corim-meta: signer-uri")
    return _text(signer[0], "corim-meta: signer-name"), _read_validity(meta.get(1), "signature-validity")


def _read_validity(value: Any, where: str) -> tuple[datetime | None, datetime | None]:
    if value is None:
        return None, None
    members = _members(value, where, {0, 1}, needed={1})
    not_before = _seconds(_untag(members[0], _TIME, where), where) if 0 in members else None
    not_after = _seconds(_untag(members[1], _TIME, where), where)
    if not_before is not None and not_before > not_after:
        raise _refusal(where, "an end before the beginning", "one after it")
    return not_before, not_after


def _read_profile(value: Any) -> str:
    if type(value) is Tagged and value.tag == _OID:
        return _dotted(_typed(value.value, bytes, "profile"))
    return _read_uri(value, "profile")


def _read_uri(value: Any, where: str) -> str:
    return _text(_untag(value, _URI, where), where)


def _read_id(value: Any, where: str) -> str | UUID:
    if type(value) is bytes and len(value) == 16:
        return UUID(bytes=value)
    return _text(value, where)


def _check_entities(value: Any, where: str) -> None:
    """Look at who is named; the names change nothing."""
    if value is None:
        return
    for item in _list(value, where):
        entity = _members(item, where, {0, 1, 2}, needed={0, 2})
        _text(entity[0], where)
        if 1 in entity:
            _read_uri(entity[1], where)
        for role in _list(entity[2], where):
            _typed(role, int, where)


def _members(value: Any, where: str, known: set[int], *, needed: set[int]) -> dict[Any, Any]:
    members: dict[Any, Any] = _typed(value, dict, where)
    unknown = members.keys() - known
    if unknown:
        raise _refusal(where, f"the key {_short(min(unknown, key=str))}", "none that is unknown here")
    missing = needed - members.keys()
    if missing:
        raise _refusal(where, f"no key {min(missing)}", "it")
    return members


def _untag(value: Any, tag: int, where: str) -> Any:
    if type(value) is not Tagged or value.tag != tag:
        raise _refusal(where, f"the tag {value.tag}" if type(value) is Tagged else _short(value), f"the tag {tag}")
    return value.value


def _list(value: Any, where: str) -> list[Any]:
    if type(value) is not list or not 0 < len(value) <= _MAX_ITEMS:
        raise _refusal(where, _short(value), f"a list of 1 to {_MAX_ITEMS}")
    return value


def _typed(value: Any, kind: Callable[..., Any], where: str) -> Any:
    if type(value) is not kind:
        raise _refusal(where, _short(value), str(getattr(kind, "__name__", kind)))
    return value


def _text(value: Any, where: str) -> str:
    if type(value) is not str or not 0 < len(value) <= _MAX_TEXT_CHARS or not value.isprintable():
        raise _refusal(where, _short(value), f"printable text of at most {_MAX_TEXT_CHARS} characters")
    return value


def _uint(value: Any, where: str) -> int:
    if type(value) is not int or value < 0:
        raise _refusal(where, _short(value), "a number from 0")
    return value


def _seconds(value: Any, where: str) -> datetime:
    if type(value) is not int or not 0 <= value < 1 << 34:
        raise _refusal(where, _short(value), "whole seconds since 1970")
    return datetime.fromtimestamp(value, UTC)


def _oid_content(dotted: str) -> bytes:
    """Return the content of an object identifier in DER, without its head."""
    if not _DOTTED.fullmatch(dotted):
        raise UsageError(f"cannot encode CoRIM: object identifier: found {_short(dotted)}, want a dotted one")
    first, second, *rest = map(int, dotted.split("."))
    if first < 2 and second > 39:
        raise UsageError(f"cannot encode CoRIM: object identifier: found {dotted}, want at most 39 after 0 or 1")
    return b"".join(_base128(number) for number in (first * 40 + second, *rest))


def _base128(number: int) -> bytes:
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(number & 0x7F | 0x80)
    return bytes(reversed(digits))


def _dotted(content: bytes) -> str:
    """Return an object identifier's dotted form; each number is in its shortest form."""
    numbers: list[int] = []
    number, started = 0, False
    for byte in content:
        if byte == 0x80 and not started:
            break
        number, started = number << 7 | byte & 0x7F, byte >= 0x80
        if number >> 35:
            break
        if not started:
            numbers.append(number)
            number = 0
    else:
        if numbers and not started:
            first = min(numbers[0] // 40, 2)
            text = ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))
            if _DOTTED.fullmatch(text):
                return text
    raise _refusal("object identifier", content.hex()[:64] or "nothing", "numbers in their shortest form")


def _period(begins: datetime | None, ends: datetime | None) -> str:
    return " to ".join("ever" if end is None else f"{end:%Y-%m-%dT%H:%M:%SZ}" for end in (begins, ends))


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    if type(value) is bytes:
        return f"{len(value)} bytes"
    return repr(value)[:64] if type(value) in {str, int, bool} else type(value).__name__


def _refusal(where: str, found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode CoRIM: {where}: found {found}, want {want}")
