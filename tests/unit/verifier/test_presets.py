# SPDX-License-Identifier: Apache-2.0
"""Presets: dated, sourced, and for the keys they are for."""

from __future__ import annotations

import glob
import itertools
import json
import re
from datetime import date

import pytest

from enarx.verifier.grammar import ByProduct, Maximum, Minimum
from enarx.verifier.policy_toml import decode_value
from enarx.verifier.presets import PRESETS, expand_preset, presets_for, recommended_preset
from tests.evidence import cases, evidence_path, needs_evidence
from tests.unit.verifier.policy_rules import RULES, TCB, rule

TCB_RULE = rule("snp.reported_tcb", TCB, None)
NUMBER_RULE = rule("tdx.tcb_evaluation_data_number", Minimum(65535), None)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_every_preset_has_a_date_and_sources(preset):
    assert re.fullmatch(r"(amd|intel)-\d{4}-\d{2}", preset.name)
    assert preset.date.startswith(preset.name.partition("-")[2])
    assert date.fromisoformat(preset.date) < date(2026, 11, 21)
    assert preset.sources
    for source in preset.sources:
        assert source.url.startswith(("https://www.amd.com/", "https://api.trustedservices.intel.com/"))
        assert source.title
        assert source.says
    assert bool(preset.by_product) != bool(preset.numbers)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_every_number_stands_in_a_source(preset):
    said = " ".join(source.says for source in preset.sources)
    for product, minima in preset.by_product.items():
        for minimum in minima.values():
            assert f"0x{minimum:02X} on" in said
            assert product in said
    for number in preset.numbers.values():
        assert f"number {number} " in said


def test_newer_presets_are_never_weaker():
    for vendor in ("amd", "intel"):
        presets = [preset for preset in PRESETS.values() if preset.name.startswith(vendor)]
        assert [preset.date for preset in presets] == sorted(preset.date for preset in presets)
        for older, newer in itertools.pairwise(presets):
            assert all(newer.numbers[key] > value for key, value in older.numbers.items())
            for product, minima in older.by_product.items():
                assert all(newer.by_product[product][name] >= value for name, value in minima.items())


def test_a_preset_fills_in_what_no_bulletin_names():
    assert expand_preset("amd-2025-02", TCB_RULE) == {"Milan": {"bootloader": 0, "tee": 0, "snp": 24, "microcode": 0}}


def test_a_product_of_no_preset_is_refused():
    expectation = decode_value(TCB_RULE, {"preset": "amd-2025-02"})
    levels = {"fmc": 9, "bootloader": 9, "tee": 9, "snp": 255, "microcode": 9}
    assert expectation.holds(("Milan", levels))
    assert not expectation.holds(("Milan", levels | {"snp": 23}))
    assert not expectation.holds(("Turin", levels))
    assert not expectation.holds(("Siena", levels))


def test_presets_are_for_keys_of_their_kind():
    assert [preset.name for preset in presets_for(TCB_RULE)] == ["amd-2025-02", "amd-2026-04", "amd-2026-05"]
    assert presets_for(NUMBER_RULE)[-1].name == "intel-2026-02"
    assert presets_for(rule("tdx.isv_svn", Minimum(65535), None)) == ()
    assert presets_for(rule("tdx.tcb_evaluation_data_number", Maximum(65535), None)) == ()
    assert presets_for(rule("snp.tcb", ByProduct({"Venice": {"snp": 255}}), None)) == ()
    assert presets_for(rule("snp.tcb", ByProduct({"Milan": {"spl": 255}}), None)) == ()


def test_what_is_recommended_is_what_the_vendor_answers_with():
    assert recommended_preset(TCB_RULE).name == "amd-2026-05"
    assert recommended_preset(NUMBER_RULE).name == "intel-2025-05"
    assert recommended_preset(RULES["snp"][0]) is None


@pytest.mark.parametrize(
    ("name", "key", "words"),
    [
        ("amd-2031-01", TCB_RULE, "which does not exist, want one of amd-2025-02, amd-2026-04, amd-2026-05"),
        ("intel-2024-03", TCB_RULE, "which is not for this key, want one of amd"),
        ("amd-2025-02", RULES["snp"][0], "which is not for this key, want a list of 48-byte values"),
    ],
)
def test_refuses_another_name(name, key, words):
    with pytest.raises(ValueError, match=words):
        expand_preset(name, key)


@needs_evidence
def test_intel_signed_the_dates():
    numbers = {number: preset.date for preset in PRESETS.values() for number in preset.numbers.values()}
    confirmed = set()
    for path in glob.glob(evidence_path("*/collateral/*/tcb_info.json")):
        with open(path, encoding="utf-8") as file:
            info = json.load(file)
        info = info.get("tcbInfo", info)
        number = info["tcbEvaluationDataNumber"]
        if number in numbers:
            assert max(level["tcbDate"] for level in info["tcbLevels"])[:10] == numbers[number]
            confirmed.add(number)
    assert confirmed == set(numbers)


@needs_evidence
def test_real_processors_reach_the_minima():
    """What a bulletin names is on some machine: the number is no slip of the pen."""
    seen = {}
    for case in cases("snp"):
        claims = case.get("claims") or {}
        if case["verdict"] == "valid" and claims.get("vek_tcb") and claims.get("product"):
            product = claims["product"].partition("-")[0]
            seen.setdefault(product, set()).add(claims["vek_tcb"]["snp"])
    assert PRESETS["amd-2025-02"].by_product["Milan"]["snp"] in seen["Milan"]
    assert PRESETS["amd-2025-02"].by_product["Genoa"]["snp"] in seen["Genoa"]
    assert PRESETS["amd-2026-04"].by_product["Milan"]["snp"] in seen["Milan"]
    assert PRESETS["amd-2026-04"].by_product["Turin"]["snp"] in seen["Turin"]
