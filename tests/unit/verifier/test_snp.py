# SPDX-License-Identifier: Apache-2.0
"""SEV-SNP: every check accepts and refuses; real evidence comes out as it should; no flipped bit passes."""

from __future__ import annotations

import dataclasses
import os
from datetime import datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.abi.snp import (
    ARK_GUID,
    ASK_GUID,
    CRL_GUID,
    PRODUCTS,
    VCEK_GUID,
    parse_report_untrusted,
    parse_sev_crate_certificates_untrusted,
)
from enarx.crypto.certificates import load_pem_chain_untrusted
from enarx.emulator.pki import issue_vek, make_authority, make_certificate, make_name, vek_extensions
from enarx.emulator.report import make_tcb, sign_report
from enarx.errors import DecodeError
from enarx.rats import (
    AppraisalPolicy,
    AttestationResult,
    EachAtLeast,
    Endorsements,
    OneOf,
    Outcome,
    Skip,
    TrustAnchors,
    Verdict,
)
from enarx.testing.snp import AT, FakeAmd, SnpCase
from enarx.verifier.appraisal import apply_rules
from enarx.verifier.cache import TrustCache
from enarx.verifier.grammar import Freshness
from enarx.verifier.ledger import Ledger, Setting
from enarx.verifier.registry import baseline_policy
from enarx.verifier.roots import pinned_anchors
from enarx.verifier.snp import JUDGE, RULES, AllBits, SnpEvidence
from enarx.verifier.snp_claims import AMD_NAME
from tests.evidence import cases, needs_evidence, read
from tests.soak import STEP
from tests.unit.verifier.peer_checks_snp import PEER_CHECKS

START = AT - timedelta(days=90)
PROVIDER = "CN=cloud.example"
STRANGE_OID = x509.ObjectIdentifier("1.2.3.4")
GRAMMARS = {rule.key: rule.grammar for rule in RULES}


def make_policy(**expectations) -> AppraisalPolicy:
    """A policy that skips all it is not told."""
    skipped = {rule.key: Skip("not what is tested") for rule in RULES}
    return AppraisalPolicy(name="test", tees=frozenset({"snp"}), expectations=skipped | expectations)


AUTHENTICITY_ONLY = make_policy()


def judge(
    case: SnpCase,
    policy: AppraisalPolicy = AUTHENTICITY_ONLY,
    *,
    cache: TrustCache | None = None,
    report_data: bytes | None = None,
) -> AttestationResult:
    """What the package's front door does after it recognised a report."""
    setting = Setting(at=case.at, anchors=case.anchors, cache=cache or TrustCache(), report_data=report_data)
    ledger = Ledger()
    examined = JUDGE.examine(case.parsed, case.endorsements, setting, ledger)
    apply_rules(JUDGE, examined.parts[0], policy, setting, ledger)
    return AttestationResult(
        tee=examined.tee,
        subject=examined.claims,
        findings=tuple(ledger.findings),
        at=case.at,
        policy_name=policy.name,
        valid_until=ledger.valid_until,
        emulated=examined.emulated,
    )


def failed(result: AttestationResult) -> set[str]:
    return {finding.check.id for finding in result.findings if finding.outcome is Outcome.FAILED}


def undecided(result: AttestationResult) -> set[str]:
    return {finding.check.id for finding in result.findings if finding.outcome is Outcome.UNDECIDED}


@pytest.fixture(scope="module")
def amd() -> FakeAmd:
    return FakeAmd()


@pytest.fixture(scope="module")
def rogue() -> FakeAmd:
    return FakeAmd(owner="somebody else")


# What is accepted.


@pytest.mark.parametrize(
    ("line", "product"), [("Milan", "Milan"), ("Genoa", "Genoa"), ("Genoa", "Siena"), ("Turin", "Turin")]
)
@pytest.mark.parametrize("version", [2, 3, 5])
@pytest.mark.parametrize("csp_id", [None, PROVIDER])
def test_accepts_every_version_product_and_kind_of_key(line, product, version, csp_id):
    result = judge(FakeAmd(line).make_case(product=product, version=version, csp_id=csp_id), baseline_policy("snp"))
    assert result.verdict is Verdict.ACCEPTED, [finding.line for finding in result.failures]
    assert result.subject.product == product
    assert not result.emulated


def test_makes_a_finding_for_every_check_once(amd):
    findings = judge(amd.make_case()).findings
    ids = [finding.check.id for finding in findings]
    assert len(ids) == len(set(ids))
    assert {rule.check.id for rule in RULES} < set(ids)


def test_takes_certificates_in_any_order_and_twice(amd):
    case = amd.make_case()
    vek, ask, ark = case.certificates
    for certificates in ((ark, vek, ask), (ask, ark, vek), (ark, ask, vek, vek, ark)):
        assert judge(dataclasses.replace(case, certificates=certificates)).verdict is Verdict.ACCEPTED


def test_needs_no_ark_certificate_where_it_is_pinned(amd):
    case = amd.make_case()
    assert judge(dataclasses.replace(case, certificates=case.certificates[:2])).verdict is Verdict.ACCEPTED


def test_says_which_anchor_it_rests_on_and_until_when(amd):
    result = judge(amd.make_case())
    finding = next(each for each in result.findings if each.check.id == "snp.ark.pinned")
    assert finding.anchor is not None
    assert finding.anchor.startswith("ARK-Milan, ")
    assert result.valid_until == START + timedelta(days=365)


def test_uses_certificates_of_the_table(amd):
    case = amd.make_case()
    table = tuple(zip((VCEK_GUID, ASK_GUID, ARK_GUID), case.certificates, strict=True))
    bare = dataclasses.replace(case, certificates=())
    assert judge(bare).verdict is Verdict.UNDECIDED
    assert judge(dataclasses.replace(bare, table=table)).verdict is Verdict.ACCEPTED
    revoked = (*table, (CRL_GUID, amd.make_crl(revoked=["ask"])))
    assert failed(judge(dataclasses.replace(bare, table=revoked))) == {"snp.chain.revocation"}


