# SPDX-License-Identifier: Apache-2.0
"""Policies that can be read and should not be used as they are."""

from __future__ import annotations

import pytest

from enarx.rats import EachAtLeast, OneOf, Skip
from enarx.verifier.policy_lint import Level, lint_against, lint_policy, lint_presets
from enarx.verifier.policy_toml import decode_policy, read_policy
from enarx.verifier.registry import baseline_policy, judge_of
from tests.unit.verifier.policy_rules import SGX_TEXT, SNP_TEXT, rules_of, snp_part


def decode(text):
    return decode_policy(text.encode(), path="p.toml", rules_of=rules_of)


def lint(text):
    return lint_policy(decode(text), rules_of=rules_of)


def swap(old, new, text=SNP_TEXT):
    assert text.count(old) == 1
    return text.replace(old, new)


def only(remarks):
    assert len(remarks) == 1, remarks
    return remarks[0]


@pytest.mark.parametrize("text", [SNP_TEXT, SGX_TEXT])
def test_a_good_policy_has_no_remarks(text):
    assert lint(text) == ()
    assert lint_presets(read_policy(text.encode(), path="p", rules_of=rules_of), rules_of=rules_of) == ()


@pytest.mark.parametrize(
    ("old", "new", "text", "level", "key", "words"),
    [
        ("vmpl = [0]", "vmpl = [3, 2, 1, 0]", SNP_TEXT, "warning", "snp.vmpl", "all the numbers there are"),
        (
            '"1.55.29"',
            '"0.0.0"',
            SNP_TEXT,
            "warning",
            "snp.firmware",
            "found the minimum 0.0.0, which everything meets",
        ),
        (f'["{"ab" * 48}"]', '{ skip = "x" }', SNP_TEXT, "warning", "snp", "nothing here says what has to run"),
        ('"from-caller"', '{ skip = "x" }', SNP_TEXT, "warning", "snp.report_data", "old evidence is accepted again"),
        (
            'debug = "forbidden"',
            'debug = "required"',
            SNP_TEXT,
            "error",
            "snp.guest_policy.debug",
            "no measurement says",
        ),
        ('debug = "forbidden"', 'debug = { skip = "x" }', SNP_TEXT, "warning", "snp.guest_policy.debug", "is public"),
        (
            "isv_svn = 3",
            "isv_svn = 0",
            SGX_TEXT,
            "warning",
            "sgx.isv_svn",
            "found the minimum 0, which everything meets",
        ),
        ("isv_svn = 3", "isv_svn = 65535", SGX_TEXT, "warning", "sgx.isv_svn", "found 65535, the largest there is"),
        ("grace_days = 0", "grace_days = 365", SGX_TEXT, "warning", "sgx.collateral.grace_days", "the maximum 365"),
        (
            '["UpToDate"]',
            '["UpToDate", "Revoked", "OutOfDate"]',
            SGX_TEXT,
            "warning",
            "sgx.tcb_status",
            "all the words there are",
        ),
        (
            f'["{"cd" * 32}"]',
            f'["{"cd" * 32}", "{"00" * 32}"]',
            SGX_TEXT,
            "warning",
            "sgx.mrsigner",
            "all zeros is what a guest has that was given none",
        ),
        (
            '{ preset = "amd-2026-05" }',
            "{ Milan = { bootloader = 0, tee = 0, snp = 0, microcode = 0 } }",
            SNP_TEXT,
            "warning",
            "snp.reported_tcb",
            "found minima for Milan that are all 0",
        ),
        (
            '{ preset = "amd-2026-05" }',
            "{ Milan = { bootloader = 4, tee = 0, snp = 255, microcode = 0 } }",
            SNP_TEXT,
            "error",
            "snp.reported_tcb",
            "found snp = 255 for Milan, want a version that exists",
        ),
    ],
)
def test_remarks(old, new, text, level, key, words):
    remark = only(lint(swap(old, new, text)))
    assert (remark.level, remark.key) == (level, key)
    assert words in remark.text


def test_a_policy_that_skips_everything_is_an_error():
    text = 'version = 1\n[tdx]\nmrtd = { skip = "x" }\nreport_data = { skip = "x" }\n'
    remark = only(lint(text))
    assert (remark.level, remark.key) == (Level.ERROR, "tdx")
    assert "found every check skipped" in remark.text


def test_debug_without_identity_is_a_warning():
    text = swap('debug = "forbidden"', 'debug = "required"').replace(f'["{"ab" * 48}"]', '{ skip = "x" }')
    assert {remark.level for remark in lint(text)} == {Level.WARNING}


