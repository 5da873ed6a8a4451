# SPDX-License-Identifier: Apache-2.0
"""Ask a QEMU what it would tell a machine's firmware, without letting the machine run.

A QEMU is started with the machine's own devices, firmware and kernel, and stopped before its first instruction. Through QEMU's
interface for tests (`-qtest`) a few registers are written as firmware writes them, because QEMU's ACPI tables say where firmware
put things; then the configuration is read that QEMU has for firmware. It takes a fraction of a second and needs neither KVM nor
TDX: `without_protection` makes such a command line of a TD's.

Rules of this file: only QEMU is asked, and nothing of what it says is run. It has a time limit, and what it says a size limit.

Source: QEMU docs/devel/testing/qtest.rst, docs/specs/fw_cfg.rst, hw/i386/acpi-build.c; Intel 3 Series Express Chipset datasheet 5.1
(PCIEXBAR); Intel ICH9 datasheet 13.1 (PMBASE, ACPI_CNTL); edk2 OvmfPkg PlatformInitLib.
"""

from __future__ import annotations

import contextlib
import struct
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence

from enarx.errors import PlatformError
from enarx.image.measure_shape import ACPI_LOADER, MEASURED_ITEMS, MEMORY, SMBIOS, Shape, blobs_of

__all__ = ["ASK_TIMEOUT_S", "PHYSICAL_BITS", "ask_qemu", "without_protection"]

ASK_TIMEOUT_S = 30.0
PHYSICAL_BITS = 40
"""The width of addresses that OVMF puts 64-bit devices by where nothing else is known, and under emulation."""

_MAX_FILES = 1024
_MAX_FILE_BYTES = 4 << 20
_MAX_LINE_BYTES = 2 * _MAX_FILE_BYTES + 64

_PCI_ADDRESS, _PCI_DATA = 0xCF8, 0xCFC
_DMA_PORT = 0x514
_DIRECTORY, _BOOT_MENU = 0x19, 0x0E
# In a machine's memory that nothing uses before it runs.
_REQUEST_AT, _ANSWER_AT = 0x1000, 0x10_0000
_READ, _SELECT = 2, 8
_HOST_BRIDGE, _LPC = 0, 31
_PCIEXBAR = 0xE000_0000
_PMBASE = 0x600


def without_protection(words: Sequence[str], files: Mapping[str, str], *, tpm: str | None = None) -> list[str]:
    """Return a machine's command line for `ask_qemu`: the same devices, without what needs a processor's help or somebody else.

    Args:
        words: the command line of a machine, its program first.
        files: paths in place of descriptors: `-bios`, `-kernel`, `-initrd`.
        tpm: the socket of a TPM's control channel, where the machine has one.
    """
    command, at = [words[0]], 1
    while at < len(words):
        word, value = words[at], words[at + 1] if at + 1 < len(words) else ""
        if not word.startswith("-") or value.startswith("-") or not value:
            command.append(word)
            at += 1
            continue
        at += 2
        if word in files:
            value = files[word]
        elif word == "-machine":
            parts = [
                part
                for part in value.split(",")
                if not part.startswith(("confidential-guest-support=", "kernel_irqchip="))
            ]
            # QEMU gives a TD neither of these.
            value = ",".join(parts + (["smm=off", "pic=off"] if "confidential-guest-support=" in value else []))
        elif word == "-cpu":
            value = "max" if value == "host" else value
        elif word == "-chardev":
            name = value.partition("id=")[2].partition(",")[0]
            value = f"socket,id={name},path={tpm}" if name == "tpm" else f"null,id={name}"
        elif word in {"-name", "-sandbox", "-mon", "-accel"} or (word == "-object" and not value.startswith("memory-")):
            continue
        command += [word, value]
    return command


def ask_qemu(command: Sequence[str], *, physical_bits: int = PHYSICAL_BITS, pass_fds: Sequence[int] = ()) -> Shape:
    """Return what a QEMU would tell the firmware of a machine.

    Args:
        command: of the machine, as `without_protection` returns it.
        physical_bits: the width of addresses that its firmware reckons with.
        pass_fds: descriptors that the command line names.

    Raises:
        PlatformError: it does not start, or does not answer as a q35 machine does.
    """
    with _asking([*command, "-accel", "tcg", "-S", "-qtest", "stdio", "-qtest-log", "none"], pass_fds) as qtest:
        qtest.place_devices(physical_bits)
        directory = qtest.directory()
        files = {"BootMenu": qtest.read(_BOOT_MENU, 2)}
        for name in (ACPI_LOADER, SMBIOS, MEMORY, *MEASURED_ITEMS):
            if name in directory:
                files[name] = qtest.read(*directory[name])
        for name in blobs_of(files.get(ACPI_LOADER, b"")):
            if name in directory:
                files[name] = qtest.read(*directory[name])
        return Shape(files)


