# SPDX-License-Identifier: Apache-2.0
"""What hardware will say of a machine, and that each part of it changes exactly the registers that are said to hold it.

Real launch digests are compared with the corpus; a real boot with what is predicted is in `tests/integration/test_measured_boot.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import DecodeError, UsageError
from enarx.image import measure
from enarx.image.disk import gpt_event
from enarx.image.measure import (
    Boot,
    LaunchParts,
    launch_cmdline,
    mrtd,
    snp_launch_digest,
    tdx_registers,
    uki_pcrs,
    uki_registers,
    vtpm_pcrs,
)
from enarx.image.measure_firmware import TdvfSection
from enarx.image.measure_pe import parse_pe_untrusted
from enarx.image.uki import make_uki
from tests.evidence import evidence_path, needs_evidence, read
from tests.unit.image.machine_files import flipped, make_firmware, make_kernel, make_pe, make_stub, volumes

TDX = ((0xFFFF8000, 0x8000, 0, 0x8000, 1), (0x810000, 0x1000, 0, 0, 0))
PARTS = {
    "firmware": make_firmware(tdx=TDX),
    "kernel": make_kernel(),
    "initramfs": b"initramfs" * 100,
    "cmdline": "console=ttyS0 quiet",
}
CHANGES = {
    "firmware": {"firmware": make_firmware(b"peJ", tdx=TDX)},
    "kernel": {"kernel": make_kernel(b"kerneM")},
    "initramfs": {"initramfs": flipped(PARTS["initramfs"], 5)},
    "command line": {"cmdline": "console=ttyS1 quiet"},
}


def extended(algorithm, *contents):
    value = bytes(hashlib.new(algorithm).digest_size)
    for content in contents:
        value = hashlib.new(algorithm, value + hashlib.new(algorithm, content).digest()).digest()
    return value


def changed(measure_machine, **options):
    """Return, for each part, the registers that one changed byte of it changes."""
    before = measure_machine(**PARTS, **options)
    return {
        part: {name for name, value in measure_machine(**(PARTS | change), **options).items() if value != before[name]}
        for part, change in CHANGES.items()
    }


def test_each_part_changes_its_pcrs():
    assert changed(vtpm_pcrs) == {"firmware": {0}, "kernel": {4}, "initramfs": {9}, "command line": {9}}


def test_each_part_changes_its_pcrs_under_older_qemu_too():
    assert changed(vtpm_pcrs, patched_for=512 << 20) == {
        "firmware": {0}, "kernel": {4}, "initramfs": {9}, "command line": {9},
    }  # fmt: skip


def test_under_older_qemu_the_kernel_has_the_size_of_memory_and_initramfs():
    before = vtpm_pcrs(**PARTS, patched_for=512 << 20)
    other_memory = vtpm_pcrs(**PARTS, patched_for=544 << 20)
    assert {number for number in before if before[number] != other_memory[number]} == {4}
    longer = vtpm_pcrs(**(PARTS | {"initramfs": PARTS["initramfs"] + b"x"}), patched_for=512 << 20)
    assert {number for number in before if before[number] != longer[number]} == {4, 9}


def test_each_part_changes_its_registers_of_a_td():
    assert changed(tdx_registers) == {
        "firmware": {"mr_td"}, "kernel": {"rtmr1"}, "initramfs": {"rtmr2"}, "command line": {"rtmr2"},
    }  # fmt: skip


def test_each_part_changes_the_launch_digest():
    def measure_machine(**parts):
        return {"measurement": snp_launch_digest(**parts)}

    assert set(map(frozenset, changed(measure_machine).values())) == {frozenset({"measurement"})}


def test_every_byte_of_firmware_is_in_the_launch_digest():
    before = snp_launch_digest(**PARTS)
    firmware = PARTS["firmware"]
    for at in (0, 100, 0x4000):
        assert snp_launch_digest(**(PARTS | {"firmware": flipped(firmware, at)})) != before


def test_pcrs_are_what_the_log_of_a_boot_has():
    """By hand, in the order of the events of a real log."""
    pcrs = vtpm_pcrs(**PARTS)
    version = "2026.08+test-1\0".encode("utf-16-le")
    assert pcrs[0] == extended("sha256", version, *volumes(), bytes(4))
    assert pcrs[2] == pcrs[3] == pcrs[6] == extended("sha256", bytes(4))
    assert pcrs[5] == extended(
        "sha256", bytes(4), b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success"
    )
    assert pcrs[8] == bytes(32)
    options = "initrd=initrd console=ttyS0 quiet\0".encode("utf-16-le")
    assert pcrs[9] == extended("sha256", options, PARTS["initramfs"])
    # Seen in a vTPM under OVMF without keys, whatever else is booted.
    assert pcrs[7].hex() == "b5710bf57d25623e4019027da116821fa99f5c81e9e38b87671cc574f9281439"
    assert vtpm_pcrs(**PARTS, firmware_version="2026.09")[0] != pcrs[0]


def test_registers_of_a_td_are_those_of_a_vtpm_in_another_algorithm():
    registers = tdx_registers(**PARTS)
    options = "initrd=initrd console=ttyS0 quiet\0".encode("utf-16-le")
    assert registers["rtmr2"] == extended("sha384", options, PARTS["initramfs"])
    assert registers.keys() == {"mr_td", "rtmr1", "rtmr2"}


def test_mrtd_adds_every_page_and_measures_some():
    page = bytes(range(256)) * 16
    sections = (TdvfSection(0x1000, page[:-1], 0x1000, extended=True), TdvfSection(0x8000, b"", 0x1000, extended=False))
    log = b"MEM.PAGE.ADD".ljust(16, b"\0") + struct.pack("<Q", 0x1000) + bytes(104)
    for at in range(0, 4096, 256):
        log += b"MR.EXTEND".ljust(16, b"\0") + struct.pack("<Q", 0x1000 + at) + bytes(104)
        log += (page[:-1] + b"\0")[at : at + 256]
    log += b"MEM.PAGE.ADD".ljust(16, b"\0") + struct.pack("<Q", 0x8000) + bytes(104)
    assert mrtd(sections) == hashlib.sha384(log).digest()


def test_snp_runs_without_acpi():
    assert launch_cmdline("quiet", "snp") == "quiet acpi=off"
    assert launch_cmdline("quiet", "vm") == launch_cmdline("quiet", "tdx") == "quiet"


@pytest.mark.parametrize("cmdline", ["x" * 2048, "a\nb", "\N{SNOWMAN}", "a\0b"])
def test_refuses_a_command_line_that_is_not_one(cmdline):
    with pytest.raises(UsageError, match="command line: found"):
        Boot(kernel=b"", initramfs=b"", cmdline=cmdline)


# --- SNP, against sev-snp-measure and the corpus -------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    for name in ("firmware", "kernel", "initramfs"):
        (tmp_path / name).write_bytes(PARTS[name])
    return tmp_path


@pytest.mark.parametrize("vcpu_type", ["EPYC-v4", "EPYC-Rome", "EPYC-Milan", "EPYC-Genoa", "EPYC-Turin"])
@pytest.mark.parametrize("vcpus", [1, 3])
def test_equals_sev_snp_measure(files, vcpus, vcpu_type):
    from sevsnpmeasure.guest import calc_launch_digest
    from sevsnpmeasure.sev_mode import SevMode
    from sevsnpmeasure.vcpu_types import CPU_SIGS

    paths = [str(files / name) for name in ("firmware", "kernel", "initramfs")]
    wanted = calc_launch_digest(SevMode.SEV_SNP, vcpus, CPU_SIGS[vcpu_type], *paths, PARTS["cmdline"], 1)
    assert snp_launch_digest(**PARTS, vcpus=vcpus, vcpu_type=vcpu_type) == wanted


def test_several_shapes_at_once_are_those_one_by_one():
    boot = Boot(kernel=PARTS["kernel"], initramfs=PARTS["initramfs"], cmdline=PARTS["cmdline"])
    digests = measure.snp_launch_digests(
        firmware=PARTS["firmware"], boot=boot, vcpus=(1, 4, 64), vcpu_types=("EPYC-v4", "EPYC-Milan")
    )
    assert len(set(digests.values())) == len(digests) == 6
    for (vcpus, vcpu_type), digest in digests.items():
        assert digest == snp_launch_digest(**PARTS, vcpus=vcpus, vcpu_type=vcpu_type)


def vectors():
    try:
        with open(evidence_path("measure/launch_digest_vectors.json"), encoding="utf-8") as file:
            known = json.load(file)["vectors"]
    except FileNotFoundError:
        return []
    # Of QEMU with a kernel; empty files are files.
    return [
        v
        for v in known
        if v["mode"] == "SEV_SNP" and v["vmm"] == "QEMU" and v["kernel"] is not None and not v.get("ovmf_hash")
    ]


@needs_evidence
@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector["name"])
def test_published_launch_digests(vector):
    def measured():
        return snp_launch_digest(
            firmware=read(vector["ovmf"]),
            kernel=b"",
            initramfs=b"",
            cmdline=vector["append"],
            vcpus=vector["vcpus"],
            vcpu_type=vector["vcpu_type"],
            sev_features=vector["guest_features"],
        )

    if vector.get("expect_error"):
        with pytest.raises(DecodeError, match="SNP_KERNEL_HASHES"):
            measured()
    else:
        assert measured().hex() == vector["expected"]


@needs_evidence
def test_the_digest_of_a_real_processor():
    """What a Milan signed for a machine of which the hashes and the firmware's tables are known, and not its files."""
    known = json.loads(read("measure/hardware_dstack_milan.json"))
    sections = tuple((one["gpa"], one["size"], one["type"]) for one in known["ovmf_sections"])
    firmware = make_firmware(snp=sections, hashes_at=known["hashes_table_gpa"], reset_eip=known["reset_eip"])
    parts = LaunchParts(
        firmware_pages=bytes.fromhex(known["ovmf_hash"]),
        kernel_sha256=bytes.fromhex(known["kernel_sha256"]),
        initramfs_sha256=bytes.fromhex(known["initrd_sha256"]),
        cmdline_sha256=measure.snp_cmdline_sha256(known["cmdline"]),
    )
    digests = measure.snp_launch_digests(
        firmware=firmware, boot=parts, vcpus=(known["vcpus"],), vcpu_types=(known["vcpu_type"],)
    )
    assert [digest.hex() for digest in digests.values()] == [known["expected"]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"firmware": b""}, "0 bytes of firmware"),
        ({"firmware": bytes(4095)}, "4095 bytes of firmware"),
        ({"firmware": bytes(4096)}, "want those of firmware for SNP"),
        ({"firmware": make_firmware(snp=((0x800000, 0x1000, 1),))}, "SNP_KERNEL_HASHES"),
        ({"firmware": make_firmware(snp=((0x800000, 0x1000, 9),))}, "9 is not a valid"),
        ({"firmware": make_firmware(snp=((0x800000, 0x40000000, 1),))}, "metadata of more than"),
        ({"firmware": make_firmware(snp=((0x800000, 0x10, 1),))}, "SNP metadata"),
    ],
)
def test_refuses_firmware_that_is_not_for_snp(change, words):
    with pytest.raises(DecodeError, match=words):
        snp_launch_digest(**(PARTS | change))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"vcpus": 0}, "vcpus: found"),
        ({"vcpus": 1025}, "vcpus: found"),
        ({"vcpu_type": "max"}, "vcpu type: found 'max'"),
    ],
)
def test_refuses_shapes_that_cannot_be(shape, words):
    with pytest.raises(UsageError, match=words):
        snp_launch_digest(**PARTS, **shape)


