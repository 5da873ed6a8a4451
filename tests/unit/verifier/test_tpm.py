# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
import os
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from enarx.abi.event_log import parse_event_log_untrusted
from enarx.abi.tpm import parse_public_untrusted, parse_signature_untrusted
from enarx.abi.tpm_bundle import (
    Quote,
    TpmEvidence,
    make_quote_untrusted,
    make_tpm_evidence_untrusted,
    parse_tpm_bundle_untrusted,
    parse_tpm_protobuf_untrusted,
)
from enarx.errors import DecodeError
from enarx.rats import AppraisalPolicy, Check, Concern, Endorsements, OneOf, Outcome, TrustAnchors
from enarx.testing.tpm import AT, FakeTpm, FakeTpmMaker
from enarx.verifier.appraisal import apply_rules
from enarx.verifier.ledger import Ledger, Part, Setting
from enarx.verifier.roots import pinned_anchors
from enarx.verifier.tpm import JUDGE, RULES, check_ak_certificate, load_ak, replay_findings
from tests.evidence import cases, needs_evidence, read

NONCE = b"a challenge"
MAKER = FakeTpmMaker("verifier")
SOAK_EXAMPLES = int(os.environ.get("ENARX_SOAK_EXAMPLES", "1000000000"))


def booted(name="verifier", **options):
    tpm = FakeTpm(name, **options)
    tpm.boot()
    tpm.extend(8, b"kernel")
    return tpm


TPM = booted()
ECC = booted(kind="ecc")
OTHER = booted("other")


def evidence(tpm=TPM, *, pcrs=None, message=None, signature=None, with_public=False, certificates=(), logs=(), **quote):
    made, signed = tpm.quote(NONCE, **quote)
    banks = pcrs if pcrs is not None else {"sha256": dict(enumerate(tpm.pcrs["sha256"]))}
    signature = parse_signature_untrusted(signature if signature is not None else signed)
    one = make_quote_untrusted(message if message is not None else made, signature, banks)
    public = parse_public_untrusted(tpm.public_area) if with_public else None
    return TpmEvidence((one,), None if with_public else tpm.spki, public, certificates, logs)


def examine(parsed, *, anchors=None, endorsements=None, at=AT):
    ledger = Ledger()
    if anchors is None:
        anchors = TrustAnchors(tpm_aks=frozenset({TPM.pin, ECC.pin}))
    examined = JUDGE.examine(parsed, endorsements or Endorsements(), Setting(at=at, anchors=anchors), ledger)
    return ledger, examined


def ids(ledger, outcome=Outcome.FAILED):
    return {finding.check.id for finding in ledger.findings if finding.outcome is outcome}


def assert_accepted(parsed, **options):
    ledger, examined = examine(parsed, **options)
    assert not ids(ledger)
    assert not ids(ledger, Outcome.UNDECIDED)
    return examined.claims


def assert_refused(parsed, *wanted, **options):
    ledger, examined = examine(parsed, **options)
    assert ids(ledger) == set(wanted)
    return examined.claims


@pytest.mark.parametrize(
    ("tpm", "scheme", "hash_name"),
    [
        (TPM, "rsassa", "sha256"),
        (TPM, "rsapss", "sha256"),
        (TPM, "rsassa", "sha384"),
        (TPM, "rsapss", "sha512"),
        (ECC, "ecdsa", "sha256"),
        (ECC, "ecdsa", "sha384"),
    ],
)
def test_accepts_a_quote_of_every_scheme(tpm, scheme, hash_name):
    claims = assert_accepted(evidence(tpm, scheme=scheme, hash_name=hash_name))
    assert claims.pcrs == dict(enumerate(tpm.pcrs["sha256"]))
    assert claims.ak_trust == "pinned"


def test_refuses_a_signature_over_sha1():
    assert_refused(evidence(hash_name="sha1"), "tpm.quote.algorithm", "tpm.quote.pcr_digest")


def test_refuses_a_key_that_is_too_short():
    short = booted(bits=1024)
    anchors = TrustAnchors(tpm_aks=frozenset({short.pin}))
    assert_refused(evidence(short), "tpm.ak.key", "tpm.quote.algorithm", anchors=anchors)


def test_refuses_a_scheme_of_another_kind_of_key():
    message, _ = TPM.quote(NONCE)
    assert_refused(evidence(signature=ECC.sign(message)), "tpm.quote.algorithm")
    assert_refused(evidence(ECC, signature=TPM.sign(ECC.quote(NONCE)[0])), "tpm.quote.algorithm")


