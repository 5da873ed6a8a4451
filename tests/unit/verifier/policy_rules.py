# SPDX-License-Identifier: Apache-2.0
"""Rules with every grammar there is, for tests of what reads, writes and lints policies; claims are plain dicts."""

from __future__ import annotations

from enarx.rats import Check, Concern, Expectation, OneOf, Skip
from enarx.verifier.grammar import (
    ByProduct,
    Digests,
    Flag,
    Freshness,
    Grammar,
    Maximum,
    Minimum,
    MinimumVersion,
    Numbers,
    Words,
    WordsOrFewer,
)
from enarx.verifier.ledger import Part, Rule

TCB = ByProduct(
    {
        "Milan": {"bootloader": 255, "tee": 255, "snp": 255, "microcode": 255},
        "Turin": {"fmc": 255, "bootloader": 255, "tee": 255, "snp": 255, "microcode": 255},
    }
)
NO_POLICY = Skip("no policy was given")


class Said:
    """Claims by the key of the rule that reads them."""

    def __init__(self, **values: object) -> None:
        self.values = values

    def named(self) -> dict[str, object]:
        return dict(self.values)


def rule(key: str, grammar: Grammar, strict: str | None, baseline: Expectation = NO_POLICY) -> Rule:
    check = Check(key, f"{key} is as expected", Concern.APPRAISAL, "test")
    name = key.partition(".")[2].replace(".", "_")
    return Rule(key, check, lambda said: said.values.get(name), grammar, strict, baseline)


RULES = {
    "snp": (
        rule("snp.measurement", Digests(48), None),
        rule("snp.guest_policy.debug", Flag(), '"forbidden"', OneOf(False)),
        rule("snp.guest_policy.smt", Flag(), '{ skip = "any number of threads" }'),
        rule("snp.vmpl", Numbers(3), "[0]", OneOf(0)),
        rule("snp.reported_tcb", TCB, None),
        rule("snp.firmware", MinimumVersion(3), '"1.55.29"'),
        rule("snp.chip_id", Digests(64), None),
        rule("snp.report_id", Digests(32), '{ skip = "new with each launch" }'),
        rule("snp.report_data", Freshness(64), '"from-caller"'),
    ),
    "sgx": (
        rule("sgx.mrsigner", Digests(32), None),
        rule("sgx.attributes.debug", Flag(), '"forbidden"', OneOf(False)),
        rule("sgx.isv_svn", Minimum(65535), None),
        rule("sgx.collateral.tcb_evaluation_data_number", Minimum(65535), None),
        rule("sgx.collateral.grace_days", Maximum(365), "0"),
        rule("sgx.tcb_status", Words("UpToDate", "OutOfDate", "Revoked"), '["UpToDate"]'),
        rule("sgx.advisories", WordsOrFewer(), "[]"),
        rule("sgx.report_data", Freshness(64), '"from-caller"'),
    ),
    "azure": (rule("azure.pcrs.pcr11", Digests(32), None), rule("azure.nonce", Freshness(None), '"from-caller"')),
    "nitro": (rule("nitro.pcrs.pcr0", Digests(48), None), rule("nitro.nonce", Freshness(None), '"from-caller"')),
    "tdx": (rule("tdx.mrtd", Digests(48), None), rule("tdx.report_data", Freshness(64), '"from-caller"')),
    "tpm": (rule("tpm.pcrs.pcr11", Digests(32), None), rule("tpm.nonce", Freshness(None), '"from-caller"')),
    "cca": (rule("cca.realm.rim", Digests(None), None), rule("cca.realm.challenge", Freshness(64), '"from-caller"')),
}


def rules_of(section: str) -> tuple[Rule, ...]:
    return RULES[section]


SNP_TEXT = f"""\
version = 1

[snp]
measurement = ["{"ab" * 48}"]
vmpl = [0]
firmware = "1.55.29"
chip_id = {{ skip = "any chip of AMD's" }}
report_id = {{ skip = "new with each launch" }}
report_data = "from-caller"
reported_tcb = {{ preset = "amd-2026-05" }}

[snp.guest_policy]
debug = "forbidden"
smt = {{ skip = "any number of threads" }}
"""

SGX_TEXT = f"""\
version = 1
[sgx]
mrsigner = ["{"cd" * 32}"]
attributes.debug = "forbidden"
isv_svn = 3
collateral = {{ tcb_evaluation_data_number = {{ preset = "intel-2025-05" }}, grace_days = 0 }}
tcb_status = ["UpToDate"]
advisories = []
report_data = "from-caller"
"""


def snp_part(**changed: object) -> Part:
    """Return claims that meet SNP_TEXT, but for what is changed."""
    values: dict[str, object] = {
        "measurement": b"\xab" * 48,
        "guest_policy_debug": False,
        "guest_policy_smt": True,
        "vmpl": 0,
        "reported_tcb": ("Milan", {"bootloader": 4, "tee": 0, "snp": 29, "microcode": 222}),
        "firmware": (1, 55, 35),
        "chip_id": b"\x11" * 64,
        "report_id": b"\x22" * 32,
        "report_data": b"\x33" * 64,
    }
    return Part("snp", Said(**values | changed))
