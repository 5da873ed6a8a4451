# SPDX-License-Identifier: Apache-2.0
"""Write an appraisal policy: strict, commented, and only as complete as what is known.

Rules of this file:

- What is written is what `enarx.verifier.policy_toml` reads. A key whose value has to come from a reference value, and for
  which none is given, is written as an instruction: the file is then refused until somebody fills it in.
- A value never makes a check weaker than its rule's strict one, whatever the evidence says: what the evidence fails is
  said, and left to the person to decide.
- Nothing that is new each time (nonces, report ids) is copied from evidence: such a check would only recognise the one
  piece of evidence that it was made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from enarx.errors import ConfigError
from enarx.rats import Skip, render
from enarx.verifier.grammar import ByProduct, Flag, Freshness, MinimumVersion, WordsOrFewer
from enarx.verifier.ledger import Part, Rule
from enarx.verifier.policy_keys import OF_ONE_GUEST, OF_ONE_MACHINE
from enarx.verifier.policy_toml import VERSION, RulesOf, decode_value, parse_value, registered_rules
from enarx.verifier.presets import recommended_preset
from enarx.verifier.registry import SECTIONS
from enarx.wire.strict_json import load_json_untrusted

__all__ = [
    "MAX_MANIFEST_BYTES",
    "Draft",
    "Reference",
    "references_from_claims",
    "references_from_manifest",
    "references_from_tables",
    "strict_value",
    "toml_of",
    "write_policy",
]

MAX_MANIFEST_BYTES = 1_000_000


class Reference(NamedTuple):
    """A value for one key of a policy.

    Args:
        toml: as it is written.
        remarks: lines of comment that belong above it.
    """

    toml: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A policy file that was written.

    Args:
        text: its content.
        missing: the keys that somebody has to fill in before it can be used.
    """

    text: str
    missing: tuple[str, ...]


def write_policy(
    sections: Sequence[str],
    *,
    references: Mapping[str, Reference],
    origin: str,
    insecure_emulated_roots: Iterable[bytes] = (),
    rules_of: RulesOf = registered_rules,
) -> Draft:
    """Write a policy file.

    Args:
        sections: the TEEs to accept, each a section of the policy.
        references: values by key; the others are the strict ones of their rules.
        origin: where the references are from, as one line for people.
        insecure_emulated_roots: SHA-256 digests of emulated platforms' roots that are accepted too.
        rules_of: gives the rules of a section.
    """
    lines = [
        "# What evidence must say to be accepted. Reference: docs/policy.md",
        f"# {origin}",
        '# Every key of a table must be there. What nobody needs is skipped with a reason: { skip = "why" }',
        "",
        f"version = {VERSION}",
    ]
    roots = sorted(root.hex() for root in insecure_emulated_roots)
    if roots:
        lines += ["# Nothing protects data in use on these platforms", f"insecure_emulated_roots = {toml_of(roots)}"]
    missing: list[str] = []
    for section in sections:
        header = ""
        # Keys of the section itself come first: TOML takes a line as part of the table above it.
        for rule in sorted(rules_of(section), key=lambda rule: _table_of(rule, rules_of(section))):
            table, name = rule.key.rsplit(".", 1)
            if table != header:
                header = table
                lines += ["", f"[{table}]"]
            lines += _entry(rule, name, references.get(rule.key), missing)
    return Draft(text="\n".join(lines) + "\n", missing=tuple(missing))


def _table_of(rule: Rule, rules: tuple[Rule, ...]) -> tuple[int, int]:
    """Sort rules by table: a section's own keys, then its tables in the order of their first rule."""
    table = rule.key.rpartition(".")[0]
    first = next(index for index, other in enumerate(rules) if other.key.rpartition(".")[0] == table)
    return table.count("."), first


def _entry(rule: Rule, name: str, reference: Reference | None, missing: list[str]) -> list[str]:
    lines = [f"# {rule.check.title}"]
    if reference is None:
        reference = _strict(rule)
    if reference is None:
        missing.append(rule.key)
        return [*lines, f'# FILL IN: {rule.grammar.wanted}; or {{ skip = "why" }}', f"# {name} ="]
    return [*lines, *(f"# {remark}" for remark in reference.remarks), f"{name} = {reference.toml}"]


