# SPDX-License-Identifier: Apache-2.0
"""What hardware will say about a virtual machine, computed from the files that it is started with and nothing else.

What holds it together: firmware, kernel, initramfs and command line are the four parts of a machine. Each function computes the
registers of one technology from them, and `Events` says which part went into which register.

- **SNP**: the launch digest, by sev-snp-measure. It depends on the number and the type of virtual processors.
- **TDX**: MRTD is the firmware's code, RTMR1 the kernel, RTMR2 the command line and the initramfs. RTMR0 also has what QEMU makes for
  the shape of a machine: ACPI tables, the list of memory, boot variables. No file says those; `measure_shape` has it from QEMU.
- **vTPM**: PCR 0 is the firmware's code, 4 the kernel, 7 that Secure Boot is off, 9 the command line and the initramfs; 2, 3, 5, 6
  and 8 are the same for all. PCR 1 is what RTMR0 is.
- **UKI**: PCR 11 is its sections, PCR 4 the whole, PCR 9 as above; 12 and 13 are zero where nothing was added from elsewhere.

Rules of this file: nothing is read but arguments, and nobody is asked who started the machine. A register is the value for a boot
by `-kernel` with OVMF, or its counterpart for Arm, of 2026.08 or a later version that measures in the same order, without the keys
of Secure Boot. What differs between architectures is seen in the files.

Source: AMD 56860 section 8.17; Intel TDX module base architecture 12.2.1; TCG PC Client Platform Firmware Profile 1.06; UEFI 2.10
section 38.4.1; Linux Documentation/admin-guide/efi-stub.rst; systemd-stub(7).
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, NamedTuple
from uuid import UUID

from enarx.errors import DecodeError, UsageError
from enarx.image import measure_firmware
from enarx.image.disk import gpt_event
from enarx.image.measure_firmware import MAX_FIRMWARE_BYTES, TdvfSection
from enarx.image.measure_pe import PeFile, kernel_as_patched, parse_pe_untrusted

__all__ = [
    "CMDLINE",
    "FIRMWARE",
    "INITRAMFS",
    "KERNEL",
    "MAX_VCPUS",
    "Boot",
    "LaunchParts",
    "Measured",
    "launch_cmdline",
    "mrtd",
    "secure_boot_events",
    "snp_cmdline_sha256",
    "snp_firmware_pages",
    "snp_launch_digest",
    "snp_launch_digests",
    "tdx_events",
    "tdx_registers",
    "uki_events",
    "uki_pcrs",
    "uki_registers",
    "vcpu_types",
    "vtpm_events",
    "vtpm_pcrs",
]

FIRMWARE, KERNEL, INITRAMFS, CMDLINE = "firmware", "kernel", "initramfs", "command line"
"""What people call the parts of a machine."""

MAX_VCPUS = 1024
MAX_CMDLINE_BYTES = 2047
SNP_ACTIVE = 1
"""SEV_FEATURES of a guest under KVM that asked for nothing else."""

_SNP_CMDLINE = " acpi=off"
_MAX_SNP_PAGES_BYTES = 256 << 20
_PAGE = 4096
_CHUNK = 256

_GLOBAL_VARIABLE = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
_SECURITY_DATABASE = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
_SECURE_BOOT_OFF = (
    (_GLOBAL_VARIABLE, "SecureBoot"), (_GLOBAL_VARIABLE, "PK"), (_GLOBAL_VARIABLE, "KEK"),
    (_SECURITY_DATABASE, "db"), (_SECURITY_DATABASE, "dbx"),
)  # fmt: skip
_SEPARATOR = bytes(4)
_CALLING = b"Calling EFI Application from Boot Option"
_EXIT = (b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success")
_EXIT_IN_VAIN = (_EXIT[0], b"Exit Boot Services Returned with Failure")
# Measured by systemd-stub in this order, if they are there; a signature over PCR 11 cannot be in it.
_UKI_SECTIONS = (
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey",
)  # fmt: skip
# Of all others, a stub adds something to the initramfs.
_HANDED_ON = frozenset({".linux", ".cmdline", ".initrd", ".uname", ".sbat"})
_STUB_VERSION = re.compile(rb"systemd-stub (\d{1,4})")
_STARTS_KERNEL_ITSELF = 258


class Measured(NamedTuple):
    """One value that a register is extended by.

    Args:
        part: of the machine that it comes from, or what else it is.
        digest: of the register's algorithm.
    """

    part: str
    digest: bytes


class LaunchParts(NamedTuple):
    """All that an SNP launch digest takes of a machine's parts, beside the tables in its firmware.

    Args:
        firmware_pages: launch digest of the firmware's own pages and nothing else, 48 bytes.
        kernel_sha256: of the kernel's file.
        initramfs_sha256: of the initramfs's file.
        cmdline_sha256: of the command line and a zero byte.
    """

    firmware_pages: bytes
    kernel_sha256: bytes
    initramfs_sha256: bytes
    cmdline_sha256: bytes


class Boot:
    """A kernel, an initramfs and a command line, each hashed at most once for all registers.

    Args:
        kernel: a bzImage or an Image of Arm, with an EFI stub.
        initramfs: the file.
        cmdline: as it is given to QEMU.
        kernel_sha256: of the kernel's file, where it is known already.
        initramfs_sha256: likewise.
    """

    def __init__(
        self,
        *,
        kernel: bytes,
        initramfs: bytes,
        cmdline: str,
        kernel_sha256: bytes | None = None,
        initramfs_sha256: bytes | None = None,
    ) -> None:
        if len(cmdline.encode()) > MAX_CMDLINE_BYTES or not cmdline.isascii() or not cmdline.isprintable():
            raise UsageError(
                f"cannot measure: command line: found {len(cmdline)} characters, want at most {MAX_CMDLINE_BYTES}, printable ASCII"
            )
        self.kernel, self.initramfs, self.cmdline = kernel, initramfs, cmdline
        self._known = kernel_sha256, initramfs_sha256

    @cached_property
    def pe(self) -> PeFile:
        """The kernel as PE file."""
        return parse_pe_untrusted(self.kernel, what="the kernel")

    @cached_property
    def kernel_sha256(self) -> bytes:
        """Of the whole file."""
        return self._known[0] or hashlib.sha256(self.kernel).digest()

    @cached_property
    def initramfs_sha256(self) -> bytes:
        """Of the whole file."""
        return self._known[1] or hashlib.sha256(self.initramfs).digest()

    @property
    def cmdline_sha256(self) -> bytes:
        """As the table of hashes has it that SNP measures."""
        return snp_cmdline_sha256(self.cmdline)

    def load_options(self, algorithm: str) -> Measured:
        """Return what the kernel's EFI stub measures of its command line: firmware puts the initramfs's name before it."""
        options = f"initrd=initrd {self.cmdline}\0".encode("utf-16-le")
        return Measured(CMDLINE, hashlib.new(algorithm, options).digest())


def launch_cmdline(image_cmdline: str, backend: str) -> str:
    """Return the command line of a backend's machine.

    Args:
        image_cmdline: the image's own.
        backend: its name. SNP does not measure the ACPI tables that QEMU makes, so there the kernel runs without any.
    """
    return image_cmdline + _SNP_CMDLINE if backend == "snp" else image_cmdline


# --- SNP -------------------------------------------------------------------------------------------------------------


def vcpu_types() -> tuple[str, ...]:
    """Return the types of processor that SNP digests can be computed for, by QEMU's names."""
    from sevsnpmeasure.vcpu_types import CPU_SIGS

    return tuple(CPU_SIGS)


