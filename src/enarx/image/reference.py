# SPDX-License-Identifier: Apache-2.0
"""Reference values of an image: what a policy says of machines that run it, and which part of a machine was another.

What holds it together: `Machine` has an image's parts in memory; `reference_values` says what hardware measures of them, by the
keys of a policy; `which_part_changed` compares evidence with the same parts.

Rules of this file:

- SNP digests are for firmware that checks what it boots, and for nothing else: under other firmware a host could start another
  kernel with the same digest. What a software platform says of a machine with such firmware is a list of its own
  (`emulated_measurements`), for policies that accept software platforms anyway.
- What is not in the image is not said: neither RTMR0 nor PCR 1, which are QEMU's and the machine's; of an image for clouds nothing of
  firmware, which is the cloud's.
- Explanations come after the verdict and change none. A log of events is believed as far as it replays to the registers, and what a
  host says that it started as far as that gives the launch digest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import cached_property
from typing import Any, Final
from uuid import UUID

from enarx.abi.event_log import EV_NO_ACTION, parse_event_log_untrusted
from enarx.errors import DecodeError, PlatformError, UsageError, VerificationError
from enarx.image import measure_firmware
from enarx.image.manifest import UKI
from enarx.image.measure import (
    CMDLINE,
    FIRMWARE,
    INITRAMFS,
    KERNEL,
    Boot,
    LaunchParts,
    Measured,
    kernel_event,
    launch_cmdline,
    register_values,
    snp_firmware_pages,
    snp_launch_digests,
    tdx_events,
    uki_events,
    uki_registers,
    vtpm_events,
)
from enarx.image.store import Image
from enarx.wire.corim import ENVIRONMENTS, Digest, Measurement, ReferenceValue, ReferenceValueSet
from enarx.wire.machine import OVERHEAD_BYTES

__all__ = [
    "DEFAULT_VCPUS",
    "DEFAULT_VCPU_TYPES",
    "OLD_QEMU_MEMORIES",
    "UNTOLD",
    "Machine",
    "corim_values",
    "emulated_measurements",
    "open_machine",
    "parts_of_launch",
    "reference_values",
    "which_part_changed",
]

DEFAULT_VCPUS: Final = (1,)
DEFAULT_VCPU_TYPES: Final = ("EPYC-v4",)
"""What the launchers start."""

MAX_FILE_BYTES: Final = 256 << 20
_MEMORY_STEP: Final = 32 << 20
_ALIKE_FROM: Final = 0xB0000000
OLD_QEMU_MEMORIES: Final = tuple(range(OVERHEAD_BYTES + _MEMORY_STEP, _ALIKE_FROM + 1, _MEMORY_STEP))
"""The sizes of memory that a launcher gives to machines, in bytes; to the kernel, all from the last one on look alike."""

_ROLES: Final = {"snp": "snp", "tdx": "tdx", "tpm": "vm"}
"""Whose firmware each section of a policy is about."""

_ARCHITECTURES: Final = ("x86_64", "aarch64")
_THREADS: Final = 4
_ZEROS: Final = {
    "snp": {"family_id": 16, "image_id": 16, "host_data": 32},
    "tdx": {"mr_config_id": 48, "mr_owner": 48, "mr_owner_config": 48},
}
_PARTS: Final = {
    "tpm.pcr0": FIRMWARE,
    "tpm.pcr1": "what QEMU makes for the shape of the machine",
    "tpm.pcr4": KERNEL,
    "tpm.pcr7": "Secure Boot's state",
    "tdx.mr_td": FIRMWARE,
    "tdx.rtmr0": "what QEMU makes for the shape of the machine",
    "tdx.rtmr1": KERNEL,
}
_UKI_PARTS: Final = {
    "tpm.pcr4": "the unified kernel image",
    "tpm.pcr11": "the unified kernel image",
    "tpm.pcr12": "what was added to the command line or the initramfs",
    "tpm.pcr13": "what was added to the initramfs",
    "tdx.rtmr1": "the unified kernel image or its disk",
    "tdx.rtmr2": "the unified kernel image or what was added to it",
}
_IN_TURN: Final = ("tpm.pcr9", "tdx.rtmr2")
"""Registers of several parts, one after the other."""

UNTOLD: Final = f"{FIRMWARE}, {KERNEL}, {INITRAMFS} or {CMDLINE}"
"""What a launch digest alone says of the parts."""

_SHAPES: Final = range(1, 65)
_TYPES: Final = ("EPYC-v4", "EPYC-Rome", "EPYC-Milan", "EPYC-Genoa", "EPYC-Turin")
_ALGORITHMS: Final = {32: "sha-256", 48: "sha-384"}


class Machine:
    """The parts of the machines that an image makes.

    Args:
        name: of the image, or of what else the parts are from.
        kernel: the file.
        initramfs: the file.
        cmdline: that all backends begin with.
        firmware: the files by role: `vm`, `snp`, `tdx`.
        firmware_version: that the firmware measures of itself; None finds it in the files.
        kernel_sha256: of the kernel's file, where it is known already.
        initramfs_sha256: likewise.
        uki: the unified kernel image of all of them, which is what clouds start; None where a launcher hands them to firmware.
    """

    def __init__(
        self,
        *,
        name: str,
        kernel: bytes,
        initramfs: bytes,
        cmdline: str,
        firmware: Mapping[str, bytes],
        firmware_version: str | None = None,
        kernel_sha256: bytes | None = None,
        initramfs_sha256: bytes | None = None,
        uki: bytes | None = None,
    ) -> None:
        self.uki = uki
        self.name, self.cmdline, self.firmware, self.firmware_version = name, cmdline, firmware, firmware_version
        self.boot = Boot(
            kernel=kernel,
            initramfs=initramfs,
            cmdline=cmdline,
            kernel_sha256=kernel_sha256,
            initramfs_sha256=initramfs_sha256,
        )

    @cached_property
    def snp_boot(self) -> Boot:
        """What SNP measures, with the command line of that backend."""
        return Boot(
            kernel=self.boot.kernel,
            initramfs=self.boot.initramfs,
            cmdline=launch_cmdline(self.cmdline, "snp"),
            kernel_sha256=self.boot.kernel_sha256,
            initramfs_sha256=self.boot.initramfs_sha256,
        )

    @cached_property
    def _tdx_events(self) -> dict[str, tuple[Measured, ...]]:
        registers = tdx_events(firmware=self.firmware["tdx"], boot=self.boot)
        return {f"tdx.{name}": register for name, register in registers.items()}

    @cached_property
    def _tpm_events(self) -> dict[str, tuple[Measured, ...]]:
        pcrs = vtpm_events(firmware=self.firmware["vm"], boot=self.boot, firmware_version=self.firmware_version)
        return {f"tpm.pcr{number}": register for number, register in pcrs.items()}

    def events_of(self, section: str) -> Mapping[str, tuple[Measured, ...]]:
        """Return what goes into which register, by a policy's keys, under QEMU from 10.0 on; nothing without firmware.

        Of a unified kernel image it is the register of several parts.
        """
        if self.uki is not None:
            return {"tpm.pcr9": uki_events(self.uki)} if section == "tpm" else {}
        if _ROLES[section] not in self.firmware:
            return {}
        return self._tdx_events if section == "tdx" else self._tpm_events

    def kernel_pcrs(self, memory_sizes: Iterable[int]) -> list[bytes]:
        """Return PCR 4 under QEMU from 10.0 on, then under older ones for each size of memory in bytes."""
        first, *rest = self._tpm_events["tpm.pcr4"]
        kernels = (first, *(kernel_event(self.boot, size) for size in memory_sizes))
        return [register_values({"tpm.pcr4": (kernel, *rest)})["tpm.pcr4"] for kernel in kernels]


def open_machine(image: Image, *, roles: Collection[str] = ("vm", "snp", "tdx")) -> Machine:
    """Read the parts of an installed image.

    Args:
        image: that is installed.
        roles: whose firmware is wanted.

    Raises:
        VerificationError: a file is not what the image's manifest says.
        PlatformError: one cannot be read.
        UsageError: it is for an architecture for which nothing is computed.
    """
    if image.arch not in _ARCHITECTURES:
        wanted = " or ".join(_ARCHITECTURES)
        raise UsageError(f"cannot measure {image.name}: architecture: found {image.arch}, want {wanted}")
    paths = {"kernel": image.kernel, "initramfs": image.initramfs}
    paths |= {f"firmware/{role}.fd": path for role, path in image.firmware.items() if role in roles}
    if image.uki is not None:
        paths[UKI] = image.uki
    # Reading and hashing leave the interpreter to each other.
    with ThreadPoolExecutor(_THREADS) as pool:
        read = dict(zip(paths, pool.map(_read_and_hash, paths.values()), strict=True))
    read["cmdline"] = image.cmdline.encode(), hashlib.sha256(image.cmdline.encode()).digest()
    for path, (_, digest) in read.items():
        wanted = image.manifest.artefacts[path].sha256
        if digest.hex() != wanted:
            raise VerificationError(
                f"cannot measure {image.name}: {path}: found SHA-256 {digest.hex()}, want {wanted}",
                hint="enarx image build makes it again",
            )
    return Machine(
        name=image.name,
        kernel=read["kernel"][0],
        initramfs=read["initramfs"][0],
        cmdline=image.cmdline,
        firmware={role: read[path][0] for role in image.firmware if (path := f"firmware/{role}.fd") in read},
        kernel_sha256=read["kernel"][1],
        initramfs_sha256=read["initramfs"][1],
        uki=read[UKI][0] if UKI in read else None,
    )


def _read_and_hash(path: str) -> tuple[bytes, bytes]:
    try:
        # One read of the whole file: a read of at most so many bytes would make room for all of them first.
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            data = file.readall() if size <= MAX_FILE_BYTES else b""
    except OSError as error:
        raise PlatformError(f"cannot measure: {path}: {error.strerror}") from error
    if size > MAX_FILE_BYTES:
        raise PlatformError(f"cannot measure: {path}: found {size} bytes, want at most {MAX_FILE_BYTES}")
    return data, hashlib.sha256(data).digest()


def reference_values(
    machine: Machine,
    *,
    sections: Collection[str] = ("snp", "tdx", "tpm"),
    vcpus: Iterable[int] = DEFAULT_VCPUS,
    vcpu_types: Iterable[str] = DEFAULT_VCPU_TYPES,
    memory_sizes: Iterable[int] = OLD_QEMU_MEMORIES,
) -> dict[str, dict[str, list[str]]]:
    """Return what a policy says of a machine, by section and key, values in hex as a policy has them.

    Args:
        machine: its parts.
        sections: of a policy that are wanted; those without firmware are left out.
        vcpus: numbers of processors of SNP machines.
        vcpu_types: their types.
        memory_sizes: in bytes, of machines under QEMU before 10.0.

    Raises:
        DecodeError: a part is not what it has to be, or the firmware for SNP does not check what it boots.
        PlatformError: virt-firmware is missing.
        UsageError: an argument cannot be.
    """
    if machine.uki is not None:
        return _uki_values(machine.uki, [each for each in sections if each != "tdx" or machine.boot.pe.is_x86])
    wanted = [section for section, role in _ROLES.items() if section in sections and role in machine.firmware]

    def values_of(section: str) -> dict[str, list[str]]:
        if section == "snp":
            digests = snp_measurements(machine, vcpus=vcpus, vcpu_types=vcpu_types).values()
            return {"measurement": _hex(digests)}
        registers = register_values(machine.events_of(section))
        values = {key.partition(".")[2]: [value.hex()] for key, value in registers.items()}
        return values | ({"pcr4": _hex(machine.kernel_pcrs(memory_sizes))} if section == "tpm" else {})

    # Most of it is hashing, which leaves the interpreter to the others.
    with ThreadPoolExecutor(_THREADS) as pool:
        found = dict(zip(wanted, pool.map(values_of, wanted), strict=True))
    for section, zeros in _ZEROS.items():
        if section in found:
            found[section] |= {key: [bytes(size).hex()] for key, size in zeros.items()}
    return found


def _uki_values(uki: bytes, sections: Collection[str]) -> dict[str, dict[str, list[str]]]:
    """Return what a policy says of a machine in a cloud."""
    found: dict[str, dict[str, list[str]]] = {}
    for key, values in uki_registers(uki).items():
        section, _, register = key.partition(".")
        # Azure's virtual TPM has the registers of any other.
        for each in (section, "azure") if section == "tpm" else (section,):
            if each in sections:
                found.setdefault(each, {})[register] = _hex(values)
    return found


def snp_measurements(
    machine: Machine, *, vcpus: Iterable[int] = DEFAULT_VCPUS, vcpu_types: Iterable[str] = DEFAULT_VCPU_TYPES
) -> dict[tuple[int, str], bytes]:
    """Return launch digests by number and type of processors; raises as `reference_values` does."""
    firmware = machine.firmware["snp"]
    if not measure_firmware.checks_kernel_hashes(firmware):
        raise DecodeError(
            f"cannot measure {machine.name}: firmware for snp: found none of the code that checks a kernel, want OVMF's AmdSev build:"
            " under this one a host could start another kernel with the same launch digest"
        )
    return snp_launch_digests(firmware=firmware, boot=machine.snp_boot, vcpus=vcpus, vcpu_types=vcpu_types)


def emulated_measurements(machine: Machine, *, vcpus: Iterable[int] = DEFAULT_VCPUS) -> list[bytes]:
    """Return the launch digests that a software platform says of machines without SNP: of firmware that checks nothing."""
    if "vm" not in machine.firmware or machine.uki is not None:
        return []
    return list(
        snp_launch_digests(
            firmware=machine.firmware["vm"], boot=machine.boot, vcpus=vcpus, vcpu_types=DEFAULT_VCPU_TYPES
        ).values()
    )


def _hex(values: Iterable[bytes]) -> list[str]:
    return [value.hex() for value in dict.fromkeys(values)]


# --- CoRIM -----------------------------------------------------------------------------------------------------------


def corim_values(
    values: Mapping[str, Mapping[str, list[str]]],
    *,
    identity: str | UUID,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> ReferenceValueSet:
    """Return reference values as a CoRIM has them: for each section one triple, so that its values belong together.

    Args:
        values: as `reference_values` returns them.
        identity: of the document.
        not_before: from when they hold; None is ever.
        not_after: until when; needed where `not_before` is given.
    """
    triples = tuple(
        ReferenceValue(
            environment=ENVIRONMENTS[section],
            measurements=tuple(
                _measurement(key, [bytes.fromhex(value) for value in said]) for key, said in keys.items()
            ),
        )
        for section, keys in values.items()
    )
    return ReferenceValueSet(id=identity, values=triples, not_before=not_before, not_after=not_after)


def _measurement(key: str, values: list[bytes]) -> Measurement:
    if not any(values[0]) and len(values) == 1:
        # What has to be zero is no digest of anything.
        return Measurement(key=key, raw=values[0])
    return Measurement(key=key, digests=tuple(Digest(_ALGORITHMS[len(value)], value) for value in values))


# --- What was another ------------------------------------------------------------------------------------------------


def parts_of_launch(
    machine: Machine, digest: bytes, said: LaunchParts, *, emulated: bool = False
) -> tuple[str, ...] | None:
    """Return which parts of a machine are not those of an image, by what its host says that it started.

    A host may say what it likes. What gives the digest is what was launched, because nobody finds two that do.

    Args:
        machine: the image's parts.
        digest: the launch digest that evidence has, 48 bytes.
        said: the parts, by the host's word.
        emulated: whether a software platform vouches for it: then the image's machine is the one without SNP.

    Returns:
        of `firmware`, `kernel`, `initramfs` and `command line` those that are another; None where what the host says does not
        give the digest, which proves nothing. A host whose firmware has other tables cannot be believed either.
    """
    role, boot = ("vm", machine.boot) if emulated else ("snp", machine.snp_boot)
    if role not in machine.firmware:
        return None
    for firmware in {role: machine.firmware[role], **machine.firmware}.values():
        try:
            digests = snp_launch_digests(firmware=firmware, boot=said, vcpus=_SHAPES, vcpu_types=_TYPES)
        except DecodeError:
            continue  # firmware without tables for SNP
        if digest in digests.values():
            break
    else:
        return None
    pages = snp_firmware_pages(machine.firmware[role])
    wanted = LaunchParts(pages, boot.kernel_sha256, boot.initramfs_sha256, boot.cmdline_sha256)
    names = (FIRMWARE, KERNEL, INITRAMFS, CMDLINE)
    return tuple(name for name, found, want in zip(names, said, wanted, strict=True) if found != want)


def which_part_changed(
    machine: Machine, found: Mapping[str, Any], *, event_logs: Iterable[bytes] = ()
) -> tuple[str, ...]:
    """Return which parts of a machine are not those of an image, as far as its registers tell.

    Args:
        machine: the image's parts.
        found: what evidence says, by a policy's keys: those that a policy refused.
        event_logs: that came with it; one that replays tells a command line from an initramfs.

    Returns:
        `firmware`, `kernel`, `initramfs`, `command line`, or words for what else it can be, each once; empty where no key says it.
    """
    parts: dict[str, None] = {}
    logs = _events_of(event_logs)
    for key, value in found.items():
        if not isinstance(value, bytes):
            continue
        if machine.uki is not None and (said := _UKI_PARTS.get(key.replace("azure.", "tpm."))):
            parts[said] = None
        elif key in _PARTS:
            if key != "tpm.pcr4" or "vm" not in machine.firmware or value not in machine.kernel_pcrs(OLD_QEMU_MEMORIES):
                parts[_PARTS[key]] = None
        elif key in _IN_TURN and (events := machine.events_of(key.partition(".")[0])):
            parts |= dict.fromkeys(_changed_in_turn(events[key], value, logs[key]))
        elif key == "snp.measurement":
            parts[_changed_in_launch(machine, value)] = None
    return tuple(parts)


def _changed_in_turn(events: tuple[Measured, ...], value: bytes, logs: list[list[bytes]]) -> list[str]:
    algorithm = hashlib.sha384 if len(value) == 48 else hashlib.sha256
    for digests in logs:
        register = bytes(len(value))
        for digest in digests:
            register = algorithm(register + digest).digest()
        if register == value and len(digests) == len(events):
            return [event.part for event, digest in zip(events, digests, strict=True) if event.digest != digest]
    return [" or ".join(dict.fromkeys(event.part for event in events))]


def _changed_in_launch(machine: Machine, value: bytes) -> str:
    """Say what a launch digest is of, if it is one of the image in another shape."""
    for role, boot in (("snp", machine.snp_boot), ("snp", machine.boot), ("vm", machine.boot)):
        if role not in machine.firmware:
            continue
        digests = snp_launch_digests(
            firmware=machine.firmware[role],
            boot=boot,
            vcpus=_SHAPES,
            vcpu_types=_TYPES,
        )
        for (count, kind), digest in digests.items():
            if digest == value:
                if role != "snp":
                    return f"{FIRMWARE} (that for machines without SNP)"
                if boot is not machine.snp_boot:
                    return f"{CMDLINE} (that for machines without SNP)"
                return f"number or type of processors ({count} of {kind})"
    return UNTOLD


def _events_of(event_logs: Iterable[bytes]) -> dict[str, list[list[bytes]]]:
    """List the digests of the registers of several parts, for each log that can be read."""
    found: dict[str, list[list[bytes]]] = {key: [] for key in _IN_TURN}
    for data in event_logs:
        try:
            events = [event for event in parse_event_log_untrusted(data).events if event.type != EV_NO_ACTION]
        except DecodeError:
            # It was to explain something and does not: the verdict stands without it.
            continue
        for key, register, bank in (("tpm.pcr9", 9, "sha256"), ("tdx.rtmr2", 3, "sha384")):
            digests = [event.digests[bank] for event in events if event.register == register and bank in event.digests]
            if digests:
                found[key].append(digests)
    return found
