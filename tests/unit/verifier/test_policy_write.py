# SPDX-License-Identifier: Apache-2.0
"""Policies that are written: strict, honest about what is missing, and read back by the reader."""

from __future__ import annotations

import json
import tomllib
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import ConfigError, DecodeError
from enarx.rats import Evidence, OneOf
from enarx.verifier import pinned_anchors, recognise
from enarx.verifier.appraisal import apply_rules
from enarx.verifier.ledger import Judge, Ledger, Part, Setting
from enarx.verifier.policy_lint import Level, lint_against, lint_policy, lint_presets
from enarx.verifier.policy_toml import decode_policy, decode_value, parse_value, read_policy
from enarx.verifier.policy_write import (
    Reference,
    references_from_claims,
    references_from_manifest,
    toml_of,
    write_policy,
)
from enarx.verifier.registry import SECTIONS, judge_of
from tests.evidence import cases, needs_evidence
from tests.evidence import read as read_evidence
from tests.unit.verifier.policy_rules import RULES, Said, rules_of, snp_part

LARGEST = 1_000_000


def write(*sections, references=None):
    return write_policy(sections, references=references or {}, origin="a test", rules_of=rules_of)


def read(text):
    return read_policy(text.encode(), path="p.toml", rules_of=rules_of)


def decode(text):
    return decode_policy(text.encode(), path="p.toml", rules_of=rules_of)


def test_what_is_missing_is_marked_and_the_reader_says_the_same():
    draft = write("snp")
    assert draft.missing == ("snp.measurement", "snp.chip_id")
    assert (
        '# FILL IN: a list of 48-byte values in hex, at least one; or { skip = "why" }\n# measurement =\n' in draft.text
    )
    assert [problem.key for problem in read(draft.text).problems] == list(draft.missing)


def test_minima_without_a_strict_value_are_presets_with_their_sources():
    draft = write("snp", "sgx")
    assert 'reported_tcb = { preset = "amd-2026-05" }' in draft.text
    assert "# AMD-SB-3030: CVE-2025-61971: TCB[SNP] 0x1D on Milan" in draft.text
    assert 'tcb_evaluation_data_number = { preset = "intel-2025-05" }' in draft.text


@pytest.mark.parametrize("section", RULES)
def test_a_table_holds_its_own_keys_before_its_tables(section):
    document = tomllib.loads(write(section).text)
    assert document.keys() == {"version", section}


def test_emulated_roots_are_accepted_above_the_tables():
    roots = [b"b" * 32, b"a" * 32]
    draft = write_policy(["sgx"], references={}, origin="a test", insecure_emulated_roots=roots, rules_of=rules_of)
    assert tomllib.loads(draft.text)["insecure_emulated_roots"] == [(b"a" * 32).hex(), (b"b" * 32).hex()]
    assert "insecure" not in write("sgx").text


def test_references_complete_it():
    references = {
        "snp.measurement": Reference('["' + "ab" * 48 + '"]', ("from somewhere",)),
        "snp.chip_id": Reference("[]"),
    }
    draft = write("snp", references=references)
    assert draft.missing == ()
    assert "# from somewhere\nmeasurement = " in draft.text
    assert [problem.key for problem in read(draft.text).problems] == ["snp.chip_id"]


def test_from_claims():
    draft = write("snp", references=references_from_claims([snp_part()], rules_of=rules_of))
    policy = decode(draft.text)
    assert draft.missing == ()
    assert policy.expectations["snp.measurement"] == OneOf(b"\xab" * 48)
    tcb = policy.expectations["snp.reported_tcb"]
    assert tcb.minima == {"Milan": {"bootloader": 4, "tee": 0, "snp": 29, "microcode": 222}}
    # What is new each time is nobody's reference value.
    assert "22" * 32 not in draft.text
    assert "33" * 64 not in draft.text
    # A chip is named for whoever wants to pin it, and not pinned.
    assert "skip" in draft.text.split("chip_id = ")[2]
    assert f'# In the evidence that this was made from: chip_id = ["{"11" * 64}"]' in draft.text


def test_from_claims_accepts_the_claims_it_was_made_from():
    part = snp_part()
    policy = decode(write("snp", references=references_from_claims([part], rules_of=rules_of)).text)
    ledger = Ledger()
    setting = Setting(at=None, anchors=None, report_data=b"\x33" * 64)
    apply_rules(Judge("snp", None, RULES["snp"]), part, policy, setting, ledger)
    assert {str(finding.outcome) for finding in ledger.findings} == {"passed", "skipped"}


