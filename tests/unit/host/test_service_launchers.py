# SPDX-License-Identifier: Apache-2.0
"""Which launchers a host has: those of its architecture, and others only where it is asked to try."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from enarx.errors import PlatformError
from enarx.host import service
from enarx.host.fleet import Fleet, HostLimits
from enarx.host.launchers import KeepSpec, vm
from enarx.host.launchers.remote import parse_machine
from enarx.host.service import HostOptions, _launchers
from enarx.image import store


def options(**fields):
    return HostOptions(host="127.0.0.1", port=0, state="s", limits=HostLimits(memory_bytes=1), **fields)


@pytest.mark.parametrize(
    ("arch", "experimental", "backends"),
    [
        ("x86_64", False, ["nil", "snp", "tdx", "vm"]),
        ("x86_64", True, ["nil", "sgx", "snp", "tdx", "vm"]),
        ("aarch64", False, ["nil", "vm"]),
        ("aarch64", True, ["cca", "nil", "vm"]),
        ("ppc64", True, ["nil", "vm"]),
        ("riscv64", True, ["nil"]),
    ],
)
def test_a_host_has_the_launchers_of_its_architecture(monkeypatch, arch, experimental, backends):
    monkeypatch.setattr(service, "this_arch", lambda: arch)
    found = _launchers(options(experimental=experimental))
    assert sorted(found) == backends
    assert all(launcher.backend == backend for backend, launcher in found.items())


@pytest.mark.parametrize(("fields", "foreign"), [({}, False), ({"experimental": True}, True), ({"parent_fd": 3}, True)])
def test_another_architecture_is_for_who_tries_and_for_who_runs_a_host_for_himself(monkeypatch, fields, foreign):
    monkeypatch.setattr(service, "this_arch", lambda: "x86_64")
    assert _launchers(options(**fields))["vm"]._foreign is foreign


def test_machines_elsewhere_stand_in_the_place_of_those_that_would_be_started(monkeypatch):
    monkeypatch.setattr(service, "this_arch", lambda: "x86_64")
    machines = tuple(map(parse_machine, ("tdx=one:1", "cca=two:2", "tdx=three:3")))
    found = _launchers(options(machines=machines, parent_fd=3))
    assert sorted(found) == ["cca", "nil", "snp", "tdx", "vm"]
    assert found["tdx"]._machines == (machines[0], machines[2])
    assert found["cca"]._machines == (machines[1],)
    assert found["tdx"]._dies_with_host
    assert isinstance(found["vm"], vm.VmLauncher)


def test_only_vm_is_told_what_to_attest_with(monkeypatch):
    monkeypatch.setattr(service, "this_arch", lambda: "x86_64")
    found = _launchers(options(vm_evidence="emulated-snp", image="mine", keep_cpus=1, parent_fd=3))
    assert found["vm"]._evidence == "emulated-snp"
    assert found["snp"]._evidence == ""
    assert found["tdx"]._image == "mine"
    assert found["vm"]._dies_with_host


@pytest.mark.parametrize(
    ("backend", "arch", "protection"),
    [
        ("cca", "aarch64", "rme-guest,id=protection,measurement-algorithm=sha512"),
        ("pef", "ppc64", "pef-guest,id=protection"),
    ],
)
def test_a_machine_that_nobody_has_seen_has_a_command_line_where_it_can_be(monkeypatch, backend, arch, protection):
    monkeypatch.setattr(vm, "this_arch", lambda: arch)
    image = SimpleNamespace(name="i", arch=arch, cmdline="quiet", firmware={})
    monkeypatch.setattr(store, "open_image", lambda name: image)
    launcher = vm.VmLauncher(backend, find_program=lambda name: f"/bin/{name}")
    command = launcher.command(KeepSpec(id="0" * 16, memory_bytes=1, package_bytes=1, log_bytes=1))
    assert command[0].startswith("/bin/qemu-system-")
    assert command[command.index("-object") + 1] == protection
    assert command[command.index("-accel") + 1] == "kvm"
    assert "confidential-guest-support=protection" in command[command.index("-machine") + 1]
    assert "-bios" not in command
    assert not any("platform.0" in word or "tpm" in word for word in command)


@pytest.mark.parametrize(("backend", "arch"), [("cca", "x86_64"), ("pef", "aarch64"), ("snp", "aarch64")])
def test_a_machine_is_not_of_another_architecture(monkeypatch, backend, arch):
    monkeypatch.setattr(vm, "this_arch", lambda: arch)
    spec = KeepSpec(id="0" * 16, memory_bytes=1, package_bytes=1, log_bytes=1)
    with pytest.raises(PlatformError, match=f"backend {backend}: found a machine of {arch}, want "):
        vm.VmLauncher(backend).command(spec)


@pytest.mark.parametrize(("backend", "hint"), [("cca", "--experimental"), ("snp", "enarx platform info")])
def test_a_backend_that_a_host_does_not_have_is_said_with_the_next_step(backend, hint):
    host = SimpleNamespace(_launchers={"nil": None})
    with pytest.raises(PlatformError, match=f"backend {backend}: found no launcher on this host, want nil") as caught:
        Fleet._launcher(host, backend)
    assert hint in caught.value.hint
