# SPDX-License-Identifier: Apache-2.0
"""Real evidence and what its vendors published for it: every question is found, and every answer accepted."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from enarx.abi.quote import SgxQuote, parse_quote_untrusted
from enarx.abi.snp import line_of, parse_vek_extensions_untrusted
from enarx.crypto.certificates import load_certificate_untrusted, load_pem_chain_untrusted
from enarx.endorsers import Fetched
from enarx.endorsers.amd_kds import extension_values
from enarx.endorsers.at_hand import platform_of
from enarx.errors import EndorsementError
from enarx.rats import Endorsements, Evidence, IntelCollateral, Outcome
from enarx.verifier import Recognised, recognise, verify
from tests.evidence import cases, needs_evidence, read

pytestmark = needs_evidence

SNP = [
    case
    for case in cases("snp")
    if case["verdict"] == "valid"
    and {"report", "vek"} <= case["inputs"].keys()
    and "trusted_root" not in case["inputs"]
]
QUOTES = [
    case for tee in ("sgx", "tdx") for case in cases(tee) if case["verdict"] == "valid" and "tcb_info" in case["inputs"]
]


def time_of(case):
    return datetime.fromisoformat(case["eval_time"])


@pytest.mark.parametrize("case", SNP, ids=lambda case: case["id"])
def test_real_keys_are_found_by_their_reports(case, make, vendors, clock):
    recognised = recognise(Evidence(data=read(case["inputs"]["report"])))
    report = recognised.parsed.report
    vek = read(case["inputs"]["vek"])
    if vek.startswith(b"-----"):
        (vek, *_) = load_pem_chain_untrusted(vek)
    clock.now = time_of(case)
    line = line_of(parse_vek_extensions_untrusted(extension_values(load_certificate_untrusted(vek))).product)
    if report.signing_key == "VCEK":
        vendors.serve_vcek(line, report.chip_id, report.reported_tcb, vek)
        fetched = make().fetch_for(recognised)
        assert fetched.endorsements.certificates == (vek,)
    # The package has what is above it, and the lists are not served here.
    fetched = make(offline=True).fetch_for(recognised, known=Endorsements(certificates=(vek,)))
    assert [str(error).split(":")[0] for error in fetched.missing] == [f"cannot get the revocation list of ARK-{line}"]


@pytest.mark.parametrize("case", QUOTES, ids=lambda case: case["id"])
def test_real_collateral_is_found_by_its_quotes(case, make, vendors, clock):
    files = {name: read(path) for name, path in case["inputs"].items() if name != "policy"}
    collateral = IntelCollateral(
        tcb_info=files["tcb_info"],
        tcb_info_chain=load_pem_chain_untrusted(files["tcb_info_issuer_chain"]),
        qe_identity=files["qe_identity"],
        qe_identity_chain=load_pem_chain_untrusted(files["qe_identity_issuer_chain"]),
        pck_crl=files["pck_crl"],
        pck_crl_chain=load_pem_chain_untrusted(files["pck_crl_issuer_chain"]),
        root_ca_crl=files["root_ca_crl"],
    )
    quote = parse_quote_untrusted(files["quote"])
    tee = "sgx" if isinstance(quote, SgxQuote) else "tdx"
    fmspc, ca = platform_of(quote, Endorsements())
    clock.now = time_of(case)
    vendors.serve_collateral(tee, fmspc, ca, collateral)
    recognised = Recognised(tee, "quote", quote)
    fetched = make().fetch_for(recognised)
    fetched.require()
    assert fetched.endorsements.intel == (collateral,)
    assert make(offline=True).fetch_for(recognised, known=fetched.endorsements) == Fetched()


def test_the_verifier_takes_what_was_fetched(make, vendors, clock):
    (case,) = [case for case in SNP if case["id"] == "snp/milan-v2-gosevguest"]
    recognised = recognise(Evidence(data=read(case["inputs"]["report"])))
    report = recognised.parsed.report
    vendors.serve_vcek("Milan", report.chip_id, report.reported_tcb, read(case["inputs"]["vek"]))
    vendors.serve_amd_crl("Milan", read("snp/crl/milan_2025-05_2026-05.der"))
    clock.now = datetime(2025, 6, 1, tzinfo=UTC)
    with pytest.raises(EndorsementError):
        verify(recognised, at=clock.now)
    fetched = make().fetch_for(recognised)
    fetched.require()
    verified = verify(recognised, at=clock.now, endorsements=fetched.endorsements)
    assert {finding.check.id: finding.outcome for finding in verified.findings}[
        "snp.chain.revocation"
    ] is Outcome.PASSED
