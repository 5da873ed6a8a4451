# SPDX-License-Identifier: Apache-2.0
"""Judging CCA tokens: those of known platforms are accepted, and nothing else is."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enarx.abi.cca import COLLECTION_TAG, LEGACY_COLLECTION_TAG, encode_token, parse_token_untrusted
from enarx.crypto.cbor import encode
from enarx.crypto.cose import encode_key, encode_sign1
from enarx.errors import DecodeError, EndorsementError, VerificationError
from enarx.rats import (
    AppraisalPolicy,
    AttestationResult,
    Endorsements,
    Evidence,
    Outcome,
    Skip,
    TrustAnchors,
    Verdict,
)
from enarx.testing.cca import CcaPlatform
from enarx.verifier import TrustCache, baseline_policy, verify_evidence
from enarx.verifier.appraisal import apply_rules
from enarx.verifier.cca import JUDGE, LEGACY_PROFILE, PLATFORM_PROFILE, REALM_PROFILE
from enarx.verifier.ledger import Ledger, Setting
from tests.evidence import cases, needs_evidence, read
from tests.soak import STEP

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
PLATFORM = CcaPlatform()
LEGACY = CcaPlatform(is_legacy=True)
RULES = {rule.key: rule for rule in JUDGE.rules}
REASONS = {"platform_signature_invalid": "cca.platform.signature", "realm_signature_invalid": "cca.realm.signature"}
# SubjectPublicKeyInfo up to the point, which may then be on its curve or not.
SPKI = {
    "P-256": bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200"),
    "P-384": bytes.fromhex("3076301006072a8648ce3d020106052b81040022036200"),
}


def policy(**values: Any) -> AppraisalPolicy:
    """Return the baseline with other values, each as a policy file has it."""
    expectations = dict(baseline_policy("cca").expectations)
    for name, value in values.items():
        expectations[f"cca.{name}"] = RULES[f"cca.{name}"].grammar.decode(value)
    return AppraisalPolicy(name="test", expectations=expectations, tees=frozenset({"cca"}))


def judge(
    data: bytes,
    *,
    anchors: TrustAnchors = PLATFORM.anchors,
    cache: TrustCache | None = None,
    report_data: bytes | None = None,
    **values: Any,
) -> AttestationResult:
    setting = Setting(at=AT, anchors=anchors, cache=cache or TrustCache(), report_data=report_data)
    ledger = Ledger()
    examined = JUDGE.examine(parse_token_untrusted(data), Endorsements(), setting, ledger)
    for part in examined.parts:
        apply_rules(JUDGE, part, policy(**values), setting, ledger)
    return AttestationResult(
        tee=examined.tee, subject=examined.claims, findings=tuple(ledger.findings), at=AT, policy_name="test"
    )


def failed(result: AttestationResult) -> set[str]:
    return {finding.check.id for finding in result.findings if finding.outcome is Outcome.FAILED}


def accepts(data: bytes, **options: Any) -> AttestationResult:
    result = judge(data, **options)
    assert (result.verdict, failed(result)) == (Verdict.ACCEPTED, set())
    return result


def refuses(data: bytes, *checks: str, verdict: Verdict = Verdict.NOT_AUTHENTIC, **options: Any) -> AttestationResult:
    result = judge(data, **options)
    assert (result.verdict, failed(result)) == (verdict, {f"cca.{check}" for check in checks})
    return result


# --- Tokens of others ------------------------------------------------------------------------------------------------


def anchors_of(case: dict[str, Any]) -> TrustAnchors:
    """Return trust in the key of a case, a JWK or a list with one inside, for the platform of its token."""
    found = json.loads(read(case["inputs"]["cpak"]))
    jwk = found[0]["pkey"] if isinstance(found, list) else found
    point = b"".join(base64.urlsafe_b64decode(jwk[name] + "==") for name in ("x", "y"))
    token = parse_token_untrusted(read(case["inputs"]["token"]))
    return TrustAnchors(cca={token.platform.instance_id: SPKI[jwk["crv"]] + b"\x04" + point})


@needs_evidence
@pytest.mark.parametrize("case", cases("cca"), ids=lambda case: case["id"])
def test_gives_tokens_of_others_their_verdict(case: dict[str, Any]):
    evidence = Evidence(data=read(case["inputs"]["token"]))
    result = verify_evidence(evidence, at=AT, anchors=anchors_of(case))
    assert (result.verdict is Verdict.ACCEPTED) == (case["verdict"] == "valid")
    assert failed(result) == {REASONS[reason] for reason in case["reasons"]}


def valid_cases() -> list[dict[str, Any]]:
    return [case for case in cases("cca") if case["verdict"] == "valid"]


@needs_evidence
@pytest.mark.parametrize("case", valid_cases(), ids=lambda case: case["id"])
def test_does_not_decide_about_a_platform_without_its_key(case: dict[str, Any]):
    data = read(case["inputs"]["token"])
    accepts(data, anchors=anchors_of(case))
    result = judge(data)
    assert result.verdict is Verdict.UNDECIDED
    with pytest.raises(EndorsementError, match="no such trust anchor"):
        result.require()


@needs_evidence
def test_refuses_parts_of_tokens_of_others_put_together():
    swapped = 0
    tokens = [(case, parse_token_untrusted(read(case["inputs"]["token"]))) for case in valid_cases()]
    for case, token in tokens:
        anchors = anchors_of(case)
        accepts(token.serialise(), anchors=anchors)
        for _, other in tokens:
            if other.realm.public_key == token.realm.public_key and (
                other.realm.public_key_hash_algorithm == token.realm.public_key_hash_algorithm
            ):
                continue
            platform, realm = encode_sign1(token.platform_message), encode_sign1(other.realm_message)
            refuses(encode_token(platform=platform, realm=realm), "binding", anchors=anchors)
            swapped += 1
    assert swapped


def refuses_flip(data: bytes, bit: int, *, anchors: TrustAnchors, cache: TrustCache) -> None:
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        result = judge(bytes(flipped), anchors=anchors, cache=cache)
    except DecodeError:
        return
    # A flip in the instance id makes it another platform's, whose key is not known: that is undecided, not accepted.
    if result.verdict is Verdict.UNDECIDED:
        token, original = parse_token_untrusted(bytes(flipped)), parse_token_untrusted(data)
        assert token.platform.instance_id != original.platform.instance_id, f"bit {bit}"
    else:
        assert result.verdict is Verdict.NOT_AUTHENTIC, f"bit {bit}"
        assert failed(result) & {"cca.platform.signature", "cca.realm.signature", "cca.realm.key"}, f"bit {bit}"


def flip_bits(data: bytes, anchors: TrustAnchors, *, step: int) -> None:
    cache = TrustCache()
    accepts(data, anchors=anchors, cache=cache)
    for bit in range(0, 8 * len(data), step):
        refuses_flip(data, bit, anchors=anchors, cache=cache)


@needs_evidence
@pytest.mark.parametrize("case", valid_cases()[:2], ids=lambda case: case["id"])
def test_refuses_flipped_bits_of_tokens_of_others(case: dict[str, Any]):
    flip_bits(read(case["inputs"]["token"]), anchors_of(case), step=23)


@needs_evidence
@pytest.mark.soak
@pytest.mark.parametrize("case", valid_cases(), ids=lambda case: case["id"])
def test_refuses_every_flipped_bit_of_tokens_of_others(case: dict[str, Any]):
    flip_bits(read(case["inputs"]["token"]), anchors_of(case), step=STEP)


# --- Authenticity ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", [LEGACY_COLLECTION_TAG, COLLECTION_TAG])
@pytest.mark.parametrize("platform", [PLATFORM, LEGACY], ids=["2023", "legacy"])
@pytest.mark.parametrize("rak_hash", ["sha-256", "sha-384", "sha-512"])
def test_accepts_tokens_of_known_platforms(tag: int, platform: CcaPlatform, rak_hash: str):
    result = accepts(platform.token(tag=tag, rak_hash=rak_hash), anchors=platform.anchors)
    assert result.tee == "cca"
    assert result.claims["platform_instance_id"] == platform.instance_id
    assert next(finding.anchor for finding in result.findings if finding.anchor).startswith("CPAK 01")


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_accepts_platform_keys_on_each_curve(curve: ec.EllipticCurve):
    platform = CcaPlatform(cpak=ec.generate_private_key(curve))
    accepts(platform.token(), anchors=platform.anchors)


def test_comes_to_the_same_verdict_with_a_warm_cache():
    cache, good = TrustCache(), PLATFORM.token()
    other = ec.generate_private_key(ec.SECP384R1())
    for _ in range(2):
        accepts(good, cache=cache)
        refuses(PLATFORM.token(platform_signer=other), "platform.signature", cache=cache)
        refuses(PLATFORM.token(realm_signer=other), "realm.signature", cache=cache)
        refuses(good, "platform.signature", anchors=TrustAnchors(cca={PLATFORM.instance_id: LEGACY.spki}), cache=cache)


def test_refuses_tokens_that_other_keys_signed():
    accepts(PLATFORM.token())
    other = ec.generate_private_key(ec.SECP384R1())
    refuses(PLATFORM.token(platform_signer=other), "platform.signature")
    refuses(PLATFORM.token(realm_signer=other), "realm.signature")


def test_refuses_another_algorithm_than_the_platform_keys():
    other = ec.generate_private_key(ec.SECP256R1())
    refuses(PLATFORM.token(platform_signer=other), "platform.algorithm", "platform.signature")
    refuses(PLATFORM.token(realm_signer=other), "realm.algorithm", "realm.signature")


def test_refuses_a_platform_key_that_is_no_key():
    for spki in (b"", b"\x30", SPKI["P-384"] + b"\x04" + bytes(96)):
        refuses(PLATFORM.token(), "platform.signature", anchors=TrustAnchors(cca={PLATFORM.instance_id: spki}))


def test_refuses_a_platform_key_of_another_kind():
    spki = (
        ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    refuses(PLATFORM.token(), "platform.signature", anchors=TrustAnchors(cca={PLATFORM.instance_id: spki}))


def test_does_not_decide_without_the_platform_key_and_still_checks_the_realm():
    result = judge(PLATFORM.token(), anchors=TrustAnchors())
    assert (result.verdict, failed(result)) == (Verdict.UNDECIDED, set())
    with pytest.raises(EndorsementError, match=r"cca\.platform\.signature undecided"):
        result.require()
    forged = PLATFORM.token(realm_signer=ec.generate_private_key(ec.SECP384R1()))
    refuses(forged, "realm.signature", anchors=TrustAnchors())


def test_refuses_a_realm_token_with_a_key_that_the_platform_did_not_name():
    # A realm token that is right in itself, by a key of the forger's.
    forger = CcaPlatform(cpak=PLATFORM.cpak)
    platform = encode_sign1(parse_token_untrusted(PLATFORM.token()).platform_message)
    realm = encode_sign1(parse_token_untrusted(forger.token()).realm_message)
    refuses(encode_token(platform=platform, realm=realm), "binding")


@pytest.mark.parametrize("algorithm", ["sha-384", "sha-512", "sha-1", "SHA-256", "sha256", ""])
def test_refuses_a_hash_of_the_realm_key_with_another_algorithm(algorithm: str):
    accepts(PLATFORM.token())
    if algorithm:
        refuses(PLATFORM.token(realm={44240: algorithm}), "binding")
    else:
        with pytest.raises(DecodeError, match="cca-realm-public-key-hash-algo-id"):
            judge(PLATFORM.token(realm={44240: algorithm}))


def test_refuses_unknown_profiles():
    refuses(PLATFORM.token(platform={265: "tag:arm.com,2030:cca_platform#9"}), "platform.profile")
    refuses(PLATFORM.token(realm={265: "tag:arm.com,2030:realm#9"}), "realm.profile")


def test_accepts_a_new_realm_on_a_platform_of_the_legacy_profile():
    accepts(PLATFORM.token(platform={265: LEGACY_PROFILE}))


def bound(platform: CcaPlatform, key: bytes) -> bytes:
    """Return a token whose platform names the hash of this realm key."""
    import hashlib

    return platform.token(platform={10: hashlib.sha256(key).digest()}, realm={44237: key})


def test_refuses_a_realm_key_that_has_not_its_profiles_form():
    point, cose_key = LEGACY.realm_key(), encode_key(PLATFORM.rak.public_key())
    accepts(bound(PLATFORM, cose_key))
    for key in (
        PLATFORM.rak.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        cose_key + b"\0",
        cose_key[:-1],
        encode_key(ed25519.Ed25519PrivateKey.generate().public_key()),
        encode({1: 2, -1: 2, -2: bytes(48), -3: bytes(48)}),
        b"\xa1\x01\x02",
    ):
        refuses(bound(PLATFORM, key), "realm.key", "realm.signature")
    accepts(bound(LEGACY, point), anchors=LEGACY.anchors)
    for key in (
        encode_key(LEGACY.rak.public_key()),
        point[:-1],
        b"\x06" + point[1:],
        b"\x04" + bytes(96),
        b"\x02" + point[1:49],
    ):
        refuses(bound(LEGACY, key), "realm.key", "realm.signature", anchors=LEGACY.anchors)


@pytest.mark.parametrize("platform", [PLATFORM, LEGACY], ids=["2023", "legacy"])
def test_refuses_flipped_bits_of_a_token(platform: CcaPlatform):
    flip_bits(platform.token(), platform.anchors, step=29)


def test_refuses_every_flipped_bit_of_both_signatures():
    data, cache = PLATFORM.token(), TrustCache()
    token = parse_token_untrusted(data)
    accepts(data, cache=cache)
    for message in (token.platform_message, token.realm_message):
        start = 8 * data.index(message.signature)
        for bit in range(start, start + 8 * 96, 3):
            refuses_flip(data, bit, anchors=PLATFORM.anchors, cache=cache)


# --- Appraisal -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lifecycle", [0x3000, 0x3003, 0x30FF])
def test_accepts_a_secured_platform_without_a_policy(lifecycle: int):
    accepts(PLATFORM.token(platform={2395: lifecycle}))


@pytest.mark.parametrize("lifecycle", [0, 0x1000, 0x2FFF, 0x3100, 0x4000, 0x5000, 0x6000, 0xFFFF])
def test_refuses_a_platform_that_is_not_secured_without_a_policy(lifecycle: int):
    refuses(PLATFORM.token(platform={2395: lifecycle}), "lifecycle", verdict=Verdict.REFUSED)


def test_accepts_another_state_where_a_policy_names_it():
    data = PLATFORM.token(platform={2395: 0x4001})
    accepts(data, lifecycle=["secured", "non-platform-RoT debug"])
    refuses(data, "lifecycle", lifecycle=["secured", "decommissioned"], verdict=Verdict.REFUSED)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("implementation_id", ["33" * 32], ["00" * 32]),
        ("instance_id", [PLATFORM.instance_id.hex()], ["01" * 33]),
        ("config", ["cfcfcfcf"], ["cfcfcf00"]),
        ("platform_profile", [PLATFORM_PROFILE], [LEGACY_PROFILE]),
        ("realm_profile", [REALM_PROFILE], ["legacy"]),
        ("platform_hash_algorithm", ["sha-256"], ["sha-512"]),
        ("realm_hash_algorithm", ["sha-256", "sha-384"], ["sha-384"]),
        ("rak_hash_algorithm", ["sha-256"], ["sha-384"]),
        ("rim", ["77" * 32], ["77" * 48]),
        ("rem0", ["80" * 32], ["81" * 32]),
        ("rem1", ["81" * 32], ["80" * 32]),
        ("rem2", ["82" * 32], ["80" * 32]),
        ("rem3", ["83" * 32], ["80" * 32]),
        ("personalization", ["66" * 64], ["00" * 64]),
    ],
)
def test_appraises_what_the_token_says(name: str, good: Any, bad: Any):
    data = PLATFORM.token()
    accepts(data, **{name: good})
    refuses(data, name, verdict=Verdict.REFUSED, **{name: bad})


@pytest.mark.parametrize(
    ("entries", "ok"),
    [
        ([{"signer_id": "22" * 32}], True),
        ([{"measurement": "11" * 32}, {"measurement": "44" * 32, "type": "RMM"}], True),
        (
            [{"measurement": "11" * 32, "version": "1.0.0", "type": "BL2", "signer_id": "22" * 32}, {"type": "RMM"}],
            True,
        ),
        ([{"measurement": "11" * 32}], False),
        ([{"measurement": "11" * 32, "version": "2.0.0"}, {"type": "RMM"}], False),
        ([{"signer_id": "22" * 48}], False),
        ([{"type": "BL2"}, {"type": "rmm"}], False),
    ],
)
def test_knows_each_component_of_the_firmware(entries: list[dict[str, str]], ok: bool):
    data = PLATFORM.token()
    if ok:
        accepts(data, sw_components=entries)
    else:
        result = refuses(data, "sw_components", sw_components=entries, verdict=Verdict.REFUSED)
        assert "RMM sha-256" in result.failures[0].line


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        "BL2",
        [{}],
        ["BL2"],
        [{"kind": "BL2"}],
        [{"type": ""}],
        [{"type": 1}],
        [{"measurement": "11" * 31}],
        [{"measurement": "xx"}],
        [{"signer_id": 5}],
    ],
)
def test_refuses_reference_values_that_say_nothing(value: Any):
    with pytest.raises(ValueError, match="want a list of tables"):
        RULES["cca.sw_components"].grammar.decode(value)


def test_an_empty_list_of_components_meets_nothing():
    expectation = RULES["cca.sw_components"].grammar.decode([{"type": "BL2"}])
    assert not expectation.holds(())
    assert not expectation.holds(None)
    assert str(expectation) == "each one of type=BL2"


def test_compares_the_challenge_with_the_callers():
    data = PLATFORM.token(realm={10: b"challenge".ljust(64, b"\0")})
    accepts(data, report_data=b"challenge", nonce="from-caller")
    accepts(data, report_data=b"challenge".ljust(64, b"\0"))
    refuses(data, "nonce", report_data=b"Challenge", verdict=Verdict.REFUSED)
    refuses(data, "nonce", report_data=b"challenge".ljust(65, b"\0"), verdict=Verdict.REFUSED)


def test_does_not_decide_without_the_callers_challenge():
    assert judge(PLATFORM.token(), nonce="from-caller").verdict is Verdict.UNDECIDED


def test_the_strict_policy_can_be_read_and_wants_a_secured_platform():
    import tomllib

    missing = set()
    for rule in JUDGE.rules:
        assert rule.key == rule.check.id
        if rule.strict is None:
            missing.add(rule.key)
            continue
        value = tomllib.loads(f"value = {rule.strict}")["value"]
        expectation = Skip(value["skip"]) if isinstance(value, dict) else rule.grammar.decode(value)
        assert rule.key != "cca.lifecycle" or not expectation.holds("non-platform-RoT debug")
    assert missing == {"cca.implementation_id", "cca.config", "cca.sw_components", "cca.rim"}


def test_judges_through_the_public_api():
    evidence = Evidence(data=PLATFORM.token(tag=COLLECTION_TAG))
    verify_evidence(evidence, at=AT, anchors=PLATFORM.anchors).require()
    forged = Evidence(data=PLATFORM.token(realm_signer=PLATFORM.cpak))
    with pytest.raises(VerificationError, match=r"cca\.realm\.signature failed"):
        verify_evidence(forged, at=AT, anchors=PLATFORM.anchors).require()