def test_refuses_rsapss_that_says_it_is_rsassa():
    message, _ = TPM.quote(NONCE)
    signature = TPM.sign(message, scheme="rsapss")
    assert_refused(evidence(signature=b"\0\x14" + signature[2:]), "tpm.quote.signature")


def test_refuses_another_keys_signature():
    assert_refused(evidence(signature=OTHER.sign(TPM.quote(NONCE)[0])), "tpm.quote.signature")


def test_believes_no_pcr_of_a_quote_whose_signature_is_bad():
    claims = assert_refused(evidence(signature=OTHER.sign(TPM.quote(NONCE)[0])), "tpm.quote.signature")
    assert claims.pcrs == {}


def test_drops_pcr_values_that_are_not_quoted():
    selection = (("sha256", (0, 7)),)
    claims = assert_accepted(evidence(selections=selection))
    assert sorted(claims.pcrs) == [0, 7]


def swapped(values, first, second):
    return {"sha256": values | {first: values[second], second: values[first]}}


def test_refuses_pcr_values_that_are_swapped_changed_or_missing():
    values = dict(enumerate(TPM.pcrs["sha256"]))
    assert_accepted(evidence(pcrs={"sha256": values}))
    for changed in (
        swapped(values, 0, 7),
        {"sha256": values | {10: bytes(31) + b"\1"}},
        {"sha256": {index: value for index, value in values.items() if index != 23}},
        {"sha384": dict(enumerate(TPM.pcrs["sha384"]))},
        {},
    ):
        claims = assert_refused(evidence(pcrs=changed), "tpm.quote.pcr_digest")
        assert claims.pcrs == {}


def test_refuses_a_quote_of_nothing():
    assert_refused(evidence(selections=()), "tpm.quote.pcr_digest")
    assert_refused(evidence(selections=(("sha256", ()),)), "tpm.quote.pcr_digest")


def test_refuses_a_pcr_that_is_quoted_twice():
    selections = (("sha256", (0,)), ("sha256", (0,)))
    assert_refused(evidence(selections=selections), "tpm.quote.pcr_digest", "tpm.quote.agreement")


def quotes_of(*more):
    evidences = [evidence(selections=(("sha256", (0,)),))] + [
        evidence(pcrs={"sha384": dict(enumerate(TPM.pcrs["sha384"]))}, selections=(("sha384", (0,)),), **each)
        for each in more
    ]
    return TpmEvidence(tuple(each.quotes[0] for each in evidences), TPM.spki)


def test_accepts_quotes_of_several_banks_that_agree():
    claims = assert_accepted(quotes_of({}))
    assert claims.bank == "sha256"
    assert_refused(quotes_of({"changes": {"resets": 4}}), "tpm.quote.agreement")
    assert_refused(quotes_of({"changes": {"restarts": 4}}), "tpm.quote.agreement")


def test_refuses_quotes_that_answer_different_challenges():
    message, signature = TPM.quote(b"an old challenge", selections=(("sha384", (0,)),))
    old = make_quote_untrusted(
        message, parse_signature_untrusted(signature), {"sha384": dict(enumerate(TPM.pcrs["sha384"]))}
    )
    new = evidence(selections=(("sha256", (0,)),)).quotes[0]
    assert_refused(TpmEvidence((new, old), TPM.spki), "tpm.quote.agreement")


def test_does_not_decide_about_a_key_that_nobody_vouches_for():
    ledger, examined = examine(evidence(), anchors=TrustAnchors())
    assert not ids(ledger)
    assert ids(ledger, Outcome.UNDECIDED) == {"tpm.ak.trust"}
    assert examined.claims.ak_trust is None
    finding = next(each for each in ledger.findings if each.check.id == "tpm.ak.trust")
    assert finding.source == "ak trust missing"


def test_does_not_decide_without_a_key():
    ledger, _ = examine(evidence()._replace(ak_spki=None))
    assert ids(ledger, Outcome.UNDECIDED) == {"tpm.ak.key"}
    ledger, _ = examine(evidence(pcrs={})._replace(ak_spki=None))
    assert ids(ledger) == {"tpm.quote.pcr_digest"}


ANCHORED = TrustAnchors(tpm=(MAKER.root,))


def with_certificate(certificate, *others):
    return evidence(certificates=(certificate, *others))


