# SPDX-License-Identifier: Apache-2.0
"""Judge every case of an evidence corpus through the public API: one JSON line each, and nothing looked up but the inputs.

usage: judge_corpus.py FOLDER

The folder holds `cases.jsonl`; a case's `id`, `tee`, `inputs` and `eval_time` are read, its expected verdict is not. Inputs below
`roots/` are those of the corpus that `ENARX_EVIDENCE` names. A line has `id`, `verdict`, `reasons`, `error`, `claims`,
`tcb_status`, `advisory_ids` and `seconds`, in the corpus's words.

The corpus policy: SNP authenticity only; debuggable SGX, TDX and Nitro refused; SEPT_VE_DISABLE wanted, MRSERVICETD zero;
TCB status reported and never refused. A case's own `policy` comes on top of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from enarx.abi.event_log import parse_event_log_untrusted
from enarx.abi.tpm_bundle import make_tpm_evidence_untrusted
from enarx.crypto.certificates import load_certificate_untrusted, load_pem_chain_untrusted
from enarx.errors import DecodeError, EnarxError, UsageError
from enarx.rats import (
    AppraisalPolicy,
    AtMost,
    AttestationResult,
    EachAtLeast,
    Endorsements,
    Evidence,
    Expectation,
    OneOf,
    Outcome,
    Skip,
    TrustAnchors,
    Verdict,
    render,
)
from enarx.verifier import Recognised, TrustCache, pinned_anchors, recognise, verify_evidence
from enarx.verifier.chain import make_chain_checks, verify_chain
from enarx.verifier.cpaks import read_cpaks
from enarx.verifier.endorsement_files import read_endorsements
from enarx.verifier.ledger import Ledger, Setting
from enarx.verifier.registry import SECTIONS, judge_of
from enarx.wire.result_json import plain_claims

ROOTS = os.environ.get("ENARX_EVIDENCE") or os.path.join(os.path.dirname(__file__), "..", "..", "shared", "evidence")
ANY_TIME = datetime(2025, 6, 1, tzinfo=UTC)

# What the corpus policy expects; everything else is skipped.
EXPECTED: Mapping[str, Expectation] = {
    "sgx.debug": OneOf(False),
    "tdx.debug": OneOf(False),
    "tdx.sept_ve_disable": OneOf(True),
    "tdx.mr_service_td": OneOf(bytes(48)),
    "nitro.debug": OneOf(False),
}

# The corpus's word for a check that failed or is undecided, by the beginning of its id; the longest that fits.
REASONS: Mapping[str, str] = {
    "snp.report.signature": "report_signature_invalid",
    "snp.report.reserved": "report_malformed",
    "snp.vek.present": "vek_missing",
    "snp.vek.signature": "vek_not_signed_by_ask",
    "snp.ask": "chain_not_to_pinned_ark",
    "snp.ark": "chain_not_to_pinned_ark",
    "snp.chain": "chain_not_to_pinned_ark",
    "snp.chain.revocation": "intermediate_revoked",
    "snp.vek.validity": "certificate_not_valid_at_time",
    "snp.ask.validity": "certificate_not_valid_at_time",
    "snp.ark.validity": "certificate_not_valid_at_time",
    "snp.vek.hwid": "hwid_mismatch",
    "snp.vek.tcb": "tcb_extension_mismatch",
    "snp.vek.kind": "vek_kind_mismatch",
    "snp.report.product": "product_mismatch",
    "snp.guest_policy.debug": "policy_debug_allowed",
    "snp.vmpl": "vmpl_not_allowed",
    "snp.tcb": "tcb_below_minimum",
    "quote.signature": "quote_signature_invalid",
    "quote.vendor_id": "qe_vendor_id_unknown",
    "qe_report.signature": "qe_report_signature_invalid",
    "qe_report.binding": "qe_report_hash_mismatch",
    "pck_chain.present": "pck_certificate_not_embedded",
    "pck_chain": "pck_chain_invalid",
    "pck_chain.root": "root_not_trusted",
    "pck_chain.anchor": "pck_chain_invalid",
    "tcb_info.signature": "tcb_info_signature_invalid",
    "tcb_info.window": "collateral_expired",
    "qe_identity.window": "collateral_expired",
    "tcb_info.fmspc": "fmspc_mismatch",
    "qe_identity.tee": "qe_identity_wrong_tee",
    "tcb.level": "tcb_level_not_found",
    "debug": "debug_enabled",
    "sept_ve_disable": "sept_ve_disable_clear",
    "mr_service_td": "mr_service_td_nonzero",
    "nitro.debug": "debug_mode_pcrs_zero",
    "nitro.document": "document_signature_invalid",
    "nitro.certificate": "chain_invalid",
    "nitro.certificate.form": "certificate_malformed",
    "nitro.certificate.validity": "certificate_not_valid_at_time",
    "nitro.chain": "chain_not_to_pinned_root",
    "nitro.chain.validity": "certificate_not_valid_at_time",
    "cca.platform": "platform_signature_invalid",
    "cca.realm": "realm_signature_invalid",
    "cca.binding": "realm_key_not_bound",
    "tpm.quote.signature": "quote_signature_invalid",
    "tpm.quote.pcr_digest": "pcr_digest_mismatch",
    "azure.quote.signature": "quote_signature_invalid",
    "azure.quote.pcr_digest": "pcr_digest_mismatch",
    "azure.runtime_data": "runtime_data_not_bound",
}
# An undecided verdict has a word of its own in the corpus where it is for want of one of these.
MISSING_ENDORSEMENT = ("snp.vek.present", "sgx.pck_chain.present", "tdx.pck_chain.present")
# The corpus asks Azure's evidence for signatures and bindings as far as they are there.
NOT_ASKED_OF_AZURE = ("tdx.collateral.present", "azure.quote.present", "azure.td_quote.present", "azure.ak")
MISSING_COLLATERAL = ("sgx.collateral.present", "tdx.collateral.present")


class Corpus:
    """A folder with cases.

    Args:
        folder: that holds `cases.jsonl`.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._cache = TrustCache()

    def cases(self) -> Iterator[dict[str, Any]]:
        """Yield the cases, without what they expect."""
        with open(os.path.join(self._folder, "cases.jsonl"), encoding="utf-8") as file:
            for line in file:
                if line.strip():
                    case = json.loads(line)
                    yield {name: case[name] for name in ("id", "tee", "inputs", "eval_time") if name in case}

    def read(self, name: str) -> bytes:
        """Read an input."""
        folders = (ROOTS, self._folder) if name.startswith("roots/") else (self._folder,)
        path = next((path for folder in folders if os.path.isfile(path := os.path.join(folder, name))), None)
        if path is None:
            raise UsageError(f"cannot judge the case: found no file {name}, want it below {' or '.join(folders)}")
        with open(path, "rb") as file:
            return file.read()

    def judge(self, case: dict[str, Any]) -> dict[str, Any]:
        """Judge one case."""
        started = time.perf_counter()
        try:
            answer = self._judge(case)
        except UsageError as error:
            # The case cannot be put, which says nothing about its evidence.
            answer = {"reasons": [str(error)], "error": type(error).__name__}
        except EnarxError as error:
            answer = {"verdict": "invalid", "reasons": [str(error)], "error": type(error).__name__}
        blank = {"verdict": None, "reasons": [], "error": None, "claims": {}, "tcb_status": None, "advisory_ids": []}
        return {"id": case["id"], **blank, **answer, "seconds": round(time.perf_counter() - started, 6)}

    def _judge(self, case: dict[str, Any]) -> dict[str, Any]:
        inputs = case["inputs"]
        if case["tee"] == "measure":
            return _measure(self, inputs)
        if "event_log" in inputs:
            return _replay(self.read(inputs["event_log"]))
        if "ak_cert" in inputs:
            return _ak_chain(self, inputs, _time_of(case))
        recognised, endorsements = self._evidence(inputs)
        result = verify_evidence(
            recognised,
            at=_time_of(case),
            endorsements=endorsements,
            policy=_policy(inputs.get("policy")),
            anchors=self._anchors(case, recognised),
            cache=self._cache,
        )
        answer = _answer(result)
        if "firmware_yaml" in inputs:
            # Google says which firmware has which MRTD; that it is this one is one more thing to hold.
            mrtd = json.loads(_json_of_yaml(self.read(inputs["firmware_yaml"])))["mrtd"].strip()
            is_equal = answer["claims"]["mr_td"] == mrtd
            answer["claims"] |= {"firmware_mrtd": mrtd, "mrtd_equal": is_equal}
            if not is_equal:
                answer |= {"verdict": "invalid", "reasons": [*answer.get("reasons", ()), "mrtd_not_of_firmware"]}
        return answer

    def _evidence(self, inputs: Mapping[str, Any]) -> tuple[Recognised, Endorsements]:
        endorsing = (
            "vek", "ca", "crl", "bundle", "tcb_info", "qe_identity", "pck_crl", "root_ca_crl", "tcb_info_issuer_chain",
            "qe_identity_issuer_chain", "pck_crl_issuer_chain",
        )  # fmt: skip
        files = [(name, self.read(inputs[name])) for name in endorsing if isinstance(inputs.get(name), str)]
        if "collateral_yaml" in inputs:
            files.append(("collateral", _json_of_yaml(self.read(inputs["collateral_yaml"]))))
        endorsements = read_endorsements(files)
        if "message" in inputs:
            message, signature, pcrs, ak = (self.read(inputs[name]) for name in ("message", "signature", "pcrs", "ak"))
            parsed = make_tpm_evidence_untrusted(message, signature, pcrs, ak=ak)
            return Recognised("tpm", "TPM 2.0 quote", parsed), endorsements
        if "evidence_yaml" in inputs:
            data = _json_of_yaml(self.read(inputs["evidence_yaml"]))
        else:
            evidence = (
                "report", "extended_report", "quote", "quote_padded", "document", "token", "evidence", "hcl_report", "attestation",
            )  # fmt: skip
            name = next((name for name in evidence if name in inputs), None)
            if name is None:
                raise UsageError(
                    f"cannot judge the case: found the inputs {', '.join(inputs)}, want one of {', '.join(evidence)}"
                )
            data = self.read(inputs[name])
        return recognise(Evidence(data=data)), endorsements

    def _anchors(self, case: dict[str, Any], recognised: Recognised) -> TrustAnchors:
        inputs, pinned = case["inputs"], pinned_anchors()
        root = inputs.get("trusted_root") or inputs.get("root")
        if isinstance(root, str) and os.path.splitext(root)[1]:
            roots = _self_signed(self.read(root))
            if case["tee"] == "snp":
                return TrustAnchors(amd=roots)
            return TrustAnchors(aws=roots) if case["tee"] == "nitro" else TrustAnchors(intel=roots)
        if case["tee"] == "cca":
            return TrustAnchors(cca=_cpaks(self.read(inputs["cpak"]), recognised.parsed.platform.instance_id))
        if case["tee"] in {"tpm", "azure"}:
            # The corpus says that these keys are the machines'; a certificate is not part of what it asks.
            return pinned.extended(emulated=frozenset(), tpm_aks=_ak_digests(recognised))
        return pinned