def snp_cmdline_sha256(cmdline: str) -> bytes:
    """Return the digest of a command line that SNP measures."""
    return hashlib.sha256(cmdline.encode() + b"\0").digest()


def snp_firmware_pages(firmware: bytes) -> bytes:
    """Return the launch digest of a firmware's own pages, 48 bytes: what a launch begins with.

    Raises:
        DecodeError: it does not consist of pages.
    """
    from sevsnpmeasure.gctx import GCTX

    if not 0 < len(firmware) <= MAX_FIRMWARE_BYTES or len(firmware) % _PAGE:
        raise DecodeError(f"cannot measure firmware: the file: found {len(firmware)} bytes, want whole pages")
    context = GCTX()
    # It ends where the first 4 GiB do.
    context.update_normal_pages((1 << 32) - len(firmware), firmware)
    return bytes(context.ld())


def snp_launch_digest(
    *,
    firmware: bytes,
    kernel: bytes,
    initramfs: bytes,
    cmdline: str,
    vcpus: int = 1,
    vcpu_type: str = "EPYC-v4",
    sev_features: int = SNP_ACTIVE,
) -> bytes:
    """Return the launch digest of a machine that QEMU starts with `kernel-hashes=on`.

    It is worth something only with firmware that `measure_firmware.checks_kernel_hashes`.

    Args:
        firmware: the file given to `-bios`.
        kernel: likewise `-kernel`.
        initramfs: likewise `-initrd`.
        cmdline: likewise `-append`, with what the backend adds.
        vcpus: 1 to `MAX_VCPUS`.
        vcpu_type: of `vcpu_types`.
        sev_features: of the first processor.

    Returns:
        48 bytes.

    Raises:
        DecodeError: the firmware has no SNP metadata with room for hashes.
        UsageError: another argument cannot be.
    """
    boot = Boot(kernel=kernel, initramfs=initramfs, cmdline=cmdline)
    digests = snp_launch_digests(
        firmware=firmware, boot=boot, vcpus=(vcpus,), vcpu_types=(vcpu_type,), sev_features=sev_features
    )
    return digests[vcpus, vcpu_type]


