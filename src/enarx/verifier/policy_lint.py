# SPDX-License-Identifier: Apache-2.0
"""Find what is wrong with a policy that can be read: what nothing can meet, what everything meets, what recognises only itself.

Rules of this file:

- An error is a policy that cannot do what it says: it contradicts itself, or no evidence at all can meet it, or it checks
  nothing. Everything else is a warning, because the relying party may have its reasons.
- A check is named vacuous only where it is known to be: by its grammar, or because it was compared with evidence.
- Evidence is not judged here. Its claims are compared with the policy as they are, authentic or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Any, NamedTuple

from enarx.rats import (
    AppraisalPolicy,
    AtLeast,
    AtMost,
    EachAtLeast,
    Expectation,
    FromCaller,
    OneOf,
    Skip,
    Subset,
    render,
)
from enarx.verifier.grammar import ByProduct, Digests, Freshness, Maximum, Minimum, Numbers, Words
from enarx.verifier.ledger import Part, Rule
from enarx.verifier.policy_keys import OF_ONE_GUEST, OF_ONE_MACHINE, OF_WHOEVER_SIGNED
from enarx.verifier.policy_toml import PolicyText, RulesOf, decode_value, parse_value, registered_rules
from enarx.verifier.presets import PRESETS, Preset, presets_for, recommended_preset
from enarx.verifier.registry import SECTIONS

__all__ = ["Level", "Remark", "lint_against", "lint_policy", "lint_presets"]

_MAX_WIDE = 255  # the largest number that a field of one byte holds


class Level(StrEnum):
    """How bad it is."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Remark(NamedTuple):
    """One thing about a policy.

    Args:
        level: how bad it is.
        key: of the policy, or of one of its tables; empty where it is about the whole.
        text: `found X, want Y`.
        hint: the next step, or None.
    """

    level: Level
    key: str
    text: str
    hint: str | None = None


def lint_policy(policy: AppraisalPolicy, *, rules_of: RulesOf = registered_rules) -> tuple[Remark, ...]:
    """Find what is wrong with a policy by itself.

    Args:
        policy: as it was decoded.
        rules_of: gives the rules of a section.
    """
    remarks = list(_lint_top(policy))
    for section in SECTIONS:
        if section in policy.tees:
            remarks += _lint_section(section, policy, rules_of(section))
    return tuple(remarks)


def lint_presets(text: PolicyText, *, rules_of: RulesOf = registered_rules) -> tuple[Remark, ...]:
    """Find minima that are less than what the vendor asks for by now."""
    if text.policy is None:
        return ()
    remarks = []
    for rule in (rule for section in SECTIONS if section in text.policy.tees for rule in rules_of(section)):
        wanted = recommended_preset(rule)
        if wanted is None:
            continue
        name = text.presets.get(rule.key)
        if name is None:
            found = _below(rule, text.policy.expectations[rule.key], wanted)
        else:
            names = [preset.name for preset in presets_for(rule)]
            old = names.index(name) < names.index(wanted.name)
            found = f"the preset {name} of {PRESETS[name].date}" if old else ""
        if found:
            want = f'want {{ preset = "{wanted.name}" }} of {wanted.date}'
            remarks.append(Remark(Level.WARNING, rule.key, f"found {found}, {want}"))
    return tuple(remarks)


def _below(rule: Rule, expectation: Expectation, preset: Preset) -> str:
    """Return the minima of a policy that are less than a preset's, as text."""
    if isinstance(expectation, EachAtLeast):
        less = [
            f"{name} = {minima.get(name, 0)} for {product}"
            for product, minima in expectation.minima.items()
            for name, least in preset.by_product.get(product, {}).items()
            if minima.get(name, 0) < least
        ]
        return ", ".join(less)
    least = preset.numbers.get(rule.key.rpartition(".")[2], 0)
    if isinstance(expectation, AtLeast) and expectation.minimum < least:
        return str(expectation.minimum)
    return ""