def _time_of(case: Mapping[str, Any]) -> datetime:
    text = case.get("eval_time", "any")
    return ANY_TIME if text == "any" else datetime.fromisoformat(text).astimezone(UTC)


def _policy(limits: Mapping[str, Any] | None) -> AppraisalPolicy:
    rules = [rule for section in SECTIONS for rule in judge_of(section).rules]
    expectations: dict[str, Expectation] = {rule.key: Skip("the corpus does not ask") for rule in rules} | dict(
        EXPECTED
    )
    for name, value in (limits or {}).items():
        if name == "allow_debug":
            if not value:
                expectations["snp.guest_policy.debug"] = OneOf(False)
        elif name == "vmpl_max":
            expectations["snp.vmpl"] = AtMost(value)
        elif name == "minimum_tcb":
            parts = {COMPONENTS[part]: least for part, least in value.items() if least is not None}
            products = dict.fromkeys(("Milan", "Genoa", "Bergamo", "Siena", "Turin"), parts)
            expectations["snp.tcb.reported"] = EachAtLeast(products)
        else:
            raise DecodeError(f"cannot judge the case: policy: found {name}, want allow_debug, vmpl_max or minimum_tcb")
    return AppraisalPolicy(name="corpus", expectations=expectations, tees=frozenset(SECTIONS))