@given(at=st.integers(0x7E00, 0x7FFF), data=st.binary(min_size=1, max_size=24))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_firmware_gives_a_digest_or_a_decode_error(at, data):
    firmware = PARTS["firmware"]
    with contextlib.suppress(DecodeError):
        digest = snp_launch_digest(**(PARTS | {"firmware": firmware[:at] + data + firmware[at + len(data) :]}))
        assert len(digest) == 48


# --- Unified kernel images -------------------------------------------------------------------------------------------------


INNER = make_kernel()
UKI = make_pe(
    {".text": b"stub", ".osrel": b"ID=keep", ".cmdline": b"quiet", ".linux": INNER, ".initrd": b"cpio"},
    header_bytes=0x1000,
)


def test_pcr_11_is_the_sections_in_the_stubs_order():
    pcrs = uki_pcrs(firmware=PARTS["firmware"], uki=UKI, from_disk=True)
    contents = (b".linux\0", INNER, b".osrel\0", b"ID=keep", b".cmdline\0", b"quiet", b".initrd\0", b"cpio")
    assert pcrs[11] == extended("sha256", *contents)
    assert pcrs.keys() == {0, 4, 7, 11, 12, 13}


def test_a_uki_of_a_disk_is_measured_after_the_boot_began():
    from_disk = uki_pcrs(firmware=PARTS["firmware"], uki=UKI, from_disk=True)
    by_option = uki_pcrs(firmware=PARTS["firmware"], uki=UKI, from_disk=False)
    assert {number for number in from_disk if from_disk[number] != by_option[number]} == {4}