def lint_against(
    policy: AppraisalPolicy, parts: Iterable[Part], *, rules_of: RulesOf = registered_rules
) -> tuple[Remark, ...]:
    """Find checks that recognise only the evidence at hand, and say which ones refuse it.

    Args:
        policy: as it was decoded.
        parts: of the evidence, as the judge examined it.
        rules_of: gives the rules of a section.
    """
    remarks: list[Remark] = []
    for part in parts:
        if part.section not in policy.tees:
            remarks.append(Remark(Level.NOTE, part.section, "found evidence of a TEE that this policy does not accept"))
            continue
        copied = []
        for rule in rules_of(part.section):
            expectation, found = policy.expectations[rule.key], rule.read(part.claims)
            if isinstance(expectation, Skip | FromCaller) or (part.freshness and isinstance(rule.grammar, Freshness)):
                continue
            if not expectation.holds(found):
                text = f"this evidence is refused: found {_short(found)}, want {expectation}"
                remarks.append(Remark(Level.NOTE, rule.key, text))
            elif _is_pinned(expectation, found):
                remarks += _lint_pinned(rule, found)
                if isinstance(rule.grammar, Digests) and isinstance(found, bytes) and any(found):
                    copied.append(rule.key)
        if copied:
            remarks.append(
                Remark(
                    Level.WARNING,
                    part.section,
                    f"found {', '.join(copied)} exactly as in this evidence, want values that were computed from what"
                    " should run",
                    "evidence that made its own policy passes it, whatever ran: compare with the image's build",
                )
            )
    return tuple(remarks)


def _lint_top(policy: AppraisalPolicy) -> Iterator[Remark]:
    tees = policy.tees
    if "azure" in tees and not tees & {"snp", "tdx"}:
        yield Remark(
            Level.ERROR, "azure", "found without [snp] and [tdx], want the TEE that Azure's evidence rests on too"
        )
    if policy.insecure_emulated_roots:
        key = "insecure_emulated_roots"
        if "snp" in tees:
            yield Remark(Level.WARNING, key, "found roots of emulated platforms: nothing protects data in use there")
        else:
            yield Remark(Level.ERROR, key, "found without [snp], want it only where emulated evidence is accepted")
    if policy.insecure_vtpm_aks:
        key = "insecure_vtpm_aks"
        if tees & {"tpm", "azure"}:
            yield Remark(Level.WARNING, key, "found keys that nobody certifies: whoever has one can say anything")
        else:
            yield Remark(
                Level.ERROR, key, "found without [tpm] and [azure], want it only where TPM quotes are accepted"
            )


def _lint_section(section: str, policy: AppraisalPolicy, rules: tuple[Rule, ...]) -> Iterator[Remark]:
    expectations = {rule.key: policy.expectations[rule.key] for rule in rules}
    checked = [rule for rule in rules if not isinstance(expectations[rule.key], Skip)]
    if not checked:
        yield Remark(Level.ERROR, section, "found every check skipped, want at least one")
        return
    for rule in checked:
        # What init writes is not called vacuous: it is what the judge's author means by strict.
        if rule.strict is None or decode_value(rule, parse_value(rule.strict)) != expectations[rule.key]:
            yield from _lint_value(rule, expectations[rule.key])
    yield from _lint_conflicts(section, expectations)
    needed = [rule for rule in rules if rule.strict is None and isinstance(rule.grammar, Digests)]
    identified = any(rule in needed or rule.key in OF_WHOEVER_SIGNED for rule in checked)
    if needed and not identified:
        keys = ", ".join(rule.key for rule in needed)
        why = "nothing here says what has to run"
        if "azure" in policy.tees and section in {"snp", "tdx"}:
            why = "any guest can claim to be Azure's paravisor, and its virtual TPM then says what it likes in [azure]"
        yield Remark(Level.WARNING, section, f"found no value for any of {keys}, want one: {why}")
    for rule in rules:
        if isinstance(rule.grammar, Freshness) and rule not in checked:
            yield Remark(
                Level.WARNING,
                rule.key,
                'found it skipped, want "from-caller": old evidence is accepted again and again',
            )
    yield from _lint_debug(rules, expectations, identified=identified)


def _lint_debug(rules: tuple[Rule, ...], expectations: dict[str, Expectation], *, identified: bool) -> Iterator[Remark]:
    for rule in rules:
        if not rule.key.endswith(".debug"):
            continue
        expectation = expectations[rule.key]
        if expectation == OneOf(True):
            text = 'found "required", want "forbidden": the host reads and writes the memory of what can be debugged'
            level = Level.ERROR if identified else Level.WARNING
            yield Remark(level, rule.key, text + (", so no measurement says what runs" if identified else ""))
        elif isinstance(expectation, Skip):
            yield Remark(
                Level.WARNING, rule.key, 'found it skipped, want "forbidden": data of a debugged guest is public'
            )