def test_chooses_the_vek_that_fits(amd):
    case = amd.make_case()
    others = [
        amd.make_case(chip="another").certificates[0],
        amd.make_case(report={"reported_tcb": make_tcb("Milan", snp=1)}).certificates[0],
        amd.make_case(csp_id=PROVIDER).certificates[0],
    ]
    certificates = (*others, *case.certificates, amd.vendor.asvk.certificate)
    assert judge(dataclasses.replace(case, certificates=certificates)).verdict is Verdict.ACCEPTED


def test_ignores_certificates_of_others(amd):
    case = amd.make_case()
    stranger = make_certificate(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Somebody's CA")]),
        amd.vendor.ask.private_key.public_key(),
        issuer=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Somebody")]),
        signer=amd.vendor.ask.private_key,
        serial=1,
        not_before=START,
        not_after=AT,
        extensions=(),
    )
    certificates = (*case.certificates, stranger, b"not even a certificate")
    assert judge(dataclasses.replace(case, certificates=certificates)).verdict is Verdict.ACCEPTED


def test_judges_the_same_with_a_cache(amd):
    cache = TrustCache()
    case = amd.make_case()
    first, second = judge(case, cache=cache), judge(case, cache=cache)
    assert first.findings == second.findings
    late = judge(dataclasses.replace(case, at=AT + timedelta(days=3650)), cache=cache)
    assert failed(late) == {"snp.vek.validity"}
    assert judge(dataclasses.replace(case, anchors=TrustAnchors()), cache=cache).verdict is Verdict.NOT_AUTHENTIC


def test_an_emulated_root_is_accepted_and_said(amd):
    case = dataclasses.replace(amd.make_case(), anchors=amd.emulated_anchors)
    result = judge(case)
    assert result.verdict is Verdict.ACCEPTED
    assert result.emulated
    assert failed(judge(dataclasses.replace(case, anchors=TrustAnchors()))) == {
        "snp.chain.certificates",
        "snp.ark.pinned",
    }


# What is refused, and for which reasons exactly.


def _signed_by(amd: FakeAmd, key: ec.EllipticCurvePrivateKey, **changes) -> SnpCase:
    case = amd.make_case(public_key=key.public_key())
    return dataclasses.replace(case, report=sign_report(case.report._replace(**changes), key))


def _with_ask(amd: FakeAmd, **changes) -> SnpCase:
    """A chain with another ASK of the same name and key."""
    arguments = {"serial": 0x10002, "at": START} | changes
    ask = make_authority("SEV-Milan", amd.vendor.ask.private_key, amd.vendor.ark, **arguments)
    return amd.make_case(issuer=ask)


def _with_ask_extensions(amd: FakeAmd, extensions=None, rsa_padding=None, key=None) -> SnpCase:
    key = key or amd.vendor.ask.private_key
    case = amd.make_case()
    ask = make_certificate(
        make_name("SEV-Milan"),
        key.public_key(),
        issuer=amd.vendor.ark.subject,
        signer=amd.vendor.ark.private_key,
        serial=9,
        not_before=START,
        not_after=AT + timedelta(days=9),
        extensions=[(x509.BasicConstraints(ca=True, path_length=0), True)] if extensions is None else extensions,
        rsa_padding=rsa_padding,
    )
    vek = x509.load_der_x509_certificate(case.certificates[0])
    processor = amd.make_processor()
    certificate = make_certificate(
        vek.subject,
        vek.public_key(),
        issuer=make_name("SEV-Milan"),
        signer=key,
        serial=0,
        not_before=START,
        not_after=AT + timedelta(days=9),
        extensions=vek_extensions(processor.claims_for(case.report.reported_tcb)),
    )
    return dataclasses.replace(case, certificates=(certificate, ask, amd.root))


def _usage(**uses) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: uses.get(name, False) for name in names})


def _with_vek_extension(amd: FakeAmd, extension, *, critical: bool) -> SnpCase:
    processor = amd.make_processor()
    usual = vek_extensions(processor.claims_for(amd.make_case().report.reported_tcb))
    return amd.make_case(extensions=(*usual, (extension, critical)))


def _swap(case: SnpCase, other: SnpCase) -> SnpCase:
    return dataclasses.replace(case, certificates=other.certificates)


def _report(amd: FakeAmd, **changes) -> SnpCase:
    """A genuine report that was changed after it was signed."""
    case = amd.make_case()
    return dataclasses.replace(case, report=case.report._replace(**changes))


TURIN_TCB = make_tcb("Turin")

