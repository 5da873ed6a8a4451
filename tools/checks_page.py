# SPDX-License-Identifier: Apache-2.0
"""The generated parts of docs/checks.md and docs/verifier.md: all checks, and what else of the verifier has to be listed.

What other verifiers do is answered by `tests/unit/verifier/peer_checks_<section>.py`, beside the tests that prove it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from enarx.crypto.certificates import fingerprint, load_certificate_untrusted, name_of
from enarx.rats import Check, Skip
from enarx.verifier.ledger import Judge
from enarx.verifier.registry import SECTIONS, judge_of
from enarx.verifier.roots import pinned_anchors

TOP = Path(__file__).parent.parent
TESTS = "tests/unit/verifier"
_DCAP_TESTS = ("test_dcap.py", "test_collateral.py", "test_tcb.py", "../abi/test_quote.py")
MODULES = {
    "sgx": ("test_sgx.py", *_DCAP_TESTS),
    "tdx": ("test_tdx.py", *_DCAP_TESTS),
    "azure": ("test_azure.py", "../abi/test_tpm_bundle.py"),
}
"""Where the tests of a section are, if not in the one file of its name."""
PARTS = {"snp": ("chain",)}
"""Which modules beside a section's own have checks of it alone: `snp_chain`."""


def checks_of(section: str) -> tuple[Check, ...]:
    """Return the checks that a section's judge makes: what is authentic first, then its rules in their order.

    Args:
        section: of a policy, or empty for the checks of all sections.
    """
    name = f"enarx.verifier.{section}" if section else "enarx.verifier"
    found: dict[str, Check] = {}
    rules: dict[str, Check] = {}
    modules = (name, *(f"{name}_{part}" for part in PARTS.get(section, ())))
    for value in (value for module in modules for value in vars(import_module(module)).values()):
        if isinstance(value, Judge):
            rules |= {rule.check.id: rule.check for rule in value.rules}
        found |= {check.id: check for check in _checks_in(value)}
    first = {id_: check for id_, check in found.items() if id_ not in rules} if section else found
    return tuple(check for check in (first | rules).values() if not section or check.id.startswith(f"{section}."))


def _checks_in(value: Any) -> Iterator[Check]:
    if isinstance(value, Check):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _checks_in(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from _checks_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _checks_in(getattr(value, field.name))


def checks_table(section: str) -> str:
    """Return the checks of a section as a table."""
    rows = ["| id | what is true when it passes | concern | source |", "|---|---|---|---|"]
    checks = checks_of("" if section == "all" else section)
    rows += [_row(f"`{check.id}`", check.title, str(check.concern), check.spec) for check in checks]
    return "\n".join(rows)


def baseline_table() -> str:
    """Return what is expected where no policy is given, as a table."""
    rows = ["| key | what is true when it passes | expected |", "|---|---|---|"]
    rules = [rule for section in SECTIONS for rule in judge_of(section).rules if not isinstance(rule.baseline, Skip)]
    rows += [_row(f"`{rule.key}`", rule.check.title, _short(str(rule.baseline))) for rule in rules]
    return "\n".join(rows)


def anchors_table() -> str:
    """Return the pinned roots as a table."""
    anchors = pinned_anchors()
    families = {"SEV-SNP": anchors.amd, "SGX, TDX": anchors.intel, "Nitro": anchors.aws, "TPM": anchors.tpm}
    rows = ["| for | root | SHA-256 of its DER |", "|---|---|---|"]
    rows += [
        _row(family, name_of(load_certificate_untrusted(der)), f"`{fingerprint(der)}`")
        for family, ders in families.items()
        for der in ders
    ]
    return "\n".join(rows)


def _short(text: str) -> str:
    return "zero" if text and not text.strip("0") and len(text) > 1 else text


def peers_table(section: str) -> str:
    """Return how the checks of other verifiers are answered, as a table.

    Raises:
        KeyError: a test or a finding that is named does not exist.
    """
    known = {check.id for check in checks_of(section)} | {check.id for check in checks_of("")}
    rows = ["| what others check | findings | accepting test | refusing test |", "|---|---|---|---|"]
    for row, answer in peer_checks_of(section).items():
        if isinstance(answer, str):
            rows.append(_row(row, f"none: {answer}", "", ""))
            continue
        ids, accepting, refusing = answer
        for each in ids:
            if each not in known:
                raise KeyError(each)
        rows.append(_row(row, _spans(ids), _test_link(section, accepting), _test_link(section, refusing)))
    return "\n".join(rows)


def peer_checks_of(section: str) -> dict[str, tuple[tuple[str, ...], str, str] | str]:
    """Return the answers of a section."""
    if str(TOP) not in sys.path:
        sys.path.append(str(TOP))  # The tests are no installed package.
    answers: dict[str, tuple[tuple[str, ...], str, str] | str]
    answers = import_module(f"{TESTS.replace('/', '.')}.peer_checks_{section}").PEER_CHECKS
    return answers


def _test_link(section: str, test: str) -> str:
    """Return the name of a test with a link to its file; a case of it stands in brackets."""
    function, _, case = test.partition("[")
    for module in MODULES.get(section, (f"test_{section}.py",)):
        path = (TOP / TESTS / module).resolve()
        if f"\ndef {function}(" in path.read_text(encoding="utf-8"):
            said = f": {case[:-1]}" if case else ""
            return f"[`{function}`](../{path.relative_to(TOP).as_posix()}){said}"
    raise KeyError(test)


def _spans(ids: tuple[str, ...]) -> str:
    """Return ids in a row, those that differ by a counted number as a span."""
    texts: list[str] = []
    spans: dict[str, list[int]] = {}
    for each in ids:
        counted = re.fullmatch(r"(.*\D)(\d+)", each)
        stem = counted[1] if counted else each
        if counted and stem in spans and spans[stem][-1] + 1 == int(counted[2]):
            spans[stem].append(int(counted[2]))
        elif counted:
            spans[stem] = [int(counted[2])]
            texts.append(stem)
        else:
            texts.append(each)
    return ", ".join(_span(text, spans.get(text)) for text in texts)


def _span(stem: str, numbers: list[int] | None) -> str:
    if numbers is None:
        return f"`{stem}`"
    first = f"`{stem}{numbers[0]}`"
    return first if len(numbers) == 1 else f"{first} to `{stem}{numbers[-1]}`"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