def test_accepts_a_key_whose_certificate_chains_to_an_anchor():
    parsed = with_certificate(MAKER.certify(TPM), MAKER.intermediate)
    claims = assert_accepted(parsed, anchors=ANCHORED)
    assert claims.ak_trust == "certificate"
    assert claims.certificate.subject == "CN=fake attestation key"


def test_takes_the_key_from_its_certificate():
    parsed = with_certificate(MAKER.certify(TPM), MAKER.intermediate)._replace(ak_spki=None)
    claims = assert_accepted(parsed, anchors=ANCHORED)
    assert claims.ak_sha256 == TPM.pin


def test_takes_intermediates_from_endorsements():
    parsed = with_certificate(MAKER.certify(TPM))
    assert_accepted(parsed, anchors=ANCHORED, endorsements=Endorsements(certificates=(MAKER.intermediate,)))
    assert_refused(parsed, "tpm.ak_chain.anchor", "tpm.ak.trust", anchors=ANCHORED)


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"usages": ("1.3.6.1.5.5.7.3.2",)}, "tpm.ak_certificate.usage"),
        ({"encipherment": True}, "tpm.ak_certificate.usage"),
        ({"ca": True}, "tpm.ak_certificate.usage"),
        ({"start": AT + timedelta(seconds=1)}, "tpm.ak_chain.validity"),
        ({"start": AT - timedelta(days=365, seconds=1)}, "tpm.ak_chain.validity"),
    ],
)
def test_refuses_certificates_for_another_use_or_time(options, refusal):
    parsed = with_certificate(MAKER.certify(TPM, **options), MAKER.intermediate)
    assert_refused(parsed, refusal, anchors=ANCHORED)


@pytest.mark.parametrize("start", [AT, AT - timedelta(days=365)])
def test_accepts_certificates_on_their_first_and_last_second(start):
    assert_accepted(with_certificate(MAKER.certify(TPM, start=start), MAKER.intermediate), anchors=ANCHORED)


def test_accepts_a_certificate_without_extended_key_usage():
    assert_accepted(with_certificate(MAKER.certify(TPM, usages=()), MAKER.intermediate), anchors=ANCHORED)


def test_refuses_a_certificate_of_another_maker():
    parsed = with_certificate(MAKER.certify(TPM), MAKER.intermediate)
    anchors = TrustAnchors(tpm=(FakeTpmMaker("verifier rogue").root,))
    assert_refused(parsed, "tpm.ak_chain.anchor", "tpm.ak.trust", anchors=anchors)


def test_refuses_a_certificate_of_another_key():
    parsed = with_certificate(MAKER.certify(OTHER), MAKER.intermediate)
    ledger, _ = examine(parsed, anchors=ANCHORED)
    assert ids(ledger) == {"tpm.ak_certificate.key"}
    assert ids(ledger, Outcome.UNDECIDED) == {"tpm.ak.trust"}


def test_limits_the_verdict_by_the_certificate():
    ledger, _ = examine(with_certificate(MAKER.certify(TPM), MAKER.intermediate), anchors=ANCHORED)
    assert ledger.valid_until == AT - timedelta(days=90) + timedelta(days=365)


def test_refuses_a_key_that_signs_what_anybody_asks_for():
    assert_accepted(evidence(with_public=True))
    for attributes in (0x00040072, 0x00050070, 0x00070072, 0x00010072):
        tpm = booted(attributes=attributes)
        assert_refused(evidence(tpm, with_public=True), "tpm.ak.attributes")


def test_shows_the_hierarchy_that_the_quote_names():
    ledger, _ = examine(evidence(with_public=True))
    found = {each.check.id: each.found for each in ledger.findings}
    assert found["tpm.ak.name"] == "a primary key of the endorsement hierarchy"
    ledger, _ = examine(evidence(with_public=True, changes={"signer": b"\0\x0b" + bytes(32)}))
    assert "another name" in {each.check.id: each.found for each in ledger.findings}["tpm.ak.name"]


def test_accepts_event_logs_that_replay():
    claims = assert_accepted(evidence(logs=(TPM.event_log(),)))
    assert claims.log == (True, True)
    off = FakeTpm("verifier")
    off.boot(secure_boot=b"\0")
    assert assert_accepted(evidence(off, logs=(off.event_log(),))).log == (True, False)


def test_accepts_event_logs_from_endorsements():
    claims = assert_accepted(evidence(), endorsements=Endorsements(event_logs=(TPM.event_log(),)))
    assert claims.log.secure_boot is True