def strict_value(rule: Rule) -> str | None:
    """Return the TOML that a key without a reference value is given; None where it needs one."""
    if rule.strict is not None:
        return rule.strict
    preset = recommended_preset(rule)
    return None if preset is None else toml_of({"preset": preset.name})


def _strict(rule: Rule) -> Reference | None:
    value = strict_value(rule)
    preset = recommended_preset(rule) if rule.strict is None else None
    remarks = () if preset is None else tuple(f"{source.title}: {source.says}" for source in preset.sources)
    return None if value is None else Reference(value, remarks)


def references_from_claims(parts: Iterable[Part], *, rules_of: RulesOf = registered_rules) -> dict[str, Reference]:
    """Take reference values out of claims that somebody says are good.

    Args:
        parts: of the evidence, as the judge examined it.
        rules_of: gives the rules of a section.

    Returns:
        values by key; a key that needs one and whose claim its notation cannot say is left out.
    """
    read = ((rule, rule.read(part.claims)) for part in parts for rule in rules_of(part.section))
    references = {rule.key: _from_claim(rule, found) for rule, found in read}
    return {key: reference for key, reference in references.items() if reference is not None}


def _from_claim(rule: Rule, found: Any) -> Reference | None:
    name = rule.key.rpartition(".")[2]
    observed = None if found is None else _observed(rule, found)
    if rule.strict is None:
        if isinstance(rule.grammar, Freshness):
            return Reference(toml_of("from-caller"))
        if found is None:
            return _strict(rule) or Reference(
                toml_of({"skip": "the evidence that this was made from does not have it"})
            )
        if rule.key in OF_ONE_MACHINE:
            return Reference(toml_of({"skip": "any machine of the vendor's"}), _to_pin(name, observed))
        return None if observed is None else Reference(observed, _below_preset(rule, found))
    expectation = decode_value(rule, parse_value(rule.strict))
    if isinstance(expectation, Skip):
        return Reference(rule.strict, () if rule.key in OF_ONE_GUEST else _to_pin(name, observed))
    if isinstance(rule.grammar, Freshness):
        return Reference(rule.strict)
    if not expectation.holds(found):
        return Reference(rule.strict, (f"NOTE: the evidence that this was made from fails here: {_shown(found)}",))
    # The minima that are taken from evidence are for its product alone.
    return Reference(observed if name == "product" and observed is not None else rule.strict)


def _to_pin(name: str, observed: str | None) -> tuple[str, ...]:
    return () if observed is None else (f"In the evidence that this was made from: {name} = {observed}",)


def _observed(rule: Rule, found: Any) -> str | None:
    """Write the value of a claim in the notation of its key; None where that notation cannot say it."""
    grammar = rule.grammar
    forms: list[Any]
    if isinstance(grammar, ByProduct):
        product, components = found
        forms = [{product: {name: components.get(name) for name in grammar.components.get(product, ())}}]
    elif isinstance(grammar, MinimumVersion):
        forms = [".".join(str(part) for part in found)]
    elif isinstance(grammar, Flag):
        forms = ["required" if found else "forbidden"]
    elif isinstance(grammar, WordsOrFewer):
        forms = [sorted(found)]
    else:
        # Judges have notations of their own: a value alone, or a list of values.
        value = found.hex() if isinstance(found, bytes) else found
        forms = [[value], value]
    return next((toml_of(form) for form in forms if _says(rule, form, found)), None)


def _says(rule: Rule, form: Any, found: Any) -> bool:
    """Return whether a value can be written so, and means what the claim is."""
    try:
        return decode_value(rule, form).holds(found)
    except (TypeError, ValueError):
        return False