REFUSED = {
    "another chip's VCEK": (
        lambda amd, rogue: _swap(amd.make_case(), amd.make_case(chip="another")),
        {"snp.report.signature", "snp.vek.hwid"},
    ),
    "a VCEK for another chip with the same key": (
        lambda amd, rogue: amd.make_case(vek={"hwid": bytes(63) + b"\1"}),
        {"snp.vek.hwid"},
    ),
    "a VLEK for a VCEK": (
        lambda amd, rogue: _swap(amd.make_case(), amd.make_case(csp_id=PROVIDER)),
        {"snp.report.signature", "snp.report.signing_key"},
    ),
    "a VCEK for a VLEK": (
        lambda amd, rogue: _swap(amd.make_case(csp_id=PROVIDER), amd.make_case()),
        {"snp.report.signature", "snp.report.signing_key"},
    ),
    "a report by a VLEK that says VCEK": (
        lambda amd, rogue: amd.make_case(csp_id=PROVIDER, report={"key_info": 0}),
        {"snp.report.signing_key"},
    ),
    "a report that says no key signed": (
        lambda amd, rogue: amd.make_case(report={"key_info": 7 << 2}),
        {"snp.report.signing_key"},
    ),
    "a VCEK by the ASVK": (
        lambda amd, rogue: amd.make_case(issuer=amd.vendor.asvk),
        {"snp.chain.product"},
    ),
    "a VLEK that is called VCEK": (
        lambda amd, rogue: amd.make_case(csp_id=PROVIDER, name="SEV-VCEK"),
        {"snp.vek.kind"},
    ),
    "a VCEK of another product": (
        lambda amd, rogue: amd.make_case(vek={"product": "Genoa"}),
        {"snp.report.product", "snp.chain.product"},
    ),
    "a VCEK of an unknown product": (
        lambda amd, rogue: amd.make_case(vek={"product": "Venice"}),
        {"snp.report.product", "snp.chain.product"},
    ),
    "a report of another product": (
        lambda amd, rogue: amd.make_case(report={"cpuid_model": 0x11}),
        {"snp.report.product"},
    ),
    "a report of an unknown product": (
        lambda amd, rogue: amd.make_case(report={"cpuid_family": 0x1B}),
        {"snp.report.product"},
    ),
    "a VCEK of Turin with the classic layout": (
        lambda amd, rogue: FakeAmd("Turin").make_case(
            vek={"has_fmc": False, "tcb": TURIN_TCB, "hwid": FakeAmd("Turin").make_processor().chip_id}
        ),
        {"snp.chain.product"},
    ),
    "an expired VCEK": (
        lambda amd, rogue: amd.make_case(lifetime=timedelta(days=89)),
        {"snp.vek.validity"},
    ),
    "a VCEK that is not valid yet": (
        lambda amd, rogue: amd.make_case(at=AT + timedelta(seconds=1)),
        {"snp.vek.validity"},
    ),
    "an expired ASK": (
        lambda amd, rogue: _with_ask(amd, lifetime=timedelta(days=89)),
        {"snp.ask.validity"},
    ),
    "a time before anything": (
        lambda amd, rogue: dataclasses.replace(amd.make_case(), at=START - timedelta(days=4000)),
        {"snp.vek.validity", "snp.ask.validity", "snp.ark.validity"},
    ),
    "another root": (
        lambda amd, rogue: dataclasses.replace(rogue.make_case(), anchors=amd.anchors),
        {"snp.chain.certificates", "snp.ark.pinned"},
    ),
    "another root that does not come along": (
        lambda amd, rogue: dataclasses.replace(
            rogue.make_case(), anchors=amd.anchors, certificates=rogue.make_case().certificates[:2]
        ),
        {"snp.chain.certificates", "snp.ask.signature", "snp.ark.pinned"},
    ),
    "AMD's real roots": (
        lambda amd, rogue: dataclasses.replace(amd.make_case(), anchors=pinned_anchors()),
        {"snp.chain.certificates", "snp.ark.pinned"},
    ),
    "no roots": (
        lambda amd, rogue: dataclasses.replace(amd.make_case(), anchors=TrustAnchors()),
        {"snp.chain.certificates", "snp.ark.pinned"},
    ),
    "a VCEK by somebody else's ASK": (
        lambda amd, rogue: dataclasses.replace(
            amd.make_case(), certificates=(rogue.make_case().certificates[0], *amd.make_case().certificates[1:])
        ),
        {"snp.vek.signature", "snp.report.signature", "snp.vek.hwid"},
    ),
    "a VCEK without its ASK, which is not AMD's": (
        lambda amd, rogue: dataclasses.replace(amd.make_case(), certificates=amd.make_case().certificates[:1]),
        {"snp.vek.signature", "snp.ask.signature", "snp.ark.pinned"},
    ),
    "somebody else's ASK beside the right one": (
        lambda amd, rogue: dataclasses.replace(
            amd.make_case(), certificates=(*amd.make_case().certificates, rogue.vendor.ask.certificate)
        ),
        {"snp.chain.certificates"},
    ),
    "an unknown critical extension in the VCEK": (
        lambda amd, rogue: _with_vek_extension(amd, x509.UnrecognizedExtension(STRANGE_OID, b"\5\0"), critical=True),
        {"snp.chain.extensions"},
    ),
    "a VCEK that is an authority": (
        lambda amd, rogue: _with_vek_extension(amd, x509.BasicConstraints(ca=True, path_length=None), critical=True),
        {"snp.chain.constraints"},
    ),
    "a VCEK for another use": (
        lambda amd, rogue: _with_vek_extension(amd, _usage(key_cert_sign=True), critical=True),
        {"snp.chain.constraints"},
    ),
    "an ASK that is no authority": (
        lambda amd, rogue: _with_ask_extensions(amd, [(x509.BasicConstraints(ca=False, path_length=None), True)]),
        {"snp.chain.constraints"},
    ),
    "an ASK that does not say it is an authority": (
        lambda amd, rogue: _with_ask_extensions(amd, []),
        {"snp.chain.constraints"},
    ),
    "an ASK that may not sign certificates": (
        lambda amd, rogue: _with_ask_extensions(
            amd,
            [(x509.BasicConstraints(ca=True, path_length=0), True), (_usage(digital_signature=True), True)],
        ),
        {"snp.chain.constraints"},
    ),
    "an ASK signed with PKCS #1 v1.5": (
        lambda amd, rogue: _with_ask_extensions(amd, rsa_padding=padding.PKCS1v15()),
        {"snp.chain.algorithms"},
    ),
    "an ASK with a short key": (
        lambda amd, rogue: _with_ask_extensions(amd, key=_short_key()),
        {"snp.chain.algorithms"},
    ),
    "a VCEK with an RSA key": (
        lambda amd, rogue: amd.make_case(public_key=amd.vendor.ask.private_key.public_key()),
        {"snp.chain.algorithms", "snp.report.signature"},
    ),
    "a VCEK with a P-256 key": (
        lambda amd, rogue: amd.make_case(public_key=ec.generate_private_key(ec.SECP256R1()).public_key()),
        {"snp.chain.algorithms", "snp.report.signature"},
    ),
    "a report that says another signature algorithm": (
        lambda amd, rogue: amd.make_case(report={"signature_algo": 2}),
        {"snp.report.signature_algorithm"},
    ),
    "a reserved field that is not zero": (
        lambda amd, rogue: amd.make_case(report={"reserved_208": b"\1" + bytes(151)}),
        {"snp.report.reserved"},
    ),
    "a reserved bit of the policy": (
        lambda amd, rogue: amd.make_case(report={"policy": 1 << 17 | 1 << 26}),
        {"snp.report.reserved"},
    ),
    "a measurement changed after signing": (
        lambda amd, rogue: _report(amd, measurement=bytes(48)),
        {"snp.report.signature"},
    ),
    "R that is zero": (lambda amd, rogue: _report(amd, signature_r=bytes(48)), {"snp.report.signature"}),
    "S that is zero": (lambda amd, rogue: _report(amd, signature_s=bytes(48)), {"snp.report.signature"}),
    "R with a high byte": (
        lambda amd, rogue: _report(amd, reserved_2d0=b"\1" + bytes(23)),
        {"snp.report.signature", "snp.report.reserved"},
    ),
    "S with a high byte": (
        lambda amd, rogue: _report(amd, reserved_318=bytes(23) + b"\1"),
        {"snp.report.signature", "snp.report.reserved"},
    ),
    "something after the signature": (
        lambda amd, rogue: _report(amd, reserved_330=bytes(367) + b"\1"),
        {"snp.report.reserved"},
    ),
}