def test_from_claims_never_weakens_what_is_strict():
    part = snp_part(guest_policy_debug=True, vmpl=3, firmware=(1, 51, 0))
    draft = write("snp", references=references_from_claims([part], rules_of=rules_of))
    assert '# NOTE: the evidence that this was made from fails here: yes\ndebug = "forbidden"\n' in draft.text
    assert "# NOTE: the evidence that this was made from fails here: 3\nvmpl = [0]\n" in draft.text
    assert 'firmware = "1.55.29"' in draft.text


def test_from_claims_says_where_the_vendor_asks_for_more():
    part = snp_part(reported_tcb=("Milan", {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219}))
    draft = write("snp", references=references_from_claims([part], rules_of=rules_of))
    assert '# NOTE: this is below the vendor\'s own minimum: { preset = "amd-2026-05" }\nreported_tcb' in draft.text
    assert "snp = 24" in draft.text


def test_from_claims_of_an_unknown_product_leaves_the_minima_out():
    part = snp_part(reported_tcb=("Venice", {"snp": 3}))
    draft = write("snp", references=references_from_claims([part], rules_of=rules_of))
    assert draft.missing == ()
    assert 'reported_tcb = { preset = "amd-2026-05" }' in draft.text


def test_from_claims_that_are_absent():
    part = snp_part(measurement=None, reported_tcb=None)
    draft = write("snp", references=references_from_claims([part], rules_of=rules_of))
    assert 'measurement = { skip = "the evidence that this was made from does not have it" }' in draft.text
    assert 'reported_tcb = { preset = "amd-2026-05" }' in draft.text
    assert draft.missing == ()


def test_from_claims_of_every_grammar():
    part = Part(
        "sgx",
        Said(
            mrsigner=b"\xcd" * 32,
            attributes_debug=False,
            isv_svn=3,
            collateral_tcb_evaluation_data_number=17,
            collateral_grace_days=0,
            tcb_status="UpToDate",
            advisories=frozenset(),
            report_data=b"\0" * 64,
        ),
    )
    draft = write("sgx", references=references_from_claims([part], rules_of=rules_of))
    document = tomllib.loads(draft.text)["sgx"]
    assert document["isv_svn"] == 3
    assert document["collateral"] == {"tcb_evaluation_data_number": 17, "grace_days": 0}
    assert "below the vendor's own minimum" in draft.text
    assert document["tcb_status"] == ["UpToDate"]
    assert decode(draft.text).tees == {"sgx"}


def manifest(values):
    return json.dumps({"image": "x", "reference_values": values}).encode()


def test_from_a_manifest():
    data = manifest(
        {"snp": {"measurement": ["ab" * 48], "guest_policy": {"smt": "forbidden"}}, "tdx": {"mrtd": ["00" * 48]}}
    )
    sections, references = references_from_manifest(data, path="image.json", rules_of=rules_of)
    assert sections == ("snp", "tdx")
    draft = write(*sections, references=references)
    assert draft.missing == ("snp.chip_id",)
    assert "# from 'image.json'\nmeasurement = [" in draft.text
    assert 'smt = "forbidden"' in draft.text


def test_from_a_manifest_with_minima():
    data = manifest({"snp": {"reported_tcb": {"Milan": {"bootloader": 1, "tee": 0, "snp": 30, "microcode": 0}}}})
    _, references = references_from_manifest(data, path="i", rules_of=rules_of)
    assert references["snp.reported_tcb"].toml == "{ Milan = { bootloader = 1, tee = 0, snp = 30, microcode = 0 } }"


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"{", DecodeError, "want JSON"),
        (b"[]", ConfigError, "reference_values: found none, want a table of TEEs"),
        (b'{"reference_values": {}}', ConfigError, "found none"),
        (b'{"reference_values": []}', ConfigError, "found none"),
        (b'{"reference_values": {"snp": {}, "snp": {}}}', DecodeError, "a key twice"),
        (manifest({"spn": {}}), ConfigError, "found 'spn', want tables of snp"),
        (manifest({"snp": []}), ConfigError, "found 'snp', want tables of snp"),
        (manifest({"snp": {"measure": []}}), ConfigError, "found the key 'snp.measure', want one of a policy's"),
        (manifest({"snp": {"guest_policy": {"x": 1}}}), ConfigError, "found the key 'snp.guest_policy.x'"),
        (manifest({"snp": {"measurement": "ab" * 48}}), ConfigError, "snp.measurement: found"),
        (manifest({"snp": {"measurement": ["ab"]}}), ConfigError, "found a value of 1 bytes, want a list of 48-byte"),
        (manifest({"snp": {"measurement": []}}), ConfigError, "snp.measurement: found [], want"),
        (b" " * (LARGEST + 1), DecodeError, f"want at most {LARGEST}"),
    ],
)
def test_refuses_another_manifest(data, error, words):
    with pytest.raises(error) as caught:
        references_from_manifest(data, path="i", rules_of=rules_of)
    assert words in str(caught.value)


