# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import hashlib
import json
import os
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from enarx.abi.tpm import parse_signature_untrusted
from enarx.abi.tpm_bundle import make_azure_evidence_untrusted, make_quote_untrusted, parse_azure_bundle_untrusted
from enarx.errors import DecodeError
from enarx.rats import AppraisalPolicy, Endorsements, IntelCollateral, OneOf, Outcome, TrustAnchors
from enarx.testing.dcap import AT as INTEL_AT
from enarx.testing.dcap import TDX, FakeIntel, Platform, TdReport
from enarx.testing.snp import FakeAmd
from enarx.testing.tpm import AT, FakeTpm, FakeTpmMaker, make_hcl_report, make_runtime_data
from enarx.verifier.appraisal import apply_rules
from enarx.verifier.azure import JUDGE, RULES
from enarx.verifier.ledger import Ledger, Part, Setting
from enarx.verifier.roots import pinned_anchors
from tests.evidence import cases, read

NONCE = b"a challenge"
SOAK_EXAMPLES = int(os.environ.get("ENARX_SOAK_EXAMPLES", "1000000000"))
MAKER = FakeTpmMaker("azure")
AMD = FakeAmd()
INTEL = FakeIntel()
PLATFORM = Platform()
TPM = FakeTpm("azure")
TPM.boot()
OTHER = FakeTpm("azure other")
OTHER.boot()
RUNTIME = make_runtime_data(TPM)
HASHES = {1: "sha256", 2: "sha384", 3: "sha512"}


def make_quote(tpm=TPM, nonce=NONCE):
    message, signature = tpm.quote(nonce)
    return make_quote_untrusted(
        message, parse_signature_untrusted(signature), {"sha256": dict(enumerate(tpm.pcrs["sha256"]))}
    )


QUOTE = make_quote()


def bind(runtime, hash_type):
    return hashlib.new(HASHES[hash_type], runtime).digest().ljust(64, b"\0")


def snp_evidence(runtime=RUNTIME, *, bound=None, hash_type=1, quote=QUOTE, **more):
    report_data = bound if bound is not None else bind(runtime, hash_type)
    case = AMD.make_case(report={"report_data": report_data})
    report = make_hcl_report(case.data, runtime, report_type=2, hash_type=hash_type)
    more = {"certificates": case.certificates} | more
    return make_azure_evidence_untrusted(report, quote=quote, **more)


def tdx_evidence(runtime=RUNTIME, *, bound=None, quote=QUOTE, **more):
    report_data = bound if bound is not None else bind(runtime, 1)
    td_quote = INTEL.make_quote(TdReport(report_data=report_data), PLATFORM)
    report = make_hcl_report(bytes(128) + bind(runtime, 1), runtime, report_type=4)
    return make_azure_evidence_untrusted(report, quote=quote, **{"td_quote": td_quote} | more)


COLLATERAL = Endorsements(intel=(INTEL.make_collateral(TDX, PLATFORM),))
ANCHORS = TrustAnchors(amd=AMD.anchors.amd, intel=(INTEL.root.der,), tpm=(MAKER.root,))


def examine(parsed, *, endorsements=None, anchors=ANCHORS, at=None):
    ledger = Ledger()
    at = at or (AT if parsed.hcl.tee == "snp" else INTEL_AT)
    examined = JUDGE.examine(parsed, endorsements or COLLATERAL, Setting(at=at, anchors=anchors), ledger)
    return ledger, examined


def ids(ledger, outcome=Outcome.FAILED):
    return {finding.check.id for finding in ledger.findings if finding.outcome is outcome}


def assert_accepted(parsed, **options):
    ledger, examined = examine(parsed, **options)
    assert not ids(ledger)
    assert not ids(ledger, Outcome.UNDECIDED)
    return examined


def assert_refused(parsed, *wanted, **options):
    ledger, examined = examine(parsed, **options)
    assert ids(ledger) == set(wanted)
    return examined


