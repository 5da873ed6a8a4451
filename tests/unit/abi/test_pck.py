# SPDX-License-Identifier: Apache-2.0
"""The SGX extension of PCK certificates."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.abi.pck import PckExtension, parse_pck_extension_untrusted
from enarx.errors import DecodeError
from enarx.testing.dcap import Platform, make_sgx_extension

GOOD = make_sgx_extension(Platform())


def test_reads_every_field():
    platform = Platform()
    assert parse_pck_extension_untrusted(GOOD) == PckExtension(
        ppid=platform.ppid,
        components=platform.components,
        pce_svn=platform.pce_svn,
        cpu_svn=bytes(platform.components),
        pce_id=platform.pce_id,
        fmspc=platform.fmspc,
        sgx_type="Scalable",
        platform_instance_id=platform.instance_id,
        dynamic_platform=True,
        cached_keys=True,
        smt_enabled=True,
    )


def test_a_platform_of_one_package_says_less():
    found = parse_pck_extension_untrusted(make_sgx_extension(Platform(instance_id=None)))
    assert (found.platform_instance_id, found.dynamic_platform, found.cached_keys, found.smt_enabled) == (None,) * 4


@pytest.mark.parametrize("number", [0, 127, 128, 255, 256, 32767, 32768, 65535])
def test_reads_numbers_in_their_shortest_form(number):
    assert parse_pck_extension_untrusted(make_sgx_extension(Platform(pce_svn=number))).pce_svn == number


def test_refuses_a_number_in_a_longer_form():
    short = bytes.fromhex("060b2a864886f84d010d01021102010f")
    long = bytes.fromhex("060b2a864886f84d010d0102110202000f")
    assert short in GOOD
    inner = GOOD.replace(b"\x30\x10" + short, b"\x30\x11" + long)
    with pytest.raises(DecodeError):
        parse_pck_extension_untrusted(inner)


def test_refuses_a_field_twice_or_missing_and_anything_after():
    fields = GOOD[4:]
    ppid = fields[: 2 + fields[1]]

    def wrap(content):
        return b"\x30\x82" + len(content).to_bytes(2, "big") + content

    assert parse_pck_extension_untrusted(wrap(fields)) == parse_pck_extension_untrusted(GOOD)
    for data, what in (
        (wrap(fields + ppid), "twice"),
        (wrap(fields.removeprefix(ppid)), "field 1: found none"),
        (GOOD + b"\0", "outermost"),
        (b"", "a value"),
        (bytes(5000), "size"),
    ):
        with pytest.raises(DecodeError, match=what):
            parse_pck_extension_untrusted(data)


def test_skips_fields_that_intel_may_add():
    added = bytes.fromhex("3010060a2a864886f84d010d010904020000")
    fields = GOOD[4:] + added[:1] + bytes([len(added) - 2]) + added[2:]
    data = b"\x30\x82" + len(fields).to_bytes(2, "big") + fields
    assert parse_pck_extension_untrusted(data) == parse_pck_extension_untrusted(GOOD)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=4))
def test_any_bytes_are_an_extension_or_a_decode_error(offset, patch):
    try:
        parse_pck_extension_untrusted(GOOD[:offset] + patch + GOOD[offset + len(patch) :])
    except DecodeError:
        return
