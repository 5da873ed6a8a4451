# SPDX-License-Identifier: Apache-2.0
"""What firmware measures of a machine's shape, and its pieces against what real TDs said."""

from __future__ import annotations

import hashlib
import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.abi.event_log import EV_NO_ACTION, parse_event_log_untrusted
from enarx.errors import DecodeError
from enarx.image import measure_shape
from enarx.image.measure import secure_boot_events
from enarx.image.measure_firmware import added_memory, configuration_volume, vendor_and_date
from enarx.image.measure_shape import Shape, blobs_of, pcr1_events, rtmr0_events, td_hob
from tests.evidence import needs_evidence, read
from tests.unit.image.machine_files import VERSION, guid, make_firmware

MIB = 1 << 20
SAID = "".join(f"{text}\0" for text in ("ACME distribution of EDK II", "09/26/2026", "02/02/2022")).encode("utf-16-le")
TDX = (
    (0xFFFF8000, 0x8000, 0, 0x8000, 1),
    (0xFFFF0000, 0x1000, 0x100, 0x200, 0, 1),
    (0x810000, 0x10000, 0, 0, 0, 3),
    (0x809000, 0x2000, 0, 0, 0, 2),
)
KNOWS = b"QEMU FW CFG\0" + guid("d27fed59-abb4-4fed-bead-2a878c7e4a7e")
FIRMWARE = make_firmware(b"pei" + bytes(3) + SAID, b"dxe" + KNOWS, tdx=TDX)


def structure(kind, body, *strings):
    texts = b"".join(text + b"\0" for text in strings) or b"\0"
    return bytes([kind, 4 + len(body), 7, 0]) + body + texts + b"\0"


def allocate(name):
    return struct.pack("<I56sIB63x", 1, name.encode(), 16, 1)


END = structure(127, b"")
SYSTEM = structure(1, bytes([1, 2, 0, 3]) + b"u" * 16 + bytes([6]), b"QEMU", b"pc", b"serial")
PROCESSOR = structure(4, bytes(range(1, 39)), b"a", b"b")
LOADER = allocate("etc/acpi/rsdp") + struct.pack("<I124x", 3) + allocate("etc/acpi/tables") + bytes(128)


def e820(*entries):
    return b"".join(struct.pack("<QQI", *entry) for entry in entries)


FILES = {
    "etc/table-loader": LOADER,
    "etc/acpi/rsdp": b"rsdp",
    "etc/acpi/tables": b"tables",
    "etc/smbios/smbios-tables": SYSTEM + END,
    "etc/e820": e820((0, 512 * MIB, 1), (0xFEFFC000, 0x4000, 2)),
    "BootMenu": bytes(2),
    "bootorder": b"/rom@genroms/linuxboot_dma.bin\0",
}


def digests(events):
    return [event.digest for event in events]


def sha384(data):
    return hashlib.sha384(data).digest()


# --- Against real TDs


@needs_evidence
def test_secure_boot_without_keys_is_what_a_real_td_says():
    """The log of a TD under QEMU, whose firmware could ask for signatures and has no keys."""
    log = parse_event_log_untrusted(read("tdx/eventlog/ccel-aael-alibaba.bin"))
    said = [event.digests["sha384"] for event in log.events if event.register == 1 and event.type != EV_NO_ACTION]
    firmware = make_firmware(b"pei" + bytes(3) + "SecureBootEnable\0".encode("utf-16-le"), tdx=TDX)
    assert digests(secure_boot_events(firmware, "sha384")) == said[2:8]


@needs_evidence
def test_acpi_data_comes_in_the_order_of_a_real_td():
    log = parse_event_log_untrusted(read("tdx/eventlog/ccel-aael-alibaba.bin"))
    names = [
        event.data.partition(b"\0")[0].decode() for event in log.events if event.register == 1 and event.type == 0xA
    ]
    assert names == ["etc/table-loader", *blobs_of(LOADER)]


# --- The order


def test_pcr_1_is_acpi_smbios_boot_variables_and_a_separator():
    events = pcr1_events(Shape(FILES), FIRMWARE)
    hashed = [hashlib.sha256(data).digest() for data in (LOADER, b"rsdp", b"tables")]
    assert digests(events)[:3] == hashed
    assert len(events) == 8
    # BootOrder: the first and the second.
    assert digests(events)[4] == hashlib.sha256(bytes([0, 0, 1, 0])).digest()
    assert digests(events)[-1] == hashlib.sha256(bytes(4)).digest()
    assert {event.part for event in events} == {measure_shape.SHAPE}


def test_rtmr0_has_memory_variables_and_configuration_before():
    events = rtmr0_events(Shape(FILES), FIRMWARE)
    assert digests(events)[:4] == [
        sha384(td_hob(Shape(FILES), FIRMWARE)),
        sha384(FIRMWARE[0x100:0x300]),
        sha384(bytes(2)),
        sha384(FILES["bootorder"]),
    ]
    assert events[4:10] == secure_boot_events(FIRMWARE, "sha384")
    assert digests(events)[10:13] == [sha384(data) for data in (LOADER, b"rsdp", b"tables")]
    assert len(events) == 17


@pytest.mark.parametrize(
    ("files", "more"),
    [
        ({"etc/extra-pci-roots": bytes(8)}, 1),
        ({"etc/extra-pci-roots": bytes(4)}, 0),
        ({"etc/boot-menu-wait": bytes(2), "etc/reserved-memory-end": bytes(8), "opt/ovmf/X-PciMmio64Mb": b"1"}, 3),
        ({"bootorder": b""}, -1),
        ({"opt/other": b"x"}, 0),
    ],
)
def test_configuration_is_measured_where_it_is_used(files, more):
    assert len(rtmr0_events(Shape(FILES | files), FIRMWARE)) == 17 + more


