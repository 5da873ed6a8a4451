# SPDX-License-Identifier: Apache-2.0
"""`enarx image measure`: what hardware will say about a machine, from its files, in the forms that others read."""

from __future__ import annotations

from enarx.cli import ui
from enarx.cli.image_shape import UNPROVEN
from enarx.cli.options import Command, Option, Parsed
from enarx.errors import DecodeError, UsageError
from enarx.user_files import create_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.image.reference import Machine

    Values = dict[str, dict[str, list[str]]]

_FILES = ("kernel", "initramfs", "cmdline", "firmware")
_ROLES = ("vm", "snp", "tdx")
_MAX_RANGE = 1024
_NOT_COMPUTED = {
    "tdx": ("rtmr0", "ACPI tables, memory and boot variables, which QEMU makes for the shape of a machine"),
    "tpm": ("pcr1", "ACPI tables and boot variables, which QEMU makes for the shape of a machine"),
}


def _measure(parsed: Parsed) -> int:
    forms = [name for name in ("json", "toml", "corim") if parsed.flag(name)]
    if len(forms) > 1:
        raise UsageError(f"cannot measure: found --{forms[0]} and --{forms[1]}, want one of them")
    if parsed.flag("key") and forms != ["corim"]:
        raise UsageError("cannot measure: found --key without --corim, want both or neither")
    machine, identity = _machine(parsed)
    values = _uki_values(parsed, machine) if parsed.flag("uki") else _values(parsed, machine)
    if not values:
        raise UsageError(
            f"cannot measure {machine.name}: found firmware for nothing that is asked for, want it for {', '.join(_ROLES)}"
        )
    if forms == ["corim"]:
        path = parsed.value("corim") or ""
        create_file(path, _corim(parsed, values, identity), hint="remove it first, or name another file")
        ui.note(f"wrote {path}, reference values of {machine.name} for {', '.join(values)}")
        if not parsed.flag("key"):
            ui.note("nobody signs it: whoever reads it must know where it is from; --key signs")
    elif forms == ["json"]:
        import json

        ui.out(json.dumps(_document(machine, values), indent=2))
    elif forms == ["toml"]:
        ui.out(_toml(machine, values))
    else:
        ui.out(_text(machine, values))
    return 0


# --- What is measured --------------------------------------------------------------------------------------------------


def _machine(parsed: Parsed) -> tuple[Machine, str]:
    """Return a machine's parts, from an image or from files, and a name for the document about them."""
    from enarx.image.reference import Machine, open_machine
    from enarx.image.store import open_image

    given = [name for name in _FILES if parsed.flag(name)]
    if not given:
        image = open_image(parsed.value("image") or _default_image())
        return open_machine(image), f"enarx-image-{image.digest}"
    if parsed.flag("image"):
        raise UsageError(f"cannot measure: found --image and --{given[0]}, want one of them")
    needed = ("firmware",) if parsed.flag("uki") else ("kernel", "initramfs", "firmware")
    for name in needed:
        if name not in given:
            raise UsageError(f"cannot measure: found --{given[0]} without --{name}, want both")
    firmware: dict[str, bytes] = {}
    for value in parsed.all("firmware"):
        role, equals, path = value.partition("=")
        if not equals or role not in _ROLES or role in firmware:
            raise UsageError(
                f"cannot measure: --firmware: found {value[:80]}, want one ROLE=FILE for each of {', '.join(_ROLES)}"
            )
        firmware[role] = _read(path)
    machine = Machine(
        name="files",
        kernel=_read(parsed.value("kernel")),
        initramfs=_read(parsed.value("initramfs")),
        cmdline=parsed.value("cmdline") or "",
        firmware=firmware,
        firmware_version=parsed.value("firmware-version"),
    )
    return machine, f"enarx-kernel-{machine.boot.kernel_sha256.hex()}"


def _default_image() -> str:
    from enarx import __version__

    return f"keep-{__version__}-x86_64"


