# SPDX-License-Identifier: Apache-2.0
"""The appraisal policy for SNP evidence: a rule for each of its keys.

Source: AMD 56860 SEV Secure Nested Paging Firmware ABI.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from enarx.abi.snp import GUEST_POLICY_BITS, PLATFORM_INFO_BITS, TCB_LAYOUTS, tcb_components
from enarx.rats import Check, Concern, Expectation, OneOf, Skip
from enarx.verifier.grammar import (
    ByProduct,
    Digests,
    Flag,
    Freshness,
    Grammar,
    Minimum,
    MinimumVersion,
    Numbers,
    Words,
    WordsOrFewer,
)
from enarx.verifier.ledger import Rule
from enarx.verifier.snp_claims import ABI, KDS, NOTHING, SnpClaims, is_masked

__all__ = ["RULES", "AllBits"]


class AllBits(Expectation):
    """The claim, a bit vector, has all of these bits set.

    Args:
        bits: at least one.
    """

    __slots__ = ("bits",)

    def __init__(self, bits: int) -> None:
        if not bits:
            raise ValueError("found no bit, want at least one")
        self.bits = bits

    def holds(self, found: Any) -> bool:
        """Return whether all of them are set."""
        return found is not None and found & self.bits == self.bits

    def __str__(self) -> str:
        return f"all bits of {self.bits:#x}"


class _Bits(Grammar):
    """A number whose bits must all be set in the claim."""

    __slots__ = ()

    @property
    def wanted(self) -> str:
        return "a number from 1 to 2**63 - 1, whose bits must be set"

    def decode(self, value: Any) -> Expectation:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 63:
            raise self.refuse(value)
        return AllBits(value)


class _Revocation(Grammar):
    """`"required"`: a current revocation list has to come along."""

    __slots__ = ()

    @property
    def wanted(self) -> str:
        return '"required"'

    def decode(self, value: Any) -> Expectation:
        if value != "required":
            raise self.refuse(value)
        return OneOf("checked")


_NO_POLICY = Skip("no policy was given")
_NO_DIGEST = bytes(48)
_ANY = '{ skip = "any value is fine" }'


def _rule(
    name: str,
    title: str,
    read: Callable[[SnpClaims], object],
    grammar: Grammar,
    strict: str | None,
    baseline: Expectation = _NO_POLICY,
    spec: str = f"{ABI} table 23",
) -> Rule:
    key = f"snp.{name}"
    return Rule(key, Check(key, title, Concern.APPRAISAL, spec), read, grammar, strict, baseline)


def _policy_bit(name: str) -> Callable[[SnpClaims], object]:
    mask = 1 << GUEST_POLICY_BITS[name]
    return lambda claims: claims.report.policy & mask != 0


def _platform_bit(name: str) -> Callable[[SnpClaims], object]:
    mask = 1 << PLATFORM_INFO_BITS[name]
    return lambda claims: claims.report.platform_info & mask != 0


_NAMED_PLATFORM_BITS = sum(1 << bit for bit in PLATFORM_INFO_BITS.values())


def _other_platform_bits(claims: SnpClaims) -> frozenset[str]:
    others = claims.report.platform_info & ~_NAMED_PLATFORM_BITS
    return frozenset(f"bit{bit}" for bit in range(64) if others >> bit & 1) if others else NOTHING


@lru_cache(maxsize=1024)
def _tcb(raw: bytes, product: str | None) -> object:
    components = tcb_components(raw, product)
    return (product, components) if components is not None else None


def _firmware(claims: SnpClaims) -> tuple[int, int]:
    report = claims.report
    return min((report.current_major, report.current_minor), (report.committed_major, report.committed_minor))


def _is_provisional(claims: SnpClaims) -> bool:
    report = claims.report
    return (
        report.current_tcb != report.committed_tcb
        or report.current_build != report.committed_build
        or report.current_minor != report.committed_minor
        or report.current_major != report.committed_major
    )


_TCB_GRAMMAR = ByProduct(
    {product: dict.fromkeys(TCB_LAYOUTS[product], 255) for product in ("Milan", "Genoa", "Siena", "Turin")}
)
_FLAG = Flag()
_FORBIDDEN = '"forbidden"'
_REQUIRED = '"required"'
_POLICY_SPEC = f"{ABI} table 10"
_PLATFORM_SPEC = f"{ABI} table 24"

RULES: tuple[Rule, ...] = (
    _rule("version", "the report's version is accepted", lambda c: c.report.version, Numbers(0xFFFFFFFF), "[3, 5]"),
    _rule(
        "product",
        "the processor is of an accepted product",
        lambda c: c.product,
        Words("Milan", "Genoa", "Siena", "Turin"),
        '["Milan", "Genoa", "Siena", "Turin"]',
        spec=f"{KDS} 3.1",
    ),
    _rule(
        "signing_key",
        "the report is signed with an accepted kind of key",
        lambda c: c.vek.kind if c.vek is not None else None,
        Words("VCEK", "VLEK"),
        '["VCEK"]',
    ),
    _rule(
        "csp_id",
        "the VLEK is an accepted cloud provider's",
        lambda c: c.vek.csp_id if c.vek is not None else None,
        Words(),
        '{ skip = "a VCEK names a chip and no provider" }',
        spec=f"{KDS} 3.1",
    ),
    _rule(
        "chip_id",
        "the chip is an accepted one",
        lambda c: c.report.chip_id,
        Digests(64),
        '{ skip = "any genuine chip is accepted" }',
    ),
    _rule(
        "masked_chip_id",
        "a report that a VCEK signed names its chip",
        lambda c: c.vek is not None and c.vek.hwid is not None and is_masked(c.report),
        _FLAG,
        _FORBIDDEN,
        OneOf(False),
    ),
    _rule("vmpl", "the report was asked for at an accepted VMPL", lambda c: c.report.vmpl, Numbers(3), "[0]", OneOf(0)),
    _rule(
        "guest_policy.debug",
        "the guest cannot be debugged",
        _policy_bit("debug"),
        _FLAG,
        _FORBIDDEN,
        OneOf(False),
        _POLICY_SPEC,
    ),
    _rule(
        "guest_policy.migrate_ma",
        "the guest cannot have a migration agent",
        _policy_bit("migrate_ma"),
        _FLAG,
        _FORBIDDEN,
        OneOf(False),
        _POLICY_SPEC,
    ),
    _rule(
        "guest_policy.smt",
        "whether the guest may run with SMT",
        _policy_bit("smt"),
        _FLAG,
        '{ skip = "clouds run with SMT" }',
        spec=_POLICY_SPEC,
    ),
    _rule(
        "guest_policy.single_socket",
        "whether the guest runs on one socket only",
        _policy_bit("single_socket"),
        _FLAG,
        _ANY,
        spec=_POLICY_SPEC,
    ),
    _rule(
        "guest_policy.cxl",
        "whether CXL devices and memory may be there",
        _policy_bit("cxl"),
        _FLAG,
        _FORBIDDEN,
        spec=_POLICY_SPEC,
    ),
    _rule(
        "guest_policy.mem_aes_256_xts",
        "whether memory must be encrypted with AES-256-XTS",
        _policy_bit("mem_aes_256_xts"),
        _FLAG,
        _ANY,
        spec=_POLICY_SPEC,
    ),
    _rule(
        "guest_policy.rapl_dis",
        "whether power limits must not be readable",
        _policy_bit("rapl_dis"),
        _FLAG,
        _ANY,
        spec=_POLICY_SPEC,
    ),
    _rule(
        "guest_policy.ciphertext_hiding_dram",
        "whether ciphertext must be hidden from the host",
        _policy_bit("ciphertext_hiding_dram"),
        _FLAG,
        _ANY,
        spec=_POLICY_SPEC,
    ),
    _rule(
        "guest_policy.page_swap_disable",
        "whether pages must not be swapped",
        _policy_bit("page_swap_disable"),
        _FLAG,
        _ANY,
        spec=_POLICY_SPEC,
    ),
    _rule(
        "guest_policy.abi",
        "the guest asks for this firmware ABI",
        lambda c: (c.report.policy >> 8 & 0xFF, c.report.policy & 0xFF),
        MinimumVersion(2),
        _ANY,
        spec=_POLICY_SPEC,
    ),
    _rule(
        "firmware.version",
        "the firmware's API, current and committed, is new enough",
        _firmware,
        MinimumVersion(2),
        '"1.55"',
    ),
    _rule(
        "firmware.build",
        "the firmware's build, current and committed, is new enough",
        lambda c: min(c.report.current_build, c.report.committed_build),
        Minimum(255),
        '{ skip = "builds are counted anew for each version; the TCB minima are what matters" }',
    ),
    _rule(
        "firmware.provisional",
        "whether the current firmware can be rolled back",
        _is_provisional,
        _FLAG,
        _FORBIDDEN,
        spec=f"{ABI} 3.3",
    ),
    _rule(
        "tcb.reported",
        "the reported TCB is new enough",
        lambda c: _tcb(c.report.reported_tcb, c.product),
        _TCB_GRAMMAR,
        None,
    ),
    _rule(
        "tcb.current",
        "the current TCB is new enough",
        lambda c: _tcb(c.report.current_tcb, c.product),
        _TCB_GRAMMAR,
        None,
    ),
    _rule(
        "tcb.committed",
        "the committed TCB is new enough",
        lambda c: _tcb(c.report.committed_tcb, c.product),
        _TCB_GRAMMAR,
        None,
    ),
    _rule(
        "tcb.launch",
        "the TCB at the guest's launch was new enough",
        lambda c: _tcb(c.report.launch_tcb, c.product),
        _TCB_GRAMMAR,
        None,
    ),
    _rule(
        "platform_info.smt",
        "whether SMT is on",
        _platform_bit("smt"),
        _FLAG,
        '{ skip = "clouds run with SMT" }',
        spec=_PLATFORM_SPEC,
    ),
    _rule("platform_info.tsme", "whether TSME is on", _platform_bit("tsme"), _FLAG, _ANY, spec=_PLATFORM_SPEC),
    _rule(
        "platform_info.ecc",
        "whether memory has ECC",
        _platform_bit("ecc"),
        _FLAG,
        _REQUIRED,
        spec=_PLATFORM_SPEC,
    ),
    _rule(
        "platform_info.rapl_dis",
        "whether power limits are unreadable",
        _platform_bit("rapl_dis"),
        _FLAG,
        _ANY,
        spec=_PLATFORM_SPEC,
    ),
    _rule(
        "platform_info.ciphertext_hiding_dram",
        "whether ciphertext is hidden from the host",
        _platform_bit("ciphertext_hiding_dram"),
        _FLAG,
        _ANY,
        spec=_PLATFORM_SPEC,
    ),
    _rule(
        "platform_info.alias_check_complete",
        "whether memory was checked for aliases",
        _platform_bit("alias_check_complete"),
        _FLAG,
        _REQUIRED,
        spec=f"{_PLATFORM_SPEC}, AMD-SB-3015",
    ),
    _rule("platform_info.tio", "whether trusted I/O is on", _platform_bit("tio"), _FLAG, _ANY, spec=_PLATFORM_SPEC),
    _rule(
        "platform_info.others",
        "no platform bit without a public name is set, or these are",
        _other_platform_bits,
        WordsOrFewer(),
        '{ skip = "Turin sets bit 6, which has no public name" }',
        spec=_PLATFORM_SPEC,
    ),
    _rule("family_id", "the guest's family", lambda c: c.report.family_id, Digests(16), _ANY),
    _rule("image_id", "the guest's image", lambda c: c.report.image_id, Digests(16), _ANY),
    _rule("report_id", "the guest instance", lambda c: c.report.report_id, Digests(32), _ANY),
    _rule("report_id_ma", "the migration agent's instance", lambda c: c.report.report_id_ma, Digests(32), _ANY),
    _rule("host_data", "what the host passed in at launch", lambda c: c.report.host_data, Digests(32), _ANY),
    _rule("measurement", "the guest's launch measurement", lambda c: c.report.measurement, Digests(48), None),
    _rule(
        "id_block",
        "whether an ID block came with the launch",
        lambda c: c.report.id_key_digest != _NO_DIGEST,
        _FLAG,
        _ANY,
        spec=f"{ABI} 8.17",
    ),
    _rule("id_key_digest", "the key that signed the ID block", lambda c: c.report.id_key_digest, Digests(48), _ANY),
    _rule(
        "author_key",
        "whether an author key signed the ID key",
        lambda c: c.report.key_info & 1 != 0,
        _FLAG,
        _ANY,
    ),
    _rule(
        "author_key_digest",
        "the key that signed the ID key",
        lambda c: c.report.author_key_digest,
        Digests(48),
        _ANY,
    ),
    _rule(
        "guest_svn", "the guest's own version is new enough", lambda c: c.report.guest_svn, Minimum(0xFFFFFFFF), _ANY
    ),
    _rule(
        "mitigations.launch",
        "these mitigations were on at launch",
        lambda c: c.report.launch_mit_vector if c.report.version >= 5 else None,
        _Bits(),
        _ANY,
    ),
    _rule(
        "mitigations.current",
        "these mitigations are on",
        lambda c: c.report.current_mit_vector if c.report.version >= 5 else None,
        _Bits(),
        _ANY,
    ),
    _rule(
        "revocation",
        "a current revocation list of the ARK came along",
        lambda c: c.revocation,
        _Revocation(),
        _REQUIRED,
        spec=f"{KDS} 4.3",
    ),
    _rule(
        "certificate_table",
        "the host's certificate table has no other entries, or these",
        lambda c: c.entries,
        WordsOrFewer(),
        "[]",
        spec="AMD 56421 4.1.8.1",
    ),
    _rule(
        "report_data",
        "the report answers the caller",
        lambda c: c.report.report_data,
        Freshness(64),
        '"from-caller"',
    ),
)
