# SPDX-License-Identifier: Apache-2.0
"""Judging Nitro documents: genuine ones are accepted, and nothing else is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.abi.nitro import parse_document_untrusted
from enarx.crypto.cbor import encode
from enarx.errors import AppraisalError, DecodeError, EndorsementError, VerificationError
from enarx.rats import (
    AppraisalPolicy,
    AttestationResult,
    Endorsements,
    Evidence,
    FromCaller,
    Outcome,
    TrustAnchors,
    Verdict,
)
from enarx.testing.nitro import MODULE_ID, NitroAuthority, issue
from enarx.verifier import TrustCache, baseline_policy, pinned_anchors, verify_evidence
from enarx.verifier.appraisal import apply_rules
from enarx.verifier.ledger import Ledger, Setting
from enarx.verifier.nitro import JUDGE, MAX_CLOCK_SKEW_S
from tests.evidence import cases, needs_evidence, read
from tests.soak import STEP

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
AUTHORITY = NitroAuthority(at=AT)
LEAF = AUTHORITY.leaf()
RULES = {rule.key: rule for rule in JUDGE.rules}
REASONS = {
    "document_signature_invalid": "nitro.document.signature",
    "certificate_malformed": "nitro.certificate.form",
    "certificate_not_valid_at_time": "nitro.certificate.validity",
    "debug_mode_pcrs_zero": "nitro.debug",
}


def policy(**values: Any) -> AppraisalPolicy:
    """Return the baseline with other values, each as a policy file has it."""
    expectations = dict(baseline_policy("nitro").expectations)
    for name, value in values.items():
        expectations[f"nitro.{name}"] = RULES[f"nitro.{name}"].grammar.decode(value)
    return AppraisalPolicy(name="test", expectations=expectations, tees=frozenset({"nitro"}))


def judge(
    data: bytes,
    *,
    at: datetime = AT,
    anchors: TrustAnchors = AUTHORITY.anchors,
    crls: tuple[bytes, ...] = (),
    cache: TrustCache | None = None,
    report_data: bytes | None = None,
    **values: Any,
) -> AttestationResult:
    setting = Setting(at=at, anchors=anchors, cache=cache or TrustCache(), report_data=report_data)
    ledger = Ledger()
    examined = JUDGE.examine(parse_document_untrusted(data), Endorsements(crls=crls), setting, ledger)
    for part in examined.parts:
        apply_rules(JUDGE, part, policy(**values), setting, ledger)
    return AttestationResult(
        tee=examined.tee,
        subject=examined.claims,
        findings=tuple(ledger.findings),
        at=at,
        policy_name="test",
        valid_until=ledger.valid_until,
    )


def document(**options: Any) -> bytes:
    return AUTHORITY.document(**{"leaf": LEAF, **options})


def failed(result: AttestationResult) -> set[str]:
    return {finding.check.id for finding in result.findings if finding.outcome is Outcome.FAILED}


def outcomes(result: AttestationResult, check: str) -> list[Outcome]:
    return [finding.outcome for finding in result.findings if finding.check.id == check]


def accepts(data: bytes, **options: Any) -> AttestationResult:
    result = judge(data, **options)
    assert (result.verdict, failed(result)) == (Verdict.ACCEPTED, set())
    return result


def refuses(data: bytes, *checks: str, verdict: Verdict = Verdict.NOT_AUTHENTIC, **options: Any) -> AttestationResult:
    result = judge(data, **options)
    assert (result.verdict, failed(result)) == (verdict, {f"nitro.{check}" for check in checks})
    return result


# --- Real documents --------------------------------------------------------------------------------------------------


@needs_evidence
@pytest.mark.parametrize("case", cases("nitro"), ids=lambda case: case["id"])
def test_gives_real_documents_their_verdict(case: dict[str, Any]):
    evidence = Evidence(data=read(case["inputs"]["document"]))
    result = verify_evidence(evidence, at=datetime.fromisoformat(case["eval_time"]))
    assert (result.verdict is Verdict.ACCEPTED) == (case["verdict"] == "valid")
    wanted = {REASONS[reason] for reason in case["reasons"]}
    assert wanted <= failed(result)
    assert bool(failed(result)) == bool(wanted)


def real_documents() -> list[dict[str, Any]]:
    return [case for case in cases("nitro") if case["verdict"] == "valid"]


@needs_evidence
def test_refuses_real_documents_under_another_root():
    case = real_documents()[0]
    data, at = read(case["inputs"]["document"]), datetime.fromisoformat(case["eval_time"])
    accepts(data, at=at, anchors=pinned_anchors())
    refuses(data, "ca_chain.anchor", at=at)
    refuses(data, "ca_chain.anchor", at=at, anchors=TrustAnchors())


@needs_evidence
def test_refuses_parts_of_real_documents_put_together():
    first, second = (read(case["inputs"]["document"]) for case in real_documents()[:2])
    at = datetime.fromisoformat(real_documents()[0]["eval_time"])
    accepts(first, at=at, anchors=pinned_anchors())
    own, other = (parse_document_untrusted(data).message for data in (first, second))
    swapped = encode([own.protected, {}, own.payload, other.signature])
    refuses(swapped, "document.signature", at=at, anchors=pinned_anchors())
    swapped = encode([own.protected, {}, other.payload, own.signature])
    assert "nitro.document.signature" in failed(judge(swapped, at=at, anchors=pinned_anchors()))


def refuses_flip(data: bytes, bit: int, *, at: datetime, anchors: TrustAnchors, cache: TrustCache) -> None:
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        result = judge(bytes(flipped), at=at, anchors=anchors, cache=cache)
    except DecodeError:
        return
    assert result.verdict is Verdict.NOT_AUTHENTIC, f"bit {bit}"
    assert "nitro.document.signature" in failed(result), f"bit {bit}"


def flip_bits(case: dict[str, Any], *, step: int) -> None:
    data, at, cache = read(case["inputs"]["document"]), datetime.fromisoformat(case["eval_time"]), TrustCache()
    accepts(data, at=at, anchors=pinned_anchors(), cache=cache)
    for bit in range(0, 8 * len(data), step):
        refuses_flip(data, bit, at=at, anchors=pinned_anchors(), cache=cache)


@needs_evidence
@pytest.mark.parametrize("case", real_documents()[:2], ids=lambda case: case["id"])
def test_refuses_flipped_bits_of_real_documents(case: dict[str, Any]):
    # A step that is prime to 8 meets each bit of a byte.
    flip_bits(case, step=61)


@needs_evidence
@pytest.mark.soak
@pytest.mark.parametrize("case", real_documents(), ids=lambda case: case["id"])
def test_refuses_every_flipped_bit_of_real_documents(case: dict[str, Any]):
    flip_bits(case, step=STEP)


# --- Authenticity ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_tpm", [False, True])
def test_accepts_a_document_of_the_authority(is_tpm: bool):
    result = accepts(document(is_tpm=is_tpm))
    assert result.tee == "nitro"
    assert result.claims["module_id"] == MODULE_ID
    assert result.valid_until == AT - timedelta(seconds=3) + timedelta(hours=3)
    anchors = {finding.anchor for finding in result.findings if finding.anchor}
    assert len(anchors) == 1
    assert anchors.pop().startswith("aws.nitro-enclaves, ")


def test_comes_to_the_same_verdict_with_a_warm_cache():
    cache, good, bad = TrustCache(), document(), document(signer=AUTHORITY.leaf().key)
    for _ in range(2):
        accepts(good, cache=cache)
        refuses(bad, "document.signature", cache=cache)
        refuses(good, "ca_chain.validity", "certificate.validity", at=AT + timedelta(days=2), cache=cache)
        refuses(good, "ca_chain.anchor", anchors=NitroAuthority(at=AT).anchors, cache=cache)


def test_a_cache_that_was_filled_at_another_time_changes_no_verdict():
    # The issuer is older than the zone's authority and outlives it, so that neither of its own ends is a time of the path.
    times: dict[str, Any] = {"not_before": AT - timedelta(days=30), "not_after": AT + timedelta(days=30)}
    issuer = issue("an issuer", AUTHORITY.authorities[2], is_ca=True, **times)
    leaf = issue("a leaf", issuer, is_ca=False, **times)
    data = document(leaf=leaf, changes={"cabundle": [*AUTHORITY.cabundle[:3], issuer.certificate]})
    cache = TrustCache()
    for at in (AT - timedelta(days=20), AT, AT + timedelta(days=20), AT):
        cold, warm = judge(data, at=at), judge(data, at=at, cache=cache)
        assert (warm.verdict, failed(warm)) == (cold.verdict, failed(cold))
        assert (cold.verdict is Verdict.ACCEPTED) == (at == AT)


def test_refuses_a_document_that_another_key_signed():
    accepts(document())
    refuses(document(signer=ec.generate_private_key(ec.SECP384R1())), "document.signature")


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP521R1()])
def test_refuses_another_algorithm_even_with_its_own_key(curve: ec.EllipticCurve):
    refuses(document(leaf=AUTHORITY.leaf(curve=curve)), "document.algorithm", "document.signature")


@pytest.mark.parametrize("algorithm", [-7, -36, -8, 5, None])
def test_refuses_an_algorithm_that_is_not_the_keys(algorithm: int | None):
    message = parse_document_untrusted(document()).message
    header = encode({1: algorithm}) if algorithm else b""
    data = encode([header, {}, message.payload, message.signature])
    refuses(data, "document.algorithm", "document.signature")


def test_refuses_flipped_bits_of_a_document():
    data, cache = document(), TrustCache()
    accepts(data, cache=cache)
    for bit in range(0, 8 * len(data), 97):
        refuses_flip(data, bit, at=AT, anchors=AUTHORITY.anchors, cache=cache)


def test_refuses_every_flipped_bit_of_the_signature():
    data, cache = document(), TrustCache()
    accepts(data, cache=cache)
    for bit in range(8 * (len(data) - 96), 8 * len(data)):
        refuses_flip(data, bit, at=AT, anchors=AUTHORITY.anchors, cache=cache)


def flip_certificates(step: int) -> None:
    """Flip bits of certificates and sign the document again, as only the hypervisor could."""
    accepts(document())
    originals = (*AUTHORITY.cabundle[1:], LEAF.certificate)
    for index, der in enumerate(originals):
        for bit in range(0, 8 * len(der), step):
            flipped = bytearray(der)
            flipped[bit // 8] ^= 1 << bit % 8
            bundle = [*AUTHORITY.cabundle]
            changes: dict[str, Any] = {"certificate": bytes(flipped)}
            if index < len(bundle) - 1:
                bundle[index + 1] = bytes(flipped)
                changes = {"cabundle": bundle}
            result = judge(document(changes=changes))
            assert result.verdict is Verdict.NOT_AUTHENTIC, f"certificate {index}, bit {bit}"
            assert any(check.startswith(("nitro.ca_chain", "nitro.certificate")) for check in failed(result))


def test_refuses_flipped_bits_of_certificates_in_a_document_that_is_signed_again():
    flip_certificates(151)


@pytest.mark.soak
def test_refuses_every_flipped_bit_of_certificates_in_a_document_that_is_signed_again():
    flip_certificates(STEP)


@pytest.mark.parametrize("index", [1, 2, 3])
def test_refuses_a_bundle_with_a_hole(index: int):
    bundle = [der for place, der in enumerate(AUTHORITY.cabundle) if place != index]
    result = judge(document(changes={"cabundle": bundle}))
    expected = {"nitro.certificate.signature"} if index == 3 else {"nitro.ca_chain.anchor"}
    assert failed(result) == expected


def test_refuses_a_bundle_whose_last_certificate_is_not_the_issuer():
    refuses(document(changes={"cabundle": [*reversed(AUTHORITY.cabundle)]}), "certificate.signature")


def test_accepts_a_bundle_without_the_root_because_the_root_is_pinned():
    accepts(document(changes={"cabundle": [*AUTHORITY.cabundle[1:]]}))


def test_refuses_a_certificate_that_is_its_own_issuer():
    # The test root's own key signs the document, and names itself an issuer.
    root = AUTHORITY.authorities[0]
    data = document(changes={"certificate": root.certificate, "cabundle": [root.certificate]}, signer=root.key)
    refuses(data, "certificate.usage")


def test_refuses_a_certificate_of_another_authority_with_the_same_names():
    other = NitroAuthority(at=AT)
    accepts(other.document(), anchors=other.anchors)
    refuses(other.document(), "ca_chain.anchor")
    refuses(document(leaf=other.leaf()), "certificate.signature")


@pytest.mark.parametrize("der", [b"\x30", b"\x30\x03\x02\x01\x01", bytes(640)])
def test_a_malformed_certificate_is_a_failed_check_and_the_rest_is_shown(der: bytes):
    result = refuses(document(changes={"certificate": der}), "certificate.form", "document.signature")
    assert outcomes(result, "nitro.ca_chain.anchor") == [Outcome.PASSED]
    assert outcomes(result, "nitro.debug") == [Outcome.PASSED]
    for index in range(4):
        bundle = [*AUTHORITY.cabundle]
        bundle[index] = der
        result = refuses(document(changes={"cabundle": bundle}), "certificate.form", "certificate.signature")
        assert outcomes(result, "nitro.document.signature") == [Outcome.PASSED]


def test_refuses_a_certificate_with_data_after_it():
    refuses(document(changes={"certificate": LEAF.certificate + b"\0"}), "certificate.form", "document.signature")


@pytest.mark.parametrize(
    ("options", "check"),
    [
        ({"is_ca": True}, "certificate.usage"),
        ({"key_cert_sign": True}, "certificate.usage"),
        ({"digital_signature": False}, "certificate.usage"),
        ({"critical": b"\x05\x00"}, "certificate.extensions"),
    ],
)
def test_refuses_a_certificate_that_is_not_for_documents(options: dict[str, Any], check: str):
    accepts(document(leaf=AUTHORITY.leaf()))
    refuses(document(leaf=AUTHORITY.leaf(**options)), check)


def with_issuer(**options: Any) -> bytes:
    """Return a document whose certificate has another issuer than usual, with the zone's authority above it."""
    defaults = {"not_before": AT - timedelta(hours=6), "not_after": AT + timedelta(hours=18), "is_ca": True}
    issuer = issue("an issuer", AUTHORITY.authorities[2], **{**defaults, **options})
    leaf = issue("a leaf", issuer, not_before=AT, not_after=AT + timedelta(hours=3), is_ca=False)
    return document(leaf=leaf, changes={"cabundle": [*AUTHORITY.cabundle[:3], issuer.certificate]})