def snp_launch_digests(
    *,
    firmware: bytes,
    boot: Boot | LaunchParts,
    vcpus: Iterable[int],
    vcpu_types: Iterable[str],
    sev_features: int = SNP_ACTIVE,
) -> dict[tuple[int, str], bytes]:
    """Return launch digests of machines of several shapes, hashing once what they have in common.

    Args:
        firmware: as for `snp_launch_digest`, like all but these.
        boot: kernel, initramfs and command line; or the digests of all parts, of which the firmware's tables are as in `firmware`.
        vcpus: numbers of processors.
        vcpu_types: their types.
        sev_features: of the first processor.

    Returns:
        48 bytes for each number and type.

    Raises:
        DecodeError: as `snp_launch_digest`.
        UsageError: likewise.
    """
    from sevsnpmeasure.gctx import GCTX
    from sevsnpmeasure.guest import snp_update_metadata_pages
    from sevsnpmeasure.sev_hashes import SevHashes
    from sevsnpmeasure.sev_mode import SevMode
    from sevsnpmeasure.vcpu_types import CPU_SIGS
    from sevsnpmeasure.vmm_types import VMMType
    from sevsnpmeasure.vmsa import VMSA

    class Hashes(SevHashes):  # type: ignore[misc]  # the package has no types
        """The table of hashes, of what was hashed already; the package's own constructor reads files."""

        def __init__(self) -> None:
            self.kernel_hash, self.initrd_hash = boot.kernel_sha256, boot.initramfs_sha256
            self.cmdline_hash = boot.cmdline_sha256

    wanted = frozenset(vcpus)
    if not wanted or not all(1 <= count <= MAX_VCPUS for count in wanted):
        raise UsageError(f"cannot measure: vcpus: found {sorted(wanted)[:8]}, want 1 to {MAX_VCPUS}")
    digests: dict[tuple[int, str], bytes] = {}
    try:
        ovmf = _snp_firmware(firmware)
        shared = GCTX(seed=boot.firmware_pages if isinstance(boot, LaunchParts) else snp_firmware_pages(firmware))
        snp_update_metadata_pages(shared, ovmf, Hashes(), VMMType.QEMU)
        reset_eip = ovmf.sev_es_reset_eip()
    except (AssertionError, LookupError, RuntimeError, ValueError) as error:
        # The package says what it does not like in all of these.
        raise DecodeError(
            f"cannot measure firmware: SNP metadata: found {error}, want those of firmware for SNP with kernel hashes"
        ) from error
    for name in vcpu_types:
        if name not in CPU_SIGS:
            raise UsageError(f"cannot measure: vcpu type: found {name[:40]!r}, want one of {', '.join(CPU_SIGS)}")
        context = GCTX(seed=shared.ld())
        pages = VMSA(SevMode.SEV_SNP, reset_eip, CPU_SIGS[name], sev_features, VMMType.QEMU).pages(max(wanted))
        for count, page in enumerate(pages, 1):
            context.update_vmsa_page(page)
            if count in wanted:
                digests[count, name] = context.ld()
    return digests