def test_azure_alone_is_an_error():
    azure = f'version = 1\n[azure]\npcrs.pcr11 = ["{"01" * 32}"]\nnonce = "from-caller"\n'
    assert only(lint(azure)).level is Level.ERROR
    unpinned = lint(azure + SNP_TEXT.replace("version = 1\n", "").replace(f'["{"ab" * 48}"]', '{ skip = "x" }'))
    assert "any guest can claim to be Azure's paravisor" in only(unpinned).text
    tdx = f'[tdx]\nmrtd = ["{"01" * 48}"]\nreport_data = "from-caller"\n'
    assert lint(azure + tdx) == ()


@pytest.mark.parametrize(
    ("key", "text", "level"),
    [
        ("insecure_emulated_roots", SNP_TEXT, Level.WARNING),
        ("insecure_emulated_roots", SGX_TEXT, Level.ERROR),
        ("insecure_vtpm_aks", SNP_TEXT, Level.ERROR),
        (
            "insecure_vtpm_aks",
            f'version = 1\n[tpm]\npcrs.pcr11 = ["{"01" * 32}"]\nnonce = "from-caller"\n',
            Level.WARNING,
        ),
    ],
)
def test_insecure_keys_are_always_said(key, text, level):
    remark = only(lint(f'{key} = ["{"0f" * 32}"]\n{text}'))
    assert (remark.level, remark.key) == (level, key)


def minima(text):
    return lint_presets(read_policy(text.encode(), path="p", rules_of=rules_of), rules_of=rules_of)


def test_an_old_preset_is_told():
    remark = only(minima(swap("amd-2026-05", "amd-2025-02")))
    assert (remark.level, remark.key) == (Level.WARNING, "snp.reported_tcb")
    assert remark.text == 'found the preset amd-2025-02 of 2025-02-03, want { preset = "amd-2026-05" } of 2026-05-12'


def test_a_preset_newer_than_recommended_is_none_of_our_business():
    assert minima(swap("intel-2025-05", "intel-2026-02", SGX_TEXT)) == ()


def test_minima_below_the_vendors_are_told():
    levels = "{ Milan = { bootloader = 4, tee = 0, snp = 24, microcode = 219 } }"
    remark = only(minima(swap('{ preset = "amd-2026-05" }', levels)))
    assert (remark.level, remark.key) == (Level.WARNING, "snp.reported_tcb")
    assert remark.text.startswith("found snp = 24 for Milan, want { preset")
    assert only(minima(swap('{ preset = "intel-2025-05" }', "18", SGX_TEXT))).text.startswith("found 18, want")


@pytest.mark.parametrize(
    "value", ["{ Milan = { bootloader = 0, tee = 0, snp = 30, microcode = 0 } }", '{ skip = "x" }']
)
def test_other_minima_are_not_told(value):
    assert minima(swap('{ preset = "amd-2026-05" }', value)) == ()


def test_a_policy_that_cannot_be_read_has_no_minima():
    assert minima("version = 1\n[snp]\n") == ()


def against(text, *parts):
    return lint_against(decode(text), parts, rules_of=rules_of)


def test_values_copied_from_the_evidence_are_told():
    remark = only(against(SNP_TEXT, snp_part()))
    assert (remark.level, remark.key) == (Level.WARNING, "snp")
    assert "found snp.measurement exactly as in this evidence" in remark.text


def test_values_that_are_not_copied_are_no_remark():
    two = swap(f'["{"ab" * 48}"]', f'["{"ab" * 48}", "{"cd" * 48}"]')
    assert against(two, snp_part()) == ()


def test_a_report_id_is_an_error():
    text = swap('report_id = { skip = "new with each launch" }', f'report_id = ["{"22" * 32}"]')
    remarks = against(text, snp_part())
    assert (remarks[0].level, remarks[0].key) == (Level.ERROR, "snp.report_id")
    assert "which is this guest's alone" in remarks[0].text


def test_a_single_chip_is_a_warning():
    text = swap('chip_id = { skip = "any chip of AMD\'s" }', f'chip_id = ["{"11" * 64}"]')
    remarks = against(text, snp_part())
    assert (remarks[0].level, remarks[0].key) == (Level.WARNING, "snp.chip_id")


def test_what_refuses_the_evidence_is_a_note():
    part = snp_part(vmpl=2, measurement=b"\0" * 48)
    notes = [remark for remark in against(SNP_TEXT, part) if remark.level is Level.NOTE]
    assert [remark.key for remark in notes] == ["snp.measurement", "snp.vmpl"]
    assert notes[1].text == "this evidence is refused: found 2, want 0"


def test_evidence_of_another_tee_is_a_note():
    part = snp_part()._replace(section="tdx")
    assert only(against(SNP_TEXT, part)).text == "found evidence of a TEE that this policy does not accept"


def test_freshness_that_is_elsewhere_is_not_compared():
    part = snp_part()._replace(freshness="it is in the TPM quote")
    assert only(against(SNP_TEXT, part)).key == "snp"


def test_control_characters_of_evidence_are_replaced():
    part = snp_part(vmpl="\x1b[2J")
    assert all(remark.text.isprintable() for remark in against(SNP_TEXT, part))


