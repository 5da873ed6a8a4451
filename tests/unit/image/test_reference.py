# SPDX-License-Identifier: Apache-2.0
"""Reference values of a machine, in a policy's words and as CoRIM, and the words for the part that was another."""

from __future__ import annotations

import hashlib
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from enarx.abi.event_log import Event, EventLog, SpecId, serialise_event_log
from enarx.errors import DecodeError, VerificationError
from enarx.image.measure import (
    LaunchParts,
    launch_cmdline,
    snp_firmware_pages,
    snp_launch_digest,
    snp_launch_digests,
    tdx_registers,
    uki_registers,
    vtpm_pcrs,
)
from enarx.image.policies import expand_policy
from enarx.image.reference import (
    OLD_QEMU_MEMORIES,
    Machine,
    corim_values,
    emulated_measurements,
    open_machine,
    parts_of_launch,
    reference_values,
    snp_measurements,
    which_part_changed,
)
from enarx.image.uki import make_uki
from enarx.verifier.policy_corim import references_from_corim
from enarx.verifier.policy_toml import decode_value, registered_rules
from enarx.verifier.policy_write import references_from_tables
from enarx.wire.corim import decode_corim_untrusted, encode_corim, sign_corim, verify_corim
from tests.unit.image.machine_files import flipped, make_arm_kernel, make_firmware, make_kernel, make_stub
from tests.unit.image.machines import FIRMWARE, PARTS, installed, make_machine

AT = datetime(2026, 11, 1, tzinfo=UTC)
SOME = {"memory_sizes": (512 << 20,)}


def values_of(machine, **options):
    return reference_values(machine, **(SOME | options))


def test_values_are_what_each_technology_measures():
    values = values_of(make_machine())
    snp = snp_launch_digest(
        firmware=FIRMWARE["snp"],
        kernel=PARTS["kernel"],
        initramfs=PARTS["initramfs"],
        cmdline=launch_cmdline(PARTS["cmdline"], "snp"),
    )
    assert values["snp"] == {
        "measurement": [snp.hex()],
        "family_id": ["00" * 16],
        "image_id": ["00" * 16],
        "host_data": ["00" * 32],
    }
    tdx = {key: [value.hex()] for key, value in tdx_registers(firmware=FIRMWARE["tdx"], **PARTS).items()}
    assert values["tdx"] == tdx | {key: ["00" * 48] for key in ("mr_config_id", "mr_owner", "mr_owner_config")}
    pcrs = vtpm_pcrs(firmware=FIRMWARE["vm"], **PARTS)
    old = vtpm_pcrs(firmware=FIRMWARE["vm"], **PARTS, patched_for=512 << 20)
    wanted = {f"pcr{number}": [value.hex()] for number, value in pcrs.items()}
    assert values["tpm"] == wanted | {"pcr4": [pcrs[4].hex(), old[4].hex()]}


def test_what_is_not_in_the_image_is_not_said():
    values = values_of(make_machine())
    assert "rtmr0" not in values["tdx"]
    assert "pcr1" not in values["tpm"]


def test_every_value_is_one_that_a_policy_can_have():
    for section, keys in values_of(make_machine()).items():
        rules = {rule.key: rule for rule in registered_rules(section)}
        for key, value in keys.items():
            decode_value(rules[f"{section}.{key}"], value)


def test_a_technology_without_firmware_is_left_out():
    assert values_of(make_machine(firmware={"snp": FIRMWARE["snp"]})).keys() == {"snp"}
    assert values_of(make_machine(firmware={})) == {}
    assert values_of(make_machine(), sections=("tdx",)).keys() == {"tdx"}


def test_shapes_of_machines_have_a_digest_each():
    values = values_of(make_machine(), vcpus=(1, 2, 3), vcpu_types=("EPYC-v4", "EPYC-Milan"))
    assert len(values["snp"]["measurement"]) == 6
    # These two types are the same to a processor.
    assert len(values_of(make_machine(), vcpu_types=("EPYC-v3", "EPYC-v4"))["snp"]["measurement"]) == 1


def test_older_qemu_has_a_kernel_for_each_size_of_memory():
    assert OLD_QEMU_MEMORIES[0] == 480 << 20
    assert OLD_QEMU_MEMORIES[-1] == 2816 << 20
    machine = make_machine()
    pcr4 = reference_values(machine, sections=("tpm",))["tpm"]["pcr4"]
    assert len(set(pcr4)) == len(OLD_QEMU_MEMORIES)
    for size in (480 << 20, 800 << 20, 8 << 30):
        assert vtpm_pcrs(firmware=FIRMWARE["vm"], **PARTS, patched_for=size)[4].hex() in pcr4
    assert vtpm_pcrs(firmware=FIRMWARE["vm"], **PARTS, patched_for=481 << 20)[4].hex() not in pcr4