@cache
def _short_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 3072)


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name, amd, rogue):
    make, expected = REFUSED[name]
    assert judge(amd.make_case()).verdict is Verdict.ACCEPTED
    result = judge(make(amd, rogue))
    assert result.verdict is Verdict.NOT_AUTHENTIC
    assert failed(result) == expected
    with pytest.raises(Exception, match="snp evidence is not authentic: snp"):
        result.require()


@pytest.mark.parametrize("line", ["Milan", "Turin"])
@pytest.mark.parametrize("position", range(8))
@pytest.mark.parametrize("step", [1, -1])
def test_refuses_a_vek_for_another_tcb_component(line, position, step):
    amd = FakeAmd(line)
    case = amd.make_case(report={"reported_tcb": bytes([5] * 8)})
    tcb = bytearray([5] * 8)
    tcb[position] += step
    names = {
        "Milan": ["bootloader", "tee", *["reserved"] * 4, "snp", "microcode"],
        "Turin": ["fmc", "bootloader", "tee", "snp", *["reserved"] * 3, "microcode"],
    }
    assert judge(case).verdict is Verdict.ACCEPTED
    other = amd.make_case(report={"reported_tcb": bytes([5] * 8)}, vek={"tcb": bytes(tcb)})
    assert failed(judge(other)) == {f"snp.vek.tcb.{names[line][position]}"}


def test_validity_includes_both_ends(amd):
    case = amd.make_case(at=AT, lifetime=timedelta(seconds=10))
    for at in (AT, AT + timedelta(seconds=10)):
        assert judge(dataclasses.replace(case, at=at)).verdict is Verdict.ACCEPTED
    for at in (AT - timedelta(seconds=1), AT + timedelta(seconds=11)):
        assert failed(judge(dataclasses.replace(case, at=at))) == {"snp.vek.validity"}


def test_is_undecided_without_a_vek(amd):
    case = amd.make_case()
    result = judge(dataclasses.replace(case, certificates=case.certificates[1:]))
    assert result.verdict is Verdict.UNDECIDED
    assert result.failures[0].check.id == "snp.vek.present"
    assert "vek_kind" not in result.claims
    assert result.claims["measurement"] == case.report.measurement


def test_still_refuses_a_layout_without_a_vek(amd):
    case = amd.make_case(report={"signature_algo": 0})
    result = judge(dataclasses.replace(case, certificates=()))
    assert failed(result) == {"snp.report.signature_algorithm"}


def test_refuses_a_certificate_that_is_not_one(amd):
    case = amd.make_case()
    for index in range(3):
        certificates = list(case.certificates)
        certificates[index] = certificates[index][:-1]
        with pytest.raises(DecodeError, match="cannot decode a certificate"):
            judge(dataclasses.replace(case, certificates=tuple(certificates)))
        certificates[index] = case.certificates[index] + b"\0"
        with pytest.raises(DecodeError, match="cannot decode a certificate"):
            judge(dataclasses.replace(case, certificates=tuple(certificates)))


def test_refuses_too_many_certificates(amd):
    certificates = tuple(b"Advanced Micro Devices %d" % number for number in range(65))
    with pytest.raises(DecodeError, match="found 65, want at most 64"):
        judge(dataclasses.replace(amd.make_case(), certificates=certificates))


def test_refuses_a_vek_whose_extensions_are_incomplete(amd):
    extensions = vek_extensions(amd.make_processor().claims_for(make_tcb("Milan")))[:-1]
    with pytest.raises(DecodeError, match="found neither"):
        judge(amd.make_case(extensions=extensions))


def test_refuses_unused_bits_in_a_certificates_signature(amd):
    """The same signature in another encoding: its bit string says that the last bit, a zero, does not count."""
    processor, tcb = amd.make_processor(), amd.make_case().report.reported_tcb
    while True:
        vek = issue_vek(amd.vendor.ask, processor.claims_for(tcb), processor.key_for(tcb).public_key(), at=START)
        if not vek[-1] & 1:
            break
    case = amd.make_case()
    case = dataclasses.replace(case, certificates=(vek, *case.certificates[1:]))
    assert judge(case).verdict is Verdict.ACCEPTED
    position = len(vek) - 512 - 1
    assert vek[position] == 0
    other = vek[:position] + b"\1" + vek[position + 1 :]
    try:
        result = judge(dataclasses.replace(case, certificates=(other, *case.certificates[1:])))
    except DecodeError:
        return
    assert "snp.vek.signature" in failed(result)


def test_a_masked_chip_id_is_the_policys_matter(amd):
    case = amd.make_case(report={"chip_id": bytes(64)})
    assert judge(case).verdict is Verdict.ACCEPTED
    assert failed(judge(case, baseline_policy("snp"))) == {"snp.masked_chip_id"}


# Revocation.


@pytest.mark.parametrize("revoked", ["ask", "ark"])
def test_refuses_a_revoked_authority(amd, revoked):
    case = dataclasses.replace(amd.make_case(), crls=(amd.make_crl(revoked=[revoked]),))
    assert failed(judge(case)) == {"snp.chain.revocation"}


