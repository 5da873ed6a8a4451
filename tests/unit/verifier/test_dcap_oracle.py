# SPDX-License-Identifier: Apache-2.0
"""Our DCAP verdicts against those of `dcap_qvl`: every Intel case of the corpus, and mutated cases under a test root.

Both are asked the same question: accepted or not, and if accepted, with which status and which advisories. `dcap_qvl` has a
policy of its own that cannot be switched off, so ours is given the same one. Where the answers still differ, `DIFFERENCES`
says why; a difference that no entry explains fails the test, and so does, in the full count, an entry that explains nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple

import pytest
import yaml

from enarx.crypto.certificates import load_pem_chain_untrusted
from enarx.errors import DecodeError
from enarx.rats import (
    AppraisalPolicy,
    Endorsements,
    Evidence,
    Expectation,
    IntelCollateral,
    OneOf,
    Skip,
    TrustAnchors,
    Verdict,
)
from enarx.testing.dcap import AT, SGX, TDX, EnclaveReport, Platform, TdReport
from enarx.verifier import TrustCache, verify_evidence
from enarx.verifier.dcap_rules import MaskedDigests
from enarx.verifier.registry import judge_of
from tests.evidence import cases, needs_evidence, read
from tests.unit.verifier.dcap_cases import Answer, Case, ask_oracle, intel, make_case, split_document

# Bits 0 to 15, 17, 23 to 26, 29 and 32 to 61 of TDATTRIBUTES: debug, profiling, migration, and those reserved when it was written.
_REFUSED_BITS = sum(1 << bit for bit in (*range(16), 17, 23, 24, 25, 26, 29, *range(32, 62))).to_bytes(8, "little")
ORACLE_POLICY: dict[str, Expectation] = {
    "sgx.debug": OneOf(False),
    "tdx.debug": OneOf(False),
    "tdx.sept_ve_disable": OneOf(True),
    "tdx.mr_service_td": OneOf(bytes(48)),
    "tdx.td_attributes": MaskedDigests(8).decode([f"{bytes(8).hex()}/{_REFUSED_BITS.hex()}"]),
}
CACHE = TrustCache()


def policy_of(expectations: Mapping[str, Expectation]) -> AppraisalPolicy:
    """Return a policy that expects this and nothing else."""
    skip, sections = Skip("the oracle does not look at it"), ("sgx", "tdx")
    return AppraisalPolicy(
        name="the oracle's",
        expectations={
            rule.key: expectations.get(rule.key, skip) for section in sections for rule in judge_of(section).rules
        },
        tees=frozenset(sections),
    )


def ask_ours(
    quote: bytes,
    collateral: IntelCollateral,
    root: bytes | None,
    at: datetime,
    cache: TrustCache = CACHE,
    expectations: Mapping[str, Expectation] = ORACLE_POLICY,
) -> Answer:
    """Return our answer in the oracle's form."""
    try:
        result = verify_evidence(
            Evidence(data=quote),
            at=at,
            endorsements=Endorsements(intel=(collateral,)),
            policy=policy_of(expectations),
            anchors=None if root is None else TrustAnchors(intel=(root,)),
            cache=cache,
        )
    except DecodeError as error:
        return Answer(False, None, frozenset(), f"DecodeError: {error}")
    accepted = result.verdict is Verdict.ACCEPTED
    reason = "; ".join(finding.line for finding in result.failures) if not accepted else ""
    return Answer(accepted, result.tcb_status, frozenset(result.advisory_ids), reason)


class Difference(NamedTuple):
    """One kind of case that the two judge differently, and why that is right."""

    name: str
    why: str
    applies: Callable[[Case, Answer, Answer], bool]


def we_refuse(because: str) -> Callable[[Case, Answer, Answer], bool]:
    """Return whether only we refuse, and say this."""
    return lambda _, ours, theirs: theirs.accepted and not ours.accepted and re.search(because, ours.reason) is not None