# From here on: contradictions between keys, over the rules that there are.


def real(section, **changed):
    """Return the strictest policy of a section that is complete, with some expectations changed."""
    from enarx.verifier.policy_toml import decode_value, parse_value

    expectations = {
        rule.key: decode_value(rule, parse_value(rule.strict)) if rule.strict is not None else Skip("a test")
        for rule in judge_of(section).rules
    }
    for name, expectation in changed.items():
        key = f"{section}.{name.replace('__', '.')}"
        assert key in expectations
        expectations[key] = expectation
    policy = baseline_policy(section)
    return type(policy)(name="p", expectations=expectations, tees=frozenset({section}))


def errors(policy):
    return [remark for remark in lint_policy(policy) if remark.level is Level.ERROR]


YES, NO = OneOf(True), OneOf(False)


@pytest.mark.parametrize(
    ("section", "changed", "key"),
    [
        ("snp", {"id_block": NO, "id_key_digest": OneOf(b"\1" * 48)}, "snp.id_key_digest"),
        ("snp", {"id_block": YES, "id_key_digest": OneOf(bytes(48))}, "snp.id_key_digest"),
        ("snp", {"id_block": NO, "author_key": YES}, "snp.author_key"),
        ("snp", {"id_block": NO, "author_key_digest": OneOf(b"\1" * 48)}, "snp.author_key_digest"),
        ("snp", {"author_key": NO, "author_key_digest": OneOf(b"\1" * 48)}, "snp.author_key_digest"),
        ("snp", {"author_key": YES, "author_key_digest": OneOf(bytes(48))}, "snp.author_key_digest"),
        ("snp", {"guest_policy__migrate_ma": NO, "report_id_ma": OneOf(b"\1" * 32)}, "snp.report_id_ma"),
        ("snp", {"signing_key": OneOf("VCEK"), "csp_id": OneOf("AWS")}, "snp.csp_id"),
        ("snp", {"masked_chip_id": YES, "chip_id": OneOf(b"\1" * 64)}, "snp.chip_id"),
        ("snp", {"version": OneOf(2, 3), "mitigations__launch": OneOf(2)}, "snp.mitigations.launch"),
        ("snp", {"guest_policy__smt": NO, "platform_info__smt": YES}, "snp.platform_info.smt"),
        ("snp", {"guest_policy__rapl_dis": YES, "platform_info__rapl_dis": NO}, "snp.platform_info.rapl_dis"),
        ("nitro", {"pcr0": OneOf(bytes(48)), "debug": NO}, "nitro.debug"),
    ],
)
def test_contradictions_are_errors(section, changed, key):
    assert errors(real(section)) == []
    found = errors(real(section, **changed))
    assert [remark.key for remark in found] == [key]
    assert "want what can be together" in found[0].text


@pytest.mark.parametrize(
    "changed",
    [
        {
            "id_block": YES,
            "id_key_digest": OneOf(b"\1" * 48),
            "author_key": YES,
            "author_key_digest": OneOf(b"\2" * 48),
        },
        {"id_block": NO, "id_key_digest": OneOf(bytes(48)), "author_key": NO, "author_key_digest": OneOf(bytes(48))},
        {"guest_policy__migrate_ma": NO, "report_id_ma": OneOf(b"\xff" * 32)},
        {"signing_key": OneOf("VLEK"), "csp_id": OneOf("AWS")},
        {"masked_chip_id": NO, "chip_id": OneOf(b"\1" * 64)},
        {"version": OneOf(3, 5), "mitigations__launch": OneOf(2)},
        {"guest_policy__smt": NO, "platform_info__smt": NO},
        {"guest_policy__rapl_dis": YES, "platform_info__rapl_dis": YES},
    ],
)
def test_what_can_be_together_is_no_error(changed):
    assert errors(real("snp", **changed)) == []


def test_who_signed_is_as_good_as_what_was_measured():
    def told(**changed):
        return [remark.key for remark in lint_policy(real("snp", **changed)) if "has to run" in remark.text]

    assert told() == ["snp"]
    assert told(measurement=OneOf(b"\1" * 48)) == []
    assert told(id_key_digest=OneOf(b"\1" * 48)) == []


def test_a_product_without_a_minimum_is_told():
    levels = EachAtLeast({"Milan": {"bootloader": 1, "tee": 0, "snp": 1, "microcode": 0}})

    def told(*products):
        policy = real("snp", product=OneOf(*products), tcb__reported=levels)
        return [(remark.level, remark.text) for remark in lint_policy(policy) if remark.key == "snp.tcb.reported"]

    assert told("Milan") == []
    assert told("Milan", "Genoa") == [(Level.NOTE, "found no minimum for Genoa, so that this product is refused")]
    assert told("Genoa")[0][0] is Level.ERROR
