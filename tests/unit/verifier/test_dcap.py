# SPDX-License-Identifier: Apache-2.0
"""The authenticity of quotes: each thing that must hold is shown to hold, then broken alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from enarx.abi.quote import parse_quote_untrusted
from enarx.errors import DecodeError
from enarx.rats import Outcome, Verdict
from enarx.testing.dcap import (
    AT,
    SGX,
    TDX,
    EnclaveReport,
    Platform,
    TdReport,
    make_isv_level,
    make_pem,
    make_qe_identity,
    make_qe_report,
    make_tcb_info,
    make_tcb_level,
)
from enarx.verifier import TrustCache
from tests.soak import STEP
from tests.unit.verifier.dcap_judging import BODIES, PLATFORM, TEES, intel, judge, not_passed

BOTH = pytest.mark.parametrize("tee", TEES)


def make_quote(tee, **changes):
    return intel().make_quote(BODIES[tee], PLATFORM, **changes)


def flip(data, offset, bit=0):
    return data[:offset] + bytes([data[offset] ^ 1 << bit]) + data[offset + 1 :]


@BOTH
def test_accepts_a_quote_of_an_up_to_date_platform(tee):
    result = judge(tee)
    assert result.verdict is Verdict.ACCEPTED, [finding.line for finding in result.failures]
    assert (result.tcb_status, result.advisory_ids) == ("UpToDate", ())
    assert result.valid_until is not None
    assert not [finding for finding in result.findings if finding.outcome is Outcome.UNDECIDED]
    assert all(name in result.claims for name in ("fmspc", "pceid", "pck_issuer", "pck_serial", "ppid", "qe_svn"))


@BOTH
@pytest.mark.parametrize("version", [3, 4, 5])
def test_accepts_every_version(tee, version):
    body = BODIES[SGX] if tee == SGX else TdReport() if version == 4 else BODIES[TDX]
    if tee == TDX and version == 3:
        version = 4
        body = TdReport()
    assert judge(tee, body=body, quote={"version": version}).verdict is Verdict.ACCEPTED


@BOTH
def test_accepts_a_platform_of_the_processor_ca(tee):
    assert judge(tee, platform=Platform(instance_id=None)).verdict is Verdict.ACCEPTED


@BOTH
def test_the_second_verdict_is_the_first_ones(tee):
    cache = TrustCache()
    assert judge(tee, cache=cache).findings == judge(tee, cache=cache).findings


@BOTH
@pytest.mark.parametrize(
    ("part", "finding"),
    [
        ("signature", "quote.signature"),
        ("attestation_key", "qe_report.binding"),
        ("qe_report", "qe_report.signature"),
        ("qe_report_signature", "qe_report.signature"),
        ("qe_auth_data", "qe_report.binding"),
    ],
)
def test_refuses_a_flipped_bit_of_what_vouches(tee, part, finding):
    quote = parse_quote_untrusted(make_quote(tee))
    assert judge(tee, data=quote.serialise()).verdict is Verdict.ACCEPTED
    value = getattr(quote.signature, part)
    for offset in range(0, len(value), 13):
        flipped = quote._replace(signature=quote.signature._replace(**{part: flip(value, offset)}))
        result = judge(tee, data=flipped.serialise())
        assert result.verdict is Verdict.NOT_AUTHENTIC
        assert finding in not_passed(result)


@BOTH
def test_refuses_a_flipped_bit_of_what_is_signed(tee):
    data = make_quote(tee)
    size = len(parse_quote_untrusted(data).signed)
    cache = TrustCache()
    assert judge(tee, data=data, cache=cache).verdict is Verdict.ACCEPTED
    for offset in range(0, size, 5):
        _refuses(tee, flip(data, offset, offset % 8), cache)


@BOTH
def test_refuses_a_flipped_bit_of_the_certificates(tee):
    data, cache = make_quote(tee), TrustCache()
    start = data.index(b"-----BEGIN")
    assert judge(tee, data=data, cache=cache).verdict is Verdict.ACCEPTED
    for offset in range(start, len(data), 41):
        _refuses(tee, flip(data, offset, offset % 8), cache)


@pytest.mark.soak
@BOTH
def test_refuses_every_flipped_bit(tee):
    data, cache = make_quote(tee), TrustCache()
    assert judge(tee, data=data, cache=cache).verdict is Verdict.ACCEPTED
    for position in range(0, 8 * len(data), STEP):
        _refuses(tee, flip(data, position // 8, position % 8), cache)


def _refuses(tee, data, cache):
    try:
        verdict = judge(tee, data=data, cache=cache).verdict
    except DecodeError:
        return
    assert verdict is not Verdict.ACCEPTED


@BOTH
def test_refuses_another_quoting_enclaves_vendor(tee):
    result = judge(tee, data=flip(make_quote(tee), 12))
    assert {"quote.vendor_id", "quote.signature"} <= not_passed(result)


# The PCK certificate.


@BOTH
def test_takes_the_certificates_in_any_order(tee):
    chain = (intel().certify(PLATFORM).der, intel().platform_ca.der, intel().root.der)
    for order in (chain, chain[::-1], (chain[0], chain[2], chain[1])):
        assert judge(tee, quote={"chain": order}).verdict is Verdict.ACCEPTED
    assert judge(tee, quote={"chain": chain[:2]}).verdict is Verdict.ACCEPTED


@BOTH
def test_refuses_a_chain_to_another_root(tee):
    result = judge(tee, roots=(intel("another").root.der,))
    assert {"pck_chain.anchor", "pck_chain.root"} <= not_passed(result)
    assert result.verdict is Verdict.NOT_AUTHENTIC


@BOTH
def test_refuses_a_chain_without_its_ca(tee):
    chain = (intel().certify(PLATFORM).der, intel().root.der)
    assert "pck_chain.anchor" in not_passed(judge(tee, quote={"chain": chain}))


@BOTH
def test_refuses_a_certificate_that_is_not_of_the_path(tee):
    for strange in (intel("another").root.der, intel().processor_ca.der):
        chain = (intel().certify(PLATFORM).der, intel().platform_ca.der, intel().root.der, strange)
        assert not_passed(judge(tee, quote={"chain": chain})) == {"pck_chain.root"}


@BOTH
def test_refuses_text_around_the_certificates(tee):
    chain = (intel().certify(PLATFORM).der, intel().platform_ca.der, intel().root.der)
    pem = make_pem(chain)
    assert judge(tee, quote={"certification": (5, pem.replace(b"\n", b"\r\n"))}).verdict is Verdict.ACCEPTED
    with pytest.raises(DecodeError, match="more than certificates"):
        judge(tee, quote={"certification": (5, b"# my chain\n" + pem)})


@BOTH
def test_refuses_a_leaf_of_no_pck_ca(tee):
    pck = intel().certify(PLATFORM, issuer=intel().root)
    assert "pck_chain.purpose" in not_passed(judge(tee, quote={"pck": pck}))


@BOTH
def test_refuses_a_chain_without_a_pck_certificate(tee):
    with pytest.raises(DecodeError, match="SGX extension"):
        judge(tee, quote={"chain": (intel().platform_ca.der, intel().root.der)})


@BOTH
def test_refuses_a_certificate_of_another_time(tee):
    for since, until in ((AT + timedelta(days=1), AT + timedelta(days=2)), (AT - timedelta(days=2), AT - timedelta(1))):
        pck = intel().certify(PLATFORM, since=since, until=until)
        assert "pck_chain.validity" in not_passed(judge(tee, quote={"pck": pck}))
    exact = intel().certify(PLATFORM, since=AT, until=AT)
    assert judge(tee, quote={"pck": exact}).verdict is Verdict.ACCEPTED


@BOTH
def test_a_missing_pck_certificate_is_a_doubt_and_can_come_from_elsewhere(tee):
    changes = {"quote": {"certification": (3, bytes(404))}}
    result = judge(tee, **changes)
    assert result.verdict is Verdict.UNDECIDED
    assert not_passed(result) == {"pck_chain.present"}
    other = intel().certify(Platform(ppid=bytes(16))).der
    chain = (other, intel().certify(PLATFORM).der, intel().platform_ca.der)
    assert judge(tee, certificates=chain, **changes).verdict is Verdict.ACCEPTED
    result = judge(tee, certificates=(other, intel().platform_ca.der), **changes)
    assert "qe_report.signature" in not_passed(result)


@BOTH
def test_refuses_a_revoked_platform(tee):
    pck = intel().certify(PLATFORM)
    result = judge(tee, quote={"pck": pck}, collateral={"revoked_pcks": (pck.certificate,)})
    assert (not_passed(result), result.verdict) == ({"pck_chain.revocation"}, Verdict.NOT_AUTHENTIC)


@BOTH
@pytest.mark.parametrize("name", ["platform_ca", "tcb_signing", "root"])
def test_refuses_a_revoked_issuer(tee, name):
    revoked = (getattr(intel(), name).certificate,)
    assert not_passed(judge(tee, collateral={"revoked_by_root": revoked})) == {"pck_ca.revocation"}


@BOTH
def test_refuses_the_list_of_the_other_ca_or_of_nobody(tee):
    good = intel().make_collateral(tee, PLATFORM)
    for crl in (
        intel().make_crl(intel().processor_ca),
        intel().make_crl(intel().platform_ca, key=intel().processor_ca.key),
        intel("another").make_crl(intel("another").platform_ca),
    ):
        result = judge(tee, sets=(replace(good, pck_crl=crl),))
        assert (not_passed(result), result.verdict) == ({"pck_chain.revocation"}, Verdict.NOT_AUTHENTIC)


@BOTH
def test_a_missing_or_stale_list_is_a_doubt(tee):
    good = intel().make_collateral(tee, PLATFORM)
    old = intel().make_crl(intel().platform_ca, since=AT - timedelta(days=9), until=AT - timedelta(seconds=1))
    cache = TrustCache()
    for crl in (b"", old):
        result = judge(tee, sets=(replace(good, pck_crl=crl),), cache=cache)
        assert (not_passed(result), result.verdict) == ({"pck_chain.revocation"}, Verdict.UNDECIDED)
    result = judge(tee, sets=(replace(good, root_ca_crl=b""),))
    assert not_passed(result) == {"pck_ca.revocation"}


# Collateral.


@BOTH
def test_missing_collateral_is_a_doubt(tee):
    result = judge(tee, sets=())
    assert (not_passed(result), result.verdict) == ({"collateral.present"}, Verdict.UNDECIDED)
    assert result.tcb_status is None


@BOTH
def test_uses_the_set_that_fits(tee):
    def make(**changes):
        return intel().make_collateral(changes.pop("tee", tee), changes.pop("platform", PLATFORM), **changes)

    old = AT - timedelta(days=60)
    sets = (
        make(platform=replace(PLATFORM, fmspc=bytes(6))),
        make(tee=SGX if tee == TDX else TDX),
        make(since=old, until=old + timedelta(days=30)),
        replace(make(), pck_crl=intel().make_crl(intel().processor_ca)),
        make(),
    )
    for order in (sets, sets[::-1]):
        assert judge(tee, sets=order).verdict is Verdict.ACCEPTED


@BOTH
@pytest.mark.parametrize(
    ("document", "name", "value", "finding"),
    [
        ("tcb_info", "fmspc", "00" * 6, "tcb_info.fmspc"),
        ("tcb_info", "pceId", "0100", "tcb_info.pce_id"),
        ("tcb_info", "tcbType", 1, "tcb_info.type"),
        ("qe_identity", "id", "QVE", "qe_identity.tee"),
        ("qe_identity", "mrsigner", "00" * 32, "qe.mr_signer"),
        ("qe_identity", "isvprodid", 9, "qe.isv_prod_id"),
        ("qe_identity", "miscselect", "01000000", "qe.misc_select"),
        ("qe_identity", "attributes", "13" + "00" * 15, "qe.attributes"),
    ],
)
def test_refuses_collateral_for_something_else(tee, document, name, value, finding):
    make = make_qe_identity(tee) if document == "qe_identity" else make_tcb_info(tee, PLATFORM)
    assert judge(tee, collateral={document: make}).verdict is Verdict.ACCEPTED
    result = judge(tee, collateral={document: make | {name: value}})
    assert (not_passed(result), result.verdict) == ({finding}, Verdict.NOT_AUTHENTIC)


@BOTH
def test_refuses_collateral_for_the_other_tee(tee):
    other = SGX if tee == TDX else TDX
    result = judge(tee, sets=(intel().make_collateral(other, PLATFORM),))
    assert {"tcb_info.tee", "qe_identity.tee"} <= not_passed(result)
    good, wrong = (intel().make_collateral(each, PLATFORM) for each in (tee, other))
    result = judge(tee, sets=(replace(good, qe_identity=wrong.qe_identity),))
    assert not_passed(result) == {"qe_identity.tee"}


@BOTH
def test_refuses_a_quoting_enclave_of_another_signer(tee):
    report = replace(make_qe_report(tee), mr_signer=bytes(32), isv_prod_id=7)
    result = judge(tee, quote={"qe_report": report})
    assert {"qe.mr_signer", "qe.isv_prod_id"} <= not_passed(result)


@BOTH
def test_refuses_a_platform_below_every_level(tee):
    info = make_tcb_info(tee, PLATFORM)
    info["tcbLevels"] = info["tcbLevels"][:1]
    result = judge(tee, platform=replace(PLATFORM, pce_svn=PLATFORM.pce_svn - 1), collateral={"tcb_info": info})
    assert (not_passed(result) - {"tcb.current_level"}, result.tcb_status) == ({"tcb.level"}, None)


@BOTH
def test_refuses_a_quoting_enclave_below_every_level(tee):
    result = judge(tee, quote={"qe_report": replace(make_qe_report(tee), isv_svn=1)})
    assert (not_passed(result), result.tcb_status) == ({"qe.tcb_level"}, None)


@BOTH
def test_refuses_a_revoked_tcb_whatever_the_policy(tee):
    info = make_tcb_info(tee, PLATFORM)
    info["tcbLevels"][0]["tcbStatus"] = "Revoked"
    result = judge(tee, collateral={"tcb_info": info})
    assert (not_passed(result), result.verdict) == ({"tcb.revoked"}, Verdict.NOT_AUTHENTIC)
    identity = make_qe_identity(tee)
    identity["tcbLevels"] = [make_isv_level(1, "Revoked")]
    assert not_passed(judge(tee, collateral={"qe_identity": identity})) == {"tcb.revoked"}


@BOTH
def test_refuses_a_word_that_intel_does_not_have(tee):
    info = make_tcb_info(tee, PLATFORM)
    info["tcbLevels"][0]["tcbStatus"] = "Splendid"
    assert not_passed(judge(tee, collateral={"tcb_info": info})) == {"tcb.known"}


@BOTH
def test_reports_an_out_of_date_platform_with_its_advisories(tee):
    older = tuple(max(svn - 1, 0) for svn in PLATFORM.components)
    info = make_tcb_info(tee, PLATFORM)
    result = judge(tee, platform=replace(PLATFORM, components=older), collateral={"tcb_info": info})
    assert (result.verdict, result.tcb_status) == (Verdict.ACCEPTED, "OutOfDate")
    assert result.advisory_ids == ("INTEL-SA-90001", "INTEL-SA-90002")
    assert result.claims["tcb_parts"]["platform"] == "OutOfDate"


@BOTH
def test_takes_levels_from_the_highest_to_the_lowest(tee):
    info = make_tcb_info(tee, PLATFORM)
    info["tcbLevels"].reverse()
    assert judge(tee, collateral={"tcb_info": info}).tcb_status == "UpToDate"


def test_levels_of_another_table_are_not_confused():
    tdx = (5, 0, 4) + (0,) * 13
    level = make_tcb_level(PLATFORM.components, PLATFORM.pce_svn, "SWHardeningNeeded", tdx=tdx)
    info = make_tcb_info(TDX, PLATFORM) | {"tcbLevels": [level]}
    assert judge(TDX, collateral={"tcb_info": info}).tcb_status == "SWHardeningNeeded"
    assert judge(SGX, body=EnclaveReport()).tcb_status == "UpToDate"


@pytest.mark.parametrize("tee", TEES)
def test_what_is_remembered_of_a_platform_is_never_another_quotes(tee):
    """One cache for quotes that differ in one thing each says of each what a new cache says."""
    bodies = [BODIES[tee]]
    if tee == TDX:
        bodies += [
            replace(BODIES[tee], tee_tcb_svn=bytes([2, 1, 2]).ljust(16, b"\0")),
            replace(BODIES[tee], tee_tcb_svn2=bytes([2, 1, 2]).ljust(16, b"\0")),
            replace(BODIES[tee], tee_tcb_svn=bytes([6, 7, 4]).ljust(16, b"\0")),
            replace(BODIES[tee], mr_signer_seam=b"\1" * 48),
            replace(BODIES[tee], seam_attributes=b"\1".ljust(8, b"\0")),
        ]
    enclave = make_qe_report(tee)
    changes = [{"body": body} for body in bodies]
    changes += [
        {"quote": {"qe_report": replace(enclave, **change)}}
        for change in (
            {"mr_signer": b"\1" * 32},
            {"isv_prod_id": enclave.isv_prod_id + 1},
            {"isv_svn": 0},
            {"misc_select": b"\1" * 4},
            {"attributes": b"\xff" * 16},
        )
    ]
    sets = (intel().make_collateral(tee, PLATFORM),)
    quotes = [
        intel().make_quote(change.get("body", BODIES[tee]), PLATFORM, **change.get("quote", {})) for change in changes
    ]
    cache, seen = TrustCache(), set()
    for data in (*quotes, *quotes):
        found, expected = (judge(tee, data=data, sets=sets, cache=each) for each in (cache, TrustCache()))
        assert (found.findings, found.tcb_status) == (expected.findings, expected.tcb_status)
        seen.add(frozenset(not_passed(found)))
    assert len(seen) > 4