def _snp_firmware(firmware: bytes) -> Any:
    """Return sev-snp-measure's own view of firmware, once it asks for no more than a machine could have."""
    from sevsnpmeasure.ovmf import OVMF

    if not 0 < len(firmware) <= MAX_FIRMWARE_BYTES or len(firmware) % _PAGE:
        raise ValueError(f"{len(firmware)} bytes of firmware")
    with open(os.memfd_create("firmware"), "w+b", buffering=0) as file:
        left = memoryview(firmware)
        while left:
            left = left[file.write(left) :]
        ovmf = OVMF(f"/proc/self/fd/{file.fileno()}")
    if sum(item.size for item in ovmf.metadata_items()) > _MAX_SNP_PAGES_BYTES:
        raise ValueError(f"metadata of more than {_MAX_SNP_PAGES_BYTES} bytes")
    return ovmf


# --- TDX -------------------------------------------------------------------------------------------------------------


def tdx_registers(*, firmware: bytes, kernel: bytes, initramfs: bytes, cmdline: str) -> dict[str, bytes]:
    """Return the registers of a TD, by the names that a policy has for them: `mr_td`, `rtmr1` and `rtmr2`.

    Raises:
        DecodeError: the firmware has no TDX metadata, or the kernel no EFI stub.
    """
    events = tdx_events(firmware=firmware, boot=Boot(kernel=kernel, initramfs=initramfs, cmdline=cmdline))
    return {name: _value(name, register, "sha384") for name, register in events.items()}


def tdx_events(*, firmware: bytes, boot: Boot) -> dict[str, tuple[Measured, ...]]:
    """Return what goes into each register of a TD; MRTD is a digest of its own."""
    # Large files are hashed beside the interpreter, which has the many pages of the firmware to go through.
    with ThreadPoolExecutor(2) as pool:
        initramfs = pool.submit(lambda: hashlib.sha384(boot.initramfs).digest())
        kernel = pool.submit(boot.pe.digest, "sha384")
        code = mrtd(measure_firmware.tdvf_sections(firmware))
    return {
        "mr_td": (Measured(FIRMWARE, code),),
        "rtmr1": (Measured(KERNEL, kernel.result()), *_fixed("sha384", _CALLING, _SEPARATOR, *_EXIT)),
        "rtmr2": (boot.load_options("sha384"), Measured(INITRAMFS, initramfs.result())),
    }


def mrtd(sections: Sequence[TdvfSection]) -> bytes:
    """Return the MRTD of a TD that is built of these sections, each page added and then, where that is asked for, measured.

    Spec: Intel TDX module base architecture specification, 12.2.1 (TDH.MEM.PAGE.ADD, TDH.MR.EXTEND).
    """
    digest = hashlib.sha384()
    for section in sections:
        data = section.data.ljust(section.size, b"\0") if section.extended else b""
        for offset in range(0, section.size, _PAGE):
            address = section.address + offset
            pieces = [_tdx_record(b"MEM.PAGE.ADD", address)]
            if section.extended:
                for at in range(offset, offset + _PAGE, _CHUNK):
                    pieces += (_tdx_record(b"MR.EXTEND", section.address + at), data[at : at + _CHUNK])
            digest.update(b"".join(pieces))
    return digest.digest()


def _tdx_record(name: bytes, address: int) -> bytes:
    return struct.pack("<16sQ104x", name, address)


# --- vTPM ------------------------------------------------------------------------------------------------------------


def vtpm_pcrs(
    *,
    firmware: bytes,
    kernel: bytes,
    initramfs: bytes,
    cmdline: str,
    patched_for: int | None = None,
    firmware_version: str | None = None,
) -> dict[int, bytes]:
    """Return the SHA-256 PCRs of a machine with a vTPM, by number: 0 and 2 to 9.

    Args:
        firmware: the file given to `-bios`.
        kernel: likewise `-kernel`.
        initramfs: likewise `-initrd`.
        cmdline: likewise `-append`.
        patched_for: the machine's memory in bytes, where QEMU is older than 10.0 and so writes into the header of a kernel for x86;
            None from 10.0 on, and without effect for other kernels.
        firmware_version: of the firmware; None finds it in the file.

    Raises:
        DecodeError: the firmware is no OVMF, or the kernel has no EFI stub.
        PlatformError: virt-firmware is missing.
    """
    events = vtpm_events(
        firmware=firmware,
        boot=Boot(kernel=kernel, initramfs=initramfs, cmdline=cmdline),
        patched_for=patched_for,
        firmware_version=firmware_version,
    )
    return {number: _extended(register, "sha256") for number, register in events.items()}