@pytest.mark.parametrize(
    ("options", "check"),
    [
        ({"is_ca": False, "key_cert_sign": True}, "ca_chain.constraints"),
        ({"key_cert_sign": False}, "ca_chain.constraints"),
        ({"critical": b"\x05\x00"}, "ca_chain.anchor"),
        ({"not_after": AT - timedelta(seconds=1)}, "ca_chain.validity"),
        ({"not_before": AT + timedelta(seconds=1)}, "ca_chain.validity"),
    ],
)
def test_refuses_an_issuer_that_may_not_issue(options: dict[str, Any], check: str):
    accepts(with_issuer())
    refuses(with_issuer(**options), check)


def test_refuses_more_issuers_than_a_path_length_allows():
    times: dict[str, Any] = {"not_before": AT - timedelta(hours=1), "not_after": AT + timedelta(hours=3)}
    last = AUTHORITY.authorities[3]
    below = issue("one too many", last, is_ca=True, **times)
    leaf = issue("a leaf", below, is_ca=False, **times)
    result = judge(document(leaf=leaf, changes={"cabundle": [*AUTHORITY.cabundle, below.certificate]}))
    assert result.verdict is Verdict.NOT_AUTHENTIC
    assert failed(result) <= {"nitro.ca_chain.anchor", "nitro.ca_chain.constraints"}