plain = st.recursive(
    st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(plain)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_what_is_written_is_read_back(value):
    assert parse_value(toml_of(value)) == value
    assert "\n" not in toml_of(value)


def test_cannot_write_what_toml_has_not():
    with pytest.raises(ValueError, match="half a character"):
        toml_of("\ud800")
    with pytest.raises(TypeError, match="found NoneType"):
        toml_of(None)


# From here on: the rules that there are.


@pytest.mark.parametrize("section", SECTIONS)
def test_every_strict_value_is_one_that_the_reader_takes(section):
    rules = judge_of(section).rules
    assert len({rule.key for rule in rules}) == len(rules)
    for rule in rules:
        assert rule.key.startswith(section + ".")
        assert rule.baseline is not None
        assert rule.grammar.wanted
        if rule.strict is not None:
            decode_value(rule, parse_value(rule.strict))


@pytest.mark.parametrize("section", SECTIONS)
def test_no_key_is_a_table_too(section):
    keys = {rule.key for rule in judge_of(section).rules}
    assert not [key for key in keys for other in keys if other.startswith(key + ".")]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_tee_has_one_freshness_key_and_says_what_runs(section):
    from enarx.verifier.grammar import Freshness

    rules = judge_of(section).rules
    assert [rule.strict for rule in rules if isinstance(rule.grammar, Freshness)] == ['"from-caller"']
    assert write_policy([section], references={}, origin="a test").missing


@pytest.mark.parametrize("section", SECTIONS)
def test_a_strict_policy_needs_only_what_it_says_and_has_no_error(section):
    draft = write_policy([section], references={}, origin="a test")
    text = read_policy(draft.text.encode(), path="p.toml")
    assert [problem.key for problem in text.problems] == list(draft.missing)
    references = {key: Reference('{ skip = "a test" }') for key in draft.missing}
    filled = read_policy(write_policy([section], references=references, origin="a test").text.encode(), path="p.toml")
    assert filled.problems == ()
    assert filled.policy.tees == {section}
    assert filled.policy.expectations.keys() == {rule.key for rule in judge_of(section).rules}
    errors = [remark for remark in lint_policy(filled.policy) if remark.level is Level.ERROR]
    # Azure's evidence rests on another TEE's, which a policy of its own section alone does not accept.
    assert [remark.key for remark in errors] == (["azure"] if section == "azure" else [])
    assert lint_presets(filled) == ()


def good_cases():
    """List valid evidence of every kind, a few of each."""
    found = []
    for tee in ("snp", "tdx", "sgx", "nitro", "azure", "tpm"):
        names = []
        for case in cases(tee):
            names += [
                name
                for kind, name in case["inputs"].items()
                if case["verdict"] == "valid" and kind in {"report", "quote", "document", "evidence", "hcl_report"}
            ]
        found += sorted(set(names))[:6]
    return found


@needs_evidence
@pytest.mark.parametrize("name", good_cases())
def test_a_policy_made_from_real_evidence_says_itself_where_it_refuses_it(name):
    recognised = recognise(Evidence(data=read_evidence(name)))
    setting = Setting(at=datetime(2026, 6, 1, tzinfo=UTC), anchors=pinned_anchors())
    judge = judge_of(recognised.section)
    parts = judge.examine(recognised.parsed, recognised.endorsements, setting, Ledger()).parts
    references = references_from_claims(parts)
    draft = write_policy([part.section for part in parts], references=references, origin="a test")
    left = {key: Reference('{ skip = "a test" }') for key in draft.missing}
    text = write_policy([part.section for part in parts], references=references | left, origin="a test").text
    policy = decode_policy(text.encode(), path="p.toml")
    refused = {remark.key for remark in lint_against(policy, parts) if remark.level is Level.NOTE}
    noted = {key for key, reference in references.items() if any("fails here" in line for line in reference.remarks)}
    # A minimum without a claim to take it from is the vendor's, which evidence that says nothing does not meet.
    silent = {rule.key for part in parts for rule in judge_of(part.section).rules if rule.read(part.claims) is None}
    assert noted <= refused
    assert refused - noted <= silent
    # The report of a machine without its quote has no part of the processor's.
    errors = {remark.key for remark in lint_policy(policy) if remark.level is Level.ERROR}
    assert errors <= {"azure"}