def _read(path: str | None) -> bytes:
    from enarx.image.reference import MAX_FILE_BYTES

    if path is None:
        return b""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot measure: {path}: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(f"cannot measure: {path}: found more than {MAX_FILE_BYTES} bytes, want fewer")
    return data


def _values(parsed: Parsed, machine: Machine) -> Values:
    from enarx.image.reference import DEFAULT_VCPU_TYPES, DEFAULT_VCPUS, OLD_QEMU_MEMORIES, reference_values
    from enarx.wire.units import parse_size

    counts = {count for text in parsed.all("vcpus") for count in _range(text)}
    sizes = [parse_size(text, name="--memory") for text in parsed.all("memory")]
    values = reference_values(
        machine,
        vcpus=sorted(counts) or DEFAULT_VCPUS,
        vcpu_types=parsed.all("vcpu-type") or DEFAULT_VCPU_TYPES,
        memory_sizes=sizes or OLD_QEMU_MEMORIES,
    )
    qemu = parsed.value("qemu")
    if qemu is not None:
        from enarx.cli.image_shape import DEFAULT_PHYSICAL_BITS, td_rtmr0

        bits = parsed.value("physical-bits") or str(DEFAULT_PHYSICAL_BITS)
        rtmr0 = td_rtmr0(machine, qemu, sizes, int(bits) if bits.isascii() and bits.isdigit() and len(bits) < 4 else 0)
        values["tdx"] = {"rtmr0": rtmr0} | values["tdx"]
    return values


def _range(text: str) -> range:
    first, dash, last = text.partition("-")
    numbers = (first, last) if dash else (first, first)
    if not all(number.isascii() and number.isdigit() and len(number) < 5 for number in numbers):
        raise UsageError(f"cannot measure: --vcpus: found {text[:40]}, want a number or a range like 1-4")
    found = range(int(numbers[0]), int(numbers[1]) + 1)
    if not found or found.start < 1 or found.stop > _MAX_RANGE + 1:
        raise UsageError(f"cannot measure: --vcpus: found {text}, want 1 to {_MAX_RANGE}, the smaller first")
    return found


def _uki_values(parsed: Parsed, machine: Machine) -> Values:
    from enarx.image.measure import uki_pcrs

    if "vm" not in machine.firmware:
        raise UsageError("cannot measure: found --uki without firmware for vm, want --firmware vm=FILE")
    pcrs = uki_pcrs(
        firmware=machine.firmware["vm"],
        uki=_read(parsed.value("uki")),
        from_disk=not parsed.flag("by-kernel-option"),
        firmware_version=machine.firmware_version,
    )
    return {"tpm": {f"pcr{number}": [value.hex()] for number, value in pcrs.items()}}


# --- How it is said ----------------------------------------------------------------------------------------------------


def _document(machine: Machine, values: Values) -> dict[str, object]:
    return {
        "image": machine.name,
        "command_line": machine.cmdline,
        "reference_values": values,
        "not_computed": {
            f"{tee}.{key}": why for tee, (key, why) in _NOT_COMPUTED.items() if tee in values and key not in values[tee]
        },
        "unproven": {"tdx.rtmr0": UNPROVEN} if "rtmr0" in values.get("tdx", {}) else {},
    }


def _toml(machine: Machine, values: Values) -> str:
    from enarx.verifier.policy_write import toml_of

    lines = [f"# Reference values of {machine.name}; a policy has more keys: enarx policy init"]
    for tee, keys in values.items():
        lines += ["", f"[{tee}]", *(f"{key} = {toml_of(said)}" for key, said in keys.items())]
        if "rtmr0" in keys:
            lines.append(f"# rtmr0 is {UNPROVEN}")
        elif tee in _NOT_COMPUTED:
            key, why = _NOT_COMPUTED[tee]
            lines.append(f"# {key} is not computed: {why}")
    return "\n".join(lines)