@pytest.mark.parametrize(
    ("at", "ok"),
    [
        (AT - timedelta(seconds=3), True),
        (AT - timedelta(seconds=4), False),
        (AT - timedelta(seconds=3) + timedelta(hours=3), True),
        (AT - timedelta(seconds=2) + timedelta(hours=3), False),
    ],
)
def test_a_certificate_is_valid_from_its_first_second_to_its_last(at: datetime, ok: bool):
    if ok:
        accepts(document(), at=at)
    else:
        refuses(document(), "certificate.validity", at=at)


@pytest.mark.parametrize(
    ("offset", "ok"),
    [
        (timedelta(seconds=-3), True),
        (timedelta(seconds=-3, milliseconds=-1), False),
        (timedelta(hours=3, seconds=-2, milliseconds=-1), True),
        (timedelta(hours=3, seconds=-2), False),
        (timedelta(days=36500 * 10), False),
    ],
)
def test_a_document_is_signed_while_its_certificate_is_valid(offset: timedelta, ok: bool):
    stamp = int(AT.timestamp() * 1000) + offset // timedelta(milliseconds=1)
    data = document(changes={"timestamp": stamp})
    if ok:
        accepts(data)
    else:
        refuses(data, "document.timestamp")


def test_a_timestamp_beyond_all_calendars_is_refused():
    refuses(document(changes={"timestamp": (1 << 63) - 1}), "document.timestamp")