@pytest.mark.parametrize("hash_type", [1, 2, 3])
def test_accepts_snp_evidence(hash_type):
    examined = assert_accepted(snp_evidence(hash_type=hash_type))
    assert examined.tee == "azure-snp"
    assert [part.section for part in examined.parts] == ["snp", "azure"]
    assert "challenge is in the TPM's quote" in examined.parts[0].freshness
    assert examined.parts[1].freshness is None
    assert examined.parts[1].claims.pcrs == dict(enumerate(TPM.pcrs["sha256"]))


def test_accepts_tdx_evidence():
    examined = assert_accepted(tdx_evidence())
    assert examined.tee == "azure-tdx"
    assert [part.section for part in examined.parts] == ["tdx", "azure"]
    assert examined.tcb_status == "UpToDate"


def test_says_whose_paravisor_is_trusted():
    ledger, _ = examine(snp_evidence())
    finding = next(each for each in ledger.findings if each.check.id == "azure.hardware.measures")
    assert "Microsoft's paravisor" in finding.found


@pytest.mark.parametrize("at", [32, 63])
def test_refuses_report_data_with_more_than_the_hash(at):
    bound = bytearray(bind(RUNTIME, 1))
    bound[at] = 1
    assert_refused(snp_evidence(bound=bytes(bound)), "azure.runtime_data.binding")
    assert_refused(tdx_evidence(bound=bytes(bound)), "azure.td_quote.binding")


def test_refuses_runtime_data_that_the_hardware_does_not_bind():
    assert_refused(snp_evidence(bound=bind(b"other", 1)), "azure.runtime_data.binding")
    assert_refused(tdx_evidence(bound=bind(b"other", 1)), "azure.td_quote.binding")


def test_refuses_a_td_quote_of_another_vm():
    other = INTEL.make_quote(TdReport(report_data=bind(make_runtime_data(OTHER), 1)), PLATFORM)
    assert_refused(tdx_evidence(td_quote=other), "azure.td_quote.binding")


def test_refuses_a_quote_of_another_vms_tpm():
    assert_refused(snp_evidence(quote=make_quote(OTHER)), "azure.quote.signature")


def test_believes_no_pcr_of_a_quote_whose_signature_is_bad():
    examined = assert_refused(snp_evidence(quote=make_quote(OTHER)), "azure.quote.signature")
    assert examined.parts[1].claims.pcrs == {}


def test_refuses_pcr_values_that_were_not_quoted():
    values = dict(QUOTE.pcrs["sha256"]) | {4: bytes(32)}
    assert_refused(snp_evidence(quote=QUOTE._replace(pcrs={"sha256": values})), "azure.quote.pcr_digest")


def test_refuses_a_td_quote_with_an_snp_vms_report():
    quote = INTEL.make_quote(TdReport(), PLATFORM)
    assert_refused(snp_evidence(td_quote=quote), "azure.hcl.tee")


KEY = json.loads(RUNTIME)["keys"][0]


@pytest.mark.parametrize(
    "runtime",
    [
        b"no JSON",
        b"[]",
        b'{"keys":[],"keys":[]}',
        make_runtime_data(TPM, changes={"keys": None}),
        make_runtime_data(TPM, changes={"keys": []}),
        make_runtime_data(TPM, changes={"keys": [KEY, KEY]}),
        make_runtime_data(TPM, changes={"keys": [KEY | {"kid": "HCLEkPub"}]}),
        make_runtime_data(TPM, changes={"keys": [KEY | {"kty": "EC"}]}),
        make_runtime_data(TPM, changes={"keys": [KEY | {"key_ops": ["encrypt"]}]}),
        make_runtime_data(TPM, changes={"keys": [KEY | {"n": 5}]}),
        make_runtime_data(TPM, changes={"keys": [KEY | {"n": "A"}]}),
        make_runtime_data(TPM, changes={"keys": [KEY | {"n": "*"}]}),
        make_runtime_data(TPM, changes={"keys": [KEY | {"e": "AA"}]}),
        make_runtime_data(TPM, changes={"keys": [KEY | {"e": "Ag"}]}),
    ],
)
def test_refuses_bound_runtime_data_without_one_attestation_key(runtime):
    examined = assert_refused(snp_evidence(runtime), "azure.runtime_data.form")
    claims = examined.parts[1].claims
    assert claims.pcrs == {}
    assert claims.ak_sha256 is None
    claims.named()


