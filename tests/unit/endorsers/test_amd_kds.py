# SPDX-License-Identifier: Apache-2.0
"""How questions to AMD KDS are spelled, and which answers are answers to them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from enarx.endorsers import amd_kds
from enarx.errors import DecodeError, EndorsementError

from .conftest import CHIP, NOW, TCB, TURIN_CHIP, TURIN_TCB, Amd

BASE = "https://mirror.example/amd"


def test_spells_a_vcek_as_each_line_does():
    query = "blSPL=03&teeSPL=00&snpSPL=08&ucodeSPL=115"
    for line in ("Milan", "Genoa"):
        wanted = amd_kds.vcek_wanted(BASE, line, CHIP, TCB)
        assert wanted.url == f"{BASE}/vcek/v1/{line}/{CHIP.hex()}?{query}"
        assert wanted.key == f"https://kdsintf.amd.com/vcek/v1/{line}/{CHIP.hex()}?{query}"
    wanted = amd_kds.vcek_wanted(BASE, "Turin", TURIN_CHIP, TURIN_TCB)
    assert wanted.url == (f"{BASE}/vcek/v1/Turin/0102030405060708?fmcSPL=01&blSPL=02&teeSPL=03&snpSPL=04&ucodeSPL=75")


def test_spells_chains_and_lists():
    assert amd_kds.chain_wanted(BASE, "Genoa").url == BASE + "/vcek/v1/Genoa/cert_chain"
    assert amd_kds.chain_wanted(BASE, "Genoa", "vlek").url == BASE + "/vlek/v1/Genoa/cert_chain"
    assert amd_kds.crl_wanted(BASE, "Turin").url == BASE + "/vcek/v1/Turin/crl"
    assert amd_kds.crl_wanted(BASE, "Turin", "vlek").url == BASE + "/vlek/v1/Turin/crl"


def test_tries_lines_by_the_size_of_the_chip_id():
    assert amd_kds.lines_to_try(CHIP) == ("Milan", "Genoa")
    assert amd_kds.lines_to_try(TURIN_CHIP) == ("Turin",)


def test_refuses_a_masked_chip_id_and_an_unknown_line():
    with pytest.raises(EndorsementError, match="masks it"):
        amd_kds.vcek_wanted(BASE, "Milan", bytes(64), TCB)
    for make in (amd_kds.chain_wanted, amd_kds.crl_wanted):
        with pytest.raises(EndorsementError, match="found Rome, want one of Milan, Genoa, Turin"):
            make(BASE, "Rome")


def test_accepts_the_vcek_that_was_asked_for(amd, turin):
    der = amd.vek()
    content = amd_kds.vcek_wanted(BASE, "Milan", CHIP, TCB).accept(der, {})
    assert content == (der, NOW - timedelta(days=100), NOW + timedelta(days=2000))
    der = turin.vek(TURIN_CHIP, TURIN_TCB)
    assert amd_kds.vcek_wanted(BASE, "Turin", TURIN_CHIP, TURIN_TCB).accept(der, {}).value == der


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"chip": bytes(63) + b"\x01"}, "another chip"),
        ({"tcb": TCB[:7] + b"\x01"}, "TCB"),
        ({"tcb": b"\x04" + TCB[1:]}, "TCB"),
        ({"product": "Genoa"}, "Genoa"),
        ({"provider": "CN=cloud"}, "a VLEK of CN=cloud"),
    ],
)
def test_refuses_a_vcek_that_was_not_asked_for(amd, change, problem):
    wanted = amd_kds.vcek_wanted(BASE, "Milan", CHIP, TCB)
    with pytest.raises(DecodeError, match=problem):
        wanted.accept(amd.vek(**change), {})


@pytest.mark.parametrize("garbage", [b"", b"<html>busy</html>", b"\x30\x82\x05\x00", b"\x30" + bytes(900)])
def test_refuses_garbage(garbage):
    for wanted in (
        amd_kds.vcek_wanted(BASE, "Milan", CHIP, TCB),
        amd_kds.chain_wanted(BASE, "Milan"),
        amd_kds.crl_wanted(BASE, "Milan"),
    ):
        with pytest.raises(DecodeError):
            wanted.accept(garbage, {})


def test_refuses_a_certificate_that_names_no_chip(amd):
    with pytest.raises(DecodeError):
        amd_kds.vcek_wanted(BASE, "Milan", CHIP, TCB).accept(amd.ask, {})


def test_accepts_the_chain_of_the_line_and_the_key(amd):
    assert amd_kds.chain_wanted(BASE, "Milan").accept(amd.chain(), {}).value == (amd.ask, amd.ark)
    assert amd_kds.chain_wanted(BASE, "Milan", "vlek").accept(amd.chain(vlek=True), {}).value == (amd.asvk, amd.ark)
    for line, key in (("Genoa", "vcek"), ("Milan", "vlek")):
        with pytest.raises(DecodeError, match="found certificates of SEV-Milan, ARK-Milan"):
            amd_kds.chain_wanted(BASE, line, key).accept(amd.chain(), {})


def test_accepts_the_list_of_the_line(amd):
    der = amd.crl()
    content = amd_kds.crl_wanted(BASE, "Milan").accept(der, {})
    assert content == (der, NOW - timedelta(days=30), NOW + timedelta(days=30))
    with pytest.raises(DecodeError, match="list of ARK-Genoa"):
        amd_kds.crl_wanted(BASE, "Milan").accept(Amd("Genoa").crl(), {})


@pytest.mark.parametrize(("chip", "tcb"), [(CHIP[:63], TCB), (CHIP, TCB + b"\x00")])
def test_refuses_fields_of_another_size(chip, tcb):
    with pytest.raises(ValueError, match="want 64 and 8"):
        amd_kds.vcek_wanted(BASE, "Milan", chip, tcb)