# --- Revocation ------------------------------------------------------------------------------------------------------


def make_crls(*, revoked: int | None = None, until: datetime = AT + timedelta(days=1)) -> tuple[bytes, ...]:
    """Return a list of each issuer but the last, whose certificates have none."""
    crls = []
    for place, issuer in enumerate(AUTHORITY.authorities[:-1]):
        certificate = x509.load_der_x509_certificate(issuer.certificate)
        builder = x509.CertificateRevocationListBuilder().issuer_name(certificate.subject)
        builder = builder.last_update(AT - timedelta(days=1)).next_update(until)
        if revoked == place + 1:
            subject = x509.load_der_x509_certificate(AUTHORITY.authorities[revoked].certificate)
            entry = x509.RevokedCertificateBuilder().serial_number(subject.serial_number).revocation_date(AT)
            builder = builder.add_revoked_certificate(entry.build())
        crls.append(builder.sign(issuer.key, hashes.SHA384()).public_bytes(Encoding.DER))
    return tuple(crls)


def test_looks_at_revocation_lists_that_are_at_hand():
    result = accepts(document(), crls=make_crls(), revocation=["checked"])
    assert outcomes(result, "nitro.ca_chain.revocation") == [Outcome.PASSED] * 3


def test_says_that_no_revocation_list_was_looked_at():
    result = accepts(document())
    assert outcomes(result, "nitro.ca_chain.revocation") == [Outcome.NOTED]
    refuses(document(), "revocation", revocation=["checked"], verdict=Verdict.REFUSED)
    refuses(document(), "revocation", revocation=["checked"], crls=make_crls()[:2], verdict=Verdict.REFUSED)