def test_refuses_snp_firmware_that_does_not_check_what_it_boots():
    machine = make_machine(firmware={"snp": make_firmware()})
    with pytest.raises(DecodeError, match="found none of the code that checks a kernel"):
        values_of(machine)
    with pytest.raises(DecodeError, match="with the same launch digest"):
        snp_measurements(machine)


def test_what_an_emulated_platform_says_is_a_list_of_its_own():
    machine = make_machine()
    (digest,) = emulated_measurements(machine)
    assert digest == snp_launch_digest(firmware=FIRMWARE["vm"], **PARTS)
    assert digest.hex() not in values_of(machine)["snp"]["measurement"]
    assert emulated_measurements(make_machine(firmware={})) == []


# --- CoRIM -----------------------------------------------------------------------------------------------------------


def said_by(values):
    """Return the values as a policy would be given them."""
    sections, references = references_from_tables(values, path="test")
    return sections, {key: tomllib.loads(f"value = {reference.toml}")["value"] for key, reference in references.items()}


def read_back(value_set):
    sections, references = references_from_corim(value_set, path="test")
    return sections, {key: tomllib.loads(f"value = {reference.toml}")["value"] for key, reference in references.items()}


def test_corim_says_the_same_unsigned():
    values = values_of(make_machine())
    data = encode_corim(corim_values(values, identity="test"))
    assert read_back(decode_corim_untrusted(data)) == said_by(values)


def test_corim_says_the_same_signed():
    values = values_of(make_machine(), vcpus=(1, 2))
    key = ec.generate_private_key(ec.SECP384R1())
    data = sign_corim(corim_values(values, identity="test"), key, signer="ACME")
    signed = verify_corim(data, [key.public_key()], at=AT)
    assert signed.signer == "ACME"
    assert read_back(signed.values) == said_by(values)
    with pytest.raises(VerificationError):
        verify_corim(data, [ec.generate_private_key(ec.SECP384R1()).public_key()], at=AT)


# --- Installed images --------------------------------------------------------------------------------------------------


def test_opens_an_installed_image(tmp_path, monkeypatch):
    image = installed(tmp_path, monkeypatch)
    assert values_of(open_machine(image)) == values_of(make_machine())


@pytest.mark.parametrize("name", ["kernel", "initramfs", "cmdline", "firmware/snp.fd", "firmware/vm.fd"])
def test_refuses_an_image_with_a_changed_file(tmp_path, monkeypatch, name):
    from enarx.image.store import open_image

    image = installed(tmp_path, monkeypatch)
    path = f"{image.folder}/{name}"
    with open(path, "rb") as file:
        data = file.read()
    with open(path, "wb") as file:
        file.write(flipped(data, 0))
    with pytest.raises(VerificationError, match=f"{name}: found SHA-256"):
        open_machine(open_image(image.name))


# --- What was another ------------------------------------------------------------------------------------------------------

CHANGES = {
    "kernel": {"kernel": make_kernel(b"other!")},
    "initramfs": {"initramfs": flipped(PARTS["initramfs"], 3)},
    "command line": {"cmdline": "console=ttyS1 quiet"},
}


def log_of(events, *, bank="sha256", shift=0):
    made = tuple(
        Event(number + shift, 0x6, {bank: event.digest}, b"what it says")
        for number, several in events.items()
        for event in several
    )
    return serialise_event_log(EventLog((bank,), made, (), SpecId(0, b"\0\0\0\0\0\x02\0\x02", b"")))


def found_in(machine, other, *, section):
    """Return the registers of a machine with other parts that a policy for an image refuses."""
    wanted = values_of(machine)[section]
    found = values_of(other)[section]
    return {
        f"{section}.{key}": bytes.fromhex(found[key][-1]) for key in wanted if not set(found[key]) <= set(wanted[key])
    }