def test_refuses_a_short_key():
    short = FakeTpm("azure", bits=1024)
    assert_refused(
        snp_evidence(make_runtime_data(short), quote=make_quote(short)), "azure.ak.key", "azure.quote.algorithm"
    )


def test_does_not_decide_without_a_quote_or_hardware_evidence():
    ledger, examined = examine(snp_evidence(quote=None))
    assert not ids(ledger)
    assert ids(ledger, Outcome.UNDECIDED) == {"azure.quote.present"}
    examined.claims.named()
    ledger, examined = examine(tdx_evidence(td_quote=None))
    assert not ids(ledger)
    assert ids(ledger, Outcome.UNDECIDED) == {"azure.td_quote.present"}
    assert [part.section for part in examined.parts] == ["azure"]


def test_does_not_decide_without_the_hardware_makers_endorsements():
    ledger, _ = examine(snp_evidence(certificates=()))
    assert not ids(ledger)
    assert any(each.startswith("snp.") for each in ids(ledger, Outcome.UNDECIDED))


def test_refuses_a_forged_hardware_report():
    case = AMD.make_case(report={"report_data": bind(RUNTIME, 1)})
    forged = case.report._replace(guest_svn=99).serialise()
    report = make_hcl_report(forged, RUNTIME, report_type=2)
    parsed = make_azure_evidence_untrusted(report, quote=QUOTE, certificates=case.certificates)
    assert_refused(parsed, "snp.report.signature")


def test_takes_endorsements_from_the_caller():
    case = AMD.make_case(report={"report_data": bind(RUNTIME, 1)})
    assert_accepted(snp_evidence(certificates=()), endorsements=Endorsements(certificates=case.certificates))


# The certificate of the attestation key


def status_of(parsed, **options):
    ledger, examined = examine(parsed, **options)
    claims = examined.parts[-1].claims
    return ids(ledger), claims.ak_certificate, claims.ak_chain


@pytest.mark.parametrize(
    ("certificates", "failed", "status"),
    [
        ((), set(), "absent"),
        ((MAKER.certify(TPM), MAKER.intermediate), set(), "verified"),
        ((MAKER.certify(TPM),), set(), "incomplete"),
        ((MAKER.certify(TPM, lifetime=timedelta(days=1)), MAKER.intermediate), set(), "outdated"),
        ((MAKER.certify(OTHER), MAKER.intermediate), {"azure.ak_certificate.key"}, "absent"),
    ],
)
def test_shows_what_a_certificate_of_the_key_is_worth(certificates, failed, status):
    found = status_of(snp_evidence(ak_certificates=certificates))
    assert found[:2] == (failed, status)


def test_names_the_issuer_that_is_missing():
    chain = status_of(snp_evidence(ak_certificates=(MAKER.certify(TPM),)))[2]
    assert chain == "incomplete (Fake TPM CA azure not given)"


def test_refuses_a_forged_certificate_of_the_key():
    good = MAKER.certify(TPM)
    forged = good[:-1] + bytes([good[-1] ^ 1])
    failed, status, _ = status_of(snp_evidence(ak_certificates=(forged, MAKER.intermediate)))
    assert (failed, status) == ({"azure.ak_certificate.chain"}, "forged")


def test_event_logs_are_the_virtual_tpms():
    examined = assert_accepted(tdx_evidence(event_logs=(TPM.event_log(),)))
    assert examined.parts[1].claims.log == (True, True)
    other = FakeTpm("azure")
    other.boot(secure_boot=b"\0")
    assert_refused(tdx_evidence(event_logs=(other.event_log(),)), "azure.event_log.replay")


# Every bit of the runtime data