def _text(machine: Machine, values: Values) -> str:
    lines = [f"{machine.name}: {machine.cmdline}"]
    for tee, keys in values.items():
        lines.append(f"{tee}")
        for key, said in keys.items():
            lines.append(f"  {key:<16} {said[0]}")
            if len(said) > 1:
                what = "older QEMU, by memory" if key == "pcr4" else "other machines"
                lines.append(f"  {'':<16} and {len(said) - 1} more ({what}): --json, --toml")
        key, why = _NOT_COMPUTED.get(tee, ("", ""))
        if "rtmr0" in keys:
            lines.append(f"  {'':<16} rtmr0 is {UNPROVEN}")
        elif key:
            lines.append(f"  {key:<16} not computed: {why}")
    return "\n".join(lines)


def _corim(parsed: Parsed, values: Values, identity: str) -> bytes:
    from enarx.cli.attest import time_of
    from enarx.image.reference import corim_values
    from enarx.wire.corim import encode_corim, sign_corim

    until = parsed.value("until")
    said = corim_values(values, identity=identity, not_after=None if until is None else time_of(until))
    path = parsed.value("key")
    if path is None:
        return encode_corim(said)
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    from enarx.crypto.x509 import load_private_key

    key = load_private_key(_read(path), path=path)
    if not isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise DecodeError(f"cannot sign: {path}: found a key of another kind, want one for ECDSA or Ed25519")
    return sign_corim(said, key, signer=parsed.value("signer") or "enarx image measure")


COMMANDS = {
    "image measure": Command(
        "image measure",
        summary="predict what hardware will say of a Keep's machine",
        description=(
            "Compute the measurements of machines that start from an image, or from files, without starting one: SNP launch\n"
            "digests, a TD's MRTD and RTMRs, a vTPM's PCRs. The same files give the same values anywhere."
        ),
        options=(
            Option("image", "NAME", "an installed image, by name or digest; without it, that of this version"),
            Option("kernel", "FILE", "measure this kernel instead of an image's"),
            Option("initramfs", "FILE", "with this initramfs"),
            Option("cmdline", "TEXT", "and this command line, without what a backend adds"),
            Option("firmware", "ROLE=FILE", "and this firmware for vm, snp or tdx; may be repeated", repeat=True),
            Option("firmware-version", "TEXT", "what the firmware for vm measures as its version, if it is not found"),
            Option(
                "uki",
                "FILE",
                "measure a unified kernel image that is started from a disk: PCRs 0, 4, 7, 9 and 11 to 13",
            ),
            Option("by-kernel-option", "", "that unified kernel image is started by QEMU's -kernel"),
            Option("vcpus", "N", "processors of SNP machines, 1 or 1-4; may be repeated", repeat=True),
            Option(
                "vcpu-type", "TYPE", "their type by QEMU's name, EPYC-v4 if not given; may be repeated", repeat=True
            ),
            Option(
                "memory",
                "SIZE",
                "memory of machines under QEMU before 10.0; all that launchers give if not given",
                repeat=True,
            ),
            Option("qemu", "PROGRAM", "ask this QEMU for the shape of TDs, of each --memory, and say RTMR0 too"),
            Option("physical-bits", "N", "the width of addresses on their host, for RTMR0; 46 if not given"),
            Option("json", "", "one JSON document, which policy init --from-image reads"),
            Option("toml", "", "as a policy has them"),
            Option("corim", "FILE", "write them as CoRIM, which policy init --corim reads if it is signed"),
            Option("key", "PEM", "sign the CoRIM with this private key"),
            Option("signer", "NAME", "the signer's name in it"),
            Option("until", "TIME", "the CoRIM holds until then"),
        ),
        examples=(
            ("enarx image measure", "the image of this version"),
            ("enarx image measure --vcpus 1-4 --vcpu-type EPYC-Milan --toml", "for SNP machines of other shapes"),
            ("enarx image measure --corim keep.corim --key maker.pem --signer ACME", "for those who trust ACME"),
        ),
        run=_measure,
    ),
}