def they_refuse(because: str) -> Callable[[Case, Answer, Answer], bool]:
    """Return whether only the oracle refuses, and says this."""
    return lambda _, ours, theirs: (
        ours.accepted and not theirs.accepted and re.search(because, theirs.reason) is not None
    )


def _is_end_of_a_list(case: Case, ours: Answer, theirs: Answer) -> bool:
    second = int(case.at.timestamp())
    return they_refuse(rf"CrlExpired .*\({second}\), next_update: UnixTime\({second}\)")(case, ours, theirs)


def _is_space_around(case: Case, ours: Answer, theirs: Answer) -> bool:
    documents = (split_document(document)[0] for document in (case.collateral.tcb_info, case.collateral.qe_identity))
    return any(text != text.strip() for text in documents) and we_refuse("signature failed")(case, ours, theirs)


def _is_cpu_svn(case: Case, ours: Answer, theirs: Answer) -> bool:
    name = "cpu_svn_unlike_the_components"
    if name not in case.mutations:
        return False
    usual = make_case(case.number, without=name)
    return agree(ours, ask_oracle(usual.quote, usual.collateral, usual.root, usual.at))


DIFFERENCES = (
    Difference(
        "bytes after the quote",
        "the oracle ignores whatever follows a quote; we take zeros, which kernels pad with, and nothing else",
        we_refuse("^DecodeError: cannot decode the quote: trailing bytes"),
    ),
    Difference(
        "text around the certificates",
        "nothing signs the certification data, so we take the certificates in PEM alone; the oracle skips what is between them",
        we_refuse("^DecodeError: cannot decode the quote: certification data: found more than certificates"),
    ),
    Difference(
        "certification data of another type",
        "nothing signs the type of the outer certification data of versions 4 and 5; it has to be 6, and the oracle takes any",
        we_refuse("^DecodeError: cannot decode the quote: certification data type"),
    ),
    Difference(
        "a space around a signed document",
        "what is signed is the member's value; a space around it is not part of the value, though the fake Intel signed it",
        _is_space_around,
    ),
    Difference(
        "authentication data of another size than 32 bytes",
        "the quote states the size, and Intel's library takes any; the oracle knows 32 only",
        they_refuse("Invalid QE auth data length"),
    ),
    Difference(
        "PCESVN above 32767",
        "its DER integer has three bytes, the first zero; the oracle takes one or two",
        they_refuse("PceSvn length mismatch"),
    ),
    Difference(
        "certificates in another order",
        "we find the leaf wherever it is; the oracle takes the first certificate",
        they_refuse("CaUsedAsEndEntity"),
    ),
    Difference(
        "the last second of a revocation list",
        "our times include both ends, as RFC 5280 says of certificates; for the oracle a list has ended by then",
        _is_end_of_a_list,
    ),
    Difference(
        "a revocation list from the future",
        "we do not rely on a list before its date; the oracle looks at the end only",
        we_refuse(r"revocation undecided: found a list for .* to 2026-07-10"),
    ),
    Difference(
        "a leaf that no PCK CA issued",
        "we look at the names and at the length of the path; for the oracle any path to the root will do",
        we_refuse(r"pck_chain\.purpose failed"),
    ),
    Difference(
        "certificates that the path does not need",
        "whatever a quote brings along has to belong to its path; the oracle does not look at what it does not need",
        we_refuse(r"pck_chain\.root failed|cannot decode a certificate( chain)?:"),
    ),
    Difference(
        "documents of another form",
        "we refuse versions, sizes, times and empty lists that Intel's API does not have; the oracle reads what it can",
        we_refuse("^DecodeError: cannot decode the (TCB info|QE identity)"),
    ),
    Difference(
        "an SGX extension of another form",
        "we take DER with nothing after it, and the platform types that exist; the oracle skips what it does not need",
        we_refuse("^DecodeError: cannot decode the SGX extension"),
    ),
    Difference(
        "another PCE",
        "the oracle does not compare PCE ids; Intel's library does",
        we_refuse(r"tcb_info\.pce_id failed"),
    ),
    Difference(
        "another TCB type",
        "the oracle does not look at it; only type 0 compares components",
        we_refuse(r"tcb_info\.type failed"),
    ),
    Difference(
        "a QE identity with bits outside its mask",
        "Intel's library masks the report and not the identity, so no enclave fits; the oracle masks both",
        we_refuse(r"qe\.(attributes|misc_select) failed"),
    ),
    Difference(
        "an unknown word at a level that the platform is not at",
        "the oracle refuses the document; for us the word of the level that counts has to be known",
        they_refuse("unknown variant"),
    ),
    Difference(
        "CPUSVN unlike the components",
        "Intel's library and we compare the components of the PCK certificate, the oracle its CPUSVN, which Intel makes equal",
        _is_cpu_svn,
    ),
)


