# SPDX-License-Identifier: Apache-2.0
"""The Intel cases of the evidence corpus: their inputs, and the corpus's words for our findings."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import yaml

from enarx.crypto.certificates import load_pem_chain_untrusted
from enarx.rats import AttestationResult, Endorsements, Evidence, IntelCollateral, Outcome, Verdict
from enarx.verifier import TrustCache, verify_evidence
from enarx.verifier.endorsement_files import read_endorsements
from tests.evidence import cases, read

REASONS = {
    "debug": "debug_enabled",
    "sept_ve_disable": "sept_ve_disable_clear",
    "mr_service_td": "mr_service_td_nonzero",
    "tcb.level": "tcb_level_not_found",
    "module.tcb_level": "tcb_level_not_found",
    "qe.tcb_level": "tcb_level_not_found",
    "pck_chain.present": "pck_certificate_not_embedded",
    "pck_chain.anchor": "root_not_trusted",
    "pck_chain.root": "root_not_trusted",
    "quote.signature": "quote_signature_invalid",
    "quote.vendor_id": "qe_vendor_id_unknown",
    "qe_report.signature": "qe_report_signature_invalid",
    "qe_report.binding": "qe_report_hash_mismatch",
    "tcb_info.signature": "tcb_info_signature_invalid",
    "tcb_info.fmspc": "fmspc_mismatch",
    "qe_identity.tee": "qe_identity_wrong_tee",
}
"""The corpus's word for a finding that is not passed, by its id without the section."""

VERDICTS = {"pck_chain.present": "endorsement_missing", "collateral.present": "collateral_missing"}
_FILES = {"tcb_info": "tcb_info", "qe_identity": "qe_identity", "pck_crl": "pck_crl", "root_ca_crl": "root_ca_crl"}
_CHAINS = {
    "tcb_info_chain": "tcb_info_issuer_chain",
    "qe_identity_chain": "qe_identity_issuer_chain",
    "pck_crl_chain": "pck_crl_issuer_chain",
}


def quote_cases(tee: str) -> list[dict[str, Any]]:
    """Return the cases of one TEE that have a quote."""
    return [case for case in cases(tee) if case["verdict"] != "replay"]


def read_quote(case: dict[str, Any]) -> bytes:
    """Return the bytes of a case's evidence."""
    inputs = case["inputs"]
    return read(inputs.get("quote") or inputs["quote_padded"])


def read_endorsements_of(case: dict[str, Any]) -> Endorsements:
    """Return the endorsements of a case, in whatever form it has them."""
    inputs = case["inputs"]
    if "bundle" in inputs:
        return read_endorsements([("bundle", read(inputs["bundle"]))])
    if "collateral_yaml" in inputs:
        return _read_yaml(read(inputs["collateral_yaml"]))
    if "tcb_info" not in inputs:
        return Endorsements()
    fields: dict[str, Any] = {field: read(inputs[name]) for field, name in _FILES.items()}
    fields |= {field: load_pem_chain_untrusted(read(inputs[name])) for field, name in _CHAINS.items()}
    return Endorsements(intel=(IntelCollateral(**fields),))


def _read_yaml(data: bytes) -> Endorsements:
    document = yaml.safe_load(data)

    def signed(member: str, name: str) -> bytes:
        return f'{{"{member}":{document[name]},"signature":"{document[name + "_signature"]}"}}'.encode()

    chains = {field: load_pem_chain_untrusted(document[name].encode()) for field, name in _CHAINS.items()}
    return Endorsements(
        intel=(
            IntelCollateral(
                tcb_info=signed("tcbInfo", "tcb_info"),
                qe_identity=signed("enclaveIdentity", "qe_identity"),
                pck_crl=bytes.fromhex(document["pck_crl"]),
                root_ca_crl=bytes.fromhex(document["root_ca_crl"]),
                **chains,
            ),
        )
    )


def time_of(case: dict[str, Any]) -> datetime:
    """Return the time that a case is judged for."""
    return datetime.fromisoformat(case["eval_time"])


def judge_case(case: dict[str, Any], *, cache: TrustCache | None = None) -> AttestationResult:
    """Judge a case under the policy that applies where none is given, which is the corpus's."""
    return verify_evidence(
        Evidence(data=read_quote(case)), at=time_of(case), endorsements=read_endorsements_of(case), cache=cache
    )


def name_reasons(result: AttestationResult) -> set[str]:
    """Return the corpus's words for everything that did not pass."""
    reasons = set()
    for finding in result.findings:
        if finding.outcome in {Outcome.FAILED, Outcome.UNDECIDED}:
            name = finding.check.id.partition(".")[2]
            if name.endswith(".window"):
                expired = "expired" in str(finding.found)
                reasons.add("collateral_expired" if expired else "collateral_not_yet_valid")
            else:
                reasons.add(REASONS.get(name, name))
    return reasons


def name_verdict(result: AttestationResult) -> str:
    """Return the corpus's word for the verdict."""
    if result.verdict is Verdict.ACCEPTED:
        return "valid"
    if result.verdict is Verdict.UNDECIDED:
        for finding in result.failures:
            word = VERDICTS.get(finding.check.id.partition(".")[2])
            if word is not None:
                return word
    return "invalid"


def show(value: object) -> object:
    """Return a claim as the corpus writes it."""
    return value.hex() if isinstance(value, bytes) else value


def check_case(case: dict[str, Any]) -> None:
    """Assert that a case gets its verdict for one of its reasons, with its status, advisories and claims."""
    result = judge_case(case)
    lines = [finding.line for finding in result.failures]
    assert name_verdict(result) == case["verdict"], lines
    if case["reasons"]:
        assert name_reasons(result) & set(case["reasons"]), lines
    if case["verdict"] == "valid":
        assert result.tcb_status == case["tcb_status"]
        assert set(result.advisory_ids) == set(case.get("advisory_ids", result.advisory_ids))
        parts = case.get("tcb_parts", {})
        found = result.claims["tcb_parts"]
        assert {name: parts[name] for name in found if name in parts} == (found if parts else {})
    by_rules = case.get("tcb_status_by_intel_rules")
    if by_rules is not None:
        assert result.tcb_status == (None if by_rules.startswith("ERR") else by_rules)
    claims = result.claims
    of_firmware = {"firmware_mrtd", "mrtd_equal"}
    expected = {name: value for name, value in case["claims"].items() if name not in of_firmware}
    assert {name: show(claims.get(name)) for name in expected} == expected
