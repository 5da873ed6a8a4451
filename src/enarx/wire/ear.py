# SPDX-License-Identifier: Apache-2.0
"""Signed attestation results: EAR, as a JWT and as a CWT.

What holds it together: an `AttestationResult` becomes an `Ear`, an `Ear` becomes claims by name (JSON) or by number (CBOR), and
the claims are signed; then the same way back. One table says which finding feeds which claim of the trustworthiness vector.

Rules of this file:

- Nothing is more trustworthy in an EAR than in the result. Not authentic is 99 for the hardware and silence about the rest; what is
  undecided is silence about everything; what rests on an emulated platform is at most a warning.
- Silence about what runs is no consent: `affirming` needs hardware, configuration and executables to be affirming. The draft would
  allow more; a relying party that reads nothing but the status must not take "genuine, running anything" for trust.
- The algorithm is the key's: ES256, ES384 or Ed25519, and with COSE the same three by number. `none`, HMAC and whatever else a token
  names are refused before anything is verified.
- A status better than the vector under it is refused when it is read; claims that nobody here knows are ignored, as the draft says.

The names with `_` and the labels 1000 to 1006 are those of draft 04. Earlier drafts have names with `.`, and so have verifiers that
follow them; their profile is another one, and it is refused.

Source: draft-ietf-rats-ear-04; draft-ietf-rats-ar4si-09; RFC 9711 (EAT); RFC 7515; RFC 8392; RFC 9864.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from enarx.crypto import cose
from enarx.crypto.cbor import MAX_ITEMS, decode_untrusted, encode
from enarx.errors import DecodeError, UsageError, VerificationError
from enarx.rats import AttestationResult, Concern, Finding, Outcome, Verdict
from enarx.wire.strict_json import load_json_untrusted

__all__ = [
    "CLAIM_OF_FINDING",
    "EAR_PROFILE",
    "MAX_EAR_BYTES",
    "MEDIA_TYPE_CWT",
    "MEDIA_TYPE_JWT",
    "Appraisal",
    "Ear",
    "Tier",
    "TrustVector",
    "build_ear",
    "claim_of",
    "decode_ear_cwt_untrusted",
    "ear_claims",
    "sign_ear_cwt",
    "sign_ear_jwt",
    "tier_of",
    "verify_ear_cwt",
    "verify_ear_jwt",
]

EAR_PROFILE = "tag:ietf.org,2026:rats/ear#04"
MEDIA_TYPE_JWT = "application/eat+jwt"
MEDIA_TYPE_CWT = "application/eat+cwt"
MAX_EAR_BYTES = 256 << 10
SUBMODULE = "cpu0"
"""What the one attester of a result is called; Trustee's name for it, so that its policies find it."""

CLOCK_SKEW_S = 60
_END_S = 1 << 34
"""Whole seconds since 1970 are fewer."""
_MAX_SUBMODULES = 64
_MAX_TEXT_CHARS = 4096
_MAX_FAILURES = 64
_COSE_TYP = 16  # RFC 9596
_JOSE_ALGORITHMS: Mapping[str, str] = {"secp256r1": "ES256", "secp384r1": "ES384"}
_ATOMS = frozenset({bytes, str, int, bool, type(None)})

# CWT labels: RFC 8392, RFC 9711 and the draft.
_LABELS: Mapping[str, int] = {
    "exp": 4, "iat": 6, "eat_nonce": 10, "eat_profile": 265, "submods": 266, "ear_status": 1000, "ear_trustworthiness_vector": 1001,
    "ear_raw_evidence": 1002, "ear_appraisal_policy_ids": 1003, "ear_verifier_id": 1004, "ear_attester_claims": 1005,
    "ear_verifier_claims": 1006,
}  # fmt: skip
_VERIFIER_LABELS: Mapping[str, int] = {"developer": 0, "build": 1}

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class Tier(IntEnum):
    """How much an appraisal says for an attester. A greater number is worse, but for `NONE`, which says nothing."""

    NONE = 0
    AFFIRMING = 2
    WARNING = 32
    CONTRAINDICATED = 96