def test_each_section_changes_pcr_11_and_the_image():
    before = uki_pcrs(firmware=PARTS["firmware"], uki=UKI, from_disk=True)
    for section, content in ((".cmdline", b"quieu"), (".initrd", b"cpiO"), (".linux", make_kernel(b"other"))):
        sections = {".text": b"stub", ".osrel": b"ID=keep", ".cmdline": b"quiet", ".linux": INNER, ".initrd": b"cpio"}
        other = uki_pcrs(
            firmware=PARTS["firmware"], uki=make_pe(sections | {section: content}, header_bytes=0x1000), from_disk=True
        )
        assert {number for number in before if before[number] != other[number]} == {4, 11}


def made_uki(stub=None, **changes):
    """Return what `enarx.image.uki` makes, as an image for clouds has it."""
    parts = {"kernel": INNER, "initramfs": b"cpio", "cmdline": "quiet enarx.link=tcp:8471", **changes}
    return make_uki(make_stub() if stub is None else stub, **parts)


def test_pcr_9_is_what_the_kernel_gets_and_nothing_is_added_to_it():
    pcrs = uki_pcrs(firmware=PARTS["firmware"], uki=made_uki(), from_disk=True)
    assert pcrs[9] == extended("sha256", "quiet enarx.link=tcp:8471\0".encode("utf-16-le"), b"cpio")
    assert pcrs[12] == pcrs[13] == bytes(32)


