# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.abi.hcl import parse_hcl_report_untrusted, serialise_hcl_report
from enarx.errors import DecodeError
from enarx.testing.tpm import make_hcl_report
from tests.evidence import cases, needs_evidence, read

HARDWARE = bytes(range(256)) * 4
RUNTIME = b'{"keys":[]}'
REPORT = make_hcl_report(HARDWARE, RUNTIME, report_type=4)


def patched(at, data):
    return REPORT[:at] + data + REPORT[at + len(data) :]


@pytest.mark.parametrize(("kind", "tee", "at"), [(2, "snp", 0x50), (4, "tdx", 0x80)])
@pytest.mark.parametrize(("hash_type", "name"), [(1, "sha256"), (2, "sha384"), (3, "sha512")])
def test_reads_and_writes_a_report(kind, tee, at, hash_type, name):
    data = make_hcl_report(HARDWARE, RUNTIME, report_type=kind, hash_type=hash_type)
    report = parse_hcl_report_untrusted(data)
    assert (report.tee, report.hash, report.runtime_data) == (tee, name, RUNTIME)
    assert report.report_data == HARDWARE[at : at + 64]
    assert serialise_hcl_report(report) == data


@pytest.mark.parametrize(
    ("data", "subject"),
    [
        (patched(0, b"HCLB"), "magic"),
        (patched(4, b"\3"), "version"),
        (patched(8, b"\0"), "sizes"),
        (patched(12, b"\1"), "request type"),
        (patched(16, b"\1"), "status"),
        (patched(31, b"\1"), "zeros"),
        (patched(0x4C0, b"\0"), "sizes"),
        (patched(0x4C4, b"\2"), "runtime data version"),
        (patched(0x4C8, b"\3"), "report type"),
        (patched(0x4CC, b"\0"), "hash type"),
        (patched(0x4D0, struct.pack("<I", 0xFFFFFFFF)), "sizes"),
        (patched(0x4D0, struct.pack("<I", len(RUNTIME) - 1)), "sizes"),
        (patched(2599, b"\1"), "padding"),
        (patched(32 + 1024, b"\1"), "TDREPORT"),
        (b"", "size"),
        (REPORT + bytes(8000), "size"),
    ],
)
def test_refuses_what_is_no_report(data, subject):
    parse_hcl_report_untrusted(REPORT)
    with pytest.raises(DecodeError, match=subject):
        parse_hcl_report_untrusted(data)


def test_refuses_a_truncated_report():
    end = 0x4D4 + len(RUNTIME)
    assert parse_hcl_report_untrusted(REPORT[:end]).padding == 0
    for size in (0, 31, 1183, 0x4D4, end - 1):
        with pytest.raises(DecodeError):
            parse_hcl_report_untrusted(REPORT[:size])


@pytest.mark.parametrize(
    "case", [case for case in cases("azure") if "hcl_report" in case["inputs"]], ids=lambda case: case["id"]
)
def test_reads_real_reports(case):
    data = read(case["inputs"]["hcl_report"])
    report = parse_hcl_report_untrusted(data)
    assert report.report_type == case["claims"]["hcl_report_type"]
    assert hashlib.sha256(report.runtime_data).hexdigest() == case["claims"]["runtime_data_sha256"]
    assert report.report_data == hashlib.sha256(report.runtime_data).digest().ljust(64, b"\0")
    assert serialise_hcl_report(report) == data


@needs_evidence
def test_refuses_what_older_virtual_machines_had():
    with pytest.raises(DecodeError):
        parse_hcl_report_untrusted(read("azure/raw-kinvolk/quote.bin"))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, len(REPORT) - 1), st.binary(max_size=8))
def test_any_bytes_are_a_report_or_a_decode_error(at, change):
    with contextlib.suppress(DecodeError):
        parse_hcl_report_untrusted(patched(at, change))
