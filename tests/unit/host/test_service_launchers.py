# SPDX-License-Identifier: Apache-2.0
"""Which launchers a host has: those of its architecture, and others only where it is asked to try."""

from __future__ import annotations

import pytest

from enarx.host import service
from enarx.host.fleet import HostLimits
from enarx.host.service import HostOptions, _launchers


def options(**fields):
    return HostOptions(host="127.0.0.1", port=0, state="s", limits=HostLimits(memory_bytes=1), **fields)


@pytest.mark.parametrize(
    ("arch", "experimental", "backends"),
    [
        ("x86_64", False, ["nil", "snp", "tdx", "vm"]),
        ("x86_64", True, ["nil", "snp", "tdx", "vm"]),
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


def test_only_vm_is_told_what_to_attest_with(monkeypatch):
    monkeypatch.setattr(service, "this_arch", lambda: "x86_64")
    found = _launchers(options(vm_evidence="emulated-snp", image="mine", keep_cpus=1, parent_fd=3))
    assert found["vm"]._evidence == "emulated-snp"
    assert found["snp"]._evidence == ""
    assert found["tdx"]._image == "mine"
    assert found["vm"]._dies_with_host
