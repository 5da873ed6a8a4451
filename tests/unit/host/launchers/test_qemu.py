# SPDX-License-Identifier: Apache-2.0
"""The command lines, word by word; and that the QEMU of this machine knows their words."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess

import pytest

from enarx.errors import PlatformError
from enarx.host.launchers import qemu
from enarx.host.launchers.qemu import MACHINES, MachineSpec, command_line, kind_of

CMDLINE = "console=ttyS0 quiet"
COMMON_HEAD = "-nodefaults -no-user-config -no-reboot -display none -name keep-0123456789abcdef"
COMMON_FILES = "-kernel /proc/self/fd/5 -initrd /proc/self/fd/6 -append CMDLINE"
COMMON_TAIL = (
    " -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    " -chardev socket,id=qmp,fd=8 -mon chardev=qmp,mode=control"
    " -chardev socket,id=console,fd=9 -serial chardev:console -device virtio-serial-pci,id=ports"
    " -chardev socket,id=keep,fd=3,server=on,wait=off"
    " -device virtserialport,bus=ports.0,chardev=keep,name=keep.0"
)
TPM = " -chardev socket,id=tpm,fd=10 -tpmdev emulator,id=vtpm,chardev=tpm -device {},tpmdev=vtpm"
PLATFORM = (
    " -chardev socket,id=platform,fd=4,server=on,wait=off"
    " -device virtserialport,bus=ports.0,chardev=platform,name=platform.0"
)
TCG = "tcg,thread=multi,tb-size=256"
TDX = (
    '{"qom-type":"tdx-guest","id":"protection",'
    '"quote-generation-socket":{"type":"vsock","cid":"2","port":"4050"}}'
)  # fmt: skip
GOLDEN = {
    ("vm", "x86_64", "tcg"): f"-machine q35,vmport=off -accel {TCG} -cpu EPYC-v3 -smp 1 -m 480M -bios /proc/self/fd/7",
    ("vm", "x86_64", "kvm"): "-machine q35,vmport=off -accel kvm -cpu host -smp 1 -m 480M -bios /proc/self/fd/7",
    (
        "vm",
        "aarch64",
        "tcg",
    ): f"-machine virt,gic-version=3 -accel {TCG} -cpu max,pauth-impdef=on -smp 1 -m 480M -bios /proc/self/fd/7",
    ("vm", "ppc64", "tcg"): f"-machine pseries -accel {TCG} -cpu power9 -smp 1 -m 480M",
    ("snp", "x86_64", "kvm"): (
        "-machine q35,vmport=off,kernel_irqchip=split,confidential-guest-support=protection,memory-backend=ram"
        " -accel kvm -cpu EPYC-v4 -smp 1 -m 480M"
        " -object memory-backend-memfd,id=ram,size=503316480,share=true,prealloc=false,reserve=false"
        " -object sev-snp-guest,id=protection,cbitpos=51,reduced-phys-bits=1,policy=0x30000,kernel-hashes=on"
        " -bios /proc/self/fd/7"
    ),
    ("tdx", "x86_64", "kvm"): (
        "-machine q35,kernel_irqchip=split,hpet=off,confidential-guest-support=protection,memory-backend=ram"
        " -accel kvm -cpu host -smp 1 -m 480M -object memory-backend-ram,id=ram,size=503316480"
        f" -object {TDX} -bios /proc/self/fd/7"
    ),
    ("cca", "aarch64", "kvm"): (
        "-machine virt,gic-version=3,confidential-guest-support=protection -accel kvm -cpu host -smp 1 -m 480M"
        " -object rme-guest,id=protection,measurement-algorithm=sha512"
    ),
    ("pef", "ppc64", "kvm"): (
        "-machine pseries,confidential-guest-support=protection -accel kvm -cpu host -smp 1 -m 480M"
        " -object pef-guest,id=protection"
    ),
}


def spec(backend, arch, accelerator, **options):
    kind = kind_of(backend, arch)
    return MachineSpec(
        backend=backend,
        arch=arch,
        name="0123456789abcdef",
        accelerator=accelerator,
        memory_bytes=480 << 20,
        cmdline=CMDLINE,
        has_firmware=kind.firmware is not None,
        **options,
    )


@pytest.mark.parametrize(("backend", "arch", "accelerator"), GOLDEN)
def test_the_command_line_is_this(backend, arch, accelerator):
    found = command_line(spec(backend, arch, accelerator))
    wanted = f"{COMMON_HEAD} {GOLDEN[backend, arch, accelerator]} {COMMON_FILES}{COMMON_TAIL}".split()
    wanted[wanted.index("CMDLINE")] = CMDLINE
    assert (
        found[0]
        == {"x86_64": "qemu-system-x86_64", "aarch64": "qemu-system-aarch64", "ppc64": "qemu-system-ppc64"}[arch]
    )
    assert list(found[1:]) == wanted


@pytest.mark.parametrize(
    ("arch", "device"), [("x86_64", "tpm-crb"), ("aarch64", "tpm-tis-device"), ("ppc64", "tpm-spapr")]
)
def test_a_tpm_comes_last(arch, device):
    without = command_line(spec("vm", arch, "tcg"))
    assert command_line(spec("vm", arch, "tcg", has_tpm=True)) == (*without, *TPM.format(device).split())


def test_the_port_of_the_emulated_platform_comes_after_the_link_and_names_the_cpu_that_is_measured():
    without = command_line(spec("vm", "x86_64", "tcg"))
    assert command_line(spec("vm", "x86_64", "tcg", has_platform=True)) == (*without, *PLATFORM.split())
    under_kvm = command_line(spec("vm", "x86_64", "kvm", has_platform=True))
    assert under_kvm[under_kvm.index("-cpu") + 1] == "EPYC-v3"


def test_every_row_of_the_table_is_golden():
    assert {(backend, arch) for backend, arch, _ in GOLDEN} == set(MACHINES)


def test_nothing_but_what_is_measured_and_the_ports_is_given():
    banned = re.compile(
        r"fw_cfg|smbios|drive|virtfs|fsdev|netdev|nic|virtio-(net|rng|blk|9p)|vsock|acpitable|loader|pflash"
    )
    for backend, arch, accelerator in GOLDEN:
        for word in command_line(spec(backend, arch, accelerator)):
            assert word.startswith('{"qom-type":"tdx-guest"') or not banned.search(word), word


def test_what_a_host_could_put_into_a_report_stays_zero():
    for backend, arch, accelerator in GOLDEN:
        words = " ".join(command_line(spec(backend, arch, accelerator)))
        for name in ("host-data", "id-block", "id-auth", "mrconfigid", "mrowner", "personalization-value"):
            assert name not in words


def test_the_tdx_object_is_json_with_the_quote_service():
    words = command_line(spec("tdx", "x86_64", "kvm"))
    found = json.loads(next(word for word in words if word.startswith("{")))
    assert found["quote-generation-socket"] == {"type": "vsock", "cid": "2", "port": "4050"}
    assert not any(base64.b64encode(bytes(48)).decode() in word for word in words)


@pytest.mark.parametrize(
    ("backend", "arch", "accelerator", "options", "says"),
    [
        ("snp", "aarch64", "kvm", {}, "found a machine of aarch64, want x86_64"),
        ("vm", "riscv64", "tcg", {}, "want aarch64 or ppc64 or x86_64"),
        ("nitro", "x86_64", "kvm", {}, "want another backend"),
        ("snp", "x86_64", "tcg", {}, "found tcg, want kvm to run it by"),
        ("snp", "x86_64", "kvm", {"has_tpm": True}, "found a virtual TPM, want none"),
        ("vm", "x86_64", "tcg", {"has_tpm": True, "has_platform": True}, "found a virtual TPM, want none"),
    ],
)
def test_what_does_not_go_together_is_refused(backend, arch, accelerator, options, says):
    fields = {"name": "k", "accelerator": accelerator, "memory_bytes": 1 << 30, "cmdline": "", **options}
    with pytest.raises(PlatformError, match=says):
        command_line(MachineSpec(backend=backend, arch=arch, **fields))


def test_only_what_nobody_has_seen_run_is_flagged():
    assert {backend for (backend, _), kind in MACHINES.items() if kind.flagged} == {"cca", "pef"}


def test_power_is_one_architecture_by_two_names(monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr(qemu.os, "uname", lambda: SimpleNamespace(machine="ppc64le"))
    assert qemu.this_arch() == "ppc64"


# --- The QEMU that is there

# Not in every QEMU that there is: which one brought it.
NEW = {"sev-snp-guest": "9.1", "tdx-guest": "10.1", "rme-guest": "none yet", "pef-guest": "one for POWER"}


def asked(program, *words):
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run(
        [found, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True, text=True
    )
    return set(re.findall(r'^name "([^"]+)"|^  ([\w-]+)$', done.stdout, re.MULTILINE)), done.stdout


def words_of(option, backend, arch, accelerator, **options):
    words = command_line(spec(backend, arch, accelerator, **options))
    for at, word in enumerate(words):
        if word == option:
            value = words[at + 1]
            yield json.loads(value)["qom-type"] if value.startswith("{") else value.partition(",")[0]


@pytest.mark.parametrize(("backend", "arch", "accelerator"), GOLDEN)
def test_the_qemu_of_this_machine_knows_the_objects(backend, arch, accelerator):
    _, text = asked(kind_of(backend, arch).program, "-object", "help")
    for name in words_of("-object", backend, arch, accelerator):
        if name not in text.split():
            assert name in NEW
            pytest.skip(f"this QEMU has no {name}; needs {NEW[name]}")


@pytest.mark.parametrize(("backend", "arch", "accelerator"), GOLDEN)
def test_the_qemu_of_this_machine_knows_the_devices_and_the_cpu(backend, arch, accelerator):
    program = kind_of(backend, arch).program
    _, text = asked(program, "-device", "help")
    has_tpm = backend == "vm"
    for name in words_of("-device", backend, arch, accelerator, has_tpm=has_tpm):
        assert f'name "{name}"' in text
    _, cpus = asked(program, "-cpu", "help")
    (cpu,) = words_of("-cpu", backend, arch, accelerator)
    if cpu not in cpus.split():
        assert cpu in {"EPYC-v4", "host"}
        pytest.skip(f"this QEMU has no CPU {cpu}")