@pytest.mark.parametrize(
    ("version", "measures_kernel"),
    [("252.1-1", True), ("257.13-1~deb13u1", True), ("258~rc1", False), ("262-1", False)],
)
def test_a_stub_that_starts_the_kernel_itself_has_it_measured_in_the_image_alone(version, measures_kernel):
    uki = made_uki(make_stub(version))
    whole = parse_pe_untrusted(uki, what="it").digest("sha256")
    inner = parse_pe_untrusted(INNER, what="it").digest("sha256")
    value = extended("sha256", b"Calling EFI Application from Boot Option", bytes(4))
    for digest in (whole, inner) if measures_kernel else (whole,):
        value = hashlib.sha256(value + digest).digest()
    pcrs = uki_pcrs(firmware=PARTS["firmware"], uki=uki, from_disk=True)
    assert pcrs[4] == value
    # Such a stub may hand the kernel what nobody can predict.
    assert (9 in pcrs) is measures_kernel


def test_the_registers_of_a_td_have_the_partitions_and_both_ways_to_leave_firmware():
    uki = made_uki()
    registers = uki_registers(uki)
    assert set(registers) == {*(f"tpm.pcr{index}" for index in (4, 9, 11, 12, 13)), "tdx.rtmr1", "tdx.rtmr2"}
    value = extended("sha384", b"Calling EFI Application from Boot Option", bytes(4), gpt_event(uki))
    for digest in (parse_pe_untrusted(data, what="it").digest("sha384") for data in (uki, INNER)):
        value = hashlib.sha384(value + digest).digest()
    begins, fails, leaves = (
        f"Exit Boot Services {end}".encode() for end in ("Invocation", "Returned with Failure", "Returned with Success")
    )
    wanted = []
    for leaving in ((begins, leaves), (begins, fails, begins, leaves)):
        register = value
        for event in leaving:
            register = hashlib.sha384(register + hashlib.sha384(event).digest()).digest()
        wanted.append(register)
    assert registers["tdx.rtmr1"] == wanted
    sections = [b".linux\0", INNER, b".cmdline\0", b"quiet enarx.link=tcp:8471", b".initrd\0", b"cpio"]
    options = "quiet enarx.link=tcp:8471\0".encode("utf-16-le")
    assert registers["tdx.rtmr2"] == [extended("sha384", *sections, options, b"cpio")]


@pytest.mark.parametrize("uki", [UKI, made_uki(make_stub("262"))])
def test_registers_that_cannot_be_computed_are_not(uki):
    with pytest.raises(DecodeError, match=r"want \.linux, \.cmdline, \.initrd and a stub"):
        uki_registers(uki)


def test_refuses_an_image_without_kernel():
    with pytest.raises(DecodeError, match=r"no section \.linux"):
        uki_pcrs(firmware=PARTS["firmware"], uki=make_pe({".text": b"stub"}), from_disk=True)