def check_runtime_flips(count):
    assert_accepted(snp_evidence())
    case = AMD.make_case(report={"report_data": bind(RUNTIME, 1)})
    bits = range(8 * len(RUNTIME))
    for bit in bits if count >= len(bits) else random.Random(5).sample(bits, count):
        changed = bytearray(RUNTIME)
        changed[bit >> 3] ^= 1 << (bit & 7)
        report = make_hcl_report(case.data, bytes(changed), report_type=2)
        parsed = make_azure_evidence_untrusted(report, quote=QUOTE, certificates=case.certificates)
        assert "azure.runtime_data.binding" in ids(examine(parsed)[0])


def test_refuses_flipped_bits_of_the_runtime_data():
    check_runtime_flips(60)


@pytest.mark.soak
def test_refuses_every_flipped_bit_of_the_runtime_data():
    check_runtime_flips(SOAK_EXAMPLES)


# The appraisal


def appraise(parsed, *, report_data=None, **expected):
    _, examined = examine(parsed)
    ledger = Ledger()
    changed = {f"azure.{key.replace('__', '.')}": each for key, each in expected.items()}
    expectations = {rule.key: rule.baseline for rule in RULES}
    assert changed.keys() <= expectations.keys()
    policy = AppraisalPolicy(name="test", expectations=expectations | changed, tees=frozenset({"azure"}))
    setting = Setting(at=AT, anchors=ANCHORS, report_data=report_data)
    apply_rules(JUDGE, Part("azure", examined.parts[-1].claims), policy, setting, ledger)
    return ids(ledger)


@pytest.mark.parametrize("given", [NONCE, b"another"])
def test_compares_the_nonce(given):
    assert appraise(snp_evidence(), report_data=given) == (set() if given == NONCE else {"azure.nonce"})


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("paravisor", "microsoft", "somebody else"),
        ("hcl_report_type", 2, 4),
        ("user_data", bytes(64), b"\1" * 64),
        ("vm_id", "00000000-0000-4000-8000-000000000001", "another"),
        ("ak", TPM.pin, bytes(32)),
        ("ak_certificate", "absent", "verified"),
        ("bank", "sha256", "sha1"),
        ("pcr7", TPM.pcrs["sha256"][7], bytes(32)),
        ("event_log", True, False),
        ("secure_boot", True, False),
        ("vm_configuration__secure_boot", True, False),
        ("vm_configuration__tpm_enabled", True, False),
        ("vm_configuration__tpm_persisted", True, False),
        ("vm_configuration__console_enabled", True, False),
        ("vm_configuration__root_cert_thumbprint", None, "another"),
    ],
)
def test_each_rule_accepts_and_refuses(key, good, bad):
    parsed = snp_evidence(event_logs=(TPM.event_log(),))
    if good is not None:
        assert appraise(parsed, **{key: OneOf(good)}) == set()
    assert appraise(parsed, **{key: OneOf(bad)}) == {f"azure.{key.replace('__', '.')}"}


@pytest.mark.parametrize("value", ["yes", 1, None, ["true"]])
def test_takes_no_other_value_for_a_yes(value):
    runtime = make_runtime_data(TPM, changes={"vm-configuration": {"secure-boot": value}})
    assert appraise(snp_evidence(runtime), vm_configuration__secure_boot=OneOf(True)) == {
        "azure.vm_configuration.secure_boot"
    }


def test_every_strict_value_is_well_formed():
    import tomllib

    for rule in RULES:
        if rule.strict is not None:
            value = tomllib.loads(f"value = {rule.strict}")["value"]
            assert isinstance(value, dict) or rule.grammar.decode(value)


# The corpus


def collateral_of(document):
    """Read attested-tls' YAML of collateral; its signatures stand beside what they are over."""

    def signed(member, name):
        return f'{{"{member}":{document[name]},"signature":"{document[name + "_signature"]}"}}'.encode()

    def chain(name):
        from enarx.crypto.certificates import load_pem_chain_untrusted

        return load_pem_chain_untrusted(document[name].encode())

    return IntelCollateral(
        tcb_info=signed("tcbInfo", "tcb_info"),
        tcb_info_chain=chain("tcb_info_issuer_chain"),
        qe_identity=signed("enclaveIdentity", "qe_identity"),
        qe_identity_chain=chain("qe_identity_issuer_chain"),
        pck_crl=bytes.fromhex(document["pck_crl"]),
        pck_crl_chain=chain("pck_crl_issuer_chain"),
        root_ca_crl=bytes.fromhex(document["root_ca_crl"]),
    )