def vtpm_events(
    *, firmware: bytes, boot: Boot, patched_for: int | None = None, firmware_version: str | None = None
) -> dict[int, tuple[Measured, ...]]:
    """Return what goes into each PCR; the arguments are those of `vtpm_pcrs`."""
    separator = _fixed("sha256", _SEPARATOR)
    return {
        0: _firmware_events(firmware, firmware_version),
        2: separator,
        3: separator,
        4: (kernel_event(boot, patched_for), *_fixed("sha256", _CALLING, _SEPARATOR)),
        5: _fixed("sha256", _SEPARATOR, *_EXIT),
        6: separator,
        7: secure_boot_events(firmware, "sha256"),
        8: (),
        9: (boot.load_options("sha256"), Measured(INITRAMFS, boot.initramfs_sha256)),
    }


def kernel_event(boot: Boot, patched_for: int | None) -> Measured:
    """Return what firmware measures of a kernel; the arguments are those of `vtpm_pcrs`."""
    if patched_for is None or not boot.pe.is_x86:
        return Measured(KERNEL, boot.pe.digest("sha256"))
    patched = kernel_as_patched(boot.kernel, initramfs_bytes=len(boot.initramfs), memory_bytes=patched_for)
    return Measured(KERNEL, boot.pe._replace(data=patched).digest("sha256"))


def _firmware_events(firmware: bytes, version: str | None) -> tuple[Measured, ...]:
    text = measure_firmware.firmware_version(firmware) if version is None else version
    measured = hashlib.sha256(f"{text}\0".encode("utf-16-le")).digest()
    return (
        *(Measured(FIRMWARE, digest) for digest in (measured, *measure_firmware.volume_digests(firmware))),
        *_fixed("sha256", _SEPARATOR),
    )


def secure_boot_events(firmware: bytes, algorithm: str) -> tuple[Measured, ...]:
    """Return what says that Secure Boot is off, and the separator after it."""
    # Firmware that could ask for signatures has the first of the variables, and in it that it does not.
    off = b"\0" if measure_firmware.has_secure_boot(firmware) else b""
    variables = (
        vendor.bytes_le + struct.pack("<QQ", len(name), len(value)) + name.encode("utf-16-le") + value
        for (vendor, name), value in zip(_SECURE_BOOT_OFF, (off, b"", b"", b"", b""), strict=True)
    )
    return _fixed(algorithm, *variables, _SEPARATOR, part="Secure Boot")


def uki_pcrs(*, firmware: bytes, uki: bytes, from_disk: bool, firmware_version: str | None = None) -> dict[int, bytes]:
    """Return the SHA-256 PCRs 0, 4, 7, 9 and 11 to 13 of a machine that boots a unified kernel image.

    Args:
        firmware: as for `vtpm_pcrs`.
        uki: made of systemd's stub. PCR 9 is computed only where all that the kernel gets is a command line and an initramfs, as
            from stubs before 258: newer ones may hand it a secret that they make up.
        from_disk: whether firmware finds it on a disk, and not by `-kernel`.
        firmware_version: as for `vtpm_pcrs`.

    Raises:
        DecodeError: it is no unified kernel image, or the firmware no OVMF.
        PlatformError: virt-firmware is missing.
    """
    events = {
        0: _firmware_events(firmware, firmware_version),
        7: secure_boot_events(firmware, "sha256"),
        **_uki_events(parse_pe_untrusted(uki, what="the unified kernel image"), "sha256", from_disk=from_disk),
    }
    return {number: _extended(register, "sha256") for number, register in sorted(events.items())}