def test_refuses_event_logs_that_do_not_replay():
    extended = booted()
    extended.extend(4, b"what did not happen")
    shortened = FakeTpm("verifier")
    shortened.boot()
    shortened.extend(8, b"another kernel")
    for log in (extended.event_log(), shortened.event_log(), booted(locality=3).event_log()):
        claims = assert_refused(evidence(logs=(log,)), "tpm.event_log.replay")
        assert claims.log == (False, None)


def test_one_log_that_does_not_replay_outweighs_one_that_does():
    bad = booted(locality=3).event_log()
    for logs in ((TPM.event_log(), bad), (bad, TPM.event_log())):
        assert assert_refused(evidence(logs=logs), "tpm.event_log.replay").log == (False, None)


def test_believes_no_log_about_secure_boot_where_pcr_7_is_not_quoted():
    claims = assert_accepted(evidence(selections=(("sha256", (0,)),), logs=(TPM.event_log(),)))
    assert claims.log == (True, None)


def test_believes_no_log_where_only_sha1_is_quoted():
    pcrs = {"sha1": dict(enumerate(TPM.pcrs["sha1"]))}
    claims = assert_accepted(evidence(pcrs=pcrs, selections=(("sha1", range(24)),), logs=(TPM.event_log(),)))
    assert claims.bank == "sha1"
    assert claims.log == (True, None)


def test_notes_a_log_of_other_banks():
    tpm = booted(banks=("sha256", "sha512"))
    other = FakeTpm("verifier", banks=("sha384",))
    other.boot()
    ledger, examined = examine(evidence(tpm, logs=(other.event_log(),)))
    assert "tpm.event_log.replay" in ids(ledger, Outcome.NOTED)
    assert examined.claims.log == (None, None)


def test_refuses_a_log_that_is_not_well_formed():
    with pytest.raises(DecodeError):
        examine(evidence(logs=(TPM.event_log() + b"x",)))


CHECK = Check("tdx.event_log.replay", "a log", Concern.AUTHENTICITY, "")


def test_replays_a_ccel_to_rtmrs():
    tpm = FakeTpm("verifier", banks=("sha384",))
    tpm.extend(1, b"firmware")
    tpm.extend(2, b"boot loader")
    log = parse_event_log_untrusted(tpm.event_log())
    registers = {"sha384": {index + 1: tpm.pcrs["sha384"][index + 1] for index in range(4)}}
    for changed, outcome in (
        (registers, Outcome.PASSED),
        ({"sha384": registers["sha384"] | {2: bytes(48)}}, Outcome.FAILED),
        ({"sha256": {}}, Outcome.NOTED),
    ):
        ledger = Ledger()
        banks = replay_findings(ledger, CHECK, log, changed, "the quote")
        assert [each.outcome for each in ledger.findings] == [outcome]
        assert banks == ({"sha384"} if outcome is Outcome.PASSED else set())


# Every bit


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit >> 3] ^= 1 << (bit & 7)
    return bytes(changed)


def is_refused(good, message, signature):
    """Judge `good` with another message or signature; tell whether that is refused."""
    quote = good.quotes[0]
    try:
        changed = make_quote_untrusted(message, parse_signature_untrusted(signature), quote.pcrs)
    except DecodeError:
        return True
    ledger, _ = examine(good._replace(quotes=(changed,)))
    return "tpm.quote.signature" in ids(ledger) or "tpm.quote.algorithm" in ids(ledger)


def check_flips(tpm, count):
    good, (message, signature) = evidence(tpm), tpm.quote(NONCE)
    assert not is_refused(good, message, signature)
    bits = range(8 * len(message))
    for bit in bits if count >= len(bits) else random.Random(1).sample(bits, count):
        assert is_refused(good, flipped(message, bit), signature), f"bit {bit} of the message"
    bits = range(8 * len(signature))
    for bit in bits if count >= len(bits) else random.Random(2).sample(bits, count):
        assert is_refused(good, message, flipped(signature, bit)), f"bit {bit} of the signature"


@pytest.mark.parametrize("tpm", [TPM, ECC], ids=["rsa", "ecc"])
def test_refuses_flipped_bits(tpm):
    check_flips(tpm, 150)


@pytest.mark.soak
@pytest.mark.parametrize("tpm", [TPM, ECC], ids=["rsa", "ecc"])
def test_refuses_every_flipped_bit(tpm):
    check_flips(tpm, SOAK_EXAMPLES)