def test_accepts_a_current_list_without_the_ask(amd):
    case = dataclasses.replace(amd.make_case(), crls=(amd.make_crl(revoked=["asvk"], lifetime=timedelta(days=91)),))
    result = judge(case, make_policy(**{"snp.revocation": OneOf("checked")}))
    assert result.verdict is Verdict.ACCEPTED
    assert result.valid_until == START + timedelta(days=91)


def test_is_undecided_by_a_stale_list_and_by_one_of_the_future(amd):
    for crl in (amd.make_crl(lifetime=timedelta(days=89)), amd.make_crl(at=AT + timedelta(days=1))):
        result = judge(dataclasses.replace(amd.make_case(), crls=(crl,)))
        assert result.verdict is Verdict.UNDECIDED
        assert undecided(result) == {"snp.chain.revocation"}


def test_refuses_a_list_that_somebody_else_signed(amd, rogue):
    crl = amd.make_crl(signer=rogue.vendor.ark.private_key)
    assert failed(judge(dataclasses.replace(amd.make_case(), crls=(crl,)))) == {"snp.chain.revocation"}


def test_is_undecided_by_another_lines_list(amd):
    crl = FakeAmd("Genoa").make_crl()
    assert undecided(judge(dataclasses.replace(amd.make_case(), crls=(crl,)))) == {"snp.chain.revocation"}


def test_takes_the_current_one_of_several_lists(amd):
    stale, current = amd.make_crl(lifetime=timedelta(days=1)), amd.make_crl()
    other_line = FakeAmd("Genoa").make_crl()
    case = dataclasses.replace(amd.make_case(), crls=(stale, other_line, current))
    assert judge(case).verdict is Verdict.ACCEPTED
    revoking = amd.make_crl(revoked=["ask"], lifetime=timedelta(days=1))
    assert failed(judge(dataclasses.replace(case, crls=(revoking, current)))) == {"snp.chain.revocation"}


def test_a_list_that_did_not_come_is_missed_only_by_a_policy(amd):
    assert judge(amd.make_case()).verdict is Verdict.ACCEPTED
    result = judge(amd.make_case(), make_policy(**{"snp.revocation": OneOf("checked")}))
    assert result.verdict is Verdict.UNDECIDED
    assert undecided(result) == {"snp.revocation"}


def test_refuses_a_list_that_is_none(amd):
    case = dataclasses.replace(amd.make_case(), crls=(amd.make_crl() + b"\0",))
    with pytest.raises(DecodeError, match="cannot decode a CRL"):
        judge(case)


# The policy: for each key a value, what meets it and what does not, as changes of the report.

MILAN_TCB = {"Milan": {"bootloader": 3, "tee": 0, "snp": 20, "microcode": 200}}
TURIN_MINIMA = {"Turin": {"fmc": 1, "bootloader": 1, "tee": 0, "snp": 4, "microcode": 81}}


def _bits(key: str, bit: int) -> dict:
    field = "policy" if key.startswith("snp.guest_policy") else "platform_info"
    base = 0x20000 if field == "policy" else 0
    return {key: ("forbidden", {field: base}, {field: base | 1 << bit})}


def _digests(name: str, size: int) -> dict:
    value = bytes(range(size))
    return {f"snp.{name}": ([value.hex()], {name: value}, {name: bytes(size)})}


def _tcbs(name: str) -> dict:
    at_least, below = make_tcb("Milan", snp=20), make_tcb("Milan", snp=19)
    return {f"snp.tcb.{name}": (MILAN_TCB, {f"{name}_tcb": at_least}, {f"{name}_tcb": below})}


POLICIES: dict[str, tuple] = {
    "snp.version": ([3, 5], {}, {"version": 2, "cpuid_family": 0, "cpuid_model": 0, "cpuid_stepping": 0}),
    "snp.vmpl": ([0], {"vmpl": 0}, {"vmpl": 1}),
    **_bits("snp.guest_policy.smt", 16),
    **_bits("snp.guest_policy.migrate_ma", 18),
    **_bits("snp.guest_policy.debug", 19),
    **_bits("snp.guest_policy.single_socket", 20),
    **_bits("snp.guest_policy.cxl", 21),
    **_bits("snp.guest_policy.mem_aes_256_xts", 22),
    **_bits("snp.guest_policy.rapl_dis", 23),
    **_bits("snp.guest_policy.ciphertext_hiding_dram", 24),
    **_bits("snp.guest_policy.page_swap_disable", 25),
    "snp.guest_policy.abi": ("1.31", {"policy": 0x2011F}, {"policy": 0x2001F}),
    **_bits("snp.platform_info.smt", 0),
    **_bits("snp.platform_info.tsme", 1),
    **_bits("snp.platform_info.ecc", 2),
    **_bits("snp.platform_info.rapl_dis", 3),
    **_bits("snp.platform_info.ciphertext_hiding_dram", 4),
    **_bits("snp.platform_info.alias_check_complete", 5),
    **_bits("snp.platform_info.tio", 7),
    "snp.platform_info.others": (["bit6"], {"platform_info": 1 << 6}, {"platform_info": 1 << 6 | 1 << 8}),
    "snp.firmware.version": ("1.55", {}, {"committed_minor": 54}),
    "snp.firmware.build": (30, {}, {"committed_build": 29}),
    "snp.firmware.provisional": ("forbidden", {}, {"current_tcb": make_tcb("Milan", snp=25)}),
    **_tcbs("reported"),
    **_tcbs("current"),
    **_tcbs("committed"),
    **_tcbs("launch"),
    **_digests("family_id", 16),
    **_digests("image_id", 16),
    **_digests("report_id", 32),
    **_digests("report_id_ma", 32),
    **_digests("host_data", 32),
    **_digests("measurement", 48),
    **_digests("id_key_digest", 48),
    **_digests("author_key_digest", 48),
    "snp.id_block": ("required", {"id_key_digest": b"\1" * 48}, {"id_key_digest": bytes(48)}),
    "snp.author_key": ("required", {"key_info": 1}, {"key_info": 0}),
    "snp.masked_chip_id": ("forbidden", {}, {"chip_id": bytes(64)}),
    "snp.guest_svn": (3, {"guest_svn": 3}, {"guest_svn": 2}),
    "snp.mitigations.launch": (
        3,
        {"version": 5, "launch_mit_vector": 7},
        {"version": 5, "launch_mit_vector": 5},
    ),
    "snp.mitigations.current": (
        3,
        {"version": 5, "current_mit_vector": 3},
        {"version": 5, "current_mit_vector": 2},
    ),
}
ELSEWHERE = {
    "snp.product",
    "snp.signing_key",
    "snp.csp_id",
    "snp.chip_id",
    "snp.revocation",
    "snp.certificate_table",
    "snp.report_data",
}


