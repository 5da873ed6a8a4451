# SPDX-License-Identifier: Apache-2.0
"""Asking a QEMU that stands still: the command line, what is written as firmware writes it, and answers that are none."""

from __future__ import annotations

import json
import struct
import sys
import time

import pytest

from enarx.errors import PlatformError
from enarx.host.launchers.qemu import MachineSpec, command_line
from enarx.image import ask_qemu as module
from enarx.image.ask_qemu import ask_qemu, without_protection

# A q35 with one device that has 64-bit memory, as far as QEMU's interface for tests shows it.
FAKE = """
import json, struct, sys
files, odd, log = json.loads(sys.argv[1])
files = {name: bytes.fromhex(data) for name, data in files.items()}
keys = {name: 32 + index for index, name in enumerate(files)}
directory = struct.pack(">I", len(files)) + b"".join(
    struct.pack(">IHxx56s", len(data), keys[name], name.encode()) for name, data in files.items())
items = {0x19: directory, 0x0E: b"\\0\\0", **{keys[name]: data for name, data in files.items()}}
registers = {(0, 0): 0x29C08086, (3, 0): 0x10031AF4, (3, 0x14): 0x1000, (3, 0x20): 0xC, (31, 0): 0x29188086}
memory, at, where = {}, 0, (0, 0)
for line in sys.stdin:
    words = line.split()
    if odd and words[0] == odd[0]:
        print(odd[1], flush=True)
        continue
    number = [int(word, 16) for word in words[1:]]
    answer = "OK"
    if words[0] == "outl" and number[0] == 0xCF8:
        where = number[1] >> 11 & 31, number[1] & 0xFF
    elif words[0] == "outl" and number[0] == 0xCFC:
        with open(log, "a") as file:
            print(*where, hex(number[1]), file=file)
        registers[where] = 0xFFFFC00C if (where, number[1]) == ((3, 0x20), 0xFFFFFFFF) else number[1]
    elif words[0] == "inl":
        answer += " " + hex(registers.get(where, 0 if (where[0], 0) in registers else 0xFFFFFFFF))
    elif words[0] == "write":
        memory[number[0]] = bytes.fromhex(words[3][2:])
    elif words[0] == "outl" and number[0] == 0x518:
        key, size, at = struct.unpack(">IIQ", memory[struct.unpack("<I", struct.pack(">I", number[1]))[0]])
        memory[at] = items[key >> 16][:size]
        memory[0x1000] = bytes(4)
    elif words[0] == "read":
        answer += " 0x" + memory[number[0]][:number[1]].hex()
    print("IRQ raise 1", flush=True)
    print(answer, flush=True)
"""
LOADER = struct.pack("<I56s68x", 1, b"etc/acpi/tables")
FILES = {"etc/table-loader": LOADER, "etc/acpi/tables": b"tables", "etc/e820": b"memory", "etc/other": b"not asked"}


@pytest.fixture
def ask(tmp_path):
    def ask(files=FILES, odd=None, **options):
        (tmp_path / "log").touch()
        program = tmp_path / "qemu.py"
        program.write_text(FAKE)
        given = json.dumps([{name: data.hex() for name, data in files.items()}, odd, str(tmp_path / "log")])
        shape = ask_qemu([sys.executable, "-I", str(program), given], **options)
        return shape, [line.split() for line in (tmp_path / "log").read_text().splitlines()]

    return ask


def test_reads_what_firmware_would_read(ask):
    shape, _ = ask()
    assert shape.files == {
        "BootMenu": bytes(2),
        "etc/table-loader": LOADER,
        "etc/acpi/tables": b"tables",
        "etc/e820": b"memory",
    }