def check_certificate_flips(count):
    leaf = MAKER.certify(TPM)
    assert_accepted(with_certificate(leaf, MAKER.intermediate), anchors=ANCHORED)
    for which in (0, 1):
        bits = range(8 * len((leaf, MAKER.intermediate)[which]))
        for bit in bits if count >= len(bits) else random.Random(which).sample(bits, count):
            chain = [leaf, MAKER.intermediate]
            chain[which] = flipped(chain[which], bit)
            try:
                ledger, _ = examine(with_certificate(*chain), anchors=ANCHORED)
            except DecodeError:
                continue
            assert ids(ledger) or ids(ledger, Outcome.UNDECIDED), f"bit {bit} of certificate {which}"


def test_refuses_flipped_bits_of_certificates():
    check_certificate_flips(100)


@pytest.mark.soak
def test_refuses_every_flipped_bit_of_certificates():
    check_certificate_flips(SOAK_EXAMPLES)


# The appraisal


def appraise(parsed, *, report_data=None, **expected):
    ledger, examined = examine(parsed)
    ledger = Ledger()
    expectations = {rule.key: rule.baseline for rule in RULES} | {f"tpm.{key}": each for key, each in expected.items()}
    policy = AppraisalPolicy(name="test", expectations=expectations, tees=frozenset({"tpm"}))
    setting = Setting(at=AT, anchors=TrustAnchors(), report_data=report_data)
    apply_rules(JUDGE, Part("tpm", examined.claims), policy, setting, ledger)
    return ids(ledger)


def test_the_baseline_accepts_a_trusted_key():
    assert appraise(evidence()) == set()


@pytest.mark.parametrize("given", [NONCE, b"another"])
def test_compares_the_nonce(given):
    assert appraise(evidence(), report_data=given) == (set() if given == NONCE else {"tpm.nonce"})


def test_takes_the_digest_of_what_the_caller_passes_for_a_nonce():
    message, signature = TPM.quote(hashlib.sha256(b"long" * 99).digest())
    parsed = evidence(message=message, signature=signature)
    assert appraise(parsed, report_data=b"long" * 99) == set()


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("bank", "sha256", "sha384"),
        ("pcr0", TPM.pcrs["sha256"][0], bytes(32)),
        ("pcr8", TPM.pcrs["sha256"][8], TPM.pcrs["sha256"][0]),
        ("pcr23", bytes(32), b"\1" * 32),
        ("ak", TPM.pin, bytes(32)),
        ("ak_trust", "pinned", "certificate"),
        ("firmware", bytes(7) + b"\1", bytes(8)),
        ("clock_safe", True, False),
        ("event_log", True, False),
        ("secure_boot", True, False),
    ],
)
def test_each_rule_accepts_and_refuses(key, good, bad):
    parsed = evidence(logs=(TPM.event_log(),))
    assert appraise(parsed, **{key: OneOf(good)}) == set()
    assert appraise(parsed, **{key: OneOf(bad)}) == {f"tpm.{key}"}


def test_refuses_a_pcr_that_is_not_quoted():
    assert appraise(evidence(selections=(("sha256", (0,)),)), pcr8=OneOf(TPM.pcrs["sha256"][8])) == {"tpm.pcr8"}


def test_wants_an_event_log_where_the_policy_does():
    assert appraise(evidence(), event_log=OneOf(True), secure_boot=OneOf(True)) == {"tpm.event_log", "tpm.secure_boot"}


def test_every_strict_value_and_baseline_is_well_formed():
    import tomllib

    for rule in RULES:
        if rule.strict is not None:
            value = tomllib.loads(f"value = {rule.strict}")["value"]
            assert isinstance(value, dict) or rule.grammar.decode(value)


# The corpus


def corpus_evidence(case):
    inputs = case["inputs"]
    if "evidence" in inputs:
        return parse_tpm_bundle_untrusted(json.loads(read(inputs["evidence"])))
    if "attestation" in inputs:
        return parse_tpm_protobuf_untrusted(read(inputs["attestation"]))
    return make_tpm_evidence_untrusted(
        read(inputs["message"]), read(inputs["signature"]), read(inputs["pcrs"]), ak=read(inputs["ak"])
    )


def plain(value):
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


QUOTE_CASES = [case for case in cases("tpm") if case["inputs"].keys() & {"evidence", "attestation", "message"}]
REASONS = {"tpm.quote.pcr_digest": "pcr_digest_mismatch", "tpm.quote.signature": "quote_signature_invalid"}
# The corpus calls this evidence by the name that its makers gave the file; nothing in it says so.
NOT_IN_THE_EVIDENCE = {"platform"}