def uki_registers(uki: bytes) -> dict[str, list[bytes]]:
    """Return what is measured of a unified kernel image on a disk of `enarx.image.disk`, whatever firmware and machine are.

    Args:
        uki: as for `uki_pcrs`.

    Returns:
        The values that each register may have, by a policy's keys: RTMR1 also has how often the kernel had to ask firmware to let
        go of the machine, which is once or twice.

    Raises:
        DecodeError: it is no unified kernel image, or one of which PCR 9 cannot be computed.
    """
    image = parse_pe_untrusted(uki, what="the unified kernel image")
    pcrs = _uki_events(image, "sha256", from_disk=True)
    mrs = _uki_events(image, "sha384", from_disk=True)
    if 9 not in pcrs:
        raise DecodeError(
            "cannot measure the unified kernel image: found other sections or a newer stub, want .linux, .cmdline, .initrd and a stub"
            " of systemd 257"
        )
    calling, separator, *images = mrs[4]
    (partitions,) = _fixed("sha384", gpt_event(uki))
    registers = {f"tpm.pcr{number}": [_extended(register, "sha256")] for number, register in sorted(pcrs.items())}
    registers["tdx.rtmr1"] = [
        _extended((calling, separator, partitions, *images, *_fixed("sha384", *leaving)), "sha384")
        for leaving in (_EXIT, (*_EXIT_IN_VAIN, *_EXIT))
    ]
    registers["tdx.rtmr2"] = [_extended((*mrs[11], *mrs[9]), "sha384")]
    return registers


def uki_events(uki: bytes) -> tuple[Measured, ...]:
    """Return what goes into PCR 9 of a machine that boots a unified kernel image; nothing where that is not known.

    Raises:
        DecodeError: it is none.
    """
    return _uki_events(parse_pe_untrusted(uki, what="the unified kernel image"), "sha256", from_disk=True).get(9, ())


def _uki_events(image: PeFile, algorithm: str, *, from_disk: bool) -> dict[int, tuple[Measured, ...]]:
    """Return what goes into which PCR of a unified kernel image, firmware left aside.

    PCR 12 and 13 have what is added to it from elsewhere, which is nothing: other words on the command line, credentials, extensions.
    """
    if ".linux" not in image.sections:
        raise DecodeError("cannot measure the unified kernel image: found no section .linux, want one")
    images = (Measured(KERNEL, image.digest(algorithm)),)
    version = _STUB_VERSION.search(image.sections.get(".sdmagic", b""))
    is_old = version is None or int(version[1]) < _STARTS_KERNEL_ITSELF
    inner: tuple[Measured, ...] = ()
    if is_old:
        # Such a stub has firmware load the kernel, which measures it.
        inner = (Measured(KERNEL, parse_pe_untrusted(image.sections[".linux"], what="the kernel").digest(algorithm)),)
    boot = _fixed(algorithm, _CALLING, _SEPARATOR)
    there = [name for name in _UKI_SECTIONS if name in image.sections]
    sections = [
        Measured(name, hashlib.new(algorithm, data).digest())
        for name in there
        for data in (name.encode() + b"\0", image.sections[name])
    ]
    events = {
        4: (*boot, *images, *inner) if from_disk else (*images, *boot, *inner),
        11: tuple(sections),
        12: (),
        13: (),
    }
    if is_old and {".cmdline", ".initrd"} <= set(there) <= _HANDED_ON:
        options = image.sections[".cmdline"].decode("utf-8", "replace") + "\0"
        events[9] = (
            Measured(CMDLINE, hashlib.new(algorithm, options.encode("utf-16-le")).digest()),
            Measured(INITRAMFS, hashlib.new(algorithm, image.sections[".initrd"]).digest()),
        )
    return events


# --- Registers -------------------------------------------------------------------------------------------------------


def _fixed(algorithm: str, *contents: bytes, part: str = "") -> tuple[Measured, ...]:
    """Return what every machine measures alike."""
    return tuple(Measured(part, hashlib.new(algorithm, content).digest()) for content in contents)


def _extended(events: Iterable[Measured], algorithm: str) -> bytes:
    """Return a register that began with zeros."""
    value = bytes(hashlib.new(algorithm).digest_size)
    for event in events:
        value = hashlib.new(algorithm, value + event.digest).digest()
    return value


def _value(name: str, events: tuple[Measured, ...], algorithm: str) -> bytes:
    return events[0].digest if name == "mr_td" else _extended(events, algorithm)


def register_values(events: Mapping[str, tuple[Measured, ...]]) -> dict[str, bytes]:
    """Return the values of registers that are named as a policy names them: `tpm.pcr9`, `tdx.rtmr2`."""
    return {
        key: _value(key.rpartition(".")[2], register, "sha384" if key.startswith("tdx.") else "sha256")
        for key, register in events.items()
    }
