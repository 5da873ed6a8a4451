# SPDX-License-Identifier: Apache-2.0
"""Intel's rules for TCB levels, on small tables."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from enarx.verifier.tcb import (
    IsvLevel,
    ModuleIdentity,
    QeIdentity,
    SvnLevel,
    TcbInfo,
    appraise_tcb,
    merge_status,
)

NEW, OLD = datetime(2025, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)


def svns(*first):
    return tuple(first) + (0,) * (16 - len(first))


def level(first, status="UpToDate", *, pce=5, tdx=None, advisories=(), date=NEW):
    return SvnLevel(svns(*first), pce, None if tdx is None else svns(*tdx), date, status, tuple(advisories))


def isv(svn, status="UpToDate", advisories=(), date=NEW):
    return IsvLevel(svn, date, status, tuple(advisories))


def module(version, *levels):
    return ModuleIdentity(f"TDX_{version:02X}", bytes(48), bytes(8), b"\xff" * 8, levels)


def info(*levels, modules=()):
    tee = "SGX" if levels[0].tdx_components is None else "TDX"
    zero = ModuleIdentity("", bytes(48), bytes(8), b"\xff" * 8)
    return TcbInfo(tee, OLD, NEW, bytes(6), bytes(2), 0, 20, None if tee == "SGX" else zero, tuple(modules), levels)


def qe(*levels):
    return QeIdentity("QE", OLD, NEW, 20, bytes(4), bytes(4), bytes(16), bytes(16), bytes(32), 1, levels or (isv(5),))


def appraise(tcb_info, *, first=(9, 9), pce=5, qe_levels=(), qe_svn=5, svn=None, svn2=None):
    vectors = [None if each is None else bytes(svns(*each)) for each in (svn, svn2)]
    return appraise_tcb(tcb_info, qe(*qe_levels), svns(*first), pce, qe_svn, *vectors)


def test_the_first_level_that_every_component_reaches_counts():
    table = info(level((9, 9)), level((9, 8), "SWHardeningNeeded", advisories=("B", "A")), level((1, 1), "OutOfDate"))
    assert appraise(table).status == "UpToDate"
    found = appraise(table, first=(10, 8))
    assert (found.status, found.advisory_ids) == ("SWHardeningNeeded", ("B", "A"))
    assert appraise(table, first=(8, 200)).status == "OutOfDate"


def test_a_pce_that_is_too_old_does_not_reach_a_level():
    table = info(level((9, 9), pce=6), level((9, 9), "OutOfDate", pce=5))
    assert appraise(table, pce=6).status == "UpToDate"
    assert appraise(table, pce=5).status == "OutOfDate"


def test_no_level_is_no_status():
    found = appraise(info(level((9, 9))), first=(9, 8))
    assert (found.status, found.platform) == (None, None)
    assert appraise(info(level((9, 9))), qe_svn=4).qe is None
    assert appraise(info(level((9, 9))), qe_svn=4).status is None


@pytest.mark.parametrize(
    ("platform", "part", "merged"),
    [
        ("UpToDate", "UpToDate", "UpToDate"),
        ("SWHardeningNeeded", "UpToDate", "SWHardeningNeeded"),
        ("UpToDate", "OutOfDate", "OutOfDate"),
        ("SWHardeningNeeded", "OutOfDate", "OutOfDate"),
        ("ConfigurationNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"),
        ("ConfigurationAndSWHardeningNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"),
        ("OutOfDate", "OutOfDate", "OutOfDate"),
        ("OutOfDateConfigurationNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"),
        ("UpToDate", "Revoked", "Revoked"),
        ("Revoked", "OutOfDate", "Revoked"),
    ],
)
def test_a_part_makes_the_whole_no_better(platform, part, merged):
    assert merge_status(platform, part) == merged
    assert appraise(info(level((9, 9), platform)), qe_levels=(isv(5, part),)).status == merged


def test_a_word_that_intel_does_not_have_is_no_status():
    found = appraise(info(level((9, 9), "Splendid")))
    assert (found.status, found.unknown) == (None, {"Splendid"})
    assert appraise(info(level((9, 9))), qe_levels=(isv(5, "SWHardeningNeeded"),)).unknown == {"SWHardeningNeeded"}
    # A word at a level that the platform is not at says nothing about it.
    assert appraise(info(level((9, 9)), level((1, 1), "Splendid"))).status == "UpToDate"


def test_the_oldest_level_dates_the_platform():
    assert appraise(info(level((9, 9))), qe_levels=(isv(5, date=OLD),)).date == OLD
    assert appraise(info(level((9, 9)))).date == NEW


MODULES = (module(3, isv(3)), module(1, isv(6), isv(4, "OutOfDate", ("M",))))
TDX = info(
    level((9, 9), tdx=(5, 0, 4)),
    level((9, 9), "OutOfDate", tdx=(5, 0, 3), advisories=("P",)),
    modules=MODULES,
)


def test_the_components_of_a_versioned_module_are_in_its_identity():
    assert appraise(TDX, svn=(6, 1, 4)).status == "UpToDate"
    found = appraise(TDX, svn=(4, 1, 4))
    assert (found.status, found.advisory_ids, found.module) == ("OutOfDate", ("M",), MODULES[1].levels[1])
    assert appraise(TDX, svn=(3, 3, 4)).status == "UpToDate"


def test_the_components_of_an_unversioned_module_are_in_the_level():
    assert appraise(TDX, svn=(5, 0, 4)).status == "UpToDate"
    assert appraise(TDX, svn=(4, 0, 4)).platform is None


def test_a_module_without_a_level_is_no_status():
    for svn in ((3, 1, 4), (9, 2, 4)):
        found = appraise(TDX, svn=svn)
        assert (found.status, found.module, found.has_current) == (None, None, False)


def test_advises_a_relaunch_where_only_the_launch_was_out_of_date():
    assert appraise(TDX, svn=(4, 1, 4), svn2=(6, 1, 4)).status == "TDRelaunchAdvised"
    assert appraise(TDX, svn=(6, 1, 3), svn2=(6, 1, 4)).status == "TDRelaunchAdvised"
    assert appraise(TDX, svn=(4, 1, 4), svn2=(4, 1, 4)).status == "OutOfDate"
    assert appraise(TDX, svn=(6, 1, 4), svn2=(6, 1, 4)).status == "UpToDate"
    assert appraise(TDX, svn=(4, 1, 4), svn2=(6, 1, 4), qe_levels=(isv(5, "OutOfDate"),)).status == "OutOfDate"


def test_advises_a_relaunch_and_a_configuration():
    table = info(level((9, 9), "ConfigurationNeeded", tdx=(5, 0, 4)), modules=MODULES)
    assert appraise(table, svn=(4, 1, 4), svn2=(6, 1, 4)).status == "TDRelaunchAdvisedConfigurationNeeded"


def test_a_relaunch_cures_nothing_that_is_revoked_or_unknown():
    revoked = info(level((9, 9), tdx=(5, 0, 4)), modules=(module(1, isv(6, "Revoked"), isv(4, "OutOfDate")),))
    assert appraise(revoked, svn=(4, 1, 4), svn2=(6, 1, 4)).status == "Revoked"
    found = appraise(TDX, svn=(4, 1, 4), svn2=(6, 2, 4))
    assert (found.status, found.has_current) == (None, False)