class _Qtest:
    """A conversation with a QEMU that stands still."""

    def __init__(self, program: subprocess.Popen[bytes]) -> None:
        self._program = program

    def _say(self, *words: object) -> str:
        """Give an order and return what the answer has beside its word."""
        line = " ".join(hex(word) if isinstance(word, int) else str(word) for word in words)
        to, answers = self._program.stdin, self._program.stdout
        if to is None or answers is None:
            raise _silent("no pipe")
        try:
            to.write(line.encode() + b"\n")
            to.flush()
            answer = b"IRQ"
            while answer.startswith(b"IRQ"):
                answer = answers.readline(_MAX_LINE_BYTES)
        except OSError as error:
            raise _silent(str(error.strerror)) from error
        verdict, _, value = answer.decode("ascii", "replace").strip().partition(" ")
        if verdict != "OK":
            raise _silent(f"{answer[:80]!r} to {line[:40]}")
        return value

    def _number(self, *words: object) -> int:
        value = self._say(*words)
        try:
            return int(value, 16)
        except ValueError as error:
            raise _silent(f"{value[:40]!r} for a number") from error

    # --- As firmware does it

    def place_devices(self, physical_bits: int) -> None:
        """Put power management, PCI's configuration space and 64-bit devices where OVMF puts them."""
        self._configure(_HOST_BRIDGE, 0x64, 0)
        self._configure(_HOST_BRIDGE, 0x60, _PCIEXBAR | 1)
        self._configure(_LPC, 0x40, _PMBASE | 1)
        self._configure(_LPC, 0x44, 0x80)
        # The last quarter of what can be addressed is for devices; each is aligned to its size, the largest first.
        place = 3 << (physical_bits - 2)
        for size, device, register in sorted(self._large_devices(), reverse=True):
            place = -(-place // size) * size
            self._configure(device, register, place & 0xFFFF_FFFF)
            self._configure(device, register + 4, place >> 32)
            self._configure(device, 4, self._configuration(device, 4) & 0xFFFF | 2)
            place += size

    def _large_devices(self) -> Iterator[tuple[int, int, int]]:
        """List size, device and register of 64-bit memory of devices on the root bus."""
        for device in range(1, 32):
            if self._configuration(device, 0) & 0xFFFF == 0xFFFF:
                continue
            for register in range(0x10, 0x24, 4):
                if self._configuration(device, register) & 0b111 != 0b100:
                    continue
                self._configure(device, register, 0xFFFF_FFFF)
                mask = self._configuration(device, register) & ~0xF
                yield (mask & -mask), device, register

    def _configuration(self, device: int, register: int) -> int:
        self._say("outl", _PCI_ADDRESS, 1 << 31 | device << 11 | register)
        return self._number("inl", _PCI_DATA)

    def _configure(self, device: int, register: int, value: int) -> None:
        self._say("outl", _PCI_ADDRESS, 1 << 31 | device << 11 | register)
        self._say("outl", _PCI_DATA, value)

    def read(self, key: int, size: int) -> bytes:
        """Return an item of the firmware configuration."""
        if not 0 < size <= _MAX_FILE_BYTES:
            raise _silent(f"{size} bytes of configuration")
        request = struct.pack(">IIQ", key << 16 | _SELECT | _READ, size, _ANSWER_AT)
        self._say("write", _REQUEST_AT, len(request), f"0x{request.hex()}")
        self._say("outl", _DMA_PORT, 0)
        self._say("outl", _DMA_PORT + 4, int.from_bytes(_REQUEST_AT.to_bytes(4, "little"), "big"))
        if self._say("read", _REQUEST_AT, 4) != "0x00000000":
            raise _silent(f"an error for item {key:#x}")
        try:
            data = bytes.fromhex(self._say("read", _ANSWER_AT, size).removeprefix("0x"))
        except ValueError as error:
            raise _silent("memory that is none") from error
        if len(data) != size:
            raise _silent(f"{len(data)} bytes of {size}")
        return data

    def directory(self) -> dict[str, tuple[int, int]]:
        """Return key and size of each file of the firmware configuration, by name."""
        (count,) = struct.unpack(">I", self.read(_DIRECTORY, 4))
        if count > _MAX_FILES:
            raise _silent(f"{count} files")
        entries = struct.iter_unpack(">IHxx56s", self.read(_DIRECTORY, 4 + 64 * count)[4:])
        return {name.rstrip(b"\0").decode("ascii", "replace"): (key, size) for size, key, name in entries}


@contextlib.contextmanager
def _asking(command: Sequence[str], pass_fds: Sequence[int]) -> Iterator[_Qtest]:
    """Run a QEMU for as long as the block does, and no longer than `ASK_TIMEOUT_S`."""
    try:
        program = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except OSError as error:
        raise PlatformError(f"cannot ask QEMU: {command[0]}: {error.strerror}") from error
    # What waits for an answer reads the end of the pipe then.
    limit = threading.Timer(ASK_TIMEOUT_S, program.kill)
    limit.start()
    try:
        yield _Qtest(program)
    finally:
        limit.cancel()
        program.kill()
        with contextlib.suppress(BrokenPipeError):
            program.communicate()


def _silent(found: str) -> PlatformError:
    return PlatformError(
        f"cannot ask QEMU: found {found}, want the answers of a q35 machine", hint="run its command line to see why"
    )
