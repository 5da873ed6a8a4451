# SPDX-License-Identifier: Apache-2.0
"""Decode the appraisal policy file: one TOML document, with one table for each kind of TEE that is accepted.

Rules of this file:

- A TEE without a table is refused. A table has every key of its TEE: what is not there is not "not checked", it is an
  error. What nobody cares about is written `{ skip = "why" }`.
- What is not understood is refused: a misspelt key would otherwise be a check that is not made.
- The keys and the notation of their values are the rules of the TEE's judge; nothing of any TEE is known here.
- `[[package.signer]]` is no TEE: it says who may sign packages (`enarx.verifier.policy_signers`), and evidence is judged without it.
- `[steward]` is none either: it names who certifies what is deployed (`enarx.verifier.policy_steward`).
- Policies come from strangers too. Any bytes give a policy or a ConfigError, in bounded time.

All problems of a file are found in one reading, because whoever fills in a policy wants to see them all.
`docs/policy.md` is the reference for users.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from enarx.errors import ConfigError
from enarx.rats import AppraisalPolicy, Expectation, Skip
from enarx.verifier.ledger import Rule
from enarx.verifier.policy_signers import read_signers
from enarx.verifier.policy_steward import read_named_steward
from enarx.verifier.presets import expand_preset
from enarx.verifier.registry import SECTIONS, judge_of
from enarx.wire.quoting import kind_of, quote
from enarx.wire.toml_lines import KeyPath, line_finder
from enarx.wire.toml_text import all_of, dotted, one_of, parse_toml

__all__ = [
    "MAX_BYTES",
    "MAX_PROBLEMS",
    "PolicyText",
    "RulesOf",
    "decode_policy",
    "decode_value",
    "parse_value",
    "read_policy",
    "registered_rules",
]

MAX_BYTES = 1_000_000
MAX_PROBLEMS = 200
"""How many problems of one file are told; nobody reads more."""

VERSION = 1

RulesOf = Callable[[str], tuple[Rule, ...]]
"""Gives the rules of a section."""

_DIGEST_KEYS = ("insecure_emulated_roots", "insecure_vtpm_aks")
_DIGEST_BYTES = 32
_MAX_DIGESTS = 64
_MAX_REASON = 500
_MAX_DEPTH = 4  # `{ Milan = { snp = 24 } }` has two levels
_MAX_BITS = 64
_MAX_SHOWN_KEY = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyText:
    """A policy file as it was read.

    Args:
        policy: what it says, or None where it has a problem.
        problems: what is wrong, in the order in which the file was read; at most `MAX_PROBLEMS`.
        presets: the presets it names, by key.
        find_line: gives the 1-based line of a key, or None.
    """

    policy: AppraisalPolicy | None
    problems: tuple[ConfigError, ...]
    presets: Mapping[str, str]
    find_line: Callable[[KeyPath], int | None]


def registered_rules(section: str) -> tuple[Rule, ...]:
    """Return the rules of the judge of a section."""
    return judge_of(section).rules


def decode_policy(data: bytes, *, path: str, rules_of: RulesOf = registered_rules) -> AppraisalPolicy:
    """Decode a policy file.

    Args:
        data: the content of the file, UTF-8, at most 1,000,000 bytes.
        path: the file as the user named it, for messages and for `AppraisalPolicy.name`.
        rules_of: gives the rules of a section; those of the judges, except in tests.

    Raises:
        ConfigError: the file has a problem; this is the first one. Nothing else, for any input.
    """
    text = read_policy(data, path=path, rules_of=rules_of)
    if text.policy is not None:
        return text.policy
    first = text.problems[0]
    if len(text.problems) > 1:
        first.hint = f"enarx policy check {path} shows all {len(text.problems)} problems"
    raise first


def read_policy(
    data: bytes,
    *,
    path: str,
    rules_of: RulesOf = registered_rules,
    lines_of: Callable[[KeyPath], int | None] | None = None,
) -> PolicyText:
    """Read a policy file and find all that is wrong with it.

    Args:
        data: as for `decode_policy`, like all that follow.
        path: the file's name.
        rules_of: gives the rules of a section.
        lines_of: gives the line of a key in the file that somebody wrote, where `data` was made from it; None is in `data`.

    Raises:
        ConfigError: it is no TOML document of at most 1,000,000 bytes, so that nothing more can be said.
    """
    text, document = parse_toml(data, path=path, max_bytes=MAX_BYTES)
    reader = _Reader(path, lines_of or line_finder(text))
    try:
        policy = reader.read(document, rules_of)
    except _TooManyProblemsError:
        policy = None
    return PolicyText(
        policy=None if reader.problems else policy,
        problems=tuple(reader.problems),
        presets=reader.presets,
        find_line=reader.find_line,
    )


def decode_value(rule: Rule, value: Any) -> Expectation:
    """Return what the value of one key expects: a value of the key's own grammar, a preset or a reason to skip.

    Raises:
        ValueError: `found X, want Y`.
    """
    _require_plain(value, _MAX_DEPTH)
    if isinstance(value, dict):
        if "skip" in value:
            return Skip(_read_only_text(value, "skip"))
        if "preset" in value:
            return rule.grammar.decode(expand_preset(_read_only_text(value, "preset"), rule))
    return rule.grammar.decode(value)


def parse_value(toml: str) -> Any:
    """Return the value that a piece of TOML of our own stands for: `Rule.strict`, for instance."""
    return tomllib.loads("value = " + toml)["value"]


class _TooManyProblemsError(Exception):
    """Enough was said."""


class _Reader:
    """One reading of one file, which keeps what is wrong with it."""

    def __init__(self, path: str, find_line: Callable[[KeyPath], int | None]) -> None:
        self.path = path
        self.find_line = find_line
        self.problems: list[ConfigError] = []
        self.presets: dict[str, str] = {}

    def refuse(self, path: KeyPath, problem: str, *, hint: str | None = None) -> None:
        """Keep a problem.

        Raises:
            _TooManyProblemsError: it is one of too many.
        """
        line = self.find_line(path) if path else None
        where = self.path if line is None else f"{self.path}:{line}"
        key = dotted(path) if path else None
        message = f"{where}: {key}: {problem}" if key else f"{where}: {problem}"
        self.problems.append(ConfigError(message, hint=hint, path=self.path, line=line, key=key))
        if len(self.problems) == MAX_PROBLEMS:
            raise _TooManyProblemsError

    def read(self, document: dict[str, Any], rules_of: RulesOf) -> AppraisalPolicy:
        """Read the whole document; what it returns is a policy only if no problem was found."""
        known = ("version", *_DIGEST_KEYS, *SECTIONS, "package", "steward")
        for key in document:
            if key not in known:
                self._refuse_unknown((key,), known)
        self._read_version(document)
        emulated, vtpm_aks = (self._read_digests(document, key) for key in _DIGEST_KEYS)
        sections = [section for section in SECTIONS if section in document]
        if not sections:
            tables = one_of(f"[{section}]" for section in SECTIONS)
            self.refuse((), f"found no TEE, want at least one of {tables}", hint="enarx policy init writes a policy")
        expectations: dict[str, Expectation] = {}
        for section in sections:
            expectations.update(self._read_section(section, document[section], rules_of(section)))
        return AppraisalPolicy(
            name=self.path,
            expectations=expectations,
            tees=frozenset(sections),
            insecure_emulated_roots=emulated,
            insecure_vtpm_aks=vtpm_aks,
            package_signers=read_signers(document["package"], self.refuse) if "package" in document else (),
            steward=read_named_steward(document["steward"], self.refuse) if "steward" in document else None,
        )

    def _read_version(self, document: dict[str, Any]) -> None:
        version = document.get("version")
        # Not ==: in Python, true and 1.0 are equal to 1.
        if type(version) is not int or version != VERSION:
            found = "nothing" if version is None else quote(version)
            self.refuse(
                ("version",), f"found {found}, want {VERSION}", hint=f"begin the file with: version = {VERSION}"
            )

    def _read_digests(self, document: dict[str, Any], key: str) -> frozenset[bytes]:
        if key not in document:
            return frozenset()
        values = document[key]
        want = f"1 to {_MAX_DIGESTS} SHA-256 digests in hex"
        if not isinstance(values, list) or not 0 < len(values) <= _MAX_DIGESTS:
            found = f"{len(values)} values" if isinstance(values, list) else kind_of(values)
            self.refuse((key,), f"found {found}, want {want}", hint=f"leave {key} out where there is none")
            return frozenset()
        digests = set()
        for index, value in enumerate(values):
            try:
                digest = bytes.fromhex(value)
            except (TypeError, ValueError):
                digest = b""
            if len(digest) != _DIGEST_BYTES:
                self.refuse((key, index), f"found {quote(value)}, want {want}")
            digests.add(digest)
        return frozenset(digests)

    def _read_section(self, section: str, table: Any, rules: tuple[Rule, ...]) -> Iterator[tuple[str, Expectation]]:
        if not isinstance(table, dict):
            self.refuse((section,), f"found {kind_of(table)}, want a table, [{section}]")
            return
        by_path = {tuple(rule.key.split(".")): rule for rule in rules}
        tables = {path[:length] for path in by_path for length in range(1, len(path))}
        unread = set(by_path)
        pending: list[tuple[tuple[str, ...], dict[str, Any]]] = [((section,), table)]
        while pending:
            above, values = pending.pop()
            for name, value in values.items():
                path = (*above, name)
                rule = by_path.get(path)
                if rule is not None:
                    unread.discard(path)
                    expectation = self._read_value(path, rule, value)
                    if expectation is not None:
                        yield rule.key, expectation
                elif path not in tables:
                    self._refuse_unknown(path, _names_below(above, by_path), [rule.key for rule in rules])
                elif isinstance(value, dict) and value.keys() == {"skip"}:
                    names = all_of(_names_below(path, by_path))
                    self.refuse(path, f"found a skip of the whole table, want one for each key: {names}")
                    unread = {other for other in unread if other[: len(path)] != path}
                elif isinstance(value, dict):
                    pending.append((path, value))
                else:
                    self.refuse(path, f"found {kind_of(value)}, want a table, [{dotted(path)}]")
                    unread = {other for other in unread if other[: len(path)] != path}
        for path, rule in by_path.items():
            if path in unread:
                self.refuse(path, f"found nothing, want {rule.grammar.wanted}", hint='or a reason: { skip = "why" }')

    def _read_value(self, path: KeyPath, rule: Rule, value: Any) -> Expectation | None:
        try:
            expectation = decode_value(rule, value)
        except ValueError as error:
            self.refuse(path, str(error))
            return None
        if isinstance(value, dict) and "preset" in value:
            self.presets[rule.key] = value["preset"]
        return expectation

    def _refuse_unknown(self, path: KeyPath, siblings: tuple[str, ...], all_keys: list[str] | None = None) -> None:
        """Refuse a key, naming the nearest beside it, or else the nearest of its TEE."""
        name = str(path[-1])[:_MAX_SHOWN_KEY].lower()
        nearest = get_close_matches(name, siblings, n=1)
        hint = None
        if not nearest and all_keys:
            last = {key.rpartition(".")[2]: key for key in all_keys}
            nearest = [last[found] for found in get_close_matches(name, last, n=1)]
        if len(path) > 1 and path[-1] in {"version", *_DIGEST_KEYS}:
            hint = f"{path[-1]} belongs above the first [table] of the file"
        elif len(path) == 2 and path[1] == "image":
            hint = "commands that read a policy file put the values of an installed image there; this text was to have them already"
        elif nearest:
            hint = f"the keys here are {all_of(siblings)}"
        self.refuse(path, f"found an unknown key, want {nearest[0] if nearest else one_of(siblings)}", hint=hint)


def _names_below(above: tuple[str, ...], by_path: Mapping[tuple[str, ...], Rule]) -> tuple[str, ...]:
    """Return the names of keys and tables directly in a table, in the order of the rules."""
    depth = len(above)
    return tuple(dict.fromkeys(path[depth] for path in by_path if path[:depth] == above))


def _read_only_text(table: dict[str, Any], key: str) -> str:
    """Return the text of a table's only key.

    Raises:
        ValueError: there is another key, or it is not text of one line.
    """
    value = table[key]
    if len(table) > 1:
        raise ValueError(f"found {all_of(quote(name) for name in list(table)[:4])} together, want {key} alone")
    if not isinstance(value, str) or not value.strip() or len(value) > _MAX_REASON or not value.isprintable():
        raise ValueError(
            f"found {quote(value)}, want {key} = text of one line, not empty, of at most {_MAX_REASON} characters"
        )
    return value


def _require_plain(value: Any, depth: int) -> None:
    """Refuse what no grammar takes and what cannot be shown: huge integers, and values nested deeper than any.

    Raises:
        ValueError: as `decode_value` says.
    """
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise ValueError(f"found {quote(value)}, want at most {_MAX_BITS} bits")
    if isinstance(value, list | dict):
        if not depth:
            raise ValueError("found values nested too deeply, want fewer levels")
        for item in value.values() if isinstance(value, dict) else value:
            _require_plain(item, depth - 1)
