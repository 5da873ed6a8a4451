# SPDX-License-Identifier: Apache-2.0
"""Dated minima for the trusted computing base, so that nobody types a security version number from memory, or 255.

A policy names one: `{ preset = "amd-2026-05" }`. A preset never changes: what a vendor publishes later is a new preset.

- AMD has no service that says which levels are up to date; its bulletins name the least `TCB[SNP]` that mitigates an
  issue. A component that no bulletin names has the minimum 0. That is always so for microcode: AMD numbers it by stepping
  (Genoa and Genoa-X, Milan and Milan-X count differently), so that no one number is right for a product.
- AMD-SB-3034 is in no preset: AMD withdrew its TCB values on 2026-09-24. A minimum says nothing of what AMD attests
  otherwise (mitigation vectors) or not at all.
- Intel judges levels itself, in signed TCB information; a preset says how recent that information must be, by its
  `tcbEvaluationDataNumber`. Number 20 is left out, because its date could not be confirmed.
- Siena, Bergamo and Venice have no numbers of their own in what could be confirmed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from enarx.verifier.grammar import ByProduct, Minimum
from enarx.verifier.ledger import Rule

__all__ = ["PRESETS", "Preset", "Source", "expand_preset", "presets_for", "recommended_preset"]

_BULLETIN = "https://www.amd.com/en/resources/product-security/bulletin/amd-sb-{}.html"
_NUMBERS = "https://api.trustedservices.intel.com/tdx/certification/v4/tcbevaluationdatanumbers"


class Source(NamedTuple):
    """Where a preset's numbers are from.

    Args:
        title: of the document.
        url: where the vendor publishes it.
        says: what it says, as far as the preset uses it.
    """

    title: str
    url: str
    says: str


class Preset(NamedTuple):
    """Minima that a vendor had published by a date.

    Args:
        name: in policies.
        date: of the newest source, RFC 3339.
        sources: at least one.
        by_product: minima by product, then by component; a component that is not here has the minimum 0.
        numbers: minima by the last part of a policy's key.
        early: whether the vendor's service answers with something older unless it is asked for the newest.
    """

    name: str
    date: str
    sources: tuple[Source, ...]
    by_product: Mapping[str, Mapping[str, int]] = {}
    numbers: Mapping[str, int] = {}
    early: bool = False


_SB_3019 = Source("AMD-SB-3019", _BULLETIN.format(3019), "CVE-2024-56161: TCB[SNP] 0x18 on Milan, 0x17 on Genoa")
_SB_3020 = Source("AMD-SB-3020", _BULLETIN.format(3020), "CVE-2025-0033: TCB[SNP] 0x1B on Genoa, 0x04 on Turin")
_SB_3016 = Source("AMD-SB-3016", _BULLETIN.format(3016), "CVE-2023-20585: TCB[SNP] 0x1B on Milan and Genoa")
_SB_3030 = Source("AMD-SB-3030", _BULLETIN.format(3030), "CVE-2025-61971: TCB[SNP] 0x1D on Milan")


def _intel(name: str, number: int, tcb_date: str, *, early: bool = False) -> Preset:
    source = Source("Intel PCS TCB Evaluation Data Numbers", _NUMBERS, f"number {number} has the tcbDate {tcb_date}")
    return Preset(name, tcb_date, (source,), numbers={"tcb_evaluation_data_number": number}, early=early)


_ALL = (
    Preset("amd-2025-02", "2025-02-03", (_SB_3019,), {"Milan": {"snp": 0x18}, "Genoa": {"snp": 0x17}}),
    Preset(
        "amd-2026-04",
        "2026-04-14",
        (_SB_3020, _SB_3016),
        {"Milan": {"snp": 0x1B}, "Genoa": {"snp": 0x1B}, "Turin": {"snp": 0x04}},
    ),
    Preset(
        "amd-2026-05",
        "2026-05-12",
        (_SB_3020, _SB_3016, _SB_3030),
        {"Milan": {"snp": 0x1D}, "Genoa": {"snp": 0x1B}, "Turin": {"snp": 0x04}},
    ),
    _intel("intel-2024-03", 17, "2024-03-13"),
    _intel("intel-2024-11", 18, "2024-11-13"),
    _intel("intel-2025-05", 19, "2025-05-14"),
    _intel("intel-2026-02", 21, "2026-02-11", early=True),
)

PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in _ALL}
"""All presets by name, each vendor's oldest first."""


def expand_preset(name: str, rule: Rule) -> Any:
    """Return the value that a preset has for a key of a policy, as it would be written there.

    Raises:
        ValueError: `found X, want Y`: there is no such preset, or it says nothing for this key.
    """
    fitting = presets_for(rule)
    preset = PRESETS.get(name)
    if preset is None or preset not in fitting:
        want = f"one of {', '.join(other.name for other in fitting)}" if fitting else rule.grammar.wanted
        what = f"the preset {name!r}, which " + ("is not for this key" if preset else "does not exist")
        raise ValueError(f"found {what}, want {want}")
    return _value(preset, rule)


def presets_for(rule: Rule) -> tuple[Preset, ...]:
    """Return the presets that have a value for a key, the oldest first."""
    return tuple(preset for preset in _ALL if _value(preset, rule) is not None)


def recommended_preset(rule: Rule) -> Preset | None:
    """Return the newest of `presets_for` that the vendor's service reaches without being asked for the newest."""
    return next((preset for preset in reversed(presets_for(rule)) if not preset.early), None)


def _value(preset: Preset, rule: Rule) -> Any:
    if isinstance(rule.grammar, ByProduct):
        components = rule.grammar.components
        return {
            product: dict.fromkeys(components[product], 0) | dict(minima)
            for product, minima in preset.by_product.items()
            if product in components and minima.keys() <= components[product].keys()
        } or None
    # Not isinstance: a maximum is a Minimum too.
    if type(rule.grammar) is Minimum:
        return preset.numbers.get(rule.key.rpartition(".")[2])
    return None