class TrustVector(NamedTuple):
    """The AR4SI trustworthiness claims, -128 to 127 each; 0 says nothing.

    Spec: draft-ietf-rats-ar4si-09 section 2.3.
    """

    instance_identity: int = 0
    configuration: int = 0
    executables: int = 0
    file_system: int = 0
    hardware: int = 0
    runtime_opaque: int = 0
    storage_opaque: int = 0
    sourced_data: int = 0


class _Values(NamedTuple):
    """What a trustworthiness claim is where its findings passed, and where one failed."""

    good: int
    bad: int


_VALUES: Mapping[str, _Values] = {
    "instance_identity": _Values(2, 97),  # recognised; not recognised though it should be
    "configuration": _Values(2, 96),  # approved; unsupportable
    "executables": _Values(3, 96),  # approved at boot, which is when they are measured; contraindicated
    "hardware": _Values(2, 96),  # genuine; genuine and contraindicated
}
_VOUCHES = re.compile(r"\.(?:measurement|mr_td|mr_enclave|mr_signer|pcr\d+|rim|id_key_digest|author_key_digest)$")
_NOT_AUTHENTIC = 99
_UNSAFE_HARDWARE = 32
_ENCRYPTED_MEMORY = 2
_ENCRYPTS_MEMORY = frozenset({"snp", "tdx", "sgx", "azure-snp", "azure-tdx"})
_GOOD_TCB = "UpToDate"
_REVOKED_TCB = "Revoked"


class _Row(NamedTuple):
    """Findings of appraisal whose id has a part that is one of these words feed the claim."""

    claim: str
    words: re.Pattern[str]


def _row(claim: str, words: str) -> _Row:
    return _Row(claim, re.compile(rf"(?:^|\.)(?:{words})(?:\.|$)"))