@pytest.mark.parametrize(
    "name", ["etc/table-loader", "etc/acpi/rsdp", "etc/acpi/tables", "etc/smbios/smbios-tables", "etc/e820"]
)
def test_what_qemu_did_not_say_is_named(name):
    shape = Shape({known: data for known, data in FILES.items() if known != name})
    with pytest.raises(DecodeError, match=f"found no {name}, want what QEMU has"):
        rtmr0_events(shape, FIRMWARE)


def test_firmware_that_measures_neither_configuration_nor_smbios_has_fewer_events():
    firmware = make_firmware(b"pei" + bytes(3) + SAID, tdx=TDX)
    events = rtmr0_events(Shape(FILES), firmware)
    assert len(events) == 17 - 3
    assert events[2:8] == secure_boot_events(firmware, "sha384")
    assert len(pcr1_events(Shape(FILES), firmware)) == 7


# --- The list of memory


def hobs(data):
    """Return kind, start and bytes of each resource, and what the head says."""
    head = struct.unpack_from("<HHIII32xQ", data)
    assert head[:5] == (1, 56, 0, 9, 0)
    found = []
    for at in range(56, len(data), 48):
        kind, size, _, resource, attributes, start, length = struct.unpack_from("<HHI16xIIQQ", data, at)
        assert (kind, size, attributes) == (3, 48, 7)
        found.append((resource, start, length))
    return found, head[5]


def test_memory_that_is_added_is_not_to_be_accepted():
    found, end = hobs(td_hob(Shape(FILES), FIRMWARE))
    assert found == [
        (7, 0, 0x809000),
        (0, 0x809000, 0x2000),
        (7, 0x80B000, 0x5000),
        (0, 0x810000, 0x10000),
        (7, 0x820000, 512 * MIB - 0x820000),
    ]
    # Where the list is, and the end of it, which is not measured.
    assert end == 0x809000 + 56 + 5 * 48 + 8


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 1 << 12)), max_size=6), st.integers(1, 1 << 20))
def test_no_memory_is_lost_or_counted_twice(added, size):
    tdx = ((0x809000, 0x2000, 0, 0, 0, 2), *((page << 12, pages << 12, 0, 0, 0, 3) for page, pages in added))
    memory = e820((0, size << 12, 1), (1 << 32, size << 12, 1))
    found, _ = hobs(td_hob(Shape({"etc/e820": memory}), make_firmware(tdx=tdx)))
    assert sum(length for _, _, length in found) == 2 * size << 12
    assert all(one[1] + one[2] <= other[1] for one, other in pairwise(found))


# --- SMBIOS


def measured(tables, firmware=FIRMWARE):
    (data,) = measure_shape._smbios(Shape(FILES | {"etc/smbios/smbios-tables": tables}), firmware)
    return data


def test_what_differs_between_equal_machines_is_left_out():
    data = measured(SYSTEM + END)
    assert data.startswith(structure(1, bytes([1, 2, 0, 0]) + bytes(17), b"QEMU", b"pc", b" " * 6))
    other = structure(1, bytes([1, 2, 0, 3]) + b"v" * 16 + bytes([2]), b"QEMU", b"pc", b"SERIAL")
    assert measured(other + END) == data
    assert measured(other.replace(b"pc", b"PC") + END) != data


def test_a_processor_is_measured_without_its_counts_voltage_and_speed():
    (formatted,) = (entry for entry, _ in measure_shape._structures(measured(PROCESSOR + END)) if entry[0] == 4)
    changed = {at for at in range(4, 42) if formatted[at] != PROCESSOR[at]}
    assert changed == {0x11, 0x16, 0x17, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25}


def test_firmware_says_who_made_it_after_qemus_tables():
    texts = b"ACME distribution of EDK II\0" + VERSION.encode() + b"\x0009/26/2026\0\0"
    assert measured(END).startswith(b"\0\x1a\0\0\1\2\0\xe8")
    assert texts in measured(END)
    # Where QEMU has such a table, that one stays.
    assert texts not in measured(structure(0, bytes(20)) + END)


def test_tables_of_makers_and_of_strings_are_empty():
    for kind in (11, 128, 255):
        assert measured(structure(kind, b"body", b"text") + END).startswith(bytes([kind, 8, 7, 0]) + bytes(10))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_any_tables_are_measured_or_refused(data):
    for function in (measured, lambda loader: blobs_of(loader * 2)):
        try:
            function(data)
        except DecodeError:
            continue


# --- Firmware


def test_firmware_has_one_volume_and_one_list():
    assert configuration_volume(FIRMWARE) == FIRMWARE[0x100:0x300]
    assert added_memory(FIRMWARE) == (0x809000, ((0x810000, 0x10000), (0x809000, 0x2000)))
    with pytest.raises(DecodeError, match="found 2 configuration volumes, want one"):
        configuration_volume(make_firmware(tdx=(*TDX, TDX[1])))
    with pytest.raises(DecodeError, match="found 0 lists of memory, want one"):
        added_memory(make_firmware(tdx=TDX[:2]))
    with pytest.raises(DecodeError, match="found none, want firmware built for TDX"):
        configuration_volume(make_firmware())


def test_who_made_firmware_is_what_it_says_and_not_what_the_source_says():
    assert vendor_and_date(FIRMWARE) == ("ACME distribution of EDK II", "09/26/2026")
    plain = make_firmware(b"pei" + bytes(3) + "EDK II\x0002/02/2022\0".encode("utf-16-le"))
    assert vendor_and_date(plain) == ("EDK II", "02/02/2022")
    with pytest.raises(DecodeError, match="vendor: found 0 texts"):
        vendor_and_date(make_firmware())
