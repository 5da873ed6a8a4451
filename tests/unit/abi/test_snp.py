# SPDX-License-Identifier: Apache-2.0
"""AMD's layouts, each offset written down here a second time."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.abi.snp import (
    ARK_GUID,
    MAX_TABLE_ENTRIES,
    REPORT_BYTES,
    VCEK_GUID,
    VLEK_GUID,
    SnpReport,
    VekClaims,
    line_of,
    parse_certificate_table_untrusted,
    parse_report_untrusted,
    parse_sev_crate_certificates_untrusted,
    parse_vek_extensions_untrusted,
    product_of_cpuid,
    serialise_certificate_table,
    serialise_vek_extensions,
    tcb_components,
)
from enarx.errors import DecodeError

ARC = "1.3.6.1.4.1.3704.1"
FIELDS = {
    "guest_svn": (0x04, 4),
    "policy": (0x08, 8),
    "family_id": (0x10, 16),
    "image_id": (0x20, 16),
    "vmpl": (0x30, 4),
    "signature_algo": (0x34, 4),
    "current_tcb": (0x38, 8),
    "platform_info": (0x40, 8),
    "key_info": (0x48, 4),
    "report_data": (0x50, 64),
    "measurement": (0x90, 48),
    "host_data": (0xC0, 32),
    "id_key_digest": (0xE0, 48),
    "author_key_digest": (0x110, 48),
    "report_id": (0x140, 32),
    "report_id_ma": (0x160, 32),
    "reported_tcb": (0x180, 8),
    "cpuid_family": (0x188, 1),
    "cpuid_model": (0x189, 1),
    "cpuid_stepping": (0x18A, 1),
    "chip_id": (0x1A0, 64),
    "committed_tcb": (0x1E0, 8),
    "current_build": (0x1E8, 1),
    "current_minor": (0x1E9, 1),
    "current_major": (0x1EA, 1),
    "committed_build": (0x1EC, 1),
    "committed_minor": (0x1ED, 1),
    "committed_major": (0x1EE, 1),
    "launch_tcb": (0x1F0, 8),
    "launch_mit_vector": (0x1F8, 8),
    "current_mit_vector": (0x200, 8),
    "signature_r": (0x2A0, 48),
    "signature_s": (0x2E8, 48),
}


def make_data(version: int = 5, **fields: int) -> bytearray:
    """A report of zeros but for what must not be."""
    data = bytearray(REPORT_BYTES)
    struct.pack_into("<I", data, 0, version)
    struct.pack_into("<Q", data, 8, 1 << 17)
    for at, value in fields.items():
        data[int(at[1:], 16)] = value
    return data


@pytest.mark.parametrize("name", FIELDS)
def test_reads_each_field_where_it_is(name):
    offset, size = FIELDS[name]
    data = make_data()
    value = bytes(range(1, size + 1))
    data[offset : offset + size] = value
    found = getattr(parse_report_untrusted(bytes(data)), name)
    assert found == (value if isinstance(found, bytes) else int.from_bytes(value, "little"))


@given(st.sampled_from((2, 3, 5)), st.binary(min_size=REPORT_BYTES - 4, max_size=REPORT_BYTES - 4))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_writes_what_it_read(version, rest):
    data = version.to_bytes(4, "little") + rest
    report = parse_report_untrusted(data)
    assert report.serialise() == data
    assert report.signed_bytes == data[:0x2A0]
    assert isinstance(report.reserved_fields, frozenset)


@pytest.mark.parametrize("size", [0, 1, REPORT_BYTES - 1, REPORT_BYTES + 1, 4000])
def test_refuses_another_size(size):
    with pytest.raises(DecodeError, match=f"size: found {size} bytes, want 1184"):
        parse_report_untrusted(bytes(make_data() + bytes(4000))[:size])


@pytest.mark.parametrize("version", [0, 1, 4, 6, 0x02000000])
def test_refuses_a_version_nobody_described(version):
    with pytest.raises(DecodeError, match=f"version: found {version}, want 2, 3 or 5"):
        parse_report_untrusted(bytes(make_data(version)))


@pytest.mark.parametrize("version", [2, 3, 5])
def test_finds_nothing_wrong_with_reserved_fields_that_are_zero(version):
    assert parse_report_untrusted(bytes(make_data(version))).reserved_fields == frozenset()


@pytest.mark.parametrize(
    ("version", "offset", "name"),
    [
        (5, 0x0B, "policy"),
        (5, 0x0F, "policy"),
        (5, 0x48, "key_info"),
        (5, 0x4B, "key_info"),
        (5, 0x4C, "reserved_4c"),
        (5, 0x4F, "reserved_4c"),
        (5, 0x18B, "reserved_18b"),
        (5, 0x19F, "reserved_18b"),
        (5, 0x1EB, "reserved_1eb"),
        (5, 0x1EF, "reserved_1ef"),
        (5, 0x208, "reserved_208"),
        (5, 0x29F, "reserved_208"),
        (5, 0x2D0, "reserved_2d0"),
        (5, 0x2E7, "reserved_2d0"),
        (5, 0x318, "reserved_318"),
        (5, 0x32F, "reserved_318"),
        (5, 0x330, "reserved_330"),
        (5, 0x49F, "reserved_330"),
        (2, 0x188, "cpuid"),
        (2, 0x18A, "cpuid"),
        (3, 0x1F8, "mitigation vectors"),
        (3, 0x207, "mitigation vectors"),
    ],
)
def test_names_a_reserved_field_that_is_not_zero(version, offset, name):
    data = make_data(version)
    data[offset] |= 0x80
    assert parse_report_untrusted(bytes(data)).reserved_fields == {name}


def test_wants_bit_17_of_the_policy_set():
    data = make_data()
    data[0x0A] = 0
    assert parse_report_untrusted(bytes(data)).reserved_fields == {"policy"}


@pytest.mark.parametrize(("bits", "name"), [(0, "VCEK"), (1, "VLEK"), (7, "none"), (3, "unknown")])
def test_names_the_signing_key(bits, name):
    data = make_data()
    data[0x48] = bits << 2 | 0b11
    assert parse_report_untrusted(bytes(data)).signing_key == name


@pytest.mark.parametrize(
    ("family", "model", "product"),
    [
        (0x19, 0x01, "Milan"),
        (0x19, 0x0F, "Milan"),
        (0x19, 0x11, "Genoa"),
        (0x19, 0xA0, "Siena"),
        (0x19, 0x21, None),
        (0x1A, 0x02, "Turin"),
        (0x1A, 0x11, "Turin"),
        (0x1A, 0x50, None),
        (0x17, 0x31, None),
        (0, 0, None),
    ],
)
def test_tells_the_product_from_the_cpuid(family, model, product):
    assert product_of_cpuid(family, model) == product
    data = make_data(3, x188=family, x189=model)
    assert parse_report_untrusted(bytes(data)).product == product
    assert parse_report_untrusted(bytes(data)[:0].join([b"\2", bytes(data)[1:]])).product is None


@pytest.mark.parametrize(
    ("name", "line"),
    [("Milan-B0", "Milan"), ("Genoa", "Genoa"), ("Siena-B1", "Genoa"), ("Bergamo", "Genoa"), ("Turin", "Turin")],
)
def test_tells_the_line_from_a_product_name(name, line):
    assert line_of(name) == line


def test_knows_no_line_of_an_unknown_product():
    assert line_of("Venice-A0") is None
    assert line_of("") is None


def test_reads_the_components_of_a_tcb_where_the_product_has_them():
    tcb = bytes(range(10, 18))
    classic = {"bootloader": 10, "tee": 11, "snp": 16, "microcode": 17}
    assert tcb_components(tcb, "Milan") == tcb_components(tcb, "Genoa") == tcb_components(tcb, "Siena") == classic
    assert tcb_components(tcb, "Turin") == {"fmc": 10, "bootloader": 11, "tee": 12, "snp": 13, "microcode": 17}
    assert tcb_components(tcb, None) is tcb_components(tcb, "Venice") is None


# The certificate table.

TABLE = ((VCEK_GUID, b"0vcek"), (ARK_GUID, b"0ark"), ("00112233-4455-6677-8899-aabbccddeeff", b"x"))


def test_writes_a_table_that_reads_back():
    data = serialise_certificate_table(TABLE)
    assert data[:16].hex() == VCEK_GUID.replace("-", "")
    assert data[16:24] == struct.pack("<II", 4 * 24, 5)
    assert parse_certificate_table_untrusted(data) == TABLE
    assert parse_certificate_table_untrusted(data + bytes(4096)) == TABLE


def test_reads_an_empty_table():
    assert parse_certificate_table_untrusted(bytes(24)) == ()


def entry(offset: int, size: int, guid: bytes = b"g" * 16) -> bytes:
    return struct.pack("<16sII", guid, offset, size)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "no last entry"),
        (bytes(23), "no last entry"),
        (entry(24, 1), "no last entry"),
        (entry(47, 1) + bytes(25), "at 47 with 1 bytes"),
        (entry(48, 2) + bytes(25), "at 48 with 2 bytes"),
        (entry(48, 0) + bytes(25), "at 48 with 0 bytes"),
        (entry(0xFFFFFFFF, 0xFFFFFFFF) + bytes(25), "at 4294967295"),
        (entry(72, 1) * 2 + bytes(25), "twice"),
        (
            b"".join(entry(9999, 1, bytes([n]) * 16) for n in range(1, MAX_TABLE_ENTRIES + 2)) + bytes(24),
            "more than 64",
        ),
        (bytes((1 << 20) + 1), "1048577 bytes"),
    ],
)
def test_refuses_a_table_that_is_none(data, found):
    with pytest.raises(DecodeError, match=found):
        parse_certificate_table_untrusted(data)


def crate(*entries: tuple[int, bytes, bytes]) -> bytes:
    """What tools on the `sev` crate write: kind, GUID or nothing, content."""
    data = struct.pack("<Q", len(entries))
    for kind, guid, content in entries:
        data += struct.pack("<I", kind)
        data += struct.pack("<Q", 16) + guid if guid else b""
        data += struct.pack("<Q", len(content)) + content
    return data


def test_reads_certificates_as_the_sev_crate_writes_them():
    guid = bytes.fromhex(VLEK_GUID.replace("-", ""))
    data = crate((3, guid, b"0vlek"), (1, b"", b"0ask"))
    assert parse_sev_crate_certificates_untrusted(data) == ((VLEK_GUID, b"0vlek"), ("", b"0ask"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack("<Q", 0),
        struct.pack("<Q", 1 << 63),
        crate((1, b"", b"0ask")) + b"\0",
        crate((1, b"", b"0ask"))[:-1],
        crate((17, b"", b"0ask")),
        crate((1, b"", b"")),
        crate((3, b"g" * 16, b"")),
    ],
)
def test_refuses_what_the_sev_crate_does_not_write(data):
    with pytest.raises(DecodeError):
        parse_sev_crate_certificates_untrusted(data)


@given(st.binary(max_size=200), st.sampled_from((b"", serialise_certificate_table(TABLE), crate((1, b"", b"0ask")))))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_reads_any_table_or_says_why_not(data, seed):
    mixed = seed[: len(seed) // 2] + data + seed[len(seed) // 2 :]
    for parse in (parse_certificate_table_untrusted, parse_sev_crate_certificates_untrusted):
        try:
            entries = parse(mixed)
        except DecodeError:
            continue
        assert all(content for _, content in entries)


# VEK certificates.

MILAN = VekClaims("VCEK", "Milan-B0", 0, bytes((3, 0, 0, 0, 0, 0, 8, 200)), False, bytes(range(64)), None)
TURIN = VekClaims("VCEK", "Turin", 1, bytes((1, 1, 1, 4, 0, 0, 0, 81)), True, bytes(range(8)), None)
VLEK = VekClaims("VLEK", "Milan", 0, bytes((3, 0, 0, 0, 0, 0, 8, 200)), False, None, "CN=cc-us-east-2.amazonaws.com")


@pytest.mark.parametrize("claims", [MILAN, TURIN, VLEK])
def test_writes_extensions_that_read_back(claims):
    assert parse_vek_extensions_untrusted(dict(serialise_vek_extensions(claims))) == claims


def test_pads_the_hwid_of_turin_to_a_chip_id():
    assert TURIN.chip_id == bytes(range(8)) + bytes(56)
    assert MILAN.chip_id == MILAN.hwid
    assert VLEK.chip_id is None


def test_reads_a_hwid_inside_an_octet_string():
    values = dict(serialise_vek_extensions(MILAN)) | {f"{ARC}.4": b"\x04\x40" + bytes(range(64))}
    assert parse_vek_extensions_untrusted(values) == MILAN
    values = dict(serialise_vek_extensions(TURIN)) | {f"{ARC}.4": b"\x04\x08" + bytes(range(8))}
    assert parse_vek_extensions_untrusted(values) == TURIN


def test_takes_a_missing_reserved_component_for_zero():
    values = dict(serialise_vek_extensions(MILAN))
    del values[f"{ARC}.3.4"]
    assert parse_vek_extensions_untrusted(values) == MILAN


@pytest.mark.parametrize("oid", ["1", "2", "3.1", "3.2", "3.3", "3.8", "4"])
def test_refuses_a_certificate_without_an_extension(oid):
    values = dict(serialise_vek_extensions(MILAN))
    del values[f"{ARC}.{oid}"]
    with pytest.raises(DecodeError, match=r"found (none|neither)"):
        parse_vek_extensions_untrusted(values)


@pytest.mark.parametrize(
    ("oid", "value"),
    [
        ("3.1", ""),
        ("3.1", "0201"),
        ("3.1", "020180"),  # -128
        ("3.1", "02020003"),  # not the shortest
        ("3.1", "02020103"),  # 259
        ("3.1", "0203000080"),
        ("3.1", "02010300"),
        ("3.1", "040103"),
        ("2", ""),
        ("2", "1600"),
        ("2", "1603414200"),
        ("2", "16024100"),
        ("2", "160241ff"),
        ("2", "0402" + "4142"),
        ("2", "168180" + "41" * 128),
        ("4", "00" * 63),
        ("4", "0441" + "00" * 64),
        ("4", ""),
        ("5", "160141"),  # a provider beside a chip
    ],
)
def test_refuses_an_extension_that_is_not_well_formed(oid, value):
    values = dict(serialise_vek_extensions(MILAN)) | {f"{ARC}.{oid}": bytes.fromhex(value)}
    with pytest.raises(DecodeError, match="cannot decode a VCEK or VLEK certificate"):
        parse_vek_extensions_untrusted(values)


def test_refuses_both_layouts_at_once():
    values = dict(serialise_vek_extensions(TURIN)) | {f"{ARC}.3.4": b"\x02\x01\x01"}
    with pytest.raises(DecodeError, match="spl4"):
        parse_vek_extensions_untrusted(values)


@given(st.dictionaries(st.sampled_from(sorted(dict(serialise_vek_extensions(MILAN)))), st.binary(max_size=70)))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_reads_any_extensions_or_says_why_not(values):
    try:
        claims = parse_vek_extensions_untrusted(dict(serialise_vek_extensions(MILAN)) | values)
    except DecodeError:
        return
    assert len(claims.tcb) == 8


def test_a_report_has_as_many_bytes_as_its_fields():
    assert len(SnpReport(*parse_report_untrusted(bytes(make_data()))).serialise()) == REPORT_BYTES