CLAIM_OF_FINDING: tuple[_Row, ...] = (
    # Which processor or machine it is, and that it answers now.
    _row(
        "instance_identity",
        "(?:masked_)?chip_id|ppid|platform_instance_id|instance_id|module_id|vm_id|ak(?:_trust|_certificate)?|report_id(?:_ma)?|csp_id"
        "|report_data|nonce|max_age_s",
    ),
    # What was measured, or who vouches for what was measured.
    _row(
        "executables",
        r"measurement|mr_td|rtmr\d|mr_enclave|mr_signer|isv_svn|pcr\d+|event_log|rim|rem\d|id_key_digest|author_key_digest",
    ),
    # The processor, its firmware and the vendor's word on them.
    _row(
        "hardware",
        r"tee|version|product|signing_key|firmware|tcb|\w*tcb_\w+|platform_info|mitigations|revocation|mr_seam|mrsignerseam"
        r"|seam_attributes|qe_svn|pce_svn|advisory_ids|out_of_date_days|collateral_age_days|fmspc|pck_ca|sgx_type|dynamic_platform"
        r"|cached_keys|lifecycle|implementation_id|sw_components|paravisor",
    ),
)
"""The first row that fits decides. All findings of authenticity feed `hardware`; appraisal findings that no row fits feed
`configuration`. Registers that are extended later (RTMR, REM) and event logs can speak against executables and not for them: only a
check that is in `_VOUCHES` makes them affirming. `file_system`, `storage_opaque` and `sourced_data` are never claimed: no evidence here says anything of them.
`runtime_opaque` is 2 where genuine hardware encrypts memory by its nature, which is the TEEs in `_ENCRYPTS_MEMORY`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Appraisal:
    """What is said of one attester.

    Args:
        status: no better than the vector.
        vector: None where none was given.
        policy_ids: of the policies that were applied, in their order.
        nonce: 8 to 64 bytes from the evidence, or None.
        verifier_claims: what the verifier adds, by name; values are text, numbers, truth values, and lists and maps of these.
    """

    status: Tier
    vector: TrustVector | None = None
    policy_ids: tuple[str, ...] = ()
    nonce: bytes | None = None
    verifier_claims: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ear:
    """An attestation result for a relying party elsewhere.

    Args:
        issued_at: aware, whole seconds.
        developer: who made the verifier.
        build: which one it is.
        submods: an appraisal for each attester, at least one.
        status: for all of them, or None.
        expires_at: aware, whole seconds; None where it does not.
        nonce: 8 to 64 bytes from whoever asked for the result, or None.
    """

    issued_at: datetime
    developer: str
    build: str
    submods: Mapping[str, Appraisal]
    status: Tier | None = None
    expires_at: datetime | None = None
    nonce: bytes | None = None


# --- From a result ---------------------------------------------------------------------------------------------------


def build_ear(
    result: AttestationResult,
    *,
    issued_at: datetime,
    evidence_sha256: bytes,
    build: str,
    developer: str = "enarx",
    nonce: bytes | None = None,
    evidence_nonce: bytes | None = None,
    policy_ids: tuple[str, ...] | None = None,
) -> Ear:
    """Say what a verifier concluded in the terms of EAR.

    Args:
        result: the verifier's.
        issued_at: aware.
        evidence_sha256: of the evidence as it was handed in, 32 bytes.
        build: of the verifier: its version.
        developer: of the verifier.
        nonce: from whoever asked for the EAR, 8 to 64 bytes, or None.
        evidence_nonce: that the evidence was found to carry, 8 to 64 bytes, or None.
        policy_ids: None is the policy's name.

    Returns:
        An EAR with the one submodule `cpu0`. It ends when the first endorsement ends that the result rests on.
    """
    vector = _vector_of(result)
    status = _status_of(result, vector)
    claims: dict[str, Any] = {
        "enarx_tee": result.tee,
        "enarx_verdict": str(result.verdict),
        "enarx_evidence_sha256": evidence_sha256.hex(),
        "enarx_judged_at": int(result.at.timestamp()),
        "enarx_emulated": result.emulated,
    }
    if result.tcb_status is not None:
        claims["enarx_tcb_status"] = result.tcb_status
        claims["enarx_advisory_ids"] = list(result.advisory_ids)
    if result.verdict is not Verdict.ACCEPTED:
        claims["enarx_failures"] = sorted({finding.check.id for finding in result.failures})[:_MAX_FAILURES]
    appraisal = Appraisal(
        status=status,
        vector=vector,
        policy_ids=(result.policy_name,) if policy_ids is None else policy_ids,
        nonce=evidence_nonce,
        verifier_claims=claims,
    )
    return Ear(
        issued_at=issued_at.astimezone(UTC).replace(microsecond=0),
        developer=developer,
        build=build,
        submods={SUBMODULE: appraisal},
        status=status,
        expires_at=None if result.valid_until is None else result.valid_until.astimezone(UTC).replace(microsecond=0),
        nonce=nonce,
    )


def claim_of(finding: Finding) -> str:
    """Return which claim of the vector a finding feeds, as `CLAIM_OF_FINDING` says."""
    return "hardware" if finding.check.concern is Concern.AUTHENTICITY else _claim_of_check(finding.check.id)


# There are as many checks as are written down, and nobody else names one.
@lru_cache(maxsize=1024)
def _claim_of_check(check_id: str) -> str:
    return next((claim for claim, words in CLAIM_OF_FINDING if words.search(check_id)), "configuration")


# Evidence of one kind that passes one policy passes the same checks.
@lru_cache(maxsize=64)
def _claims_of(check_ids: tuple[str, ...]) -> frozenset[str]:
    """Return the claims for which checks speak that passed. Of what was measured, only those that compare it with a value do."""
    claims = [(_claim_of_check(each), each) for each in check_ids]
    return frozenset(claim for claim, each in claims if claim != "executables" or _VOUCHES.search(each))


def tier_of(value: int) -> Tier:
    """Return the tier of a trustworthiness claim, -128 to 127.

    Spec: draft-ietf-rats-ar4si-09 section 2.3.2.
    """
    if -1 <= value <= 1:
        return Tier.NONE
    if -32 <= value <= 31:
        return Tier.AFFIRMING
    if -96 <= value <= 95:
        return Tier.WARNING
    return Tier.CONTRAINDICATED


def _vector_of(result: AttestationResult) -> TrustVector:
    verdict = result.verdict
    if verdict is Verdict.UNDECIDED:
        return TrustVector()
    if verdict is Verdict.NOT_AUTHENTIC:
        return TrustVector(hardware=_NOT_AUTHENTIC)
    # Asked for outside of the loops: they go over fifty findings.
    good, genuine = Outcome.PASSED, Concern.AUTHENTICITY
    checks = [finding.check for finding in result.findings if finding.outcome is good]
    appraised = [check.id for check in checks if check.concern is not genuine]
    passed = _claims_of(tuple(appraised))
    if len(appraised) < len(checks):
        passed |= {"hardware"}
    failed = {claim_of(each) for each in result.failures}
    values = {
        claim: known.bad if claim in failed else known.good if claim in passed else 0
        for claim, known in _VALUES.items()
    }
    values["hardware"] = max(values["hardware"], _hardware_at_least(result))
    if values["hardware"] == _VALUES["hardware"].good and result.tee in _ENCRYPTS_MEMORY:
        values["runtime_opaque"] = _ENCRYPTED_MEMORY
    return TrustVector(**values)


def _hardware_at_least(result: AttestationResult) -> int:
    """Return what the hardware claim is at least, whatever was accepted."""
    if result.tcb_status == _REVOKED_TCB:
        return _VALUES["hardware"].bad
    if result.emulated or result.tcb_status not in {None, _GOOD_TCB}:
        return _UNSAFE_HARDWARE
    return 0


def _status_of(result: AttestationResult, vector: TrustVector) -> Tier:
    if result.verdict is Verdict.UNDECIDED:
        return Tier.NONE
    if result.verdict is not Verdict.ACCEPTED:
        return Tier.CONTRAINDICATED
    worst = max(map(tier_of, vector))
    needed = (vector.hardware, vector.configuration, vector.executables)
    if worst is Tier.AFFIRMING and not all(tier_of(value) is Tier.AFFIRMING for value in needed):
        return Tier.WARNING
    # Whatever the vector came to say, this is the line that keeps an emulated platform from being affirmed.
    return max(worst, Tier.WARNING) if result.emulated or worst is Tier.NONE else worst


# --- Signing and verifying -------------------------------------------------------------------------------------------


def sign_ear_jwt(ear: Ear, key: PrivateKey) -> str:
    """Return the EAR as a signed JWT in compact serialisation.

    Args:
        ear: what to say.
        key: on P-256, P-384 or Ed25519.

    Raises:
        UsageError: another key, or an EAR that would be refused when it is read.

    Spec: RFC 7515; RFC 9864 for the name Ed25519.
    """
    from joserfc import jws

    algorithm = _jose_algorithm(key)
    try:
        payload = json.dumps(ear_claims(ear), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"cannot encode EAR: found {error}") from error
    try:
        _decode_json(payload)
    except DecodeError as error:
        raise UsageError(f"cannot encode EAR: {error}") from error
    header = {"alg": algorithm, "typ": "eat+jwt"}
    return jws.serialize_compact(header, payload, _jwk(key), algorithms=[algorithm])


def verify_ear_jwt(token: str | bytes, keys: Sequence[PublicKey], *, at: datetime) -> Ear:
    """Return what a JWT says, once it is known to be from one of the keys.

    Args:
        token: in compact serialisation, at most `MAX_EAR_BYTES`.
        keys: of verifiers that are trusted, at least one.
        at: the time to judge for, aware.

    Raises:
        DecodeError: not a JWT, or not an EAR.
        VerificationError: of none of the keys, expired, or from the future.
    """
    from joserfc import jws
    from joserfc.errors import JoseError

    data = token.encode("utf-8", "replace") if isinstance(token, str) else token
    if len(data) > MAX_EAR_BYTES:
        raise _refusal("size", f"{len(data)} bytes", f"at most {MAX_EAR_BYTES}")
    parts = data.split(b".")
    if len(parts) != 3:
        raise _refusal("JWT", f"{len(parts)} parts", "a header, a payload and a signature")
    header, payload, _ = (_decode_base64url(part, "JWT") for part in parts)
    algorithm = _algorithm_in(load_json_untrusted(header, what="EAR's header", max_bytes=MAX_EAR_BYTES))
    for key in _usable(keys):
        if _jose_algorithm(key) != algorithm:
            continue
        try:
            jws.deserialize_compact(data, _jwk(key), algorithms=[algorithm])
        except (JoseError, ValueError, TypeError):
            continue
        return _in_time(_decode_json(payload), at)
    raise _not_ours(algorithm)


def sign_ear_cwt(ear: Ear, key: PrivateKey) -> bytes:
    """Return the EAR as a CWT: a COSE_Sign1 message with its tag.

    Args:
        ear: what to say.
        key: on P-256, P-384 or Ed25519.

    Raises:
        UsageError: another key, or an EAR that would be refused when it is read.

    Spec: RFC 8392; RFC 9052; RFC 9596 for the type in the header.
    """
    _jose_algorithm(key)
    try:
        payload = encode(_claims(ear, _CBOR))
    except (TypeError, ValueError) as error:
        raise UsageError(f"cannot encode EAR: found {error}") from error
    try:
        # There is one encoding of what is not deep, so it need not be decoded to know what whoever reads it would find.
        if len(payload) <= MAX_ITEMS and all(_is_flat(each.verifier_claims) for each in ear.submods.values()):
            _require_readable(ear)
        else:
            _decode_cbor(payload)
    except DecodeError as error:
        raise UsageError(f"cannot encode EAR: {error}") from error
    return cose.sign(payload, key, protected={_COSE_TYP: MEDIA_TYPE_CWT})


def verify_ear_cwt(data: bytes, keys: Sequence[PublicKey], *, at: datetime) -> Ear:
    """Return what a CWT says, once it is known to be from one of the keys.

    Args:
        data: a COSE_Sign1 message, at most `MAX_EAR_BYTES`.
        keys: as for `verify_ear_jwt`.
        at: likewise.

    Raises:
        DecodeError: not a COSE_Sign1 message, or not an EAR.
        VerificationError: of none of the keys, expired, or from the future.
    """
    message = _parse_cwt(data)
    for key in _usable(keys):
        if cose.verifies(message, key):
            return _in_time(_decode_cbor(message.payload), at)
    raise _not_ours(cose.algorithm_name(message.algorithm))


def decode_ear_cwt_untrusted(data: bytes) -> Ear:
    """Return what a CWT says, whoever signed it and whenever it ends: for who has another reason to believe it.

    Raises:
        DecodeError: not a COSE_Sign1 message, or not an EAR.
    """
    return _decode_cbor(_parse_cwt(data).payload)


def _parse_cwt(data: bytes) -> cose.Sign1:
    message = cose.parse_sign1_untrusted(data, max_bytes=MAX_EAR_BYTES, what="EAR")
    if message.header.get(_COSE_TYP, MEDIA_TYPE_CWT) != MEDIA_TYPE_CWT:
        raise _refusal("the header's typ", "another", MEDIA_TYPE_CWT)
    return message


def _jose_algorithm(key: PublicKey | PrivateKey) -> str:
    # Whatever the type says: people choose the files that keys are read from.
    curve = getattr(key, "curve", None)
    if curve is None and isinstance(key, ed25519.Ed25519PublicKey | ed25519.Ed25519PrivateKey):
        return "Ed25519"
    name = getattr(curve, "name", type(key).__name__)
    algorithm = _JOSE_ALGORITHMS.get(name)
    if algorithm is None:
        raise UsageError(f"cannot use the key: found {name}, want P-256, P-384 or Ed25519")
    return algorithm


def _usable(keys: Sequence[PublicKey]) -> Sequence[PublicKey]:
    if not keys:
        raise UsageError("cannot verify EAR: found no key, want at least one")
    for key in keys:
        _jose_algorithm(key)
    return keys


def _jwk(key: PublicKey | PrivateKey) -> Any:
    from joserfc.jwk import ECKey, OKPKey

    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        return ECKey.import_key(key)
    return OKPKey.import_key(key)


def _algorithm_in(header: Any) -> str:
    """Return the algorithm that a JWS header names, and refuse all that would change what the rest means."""
    if type(header) is not dict or not header.keys() <= {"alg", "typ", "kid", "cty"}:
        raise _refusal("the header", "other members", "alg, and perhaps typ, cty and kid")
    if header.get("typ", "eat+jwt") not in ["eat+jwt", "JWT", MEDIA_TYPE_JWT]:
        raise _refusal("the header's typ", "another", "eat+jwt")
    if "cty" in header:
        raise _refusal("the header's cty", "one", "none: a token in a token is not an EAR")
    algorithm = header.get("alg")
    if type(algorithm) is not str or algorithm not in {"ES256", "ES384", "Ed25519"}:
        raise _refusal("the header's alg", _short(algorithm), "ES256, ES384 or Ed25519")
    return algorithm


def _in_time(ear: Ear, at: datetime) -> Ear:
    if at.tzinfo is None:
        raise UsageError("cannot verify EAR: at: found a naive time, want an aware one")
    if ear.expires_at is not None and at >= ear.expires_at:
        raise VerificationError(
            f"cannot accept the EAR: it ended: found {ear.expires_at:%Y-%m-%dT%H:%M:%SZ}, want a time after {at:%Y-%m-%dT%H:%M:%SZ}",
            hint="ask the verifier for a new one",
        )
    if (ear.issued_at - at).total_seconds() > CLOCK_SKEW_S:
        raise VerificationError(
            f"cannot accept the EAR: it is from the future: found {ear.issued_at:%Y-%m-%dT%H:%M:%SZ}, want {at:%Y-%m-%dT%H:%M:%SZ} or before",
            hint="compare the clocks of both machines",
        )
    return ear


def _not_ours(algorithm: str) -> VerificationError:
    return VerificationError(
        f"cannot accept the EAR: signature: found none by a trusted key with {algorithm}, want one",
        hint="pass the public key of the verifier that signed it",
    )


# --- Claims ----------------------------------------------------------------------------------------------------------


class _Form(NamedTuple):
    """How JSON or CBOR has what an EAR says.

    Args:
        is_json: whether it is JSON.
        claims: the label of each claim.
        verifier: those of the members of the verifier's name.
        vector: those of the claims of the vector, in its order.
    """

    is_json: bool
    claims: Mapping[str, Any]
    verifier: Mapping[str, Any]
    vector: tuple[Any, ...]


_VECTOR_NAMES = tuple(name.replace("_", "-") for name in TrustVector._fields)
_JSON = _Form(True, {name: name for name in _LABELS}, {name: name for name in _VERIFIER_LABELS}, _VECTOR_NAMES)
_CBOR = _Form(False, _LABELS, _VERIFIER_LABELS, tuple(range(len(_VECTOR_NAMES))))


def ear_claims(ear: Ear) -> dict[str, Any]:
    """Return the claims by their names in JSON, nonces in base64url."""
    return _claims(ear, _JSON)


def _claims(ear: Ear, form: _Form) -> dict[Any, Any]:
    """Return the claims as a form has them."""
    labels = form.claims
    claims: dict[Any, Any] = {labels["eat_profile"]: EAR_PROFILE, labels["iat"]: int(ear.issued_at.timestamp())}
    if ear.expires_at is not None:
        claims[labels["exp"]] = int(ear.expires_at.timestamp())
    if ear.nonce is not None:
        claims[labels["eat_nonce"]] = _base64url(ear.nonce) if form.is_json else ear.nonce
    claims[labels["ear_verifier_id"]] = {
        form.verifier["developer"]: ear.developer,
        form.verifier["build"]: ear.build,
    }
    if ear.status is not None:
        claims[labels["ear_status"]] = _status_name(ear.status) if form.is_json else int(ear.status)
    claims[labels["submods"]] = {name: _appraisal_claims(each, form) for name, each in ear.submods.items()}
    return claims


def _appraisal_claims(appraisal: Appraisal, form: _Form) -> dict[Any, Any]:
    labels, status = form.claims, appraisal.status
    claims: dict[Any, Any] = {labels["ear_status"]: _status_name(status) if form.is_json else int(status)}
    if appraisal.vector is not None:
        claims[labels["ear_trustworthiness_vector"]] = dict(zip(form.vector, appraisal.vector, strict=True))
    if appraisal.policy_ids:
        claims[labels["ear_appraisal_policy_ids"]] = list(appraisal.policy_ids)
    if appraisal.nonce is not None:
        claims[labels["eat_nonce"]] = _base64url(appraisal.nonce) if form.is_json else appraisal.nonce
    if appraisal.verifier_claims:
        claims[labels["ear_verifier_claims"]] = dict(appraisal.verifier_claims)
    return claims


def _decode_json(payload: bytes) -> Ear:
    return _Reader(_JSON).ear(load_json_untrusted(payload, what="EAR", max_bytes=MAX_EAR_BYTES))


def _decode_cbor(payload: bytes) -> Ear:
    return _Reader(_CBOR).ear(decode_untrusted(payload, max_bytes=MAX_EAR_BYTES, what="EAR"))


def _require_readable(ear: Ear) -> None:
    """Refuse what `_Reader` refuses of the claims of an EAR, by what they are made of.

    Raises:
        DecodeError: as there.
    """
    _require_seconds(ear.issued_at, "iat")
    if ear.expires_at is not None:
        _require_seconds(ear.expires_at, "exp")
    _text(ear.developer, "developer")
    _text(ear.build, "build")
    _nonce(ear.nonce)
    submods = ear.submods
    if not 0 < len(submods) <= _MAX_SUBMODULES:
        raise _refusal("submods", str(len(submods)), f"1 to {_MAX_SUBMODULES}")
    worst = Tier.NONE
    for name, appraisal in submods.items():
        _text(name, "submods")
        for policy in appraisal.policy_ids:
            _text(policy, "ear_appraisal_policy_ids")
        _nonce(appraisal.nonce)
        if appraisal.vector is not None:
            for claim, value in zip(TrustVector._fields, appraisal.vector, strict=True):
                _claim(value, claim)
            _no_better(appraisal.status, max(map(tier_of, appraisal.vector)))
        worst = max(worst, appraisal.status)
    if ear.status is not None:
        _no_better(ear.status, worst)


class _Reader:
    """Reads claims by name or by number, and refuses those of another type."""

    def __init__(self, form: _Form) -> None:
        self.form = form
        self.labels = form.claims

    def ear(self, claims: Any) -> Ear:
        claims = _map(claims, "the claims")
        profile = self.get(claims, "eat_profile")
        if profile != EAR_PROFILE:
            raise _refusal("eat_profile", _short(profile), EAR_PROFILE)
        verifier = _map(self.get(claims, "ear_verifier_id"), "ear_verifier_id")
        submods = _map(self.get(claims, "submods"), "submods")
        if not 0 < len(submods) <= _MAX_SUBMODULES:
            raise _refusal("submods", str(len(submods)), f"1 to {_MAX_SUBMODULES}")
        appraisals = {_text(name, "submods"): self.appraisal(value) for name, value in submods.items()}
        status = self.get(claims, "ear_status")
        tier = None if status is None else self.tier(status)
        if tier is not None:
            _no_better(tier, max(appraisal.status for appraisal in appraisals.values()))
        expires = self.get(claims, "exp")
        return Ear(
            issued_at=_time(self.get(claims, "iat"), "iat"),
            developer=_text(verifier.get(self.form.verifier["developer"]), "developer"),
            build=_text(verifier.get(self.form.verifier["build"]), "build"),
            submods=appraisals,
            status=tier,
            expires_at=None if expires is None else _time(expires, "exp"),
            nonce=self.nonce(claims),
        )

    def appraisal(self, value: Any) -> Appraisal:
        claims = _map(value, "submods")
        tier = self.tier(self.get(claims, "ear_status"))
        vector = self.vector(claims)
        if vector is not None:
            _no_better(tier, max(map(tier_of, vector)))
        policies = self.get(claims, "ear_appraisal_policy_ids")
        if policies is not None and (type(policies) is not list or not policies):
            raise _refusal("ear_appraisal_policy_ids", _short(policies), "a list of names")
        added = self.get(claims, "ear_verifier_claims")
        return Appraisal(
            status=tier,
            vector=vector,
            policy_ids=tuple(_text(policy, "ear_appraisal_policy_ids") for policy in policies or ()),
            nonce=self.nonce(claims),
            verifier_claims={} if added is None else _map(added, "ear_verifier_claims"),
        )

    def vector(self, claims: Mapping[Any, Any]) -> TrustVector | None:
        found = self.get(claims, "ear_trustworthiness_vector")
        if found is None:
            return None
        found = _map(found, "ear_trustworthiness_vector")
        values: dict[str, int] = {}
        for label, name in zip(self.form.vector, TrustVector._fields, strict=True):
            value = found.get(label)
            if value is not None:
                values[name] = _claim(value, name)
        return TrustVector(**values)

    def tier(self, value: Any) -> Tier:
        if self.form.is_json and type(value) is str and value.islower() and value.upper() in Tier.__members__:
            return Tier[value.upper()]
        if not self.form.is_json and type(value) is int and value in {0, 2, 32, 96}:
            return Tier(value)
        raise _refusal("ear_status", _short(value), "none, affirming, warning or contraindicated")

    def nonce(self, claims: Mapping[Any, Any]) -> bytes | None:
        value = self.get(claims, "eat_nonce")
        if value is not None and self.form.is_json:
            value = _decode_base64url(value.encode("utf-8", "replace"), "eat_nonce") if type(value) is str else b""
        return _nonce(value)

    def get(self, claims: Mapping[Any, Any], name: str) -> Any:
        return claims.get(self.labels[name])


def _map(value: Any, where: str) -> dict[Any, Any]:
    if type(value) is not dict:
        raise _refusal(where, _short(value), "a map")
    return value


def _text(value: Any, where: str) -> str:
    if type(value) is not str or len(value) > _MAX_TEXT_CHARS:
        raise _refusal(where, _short(value), f"text of at most {_MAX_TEXT_CHARS} characters")
    return value


def _time(value: Any, where: str) -> datetime:
    if type(value) is not int or not 0 <= value < _END_S:
        raise _refusal(where, _short(value), "whole seconds since 1970")
    return datetime.fromtimestamp(value, UTC)


def _require_seconds(at: datetime, where: str) -> None:
    if not 0 <= int(at.timestamp()) < _END_S:
        raise _refusal(where, at.isoformat(), "whole seconds since 1970")


def _nonce(value: Any) -> bytes | None:
    if value is not None and (type(value) is not bytes or not 8 <= len(value) <= 64):
        raise _refusal("eat_nonce", _short(value), "8 to 64 bytes")
    return value


def _claim(value: Any, name: str) -> int:
    if type(value) is not int or not -128 <= value <= 127:
        raise _refusal(f"ear_trustworthiness_vector: {name}", _short(value), "-128 to 127")
    return value


def _no_better(status: Tier, worst: Tier) -> None:
    if status is not Tier.NONE and status < worst:
        raise _refusal("ear_status", _status_name(status), f"nothing better than {_status_name(worst)}")


def _status_name(tier: Tier | None) -> str:
    return "none" if tier is None else tier.name.lower()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode_base64url(data: bytes, where: str) -> bytes:
    """Decode base64url without padding, each value in its one form."""
    try:
        value = base64.b64decode(data + b"=" * (-len(data) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise _refusal(where, str(error), "base64url without padding") from error
    if _base64url(value).encode() != data:
        raise _refusal(where, "another form", "base64url without padding")
    return value


def _is_flat(claims: Mapping[str, Any]) -> bool:
    """Say whether claims are plain values and lists of such."""
    return all(
        type(value) in _ATOMS or (type(value) is list and _ATOMS.issuperset(map(type, value)))
        for value in claims.values()
    )


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    return repr(value)[:64] if type(value) in {str, int, bool} else type(value).__name__


def _refusal(where: str, found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode EAR: {where}: found {found}, want {want}")