def test_every_policy_key_is_tested():
    assert {rule.key for rule in RULES} == POLICIES.keys() | ELSEWHERE
    assert len({rule.key for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("key", POLICIES)
def test_appraises(key, amd):
    value, accepted, refused = POLICIES[key]
    policy = make_policy(**{key: GRAMMARS[key].decode(value)})
    result = judge(amd.make_case(report=accepted), policy)
    assert result.verdict is Verdict.ACCEPTED, [finding.line for finding in result.failures]
    result = judge(amd.make_case(report=refused), policy)
    assert result.verdict is Verdict.REFUSED, [finding.line for finding in result.failures]
    assert failed(result) == {key}


@pytest.mark.parametrize(
    ("key", "value", "accepted", "refused"),
    [
        ("snp.product", ["Siena"], {"product": "Siena"}, {"product": "Genoa"}),
        ("snp.product", ["Genoa"], {"product": "Genoa", "version": 2}, {"product": "Siena", "version": 2}),
        ("snp.signing_key", ["VLEK"], {"csp_id": PROVIDER}, {}),
        ("snp.csp_id", [PROVIDER], {"csp_id": PROVIDER}, {"csp_id": "CN=other.example"}),
        ("snp.csp_id", [PROVIDER], {"csp_id": PROVIDER}, {}),
        ("snp.chip_id", [FakeAmd("Genoa").make_processor().chip_id.hex()], {}, {"chip": "another"}),
    ],
)
def test_appraises_what_the_vek_says(key, value, accepted, refused):
    genoa = FakeAmd("Genoa")
    policy = make_policy(**{key: GRAMMARS[key].decode(value)})
    assert judge(genoa.make_case(**accepted), policy).verdict is Verdict.ACCEPTED
    result = judge(genoa.make_case(**refused), policy)
    assert result.verdict is Verdict.REFUSED
    assert failed(result) == {key}


def test_appraises_turins_tcb_in_its_own_layout():
    turin = FakeAmd("Turin")
    policy = make_policy(**{"snp.tcb.reported": GRAMMARS["snp.tcb.reported"].decode(TURIN_MINIMA)})
    good = make_tcb("Turin", **TURIN_MINIMA["Turin"])
    assert judge(turin.make_case(report={"reported_tcb": good}), policy).verdict is Verdict.ACCEPTED
    for component, minimum in TURIN_MINIMA["Turin"].items():
        if minimum:
            low = make_tcb("Turin", **(TURIN_MINIMA["Turin"] | {component: minimum - 1}))
            assert failed(judge(turin.make_case(report={"reported_tcb": low}), policy)) == {"snp.tcb.reported"}


def test_refuses_a_product_without_minima(amd):
    policy = make_policy(**{"snp.tcb.reported": GRAMMARS["snp.tcb.reported"].decode(TURIN_MINIMA)})
    assert failed(judge(amd.make_case(), policy)) == {"snp.tcb.reported"}


def test_appraises_other_entries_of_the_table(amd):
    guid = "ecae0c0f-9502-43b1-afa2-0ae2e0d565b6"
    case = dataclasses.replace(amd.make_case(), table=((guid, b"extra"),))
    grammar = GRAMMARS["snp.certificate_table"]
    assert judge(case).verdict is Verdict.ACCEPTED
    assert judge(case, make_policy(**{"snp.certificate_table": grammar.decode([guid])})).verdict is Verdict.ACCEPTED
    assert failed(judge(case, make_policy(**{"snp.certificate_table": grammar.decode([])}))) == {
        "snp.certificate_table"
    }


def test_compares_the_report_data_with_the_callers(amd):
    case = amd.make_case(report={"report_data": b"nonce".ljust(64, b"\0")})
    assert judge(case, report_data=b"nonce").verdict is Verdict.ACCEPTED
    assert failed(judge(case, report_data=b"other")) == {"snp.report_data"}
    policy = make_policy(**{"snp.report_data": GRAMMARS["snp.report_data"].decode("from-caller")})
    assert undecided(judge(case, policy)) == {"snp.report_data"}


@pytest.mark.parametrize(
    "report", [{"policy": 0xA0000}, {"policy": 0x60000}, {"vmpl": 1}, {"vmpl": 0xFFFFFFFF}, {"chip_id": bytes(64)}]
)
def test_the_baseline_refuses_debugging_migration_and_other_vmpls(amd, report):
    assert judge(amd.make_case(), baseline_policy("snp")).verdict is Verdict.ACCEPTED
    assert judge(amd.make_case(report=report), baseline_policy("snp")).verdict is Verdict.REFUSED


def test_bits_are_all_wanted():
    assert AllBits(5).holds(7)
    assert not AllBits(5).holds(4)
    assert not AllBits(5).holds(None)
    assert str(AllBits(5)) == "all bits of 0x5"
    assert AllBits(5) == AllBits(5) != AllBits(4)
    with pytest.raises(ValueError, match="found no bit"):
        AllBits(0)


@pytest.mark.parametrize("value", [0, -1, 1 << 63, True, "1", None])
def test_refuses_mitigations_that_are_no_bits(value):
    with pytest.raises(ValueError, match="want a number from 1"):
        GRAMMARS["snp.mitigations.launch"].decode(value)


@pytest.mark.parametrize("value", ["optional", True, 1, None])
def test_refuses_another_wish_for_revocation(value):
    with pytest.raises(ValueError, match='want "required"'):
        GRAMMARS["snp.revocation"].decode(value)


def test_there_is_one_freshness_rule():
    assert [rule.key for rule in RULES if isinstance(rule.grammar, Freshness)] == ["snp.report_data"]


# Flipped bits.


def _flip(data: bytes, bit: int) -> bytes:
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def refuse_report_flips(case: SnpCase, *, step: int) -> int:
    """Judge a case, then again with each bit of the report flipped; return how many that were."""
    cache = TrustCache()
    assert judge(case, cache=cache).verdict is Verdict.ACCEPTED
    data, count = case.data, 0
    for bit in range(0, len(data) * 8, step):
        count += 1
        try:
            report = parse_report_untrusted(_flip(data, bit))
        except DecodeError:
            assert bit < 32, "only the version is judged while decoding"
            continue
        result = judge(dataclasses.replace(case, report=report), cache=cache)
        wanted = "snp.report.signature" if bit < 0x330 * 8 else "snp.report.reserved"
        assert wanted in failed(result), f"bit {bit}"
        assert result.verdict is Verdict.NOT_AUTHENTIC
    return count


def refuse_certificate_flips(case: SnpCase, *, step: int, first: int = 0, last: int | None = None) -> int:
    """Judge a case, then again with each bit of each of its certificates flipped; return how many that were."""
    cache = TrustCache()
    assert judge(case, cache=cache).verdict is Verdict.ACCEPTED
    count = 0
    for index, der in list(enumerate(case.certificates))[first:last]:
        for bit in range(0, len(der) * 8, step):
            count += 1
            certificates = list(case.certificates)
            certificates[index] = _flip(der, bit)
            try:
                result = judge(dataclasses.replace(case, certificates=tuple(certificates)), cache=cache)
            except DecodeError:
                continue
            wanted = {"snp.vek.signature"} if index == 0 else {"snp.chain.certificates", "snp.vek.signature"}
            assert failed(result) & wanted, f"certificate {index} bit {bit}"
            assert result.verdict is Verdict.NOT_AUTHENTIC
    return count


@pytest.mark.parametrize(("line", "csp_id"), [("Milan", None), ("Milan", PROVIDER), ("Turin", None)])
def test_refuses_a_flipped_bit(line, csp_id):
    case = FakeAmd(line).make_case(csp_id=csp_id, version=5)
    assert refuse_report_flips(case, step=29) > 300
    assert refuse_certificate_flips(case, step=101) > 300


def _genuine() -> list[str]:
    return [case["id"] for case in cases("snp") if case["verdict"] == "valid"]


@needs_evidence
@pytest.mark.parametrize("case_id", _genuine())
def test_refuses_a_flipped_bit_of_a_genuine_report(case_id):
    assert refuse_report_flips(load(case_id)[0], step=997) > 9


@needs_evidence
@pytest.mark.parametrize("case_id", _genuine())
def test_refuses_a_flipped_bit_of_a_genuine_certificate(case_id):
    assert refuse_certificate_flips(load(case_id)[0], step=1999) > 5


@needs_evidence
@pytest.mark.soak
@pytest.mark.parametrize("case_id", _genuine())
def test_refuses_every_flipped_bit_of_genuine_evidence(case_id):
    case = load(case_id)[0]
    counts = (refuse_report_flips(case, step=STEP), refuse_certificate_flips(case, step=STEP, first=0, last=1))
    assert STEP > 1 or counts == (1184 * 8, len(case.certificates[0]) * 8)


@needs_evidence
@pytest.mark.soak
@pytest.mark.parametrize(
    "line", ["milan-v3-azure-ms", "milan-vlek-v3-aws-us-east-2", "genoa-v3-azure-ms", "turin-v5-azure-ms"]
)
def test_refuses_every_flipped_bit_of_genuine_issuers(line):
    case = load(f"snp/{line}")[0]
    count = refuse_certificate_flips(case, step=STEP, first=1)
    assert STEP > 1 or count == sum(len(der) * 8 for der in case.certificates[1:])


@given(st.data())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_judges_any_certificates_and_lists_or_says_why_not(data):
    judge_mutated(data)


@pytest.mark.soak
@given(st.data())
@settings(max_examples=int(os.environ.get("ENARX_SOAK_EXAMPLES", "20000")), deadline=None)
def test_judges_any_certificates_and_lists_for_long(data):
    judge_mutated(data)


def judge_mutated(data: st.DataObject) -> None:
    """Change bytes of a certificate or list; the verdict is a value or a DecodeError, and never acceptance.

    But for the ARK: the trust anchor is the one that counts, so one that came along and has lost AMD's name in issuer and subject is
    another vendor's certificate and no part of the chain.
    """
    amd = FakeAmd()
    case = amd.make_case()
    pieces = [*case.certificates, amd.make_crl()]
    which = data.draw(st.integers(0, len(pieces) - 1))
    piece = bytearray(pieces[which])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(piece) - 1))
        piece[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    pieces[which] = bytes(piece)
    try:
        result = judge(dataclasses.replace(case, certificates=tuple(pieces[:3]), crls=(pieces[3],)))
    except DecodeError:
        return
    if result.verdict is Verdict.ACCEPTED:
        vek, ask, ark = case.certificates
        assert pieces[:2] == [vek, ask]
        assert pieces[2] == ark or AMD_NAME not in pieces[2]


def test_an_ark_that_came_along_and_lost_its_name_changes_nothing():
    """Found by the property test above: two changed names make it a stranger, and the pinned ARK is used."""
    amd = FakeAmd()
    case = amd.make_case()
    vek, ask, ark = case.certificates
    other = ark.replace(AMD_NAME, b"A" * len(AMD_NAME))
    one_left = ark.replace(AMD_NAME, b"A" * len(AMD_NAME), 1)
    assert judge(dataclasses.replace(case, certificates=(vek, ask, other))).verdict is Verdict.ACCEPTED
    assert judge(dataclasses.replace(case, certificates=(vek, ask))).verdict is Verdict.ACCEPTED
    assert judge(dataclasses.replace(case, certificates=(vek, ask, one_left))).verdict is Verdict.NOT_AUTHENTIC


# Real evidence.

REASONS = {
    "report_signature_invalid": "snp.report.signature",
    "vek_not_signed_by_ask": "snp.vek.signature",
    "tcb_extension_mismatch": "snp.vek.tcb",
    "hwid_mismatch": "snp.vek.hwid",
    "certificate_not_valid_at_time": "validity",
    "chain_not_to_pinned_ark": "snp.ark.pinned",
    "policy_debug_allowed": "snp.guest_policy.debug",
    "vmpl_not_allowed": "snp.vmpl",
    "tcb_below_minimum": "snp.tcb.reported",
    "intermediate_revoked": "snp.chain.revocation",
    "crl_expired": "snp.chain.revocation",
    "vek_missing": "snp.vek.present",
}


def _certificates(name: str) -> tuple[bytes, ...]:
    data = read(name)
    return load_pem_chain_untrusted(data) if data.startswith(b"-----") else (data,)


def load(case_id: str) -> tuple[SnpCase, dict]:
    """A case of the corpus, and its line in `cases.jsonl`."""
    line = next(case for case in cases("snp") if case["id"] == case_id)
    inputs = line["inputs"]
    data = read(inputs.get("report") or inputs["extended_report"])
    if inputs.get("report", "").endswith(".hex"):
        data = bytes.fromhex(data.decode().strip())
    certificates = sum((_certificates(inputs[key]) for key in ("vek", "ca") if key in inputs), ())
    if "extended_report" in inputs:
        certificates += tuple(der for _, der in parse_sev_crate_certificates_untrusted(data[1184:]))
    anchors = pinned_anchors()
    if inputs.get("trusted_root", "").endswith(".pem"):
        anchors = TrustAnchors(amd=_certificates(inputs["trusted_root"])[-1:])
    case = SnpCase(
        report=parse_report_untrusted(data[:1184]),
        certificates=certificates,
        anchors=anchors,
        crls=(read(inputs["crl"]),) if "crl" in inputs else (),
        at=datetime.fromisoformat(line["eval_time"]),
    )
    return case, line


def corpus_policy(limits: dict) -> AppraisalPolicy:
    expectations = {}
    if limits.get("allow_debug") is False:
        expectations["snp.guest_policy.debug"] = OneOf(False)
    if "vmpl_max" in limits:
        expectations["snp.vmpl"] = OneOf(*range(limits["vmpl_max"] + 1))
    if "minimum_tcb" in limits:
        expectations["snp.tcb.reported"] = EachAtLeast(dict.fromkeys(PRODUCTS, limits["minimum_tcb"]))
    return make_policy(**expectations)


@needs_evidence
@pytest.mark.parametrize("case_id", [case["id"] for case in cases("snp")])
def test_judges_real_evidence_as_the_corpus_says(case_id):
    case, line = load(case_id)
    result = judge(case, corpus_policy(line["inputs"].get("policy") or {}))
    if line["verdict"] == "valid":
        assert result.verdict is Verdict.ACCEPTED, [finding.line for finding in result.failures]
    elif line["verdict"] == "endorsement_missing" or "crl_expired" in line["reasons"]:
        assert result.verdict is Verdict.UNDECIDED
    else:
        assert result.verdict in {Verdict.NOT_AUTHENTIC, Verdict.REFUSED}
    ids = failed(result) | undecided(result)
    for reason in line["reasons"]:
        assert any(REASONS[reason] in each for each in ids), (reason, ids)
    found = {name: value.hex() if isinstance(value, bytes) else value for name, value in result.claims.items()}
    for name, value in (line["claims"] or {}).items():
        assert found[name] == value, name


@needs_evidence
def test_knows_amds_intermediates_where_none_came_along():
    for case_id in ("snp/milan-v3-azure-ms", "snp/genoa-v3-azure-ms", "snp/turin-v5-azure-ms"):
        case, _ = load(case_id)
        assert judge(dataclasses.replace(case, certificates=case.certificates[:1])).verdict is Verdict.ACCEPTED


@needs_evidence
def test_refuses_a_genuine_vcek_for_another_reported_tcb():
    case, _ = load("snp/milan-v3-azure-ms")
    other, _ = load("snp/milan-v3-css-cosesign1")
    assert "snp.vek.hwid" in failed(judge(_swap(case, other)))


@needs_evidence
def test_refuses_a_genuine_vlek_for_a_vcek_and_the_other_way_round():
    vcek, _ = load("snp/milan-v3-azure-ms")
    vlek, _ = load("snp/milan-vlek-v3-aws-us-east-2")
    for case, other in ((vcek, vlek), (vlek, vcek)):
        assert {"snp.report.signing_key", "snp.report.signature"} <= failed(judge(_swap(case, other)))


@needs_evidence
def test_refuses_genuine_evidence_under_a_test_root(amd):
    case, _ = load("snp/milan-v3-azure-ms")
    assert "snp.ark.pinned" in failed(judge(dataclasses.replace(case, anchors=amd.anchors)))


def test_evidence_is_a_report_with_a_table(amd):
    report = amd.make_case().report
    assert SnpEvidence(report).table == ()
    assert Endorsements() == Endorsements(certificates=(), crls=())
    assert x509.load_der_x509_certificate(amd.root).public_bytes(Encoding.DER) == amd.root


def test_every_peers_check_has_a_finding_and_tests(amd):
    ids = {finding.check.id for finding in judge(amd.make_case()).findings}
    ids |= {finding.check.id for finding in judge(FakeAmd("Turin").make_case()).findings}
    here = globals()
    for row, answer in PEER_CHECKS.items():
        if isinstance(answer, str):
            assert answer
            continue
        findings, accepting, refusing = answer
        assert set(findings) <= ids, row
        for test in (accepting, refusing):
            assert test.partition("[")[0] in here, test
            if test.startswith("test_refuses["):
                assert test[len("test_refuses[") : -1] in REFUSED, test