def pinned(parsed):
    return TrustAnchors(tpm_aks=frozenset({hashlib.sha256(load_ak(parsed)).digest()}))


@pytest.mark.parametrize("case", QUOTE_CASES, ids=lambda case: case["id"])
def test_real_quotes_get_the_verdict_that_is_listed(case):
    parsed = corpus_evidence(case)
    ledger, examined = examine(parsed, anchors=pinned(parsed))
    failed = ids(ledger)
    assert bool(failed) == (case["verdict"] == "invalid")
    assert {REASONS[each] for each in failed} == set(case["reasons"])
    assert not ids(ledger, Outcome.UNDECIDED)
    claims = plain(examined.claims.named())
    for key in case["claims"].keys() - NOT_IN_THE_EVIDENCE:
        assert claims[key] == case["claims"][key]


@needs_evidence
def test_a_real_key_is_trusted_by_its_makers_certificate_and_its_log_replays():
    parsed = corpus_evidence(next(case for case in QUOTE_CASES if "attestation" in case["inputs"]))
    ledger, examined = examine(parsed, anchors=pinned_anchors(), at=datetime(2025, 1, 1, tzinfo=UTC))
    assert not ids(ledger)
    assert examined.claims.ak_trust == "certificate"
    assert examined.claims.log == (True, True)


@needs_evidence
def test_real_keys_do_not_stand_in_for_each_other():
    parsed = [corpus_evidence(case) for case in QUOTE_CASES if case["verdict"] == "valid"]
    for one in parsed:
        for other in parsed:
            if one is other:
                continue
            mixed = one._replace(ak_spki=load_ak(other), ak_public=None, certificates=())
            ledger, _ = examine(mixed, anchors=pinned(mixed))
            assert ids(ledger) == {"tpm.quote.signature"}


def real_flips(count):
    for case in QUOTE_CASES:
        if case["verdict"] != "valid" or "message" not in case["inputs"]:
            continue
        parsed = corpus_evidence(case)
        quote = parsed.quotes[0]
        ledger, _ = examine(parsed, anchors=pinned(parsed))
        assert not ids(ledger)
        bits = range(8 * len(quote.message))
        for bit in bits if count >= len(bits) else random.Random(3).sample(bits, count):
            try:
                changed = make_quote_untrusted(flipped(quote.message, bit), quote.signature, quote.pcrs)
            except DecodeError:
                continue
            ledger, _ = examine(parsed._replace(quotes=(changed,)), anchors=pinned(parsed))
            assert "tpm.quote.signature" in ids(ledger)
        value = quote.signature.values[0]
        bits = range(8 * len(value))
        for bit in bits if count >= len(bits) else random.Random(4).sample(bits, count):
            signature = quote.signature._replace(values=(flipped(value, bit),))
            changed = Quote(quote.message, quote.attest, signature, quote.pcrs)
            ledger, _ = examine(parsed._replace(quotes=(changed,)), anchors=pinned(parsed))
            assert ids(ledger) == {"tpm.quote.signature"}


@needs_evidence
def test_refuses_flipped_bits_of_real_quotes():
    real_flips(100)


@needs_evidence
@pytest.mark.soak
def test_refuses_every_flipped_bit_of_real_quotes():
    real_flips(SOAK_EXAMPLES)


@pytest.mark.parametrize(
    "case", [case for case in cases("tpm") if "ak_cert" in case["inputs"]], ids=lambda case: case["id"]
)
def test_a_real_certificate_chain_leads_to_its_root(case):
    from enarx.crypto.certificates import load_pem_chain_untrusted

    leaf, intermediate, root = (
        load_pem_chain_untrusted(read(case["inputs"][name]))[0] for name in ("ak_cert", "intermediate", "root")
    )
    at = datetime.fromisoformat(case["eval_time"])
    for anchors in (TrustAnchors(tpm=(root,)), pinned_anchors()):
        ledger = Ledger()
        setting = Setting(at=at, anchors=anchors)
        certificate = check_ak_certificate(leaf, (intermediate,), setting, ledger)
        assert not ids(ledger)
        claims = plain(certificate.named())
        assert {key: claims[key] for key in case["claims"]} == case["claims"]
    ledger = Ledger()
    early = replace(setting, at=at - timedelta(days=60))
    check_ak_certificate(leaf, (intermediate,), early, ledger)
    assert ids(ledger) == {"tpm.ak_chain.validity"}