def _below_preset(rule: Rule, found: Any) -> tuple[str, ...]:
    """Say where a minimum that was taken from evidence is less than what the vendor asks for."""
    preset = recommended_preset(rule)
    if preset is None or decode_value(rule, {"preset": preset.name}).holds(found):
        return ()
    return (f"NOTE: this is below the vendor's own minimum: {{ preset = {toml_of(preset.name)} }}",)


def references_from_manifest(
    data: bytes, *, path: str, rules_of: RulesOf = registered_rules
) -> tuple[tuple[str, ...], dict[str, Reference]]:
    """Take reference values out of an image manifest.

    Args:
        data: JSON: `{"reference_values": {"snp": {"measurement": ["9f3c..."]}}}`, the values as a policy has them; other
            keys beside `reference_values` are the image builder's own.
        path: the file as the user named it, for messages.
        rules_of: gives the rules of a section.

    Returns:
        the sections it has values for, and the values by key.

    Raises:
        ConfigError: a key that no policy has, a value that its key cannot have, or nothing at all.
        DecodeError: not JSON.
    """
    document = load_json_untrusted(data, what=f"image manifest {path}", max_bytes=MAX_MANIFEST_BYTES)
    tables = document.get("reference_values") if isinstance(document, dict) else None
    if not isinstance(tables, dict) or not tables:
        raise ConfigError(f"{path}: reference_values: found none, want a table of TEEs", path=path)
    return references_from_tables(tables, path=path, rules_of=rules_of)


def references_from_tables(
    tables: Mapping[str, Any], *, path: str, rules_of: RulesOf = registered_rules
) -> tuple[tuple[str, ...], dict[str, Reference]]:
    """Take reference values out of tables by TEE, and then by key without the TEE's name.

    Raises:
        ConfigError: a key that no policy has, or a value that its key cannot have.
    """
    references = {}
    for section, values in tables.items():
        if section not in SECTIONS or not isinstance(values, dict):
            raise ConfigError(f"{path}: reference_values: found {section[:40]!r}, want tables of {', '.join(SECTIONS)}")
        rules = {rule.key: rule for rule in rules_of(section)}
        for key, value in _flat(values, section, rules):
            if key not in rules:
                raise ConfigError(
                    f"{path}: reference_values: found the key {key[:80]!r}, want one of a policy's", path=path
                )
            try:
                decode_value(rules[key], value)
                references[key] = Reference(toml_of(value), (f"from {path!r}",))
            except ValueError as error:
                raise ConfigError(f"{path}: reference_values: {key}: {error}", path=path, key=key) from error
    return tuple(section for section in SECTIONS if section in tables), references


def _flat(values: Mapping[str, Any], above: str, rules: Mapping[str, Rule]) -> Iterable[tuple[str, Any]]:
    """List values by their whole key, going down tables that are no value themselves."""
    for name, value in values.items():
        key = f"{above}.{name}"
        if key not in rules and isinstance(value, dict) and any(known.startswith(key + ".") for known in rules):
            yield from _flat(value, key, rules)
        else:
            yield key, value


def toml_of(value: Any) -> str:
    """Write a value as TOML on one line: text, numbers, lists and tables of them.

    Raises:
        ValueError: text that is no Unicode.
        TypeError: another type.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return '"' + "".join(_escaped(char) for char in value) + '"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_of(item) for item in value) + "]"
    if isinstance(value, dict):
        items = (f"{name if _is_bare(name) else toml_of(name)} = {toml_of(item)}" for name, item in value.items())
        return "{ " + ", ".join(items) + " }"
    raise TypeError(f"found {type(value).__name__}, want what a policy can hold")


def _escaped(char: str) -> str:
    if char in {'"', "\\"}:
        return "\\" + char
    if "\ud800" <= char <= "\udfff":
        raise ValueError(f"found half a character, U+{ord(char):04X}, want text")
    return char if char.isprintable() else f"\\U{ord(char):08x}"


def _is_bare(name: str) -> bool:
    return name.isascii() and bool(name) and name.replace("-", "a").replace("_", "a").isalnum()


def _shown(found: Any) -> str:
    return "".join(char if char.isprintable() else "?" for char in render(found))[:200]
