# SPDX-License-Identifier: Apache-2.0
"""Turn the reference values of a CoRIM into values of a policy.

Rules of this file:

- Nothing is taken that a policy cannot say exactly: a value that is left out, or whose bound is forgotten, would make the policy
  accept more than the maker did.
- Several triples about one environment are alternatives. A policy has no alternatives of several keys at once, so those
  are refused.

How environments and measurements are named: `enarx.wire.corim.ENVIRONMENTS`.

Source: draft-ietf-rats-corim-10 section 5.1.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from enarx.errors import ConfigError
from enarx.rats import AtLeast, Expectation, OneOf
from enarx.verifier.grammar import Words
from enarx.verifier.ledger import Rule
from enarx.verifier.policy_toml import RulesOf, decode_value, registered_rules
from enarx.verifier.policy_write import Reference, toml_of
from enarx.verifier.registry import SECTIONS
from enarx.wire.corim import ENVIRONMENTS, Digest, Environment, Measurement, ReferenceValueSet
from enarx.wire.quoting import quote

__all__ = ["references_from_corim"]

_REGISTERS = {"tdx": "rtmr", "nitro": "pcr", "tpm": "pcr", "cca": "rem"}
"""What the numbers of a measurement without a key count, by section."""


def references_from_corim(
    values: ReferenceValueSet, *, path: str, rules_of: RulesOf = registered_rules
) -> tuple[tuple[str, ...], dict[str, Reference]]:
    """Take reference values out of a CoRIM.

    Args:
        values: of a CoRIM whose signature was verified.
        path: the file as the user named it, for messages.
        rules_of: gives the rules of a section.

    Returns:
        the sections it has values for, and the values by key.

    Raises:
        ConfigError: an environment, an element or a bound that no policy has.
    """
    triples: dict[str, list[dict[str, tuple[Rule, Any]]]] = {}
    for value in values.values:
        section = _section_of(value.environment, path)
        triple: dict[str, tuple[Rule, Any]] = {}
        for measurement in value.measurements:
            for name, form in _forms(measurement, section, path):
                rule = _rule_of(name, section, rules_of(section), path)
                if rule.key in triple:
                    raise _refusal(path, f"{rule.key} twice in one triple", "once")
                triple[rule.key] = (rule, form)
        triples.setdefault(section, []).append(triple)
    references = {}
    for alternatives in triples.values():
        for key, (rule, form) in _merged(alternatives, path).items():
            _require_same_meaning(rule, form, path)
            references[key] = Reference(toml_of(form), (f"from {path!r}",))
    return tuple(section for section in SECTIONS if section in triples), references


def _section_of(environment: Environment, path: str) -> str:
    for section, known in ENVIRONMENTS.items():
        if environment == known:
            return section
    named = " ".join(str(part) for part in (environment.vendor, environment.model, environment.class_id) if part)
    known_names = ", ".join(f"{known.vendor} {known.model}" for known in ENVIRONMENTS.values())
    raise _refusal(path, f"the environment {quote(named)}", f"one of {known_names} and nothing more")


def _rule_of(name: str, section: str, rules: tuple[Rule, ...], path: str) -> Rule:
    """Find the rule of an element by its policy key without the section, or by the last word of it."""
    exact = [rule for rule in rules if rule.key == f"{section}.{name}"]
    found = exact or [rule for rule in rules if rule.key.rpartition(".")[2] == name]
    if len(found) != 1:
        keys = " and ".join(rule.key for rule in found) or "no key"
        raise _refusal(path, f"the element {quote(name)}, which is {keys} of a policy", "one key")
    return found[0]


def _forms(measurement: Measurement, section: str, path: str) -> Iterator[tuple[str, Any]]:
    """List a measurement's elements, each with its value as a policy has it."""
    key = measurement.key
    forms: list[Any] = []
    if measurement.digests:
        forms.append(_hex_of(measurement.digests))
    if measurement.svn is not None:
        forms.append([measurement.svn])
    if measurement.min_svn is not None:
        forms.append(measurement.min_svn)
    if measurement.raw is not None:
        mask = measurement.raw_mask
        # Bits that do not count are zero in a policy.
        raw = measurement.raw if mask is None else bytes(a & b for a, b in zip(measurement.raw, mask, strict=True))
        forms.append([raw.hex() if mask is None else f"{raw.hex()}/{mask.hex()}"])
    if len(forms) + bool(measurement.registers) > 1:
        raise _refusal(path, f"several kinds of values for the element {quote(key)}", "one")
    if measurement.registers:
        prefix = key if isinstance(key, str) else _REGISTERS.get(section, "")
        for register, digests in measurement.registers.items():
            yield (register if isinstance(register, str) else f"{prefix}{register}"), _hex_of(digests)
    if forms:
        if not isinstance(key, str):
            raise _refusal(path, f"an element named {quote(key)}", "the name of a policy's key")
        yield key, forms[0]


def _hex_of(digests: tuple[Digest, ...]) -> list[str]:
    return [digest.value.hex() for digest in digests]


def _merged(alternatives: list[dict[str, tuple[Rule, Any]]], path: str) -> dict[str, tuple[Rule, Any]]:
    """Return the values of one environment, all its triples together."""
    merged = dict(alternatives[0])
    for other in alternatives[1:]:
        if merged.keys() != other.keys() or len(merged) > 1:
            raise _refusal(
                path,
                "several triples for one environment with several elements",
                "one triple, because a policy cannot say which values belong together",
            )
        for key, (rule, form) in other.items():
            known = merged[key][1]
            if not isinstance(form, list) or not isinstance(known, list):
                raise _refusal(path, f"several bounds for {key}", "one")
            merged[key] = (rule, [*known, *(value for value in form if value not in known)])
    return merged


def _require_same_meaning(rule: Rule, form: Any, path: str) -> None:
    """Refuse a value that the policy's key cannot have, or that would mean something else there."""
    try:
        expectation: Expectation = decode_value(rule, form)
    except ValueError as error:
        raise _refusal(path, f"a value of {rule.key} that it cannot have: {error}", rule.grammar.wanted) from error
    if isinstance(form, int):
        same = isinstance(expectation, AtLeast)
    elif isinstance(form[0], int):
        same = isinstance(expectation, OneOf)
    else:
        same = not isinstance(rule.grammar, Words)
    if not same:
        raise _refusal(path, f"a value of another kind for {rule.key}", rule.grammar.wanted)


def _refusal(path: str, found: str, want: str) -> ConfigError:
    return ConfigError(f"{path}: reference values: found {found}, want {want}", path=path)