@pytest.mark.parametrize("part", CHANGES)
def test_names_the_part_of_a_vm(part):
    from enarx.image.measure import vtpm_events

    machine, other = make_machine(), make_machine(**CHANGES[part])
    found = found_in(machine, other, section="tpm")
    log = log_of({9: vtpm_events(firmware=FIRMWARE["vm"], boot=other.boot)[9]})
    assert which_part_changed(machine, found, event_logs=[b"no log", log]) == (part,)
    if part != "kernel":
        # Both are in one register, and only the log tells them apart; a log of something else tells nothing.
        for logs in ([], [log_of({9: vtpm_events(firmware=FIRMWARE["vm"], boot=machine.boot)[9]})], [b""]):
            assert which_part_changed(machine, found, event_logs=logs) == ("command line or initramfs",)


@pytest.mark.parametrize("part", CHANGES)
def test_names_the_part_of_a_td(part):
    from enarx.image.measure import tdx_events

    machine, other = make_machine(), make_machine(**CHANGES[part])
    found = found_in(machine, other, section="tdx")
    log = log_of({3: tdx_events(firmware=FIRMWARE["tdx"], boot=other.boot)["rtmr2"]}, bank="sha384")
    assert which_part_changed(machine, found, event_logs=[log]) == (part,)


def test_names_firmware():
    machine = make_machine()
    for section, role in (("tpm", "vm"), ("tdx", "tdx")):
        other = make_machine(
            firmware=FIRMWARE | {role: make_firmware(b"pex", tdx=((0xFFFF8000, 0x8000, 0, 0x8000, 1),))}
        )
        assert which_part_changed(machine, found_in(machine, other, section=section)) == ("firmware",)


def test_a_launch_digest_tells_shapes_apart_and_parts_not():
    machine = make_machine()

    def changed(digest):
        return which_part_changed(machine, {"snp.measurement": digest})

    assert changed(b"x" * 48) == ("firmware, kernel, initramfs or command line",)
    (digest,) = snp_measurements(machine, vcpus=(4,), vcpu_types=("EPYC-Milan",)).values()
    assert changed(digest) == ("number or type of processors (4 of EPYC-Milan)",)
    assert changed(emulated_measurements(machine)[0]) == ("firmware (that for machines without SNP)",)
    with_acpi = snp_launch_digest(firmware=FIRMWARE["snp"], **PARTS)
    assert changed(with_acpi) == ("command line (that for machines without SNP)",)


LAUNCHED = {
    "firmware": {"firmware": {role: make_firmware(b"other", checks_hashes=role == "snp") for role in ("snp", "vm")}},
    **CHANGES,
}


def launched(machine, *, emulated):
    """Return the launch digest of a machine and what its host says when it tells the truth."""
    role, boot = ("vm", machine.boot) if emulated else ("snp", machine.snp_boot)
    digests = emulated_measurements(machine) if emulated else list(snp_measurements(machine).values())
    pages = snp_firmware_pages(machine.firmware[role])
    return digests[0], LaunchParts(pages, boot.kernel_sha256, boot.initramfs_sha256, boot.cmdline_sha256)


@pytest.mark.parametrize("emulated", [False, True])
@pytest.mark.parametrize("part", LAUNCHED)
def test_what_a_host_says_names_the_part_where_it_gives_the_digest(part, emulated):
    machine = make_machine()
    digest, said = launched(make_machine(**LAUNCHED[part]), emulated=emulated)
    assert parts_of_launch(machine, digest, said, emulated=emulated) == (part,)


def test_what_a_host_says_names_several_parts():
    changes = CHANGES["kernel"] | CHANGES["command line"]
    digest, said = launched(make_machine(**changes), emulated=False)
    assert parts_of_launch(make_machine(), digest, said) == ("kernel", "command line")


@pytest.mark.parametrize("emulated", [False, True])
def test_firmware_for_other_machines_is_another(emulated):
    machine = make_machine()
    boot, other = (machine.boot, FIRMWARE["snp"]) if emulated else (machine.snp_boot, FIRMWARE["vm"])
    said = launched(machine, emulated=emulated)[1]._replace(firmware_pages=snp_firmware_pages(other))
    shape = {"vcpus": (1,), "vcpu_types": ("EPYC-v4",)}
    (digest,) = snp_launch_digests(firmware=other, boot=boot, **shape).values()
    assert parts_of_launch(machine, digest, said, emulated=emulated) == ("firmware",)


def test_a_machine_of_another_shape_has_no_other_part():
    machine = make_machine()
    (digest,) = snp_measurements(machine, vcpus=(3,), vcpu_types=("EPYC-Turin",)).values()
    assert parts_of_launch(machine, digest, launched(machine, emulated=False)[1]) == ()