COMPONENTS = {"bl": "boot_loader", "tee": "tee", "snp": "snp", "ucode": "microcode", "fmc": "fmc"}


def _answer(result: AttestationResult) -> dict[str, Any]:
    answer = {
        "claims": _in_corpus_form(result),
        "tcb_status": result.tcb_status,
        "advisory_ids": list(result.advisory_ids),
    }
    undecided = [finding.check.id for finding in result.findings if finding.outcome is Outcome.UNDECIDED]
    is_beside = result.tee.startswith("azure") and all(name.startswith(NOT_ASKED_OF_AZURE) for name in undecided)
    if result.verdict is Verdict.ACCEPTED or (result.verdict is Verdict.UNDECIDED and is_beside):
        return answer | {"verdict": "valid"}
    outcomes = {Outcome.FAILED, Outcome.UNDECIDED}
    ids = [finding.check.id for finding in result.findings if finding.outcome in outcomes]
    verdict = "invalid"
    if result.verdict is Verdict.UNDECIDED:
        if any(name.startswith(MISSING_ENDORSEMENT) for name in undecided):
            verdict = "endorsement_missing"
        elif any(name.startswith(MISSING_COLLATERAL) for name in undecided):
            verdict = "collateral_missing"
    try:
        result.require()
    except EnarxError as error:
        return answer | {"verdict": verdict, "reasons": _words(ids, result), "error": type(error).__name__}
    return answer


def _in_corpus_form(result: AttestationResult) -> dict[str, Any]:
    """Lay the claims of composite evidence side by side, and cut what the corpus lists only the beginning of."""
    claims = plain_claims(result.claims)
    for section in SECTIONS:
        inner = claims.pop(section, None)
        if isinstance(inner, dict):
            claims |= inner
    if result.tee == "azure-tdx" and result.tcb_status is not None:
        claims["tcb"] = result.tcb_status
    return {name: value[: SHOWN[name]] if name in SHOWN and value else value for name, value in claims.items()}