def agree(ours: Answer, theirs: Answer) -> bool:
    """Return whether two answers are the same, where that counts."""
    if not ours.accepted and not theirs.accepted:
        return True
    return ours[:3] == theirs[:3]


_STATUS_FINDING = re.compile(r"\.(tcb\.\w+|qe\.tcb_level|module\.(known|tcb_level)) failed")
_STATUS_REFUSAL = re.compile(r"TCB level|TCB status|QE ISVSVN|current TDX TCB")


def reach_the_status(ours: Answer, theirs: Answer) -> bool:
    """Return whether both found everything authentic as far as the TCB levels, which gave a status or the refusal."""
    return (ours.accepted or _STATUS_FINDING.search(ours.reason) is not None) and (
        theirs.accepted or _STATUS_REFUSAL.search(theirs.reason) is not None
    )


def compare(numbers: range) -> tuple[Counter[str], list[str]]:
    """Ask both about many cases; return how often which difference was met, and those that nothing explains."""
    met: Counter[str] = Counter()
    unexplained = []
    for number in numbers:
        case = make_case(number)
        asked = case.quote, case.collateral, case.root, case.at
        ours, theirs = ask_ours(*asked), ask_oracle(*asked)
        met["cases"] += 1
        met["re-signed"] += case.resigned
        met["both give a status"] += ours.accepted and theirs.accepted
        met["re-signed and both reach the status"] += case.resigned and reach_the_status(ours, theirs)
        met["both refuse"] += not ours.accepted and not theirs.accepted
        if agree(ours, theirs):
            continue
        met["differ"] += 1
        for difference in DIFFERENCES:
            if difference.applies(case, ours, theirs):
                met[difference.name] += 1
                break
        else:
            unexplained.append(f"{number} {case.mutations}:\n    ours {ours}\n    theirs {theirs}")
    return met, unexplained


def test_a_sample_of_mutated_cases_gets_the_oracles_answers():
    met, unexplained = compare(range(150))
    assert not unexplained, "\n".join(unexplained)
    assert met["re-signed and both reach the status"] * 2 >= met["cases"]
    assert met["both give a status"] >= 50
    assert met["both refuse"] >= 30


@pytest.mark.parametrize(
    ("body", "finding", "refusal"),
    [
        (EnclaveReport(attributes=bytes([7, *bytes(15)])), "sgx.debug", "Debug mode"),
        (TdReport(td_attributes=bytes.fromhex("0100001000000000")), "tdx.debug", "Debug mode"),
        (TdReport(td_attributes=bytes(8)), "tdx.sept_ve_disable", "SEPT_VE_DISABLE"),
        (TdReport(td_attributes=bytes.fromhex("0000003000000000")), "tdx.td_attributes", "migration"),
        (TdReport(tee_tcb_svn2=TdReport().tee_tcb_svn, mr_service_td=b"\1" * 48), "tdx.mr_service_td", "MR service TD"),
    ],
    ids=["sgx debug", "tdx debug", "sept_ve_disable clear", "migration", "service domain"],
)
def test_what_the_oracle_refuses_whatever_it_is_asked_is_a_choice_of_policy_for_us(body, finding, refusal):
    tee, fake, platform = SGX if isinstance(body, EnclaveReport) else TDX, intel(), Platform()
    asked = fake.make_quote(body, platform), fake.make_collateral(tee, platform), fake.root.der, AT
    assert refusal in ask_oracle(*asked).reason
    assert ask_ours(*asked).reason.startswith(f"{finding} failed")
    assert ask_ours(*asked, expectations={}).status == "UpToDate"
    assert ask_ours(*asked, expectations={}).accepted