@pytest.mark.parametrize("revoked", [1, 2, 3])
def test_refuses_a_revoked_issuer(revoked: int):
    refuses(document(), "ca_chain.revocation", crls=make_crls(revoked=revoked))


def test_does_not_decide_with_a_stale_revocation_list():
    result = judge(document(), crls=make_crls(until=AT - timedelta(seconds=1)))
    assert result.verdict is Verdict.UNDECIDED
    with pytest.raises(EndorsementError):
        result.require()


def test_refuses_a_malformed_revocation_list():
    with pytest.raises(DecodeError, match="CRL"):
        judge(document(), crls=(b"\x30",))


# --- Appraisal -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("value", [bytes(48), None])
def test_refuses_a_debuggable_enclave_without_a_policy(index: int, value: bytes | None):
    pcrs = dict.fromkeys(range(16), b"\x01" * 48)
    accepts(document(changes={"pcrs": pcrs}))
    changed = {place: register for place, register in {**pcrs, index: value}.items() if register is not None}
    result = refuses(document(changes={"pcrs": changed}), "debug", verdict=Verdict.REFUSED)
    with pytest.raises(AppraisalError, match=r"nitro\.debug failed: found yes, want no"):
        result.require()
    accepts(document(changes={"pcrs": changed}), debug="required")


@pytest.mark.parametrize("index", range(16))
def test_compares_each_register(index: int):
    pcrs = {place: bytes([place + 1]) * 48 for place in range(16)}
    data, name = document(changes={"pcrs": pcrs}), f"pcr{index}"
    accepts(data, **{name: ["ff" * 48, pcrs[index].hex()]})
    refuses(data, name, verdict=Verdict.REFUSED, **{name: ["ff" * 48]})


def test_refuses_a_register_that_is_missing():
    data = document(changes={"pcrs": dict.fromkeys(range(3), b"\x01" * 48)})
    accepts(data)
    refuses(data, "pcr8", pcr8=["00" * 48], verdict=Verdict.REFUSED)