# Hex digits.
SHOWN = {"public_key": 128, "user_data": 256, "nonce": 256}


def _words(ids: list[str], result: AttestationResult) -> list[str]:
    words = []
    for name in ids:
        # What SGX and TDX share stands there once.
        shared = name.removeprefix("sgx.").removeprefix("tdx.")
        fitting = [each for each in REASONS if f"{name}.".startswith(each + ".") or f"{shared}.".startswith(each + ".")]
        word = REASONS[max(fitting, key=len)] if fitting else name
        if name == "snp.chain.revocation" and not any("revoked:" in str(each.found) for each in result.failures):
            word = "crl_expired"
        if word == "collateral_expired" and any("not yet valid" in str(each.found) for each in result.failures):
            word = "collateral_not_yet_valid"
        words.append(word)
    return list(dict.fromkeys(words))


def _self_signed(data: bytes) -> tuple[bytes, ...]:
    certificates = read_endorsements([("root", data)]).certificates
    loaded = [(der, load_certificate_untrusted(der)) for der in certificates]
    return tuple(der for der, certificate in loaded if certificate.subject == certificate.issuer)


def _json_of_yaml(data: bytes) -> bytes:
    import yaml

    return json.dumps(yaml.safe_load(data)).encode()


def _cpaks(data: bytes, instance_id: bytes) -> dict[bytes, bytes]:
    try:
        return read_cpaks(data, instance_id=instance_id)
    except DecodeError as error:
        # One key of the corpus is no point on its curve: the verifier is to say that nothing can be signed by it.
        return {instance_id: str(error).encode()}


def _ak_digests(recognised: Recognised) -> frozenset[bytes]:
    spki = getattr(recognised.parsed, "ak_spki", None)
    return frozenset({hashlib.sha256(spki).digest()}) if spki else frozenset()


def _replay(data: bytes) -> dict[str, Any]:
    log = parse_event_log_untrusted(data)
    return {"verdict": "replay" if log.events else "parse", "claims": plain_claims(log.named())}


def _ak_chain(corpus: Corpus, inputs: Mapping[str, Any], at: datetime) -> dict[str, Any]:
    (leaf,) = load_pem_chain_untrusted(corpus.read(inputs["ak_cert"]))
    ledger = Ledger()
    chain = verify_chain(
        ledger,
        make_chain_checks("tpm.ak", "the AK certificate", "TCG EK profile"),
        leaf,
        load_pem_chain_untrusted(corpus.read(inputs["intermediate"])),
        load_pem_chain_untrusted(corpus.read(inputs["root"])),
        Setting(at=at, anchors=TrustAnchors()),
        signs="the quote",
    )
    failed = [finding.check.id for finding in ledger.findings if finding.outcome is not Outcome.PASSED]
    claims: dict[str, Any] = {}
    if chain is not None:
        subject = [f"{each.rfc4514_attribute_name}={each.value}" for each in reversed(list(chain.leaf.subject))]
        claims = {"subject": ",".join(subject), "not_after": render(chain.leaf.not_valid_after_utc)}
    if failed:
        return {"verdict": "invalid", "reasons": failed, "error": "VerificationError", "claims": claims}
    return {"verdict": "valid", "claims": claims}


def _measure(corpus: Corpus, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Compute a launch digest, which is not the verifier's: it is what reference values come from."""
    from launch_digest import digest_of_sections, digest_of_vector

    if "params" in inputs:
        name, _, vector = inputs["params"].partition("#")
        vectors = json.loads(corpus.read(name))["vectors"]
        params = next(each for each in vectors if each["name"] == vector)
        try:
            digest = digest_of_vector(params, corpus.read(params["ovmf"]))
        except (ValueError, RuntimeError) as error:
            return {"verdict": "error", "reasons": [str(error)], "error": "ConfigError", "claims": {"expected": None}}
        return {"verdict": "valid", "claims": {"expected": digest.hex()}}
    digest = digest_of_sections(json.loads(corpus.read(inputs["inputs"])))
    report = recognise(Evidence(data=corpus.read(inputs["report"]))).parsed.report
    verdict = "valid" if report.measurement == digest else "invalid"
    return {"verdict": verdict, "claims": {"measurement": digest.hex()}}


def main(argv: list[str]) -> int:
    """Print a line for each case."""
    if len(argv) != 2 or not os.path.isfile(os.path.join(argv[1], "cases.jsonl")):
        print(f"{__doc__}\njudge_corpus.py: found no folder with cases.jsonl, want one", file=sys.stderr)
        return 2
    corpus = Corpus(argv[1])
    for case in corpus.cases():
        print(json.dumps(corpus.judge(case)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