@pytest.mark.parametrize("part", LAUNCHED)
def test_what_a_host_says_proves_nothing_where_it_does_not_give_the_digest(part):
    machine = make_machine()
    digest, truth = launched(make_machine(**LAUNCHED[part]), emulated=False)
    honest = launched(machine, emulated=False)[1]
    for lie in (honest, *(truth._replace(**{field: bytes(len(getattr(truth, field)))}) for field in truth._fields)):
        assert parts_of_launch(machine, digest, lie) is None
    assert parts_of_launch(make_machine(firmware={"tdx": FIRMWARE["tdx"]}), digest, truth) is None


def test_a_kernel_in_a_machine_of_another_size_is_the_kernel():
    machine = make_machine()
    for size, parts in ((512 << 20, ()), (512 << 20 | 1 << 20, ("kernel",))):
        pcr4 = vtpm_pcrs(firmware=FIRMWARE["vm"], **PARTS, patched_for=size)[4]
        assert which_part_changed(machine, {"tpm.pcr4": pcr4}) == parts


def test_says_nothing_of_other_keys():
    assert which_part_changed(make_machine(), {"tpm.nonce": b"n", "snp.vmpl": 3, "snp.measurement": None}) == ()
    assert which_part_changed(make_machine(), {"tpm.pcr7": bytes(32), "tdx.rtmr0": bytes(48)}) == (
        "Secure Boot's state",
        "what QEMU makes for the shape of the machine",
    )


def test_each_file_is_hashed_once_for_both_command_lines(monkeypatch):
    machine = make_machine()
    assert machine.boot.kernel_sha256 == hashlib.sha256(PARTS["kernel"]).digest()
    assert machine.snp_boot.kernel_sha256 is machine.boot.kernel_sha256
    assert isinstance(machine, Machine)


UKI = make_uki(make_stub(), kernel=PARTS["kernel"], initramfs=PARTS["initramfs"], cmdline=PARTS["cmdline"])


def test_an_image_for_clouds_has_the_values_of_its_one_file_and_none_of_firmware():
    values = reference_values(make_machine(uki=UKI))
    assert values == {
        "tpm": {f"pcr{number}": [uki_registers(UKI)[f"tpm.pcr{number}"][0].hex()] for number in (4, 9, 11, 12, 13)},
        "tdx": {name: [value.hex() for value in uki_registers(UKI)[f"tdx.{name}"]] for name in ("rtmr1", "rtmr2")},
    }
    assert len(values["tdx"]["rtmr1"]) == 2
    assert reference_values(make_machine(uki=UKI), sections=("snp",)) == {}
    assert reference_values(make_machine(uki=UKI), sections=("azure",)) == {"azure": values["tpm"]}
    arm = make_uki(make_stub(), kernel=make_arm_kernel(), initramfs=b"cpio", cmdline="quiet")
    assert set(reference_values(make_machine(uki=arm, kernel=make_arm_kernel()))) == {"tpm"}
    # Nobody starts its kernel by itself.
    assert emulated_measurements(make_machine(uki=UKI)) == []


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ("tpm.pcr4", "the unified kernel image"),
        ("tpm.pcr11", "the unified kernel image"),
        ("azure.pcr11", "the unified kernel image"),
        ("tpm.pcr12", "what was added to the command line or the initramfs"),
        ("tpm.pcr9", "command line or initramfs"),
        ("tdx.rtmr1", "the unified kernel image or its disk"),
    ],
)
def test_of_a_machine_in_a_cloud_other_parts_are_named(key, part):
    size = 48 if key.startswith("tdx") else 32
    assert which_part_changed(make_machine(uki=UKI), {key: bytes(size)}) == (part,)


def test_an_installed_image_for_clouds_is_read_with_its_file(tmp_path, monkeypatch):
    image = installed(tmp_path, monkeypatch, firmware={"vm": FIRMWARE["vm"]}, uki=UKI)
    assert open_machine(image).uki == UKI
    path = Path(image.uki)
    path.write_bytes(UKI + b"x")
    with pytest.raises(VerificationError, match=r"uki\.efi: found SHA-256"):
        open_machine(image)


def test_a_policy_for_azure_names_an_image_for_clouds(tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch, firmware={"vm": FIRMWARE["vm"]}, uki=UKI)
    text, images = expand_policy(b'version = 1\n\n[azure]\nimage = "keep-test"\n', path="policy.toml")
    assert images == ("keep-test",)
    assert tomllib.loads(text.decode())["azure"] == reference_values(make_machine(uki=UKI))["tpm"]