def corpus_evidence(case):
    """Return evidence and endorsements of a case."""
    inputs = case["inputs"]
    if "hcl_report" in inputs:
        return make_azure_evidence_untrusted(read(inputs["hcl_report"])), Endorsements()
    if "evidence" in inputs:
        return parse_azure_bundle_untrusted(json.loads(read(inputs["evidence"]))), Endorsements()
    collateral = collateral_of(yaml.safe_load(read(inputs["collateral_yaml"])))
    parsed = parse_azure_bundle_untrusted(yaml.safe_load(read(inputs["evidence_yaml"])))
    return parsed, Endorsements(intel=(collateral,))


def plain(value):
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


REASONS = {"azure.quote.pcr_digest": "pcr_digest_mismatch", "azure.runtime_data.binding": "runtime_data_not_bound"}
# What these cases do not bring, and their verdicts do not speak of.
ABSENT = {"azure.quote.present", "azure.td_quote.present", "tdx.collateral.present"}


@pytest.mark.parametrize("case", cases("azure"), ids=lambda case: case["id"])
def test_real_evidence_gets_the_verdict_that_is_listed(case):
    parsed, endorsements = corpus_evidence(case)
    at = datetime(2026, 1, 1, tzinfo=UTC) if case["eval_time"] == "any" else datetime.fromisoformat(case["eval_time"])
    ledger, examined = examine(parsed, endorsements=endorsements, anchors=pinned_anchors(), at=at)
    failed = ids(ledger)
    assert bool(failed) == (case["verdict"] == "invalid")
    assert {REASONS[each] for each in failed} == set(case["reasons"])
    assert ids(ledger, Outcome.UNDECIDED) <= ABSENT
    claims = {key: value for part in examined.parts for key, value in plain(part.claims.named()).items()}
    for key, value in case["claims"].items():
        # The status is of the verdict, not of the claims.
        assert (examined.tcb_status if key == "tcb" else claims[key]) == value


@pytest.mark.parametrize("case", [each for each in cases("azure") if each["id"].endswith("trustee-v1")])
def test_real_evidence_of_two_vms_does_not_mix(case):
    parsed, _ = corpus_evidence(case)
    other = next(each for each in cases("azure") if each["id"].endswith("genoa-trustee-v0"))
    stranger, _ = corpus_evidence(other)
    at = datetime.fromisoformat(case["eval_time"])
    ledger, _ = examine(parsed._replace(quote=stranger.quote), anchors=pinned_anchors(), at=at)
    assert ids(ledger) == {"azure.quote.signature"}
    ledger, _ = examine(parsed._replace(certificates=stranger.certificates), anchors=pinned_anchors(), at=at)
    assert "snp.report.signature" in ids(ledger)


def test_the_shape_that_trustee_prints_is_read_and_judged():
    message, signature = TPM.quote(NONCE)
    case = AMD.make_case(report={"report_data": bind(RUNTIME, 1)})
    bundle = {
        "version": 1,
        "hcl_report": base64.urlsafe_b64encode(make_hcl_report(case.data, RUNTIME, report_type=2)).decode(),
        "tpm_quote": {
            "message": message.hex(),
            "signature": signature[6:].hex(),
            "pcrs": [value.hex() for value in TPM.pcrs["sha256"]],
        },
        "vcek": base64.b64encode(case.certificates[0]).decode(),
    }
    parsed = parse_azure_bundle_untrusted(bundle)
    assert_accepted(parsed, endorsements=Endorsements(certificates=case.certificates))
    with pytest.raises(DecodeError):
        parse_azure_bundle_untrusted(bundle | {"hcl_report": "AAAA"})


def test_the_anchors_of_the_hardware_decide():
    assert_accepted(snp_evidence())
    ledger, _ = examine(snp_evidence(), anchors=replace(ANCHORS, amd=()))
    assert ids(ledger) or ids(ledger, Outcome.UNDECIDED)
