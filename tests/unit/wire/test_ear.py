# SPDX-License-Identifier: Apache-2.0
"""Tests of signed attestation results. The claims sets are those of draft-ietf-rats-ear-04, figures 3 and 5."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.crypto import cose
from enarx.crypto.cbor import MAX_DEPTH, encode
from enarx.errors import DecodeError, UsageError, VerificationError
from enarx.rats import AttestationResult, Check, Concern, Finding, Outcome
from enarx.verifier.registry import judge_of
from enarx.wire import ear as ear_module
from enarx.wire.ear import (
    EAR_PROFILE,
    MAX_EAR_BYTES,
    Appraisal,
    Ear,
    Tier,
    TrustVector,
    build_ear,
    claim_of,
    decode_ear_cwt_untrusted,
    ear_claims,
    sign_ear_cwt,
    sign_ear_jwt,
    tier_of,
    verify_ear_cwt,
    verify_ear_jwt,
)

AT = datetime(2026, 11, 21, 8, tzinfo=UTC)


def nested(depth):
    """A list in lists."""
    value = ["inside"]
    for _ in range(depth):
        value = [value]
    return value


P256 = ec.derive_private_key(11, ec.SECP256R1())
P384 = ec.derive_private_key(12, ec.SECP384R1())
OKP = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\x01")
KEYS = [P256, P384, OKP]
SHA = hashlib.sha256(b"evidence").digest()

FIGURE_3 = {
    "eat_profile": "tag:ietf.org,2026:rats/ear#04",
    "iat": 1666529184,
    "ear_verifier_id": {"developer": "https://veraison-project.org", "build": "vts 0.0.1"},
    "ear_raw_evidence": "NzQ3MjY5NzM2NTYzNzQK",
    "submods": {
        "PSA": {
            "ear_status": "contraindicated",
            "ear_trustworthiness_vector": {"instance-identity": 2, "executables": 96, "hardware": 2},
            "ear_appraisal_policy_ids": ["https://veraison.example/policy/1/60a0068d"],
        }
    },
}
FIGURE_5 = {
    265: "tag:ietf.org,2026:rats/ear#04",
    6: 1666529184,
    1004: {0: "https://veraison-project.org", 1: "vts 0.0.1"},
    1002: bytes.fromhex("6c696665626f61746d616e"),
    266: {
        "PSA": {1000: 96, 1001: {0: 2, 2: 96, 4: 2}, 1003: ["https://veraison.example/policy/1/60a0068d"]},
    },
}
THE_DRAFT_S = Ear(
    issued_at=datetime.fromtimestamp(1666529184, UTC),
    developer="https://veraison-project.org",
    build="vts 0.0.1",
    submods={
        "PSA": Appraisal(
            status=Tier.CONTRAINDICATED,
            vector=TrustVector(instance_identity=2, executables=96, hardware=2),
            policy_ids=("https://veraison.example/policy/1/60a0068d",),
        )
    },
)


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def sign_claims(claims, key=P256, **header):
    """Sign what our own writer would refuse to write."""
    from joserfc import jws

    algorithm = ear_module._jose_algorithm(key.public_key())
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    return jws.serialize_compact(
        {"alg": algorithm, **header}, payload, ear_module._jwk(key), algorithms=[algorithm]
    )  # fmt: skip


def finding(name, outcome=Outcome.PASSED, concern=Concern.APPRAISAL):
    return Finding(Check(name, "", concern, ""), outcome, 1, 1, "test")


GENUINE = finding("snp.report.signature", concern=Concern.AUTHENTICITY)
GOOD = (GENUINE, finding("snp.guest_policy.debug"), finding("snp.measurement"), finding("snp.chip_id"))


def result(*findings, **changes):
    values = {"tee": "snp", "subject": None, "at": AT, "policy_name": "policy.toml", **changes}
    return AttestationResult(findings=findings, **values)


def build(judged, **changes):
    return build_ear(judged, issued_at=AT, evidence_sha256=SHA, build="1.2.3", **changes)


def vector_of(judged):
    return build(judged).submods["cpu0"].vector


def status_of(judged):
    return build(judged).status


# --- What a result becomes -------------------------------------------------------------------------------------------


def test_an_accepted_result_with_measured_code_is_affirming():
    built = build(result(*GOOD))
    assert built.status is Tier.AFFIRMING
    assert built.submods["cpu0"].status is Tier.AFFIRMING
    assert built.submods["cpu0"].vector == TrustVector(2, 2, 3, 0, 2, 2, 0, 0)
    assert built.submods["cpu0"].policy_ids == ("policy.toml",)
    assert built.submods["cpu0"].verifier_claims == {
        "enarx_tee": "snp",
        "enarx_verdict": "accepted",
        "enarx_evidence_sha256": SHA.hex(),
        "enarx_judged_at": int(AT.timestamp()),
        "enarx_emulated": False,
    }


@pytest.mark.parametrize("left_out", range(3))
def test_silence_about_hardware_configuration_or_code_is_a_warning(left_out):
    assert status_of(result(*(item for number, item in enumerate(GOOD) if number != left_out))) is Tier.WARNING


def test_a_skipped_check_says_nothing():
    judged = result(*GOOD[:2], finding("snp.measurement", Outcome.SKIPPED))
    assert vector_of(judged).executables == 0
    assert status_of(judged) is Tier.WARNING


@pytest.mark.parametrize(
    ("name", "claim", "value"),
    [
        ("snp.measurement", "executables", 96),
        ("tdx.rtmr1", "executables", 96),
        ("snp.chip_id", "instance_identity", 97),
        ("snp.report_data", "instance_identity", 97),
        ("snp.guest_policy.debug", "configuration", 96),
        ("snp.tcb.reported", "hardware", 96),
    ],
)
def test_what_is_refused_is_contraindicated_where_it_belongs(name, claim, value):
    judged = result(*GOOD, finding(name, Outcome.FAILED))
    assert getattr(vector_of(judged), claim) == value
    assert status_of(judged) is Tier.CONTRAINDICATED
    assert build(judged).submods["cpu0"].verifier_claims["enarx_failures"] == [name]


def test_what_is_not_authentic_says_nothing_else():
    judged = result(*GOOD, finding("snp.vek.hwid", Outcome.FAILED, Concern.AUTHENTICITY))
    assert vector_of(judged) == TrustVector(hardware=99)
    assert status_of(judged) is Tier.CONTRAINDICATED


def test_what_is_undecided_is_neither_yes_nor_no():
    judged = result(*GOOD, finding("snp.chain.revocation", Outcome.UNDECIDED, Concern.AUTHENTICITY))
    assert vector_of(judged) == TrustVector()
    assert status_of(judged) is Tier.NONE


def test_an_emulated_platform_is_never_affirmed():
    judged = result(*GOOD, emulated=True)
    assert vector_of(judged).hardware == 32
    assert vector_of(judged).runtime_opaque == 0
    assert status_of(judged) is Tier.WARNING
    assert build(judged).submods["cpu0"].verifier_claims["enarx_emulated"] is True


OUTCOMES = st.sampled_from([Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED, Outcome.NOTED, Outcome.UNDECIDED])
NAMES = st.sampled_from(["snp.measurement", "snp.chip_id", "snp.vmpl", "snp.tcb.reported", "tdx.rtmr0", "x.nonce"])
FINDINGS = st.lists(st.builds(finding, NAMES, OUTCOMES, st.sampled_from(list(Concern))), max_size=8)
STATUSES = st.sampled_from([None, "UpToDate", "OutOfDate", "SWHardeningNeeded", "Revoked", "Novel"])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(FINDINGS, st.booleans(), STATUSES)
def test_no_result_is_better_signed_than_judged(findings, emulated, tcb_status):
    judged = result(*findings, emulated=emulated, tcb_status=tcb_status)
    built = build(judged)
    if built.status is Tier.AFFIRMING:
        assert not emulated
        assert judged.verdict == "accepted"
        assert tcb_status in {None, "UpToDate"}
        assert {claim_of(item) for item in findings if item.outcome is Outcome.PASSED} >= {
            "hardware",
            "executables",
            "configuration",
        }
        assert "snp.measurement" in {item.check.id for item in findings if item.outcome is Outcome.PASSED}
    if judged.verdict in {"refused", "not authentic"}:
        assert built.status is Tier.CONTRAINDICATED
    assert verify_ear_cwt(sign_ear_cwt(built, P256), [P256.public_key()], at=AT) == built


@pytest.mark.parametrize(
    ("tcb_status", "hardware", "status"),
    [
        ("UpToDate", 2, Tier.AFFIRMING),
        ("OutOfDate", 32, Tier.WARNING),
        ("SWHardeningNeeded", 32, Tier.WARNING),
        ("a word of tomorrow", 32, Tier.WARNING),
        ("Revoked", 96, Tier.CONTRAINDICATED),
    ],
)
def test_intel_s_word_bounds_the_hardware(tcb_status, hardware, status):
    judged = result(*GOOD, tee="tdx", tcb_status=tcb_status, advisory_ids=("INTEL-SA-00615",))
    assert vector_of(judged).hardware == hardware
    assert status_of(judged) is status
    claims = build(judged).submods["cpu0"].verifier_claims
    assert (claims["enarx_tcb_status"], claims["enarx_advisory_ids"]) == (tcb_status, ["INTEL-SA-00615"])


def test_only_tees_that_encrypt_memory_say_so():
    assert vector_of(result(*GOOD, tee="nitro")).runtime_opaque == 0
    assert vector_of(result(*GOOD, tee="azure-tdx")).runtime_opaque == 2


@pytest.mark.parametrize(
    ("section", "code"),
    [
        ("snp", {"snp.measurement"}),
        ("tdx", {"tdx.mr_td"}),
        ("sgx", {"sgx.mr_enclave", "sgx.mr_signer"}),
        ("nitro", {"nitro.pcr0"}),
        ("cca", {"cca.rim"}),
        ("tpm", {"tpm.pcr0"}),
        ("azure", {"azure.pcr0"}),
    ],
)
def test_the_table_fits_the_checks_of_every_verifier(section, code):
    checks = [rule.check for rule in judge_of(section).rules]
    passed = [GENUINE, *(Finding(check, Outcome.PASSED, 1, 1, "test") for check in checks)]
    assert code <= {check.id for check in checks}
    assert status_of(result(*passed, tee=section)) is Tier.AFFIRMING
    without = [item for item in passed if not ear_module._VOUCHES.search(item.check.id)]
    assert status_of(result(*without, tee=section)) is Tier.WARNING


def test_the_result_ends_with_its_endorsements():
    assert build(result(*GOOD, valid_until=AT + timedelta(days=3))).expires_at == AT + timedelta(days=3)
    assert build(result(*GOOD)).expires_at is None


@pytest.mark.parametrize(
    ("value", "tier"),
    [
        (-128, Tier.CONTRAINDICATED), (-97, Tier.CONTRAINDICATED), (-96, Tier.WARNING), (-33, Tier.WARNING), (-32, Tier.AFFIRMING),
        (-2, Tier.AFFIRMING), (-1, Tier.NONE), (0, Tier.NONE), (1, Tier.NONE), (2, Tier.AFFIRMING), (31, Tier.AFFIRMING),
        (32, Tier.WARNING), (95, Tier.WARNING), (96, Tier.CONTRAINDICATED), (127, Tier.CONTRAINDICATED),
    ],
)  # fmt: skip
def test_the_tiers_are_those_of_ar4si(value, tier):
    assert tier_of(value) is tier


# --- JWT and CWT -----------------------------------------------------------------------------------------------------

FULL = replace(
    build(result(*GOOD, valid_until=AT + timedelta(hours=1)), nonce=b"12345678", evidence_nonce=bytes(16)),
    developer="enarx Ω",
)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("ear", [FULL, THE_DRAFT_S], ids=["ours", "the draft's"])
def test_what_was_signed_is_read(key, ear):
    others = [other.public_key() for other in KEYS if other is not key]
    assert verify_ear_jwt(sign_ear_jwt(ear, key), [*others, key.public_key()], at=AT) == ear
    assert verify_ear_cwt(sign_ear_cwt(ear, key), [*others, key.public_key()], at=AT) == ear
    with pytest.raises(VerificationError, match="signature"):
        verify_ear_jwt(sign_ear_jwt(ear, key), others, at=AT)
    with pytest.raises(VerificationError, match="signature"):
        verify_ear_cwt(sign_ear_cwt(ear, key), others, at=AT)


def test_reads_the_draft_s_claims():
    assert verify_ear_jwt(sign_claims(FIGURE_3), [P256.public_key()], at=AT) == THE_DRAFT_S
    token = cose.sign(encode(FIGURE_5), P384)
    assert verify_ear_cwt(token, [P384.public_key()], at=AT) == THE_DRAFT_S


def test_writes_the_names_of_the_draft():
    claims = ear_claims(FULL)
    assert list(claims) == ["eat_profile", "iat", "exp", "eat_nonce", "ear_verifier_id", "ear_status", "submods"]
    assert claims["eat_profile"] == EAR_PROFILE
    assert claims["ear_status"] == "affirming"
    assert list(claims["submods"]["cpu0"]) == [
        "ear_status",
        "ear_trustworthiness_vector",
        "ear_appraisal_policy_ids",
        "eat_nonce",
        "ear_verifier_claims",
    ]
    assert claims["submods"]["cpu0"]["ear_trustworthiness_vector"]["instance-identity"] == 2


@pytest.mark.parametrize("at", range(0, 900, 7))
def test_a_flipped_bit_is_refused(at):
    token = bytearray(sign_ear_cwt(FULL, P256))
    keys = [P256.public_key()]
    assert verify_ear_cwt(bytes(token), keys, at=AT) == FULL
    token[at % len(token)] ^= 1 << at % 8
    with pytest.raises((DecodeError, VerificationError)):
        verify_ear_cwt(bytes(token), keys, at=AT)


@pytest.mark.parametrize("at", range(0, 1500, 11))
def test_another_letter_is_refused(at):
    token = sign_ear_jwt(FULL, P256)
    keys = [P256.public_key()]
    assert verify_ear_jwt(token, keys, at=AT) == FULL
    at %= len(token)
    with pytest.raises((DecodeError, VerificationError)):
        verify_ear_jwt(token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :], keys, at=AT)


def test_refuses_algorithms_that_are_not_the_key_s():
    payload = b64(json.dumps(FIGURE_3).encode())

    def token(header, signature):
        return b".".join((b64(json.dumps(header).encode()), payload, b64(signature)))

    keys = [P256.public_key()]
    raw = P256.public_key().public_bytes_raw() if hasattr(P256.public_key(), "public_bytes_raw") else b"key"
    signed = b64(b'{"alg": "HS256"}') + b"." + payload
    for forged in (
        token({"alg": "none"}, b""),
        token({"alg": "HS256"}, hmac.new(raw, signed, "sha256").digest()),
        token({"alg": "ES256K"}, bytes(64)),
        token({"alg": "EdDSA"}, bytes(64)),
        token({"alg": ["ES256"]}, bytes(64)),
        token({}, bytes(64)),
        token({"alg": "ES256", "typ": []}, bytes(64)),
        token({"alg": "ES256", "crit": ["b64"], "b64": False}, bytes(64)),
        token({"alg": "ES256", "jwk": {}}, bytes(64)),
        token({"alg": "ES256", "x5u": "https://example.com"}, bytes(64)),
    ):
        with pytest.raises(DecodeError, match="header"):
            verify_ear_jwt(forged, keys, at=AT)
    with pytest.raises(VerificationError, match="with ES384"):
        verify_ear_jwt(token({"alg": "ES384"}, bytes(96)), keys, at=AT)
    with pytest.raises(VerificationError):
        verify_ear_jwt(token({"alg": "ES256"}, bytes(64)), keys, at=AT)
    with pytest.raises(VerificationError, match="with ES384"):
        verify_ear_cwt(sign_ear_cwt(FULL, P384), keys, at=AT)


def test_refuses_tokens_of_another_type():
    keys = [P256.public_key()]
    assert verify_ear_jwt(sign_claims(FIGURE_3, typ="JWT"), keys, at=AT) == THE_DRAFT_S
    for header in ({"typ": "at+jwt"}, {"cty": "JWT"}):
        with pytest.raises(DecodeError, match="header"):
            verify_ear_jwt(sign_claims(FIGURE_3, **header), keys, at=AT)
    with pytest.raises(DecodeError, match="typ"):
        verify_ear_cwt(cose.sign(encode(FIGURE_5), P256, protected={16: "application/cwt"}), keys, at=AT)


def test_decodes_a_cwt_whoever_signed_it_and_whenever_it_ended():
    for key in (P256, P384):
        assert decode_ear_cwt_untrusted(sign_ear_cwt(FULL, key)) == FULL
    with pytest.raises(DecodeError, match="typ"):
        decode_ear_cwt_untrusted(cose.sign(encode(FIGURE_5), P256, protected={16: "application/cwt"}))
    for data in (b"", b"token", encode(FIGURE_5), cose.sign(encode([]), P256)):
        with pytest.raises(DecodeError):
            decode_ear_cwt_untrusted(data)


def test_time_decides_at_its_edges():
    ends = AT + timedelta(hours=1)
    for verify, token in ((verify_ear_jwt, sign_ear_jwt(FULL, P256)), (verify_ear_cwt, sign_ear_cwt(FULL, P256))):
        keys = [P256.public_key()]
        assert verify(token, keys, at=ends - timedelta(seconds=1)) == FULL
        with pytest.raises(VerificationError, match="ended"):
            verify(token, keys, at=ends)
        assert verify(token, keys, at=AT - timedelta(seconds=60)) == FULL
        with pytest.raises(VerificationError, match="future"):
            verify(token, keys, at=AT - timedelta(seconds=61))
        with pytest.raises(UsageError, match="naive"):
            verify(token, keys, at=AT.replace(tzinfo=None))
        with pytest.raises(UsageError, match="no key"):
            verify(token, [], at=AT)


def changed(path, value):
    claims = json.loads(json.dumps(FIGURE_3))
    inner = claims
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return claims


ATTESTER = ("submods", "PSA")
VECTOR = (*ATTESTER, "ear_trustworthiness_vector")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("eat_profile",), "tag:ietf.org,2026:rats/ear#03"),
        (("eat_profile",), None),
        (("iat",), 1.5),
        (("iat",), True),
        (("iat",), -1),
        (("iat",), 10**12),
        (("exp",), "1"),
        (("exp",), 1e9),
        (("submods",), {}),
        (("submods",), []),
        (("submods",), {str(number): {"ear_status": "none"} for number in range(65)}),
        (("ear_verifier_id",), {"developer": "x"}),
        (("ear_verifier_id", "build"), 7),
        (("ear_status",), "affirming"),
        (("ear_status",), "warning"),
        ((*ATTESTER, "ear_status"), "affirming"),
        ((*ATTESTER, "ear_status"), "AFFIRMING"),
        ((*ATTESTER, "ear_status"), 96),
        ((*ATTESTER, "ear_status"), None),
        ((*VECTOR, "hardware"), 128),
        ((*VECTOR, "hardware"), "2"),
        ((*VECTOR, "hardware"), 2.0),
        (VECTOR, [2]),
        ((*ATTESTER, "ear_appraisal_policy_ids"), []),
        ((*ATTESTER, "ear_appraisal_policy_ids"), "x"),
        ((*ATTESTER, "ear_verifier_claims"), []),
        (("eat_nonce",), "AAAA"),
        (("eat_nonce",), "A" * 88),
        (("eat_nonce",), ["AAAAAAAAAAAA"]),
        (("eat_nonce",), "AAAAAAAAAA+="),
    ],
)
def test_refuses_claims_that_mean_something_else(path, value):
    with pytest.raises(DecodeError):
        verify_ear_jwt(sign_claims(changed(path, value)), [P256.public_key()], at=AT)


def test_a_vector_and_a_nonce_may_be_missing_or_at_their_limits():
    for nonce in (None, bytes(8), bytes(64)):
        ear = replace(FULL, nonce=nonce, submods={"x": Appraisal(status=Tier.NONE)}, status=None)
        assert verify_ear_jwt(sign_ear_jwt(ear, P256), [P256.public_key()], at=AT) == ear
        assert verify_ear_cwt(sign_ear_cwt(ear, P256), [P256.public_key()], at=AT) == ear


def test_ignores_claims_it_does_not_know():
    token = sign_claims(changed(("ear.example",), {"x": [1]}))
    assert verify_ear_jwt(token, [P256.public_key()], at=AT) == THE_DRAFT_S


def test_refuses_a_claim_twice_and_what_is_too_large():
    keys = [P256.public_key()]
    text = json.dumps(FIGURE_3).encode()
    with pytest.raises(DecodeError, match="twice"):
        verify_ear_jwt(sign_claims(text[:-1] + b', "iat": 1}'), keys, at=AT)
    with pytest.raises(DecodeError, match="size"):
        verify_ear_jwt(b"a" * (MAX_EAR_BYTES + 1), keys, at=AT)
    with pytest.raises(DecodeError, match="size"):
        verify_ear_cwt(b"\xd2" * (MAX_EAR_BYTES + 1), keys, at=AT)


@pytest.mark.parametrize(
    "change",
    [
        {"submods": {}},
        {"status": Tier.AFFIRMING, "submods": THE_DRAFT_S.submods},
        {"nonce": b"short"},
        {"submods": {"x": Appraisal(status=Tier.AFFIRMING, vector=TrustVector(hardware=99))}},
        {"submods": {"x": Appraisal(status=Tier.NONE, verifier_claims={"x": object()})}},
        {"submods": {"x": Appraisal(status=Tier.NONE, verifier_claims={"x": ["y" * MAX_EAR_BYTES]})}},
        {"issued_at": datetime(1960, 1, 1, tzinfo=UTC)},
    ],
)
def test_does_not_sign_what_it_would_refuse(change):
    for sign in (sign_ear_jwt, sign_ear_cwt):
        with pytest.raises(UsageError):
            sign(replace(FULL, **change), P256)


TEXTS = st.sampled_from(["", "a", "é" * 4096, "x" * 4097])
FEW = st.builds(Appraisal, status=st.sampled_from(Tier))
NONCES = st.none() | st.integers(0, 70).map(bytes)
TIMES = st.sampled_from([0, 1, (1 << 34) - 1, 1 << 34, -1]).map(
    lambda s: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=s)
)
VALUES = st.integers(-130, 130) | st.sampled_from([0, 2, 3, 32, 96, 99])
SAID = st.builds(
    Appraisal,
    status=st.sampled_from(Tier),
    vector=st.none() | st.builds(TrustVector, *[VALUES] * 8),
    policy_ids=st.lists(TEXTS, max_size=2).map(tuple),
    nonce=NONCES,
    verifier_claims=st.just({}) | st.just({"x": [1, "a", True, None]}),
)
EARS = st.builds(
    Ear,
    issued_at=TIMES,
    developer=TEXTS,
    build=TEXTS,
    # No more of what is long than fits: size is not what is tried here.
    submods=st.dictionaries(TEXTS, SAID, max_size=2)
    | st.integers(63, 66).flatmap(lambda count: FEW.map(lambda said: {str(number): said for number in range(count)})),
    status=st.none() | st.sampled_from(Tier),
    expires_at=st.none() | TIMES,
    nonce=NONCES,
)  # fmt: skip


@settings(max_examples=400, deadline=None, derandomize=True)
@given(EARS)
def test_signs_what_whoever_reads_it_accepts_and_nothing_else(said):
    def reads(form):
        try:
            return ear_module._Reader(form).ear(ear_module._claims(said, form))
        except DecodeError:
            return None

    readable = reads(ear_module._CBOR)
    assert (readable is None) == (reads(ear_module._JSON) is None)
    for sign in (sign_ear_cwt, sign_ear_jwt):
        if readable is None:
            with pytest.raises(UsageError, match="cannot encode EAR"):
                sign(said, P256)
        else:
            sign(said, P256)
    assert readable is None or readable == said


def test_does_not_sign_what_is_deeper_than_a_reader_goes():
    claims = {"x": nested(MAX_DEPTH)}
    with pytest.raises(UsageError, match="cannot encode EAR"):
        sign_ear_cwt(replace(FULL, submods={"x": Appraisal(status=Tier.NONE, verifier_claims=claims)}), P256)


@pytest.mark.parametrize("value", [["a", 1, True, None], [["a"]], nested(4), ["y" * 70_000]])
def test_claims_that_are_signed_can_be_read(value):
    said = replace(FULL, submods={"x": Appraisal(status=Tier.NONE, verifier_claims={"x": value})}, status=None)
    assert verify_ear_cwt(sign_ear_cwt(said, P256), [P256.public_key()], at=AT) == said


def test_refuses_keys_of_other_curves():
    other = ec.derive_private_key(5, ec.SECP521R1())
    for sign in (sign_ear_jwt, sign_ear_cwt):
        with pytest.raises(UsageError, match="secp521r1"):
            sign(FULL, other)
    with pytest.raises(UsageError, match="secp521r1"):
        verify_ear_jwt(sign_ear_jwt(FULL, P256), [other.public_key()], at=AT)


SEEDS = [sign_ear_jwt(FULL, P256).encode(), sign_ear_cwt(FULL, P256)]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=80) | st.builds(
    lambda seed, at, new: seed[: at % len(seed)] + new + seed[at % len(seed) + 1 :],
    st.sampled_from(SEEDS), st.integers(0, 2000), st.binary(max_size=3),
))  # fmt: skip
def test_any_bytes_are_refused_in_order(data):
    for verify in (verify_ear_jwt, verify_ear_cwt):
        try:
            assert verify(data, [P256.public_key()], at=AT) == FULL
        except (DecodeError, VerificationError):
            continue


def test_a_key_of_another_kind_is_a_usage_error():
    key = rsa.generate_private_key(65537, 2048).public_key()
    at = datetime(2026, 6, 1, tzinfo=UTC)
    with pytest.raises(UsageError, match="want P-256, P-384 or Ed25519"):
        verify_ear_jwt(b"eyJhbGciOiJFUzI1NiJ9.e30.", [key], at=at)
    with pytest.raises(UsageError, match="want P-256, P-384 or Ed25519"):
        verify_ear_cwt(b"\x84\x43\xa1\x01\x26\xa0\x40\x40", [key], at=at)