class _Conflict(NamedTuple):
    """Two keys of which no evidence can meet both.

    Args:
        first: a key, and `is_first`, what its expectation is like.
        second: another, and `is_second`.
        why: as a clause.
    """

    first: str
    is_first: Callable[[Expectation], bool]
    second: str
    is_second: Callable[[Expectation], bool]
    why: str


def _forbids(expectation: Expectation) -> bool:
    return expectation == OneOf(False)


def _requires(expectation: Expectation) -> bool:
    return expectation == OneOf(True)


def _checks(expectation: Expectation) -> bool:
    return not isinstance(expectation, Skip)


def _names_some(expectation: Expectation) -> bool:
    """Return whether only real values are accepted: all zeros are what says that there is none."""
    return isinstance(expectation, OneOf) and all(any(value) for value in _bytes_of(expectation.values))


def _names_none(expectation: Expectation) -> bool:
    return isinstance(expectation, OneOf) and not any(any(value) for value in _bytes_of(expectation.values))


def _is_exactly(*values: object) -> Callable[[Expectation], bool]:
    return lambda expectation: expectation == OneOf(*values)


def _lacks(value: object) -> Callable[[Expectation], bool]:
    return lambda expectation: isinstance(expectation, OneOf) and value not in expectation.values


def _is_not_only_ones(expectation: Expectation) -> bool:
    return isinstance(expectation, OneOf) and b"\xff" * 32 not in expectation.values


_NO_ID_BLOCK = "only an ID block names a key"
_CONFLICTS = (
    _Conflict("snp.id_block", _forbids, "snp.id_key_digest", _names_some, _NO_ID_BLOCK),
    _Conflict("snp.id_block", _requires, "snp.id_key_digest", _names_none, "an ID block names a key"),
    _Conflict("snp.id_block", _forbids, "snp.author_key", _requires, "an author signs the key of an ID block"),
    _Conflict("snp.id_block", _forbids, "snp.author_key_digest", _names_some, _NO_ID_BLOCK),
    _Conflict("snp.author_key", _forbids, "snp.author_key_digest", _names_some, "no author, no key"),
    _Conflict("snp.author_key", _requires, "snp.author_key_digest", _names_none, "an author has a key"),
    _Conflict(
        "snp.guest_policy.migrate_ma",
        _forbids,
        "snp.report_id_ma",
        _is_not_only_ones,
        "a guest without a migration agent has only ones there",
    ),
    _Conflict("snp.signing_key", _is_exactly("VCEK"), "snp.csp_id", _checks, "a VCEK names no provider"),
    _Conflict("snp.masked_chip_id", _requires, "snp.chip_id", _names_some, "a masked chip id is all zeros"),
    _Conflict("snp.version", _lacks(5), "snp.mitigations.launch", _checks, "reports have them from version 5 on"),
    _Conflict("snp.version", _lacks(5), "snp.mitigations.current", _checks, "reports have them from version 5 on"),
    _Conflict(
        "snp.guest_policy.smt",
        _forbids,
        "snp.platform_info.smt",
        _requires,
        "a guest that forbids SMT does not start where it is on",
    ),
    *(
        _Conflict(
            f"snp.guest_policy.{bit}",
            _requires,
            f"snp.platform_info.{bit}",
            _forbids,
            "the guest would not start there",
        )
        for bit in ("rapl_dis", "ciphertext_hiding_dram")
    ),
    *(
        _Conflict(
            f"nitro.pcr{index}", _names_none, "nitro.debug", _forbids, "only a debugged enclave has all zeros there"
        )
        for index in range(3)
    ),
)


def _lint_conflicts(section: str, expectations: dict[str, Expectation]) -> Iterator[Remark]:
    for conflict in _CONFLICTS:
        first, second = expectations.get(conflict.first), expectations.get(conflict.second)
        if first is None or second is None or not conflict.is_first(first) or not conflict.is_second(second):
            continue
        yield Remark(
            Level.ERROR,
            conflict.second,
            f"found {_short(second)} beside {conflict.first} of {_short(first)}, want what can be together: {conflict.why}",
        )
    products = expectations.get(f"{section}.product")
    for key, expectation in expectations.items():
        if not isinstance(products, OneOf) or not isinstance(expectation, EachAtLeast):
            continue
        without = sorted(str(product) for product in products.values - expectation.minima.keys())
        if without:
            level = Level.ERROR if len(without) == len(products.values) else Level.NOTE
            text = f"found no minimum for {', '.join(without)}, so that this product is refused"
            yield Remark(level, key, text, f"give it one, or take it out of {section}.product")