def test_what_was_remembered_changes_no_answer():
    cache = TrustCache(max_entries=64)
    for number in range(60):
        case = make_case(number)
        asked = case.quote, case.collateral, case.root, case.at
        assert ask_ours(*asked, cache) == ask_ours(*asked, cache) == ask_ours(*asked, TrustCache())


@pytest.mark.soak
def test_all_mutated_cases_get_the_oracles_answers():
    count = min(10_000, int(os.environ.get("ENARX_SOAK_EXAMPLES", "10000")))
    met, unexplained = compare(range(count))
    print("\n".join(f"{number:6} {name}" for name, number in met.items()))
    assert not unexplained, "\n".join(unexplained)
    if count == 10_000:
        assert met["re-signed and both reach the status"] * 2 >= count
        assert not [difference.name for difference in DIFFERENCES if not met[difference.name]]


def collateral_of(inputs: dict[str, str]) -> IntelCollateral:
    """Read a case's collateral, from files or from a bundle."""
    if "tcb_info" in inputs:
        documents = {name: read(inputs[name]) for name in ("tcb_info", "qe_identity", "pck_crl", "root_ca_crl")}
        chains = {name: read(inputs[name]) for name in CHAINS}
    else:
        name = inputs.get("bundle") or inputs["collateral_yaml"]
        bundle = json.loads(read(name)) if "bundle" in inputs else yaml.safe_load(read(name))
        documents = {each: bytes.fromhex(bundle[each]) for each in ("pck_crl", "root_ca_crl")}
        for each, member in (("tcb_info", "tcbInfo"), ("qe_identity", "enclaveIdentity")):
            documents[each] = f'{{"{member}":{bundle[each]},"signature":"{bundle[f"{each}_signature"]}"}}'.encode()
        chains = {each: bundle[each].encode() for each in CHAINS}
    return IntelCollateral(
        **documents, **{field: load_pem_chain_untrusted(chains[name]) for name, field in CHAINS.items()}
    )


CHAINS = {
    "tcb_info_issuer_chain": "tcb_info_chain",
    "qe_identity_issuer_chain": "qe_identity_chain",
    "pck_crl_issuer_chain": "pck_crl_chain",
}
# Without collateral there is nothing to ask the oracle, and an event log is no evidence of its own.
ASKED = [
    case for case in [*cases("sgx"), *cases("tdx")] if case["inputs"].keys() & {"tcb_info", "bundle", "collateral_yaml"}
]


@needs_evidence
@pytest.mark.parametrize("case", ASKED, ids=[case["id"] for case in ASKED])
def test_a_corpus_case_gets_the_oracles_answer(case):
    inputs = case["inputs"]
    quote = read(inputs.get("quote") or inputs["quote_padded"])
    asked = quote, collateral_of(inputs), None, datetime.fromisoformat(case["eval_time"])
    ours, theirs = ask_ours(*asked), ask_oracle(*asked)
    assert agree(ours, theirs), f"ours {ours}\ntheirs {theirs}"
    assert theirs.accepted == (case["verdict"] == "valid")
    if theirs.accepted:
        assert (theirs.status, theirs.advisories) == (case["tcb_status"], set(case.get("advisory_ids", ())))