@pytest.mark.parametrize(("bits", "high"), [(40, 0xC0), (46, 0x3000)])
def test_writes_where_firmware_puts_things(ask, bits, high):
    _, written = ask(physical_bits=bits)
    assert ["0", "96", "0xe0000001"] in written
    assert ["31", "64", "0x601"] in written
    assert ["31", "68", "0x80"] in written
    # The device's memory, at the beginning of the last quarter; then it answers there.
    assert written[-3:] == [["3", "32", "0x0"], ["3", "36", hex(high)], ["3", "4", "0x2"]]


@pytest.mark.parametrize(
    ("odd", "found"),
    [
        (("outl", "FAIL Unknown command"), "Unknown command"),
        (("inl", "OK x"), "for a number"),
        (("inl", "OK"), "for a number"),
        (("read", "OK 0x00000001"), "an error for item 0x19"),
        (("read", ""), "to read"),
    ],
)
def test_an_answer_that_is_none_is_refused(ask, odd, found):
    with pytest.raises(PlatformError, match=found):
        ask(odd=odd)


def test_more_than_a_machine_has_is_refused(ask, monkeypatch):
    monkeypatch.setattr(module, "_MAX_FILE_BYTES", 300)
    with pytest.raises(PlatformError, match="bytes of configuration"):
        ask(FILES | {"etc/acpi/tables": bytes(301)})
    monkeypatch.setattr(module, "_MAX_FILES", 1)
    with pytest.raises(PlatformError, match="4 files"):
        ask()


def test_a_program_that_is_none_is_refused():
    with pytest.raises(PlatformError, match="no-such-qemu: No such file"):
        ask_qemu(["no-such-qemu"])
    with pytest.raises(PlatformError, match="want the answers of a q35 machine"):
        ask_qemu(["true"])


def test_a_program_that_says_nothing_is_ended(monkeypatch):
    monkeypatch.setattr(module, "ASK_TIMEOUT_S", 0.2)
    before = time.monotonic()
    with pytest.raises(PlatformError):
        ask_qemu([sys.executable, "-I", "-c", "import time; time.sleep(60)"])
    assert time.monotonic() - before < 10


# --- The command line


def words_of(backend, **options):
    spec = MachineSpec(
        backend=backend, arch="x86_64", name="x", accelerator=options.pop("accelerator"), memory_bytes=512 << 20,
        cmdline="console=ttyS0 -- x", **options,
    )  # fmt: skip
    return without_protection(
        ("/usr/bin/qemu", *command_line(spec)[1:]), {"-bios": "b", "-kernel": "k", "-initrd": "i"}, tpm="/run/tpm"
    )


def value_of(words, option):
    return words[words.index(option) + 1]


def test_a_td_is_asked_for_without_what_protects_it():
    words = words_of("tdx", accelerator="kvm")
    assert words[0] == "/usr/bin/qemu"
    assert value_of(words, "-machine") == "q35,hpet=off,memory-backend=ram,smm=off,pic=off"
    assert value_of(words, "-cpu") == "max"
    assert [value_of(words, option) for option in ("-bios", "-kernel", "-initrd")] == ["b", "k", "i"]
    assert value_of(words, "-object") == "memory-backend-ram,id=ram,size=536870912"
    assert words.count("-object") == 1
    assert not {"-accel", "-sandbox", "-mon", "-name"} & set(words)
    assert not any("fd=" in word or "tdx" in word for word in words)
    # Everything that is a device is there.
    assert [words[at + 1] for at, word in enumerate(words) if word == "-device"] == [
        "virtio-serial-pci,id=ports",
        "virtserialport,bus=ports.0,chardev=keep,name=keep.0",
    ]


def test_a_machine_with_a_tpm_is_asked_for_with_it():
    words = words_of("vm", accelerator="tcg", has_tpm=True)
    assert value_of(words, "-machine") == "q35,vmport=off"
    assert value_of(words, "-cpu") == "EPYC-v3"
    assert "socket,id=tpm,path=/run/tpm" in words
    assert "null,id=keep" in words
    assert "tpm-crb,tpmdev=vtpm" in words
    assert value_of(words, "-append") == "console=ttyS0 -- x"