@pytest.mark.parametrize(
    ("name", "good", "bad", "changes"),
    [
        ("module_id", [MODULE_ID], ["i-other"], {}),
        ("module_id", ["i-0123456789abcdef0-*"], ["i-0123456789abcdef1-*"], {}),
        ("digest", ["SHA384"], ["SHA512"], {}),
        ("kind", ["enclave"], ["nitrotpm"], {}),
        (
            "user_data_sha256",
            ["ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"],
            ["00" * 32],
            {"user_data": b"abc"},
        ),
        (
            "public_key_sha256",
            ["ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"],
            ["00" * 32],
            {"public_key": b"abc"},
        ),
    ],
)
def test_appraises_what_the_document_says(name: str, good: Any, bad: Any, changes: dict[str, Any]):
    data = document(changes=changes)
    accepts(data, **{name: good})
    refuses(data, name, verdict=Verdict.REFUSED, **{name: bad})


@pytest.mark.parametrize("name", ["user_data", "public_key"])
def test_refuses_a_binding_that_is_missing(name: str):
    refuses(document(), f"{name}_sha256", verdict=Verdict.REFUSED, **{f"{name}_sha256": ["00" * 32]})


@pytest.mark.parametrize("value", [["*"], ["a*b"], [""], [], "i-0", [1]])
def test_a_pattern_has_its_star_at_the_end(value: Any):
    with pytest.raises(ValueError, match="want a list of names"):
        RULES["nitro.module_id"].grammar.decode(value)


def test_an_enclaves_digest_must_be_sha384_without_a_policy():
    pcrs = dict.fromkeys(range(3), b"\x01" * 32)
    refuses(document(changes={"digest": "SHA256", "pcrs": pcrs}), "digest", verdict=Verdict.REFUSED)


def test_refuses_a_document_that_is_too_old():
    data = document()
    accepts(data, at=AT + timedelta(seconds=300), max_age_s=300)
    refuses(data, "max_age_s", at=AT + timedelta(seconds=301), max_age_s=300, verdict=Verdict.REFUSED)


def test_a_document_from_the_future_has_no_age():
    skew = timedelta(seconds=MAX_CLOCK_SKEW_S)
    leaf = AUTHORITY.leaf(at=AT - timedelta(hours=1))
    accepts(document(leaf=leaf, at=AT + skew), max_age_s=0)
    data = document(leaf=leaf, at=AT + skew + timedelta(seconds=1))
    accepts(data)
    refuses(data, "max_age_s", max_age_s=300, verdict=Verdict.REFUSED)


def test_compares_the_nonce_with_the_callers():
    data = document(changes={"nonce": b"challenge"})
    accepts(data, report_data=b"challenge", nonce="from-caller")
    accepts(data, report_data=b"challenge")
    refuses(data, "nonce", report_data=b"Challenge", nonce="from-caller", verdict=Verdict.REFUSED)
    refuses(document(), "nonce", report_data=b"challenge", verdict=Verdict.REFUSED)


def test_does_not_decide_without_the_callers_nonce():
    assert isinstance(RULES["nitro.nonce"].grammar.decode("from-caller"), FromCaller)
    assert judge(document(), nonce="from-caller").verdict is Verdict.UNDECIDED


def test_the_strict_policy_can_be_read_and_refuses_debug():
    import tomllib

    from enarx.rats import Skip

    missing = set()
    for rule in JUDGE.rules:
        assert rule.key == rule.check.id
        if rule.strict is None:
            missing.add(rule.key)
            continue
        value = tomllib.loads(f"value = {rule.strict}")["value"]
        expectation = Skip(value["skip"]) if isinstance(value, dict) else rule.grammar.decode(value)
        assert rule.key != "nitro.debug" or not expectation.holds(True)
    assert missing == {"nitro.pcr0", "nitro.pcr1", "nitro.pcr2"}


def test_judges_through_the_public_api():
    result = verify_evidence(Evidence(data=document()), at=AT, anchors=AUTHORITY.anchors)
    result.require()
    forged = verify_evidence(Evidence(data=document(signer=AUTHORITY.leaf().key)), at=AT, anchors=AUTHORITY.anchors)
    with pytest.raises(VerificationError, match=r"nitro\.document\.signature failed"):
        forged.require()