def _lint_value(rule: Rule, expectation: Expectation) -> Iterator[Remark]:
    """Find a value that everything meets, or nothing."""
    if isinstance(expectation, EachAtLeast):
        yield from _lint_minima(rule, expectation)
    elif isinstance(expectation, AtLeast) and isinstance(rule.grammar, Minimum):
        if expectation.minimum == 0:
            yield _vacuous(rule, "the minimum 0")
        elif expectation.minimum == rule.grammar.maximum >= _MAX_WIDE:
            yield Remark(Level.WARNING, rule.key, f"found {expectation.minimum}, the largest there is, want a real one")
    elif isinstance(expectation, AtLeast) and not any(expectation.minimum):
        yield _vacuous(rule, f"the minimum {'.'.join(str(part) for part in expectation.minimum)}")
    elif isinstance(expectation, AtMost) and isinstance(rule.grammar, Maximum):
        if expectation.maximum == rule.grammar.maximum:
            yield _vacuous(rule, f"the maximum {expectation.maximum}, the largest there is")
    elif isinstance(expectation, OneOf):
        yield from _lint_choice(rule, expectation)
    elif isinstance(expectation, Subset) and isinstance(rule.grammar, Words):
        words = set(rule.grammar.words)
        if words and expectation.allowed >= words:
            yield _vacuous(rule, "all the words there are")


def _lint_minima(rule: Rule, expectation: EachAtLeast) -> Iterator[Remark]:
    for product, minima in expectation.minima.items():
        if not any(minima.values()):
            yield _vacuous(rule, f"minima for {product} that are all 0")
        if isinstance(rule.grammar, ByProduct):
            largest = rule.grammar.components.get(product, {})
            for name, minimum in minima.items():
                if minimum == largest.get(name):
                    yield Remark(
                        Level.ERROR,
                        rule.key,
                        f"found {name} = {minimum} for {product}, want a version that exists: nothing reaches this one",
                        "name a preset, or copy the number from the vendor's bulletin",
                    )


def _lint_choice(rule: Rule, expectation: OneOf) -> Iterator[Remark]:
    values = expectation.values
    if isinstance(rule.grammar, Numbers) and len(values) > rule.grammar.maximum:
        yield _vacuous(rule, "all the numbers there are")
    elif isinstance(rule.grammar, Words) and rule.grammar.words and values >= set(rule.grammar.words):
        yield _vacuous(rule, "all the words there are")
    elif isinstance(rule.grammar, Digests) and len(values) > 1 and any(not any(value) for value in _bytes_of(values)):
        yield Remark(
            Level.WARNING,
            rule.key,
            "found all zeros beside real values, want either: all zeros is what a guest has that was given none",
        )


def _bytes_of(values: Iterable[Any]) -> list[bytes]:
    return [value for value in values if isinstance(value, bytes)]


def _vacuous(rule: Rule, what: str) -> Remark:
    return Remark(
        Level.WARNING, rule.key, f"found {what}, which everything meets, want a check", 'or say so: { skip = "why" }'
    )


def _is_pinned(expectation: Expectation, found: Any) -> bool:
    return isinstance(expectation, OneOf) and len(expectation.values) == 1 and found in expectation.values


def _lint_pinned(rule: Rule, found: Any) -> Iterator[Remark]:
    if rule.key in OF_ONE_GUEST:
        yield Remark(
            Level.ERROR,
            rule.key,
            f"found {_short(found)}, which is this guest's alone, want a reason to skip it: the next launch has another",
        )
    elif rule.key in OF_ONE_MACHINE:
        yield Remark(
            Level.WARNING, rule.key, f"found {_short(found)} alone, want more than this one machine, or mean it"
        )


def _short(found: Any) -> str:
    text = "".join(char if char.isprintable() else "?" for char in render(found))
    return text if len(text) <= 100 else text[:97] + "..."
